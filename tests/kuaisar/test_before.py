"""Claims about when KuaiSAR's covariates are measured: before the events, unless the user wants otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from kuaisar_files import DAY, HOUR, MIDNIGHT, files, folder, result, shown
from typer.testing import CliRunner

from pyro_hmvcrl.cli import app
from pyro_hmvcrl.data.dataset import Dataset
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.kuaisar.copy.catalogue import _offsets
from pyro_hmvcrl.kuaisar.copy.folder import write_kuaisar_copy
from pyro_hmvcrl.kuaisar.copy.population import CATEGORIES, draw_population
from pyro_hmvcrl.kuaisar.files import Account, KuaisarError
from pyro_hmvcrl.kuaisar.folder import write_kuaisar
from pyro_hmvcrl.kuaisar.logs import Kuaisar
from pyro_hmvcrl.kuaisar.reading import read_kuaisar

MEASURED = ("popularity", "duration", "age")  # of what was delivered


def partial_correlation(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    """Of `x` and `y`, given columns and their squares."""
    design = np.column_stack([np.ones(len(x)), given, given**2])
    left = [v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y)]
    return float(np.corrcoef(*left)[0, 1])


def chance(users: int) -> float:
    """What a correlation of two things that have nothing to do with each other exceeds once in a thousand times."""
    return 3.3 / np.sqrt(users)


# --- Why -------------------------------------------------------------------------------------------------------------


def without_policy(
    users: int, seed: int, days: int = 8, a_day: int = 12
) -> tuple[Kuaisar, np.ndarray, np.ndarray]:
    """Logs of a feed that follows what users want, and else the day's chance: it has no setting that differs by user.

    Items of a category are alike, and differ from those of others.  Returns the logs, what users want, and what each
    category's items are: log of popularity (about), of duration and of 1 + age, ``(C, 3)``.
    """
    rng, categories, items = np.random.default_rng(seed), 8, 40
    wish = rng.normal(size=users)
    taste, of_items = 0.7 * rng.normal(size=categories), rng.normal(size=(categories, 3))
    n_items = np.maximum(items * np.exp(-of_items[:, 0]), 1).astype(int)
    first = np.append(0, np.cumsum(n_items))

    def draw(logits: np.ndarray, n: int) -> np.ndarray:
        return (logits[..., None, :] + rng.gumbel(size=(*logits.shape[:-1], n, categories))).argmax(-1)

    chances = rng.normal(size=(users, days, categories))  # of the day, and of nothing else
    category = draw(wish[:, None, None] * taste + chances, a_day).ravel()
    user = np.arange(users).repeat(days * a_day)
    time = MIDNIGHT + np.tile(np.arange(days).repeat(a_day) * DAY, users) + rng.integers(DAY, size=len(user))
    deliveries = pd.DataFrame({"user": user, "time": time, "category": category})
    deliveries = deliveries.assign(
        engaged=rng.integers(2, size=len(user)),
        item=first[category] + (n_items[category] * rng.random(len(user))).astype(int),
        duration=10 * np.exp(of_items[category, 1] / 2),
        age=np.exp(3 + of_items[category, 2] / 2) - 1,
        upload_type=0,
    )
    searched = draw(wish[:, None] * taste, 20).ravel()
    by = np.arange(users).repeat(20)
    searches = pd.DataFrame({"user": by, "time": MIDNIGHT + rng.integers(days * DAY, size=len(by))})
    queries = searches.assign(keyword=rng.integers(99, size=len(by)), user_input=True)
    table = {"user_id": np.arange(users), "rec_active_level": rng.integers(4, size=users)}
    table |= {"search_active_level": rng.integers(7, size=users), "follows": rng.integers(9, size=users)}
    return (
        Kuaisar(
            pd.DataFrame(table).assign(onehot_feat1="1", onehot_feat2="1"),
            [f"category {c}" for c in range(categories)],
            deliveries,
            searches.assign(category=searched, suggested=0),
            queries,
            Account(),
            {"source": "no policy", "categories": categories},
        ),
        wish,
        of_items,
    )


def mean_shown(data: Dataset, of_items: np.ndarray) -> np.ndarray:
    """What is shown to each user in the events that are used, ``(users, 3)``."""
    return data.exposure @ of_items / np.maximum(data.exposure.sum(1, keepdims=True), 1)


@pytest.mark.parametrize("seed", range(3))
def test_with_no_policy_at_all_what_is_made_of_the_events_goes_with_them_and_what_is_from_before_does_not(
    tmp_path, seed
):
    logs, wish, of_items = without_policy(500, seed)
    for share in (0, 0.25):
        write_kuaisar(logs, tmp_path / str(share), covariates_share=share)
        data = read_dataset(tmp_path / str(share))
        shown = mean_shown(data, of_items)
        for k, name in enumerate(MEASURED):
            r = partial_correlation(
                data.users[name].to_numpy(), shown[:, k], np.column_stack([wish, wish**3])
            )
            if share == 0:
                assert r > 0.9, name
            else:
                assert abs(r) < chance(500), name


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A generated copy of few events a user, its logs, and its truth."""
    base = tmp_path_factory.mktemp("before")
    write_kuaisar_copy(base / "copy", users=400, seed=3, events=0.5)
    with np.load(base / "copy" / "truth.npz") as arrays:
        return base, read_kuaisar(base / "copy"), dict(arrays)


