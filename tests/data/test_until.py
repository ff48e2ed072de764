"""Claims about `covariates_until`: what is before it describes users, and is no event of theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from folders import FORMATS, TABLES, Content, content, described, put, tree, with_values, write

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.data.periods import DAY, moment_of
from pyro_hmvcrl.data.tables import DatasetError

FIRST, LAST = 1_684_000_000_000, 1_686_000_000_000  # of the events' times
UNTIL = FIRST + (LAST - FIRST) // 4


def after(parts: Content, until: int = UNTIL) -> Content:
    """The dataset without the events before a moment, and without a word of it."""
    return {**parts, **{stem: parts[stem][parts[stem]["timestamp"] >= until] for stem in TABLES[1:]}}


@pytest.mark.parametrize("suffix", FORMATS)
def test_events_before_it_are_not_used_and_it_is_said_how_many(tmp_path: Path, suffix: str) -> None:
    parts = content(users=20, events=150)
    data = read_dataset(put(tmp_path / "set", described(parts, covariates_until=UNTIL), suffix))
    plain = read_dataset(put(tmp_path / "plain", after(parts), suffix))
    assert data.covariates_until == UNTIL
    assert plain.covariates_until is None
    for name, counts in plain.counts.items():
        assert (counts != data.counts[name]).nnz == 0, name
    for stem in TABLES[1:]:
        pd.testing.assert_frame_equal(getattr(data, stem), getattr(plain, stem))
    lost = sum(int((parts[stem]["timestamp"] < UNTIL).sum()) for stem in TABLES[1:])
    [remark] = [r for r in data.remarks if "covariates_until" in r]
    assert f"{lost:,} of 300 events are before it, and are left out" in remark
    assert data.subset([0, 1]).covariates_until == UNTIL


def test_an_event_at_the_moment_itself_is_used(tmp_path: Path) -> None:
    parts = content()
    times = np.sort(parts["search_events"]["timestamp"])
    data = read_dataset(put(tmp_path / "set", described(parts, covariates_until=int(times[7]))))
    assert len(data.search_events) == len(times) - 7


def test_an_event_before_it_may_be_of_anyone_and_anything(tmp_path: Path) -> None:
    """The users and categories of other times are not asked for; bad rows after it have the number of the file."""
    parts = content()
    early = {row: UNTIL - 5 for row in range(16)}
    parts = with_values(parts, "search_events", "timestamp", early)
    parts = with_values(parts, "search_events", "category", {3: "only then"})
    parts = described(with_values(parts, "search_events", "user_id", {4: "gone"}), covariates_until=UNTIL)
    assert "only then" not in read_dataset(put(tmp_path / "set", parts)).categories
    later = with_values(parts, "search_events", "timestamp", {17: LAST})
    stranger = with_values(later, "search_events", "user_id", {17: "stranger"})
    with pytest.raises(DatasetError, match="row 18: 'stranger' is not a user of"):
        read_dataset(put(tmp_path / "bad", stranger))


@pytest.mark.parametrize("events_after", [0, DAY // 2, 3 * DAY])
def test_the_window_of_the_periods_starts_there(tmp_path: Path, events_after: int) -> None:
    """Not where nothing happens for a day or more after it."""
    parts = content(users=20, events=150)
    until = UNTIL // DAY * DAY + DAY // 3
    for stem in TABLES[1:]:
        times = parts[stem]["timestamp"]
        parts[stem] = parts[stem][(times < until) | (times >= until + events_after)]
    data = read_dataset(put(tmp_path / "set", described(parts, covariates_until=until)), periods=3)
    first = min(int(getattr(data, stem)["timestamp"].min()) for stem in TABLES[1:])
    assert data.periods.start == (first if events_after > DAY else until)


@pytest.mark.parametrize("late", TABLES[1:])
def test_a_moment_after_all_events_of_a_surface_is_refused(tmp_path: Path, late: str) -> None:
    parts = content()
    parts[late] = parts[late].assign(timestamp=FIRST)
    parts = described(parts, covariates_until=UNTIL)
    says = rf"{late}.parquet, column 'timestamp': all .* \"covariates_until\" of dataset.json, which is {UNTIL} .* give"
    with pytest.raises(DatasetError, match=says):
        read_dataset(put(tmp_path / "set", parts))
    before = tree(tmp_path)
    with pytest.raises(DatasetError, match="covariates_until"):
        write(tmp_path / "new", parts)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("value", [1.5, "2023-05-22", True, [UNTIL], 2**62, float("nan")])
def test_a_value_that_is_no_moment_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(
        DatasetError, match=r'dataset.json: "covariates_until" is .* whole number, millisec.* mend'
    ):
        read_dataset(put(tmp_path / "set", described(content(), covariates_until=value)))


def test_a_moment_in_another_unit_is_doubted(tmp_path: Path) -> None:
    data = read_dataset(put(tmp_path / "set", described(content(), covariates_until=UNTIL // 1_000)))
    [remark] = [r for r in data.remarks if "covariates_until" in r]
    assert "looks like seconds" in remark
    assert len(data.search_events) == 60


def test_before_all_events_it_takes_nothing_and_needs_no_word(tmp_path: Path) -> None:
    data = read_dataset(put(tmp_path / "set", described(content(), covariates_until=FIRST - 5)))
    assert not [r for r in data.remarks if "covariates_until" in r]
    assert data.covariates_until == FIRST - 5


@pytest.mark.parametrize("until", [UNTIL, np.int64(UNTIL)])
def test_what_is_written_has_it_and_reads_alike(tmp_path: Path, until: int) -> None:
    parts = content(users=20, events=150)
    folder = write(tmp_path / "set", parts, covariates_until=until)
    again, data = (
        read_dataset(folder),
        read_dataset(put(tmp_path / "as", described(parts, covariates_until=UNTIL))),
    )
    assert json.loads((folder / "dataset.json").read_text())["covariates_until"] == UNTIL
    assert (again.covariates_until, again.periods) == (data.covariates_until, data.periods)
    assert all((counts != again.counts[name]).nnz == 0 for name, counts in data.counts.items())
    assert "covariates_until" not in json.loads(
        (write(tmp_path / "other", parts) / "dataset.json").read_text()
    )


def test_logs_that_a_run_reads_have_it_too(tmp_path: Path) -> None:
    fitted = read_dataset(put(tmp_path / "set", content()))
    new = put(tmp_path / "new", described(content(events=200), covariates_until=UNTIL))
    data = read_dataset(new, fitted.categories, fitted.periods)
    assert min(data.search_events["timestamp"]) >= UNTIL
    assert data.counts["search"].sum() == len(data.search_events)


def test_moments_in_words() -> None:
    assert moment_of(19_500 * DAY) == "2023-05-23"
    assert moment_of(19_500 * DAY + 3_600_000) == "2023-05-23T01:00:00Z"
    assert moment_of(19_500 * DAY + 5) == "2023-05-23T00:00:00.005Z"
    assert moment_of(-1) == "1969-12-31T23:59:59.999Z"
