"""Claims about the run folder and what is read back from it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from pyro.infer import Predictive

from pyro_hmvcrl.data.files import LOCK
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.inference.bound import user_bounds, user_log_likelihood
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import fit
from pyro_hmvcrl.queries.answer import effects
from pyro_hmvcrl.queries.interventions import parse_shift
from pyro_hmvcrl.run import fitting
from pyro_hmvcrl.run.files import RunError
from pyro_hmvcrl.run.fitting import fit_folder
from pyro_hmvcrl.run.judge import STUCK, Truth, evaluate
from pyro_hmvcrl.run.load import load_run
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

QUICK = Settings(2, 3, restarts=2, steps=40, encoder_steps=30, batch_size=64, device="cpu", periods=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("fit")
    write_simulation(simulate(Design(users=200, categories=8, missing_surface=0.1), 0), base / "data", seed=0)
    fit_folder(base / "data", base / "run", QUICK)
    return base / "data", base / "run"


def test_the_run_folder_is_as_contracted(folders):
    data, run = folders
    dataset, config = read_dataset(data, periods=2), json.loads((run / "config.json").read_text())
    assert config["users"] == 200
    assert config["categories"] == dataset.categories
    factors = pd.read_parquet(run / "factors.parquet")
    assert factors["user_id"].tolist() == dataset.user_id.tolist()
    for name in ("platform_1", "platform_2", "preference_1", "preference_2", "preference_3"):
        assert {name, f"{name}_sd", f"{name}_true"} <= set(factors)
        assert (factors[f"{name}_sd"] > 0).all()
    assert factors["held_out"].sum() == config["held_out_users"] == 20
    graph = pd.read_csv(run / "graph.csv")
    assert graph.columns.tolist() == ["source", "target", "weight", "sd", "probability"]
    assert len(graph) == 6
    assert graph["probability"].between(0, 1).all()
    training = pd.read_csv(run / "training.csv")
    assert training.groupby(["stage", "restart"]).size().to_dict() == {
        ("amortisation", -1): 30,
        ("screening", 0): 40,
        ("screening", 1): 40,
    }
    report = json.loads((run / "report.json").read_text())
    assert [x["selected"] for x in report["restarts"]].count(True) == 1
    chosen = max(report["restarts"], key=lambda x: x["bound"])
    assert chosen["selected"]
    assert not list(run.parent.glob(".*"))  # no checkpoints, nothing partial


@pytest.mark.parametrize(
    ("weight", "sd", "low", "high"),
    [
        (0.0, 0.2, 0.0, 0.6),  # little is known
        (0.0, 0.01, 0.0, 0.2),
        (0.05, 0.005, 0.0, 0.5),  # sure, and a trifle: many users and decoders of another kind make such
        (0.1, 0.005, 0.3, 0.9),
        (0.3, 0.01, 0.99, 1.0),
        (0.3, 0.3, 0.2, 0.8),
    ],
)
def test_an_edge_is_probable_where_it_is_more_than_a_trifle(folders, weight, sd, low, high):
    """In standard deviations of its ends."""
    run = load_run(folders[1])
    factors = pd.DataFrame(np.tile([[-1.0], [1.0]], 5), columns=run.factor_names)
    every = torch.ones_like(run.posterior.mean["edges"])
    given = {
        part: getattr(run.posterior, part) | {"edges": of * every}
        for part, of in (("mean", weight), ("sd", sd))
    }
    edges = replace(run, posterior=replace(run.posterior, **given)).edges(factors)
    assert edges["weight"].to_numpy() == pytest.approx(weight)
    assert edges["probability"].between(low, high).all(), edges["probability"]


def test_a_restart_in_a_worse_optimum_is_no_rival(folders):
    dataset = read_dataset(folders[0], periods=2)
    found = fit(dataset, replace(QUICK, steps=5, encoder_steps=1))
    best = found.restarts[found.selected]
    for below, stuck in ((0.9 * STUCK, 0), (1.1 * STUCK, 1)):
        two = replace(found, restarts=[best, replace(best, bound=best.bound - below)], selected=0)
        for channel in evaluate(two, dataset).channels.values():
            assert channel.restarts.stuck == stuck
            assert channel.restarts.matrix.shape == (2 - stuck, 2 - stuck)


def test_a_loaded_run_gives_the_same_factors_and_edges(folders):
    data, run = folders
    loaded = load_run(run)
    kept = pd.read_parquet(run / "factors.parquet")
    again = loaded.encode(read_dataset(data, categories=loaded.categories, periods=2))
    for name in again.columns[1:]:
        assert again[name].to_numpy() == pytest.approx(kept[name].to_numpy(), abs=1e-5)
    edges = pd.read_csv(run / "graph.csv")
    assert loaded.edges(again)["weight"].to_numpy() == pytest.approx(edges["weight"].to_numpy(), abs=1e-5)


def test_the_order_of_rows_and_events_changes_no_posterior(folders, tmp_path):
    data, run = folders
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    (shuffled / "dataset.json").write_text((data / "dataset.json").read_text())
    for table in ("users", "search_events", "recommendation_events"):
        frame = pd.read_parquet(data / f"{table}.parquet").sample(frac=1, random_state=1)
        frame.to_parquet(shuffled / f"{table}.parquet", index=False)
    loaded = load_run(run)
    before, after = (
        loaded.encode(read_dataset(folder, categories=loaded.categories, periods=2)).set_index("user_id")
        for folder in (data, shuffled)
    )
    assert after.loc[before.index].to_numpy() == pytest.approx(before.to_numpy(), abs=1e-5)


def test_standardised_weights_do_not_depend_on_a_factor_s_unit(folders):
    _, run = folders
    loaded, factors = load_run(run), pd.read_parquet(run / "factors.parquet")
    weights = loaded.edges(factors).set_index(["source", "target"])["weight"]
    sd = factors[loaded.factor_names].std(ddof=0)
    raw = loaded.guide.coefficients.loc["edges"].detach().numpy()
    for (source, target), weight in weights.items():
        j, k = (loaded.factor_names.index(n) for n in (source, target))
        assert weight == pytest.approx(raw[j, k] * sd[source] / sd[target], rel=1e-4)


def test_the_truth_columns_are_the_matched_true_factors(folders):
    data, run = folders
    factors = pd.read_parquet(run / "factors.parquet")
    with np.load(data / "truth.npz", allow_pickle=False) as truth:
        true = np.hstack([truth["platform"], truth["preference"]])
    for name in ("platform_1", "preference_2"):
        column = factors[f"{name}_true"]
        correlations = np.abs([np.corrcoef(column, t)[0, 1] for t in true.T])
        assert correlations.max() == pytest.approx(1)
        assert np.corrcoef(column, factors[name])[0, 1] > 0


def test_an_existing_run_is_not_overwritten(folders):
    data, run = folders
    before = (run / "config.json").read_text()
    with pytest.raises(RunError, match="exists already"):
        fit_folder(data, run, QUICK)
    assert (run / "config.json").read_text() == before


def test_an_unfinished_fit_of_something_else_is_refused(folders, tmp_path):
    data, _ = folders
    (tmp_path / ".run.unfinished").mkdir()
    (tmp_path / ".run.unfinished" / "fit.json").write_text("{}")
    with pytest.raises(RunError, match="unfinished fit of another dataset, version or settings"):
        fit_folder(data, tmp_path / "run", QUICK)


TINY = replace(QUICK, restarts=1, steps=5, encoder_steps=5)


def stop(*args):
    raise KeyboardInterrupt


def stopped(data, out, monkeypatch):
    """A fit of the dataset that was stopped when all of its checkpoints were there."""
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "parameter_posterior", stop)
        with pytest.raises(KeyboardInterrupt):
            fit_folder(data, out, TINY)


def in_other_blocks(data, folder):
    """The same users and events, every covariate in the other block."""
    shutil.copytree(data, folder)
    said = json.loads((folder / "dataset.json").read_text())
    blocks = "exposure_covariates", "preference_covariates"
    said |= dict(zip(blocks, [said[block] for block in blocks[::-1]], strict=True))
    (folder / "dataset.json").write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module")
def even(tmp_path_factory):
    """A dataset with as many covariates in one block as in the other."""
    base = tmp_path_factory.mktemp("even")
    design = Design(users=80, categories=6, exposure_covariates=3, preference_covariates=3)
    write_simulation(simulate(design, 0), base / "data", seed=0, truth=False)
    return base / "data"


def test_covariates_in_the_other_block_are_another_dataset(even, tmp_path, monkeypatch):
    stopped(even, tmp_path / "run", monkeypatch)
    other = in_other_blocks(even, tmp_path / "other")
    with pytest.raises(RunError, match="unfinished fit of another dataset"):
        fit_folder(other, tmp_path / "run", TINY)


def test_what_is_left_without_a_mark_is_not_used(even, tmp_path, monkeypatch):
    """A fit was killed while it removed its checkpoints, its run was removed, and other data are fitted there."""
    stopped(even, tmp_path / "run", monkeypatch)
    left = tmp_path / ".run.unfinished"
    assert (left / "encoders.safetensors").exists()
    (left / "fit.json").unlink()
    other = in_other_blocks(even, tmp_path / "other")
    found, expected = (fit_folder(other, tmp_path / name, TINY) for name in ("run", "fresh"))
    for name, weight in found.guide.state_dict().items():
        assert weight.equal(expected.guide.state_dict()[name]), name
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh", "other", "run"]


def test_a_fit_that_is_refused_leaves_nothing(even, tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_hmvcrl.inference.laplace.MOST_PARAMETERS", 10)
    with pytest.raises(ValueError, match="merge rare ones of the 6 categories"):
        fit_folder(even, tmp_path / "run", TINY)
    assert not list(tmp_path.iterdir())


def test_a_second_fit_into_the_same_folder_is_refused_while_the_first_is_at_work(
    folders, tmp_path, monkeypatch
):
    data, _ = folders
    first = fitting.fit

    def meanwhile(*args):
        with pytest.raises(RunError, match="another fit is at work there"):
            fit_folder(data, tmp_path / "run", QUICK)
        return first(*args)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "fit", meanwhile)
        fit_folder(data, tmp_path / "run", QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_what_a_fit_left_that_was_killed_at_its_very_end_is_cleared_away(folders, tmp_path):
    data, _ = folders
    left, run = tmp_path / ".run.unfinished", tmp_path / "run"
    for folder in (left, run):
        folder.mkdir()
    with FileLock(left / LOCK), pytest.raises(RunError, match="exists already"):
        fit_folder(data, run, QUICK)
    assert left.exists()  # another fit is at work there
    with pytest.raises(RunError, match="exists already"):
        fit_folder(data, run, QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match=r"config\.json.*not found; give a folder that fit has written"):
        load_run(tmp_path)


def test_a_truth_of_other_users_is_refused(folders, tmp_path):
    data, _ = folders
    np.savez(tmp_path / "truth.npz", user_id=np.array(["nobody"]))
    with pytest.raises(RunError, match="no user u000000"):
        Truth.beside(tmp_path, read_dataset(data, periods=2))


def test_the_posterior_over_coefficients_goes_to_arviz(folders):
    _, run = folders
    posterior = load_run(run).to_arviz()["posterior"]
    assert posterior["edges"].dims == ("chain", "draw", "factor", "target")
    assert posterior["platform_location"].shape == (1, 200, 5, 2)
    assert posterior["a"].sizes["category"] == 8
    assert float(posterior["edges"].sel(factor="platform_1", target="platform_2").std()) == 0


def test_predictive_draws_with_the_run_s_guide_have_the_stated_spread(folders):
    """`pyro.infer.Predictive`, one by one and side by side."""
    data, folder = folders
    run = load_run(folder)
    logs = run.logs(read_dataset(data, periods=2)).batch(torch.arange(3))
    for parallel in (False, True):
        drawn = Predictive(run.model, guide=run.guide, num_samples=400, parallel=parallel)(logs)
        for name in ("alpha", "delta", "platform_location"):
            values = drawn[name].reshape(400, *run.posterior.mean[name].shape)
            assert torch.allclose(values.std(0), run.posterior.sd[name], rtol=0.25), (name, parallel)
        off = torch.corrcoef(torch.cat([drawn[n].reshape(400, -1) for n in ("b", "alpha")], 1).T)
        of_draws = torch.cat([run.posterior.draws[n].flatten(1) for n in ("b", "alpha")], 1)
        assert (off - torch.corrcoef(of_draws.T)).abs().max() < 0.4


def test_users_log_likelihood_goes_to_arviz(folders):
    """By importance sampling: at the mean it is the bound."""
    data, folder = folders
    run = load_run(folder)
    logs = run.logs(read_dataset(data, periods=2)).batch(torch.arange(12))
    found = run.to_arviz(logs)["log_likelihood"]["users"]
    assert found.shape == (1, run.posterior.n_draws, 12)
    assert (found[0].std("draw") > 0.01).all()
    mean = {name: value[None] for name, value in run.posterior.mean.items()}
    at_mean = user_log_likelihood(run.guide, mean, logs)[0]
    of_bound = user_bounds(run.guide.expansion(12), logs._replace(index=torch.arange(12)))
    assert torch.allclose(at_mean, of_bound, atol=0.3)


def test_channels_without_covariates_can_be_fitted(tmp_path):
    design = Design(users=100, categories=5, preference_covariates=0, exposure_covariates=0)
    write_simulation(simulate(design, 0), tmp_path / "data", seed=0)
    fit_folder(tmp_path / "data", tmp_path / "run", QUICK)
    said = json.loads((tmp_path / "run" / "report.json").read_text())["identifiability"]["verdict"]
    assert (
        said["preference"][0]
        == "preference is identified only up to an invertible map: it has no covariates."
    )
    assert "platform_location" not in load_run(tmp_path / "run").to_arviz()["posterior"]


def test_a_run_of_a_version_that_knew_no_periods_is_refused(folders, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folders[1], run)
    config = json.loads((run / "config.json").read_text())
    del config["periods"]
    (run / "config.json").write_text(json.dumps(config | {"version": "0.1.0"}))
    with pytest.raises(
        RunError, match=r"config\.json: a run of version 0\.1\.0, which knew no periods.*fit again"
    ):
        load_run(run)


@pytest.mark.parametrize("periods", [None, 1])
def test_a_platform_that_learns_and_suggests_goes_all_the_way(tmp_path, periods):
    """Fit, what is read back, effects, and the factors of later logs."""
    design = Design(users=120, categories=6, periods=4, learning=1.0, suggestion=0.3)
    sim = simulate(design, 0)
    write_simulation(sim, tmp_path / "data", seed=0)
    settings = replace(QUICK, restarts=1, periods=periods)
    fitted = fit_folder(tmp_path / "data", tmp_path / "run", settings)
    run = load_run(tmp_path / "run")
    assert run.config["periods"]["number"] == (periods or 4)
    assert ("learning" in run.posterior.mean) == (periods is None)
    assert run.posterior.mean["echo"].shape == (1,)
    assert run.to_arviz() is not None
    dataset = read_dataset(tmp_path / "data", run.categories, run.periods)
    assert run.encode(dataset).equals(fitted.encode(dataset))
    answer = effects(tmp_path / "run", [parse_shift("exposure_1=+1sd")])
    assert len(answer["course"]["period"]) == (periods or 4)
    loop = answer["outcomes"]["engagement"]["NIE_loop"]
    assert (loop["mean"] == 0) == (periods == 1)


def test_logs_of_other_categories_or_periods_are_refused(folders):
    data, run = folders[0], load_run(folders[1])
    right = read_dataset(data, run.categories, run.periods)
    others = replace(right, categories=[*right.categories[1:], "new"])
    for reads in (run.encode, run.logs, run.evidence, run.predictive):
        with pytest.raises(RunError, match="of other categories than the run's"):
            reads(others)
        with pytest.raises(RunError, match=r"cut into 5 periods of .* with periods=run\.periods"):
            reads(read_dataset(data, run.categories, 5))
    assert run.encode(right).shape[0] == right.n_users
    one = replace(run, config=run.config | {"periods": right.with_counts().periods.to_dict()})
    assert one.as_read(right).periods.number == 1


def test_the_log_likelihood_for_arviz_is_the_same_again(folders):
    data, run = folders[0], load_run(folders[1])
    logs = run.logs(read_dataset(data, run.categories, run.periods)).batch(torch.arange(20))
    found = []
    for state in range(2):  # of the caller's
        torch.manual_seed(state)
        found.append(run.to_arviz(logs).log_likelihood["users"].to_numpy())
    assert np.array_equal(*found)


def test_outcomes_of_too_many_coefficients_are_refused_before_the_fit(folders, tmp_path, monkeypatch):
    dataset = read_dataset(folders[0], periods=2)
    monkeypatch.setattr(fitting, "MOST_COEFFICIENTS", 31)  # 8 categories, 3 + 1
    with_outcome = replace(dataset, outcomes={"liked": dataset.counts["engagement"]})
    with pytest.raises(RunError, match=r"32 coefficients of each further outcome.* or leave out liked"):
        fitting.fit_dataset(with_outcome, tmp_path / "run", QUICK)
    assert not (tmp_path / "run").exists()
