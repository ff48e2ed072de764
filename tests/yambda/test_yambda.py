"""Claims about the import of Yambda's listens: columns by name, every drop counted, nothing half-written."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import pyro_hmvcrl as hm
from pyro_hmvcrl.cli import app
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.data.periods import EARLIEST
from pyro_hmvcrl.data.tables import DatasetError
from pyro_hmvcrl.data.yambda.copy import write_yambda_copy
from pyro_hmvcrl.data.yambda.importing import import_yambda
from pyro_hmvcrl.data.yambda.listens import COLUMNS, DAY, read_yambda

FEW = {"days": 2, "covariates_days": 1, "categories": 2}  #: of the small files below


def listen(uid, item, time, organic=0, played=80, length=100):
    return [uid, item, time, organic, played, length]


def rows():
    """Two users, three days and a bit, tracks of two clusters (1, 2; 3, 4): what is in days 1 to 3 counts."""
    before, later, late = DAY - 5, 2 * DAY, 4 * DAY - 10
    return [
        listen(7, 1, before),  # before the days of the covariates
        listen(7, 1, DAY),
        listen(7, 1, DAY + 5, length=400),
        listen(7, 3, DAY + 10, organic=1),
        listen(7, 2, later),
        listen(7, 3, later + 5, played=50),
        listen(7, 3, late, organic=1),
        listen(7, 1, late, organic=1, played=20),
        listen(9, 4, DAY, organic=1),
        listen(9, 4, DAY + 5, organic=1),
        listen(9, 1, DAY + 10, organic=1),
        listen(9, 3, DAY + 15),
        listen(9, 4, later, played=130),
        listen(9, 1, later, organic=1, played=51),
        listen(9, 2, 4 * DAY, organic=1),  # in a day that is not whole
    ]


def embeddings():
    vectors = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
    return pd.DataFrame({"item_id": [1, 2, 3, 4], "embed": vectors, "normalized_embed": vectors})


def folder_of(path, listens=None, embedded=None):
    (path / "flat").mkdir(parents=True)
    frame = pd.DataFrame(rows(), columns=COLUMNS) if listens is None else listens
    frame.to_parquet(path / "flat" / "listens.parquet", index=False)
    (embeddings() if embedded is None else embedded).to_parquet(path / "embeddings.parquet", index=False)
    return path


def with_rows(*more):
    return pd.DataFrame([*rows(), *more], columns=COLUMNS)


def table(**changed):
    return pd.DataFrame(rows(), columns=COLUMNS).assign(**changed)


# --- What is read ----------------------------------------------------------------------------------------------------


def test_organic_listens_are_searches_and_recommended_ones_exposures(tmp_path):
    account = import_yambda(folder_of(tmp_path / "y"), tmp_path / "out", **FEW)
    data = read_dataset(tmp_path / "out")
    name = (
        read_yambda(tmp_path / "y", **FEW).listens.drop_duplicates("item_id").set_index("item_id")["category"]
    )
    assert name[1] == name[2] != name[3] == name[4]
    assert {*data.categories} == {"audio_01", "audio_02"}
    searched = data.search_events[["user_id", "category"]].to_numpy().tolist()
    assert searched == [[7, name[3]], [9, name[1]]]
    shown = data.recommendation_events[["user_id", "category", "engaged"]].to_numpy().tolist()
    assert shown == [[7, name[2], 1], [7, name[3], 0], [9, name[4], 1]]
    assert (
        data.recommendation_events["timestamp"].iloc[0] == EARLIEST + 2 * DAY * 1000 == data.covariates_until
    )
    assert "searches: 1 of 3 organic listens are of half a track or less, and give no event" in account.said
    assert account.tables["listens"] == {"read": 13, "dropped": {}, "kept": 13}


def test_covariates_are_what_they_say_of_the_days_before(tmp_path):
    import_yambda(folder_of(tmp_path / "y"), tmp_path / "out", **FEW)
    users = read_dataset(tmp_path / "out").users.set_index("user_id")
    expected = {
        "popularity": [np.log(2), 0],  # track 1 was recommended twice, 3 once
        "track_length": [np.log([100, 400]).mean(), np.log(100)],
        "new_share": [1 / 2, 1],
        "organic_rate": np.log1p([1, 3]),
        "organic_repeats": [0, 1 / 3],
    }
    for name, values in expected.items():
        assert users[name].to_numpy() == pytest.approx(np.array(values)), name
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert described["exposure_covariates"] == ["popularity", "track_length", "new_share"]
    # 7 has one organic listen, of which there is no pair, and so the value of 9: it does not vary.
    assert described["preference_covariates"] == ["organic_rate", "organic_repeats"]


def test_covariates_follow_neither_shares_played_nor_the_events(tmp_path):
    """Other shares played throughout, and other tracks in the days of the events, leave them as they were."""
    turned = table()
    turned["played_ratio_pct"] = 120 - turned["played_ratio_pct"].clip(upper=120)
    late = turned["timestamp"] >= 2 * DAY
    turned.loc[late, "item_id"] = 5 - turned.loc[late, "item_id"]
    found = []
    for name, frame in (("one", None), ("other", turned)):
        import_yambda(folder_of(tmp_path / name, frame), tmp_path / f"out-{name}", **FEW)
        found.append(read_dataset(tmp_path / f"out-{name}"))
    one, other = found
    pd.testing.assert_frame_equal(one.users, other.users)
    assert one.recommendation_events["engaged"].tolist() != other.recommendation_events["engaged"].tolist()


QUIRKS = {
    "the track is not in embeddings.parquet": listen(7, 99, DAY),
    "a value is missing": listen(7, None, DAY),
    "is_organic is neither 0 nor 1": listen(7, 1, DAY, organic=2),
    "length or share played is negative, or length 0": listen(7, 1, DAY, length=0),
}


@pytest.mark.parametrize("reason", QUIRKS)
def test_a_bad_row_is_dropped_and_counted(tmp_path, reason):
    read = read_yambda(folder_of(tmp_path / "y", with_rows(QUIRKS[reason])), **FEW)
    assert read.account.tables["listens"] == {"read": 14, "dropped": {reason: 1}, "kept": 13}
    plain = read_yambda(folder_of(tmp_path / "plain"), **FEW)
    assert read.listens.equals(plain.listens)


def test_users_without_events_are_left_out(tmp_path):
    frame = with_rows(listen(8, 1, DAY), listen(8, 3, DAY))
    account = import_yambda(folder_of(tmp_path / "y", frame), tmp_path / "out", **FEW)
    reason = "no event after the days that covariates describe"
    assert account.tables["uids"] == {"read": 3, "dropped": {reason: 1}}
    assert read_dataset(tmp_path / "out").users["user_id"].tolist() == [7, 9]


def test_the_first_users_alone_are_read(tmp_path):
    read = read_yambda(folder_of(tmp_path / "y"), users=1, **FEW)
    assert set(read.listens["uid"]) == {7}
    assert "listens: 7 of 15 are of the window and of the first 1 of 2 users" in read.account.said


def test_categories_are_the_same_whenever_they_are_made(tmp_path):
    """Of a number of clusters that is not that of the copy, so that the start matters."""
    write_yambda_copy(tmp_path / "y", users=20)
    one, other = (read_yambda(tmp_path / "y", categories=13).listens["category"] for _ in range(2))
    assert one.equals(other)


# --- Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listens", "embedded", "words", "message"),
    [
        (
            table().drop(columns="uid"),
            None,
            {},
            r"listens.parquet, column 'uid': missing \(there are item_id",
        ),
        (table(is_organic="yes"), None, {}, "column 'is_organic': of kind str, and no numbers"),
        (table()[:0], None, {}, "listens.parquet: no rows"),
        (
            table(item_id=99),
            None,
            {},
            "0 of the 1 tracks that were played are in it, too few for 2 categories",
        ),
        (None, embeddings().drop(columns="normalized_embed"), {}, "column 'normalized_embed': missing"),
        (
            None,
            embeddings().assign(normalized_embed=1.0),
            {},
            "'normalized_embed': no lists of as many numbers",
        ),
        (
            None,
            embeddings().assign(normalized_embed=[[1.0], [1.0], [1.0, 2.0], [1.0]]),
            {},
            "no lists of as many numbers",
        ),
        (None, embeddings().assign(normalized_embed=[[np.inf]] * 4), {}, "not all numbers are finite"),
        (None, None, {"categories": 9}, "too few for 9 categories"),
        (None, None, {"days": 30}, "31 days are asked for, and it has 3.0; ask for fewer days"),
        (None, None, {"days": 0}, "days is 0: it must be at least 1"),
        (None, None, {"categories": 1}, "categories is 1: it must be at least 2"),
    ],
)
def test_bad_files_and_choices_are_one_clear_error(tmp_path, listens, embedded, words, message):
    folder = folder_of(tmp_path / "y", listens, embedded)
    with pytest.raises(DatasetError, match=message):
        import_yambda(folder, tmp_path / "out", **(FEW | words))
    assert [path.name for path in tmp_path.iterdir()] == ["y"]


def test_files_that_are_not_there_once_are_one_clear_error(tmp_path):
    folder = folder_of(tmp_path / "y")
    with pytest.raises(DatasetError, match="exists already"):
        import_yambda(folder, folder)
    with pytest.raises(DatasetError, match="no such folder"):
        import_yambda(tmp_path / "nothing", tmp_path / "out")
    (folder / "listens.parquet").touch()
    with pytest.raises(DatasetError, match=r"listens.parquet is there 2 times; give one size"):
        import_yambda(folder, tmp_path / "out")
    (folder / "flat" / "listens.parquet").unlink()
    with pytest.raises(DatasetError, match=r"listens.parquet: could not be read"):
        import_yambda(folder, tmp_path / "out")
    (folder / "listens.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DatasetError, match="a pointer of Git LFS"):
        import_yambda(folder, tmp_path / "out")
    (folder / "embeddings.parquet").unlink()
    with pytest.raises(DatasetError, match=r"embeddings.parquet is not there"):
        import_yambda(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["y"]


# --- The copy, the command and the front door ------------------------------------------------------------------------


def test_a_copy_is_the_same_every_time_and_its_clusters_are_found(tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        write_yambda_copy(tmp_path / name, users=20, seed=seed)
    one, again, other = (
        [(tmp_path / name / file).read_bytes() for file in ("embeddings.parquet", "flat/50m/listens.parquet")]
        for name in ("one", "again", "other")
    )
    assert one == again != other
    assert "NOT Yambda" in (tmp_path / "one" / "GENERATED.txt").read_text()
    listens = read_yambda(tmp_path / "one", categories=8).listens
    played = pd.read_parquet(tmp_path / "one" / "flat" / "50m" / "listens.parquet")["item_id"].unique()
    tracks = listens.drop_duplicates("item_id")
    place = np.searchsorted(np.sort(played), tracks["item_id"]) * 8 // len(played)  # tracks stand by cluster
    found = pd.crosstab(place, tracks["category"])
    assert found.max(axis=1).sum() > 0.8 * len(tracks)
    assert found.shape == (8, 8)
    for users, message in ((20, "exists already"), (19, "at least 20")):
        with pytest.raises(ValueError, match=message):
            write_yambda_copy(tmp_path / ("one" if users == 20 else "few"), users=users)


def test_one_command_imports_and_says_what_was_left_out(tmp_path):
    def run(*words: object):
        return CliRunner().invoke(app, [*map(str, words)])

    assert run("simulate", tmp_path / "copy", "--format", "yambda", "--users", 20).exit_code == 0
    said = run("import-yambda", tmp_path / "copy", tmp_path / "out", "--categories", 8)
    assert said.exit_code == 0, said.output
    for words in ("not in embeddings.parquet", "no setting of the platform", "20 users, "):
        assert words in said.output
    assert hm.read_dataset(tmp_path / "out").periods.number == 14
    again = run("import-yambda", tmp_path / "copy", tmp_path / "out")
    assert (again.exit_code, again.stderr.count("\n")) == (1, 1)


def test_it_is_at_the_front_door(tmp_path):
    account = hm.import_yambda(folder_of(tmp_path / "y"), tmp_path / "out", **FEW)
    assert account.tables["users"]["kept"] == 2
