"""Claims about the study of KuaiSAR: its references see no more than they say, and its table is whole."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.evidence.measures import mcc
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.kuaisar import published
from pyro_hmvcrl.kuaisar.copy.folder import write_kuaisar_copy
from pyro_hmvcrl.kuaisar.published import PUBLISHED, StudyError, study, target_factors
from pyro_hmvcrl.report.page import write_report

from worlds import make_few_logs

QUICK = Settings(2, 3, restarts=1, steps=30, encoder_steps=10, device="cpu", periods=2)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A study of a small generated copy, of which nothing but its form can be expected."""
    base = tmp_path_factory.mktemp("kuaisar")
    write_kuaisar_copy(base / "copy", users=320, seed=0, events=0.4)
    with pytest.MonkeyPatch.context() as patch:
        make_few_logs(patch)
        patch.setattr("pyro_hmvcrl.queries.averages.USER_DRAWS", 2_000)
        return base, study(base / "copy", base / "study", QUICK)


def test_the_table_has_every_figure(studied):
    _, found = studied
    rows = {row["figure"]: row for row in found["agreement"] + found["figures"]}
    for channel in ("platform", "preference"):
        for reference in ("target factors", "a second fit", "the same fit", "the true factors"):
            [row] = [
                row for name, row in rows.items() if name.startswith(f"{channel} MCC against {reference}")
            ]
            assert 0 <= row["obtained"]["lower"] <= row["obtained"]["mean"] <= row["obtained"]["upper"] <= 1
            assert 0 < row["rotation_null"] < 1
            assert 0 <= row["covariates_alone"] <= 1
        assert rows[f"{channel} MCC against target factors"]["published"] == PUBLISHED[channel]
    assert rows["R² of the exposure covariates on preference"]["published"] == 0.046
    assert "R² of the exposure covariates on preference, true factors" in rows
    for name in ("engagement: NIE", "alignment: TE", "probability of suppression"):
        assert np.isfinite(rows[name]["obtained"]["mean"])


def test_the_periods_share_no_event_and_no_user_is_judged_who_was_fitted(studied):
    base, found = studied
    earlier, later = (read_dataset(base / "study" / name) for name in ("earlier", "later"))
    for surface in ("search_events", "recommendation_events"):
        assert getattr(earlier, surface)["timestamp"].max() < getattr(later, surface)["timestamp"].min()
    assert max(row["users"] for row in found["agreement"]) <= round(0.1 * earlier.n_users)
    for data in (earlier, later):  # covariates are measured in the period of the events, before them
        assert data.covariates_until <= min(
            int(t["timestamp"].min()) for t in (data.search_events, data.recommendation_events)
        )
    assert later.covariates_until > earlier.recommendation_events["timestamp"].max()
    report = json.loads((base / "study" / "run" / "report.json").read_text())
    assert pd.Timestamp(report["covariates_until"]).value // 1_000_000 == earlier.covariates_until


def test_covariates_and_events_can_be_of_one_window_as_the_published_ones(tmp_path, monkeypatch):
    write_kuaisar_copy(tmp_path / "copy", users=60, seed=0, events=0.3)
    monkeypatch.setattr(published, "_enough_users", stop)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "copy", tmp_path / "study", QUICK, covariates_share=0)
    earlier, later = (read_dataset(tmp_path / "study" / name) for name in ("earlier", "later"))
    assert earlier.covariates_until is later.covariates_until is None
    with pytest.raises(StudyError, match="other settings"):
        study(tmp_path / "copy", tmp_path / "study", QUICK)


def test_a_study_goes_on_where_it_was(studied, monkeypatch):
    base, found = studied
    for left in (".run.unfinished", ".later.x.partial"):  # as where it was killed at the end of each
        (base / "study" / left).mkdir()
    for done in ("fit_folder", "read_kuaisar", "effects"):
        monkeypatch.setattr(published, done, lambda *args, **kwargs: pytest.fail("done already"))
    assert study(base / "copy", base / "study", QUICK) == found
    assert json.loads((base / "study" / "run" / "kuaisar.json").read_text()) == found
    assert not list((base / "study").glob(".*"))


def test_another_study_in_its_folder_is_refused(studied):
    base, _ = studied
    with pytest.raises(StudyError, match="another source or other settings"):
        study(base / "copy", base / "study", replace(QUICK, seed=1))
    with pytest.raises(StudyError, match="is no study"):
        study(base / "study", base / "copy", QUICK)


def stop(*args, **options):
    raise KeyboardInterrupt


def another_source(base):
    """A source in the place of another."""
    shutil.rmtree(base / "copy")
    write_kuaisar_copy(base / "copy", users=60, seed=1, events=0.3)


