"""Claims about the back-test, and about what users look for under one platform."""

from __future__ import annotations

import html
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import pyro_hmvcrl as hm
from pyro_hmvcrl.cli import app
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.inference.checkpoints import load_tensors, save_tensors
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.queries.interventions import InterventionError
from pyro_hmvcrl.queries.population import Population
from pyro_hmvcrl.queries.profile import profile
from pyro_hmvcrl.queries.ranking import _shares, rank
from pyro_hmvcrl.queries.validation import validate
from pyro_hmvcrl.report.page import write_report
from pyro_hmvcrl.report.reading import ReportError
from pyro_hmvcrl.run.files import RunError
from pyro_hmvcrl.run.fitting import fit_folder
from pyro_hmvcrl.run.tables import write_users
from pyro_hmvcrl.synthetic.design import SUBSTITUTION, Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate
from pyro_hmvcrl.synthetic.world import draw_world

KNOBS = {"users": 300, "preference_factors": 2, "categories": 6, "exposure_covariates": 2}
KNOBS |= {"preference_covariates": 2, "location": 0.7}
SHIFT = {"exposure_1": 1.0}


def command(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Logs before, the same users after a change, others after one that the covariates do not tell; and a run."""
    base = tmp_path_factory.mktemp("validation")
    design = Design.with_knobs(**(SUBSTITUTION | KNOBS))
    world = draw_world(design, 0)
    before, hidden = simulate(design, 0, world), simulate(design, 1, world, SHIFT)
    write_simulation(before, base / "before", 0, truth=False)
    write_simulation(simulate(design, 0, world, SHIFT), base / "after", 0, truth=False)
    covariates = simulate(design, 1, world).exposure_covariates
    write_simulation(replace(hidden, exposure_covariates=covariates), base / "hidden", 0, truth=False)
    settings = Settings(2, 2, restarts=1, steps=200, encoder_steps=100, batch_size=128, periods=1)
    fit_folder(base / "before", base / "run", settings)
    return base


@pytest.fixture(scope="module")
def found(base):
    return validate(base / "run", base / "after")


def rows_of(found):
    return [row for name in ("shown", "searched", "outcomes") for row in found[name].values()]


def test_what_was_and_what_came_are_those_of_the_logs(base, found):
    for logs, part in (("before", "before"), ("after", "observed")):
        tables = {s: pd.read_parquet(base / logs / f"{s}.parquet") for s in SURFACES.values()}
        for name, stem in SURFACES.items():
            shares = tables[stem]["category"].value_counts(normalize=True)
            assert {c: of[part] for c, of in found[name].items()} == pytest.approx(shares.to_dict())
        rates = tables["recommendation_events"].groupby("user_id")["engaged"].mean()
        assert found["outcomes"]["engagement"][part] == pytest.approx(rates.mean())
    for row in rows_of(found):
        assert row["change"]["observed"] == pytest.approx(row["observed"] - row["before"])
        assert row["predicted"]["lower"] < row["predicted"]["mean"] < row["predicted"]["upper"]
        assert row["inside"] == (row["predicted"]["lower"] <= row["observed"] <= row["predicted"]["upper"])
    whole = found["coverage"]["all"]
    assert whole["of"] == 14
    assert whole["inside"] == sum(row["inside"] for row in rows_of(found))
    assert whole["as_before"] == sum(row["as_before"]["inside"] for row in rows_of(found))


SURFACES = {"shown": "recommendation_events", "searched": "search_events"}


def test_a_change_that_the_covariates_tell_is_foretold_and_one_that_they_do_not_is_found_out(base, found):
    for name in ("shown", "searched", "alignment"):
        assert found["error"][name]["model"] < found["error"][name]["as_before"] / 2, name
    assert found["coverage"]["all"]["p"] > 0.05
    assert "do not speak against the run" in found["sentences"][1]
    hidden = validate(base / "run", base / "hidden")
    assert hidden["coverage"]["all"]["p"] < 0.05
    assert "does not predict these logs" in hidden["sentences"][1]
    nothing = validate(base / "run", base / "before")
    assert {row["change"]["observed"] for row in rows_of(nothing)} == {0.0}
    assert "little has changed" in nothing["sentences"][1]


def test_of_many_users_some_are_taken(base, monkeypatch):
    monkeypatch.setattr("pyro_hmvcrl.queries.validation.USERS", 100)
    some = validate(base / "run", base / "after", counterfactual=True, replications=2)
    assert some["users"] == some["users_of_the_run"] == 100
    assert "100 of the 300 users" in some["remarks"][-1]


def certain(run, folder):
    """The run, as if its parameters were known."""
    shutil.copytree(run, folder)
    tensors, about = load_tensors(folder / "posterior.safetensors")
    for name in [name for name in tensors if name.startswith("draws/")]:
        mean = tensors[name.replace("draws/", "mean/")]
        tensors[name] = mean.expand_as(tensors[name]).contiguous()
    save_tensors(folder / "posterior.safetensors", tensors, about)
    return folder


def test_intervals_hold_the_parameters_the_users_and_their_events(base, found, tmp_path):
    """They are wider than those without the parameters' posterior, and so for fewer users."""

    def width(found):
        return np.mean([row["predicted"]["upper"] - row["predicted"]["lower"] for row in rows_of(found)])

    after = read_dataset(base / "after", Population.of(base / "run").run.categories, 1)
    known = validate(certain(base / "run", tmp_path / "run"), base / "after", replications=60)
    assert width(found) > 1.2 * width(known)
    few = validate(base / "run", after.subset(np.arange(30)), replications=60)
    assert few["users"] == 30
    assert width(few) > 1.5 * width(found)
    own = validate(base / "run", base / "after", counterfactual=True)
    assert own["kind"] == "counterfactual"
    assert own["users_of_the_run"] == 300
    as_it_was = [
        validate(base / "run", base / "before", counterfactual=c, replications=60)["error"]["shown"]["model"]
        for c in (False, True)
    ]
    assert as_it_was[1] < 0.85 * as_it_was[0]  # their noise is their own
    assert validate(base / "run", base / "after", seed=0) == found
    assert width(validate(base / "run", base / "after", level=0.5)) < width(found) / 2


def copied(base, tmp_path, **changes):
    """The logs after, with other users' tables."""
    folder = shutil.copytree(base / "after", tmp_path / "logs")
    for stem, change in changes.items():
        change(pd.read_parquet(folder / f"{stem}.parquet")).to_parquet(folder / f"{stem}.parquet")
    return folder


def test_other_orders_and_more_columns_are_the_same_logs(base, found, tmp_path):
    def turned(users):
        return users[users.columns[::-1]].assign(colour="red")

    folder = copied(base, tmp_path, users=turned, search_events=lambda events: events[::-1])
    assert validate(base / "run", folder) == found | {"name": found["name"]}


def test_logs_that_cannot_be_foretold_are_one_clear_error(base, tmp_path):
    def renamed(table):
        return table.assign(user_id="new " + table["user_id"])

    run = base / "run"
    strangers = copied(base, tmp_path / "a", users=renamed, **dict.fromkeys(SURFACES.values(), renamed))
    assert validate(run, strangers, replications=2)["users_of_the_run"] == 0
    with pytest.raises(RunError, match="none of these users is the run's"):
        validate(run, strangers, counterfactual=True)
    new = copied(base, tmp_path / "b", search_events=lambda events: events.replace({"category": "c01"}, "x"))
    remarks = validate(run, new, replications=2)["remarks"]
    assert any("search_events" in remark and "left out" in remark for remark in remarks), remarks
    with pytest.raises(ValueError, match="level is 1"):
        validate(run, base / "after", level=1.0)
    with pytest.raises(RunError, match="other categories"):
        validate(run, read_dataset(new))
    told = json.loads((base / "after" / "dataset.json").read_text())
    bare = copied(base, tmp_path / "c", users=lambda users: users.drop(columns="exposure_1"))
    (bare / "dataset.json").write_text(json.dumps(told | {"exposure_covariates": ["exposure_2"]}))
    said = command("validate", run, bare, "--out", tmp_path / "x.json")
    assert said.exit_code == 1
    assert said.stderr.count("\n") == 1
    assert "exposure_1" in said.stderr
    assert not (tmp_path / "x.json").exists()


@pytest.mark.drawn
def test_the_command_keeps_the_back_test_and_the_report_tells_it(base, found, tmp_path):
    run = shutil.copytree(base / "run", tmp_path / "run")
    said = command("validate", run, base / "after", "--out", tmp_path / "validation.json")
    assert said.exit_code == 0, said.output
    assert json.loads((tmp_path / "validation.json").read_text()) == found
    assert json.loads((run / "validation.json").read_text()) == found
    assert found["sentences"][0] in said.output
    page = html.unescape((run / "report.html").read_text())
    assert 'id="validation"' in page
    assert all(sentence in page for sentence in found["sentences"])
    assert (run / "figures" / "validation.png").stat().st_size > 10_000
    assert json.loads((run / "report.json").read_text())["validation"] == found
    asked = hm.load_run(run).validate(base / "after")
    assert asked.to_dict() == found
    assert asked.to_frame().loc[("outcomes", "engagement"), "predicted"] == pytest.approx(
        found["outcomes"]["engagement"]["predicted"]["mean"]
    )
    assert repr(asked).startswith(found["sentences"][0])
    assert "<table" in asked._repr_html_()
    assert asked.plot()._repr_png_().startswith(b"\x89PNG")
    for spoilt, message in (("{}", "no 'name'"), ("{", "cannot be read")):
        (run / "validation.json").write_text(spoilt)
        with pytest.raises(ReportError, match=rf"validation\.json: {message}.*validate again"):
            write_report(run)


def test_a_run_without_the_figures_of_its_logs_says_so(base, tmp_path):
    run = shutil.copytree(base / "run", tmp_path / "run")
    report = json.loads((run / "report.json").read_text())
    (run / "report.json").write_text(json.dumps({k: of for k, of in report.items() if k != "observed"}))
    with pytest.raises(RunError, match=r"report\.json: cannot be read \(no 'observed'\); fit again"):
        validate(run, base / "after")


# --- What users look for -------------------------------------------------------------------------------------


def test_a_ranking_is_what_the_user_looks_for_under_one_platform(base):
    table = rank(base / "run", top=6)
    assert len(table) == 300 * 6
    of_user = table.groupby("user_id", sort=False)
    assert (of_user["rank"].apply(list).map(lambda ranks: ranks == [1, 2, 3, 4, 5, 6])).all()
    assert (of_user["probability"].diff().dropna() <= 0).all()
    assert of_user["probability"].sum().to_numpy() == pytest.approx(np.ones(300), abs=1e-5)
    assert list(of_user.groups) == list(Population.of(base / "run").covariates["user_id"])
    pd.testing.assert_frame_equal(rank(base / "run", top=2), table[table["rank"] <= 2].reset_index(drop=True))
    assert len(rank(base / "run", top=99)) == len(table)
    first = table[table["rank"] == 1].set_index("user_id")["category"]
    now = profile(base / "run").set_index("user_id")["looks_for"]
    assert 0.5 < (first == now).mean() < 1  # the platform is another one for most
    as_it_is = rank(base / "run", top=1, as_it_is=True).set_index("user_id")["category"]
    pd.testing.assert_series_equal(as_it_is, now, check_names=False, check_dtype=False)
    searched = pd.read_parquet(base / "before" / "search_events.parquet")
    own = searched.groupby("user_id")["category"].agg(lambda c: c.mode()[0]).reindex(first.index)
    popular = searched["category"].mode()[0]
    assert (first == own).mean() > (own == popular).mean() + 0.1
    other = rank(base / "run", {"platform_1": 3.0, "platform_2": -3.0}, top=6)
    assert not other["category"].equals(table["category"])
    with pytest.raises(ValueError, match="has no reference"):
        rank(base / "run", {"platform_1": 3.0, "platform_2": -3.0}, as_it_is=True)
    with pytest.raises(InterventionError, match="reference must be of platform_1, platform_2"):
        rank(base / "run", {"platform_1": 3.0})
    with pytest.raises(ValueError, match="top is 0"):
        rank(base / "run", top=0)


def test_items_share_their_category_by_popularity(base):
    categories = rank(base / "run", top=6)
    names = sorted(categories["category"].unique())
    items = pd.DataFrame(
        {"item": range(12), "category": names * 2, "popularity": [1.0] * 6 + [3.0] * 5 + [0.0]}
    )
    table = rank(base / "run", items=items, top=12)
    assert list(table) == ["user_id", "rank", "item", "category", "probability"]
    wide = table.pivot(index="user_id", columns="item", values="probability")
    of = categories.pivot(index="user_id", columns="category", values="probability")
    for item in range(12):
        share = (0.25 if item < 5 else 1.0) if item < 6 else (0.75 if item < 11 else 0.0)
        assert wide[item].to_numpy() == pytest.approx(share * of[names[item % 6]].to_numpy(), abs=1e-6)
    alike = rank(base / "run", items=items[["item", "category"]], top=12)
    assert alike.groupby("user_id")["probability"].first().max() == pytest.approx(
        of.max(axis=None) / 2, abs=1e-6
    )
    for change, message in (
        (items.drop(columns="item"), "no column item"),
        (items[["category"]], "no column item"),
        (items.assign(category="hats"), "category hats is none of the run's"),
        (items.assign(item=7), "item 7 is there twice"),
        (items.assign(popularity=["1"] * 11 + ["-2"]), "popularity of row 12"),
    ):
        with pytest.raises(ValueError, match=message):
            rank(base / "run", items=change)


def test_the_command_rank_ranks_items_of_a_file(base, tmp_path):
    names = sorted(rank(base / "run", top=6)["category"].unique())
    items = pd.DataFrame({"item": [f"i{k}" for k in range(6)], "category": names, "popularity": 1})
    items.to_csv(tmp_path / "items.csv", index=False)
    words = "rank", base / "run", "--out", tmp_path / "rank.csv", "--top", "2", "--as-it-is", "--items"
    said = command(*words, tmp_path / "items.csv")
    assert said.exit_code == 0, said.output
    assert "2 items of each of 300 users" in said.output
    table = pd.read_csv(tmp_path / "rank.csv")
    assert list(table) == ["user_id", "rank", "item", "category", "probability"]
    assert (
        table["item"].str.removeprefix("i").astype(int).map(lambda k: names[k]) == table["category"]
    ).all()
    assert "no such file" in command(*words, tmp_path / "none.csv").output


def test_the_command_rank_writes_a_row_a_user_and_rank(base, tmp_path):
    said = command("rank", base / "run", "--out", tmp_path / "rank.csv", "--top", "3")
    assert said.exit_code == 0, said.output
    assert "3 categories of each of 300 users" in said.output
    table = pd.read_csv(tmp_path / "rank.csv")
    assert list(table) == ["user_id", "rank", "category", "probability"]
    assert len(table) == 900
    pd.testing.assert_frame_equal(hm.load_run(base / "run").rank(top=3), table, check_dtype=False)


def test_items_may_have_categories_that_are_integers():
    of, share = _shares(pd.DataFrame({"category": [7, 5, 7]}), ["5", "7"])
    assert of.tolist() == [1, 0, 1]
    assert share.tolist() == [0.5, 1.0, 0.5]


def test_no_text_in_a_csv_is_a_formula(tmp_path):
    table = pd.DataFrame({"user_id": ["-1"], "looks_for": ['=HYPERLINK("http://x")']})
    write_users(table, tmp_path / "t.parquet", tmp_path)
    with pytest.raises(RunError, match="would take looks_for '=HYPERLINK"):
        write_users(table, tmp_path / "t.csv", tmp_path)
    assert not (tmp_path / "t.csv").exists()
