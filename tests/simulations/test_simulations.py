"""Every study runs in its quick form."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from distributed import Client, LocalCluster

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.guide.experts import PrecisionNormal
from pyro_hmvcrl.inference.bound import UserELBO
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

import study
from studies import run_quick
from study import Options
from worlds import EDGES, logs_of

SIMULATIONS = Path(__file__).parents[2] / "simulations"


@pytest.fixture(scope="module")
def recovery():
    """The study as a module."""
    return importlib.import_module("recovery")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("recovery")
    return out, run_quick("recovery", out)


def test_recovery_writes_table_summary_and_figure(quick):
    out, said = quick
    results = pd.read_csv(out / "results.csv")
    assert results["design"].tolist()[:3] == ["default", "hard", "default_short"]
    assert results[["preference_mcc", "platform_mcc", "edge_error"]].notna().all(axis=None)
    assert (out / "recovery.png").stat().st_size > 10_000
    assert "| default | 1 |" in said


def test_a_mean_comes_with_its_monte_carlo_standard_error():
    with_error = importlib.import_module("study").with_error
    assert with_error(pd.Series([1, 2, 3, 6])) == "3.000 ± 1.080"  # sqrt(14 / 3 / 4)
    assert with_error(pd.Series([True, False]), 1) == "0.5 ± 0.5"


def test_a_study_redoes_only_what_is_missing(quick):
    out, _ = quick
    before = pd.read_csv(out / "results.csv")
    kept = {p.name: p.stat().st_mtime_ns for p in (out / "replications").glob("*.json")}
    (out / "replications" / "location_only-0.json").unlink()
    run_quick("recovery", out)
    again = {p.name: p.stat().st_mtime_ns for p in (out / "replications").glob("*.json")}
    assert [name for name in again if again[name] != kept[name]] == ["location_only-0.json"]
    pd.testing.assert_frame_equal(
        before.drop(columns="seconds"), pd.read_csv(out / "results.csv").drop(columns="seconds")
    )


def test_a_replication_that_was_killed_goes_on_with_the_data_of_its_design(recovery, tmp_path, monkeypatch):
    """Killed in the fit, then before it shuffled the covariates: the data are always the design's."""
    seen = []

    def stopped(*_):
        raise KeyboardInterrupt

    def keep(data, *_):
        seen.append(pd.read_parquet(data / "users.parquet"))
        raise KeyboardInterrupt

    def replicate(design, name, kill):
        with monkeypatch.context() as patch:
            patch.setattr(recovery, name, kill)
            with pytest.raises(KeyboardInterrupt):
                recovery.replicate(design, 0, True, tmp_path / "scratch")

    replicate("permuted_covariates", "fit_folder", keep)
    shutil.rmtree(tmp_path / "scratch")
    replicate("permuted_covariates", "_permute", stopped)
    replicate("permuted_covariates", "fit_folder", keep)
    replicate("default", "fit_folder", keep)
    permuted, resumed, default = seen
    pd.testing.assert_frame_equal(permuted, resumed)
    changed = (permuted != default).mean()
    assert (changed[Design().preference_names] > 0.9).all()
    assert (changed[["user_id", *Design().exposure_names]] == 0).all()


def test_effects_runs_in_its_quick_form_and_redoes_only_what_is_missing(tmp_path):
    said = run_quick("effects", tmp_path)
    assert "| coverage | counterfactual | engagement | TE | 1 |" in said
    results = pd.read_csv(tmp_path / "results.csv")
    assert set(results["design"]) == {*importlib.import_module("effects").DESIGNS, "far"}
    assert (results.loc[results["design"] == "placebo", "truth"] == 0).all()
    assert len(pd.read_csv(tmp_path / "invariance.csv")) == 4
    assert (tmp_path / "effects.png").stat().st_size > 10_000
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "replications").glob("*.json")}
    (tmp_path / "replications" / "placebo-0.json").unlink()
    run_quick("effects", tmp_path)
    again = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "replications").glob("*.json")}
    assert [name for name in again if again[name] != kept[name]] == ["placebo-0.json"]
    pd.testing.assert_frame_equal(results, pd.read_csv(tmp_path / "results.csv"))


