"""Numbers at the edge: logs as small, as large and as one-sided as they come are fitted, or refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal

from pyro_hmvcrl.data.dataset import CHANNELS, Dataset
from pyro_hmvcrl.data.folder import read_dataset, write_dataset
from pyro_hmvcrl.data.tables import DatasetError
from pyro_hmvcrl.guide.experts import Expert, Prior, product_of_experts
from pyro_hmvcrl.inference import restarts
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import fit
from pyro_hmvcrl.run.fitting import fit_folder
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

SETTINGS = Settings(2, 2, restarts=2, steps=30, encoder_steps=30, batch_size=64, device="cpu", periods=3)
Tables = dict[str, pd.DataFrame]  # users, search_events, recommendation_events


def tables_of(dataset: Dataset) -> Tables:
    return {name: getattr(dataset, name) for name in ("users", "search_events", "recommendation_events")}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "data"
    design = Design(users=80, preference_factors=2, categories=6)
    write_simulation(simulate(design, 0), folder, seed=0, truth=False)
    return read_dataset(folder, periods=3)


def one_event_each(tables: Tables) -> Tables:
    return {name: table.drop_duplicates("user_id") for name, table in tables.items()}


def one_search(tables: Tables) -> Tables:
    return tables | {"search_events": tables["search_events"][:1]}


def one_category(tables: Tables) -> Tables:
    return {n: t.assign(category="all") if "category" in t else t for n, t in tables.items()}


def five_thousand_events(tables: Tables) -> Tables:
    def more(table: pd.DataFrame) -> pd.DataFrame:
        return pd.concat(
            [table, table[table["user_id"] == "u000003"].sample(5_000, replace=True, random_state=0)]
        )

    return {name: table if name == "users" else more(table) for name, table in tables.items()}


def engaged(always: int) -> Callable[[Tables], Tables]:
    name = "recommendation_events"
    return lambda tables: tables | {name: tables[name].assign(engaged=always)}


def covariate(change: Callable[[pd.Series], pd.Series]) -> Callable[[Tables], Tables]:
    def changed(tables: Tables) -> Tables:
        users = tables["users"]
        return tables | {"users": users.assign(exposure_1=change(users["exposure_1"]))}

    return changed


def without_signal(tables: Tables) -> Tables:
    """Nobody differs from anybody: every factor collapses."""
    rng = np.random.default_rng(0)
    return {
        n: t.assign(user_id=rng.permutation(t["user_id"])) if n != "users" else t for n, t in tables.items()
    }


def twins(tables: Tables) -> Tables:
    users = tables["users"]
    return tables | {"users": users.assign(exposure_2=users["exposure_1"])}


RUNS = {
    "one event each": one_event_each,
    "one search in all": one_search,
    "5,000 events of one user": five_thousand_events,
    "a user a million sd away": covariate(lambda c: c.mask(c.index == 7, 1e6)),
    "large units": covariate(lambda c: 1e15 * c),
    "small units": covariate(lambda c: 1e-15 * c),
    "two covariates in one": twins,
    "no signal": without_signal,
}


@pytest.mark.parametrize("change", RUNS.values(), ids=RUNS)
def test_it_is_fitted(dataset, tmp_path, change):
    blocks = dataset.exposure_covariates, dataset.preference_covariates
    write_dataset(tmp_path / "data", "edge", *change(tables_of(dataset)).values(), *blocks)
    fit_folder(tmp_path / "data", tmp_path / "run", SETTINGS)
    factors = pd.read_parquet(tmp_path / "run" / "factors.parquet").select_dtypes(float)
    assert factors.shape == (80, 8)
    assert np.isfinite(factors.to_numpy()).all()
    found = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [*found["identifiability"]["verdict"]] == [*CHANNELS]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (one_category, "column 'category': 'all' in all events of both tables"),
        (engaged(0), "column 'engaged': the same in all rows"),
        (engaged(1), "column 'engaged': the same in all rows"),
    ],
    ids=["one category", "nobody engages", "everybody engages"],
)
def test_outcomes_that_do_not_vary_are_refused(dataset, tmp_path, change, says):
    blocks = dataset.exposure_covariates, dataset.preference_covariates
    with pytest.raises(DatasetError, match=says):
        write_dataset(tmp_path / "data", "edge", *change(tables_of(dataset)).values(), *blocks)
    assert not (tmp_path / "data").exists()


def test_one_user_is_refused(dataset, tmp_path):
    tables = {name: table[table["user_id"] == "u000003"] for name, table in tables_of(dataset).items()}
    with pytest.raises(DatasetError, match="does not vary over users"):
        write_dataset(
            tmp_path / "data",
            "one",
            *tables.values(),
            dataset.exposure_covariates,
            dataset.preference_covariates,
        )


def test_a_gradient_that_is_not_finite_ends_the_fit_at_once(dataset, monkeypatch):
    """Also in the last step, after which no bound would show it."""
    backward, optimise, steps, guides = torch.Tensor.backward, restarts.optimise, [], []

    def watched(stage, guide, *args, **options):
        guides.append(guide)
        return optimise(stage, guide, *args, **options)

    def spoilt(loss, *args):
        backward(loss, *args)
        steps.append(loss)
        if len(steps) == SETTINGS.steps:
            guides[-1].coefficients.loc["b"].grad.fill_(torch.nan)

    monkeypatch.setattr(restarts, "optimise", watched)
    monkeypatch.setattr(torch.Tensor, "backward", spoilt)
    with pytest.raises(FloatingPointError, match=r"restart 1 of 2: the gradient is nan at step 29"):
        fit(dataset, SETTINGS)


@pytest.mark.parametrize("sharp", [0.0, 1.0, 1e4], ids=["flat", "plain", "sharp"])
def test_the_algebra_of_the_experts_agrees_with_its_formula_in_double_precision(sharp):
    """precision = A' diag(s^-2) A + sum of Lambda, and so on (top of guide.py), by way of numpy's inverse."""
    rng, k = np.random.default_rng(1), 4
    location, scale = rng.normal(size=k), rng.uniform(0.3, 3, k)
    edges = np.triu(rng.normal(size=(k, k)), 1)
    a = np.eye(k) - edges.T
    roots, means = sharp**0.5 * rng.normal(size=(2, k, k - 1)), rng.normal(size=(2, k))  # each is singular
    precisions = roots @ roots.mT
    precision = a.T @ np.diag(scale**-2) @ a + precisions.sum(0)
    shift = a.T @ (location / scale**2) + np.einsum("ejk,ek->j", precisions, means)
    mean, covariance = np.linalg.solve(precision, shift), np.linalg.inv(precision)

    inverse = np.linalg.inv(a)
    prior = Prior(*(torch.tensor(part)[None] for part in (inverse @ location, inverse * scale)))
    experts = [
        Expert(torch.tensor(p)[None], torch.tensor(p @ m)[None])
        for p, m in zip(precisions, means, strict=True)
    ]
    noise = product_of_experts(prior, experts)
    to_z = prior.turn[0].numpy()
    found = prior.base[0].numpy() + to_z @ noise.mean[0].numpy()
    root = np.linalg.solve(noise.precision_cholesky[0].numpy(), to_z.T)
    np.testing.assert_allclose(found, mean, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(root.T @ root, covariance, rtol=1e-10, atol=1e-10)
    at = rng.normal(size=k)
    in_noise = np.linalg.solve(to_z, at - prior.base[0].numpy())
    density = multivariate_normal(mean, covariance).logpdf(at) + np.linalg.slogdet(to_z)[1]
    assert noise.log_prob(torch.tensor(in_noise)[None]).item() == pytest.approx(density, abs=1e-9)
