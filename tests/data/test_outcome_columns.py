"""Claims about further outcomes of a dataset: columns that are named, and no others."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from folders import FORMATS, content, described, put, with_values, write
from test_frames import BLOCKS, tables

from pyro_hmvcrl.data import DatasetError, from_frames, import_files, read_dataset
from pyro_hmvcrl.data.frames import ProblemsError

LIKED = np.random.default_rng(1).integers(0, 2, 60)


def with_liked(liked=LIKED, **changes):
    """A small dataset with a column more, of which its description has the names in `outcomes`."""
    parts = content()
    shown = parts["recommendation_events"].assign(liked=liked)
    return described({**parts, "recommendation_events": shown}, **changes)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("periods", [1, 5])
def test_a_column_that_is_named_is_counted_as_engagement_is(tmp_path, suffix, periods):
    parts = with_liked(outcomes=["liked"])
    data = read_dataset(put(tmp_path / "data", parts, suffix), periods=periods)
    as_engaged = {**parts, "recommendation_events": parts["recommendation_events"].assign(engaged=LIKED)}
    other = read_dataset(put(tmp_path / "other", as_engaged, suffix), periods=periods)
    assert (data.outcomes["liked"] != other.counts["engagement"]).nnz == 0
    assert data.in_one_period(data.outcomes["liked"]).tolist() == other.engagement.tolist()
    some = data.subset([3, 1])
    assert (some.outcomes["liked"] != data.outcomes["liked"][[3, 1]]).nnz == 0


def test_a_column_that_nobody_names_is_carried_as_before(tmp_path):
    """Whatever is in it."""
    odd = np.where(LIKED, "much", "no")
    named, unnamed = (
        read_dataset(put(tmp_path / name, with_liked(liked, **changes)))
        for name, liked, changes in (("a", LIKED, {"outcomes": ["liked"]}), ("b", odd, {}))
    )
    assert not unnamed.outcomes
    assert unnamed.recommendation_events["liked"].tolist() == odd.tolist()
    for surface, counts in unnamed.counts.items():
        assert (counts != named.counts[surface]).nnz == 0


def test_what_is_written_is_read_again(tmp_path):
    folder = write(tmp_path / "data", with_liked(outcomes=["liked"]))
    assert json.loads((folder / "dataset.json").read_text())["outcomes"] == ["liked"]
    assert read_dataset(folder).outcomes["liked"].sum() == LIKED.sum()
    write(tmp_path / "none", with_liked())
    assert "outcomes" not in json.loads((tmp_path / "none" / "dataset.json").read_text())


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (with_liked(outcomes=["hidden"]), "recommendation_events.parquet, column 'hidden': missing; add it"),
        (with_liked(outcomes="liked"), '"outcomes" must be a list of names'),
        (with_liked(outcomes=["liked", "liked"]), "outcome 'liked' is listed 2 times"),
        (with_liked(outcomes=["engaged"]), "outcome 'engaged' means something else here"),
        (with_liked(outcomes=["alignment"]), "outcome 'alignment' means something else here"),
        (with_liked(outcomes=["platform_1"]), "outcome 'platform_1' means something else here"),
        (with_liked(outcomes=["next day"]), "outcome 'next day' is no name of letters"),
        (
            with_liked(0 * LIKED, outcomes=["liked"]),
            "column 'liked': the same in all rows, and tells nothing",
        ),
        (
            with_values(with_liked(outcomes=["liked"]), "recommendation_events", "liked", {4: 2}),
            "column 'liked', row 5: neither 0 nor 1",
        ),
        (
            with_values(with_liked(outcomes=["liked"]), "recommendation_events", "liked", {4: None}),
            "column 'liked', row 5: neither 0 nor 1",
        ),
    ],
)
def test_what_cannot_be_an_outcome_is_refused(tmp_path, parts, said):
    with pytest.raises(DatasetError) as caught:
        read_dataset(put(tmp_path / "data", parts))
    assert said in str(caught.value)


def test_own_tables_have_them_by_name(tmp_path):
    words = np.where(LIKED, "yes", "no")
    own = tables(recommendations=lambda frame: frame.assign(Thumb=words))
    logs = from_frames(**own, **BLOCKS, columns={"Thumb": "liked"}, outcomes=["liked"])
    assert logs.outcomes["liked"].sum() == LIKED.sum()
    assert "recommendations, liked: yes is 1, no 0" in logs.remarks
    assert not from_frames(**own, **BLOCKS).outcomes
    files = [tmp_path / f"{label}.csv" for label in own]
    for file, frame in zip(files, own.values(), strict=True):
        frame.to_csv(file, index=False)
    import_files(*files, tmp_path / "out", **BLOCKS, columns={"Thumb": "liked"}, outcomes=["liked"])
    assert read_dataset(tmp_path / "out").outcomes["liked"].sum() == LIKED.sum()


def test_gaps_of_an_outcome_are_not_guessed():
    """A row that says neither yes nor no is no reason to leave the event out of all else."""
    gaps = pd.Series(np.where(LIKED, "yes", "no")).mask(np.arange(60) == 7)
    own = tables(recommendations=lambda frame: frame.assign(liked=gaps))
    with pytest.raises(ProblemsError, match="column 'liked': 1 rows say neither yes nor no; an outcome is"):
        from_frames(**own, **BLOCKS, outcomes=["liked"])
    with pytest.raises(ProblemsError, match=r"column 'hidden': missing.*column 'survey': missing"):
        from_frames(**own, **BLOCKS, outcomes=["hidden", "survey"])


def test_an_outcome_is_not_taken_for_engagement():
    """Though it has a name that engagement usually goes by."""
    own = tables(
        recommendations=lambda frame: frame.rename(columns={"engaged": "clicked"}).assign(watched=LIKED)
    )
    logs = from_frames(**own, **BLOCKS, outcomes=["watched"])
    assert logs.outcomes["watched"].sum() == LIKED.sum()
    with pytest.raises(ProblemsError, match="column 'engaged': missing; add it"):
        from_frames(**own, **BLOCKS, outcomes=["clicked", "watched"])


def test_a_name_that_cannot_be_an_outcome_s_is_told_before_what_is_in_the_column():
    with pytest.raises(ProblemsError, match=r"^outcome 'timestamp' means something else here; rename it$"):
        from_frames(**tables(), **BLOCKS, outcomes=["timestamp"])