def test_the_back_test_runs_in_its_quick_form(tmp_path):
    said = run_quick("backtest", tmp_path)
    backtest = importlib.import_module("backtest")
    results = pd.read_csv(tmp_path / "results.csv")
    asked = [
        (design, after, kind)
        for design in backtest.DESIGNS
        for after, of in backtest.AFTER.items()
        for kind in of
    ]
    assert list(results.groupby(["design", "after", "kind"], sort=False).groups) == asked
    assert (results["inside"] <= results["of"]).all()
    assert (results.loc[results["figure"] == "all", "of"] == 14).all()
    assert "| window | other users | interventional | all | 1 |" in said
    assert (tmp_path / "backtest.png").stat().st_size > 10_000


def test_the_back_test_changes_what_its_name_says():
    """Of the same users the same tastes; of a hidden change the covariates as they were, and other events."""
    backtest = importlib.import_module("backtest")
    design = Design(users=40, categories=6, edges=EDGES)
    world = simulate(design, 0).world
    sims = {after: backtest.logs_after(after, design, 0, world) for after in backtest.AFTER}
    before, same, still, hidden = (
        simulate(design, 0, world),
        *(sims[n] for n in ("same users", "no change", "hidden change")),
    )
    assert (same.noise == before.noise).all()
    assert (same.exposure_covariates - before.exposure_covariates).mean(0) == pytest.approx([1, 0, 0, 0, 0])
    assert (still.noise != before.noise).any()
    assert (hidden.exposure_covariates == still.exposure_covariates).all()
    assert (hidden.platform != still.platform).any()
    assert (sims["other users"].platform == hidden.platform).all()


@pytest.mark.parametrize("knobs", [{}, {"learning": 1.0}], ids=["window", "loop"])
def test_the_back_test_s_later_events_have_a_chance_of_their_own(knobs):
    backtest = importlib.import_module("backtest")
    design = Design(users=2_000, categories=6, edges=EDGES, **knobs)
    before = simulate(design, 0)
    after = simulate(design, 0, before.world, events_seed=backtest.EVENTS)
    assert (after.factors == before.factors).all()
    for name in ("search", "exposure"):
        one, other = (getattr(sim, name) for sim in (before, after))
        assert (one.reshape(2_000, -1).sum(1) == other.reshape(2_000, -1).sum(1)).all()
        if knobs:  # the first period, before which there is no past
            one, other = one[:, 0], other[:, 0]
            alike = (one.sum(1) == other.sum(1)) & (one.sum(1) > 0)
            one, other = one[alike], other[alike]
        n, share = one.sum(1, keepdims=True), (one + other) / (2 * one.sum(1, keepdims=True))
        independent = 2 * n * share * (1 - share) * 2 * n / (2 * n - 1)
        assert ((one - other) ** 2).sum() == pytest.approx(independent.sum(), rel=0.1)


def test_what_other_code_left_of_a_killed_replication_goes(tmp_path):
    part, seen = tmp_path / "default-0.json", []

    def killed(scratch):
        seen.append(scratch.exists())
        scratch.mkdir(exist_ok=True)
        raise KeyboardInterrupt

    for commit in ("one", "one", "two"):
        with pytest.raises(KeyboardInterrupt):
            study._replicate(killed, part, commit)
    assert seen == [False, True, False]
    study._replicate(lambda scratch: {"results": [{"a": 1}]}, part, "two")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["default-0", "default-0.json"]


def test_parts_of_other_code_than_the_tables_are_not_mixed_with_them(tmp_path):
    o = Options(True, 1, frozenset(), 1, "", tmp_path, tmp_path / "parts", {})
    o.parts.mkdir()
    pd.DataFrame([{"replication": "a-0", "commit": "new", "x": 1}]).to_csv(
        tmp_path / "results.csv", index=False
    )
    study._restore(o)
    study._restore(o)  # the same again
    pd.DataFrame([{"replication": "b-0", "commit": "", "x": 1}]).to_csv(tmp_path / "others.csv", index=False)
    study._restore(o)  # git could not say
    study._restore(o)
    study._keep(o.parts / "a-0.json", {"results": [{"commit": "old", "x": 2}]})
    with pytest.raises(SystemExit, match="of other code than the study's tables"):
        study._restore(o)


# --- Killed, and past one machine ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def identifiability(tmp_path_factory):
    """The quick form of the study, undisturbed."""
    out = tmp_path_factory.mktemp("identifiability")
    return out, run_quick("identifiability", out)


