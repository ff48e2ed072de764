"""The study of peers: its quick form, the variants of the model, and the methods without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pytest
import torch

from pyro_hmvcrl.guide.guide import ExpansionGuide
from pyro_hmvcrl.inference.restarts import new_model
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.story.programs import at, log_joint, observe
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import simulate

import methods
import variants
from studies import run_quick
from study import simulated_dataset
from worlds import everyone, logs_of

DESIGN = Design(users=40, preference_factors=2, categories=6)


@pytest.fixture(scope="module")
def sim():
    return simulate(DESIGN, 0)


@pytest.fixture(scope="module")
def dataset(sim, tmp_path_factory):
    return simulated_dataset(sim, tmp_path_factory.mktemp("peers") / "data", 0)


def guide_of(build, sim, seed=0) -> ExpansionGuide:
    torch.manual_seed(seed)
    return build(new_model(everyone(logs_of(sim)), Settings(2, 2)), len(sim.factors))


def test_peers_runs_in_its_quick_form(tmp_path):
    said = run_quick("peers", tmp_path)
    results = pd.read_csv(tmp_path / "results.csv").set_index("method")
    assert results.index.tolist() == ["oracle", *methods.METHODS]
    assert results[["preference_mcc", "platform_mcc"]].notna().all(axis=None)
    assert results["preference_mcc"].idxmax() == "oracle"
    silent = results.index[results["engagement TE"].isna()]
    assert silent.tolist() == ["oracle", "search only"]
    moved = pd.read_csv(tmp_path / "displacement.csv")
    assert len(moved) == len(methods.METHODS) * 5 * 4  # factors, policies
    assert (moved.groupby("factor")["true"].apply(lambda t: t.abs().max()) < 0.1).sum() == 3  # not moved
    assert "| CCA | 1 |" in said
    assert all((tmp_path / f).stat().st_size > 10_000 for f in ("peers.png", "policy_shift.png"))


# --- Variants ------------------------------------------------------------------------------------------------


def test_a_variant_lacks_what_its_name_says(sim):
    allowed = {n: guide_of(b, sim).model.graph.allowed for n, b in variants.VARIANTS.items()}
    inside = torch.zeros(4, 4)
    inside[:2, :2] = inside[2:, 2:] = 1 - torch.eye(2)
    assert not allowed["no graph"].any()
    assert not allowed["iVAE"].any()
    assert torch.equal(allowed["edges inside channels"], allowed["ours"] + inside)
    scales = {n: p[1] for n, p in guide_of(variants.location_only, sim).model.priors.items()}
    ours = {n: p[1] for n, p in guide_of(ExpansionGuide, sim).model.priors.items()}
    assert {n for n in ours if scales[n] < 0.01 * ours[n]} == {"platform_log_scale", "preference_log_scale"}


def test_a_diagonal_guide_keeps_mean_and_precision_of_each_factor(sim):
    logs = logs_of(sim)
    whole, independent = (guide_of(b, sim).posterior(logs)[1] for b in (ExpansionGuide, variants.MeanField))
    assert torch.equal(whole.mean, independent.mean)
    precision = whole.precision_cholesky @ whole.precision_cholesky.mT
    off = precision - precision.diagonal(dim1=-2, dim2=-1).diag_embed()
    assert off.abs().max() > 0.1
    torch.testing.assert_close(independent.precision_cholesky**2, precision - off)


def test_diagonal_experts_keep_the_gradient_at_the_mode(sim):
    logs, z = logs_of(sim), torch.randn(40, 5)
    coefficients = guide_of(ExpansionGuide, sim).coefficients.means()
    full, diagonal = (
        guide_of(b, sim).expand(logs, coefficients, z) for b in (ExpansionGuide, variants.DiagonalExperts)
    )
    for one, other in zip(full, diagonal, strict=True):
        gradients = (e.information - torch.einsum("nij,nj->ni", e.precision, z) for e in (one, other))
        torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-4)
        assert torch.equal(other.precision, other.precision.diagonal(dim1=-2, dim2=-1).diag_embed())


def test_ivae_expands_its_own_likelihood(sim):
    """The sum of the experts' gradients is the gradient of the model's log likelihood in the factors."""
    logs, guide = logs_of(sim), guide_of(variants.ivae, sim)
    coefficients = {n: t.detach() for n, t in guide.coefficients.means().items()}
    coefficients["a"] = torch.randn(6, 4)
    prior = guide.prior(coefficients, logs)
    noise = torch.randn(40, 5, requires_grad=True)
    z = prior.base + torch.einsum("nij,nj->ni", prior.turn, noise)

    held = pyro.condition(observe(at(guide.model, coefficients), logs), data={"noise": noise})
    likelihood = log_joint(pyro.poutine.trace(held).get_trace(logs)).sum() + 0.5 * (noise**2).sum()
    by_noise = torch.autograd.grad(likelihood, noise)[0]
    experts = guide.expand(logs, coefficients, z.detach())
    by_z = sum(e.information - torch.einsum("nij,nj->ni", e.precision, z.detach()) for e in experts)
    torch.testing.assert_close(by_noise, torch.einsum("nij,ni->nj", prior.turn, by_z), atol=2e-3, rtol=1e-3)


def test_ivae_has_one_channel(sim):
    guide = guide_of(variants.ivae, sim)
    z = torch.randn(3, 4)
    assert all(torch.equal(part, z) for part in guide.model.channels(z))
    shape = guide.coefficients.loc["platform_location"].shape
    assert shape == (10, 4)  # the covariates of both blocks move every factor


# --- Methods without the model -------------------------------------------------------------------------------


def test_regression_finds_the_effects_of_a_linear_world(dataset, sim):
    """Engagement rate = 0.02 c + 0.05 factor, factor = 2 c + noise: TE 0.12, NDE 0.02."""
    rng, c = np.random.default_rng(0), sim.exposure_covariates[:, 0]
    factor = 2 * c + rng.normal(size=40)
    rate = 0.5 + 0.02 * c + 0.05 * factor
    shown = np.full_like(dataset.exposure, 10.0)
    linear = dataset.with_counts(exposure=shown, engagement=(rate[:, None] * shown).astype(np.float32))
    found = methods.regression_effects(linear, factor[:, None])
    assert found["engagement NDE"] == pytest.approx(0.02, abs=1e-6)
    assert found["engagement TE"] == pytest.approx(found["engagement NDE"] + found["engagement NIE"])
    covariates = np.column_stack([sim.exposure_covariates, sim.preference_covariates, np.ones(40)])
    slope = np.linalg.lstsq(covariates, factor, rcond=None)[0][0]
    assert found["engagement NIE"] == pytest.approx(0.05 * slope, abs=1e-6)


@pytest.mark.parametrize("name", ["matrix factorisation", "PCA", "FastICA", "CCA"])
def test_a_method_encodes_new_users_as_it_encoded_the_old(name, dataset):
    found = methods.METHODS[name](dataset, Settings(2, 2))
    all_users, some = found.encode(dataset), found.encode(dataset.subset(np.arange(5)))
    np.testing.assert_allclose(all_users[:5], some, atol=1e-3)


@pytest.mark.parametrize("surface", ["search", "recommendation"])
def test_one_surface_does_not_see_the_other(surface, dataset):
    quick = Settings(2, 2, restarts=1, steps=2, device="cpu")
    encode = methods.one_surface(surface, dataset, quick).encode
    others = {"search": ("exposure", "engagement"), "recommendation": ("search",)}[surface]
    changed = dataset.with_counts(**{name: getattr(dataset, name)[::-1].copy() for name in others})
    np.testing.assert_array_equal(encode(dataset), encode(changed))


def test_without_covariates_the_factors_do_not_hang_on_them(dataset):
    encode = methods.without_covariates(dataset, Settings(2, 2, restarts=1, steps=2, device="cpu")).encode
    shuffled = dataset.users.assign(
        **{c: dataset.users[c].to_numpy()[::-1] for c in ("exposure_1", "taste_1")}
    )
    np.testing.assert_array_equal(encode(dataset), encode(replace(dataset, users=shuffled)))


def test_matrix_factorisation_sees_searches_and_engaged_exposures_alone(dataset):
    same = dataset.with_counts(exposure=dataset.exposure + 5)
    a, b = (methods.matrix_factorisation(d, Settings(2, 2)).encode(d) for d in (dataset, same))
    np.testing.assert_array_equal(a, b)


def test_a_method_with_blocks_takes_each_channel_from_its_surface(dataset):
    found = methods.METHODS["PCA"](dataset, Settings(2, 2))
    changed = dataset.with_counts(search=dataset.search[::-1].copy())
    a, b = found.encode(dataset), found.encode(changed)
    np.testing.assert_array_equal(a[:, found.platform], b[:, found.platform])
    assert (a[:, found.preference] != b[:, found.preference]).any()