def test_the_generated_copy_shows_the_fault_and_its_mend(copied):
    """Beyond what was planted and what the true factors make of it."""
    base, logs, truth = copied
    population = draw_population(400, 3)
    offsets = _offsets(population, 3)
    for share in (0, 0.25):
        write_kuaisar(logs, base / str(share), covariates_share=share)
        data = read_dataset(base / str(share))
        row = pd.Index(truth["user_id"].astype(str)).get_indexer(data.users["user_id"].astype(str))
        code = pd.Index([english for _, english in CATEGORIES]).get_indexer(data.categories)
        beyond = mean_shown(data, offsets[code]) - (population.exposure @ offsets)[row]
        there = data.exposure.sum(1) > 0
        measured, planted = data.users[list(MEASURED)].to_numpy(), truth["exposure_covariates"][row]
        r = [partial_correlation(measured[there, k], beyond[there, k], planted[there]) for k in range(3)]
        if share == 0:
            assert np.mean(r) > 1.5 * chance(3 * 400)
        else:
            assert abs(np.mean(r)) < chance(3 * 400)


def test_measured_before_the_events_covariates_are_still_those_that_were_planted(copied):
    base, logs, truth = copied
    write_kuaisar(logs, base / "half", covariates_share=0.5)
    users = read_dataset(base / "half").users
    row = pd.Index(truth["user_id"].astype(str)).get_indexer(users["user_id"].astype(str))
    for k, name in enumerate(MEASURED):
        assert np.corrcoef(users[name], truth["exposure_covariates"][row, k])[0, 1] > 0.85, name


# --- What is written -------------------------------------------------------------------------------------------------

DAYS = 8


def eight_days():
    """Users 1 and 2 on every day; user 3 from the fourth day on, so that nothing of theirs is before the events."""
    tables = files()
    tables["user_features.csv"][1].append([3, 2, 2, 1, 0])
    for day in range(DAYS):
        for user in (1, 2, 3):
            if user < 3 or day > 3:
                duration = 1_000 * (user + 1) if day < 2 else 90_000
                tables["rec_inter.csv"][1].append(
                    shown(user, 10 + user % 2, day * DAY + HOUR, user % 2, duration)
                )
                tables["src_inter.csv"][1].append(result(user, 10, day * DAY + 2 * HOUR, keyword=f"[{day}]"))
    del tables["rec_inter.csv"][1][:4]  # those of `files` are of another kind
    return tables


@pytest.fixture
def logs(tmp_path):
    return read_kuaisar(folder(tmp_path / "K", eight_days()))


write = partial(write_kuaisar, min_events=1)