def test_identifiability_runs_in_its_quick_form(identifiability):
    out, said = identifiability
    assert "| settings | 5 | 1 |" in said
    results = pd.read_csv(out / "results.csv")
    by_axis = importlib.import_module("identifiability").by_axis(results)
    assert by_axis.groupby("axis").size().to_dict() == {
        **{"users": 5, "events": 5, "location": 5, "scale": 5},
        **{"settings": 6, "factors": 4, "missing": 4},
    }
    assert results.notna().all(axis=None)
    assert results["replication"].is_unique
    assert len(results) == len(by_axis) - 5  # the base's once
    assert (out / "identifiability.png").stat().st_size > 10_000


def begun(whole, out):
    """Take all but the last eight replications from a study's table, and return how many that is."""
    there = pd.read_csv(whole / "results.csv")[:-8]
    there.to_csv(out / "results.csv", index=False)
    return len(there)


def test_a_killed_study_goes_on_and_comes_to_the_same_results(identifiability, tmp_path):
    whole, _ = identifiability
    parts, there = tmp_path / "replications", begun(whole, tmp_path)
    command = [
        sys.executable,
        SIMULATIONS / "identifiability.py",
        "--quick",
        "--jobs",
        "1",
        "--out",
        tmp_path,
    ]
    study = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(parts.glob("*.json"))) < there + 2:
        assert study.poll() is None
        time.sleep(0.01)
    study.kill()
    study.wait()
    kept = {p.name: p.stat().st_mtime_ns for p in parts.glob("*.json")}
    assert there + 2 <= len(kept) < 29
    run_quick("identifiability", tmp_path)
    assert {name: (parts / name).stat().st_mtime_ns for name in kept} == kept
    for name in ("results.csv", "summary.md"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_a_clone_goes_on_from_the_tables(identifiability, tmp_path):
    """Without the parts, which are not committed: what the tables hold is not run again, and comes out the same."""
    whole, _ = identifiability
    results = pd.read_csv(whole / "results.csv")
    results.assign(edge_error=results["edge_error"] + 1)[:-1].to_csv(tmp_path / "results.csv", index=False)
    run_quick("identifiability", tmp_path)
    again = pd.read_csv(tmp_path / "results.csv")
    pd.testing.assert_series_equal(again["edge_error"][:-1], results["edge_error"][:-1] + 1)
    pd.testing.assert_series_equal(again["edge_error"][-1:], results["edge_error"][-1:])
    pd.testing.assert_frame_equal(again.drop(columns="edge_error"), results.drop(columns="edge_error"))


def test_a_study_runs_as_many_seeds_as_asked_for_and_keeps_those_that_it_has(tmp_path, monkeypatch):
    study = importlib.import_module("study")

    def of(seed, scratch):
        assert not scratch.exists()
        return {"results": [{"seed": seed, "of": None, "found": seed == 2}], "more": [{"x": seed / 3}]}

    def frames(*words):
        monkeypatch.setattr(sys, "argv", ["study.py", "--out", str(tmp_path), "--jobs", "1", *words])
        replications = {f"cell_0.5-{seed}": partial(of, seed) for seed in range(4)}
        return study.run(replications, study.options("A study.", tmp_path))

    first = frames("--seeds", "3")
    assert first["results"]["replication"].tolist() == ["cell_0.5-0", "cell_0.5-1", "cell_0.5-2"]
    assert first["results"]["commit"].eq(study.code_commit()).all()
    written = [(tmp_path / f"{name}.csv").read_bytes() for name in ("results", "more")]
    shutil.rmtree(tmp_path / "replications")
    again = frames("--seeds", "1")
    assert [(tmp_path / f"{name}.csv").read_bytes() for name in ("results", "more")] == written
    pd.testing.assert_frame_equal(again["more"], first["more"], check_exact=True)
    pd.DataFrame({"seed": [0]}).to_csv(tmp_path / "old.csv")
    with pytest.raises(SystemExit, match=r"old.csv does not name its replications: delete it"):
        frames()
    (tmp_path / "old.csv").unlink()
    assert frames()["more"]["x"].tolist() == [0, 1 / 3, 2 / 3, 1]


@pytest.mark.parametrize("kind", [FloatingPointError, torch.linalg.LinAlgError, np.linalg.LinAlgError])
def test_a_fit_that_fails_is_counted_and_the_study_goes_on(tmp_path, monkeypatch, kind):
    study = importlib.import_module("study")

    def of(seed, scratch):
        scratch.mkdir()
        if seed == 1:
            raise kind("lost")
        scratch.rmdir()
        return {"results": [{"seed": seed}]}

    monkeypatch.setattr(sys, "argv", ["study.py", "--out", str(tmp_path), "--jobs", "1"])
    for _ in range(2):  # the second time from the tables
        o = study.options("A study.", tmp_path)
        found = study.run({f"cell-{seed}": partial(of, seed) for seed in range(3)}, o)
        assert found["results"]["seed"].tolist() == [0, 2]
        assert found["failures"]["failure"].tolist() == ["lost"]
        made = f"Replications: 3, made by {study.code_commit()} (3). "
        assert study.account(found) == made + "Fits that failed: 1. cell-1: lost."
        assert not [path for path in o.parts.iterdir() if path.is_dir()]
        shutil.rmtree(tmp_path / "replications")


def test_dask_workers_come_to_the_same_results(identifiability, tmp_path, monkeypatch):
    """Two workers, each a process of its own, as they would be on other machines."""
    monkeypatch.setenv("PYTHONPATH", f"{SIMULATIONS}:{SIMULATIONS.parent}")
    whole, _ = identifiability
    begun(whole, tmp_path)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        run_quick("identifiability", tmp_path, "--scheduler", cluster.scheduler_address)
        with Client(cluster) as client:
            done = client.run(lambda dask_worker: dask_worker.state.executed_count)
    assert len(done) == 2
    assert all(n > 0 for n in done.values())
    assert (tmp_path / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_the_race_judges_everyone_and_stops_the_clock_for_it(tmp_path):
    said = run_quick("race", tmp_path)
    looks = pd.read_csv(tmp_path / "results.csv")
    assert looks.groupby("method").size()[["ours", "iVAE on counts"]].gt(1).all()
    assert looks["mcc"].between(0, 1).all()
    assert set(looks["method"]) == {
        line.split(" | ")[0][2:] for line in said.splitlines() if " of 1 |" in line
    }
    assert (tmp_path / "race.png").stat().st_size > 10_000

    watch = importlib.import_module("race").Watch(lambda factors: time.sleep(0.3) or float(factors))
    watch.look(lambda: 0.5)
    watch.look(lambda: 0.7, now=True)
    assert [score for _, score in watch.seen] == [0.5, 0.7]
    assert watch.seconds < 0.1


def test_copies_of_logs_are_logs(tmp_path):
    """What the cost of many users is measured on: the same events, of users with other names."""
    cost = importlib.import_module("cost")
    write_simulation(simulate(Design(users=50, categories=6), 0), tmp_path / "drawn", seed=0, truth=False)
    events = cost.copied(tmp_path / "drawn", tmp_path / "data", 3)
    drawn, found = read_dataset(tmp_path / "drawn"), read_dataset(tmp_path / "data")
    assert found.n_users == 150
    assert events == found.search.sum() + found.exposure.sum()
    for name in ("search", "exposure", "engagement"):
        assert (getattr(found, name) == np.tile(getattr(drawn, name), (3, 1))).all()


def test_a_command_is_measured_and_its_failure_is_one(tmp_path, capfd):
    study = importlib.import_module("study")
    cost = study.measured(["--help"])
    assert 0 < cost["seconds"] < 60
    assert 10 < cost["kept_mib"] <= cost["peak_mib"] < 2_000
    with pytest.raises(RuntimeError, match="report nowhere failed"):
        study.measured(["report", "nowhere"])
    assert "nowhere" in capfd.readouterr().err


def test_the_loss_by_hand_is_the_loss(monkeypatch):
    """The benchmark's floor: the same number, and the same gradient, from the same random numbers."""
    antithetic = PrecisionNormal.antithetic

    def same_noise(self, n):
        torch.manual_seed(2)
        return antithetic(self, n)

    monkeypatch.setattr(PrecisionNormal, "antithetic", same_noise)
    floor = importlib.import_module("floor")
    sim = simulate(Design(users=40, categories=6, edges=EDGES), 0)
    torch.manual_seed(0)
    guide, logs = floor.guide_of(sim, torch.device("cpu")), logs_of(sim)
    elbo = UserELBO(floor.PARTICLES, False)
    losses, gradients = [], []
    for loss in (
        lambda: elbo.differentiable_loss(guide.model, guide, logs),
        lambda: floor.loss_by_hand(guide, logs),
    ):
        torch.manual_seed(1)
        guide.zero_grad()
        losses.append(loss())
        losses[-1].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in guide.parameters() if p.requires_grad]))
    assert torch.allclose(*losses, rtol=1e-5)
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5)