@pytest.mark.parametrize("stopped", ["_two_periods", "_enough_users", "compare"])
def test_a_stopped_study_does_not_go_on_with_another_source(tmp_path, monkeypatch, stopped):
    """At the same place, under the same name: what is compared is what is in it."""
    write_kuaisar_copy(tmp_path / "copy", users=60, seed=0, events=0.3)
    for name in ("_enough_users", "fit_folder", "write_effects", "effects"):
        monkeypatch.setattr(published, name, lambda *args, **options: None)
    monkeypatch.setattr(published, "alone_in", lambda folder: nullcontext())
    monkeypatch.setattr(published, stopped, stop)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "copy", tmp_path / "study", QUICK)
    shutil.copytree(tmp_path / "copy", tmp_path / "moved", copy_function=shutil.copyfile)
    with pytest.raises(KeyboardInterrupt):  # it goes on
        study(tmp_path / "moved", tmp_path / "study", QUICK)
    another_source(tmp_path)
    with pytest.raises(StudyError, match="another source"):
        study(tmp_path / "copy", tmp_path / "study", QUICK)


def test_a_study_takes_no_run_of_something_else(tmp_path, monkeypatch):
    write_kuaisar_copy(tmp_path / "copy", users=60, seed=0, events=0.3)
    monkeypatch.setattr(published, "_enough_users", lambda *args: None)
    (tmp_path / "study").mkdir()
    monkeypatch.setattr(published, "fit_folder", stop)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "copy", tmp_path / "study", QUICK)
    (tmp_path / "study" / "run").mkdir()
    (tmp_path / "study" / "run" / "config.json").write_text("{}")
    with pytest.raises(StudyError, match=r"study/run: not the fit of .*study/earlier with these settings"):
        study(tmp_path / "copy", tmp_path / "study", QUICK)


def test_a_study_that_was_killed_at_its_start_goes_on(tmp_path, monkeypatch):
    write_kuaisar_copy(tmp_path / "copy", users=60, seed=0, events=0.3)
    (tmp_path / "study" / ".study.json.x.partial").mkdir(parents=True)
    monkeypatch.setattr(published, "_enough_users", stop)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "copy", tmp_path / "study", QUICK)
    assert (tmp_path / "study" / "later").exists()


def test_an_answer_to_another_question_is_asked_anew(tmp_path):
    kept = {"shift": ["popularity=+1sd"], "kind": "interventional", "level": 0.9}
    for other in ({}, {"shift": ["x=+1"]}, {"kind": "counterfactual"}, {"level": 0.5}):
        (tmp_path / "effects.json").write_text(json.dumps(kept | other))
        assert published._asked(tmp_path / "effects.json", "popularity=+1sd") == (not other)


def test_too_few_users_are_refused_before_anything_is_fitted(tmp_path, monkeypatch):
    write_kuaisar_copy(tmp_path / "copy", users=100, seed=0, events=0.3)
    monkeypatch.setattr(published, "fit_folder", lambda *args: pytest.fail("fitted"))
    with pytest.raises(StudyError, match="users would be held out and in both periods; 20 are needed"):
        study(tmp_path / "copy", tmp_path / "study", QUICK)


@pytest.mark.drawn
def test_the_report_shows_the_table(studied):
    base, found = studied
    page = write_report(base / "study" / "run").read_text()
    assert "Against the published figures" in page
    for row in found["figures"]:
        assert row["figure"][1:] in page
    for row in found["agreement"]:
        assert f"<td>{row['weak_mcc']:.3f}</td>" in page
    assert (base / "study" / "run" / "figures" / "published.svg").exists()


def test_target_factors_are_the_independent_axes(studied):
    """Two factors with tails move all categories at random: the axes are found all the same."""
    base, _ = studied
    later = read_dataset(base / "study" / "later")
    rng = np.random.default_rng(0)
    z = rng.laplace(size=(later.n_users, 2))
    rate = np.exp(z @ rng.normal(scale=0.3, size=(2, len(later.categories))))
    counts = rng.multinomial(2_000, rate / rate.sum(1, keepdims=True)).astype(np.float32)
    planted = later.with_counts(search=counts)
    found, told = target_factors(planted, "preference", 2, later.user_id)
    assert told.all()
    assert mcc(z, found).value > 0.9


def test_target_factors_of_a_channel_read_its_own_surface_alone(studied):
    base, _ = studied
    later = read_dataset(base / "study" / "later")
    for channel, own in (("preference", "search"), ("platform", "exposure")):
        others = {s: 0 * getattr(later, s) for s in ("search", "exposure", "engagement") if s != own}
        same, _ = target_factors(later.with_counts(**others), channel, 2, later.user_id)
        assert same == pytest.approx(target_factors(later, channel, 2, later.user_id)[0])


def test_a_user_without_events_is_not_compared_with_targets(studied):
    base, _ = studied
    later = read_dataset(base / "study" / "later")
    search = later.search.copy()
    search[3] = 0
    _, told = target_factors(later.with_counts(search=search), "preference", 2, later.user_id)
    assert told.sum() == (search.sum(1) > 0).sum()
    assert not told[3]
