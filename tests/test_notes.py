"""What the commands say of logs and runs before their figures are used: in the terminal, the account and the page."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pyro_hmvcrl.cli import app
from pyro_hmvcrl.report.terminal import notes_of
from pyro_hmvcrl.report.verdicts import doubts

FIT = ["--platform-factors", "2", "--preference-factors", "3", "--restarts", "1", "--steps", "20"]
FIT += ["--encoder-steps", "10", "--periods", "1"]
EVENTS = ("search_events", "recommendation_events")


def run(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words])


def spoil(folder, **change):
    """Other tables, by stem, made of those that are there."""
    for stem, of in change.items():
        path = folder / f"{stem}.parquet"
        of(pd.read_parquet(path)).to_parquet(path, index=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Logs in seconds, every feed event twice, one user with a covariate of 1e9; and the run of them."""
    base = tmp_path_factory.mktemp("notes")
    assert run("simulate", base / "data", "--users", 120, "--knob", "categories=6").exit_code == 0
    assert run("simulate", base / "new", "--users", 40, "--seed", 1, "--knob", "categories=6").exit_code == 0
    seconds = {s: lambda t: t.assign(timestamp=t["timestamp"] // 1_000) for s in EVENTS}
    spoil(base / "data", **seconds)
    spoil(
        base / "data",
        recommendation_events=lambda t: pd.concat([t, t]),
        users=lambda t: t.assign(exposure_2=t["exposure_2"].where(t.index != 17, 1e9)),
    )
    fitted = run("fit", base / "data", "--out", base / "run", *FIT)
    assert fitted.exit_code == 0, fitted.output
    (base / "said.txt").write_text(fitted.stderr)
    report = json.loads((base / "run" / "report.json").read_text())
    for n, check in enumerate(report["predictive"]["checks"].values()):
        check["level"] = "good" if n else "no"
    (base / "run" / "report.json").write_text(json.dumps(report))
    return base


KNOWN = ["that looks like seconds", "(50%) are exact copies", "column 'exposure_2': one user makes"]


def test_fit_says_what_reading_found_and_keeps_it(base):
    said, report = (base / "said.txt").read_text(), json.loads((base / "run" / "report.json").read_text())
    page = (base / "run" / "report.html").read_text()
    for words in KNOWN:
        assert words in said
        assert any(words in remark for remark in report["remarks"])
        assert words.replace("'", "&#39;") in page
    assert all(line.startswith("Note: ") for line in said.splitlines() if "looks like" in line)


def test_failed_predictive_checks_are_among_the_doubts(base):
    report = json.loads((base / "run" / "report.json").read_text())
    checks = report["predictive"]["checks"]
    found = doubts(report)
    assert f"differ from these logs in 1 of {len(checks)} respects" in found[0]
    assert found[2:] == report["remarks"]  # after the check itself
    assert notes_of(base / "run") == found
    for check in checks.values():
        check["level"] = "good"
    assert doubts(report) == report["remarks"]


def test_effects_and_encode_say_so_too(base):
    asked = run("effects", base / "run", "--shift", "exposure_1=+0.1", "--out", base / "e.json")
    encoded = run("encode", base / "run", base / "new", "--out", base / "f.parquet")
    for said in (asked, encoded):
        assert said.exit_code == 0, said.output
        for words in [*KNOWN, "differ from these logs"]:
            assert words in said.stderr


def test_an_answer_that_hangs_on_one_user_says_so(base):
    said = run("effects", base / "run", "--shift", "exposure_2=+1", "--out", base / "e.json")
    assert said.exit_code == 0, said.output
    assert (
        "the answer hangs on the few users who make nearly all of the variance of exposure_2" in said.output
    )
    assert json.loads((base / "e.json").read_text())["overlap"]["verdict"].startswith("in part")


def test_new_users_unlike_the_fit_s_are_marked_and_counted(base, tmp_path):
    spoil(base / "new", users=lambda t: t.assign(exposure_1=t["exposure_1"].where(t.index != 3, -999)))
    said = run("encode", base / "run", base / "new", "--out", tmp_path / "f.csv")
    assert said.exit_code == 0, said.output
    outside = pd.read_csv(tmp_path / "f.csv")["outside"].to_numpy()
    assert outside[3]
    assert f"{outside.sum()} of 40 users" in said.stderr
    assert "exposure_1: " in said.stderr


def test_users_without_searches_and_unknown_categories_are_encoded(base, tmp_path):
    """When they come alone, and one event in a category that the run does not know."""
    spoil(
        base / "new",
        search_events=lambda t: t.iloc[:0],
        recommendation_events=lambda t: t.assign(category=t["category"].where(t.index != 5, "unheard of")),
    )
    said = run("encode", base / "run", base / "new", "--out", tmp_path / "f.csv")
    assert said.exit_code == 0, said.output
    assert "e.g. 'unheard of'; they are left out" in said.stderr
    assert "100% of the users have no search events" in said.stderr
    assert np.isfinite(pd.read_csv(tmp_path / "f.csv").iloc[:, 1:-1]).all(axis=None)


def test_what_time_the_covariates_describe_is_kept_and_its_absence_stands_among_the_assumptions(
    base, tmp_path
):
    plain = json.loads((base / "run" / "report.json").read_text())
    assert plain["covariates_until"] is None
    assert json.loads((base / "run" / "config.json").read_text())["covariates_until"] is None
    assert (
        "the dataset does not say (<code>covariates_until</code>"
        in (base / "run" / "report.html").read_text()
    )
    assert "covariates_until" not in (base / "said.txt").read_text()

    shutil.copytree(base / "data", tmp_path / "data")
    times = pd.read_parquet(tmp_path / "data" / "search_events.parquet")["timestamp"]
    until = int(times.quantile(0.25))
    description = json.loads((tmp_path / "data" / "dataset.json").read_text())
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(description | {"covariates_until": until}))
    fitted = run("fit", tmp_path / "data", "--out", tmp_path / "run", *FIT)
    assert fitted.exit_code == 0, fitted.output
    kept = json.loads((tmp_path / "run" / "report.json").read_text())["covariates_until"]
    assert pd.Timestamp(kept).value // 1_000_000 == until
    assert json.loads((tmp_path / "run" / "config.json").read_text())["covariates_until"] == until
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"the dataset says that they describe what was before {kept}" in page
    assert "events are before it, and are left out" in fitted.stderr