def test_covariates_are_of_the_first_quarter_and_events_of_the_rest(logs, tmp_path):
    account = write(logs, tmp_path / "out")
    data = read_dataset(tmp_path / "out")
    first, last = logs.window
    until = data.covariates_until
    assert until == pytest.approx(first + (last - first) / 4, abs=1)
    assert all(getattr(data, f"{s}_events")["timestamp"].min() >= until for s in ("search", "recommendation"))
    assert len(data.recommendation_events) == (logs.deliveries["time"] >= until).sum()
    assert data.users["duration"].tolist() == pytest.approx([np.log(2), np.log(3), np.log(6) / 2], rel=1e-5)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["covariates_until"] == until
    assert account["covariates_until"] == until
    assert account["covariates_share"] == 0.25
    assert account["covariates_window"][1] < account["window"][0]


def test_who_was_delivered_nothing_before_gets_the_median_and_is_counted(logs, tmp_path):
    given = {c["name"]: c["users_given_the_median"] for c in write(logs, tmp_path / "out")["covariates"]}
    assert given["duration"] == 1
    assert given["search_activity"] == given["feed_activity"] == 0
    assert given["query_rate"] == 0  # none is a number of queries


def test_users_are_kept_by_the_events_that_are_used(logs, tmp_path):
    assert write(logs, tmp_path / "out", min_events=12)["users"]["kept"] == 2  # 6 days, and 2 events on each
    with pytest.raises(ValueError, match="no rows"):
        write(logs, tmp_path / "none", min_events=13)


def test_a_share_of_0_takes_both_of_the_whole_window_and_says_so(logs, tmp_path):
    account = write(logs, tmp_path / "out", covariates_share=0)
    data = read_dataset(tmp_path / "out")
    assert data.covariates_until is account["covariates_until"] is None
    assert len(data.recommendation_events) == len(logs.deliveries)
    assert account["covariates_window"] == account["window"]
    assert all(c["users_given_the_median"] == 0 for c in account["covariates"])


def test_the_command_says_when_covariates_were_measured(tmp_path):
    source = folder(tmp_path / "K", eight_days())

    def said(out, *words):
        found = CliRunner().invoke(
            app, ["import-kuaisar", str(source), str(tmp_path / out), "--min-events=1", *words]
        )
        assert found.exit_code == 0, found.output
        return found

    usual, same = said("usual"), said("same", "--covariates-share", "0")
    assert "covariates measured from 2023-05-23 00:00:00 to 2023-05-24 " in usual.stdout
    assert "covariate duration: 1 users have none" in usual.stdout
    assert "very window" not in usual.output
    assert (
        same.stderr.rpartition("\r")[2]
        .lstrip()
        .startswith("Note: covariates are measured in the very window of the events")
    )


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_a_share_that_leaves_no_events_is_refused(logs, tmp_path, share):
    with pytest.raises(KuaisarError, match=f"covariates_share is {share}: it must be from 0 to below 1"):
        write(logs, tmp_path / "out", covariates_share=share)


@pytest.mark.parametrize(("share", "surface"), [(0.999, "deliveries from"), (0.001, "deliveries before")])
def test_a_part_without_what_is_needed_is_one_clear_error(logs, tmp_path, share, surface):
    if share < 0.5:
        late = logs.deliveries["time"] > logs.deliveries["time"].min()
        logs = replace(logs, deliveries=logs.deliveries[late])
    with pytest.raises(KuaisarError, match=rf"K: no {surface} 2023-05-.* give another share, or 0"):
        write(logs, tmp_path / "out", covariates_share=share)
    assert not (tmp_path / "out").exists()


def test_without_searches_before_there_is_no_breadth_and_no_crash(logs, tmp_path):
    border = logs.split(0.25)[2]
    parts = {name: getattr(logs, name) for name in ("searches", "queries")}
    late = replace(logs, **{name: of[of["time"] >= border] for name, of in parts.items()})
    account = write(late, tmp_path / "out")
    left = {c["name"]: c["reason"] for c in account["covariates_left_out"]}
    assert left["query_breadth"] == "no user has a value"
    assert left["query_rate"] == "0 for all users"
