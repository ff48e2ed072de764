"""Claims about the selection of numbers of factors, of logs and before a fit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import pyro_hmvcrl as hm
from pyro_hmvcrl import cli
from pyro_hmvcrl.data.dataset import CHANNELS
from pyro_hmvcrl.evidence.select import Candidate
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.run import selecting
from pyro_hmvcrl.run.fitting import SELECTION, checkpoints_of, is_run_of
from pyro_hmvcrl.run.selecting import fit_candidate, select_factors

DESIGN = {"users": 240, "categories": 8, "exposure_covariates": 2, "preference_covariates": 2}
QUICK = {"restarts": 1, "steps": 60, "encoder_steps": 10, "batch_size": 128, "periods": 1, "device": "cpu"}
QUICKLY = [word for name, of in QUICK.items() for word in (f"--{name.replace('_', '-')}", of)]
NUMBER = ["--platform-factors", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("select") / "data"
    world = hm.simulate(hm.Design(**DESIGN, platform_factors=1, preference_factors=2, edges=()), 0)
    hm.write_simulation(world, folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def logs(data):
    return hm.read_dataset(data, periods=1)


@pytest.fixture
def made_up(monkeypatch) -> list[tuple[int, int]]:
    """Models whose bounds are made up, of a world with 1 and 3 factors; which of them were fitted."""
    fitted = []

    def fit_of(dataset, settings, numbers):
        fitted.append(numbers)
        users = np.random.default_rng(0).normal(size=60)
        level = -abs(numbers[0] - 1) - abs(numbers[1] - 3)
        return Candidate(users + level, "good", "good", dict.fromkeys(CHANNELS, True), 0)

    monkeypatch.setattr(selecting, "fit_candidate", fit_of)
    return fitted


def test_a_factor_of_the_logs_is_found(logs):
    found = hm.select(logs, platform_factors=1, **QUICK)
    assert (found.platform_factors, found.preference_factors) == (1, 2)
    assert set(found.table["platform_factors"]) == {1}
    one_less = found.table[found.table["preference_factors"] == 1].iloc[0]
    assert one_less["gain"] < -3 * one_less["gain_error"]
    assert one_less["search_rest"] == "no"  # users differ in more ways than it has
    assert found.table.loc[found.table["recommended"], "search_rest"].tolist() == ["good"]
    assert found.plot().axes[0].get_xlabel() == "preference factors"
    assert "2 preference factors" in repr(found)


def test_the_same_model_is_the_same_to_the_last_digit(logs):
    settings = Settings(1, 1, **QUICK | {"steps": 5})
    one, again = (fit_candidate(logs, settings, (1, 2)) for _ in range(2))
    assert len(one.bounds) == 60  # a quarter of the users
    assert one.to_dict() == again.to_dict()


def test_a_selection_that_was_killed_goes_on(logs, made_up, tmp_path, monkeypatch):
    settings, kept = Settings(2, 2, **QUICK), tmp_path / "kept.json"
    whole = select_factors(logs, settings)
    in_order = list(made_up)

    def killed(dataset, settings, numbers, fit_of=selecting.fit_candidate):
        if len(made_up) == len(in_order) + 3:
            raise KeyboardInterrupt
        return fit_of(dataset, settings, numbers)

    with monkeypatch.context() as some_time:
        some_time.setattr(selecting, "fit_candidate", killed)
        with pytest.raises(KeyboardInterrupt):
            select_factors(logs, settings, kept=kept)
    made_up.clear()
    again = select_factors(logs, settings, kept=kept)
    assert made_up == in_order[3:]
    assert again.to_dict() == whole.to_dict()
    kept.write_text("[")
    assert select_factors(logs, settings, kept=kept).to_dict() == whole.to_dict()


def test_many_users_are_some_of_them(logs, made_up, monkeypatch):
    seen = []
    monkeypatch.setattr(selecting, "USERS", 100)
    monkeypatch.setattr(
        selecting,
        "fit_candidate",
        lambda d, s, n, f=selecting.fit_candidate: seen.append(d.user_id) or f(d, s, n),
    )
    select_factors(logs, Settings(2, 2, **QUICK))
    assert {len(set(ids)) for ids in seen} == {100}
    assert all((ids == seen[0]).all() for ids in seen)


def test_what_cannot_be_selected_is_said(logs):
    with pytest.raises(hm.RunError, match="both numbers"):
        hm.select(logs, platform_factors=1, preference_factors=1)
    with pytest.raises(hm.RunError, match=r"60 users are too few .* 80 users or more"):
        hm.select(logs.subset(range(60)))


def command(*words: object) -> str:
    done = CliRunner().invoke(cli.app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_writes_table_and_figure(data, made_up, tmp_path):
    said = command("select", data, "--out", tmp_path / "selection", "--device", "cpu")
    assert "1 platform factor and 3 preference factors: the smallest of" in said
    assert {p.name for p in (tmp_path / "selection").iterdir()} == {
        f"selection.{kind}" for kind in ("json", "csv", "png", "svg")
    }
    rows = pd.read_csv(tmp_path / "selection/selection.csv")
    assert rows.loc[rows["recommended"], "preference_factors"].tolist() == [3]
    refused = CliRunner().invoke(cli.app, ["select", str(data), *NUMBER, "--preference-factors", "2"])
    assert refused.exit_code == 1
    assert "both numbers" in refused.output


@pytest.mark.drawn
def test_a_fit_without_numbers_selects_them_goes_on_from_there_and_keeps_why(
    data, made_up, tmp_path, monkeypatch
):
    def killed(*args):
        raise KeyboardInterrupt

    out, settings = tmp_path / "run", Settings(1, 3, **QUICK)
    with monkeypatch.context() as some_time:
        some_time.setattr("pyro_hmvcrl.run.fitting.fit", killed)
        with pytest.raises(KeyboardInterrupt):
            hm.fit(data, out=out, platform_factors=1, **QUICK)
    assert (checkpoints_of(out) / SELECTION).exists()
    with pytest.raises(hm.RunError, match="another dataset, version or settings"):
        hm.fit(data, out=out, **QUICK)  # both numbers

    fitted = list(made_up)
    run = hm.fit(data, out=out, platform_factors=1, **QUICK)
    assert made_up == fitted
    assert run.factor_names == ["platform_1", "preference_1", "preference_2", "preference_3"]
    assert run.config["settings"]["preference_factors"] == 3
    assert not checkpoints_of(out).exists()
    kept = json.loads((out / "report.json").read_text())["selection"]
    assert kept["preference_factors"] == 3
    assert {m["preference_factors"] for m in kept["models"]} == {2, 3, 4}

    assert is_run_of(out, data, settings)
    assert is_run_of(out, data, settings, ["preference"])
    assert not is_run_of(out, data, settings, CHANNELS)
    assert not is_run_of(out, data, Settings(2, 2, **QUICK), ["preference"])
    said = command("fit", data, "--out", out, *NUMBER, *QUICKLY)  # the fit is there, and its report is not
    assert made_up == fitted
    page = (out / "report.html").read_text()
    for told in (said, page):
        assert "How many factors" in told
        assert all(sentence in told for sentence in kept["sentences"])
    assert (out / "figures/selection.svg").exists()


def test_an_indicator_that_none_of_some_users_has_is_no_trouble(logs):
    rare = logs.users.assign(exposure_1=0.0)
    candidate = fit_candidate(replace(logs, users=rare), Settings(1, 2, **QUICK), (1, 2))
    assert np.isfinite(candidate.bounds).all()
