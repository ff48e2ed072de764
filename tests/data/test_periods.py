"""Claims about the cut of a window into periods, and about times that are odd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from folders import FORMATS, TABLES, Content, content, put, with_values

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.data.periods import DAY, MOST_PERIODS, Periods
from pyro_hmvcrl.data.tables import DatasetError

NOON = 19_500 * DAY + DAY // 2
START = 1_684_713_600_000  # 22 May 2023


@pytest.mark.parametrize("days", range(4, 15))
def test_a_window_of_4_to_14_days_is_cut_into_its_days(days: int) -> None:
    cut = Periods.cut(NOON, NOON + (days - 1) * DAY)
    assert (cut.start, cut.length, cut.number) == (NOON - DAY // 2, DAY, days)
    midnight = cut.start + DAY
    assert cut.at(np.array([NOON, midnight - 1, midnight])).tolist() == [0, 0, 1]


@pytest.mark.parametrize("days", [15, 20, 28, 29, 100, 365, 10_000])
def test_a_longer_window_is_cut_into_spans_of_whole_days(days: int) -> None:
    cut = Periods.cut(NOON, NOON + (days - 1) * DAY)
    assert cut.length % DAY == 0
    assert 7 < cut.number <= 14
    assert cut.start % DAY == 0
    assert cut.start + cut.number * cut.length > NOON + (days - 1) * DAY
    assert cut.at(np.array([NOON + (days - 1) * DAY])) == cut.number - 1


@pytest.mark.parametrize("length", [1, 3, 4, 3_600_000, 2 * DAY])
def test_a_shorter_window_is_cut_into_four_parts(length: int) -> None:
    cut = Periods.cut(NOON, NOON + length - 1 if length > 1 else NOON + 1)
    assert (cut.start, cut.number) == (NOON, 4)
    assert cut.length == max(-(-length // 4), 1)


def test_equal_moments_are_one_period_whatever_is_asked() -> None:
    assert Periods.cut(5, 5) == Periods.cut(5, 5, 8) == Periods(5, 1, 1)


@pytest.mark.parametrize("number", [1, 3, 7, 50])
def test_a_number_that_is_asked_for_holds(number: int) -> None:
    cut = Periods.cut(NOON, NOON + 20 * DAY, number)
    assert cut.number == number
    periods = cut.at(np.linspace(NOON, NOON + 20 * DAY, 1_000).astype(np.int64))
    assert np.unique(periods).tolist() == list(range(number))
    for bad in (0, -1, MOST_PERIODS + 1):
        with pytest.raises(ValueError, match="must be from 1 to"):
            Periods.cut(NOON, NOON + DAY, bad)


@pytest.mark.parametrize("later", [0, 1, 3, 40])
def test_periods_like_those_of_a_run_begin_and_last_alike(later: int) -> None:
    fitted = Periods.cut(NOON, NOON + 9 * DAY)
    new = fitted.like(NOON + later * DAY, NOON + (later + 4) * DAY)
    assert (new.length, new.number) == (fitted.length, 5)
    assert new.start == fitted.start + later * DAY
    assert fitted.like(NOON - 3 * DAY, NOON).start == fitted.start - 3 * DAY
    assert fitted.like(0, NOON).number == MOST_PERIODS


# --- In a dataset ------------------------------------------------------------------------------------------------


def with_times(parts: Content, times: object, *stems: str) -> Content:
    return {**parts, **{s: parts[s].assign(timestamp=times) for s in stems or TABLES[1:]}}


def said(folder: Path, parts: Content, suffix: str = "parquet", **options: int) -> str:
    found = read_dataset(put(folder, parts, suffix), **options)
    everything = sum(int(found.counts[name].sum()) for name in ("search", "exposure"))
    assert everything == sum(len(parts[s]) for s in TABLES[1:])  # nothing is lost
    return "\n".join(found.remarks)


@pytest.mark.parametrize("suffix", FORMATS)
def test_equal_timestamps_are_one_period_and_that_is_said(suffix: str, tmp_path: Path) -> None:
    parts = with_times(content(), START)
    assert "all timestamps are equal: there is one period" in said(tmp_path / "set", parts, suffix)
    assert read_dataset(tmp_path / "set", periods=5).periods.number == 1


@pytest.mark.parametrize(
    ("times", "by", "likely"),
    [(1, 1_000, "seconds"), (1_000, 1, "microseconds"), (1_000_000, 1, "nanoseconds")],
)
@pytest.mark.parametrize("stems", [TABLES[1:], TABLES[1:2], TABLES[2:]])
def test_another_unit_is_named(
    times: int, by: int, likely: str, stems: tuple[str, ...], tmp_path: Path
) -> None:
    parts = content()
    for stem in stems:
        parts = with_times(parts, parts[stem]["timestamp"] // by * times, stem)
    found = said(tmp_path / "set", parts)
    assert found.count(f"that looks like {likely}") == len(stems)
    assert all(f"{stem}.parquet, column 'timestamp': 60 of 60 events" in found for stem in stems)


@pytest.mark.parametrize("time", [0, -5, 1, 86_400_000, 4_102_444_800_000, 2**61])
def test_a_few_odd_times_are_said(time: int, tmp_path: Path) -> None:
    parts = with_values(content(), "search_events", "timestamp", {7: time, 9: time})
    found = said(tmp_path / "set", parts)
    assert "search_events.parquet, column 'timestamp': 2 of 60 events are before 2010 or after" in found
    assert f"the first at {time} (" in found
    assert "there are no search events in period" in found  # of a window that is mostly empty


def test_times_of_today_are_not_asked_about(tmp_path: Path) -> None:
    assert "timestamp" not in said(tmp_path / "set", content())


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.array([2**63 + 5] * 60, np.uint64), "not an integer, milliseconds"),
        (np.array([2**63 - 1] * 60), "not an integer, milliseconds"),
        (np.full(60, 2.0**60), "a float that may stand for several integers"),
        (np.full(60, START + 0.0, np.float32), "a float that may stand for several integers"),
        (["99999999999999999999"] * 60, "not an integer, milliseconds"),
    ],
    ids=["unsigned", "int64's end", "large float", "float32", "text"],
)
def test_times_that_no_integer_holds_are_refused(values: object, what: str, tmp_path: Path) -> None:
    parts = with_times(content(), values, "search_events")
    with pytest.raises(DatasetError, match=rf"search_events\.parquet, column 'timestamp', row 1: {what}"):
        read_dataset(put(tmp_path / "set", parts))


def test_more_periods_than_days_are_cut_and_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = with_times(content(), START + rng.integers(0, 2 * DAY, 60))
    found = said(tmp_path / "set", parts, periods=10)
    assert "10 were asked for: 10 periods of" in found
    assert "hours" in found
    assert "asked for" not in "".join(read_dataset(tmp_path / "set", periods=2).remarks)
    assert "asked for" not in "".join(read_dataset(tmp_path / "set").remarks)


def test_periods_without_events_are_said_by_surface(tmp_path: Path) -> None:
    days = np.arange(60) % 6
    parts = with_times(content(), START + DAY * np.where(days == 2, 3, days), "search_events")
    parts = with_times(parts, START + DAY * days, "recommendation_events")
    found = said(tmp_path / "set", parts)
    assert "there are no search events in period 3 of 6" in found
    assert "no recommendation events in" not in found


def test_users_who_are_there_in_some_periods_only_are_counted_and_said(tmp_path: Path) -> None:
    parts = content(users=10)
    for stem in TABLES[1:]:
        user = np.arange(60) % 10
        times = START + DAY * np.where(user < 4, np.arange(60) % 3, np.arange(60) // 10)
        ids = parts["users"]["user_id"].to_numpy()[user]
        parts[stem] = parts[stem].assign(user_id=ids, timestamp=times)
    found = said(tmp_path / "set", parts)
    assert "40% of the users have events in one half of the 6 periods only" in found


# --- Searches that the platform suggested ------------------------------------------------------------------------


@pytest.mark.parametrize("form", [int, bool, float])
@pytest.mark.parametrize("suffix", FORMATS)
def test_suggested_searches_are_counted_apart(form: type, suffix: str, tmp_path: Path) -> None:
    parts = content()
    marks = np.random.default_rng(1).integers(0, 2, 60)
    parts["search_events"] = parts["search_events"].assign(suggested=marks.astype(form))
    found = read_dataset(put(tmp_path / "set", parts, suffix))
    row = {user: n for n, user in enumerate(parts["users"]["user_id"])}
    column = {category: c for c, category in enumerate(found.categories)}
    expected = np.zeros((2, found.n_users, found.periods.number * len(found.categories)))
    for event, mark in zip(parts["search_events"].itertuples(), marks, strict=True):
        period = (event.timestamp - found.periods.start) // found.periods.length
        expected[mark, row[event.user_id], period * len(column) + column[event.category]] += 1
    np.testing.assert_array_equal(found.counts["search"].toarray(), expected[0])
    np.testing.assert_array_equal(found.counts["suggested"].toarray(), expected[1])
    assert found.search.sum() == (marks == 0).sum()
    assert found.search_events["suggested"].tolist() == marks.tolist()


def test_where_none_is_suggested_there_is_one_kind_of_search(tmp_path: Path) -> None:
    parts = content()
    parts["search_events"] = parts["search_events"].assign(suggested=0)
    found = read_dataset(put(tmp_path / "set", parts))
    assert "suggested" not in found.counts
    assert found.search.sum() == 60


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({3: 2}, "row 4: neither 0 nor 1"),
        ({5: None}, "row 6: neither 0 nor 1"),
        ({0: 0.5}, "row 1: neither 0 nor 1"),
        ({n: 1 for n in range(60)}, "1 throughout"),
    ],
    ids=["2", "a gap", "a half", "all"],
)
def test_marks_that_are_none_are_refused(values: dict[int, object], says: str, tmp_path: Path) -> None:
    parts = content()
    parts["search_events"] = parts["search_events"].assign(suggested=0)
    parts = with_values(parts, "search_events", "suggested", values)
    with pytest.raises(DatasetError, match=rf"search_events\.parquet, column 'suggested'.*{says}"):
        read_dataset(put(tmp_path / "set", parts))


def test_periods_are_said_in_words() -> None:
    assert str(Periods(0, DAY, 10)) == "10 periods of 1 day"
    assert str(Periods(0, DAY // 2, 4)) == "4 periods of 12 hours"
    assert str(Periods(0, 3 * DAY, 1)) == "one period"
    assert pd.Series(Periods(0, 1, 1).to_dict()).tolist() == [0, 1, 1]
