"""Claims about the import of KuaiSAR: columns by name, every quirk counted, nothing half-written."""

from __future__ import annotations

import json
import zipfile
from functools import partial

import numpy as np
import pytest
from kuaisar_files import (
    CARS,
    DAY,
    HOUR,
    MIDNIGHT,
    REC,
    SRC,
    USER,
    files,
    folder,
    item,
    lost,
    result,
    shown,
    with_rows,
    zipped,
)

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.data.tables import DatasetError
from pyro_hmvcrl.kuaisar import reading
from pyro_hmvcrl.kuaisar.covariates import Covariate
from pyro_hmvcrl.kuaisar.files import KuaisarError
from pyro_hmvcrl.kuaisar.folder import write_kuaisar
from pyro_hmvcrl.kuaisar.reading import read_kuaisar

# Of a day's window no part has much in it.
write = partial(write_kuaisar, covariates_share=0)


# --- What is read --------------------------------------------------------------------------------------------


def test_deliveries_become_recommendation_events_and_clicked_results_search_events(read, tmp_path):
    account = write(read(files()), tmp_path / "out", min_events=1)
    data = read_dataset(tmp_path / "out")
    assert data.categories == ["Cars", "Food"]
    assert data.exposure.tolist() == [[1, 2], [1, 0]]
    assert data.engagement.tolist() == [[0, 1], [1, 0]]
    assert data.search.tolist() == [[0, 1], [1, 1]]
    assert data.users["user_id"].tolist() == [1, 2]
    assert data.recommendation_events["timestamp"].min() == MIDNIGHT
    assert account == json.loads((tmp_path / "out" / "import.json").read_text())
    assert account["files"]["rec_inter.csv"] == {"read": 4, "kept": 4, "dropped": {}}
    assert (account["search_events"], account["recommendation_events"]) == (3, 4)
    assert account["window"] == ["2023-05-23 00:00:00", "2023-05-24 00:00:00"]


def test_columns_go_by_name_with_aliases_and_extras(read, tmp_path):
    tables = {}
    for name, (header, rows) in files().items():
        columns = header.replace("rec_active_level", "reco_active_level").split(",")
        backwards = [[*row[::-1], "x"] for row in rows]
        tables[name] = (",".join([*columns[::-1], "music_id"]), backwards)
    other = read_kuaisar(folder(tmp_path / "other", tables))
    plain = read(files())
    for part in ("users", "deliveries", "searches", "queries"):
        assert getattr(other, part).equals(getattr(plain, part)), part


def test_a_zip_is_read_like_its_folder(read, tmp_path):
    plain = read(files())
    archive = zipped(tmp_path / "KuaiSAR.zip", "KuaiSAR_final/", zipfile.ZIP_DEFLATED)
    compressed = read_kuaisar(archive)
    for part in ("users", "deliveries", "searches", "queries"):
        assert getattr(compressed, part).equals(getattr(plain, part)), part


def test_feedback_enters_as_engagement_and_outcomes_and_nowhere_else(read, tmp_path):
    """How long was watched, and what was done then, moves no covariate."""
    tables = files()
    for row, said in zip(
        tables["rec_inter.csv"][1], ([1, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 1]), strict=True
    ):
        row[3], row[5:8], row[8:10] = 10 * row[3] + 1, said, [1, 1]  # forward, like, follow
    changed, plain = read_kuaisar(folder(tmp_path / "changed", tables)), read(files())
    feedback = ["like", "follow", "forward"]
    assert changed.deliveries.drop(columns=feedback).equals(plain.deliveries.drop(columns=feedback))
    account = write(changed, tmp_path / "out", min_events=1)
    write(plain, tmp_path / "plain", min_events=1)
    data, without = read_dataset(tmp_path / "out"), read_dataset(tmp_path / "plain")
    assert {name: of.sum() for name, of in data.outcomes.items()} == {"follow": 3, "forward": 2}
    assert account["outcomes"] == {"follow": 0.75, "forward": 0.5}
    assert account["outcomes_left_out"] == ["like"]  # as nobody did
    assert data.users.equals(without.users)
    assert not {"follow", "forward", "like"} & {*data.exposure_covariates, *data.preference_covariates}
    assert not without.outcomes


def test_files_without_feedback_are_read_and_a_gap_in_it_is_counted(read, tmp_path):
    tables = files()
    header, rows = tables["rec_inter.csv"]
    rows[0][6], rows[1][6] = "", 1
    found = read(tables)
    assert found.deliveries["like"].sum() == 1
    assert (
        found.account.to_dict()["rec_inter.csv"]["without_a_value"]["like is missing, which is taken for 0"]
        == 1
    )
    rows[0][6] = 3
    with pytest.raises(KuaisarError, match=r"column 'like', row 1: 3\.0 is neither 0 nor 1"):
        read_kuaisar(folder(tmp_path / "three", tables))
    columns = [n for n, name in enumerate(header.split(",")) if name not in ("like", "follow", "forward")]
    less = [",".join(header.split(",")[n] for n in columns), [[row[n] for n in columns] for row in rows]]
    without = read_kuaisar(folder(tmp_path / "without", {**tables, "rec_inter.csv": less}))
    assert without.deliveries.equals(found.deliveries.drop(columns=["like", "follow", "forward"]))


def test_categories_of_every_level_and_what_they_are_called(read):
    tables = files()
    rows = tables["item_features.csv"][1]
    rows += [item(13, (6, "宠物", "")), item(14, (7, "", "")), item(15, (8, "食物", "Food"))]
    tables["rec_inter.csv"][1].extend(shown(1, n) for n in (13, 14, 15))
    assert set(read(tables).categories) == {"Food", "Cars", "宠物", "7", "Food (8)"}


def test_a_deeper_level(read):
    assert set(read(files(), level="second").categories) == {"美食1", "汽车1"}


def test_rare_categories_become_one(read, monkeypatch):
    monkeypatch.setattr(reading, "MOST_CATEGORIES", 2)
    tables = files()
    tables["item_features.csv"][1].extend(item(20 + n, (20 + n, "", f"rare {n}")) for n in range(3))
    tables["rec_inter.csv"][1].extend(shown(2, 20 + n) for n in range(3))
    data = read(tables)
    assert data.categories == ["Food", "other"]
    assert np.bincount(data.deliveries["category"]).tolist() == [2, 5]  # Cars twice, and the rare ones


# --- Quirks, each counted ------------------------------------------------------------------------------------

QUIRKS = {
    "the user is not in user_features.csv": ("rec_inter.csv", shown(99, 10)),
    "the item is not in item_features.csv": ("rec_inter.csv", shown(1, 99)),
    "duration_ms is negative": ("rec_inter.csv", shown(1, 10, HOUR, duration=-1)),
    "the row stands there already": ("rec_inter.csv", shown(1, 10, 0, 1)),
    "a value is missing": ("rec_inter.csv", shown(1, "", HOUR)),
    "the user is not in user_features.csv ": ("src_inter.csv", result(99, 10)),
    "the item is not in item_features.csv ": ("src_inter.csv", result(1, 99)),
    "keyword is not a list": ("src_inter.csv", result(1, 11, keyword="[1, 2")),
    "not clicked": ("src_inter.csv", result(1, 11, click=0)),
    "of a type that has no category": ("src_inter.csv", result(1, 11, kind="LIVE")),
    "the result stands there already": ("src_inter.csv", result(1, 10)),
    "the user has a row already": ("user_features.csv", [1, 0, 2, 3, 1]),
    "the item has a row already": ("item_features.csv", item(10, CARS)),
    "the user is not in user_features.csv  ": ("social_network.csv", [77, "[1]"]),
}


@pytest.mark.parametrize("reason", QUIRKS)
def test_a_bad_row_is_dropped_and_counted(read, tmp_path, reason):
    name, row = QUIRKS[reason]
    plain, data = read_kuaisar(folder(tmp_path / "plain", files())), read(with_rows(name, row))
    assert data.account.dropped == {name: {reason.strip(): 1}}
    assert lost(data, name) == {reason.strip(): 1}
    assert data.account.to_dict()[name]["kept"] == plain.account.to_dict()[name]["kept"]
    for part in ("users", "searches"):
        assert getattr(data, part).equals(getattr(plain, part)), part
    assert len(data.deliveries) == len(plain.deliveries)


@pytest.mark.parametrize("padding", [(0, "空", "empty"), ("", "", ""), (0, "", "")])
def test_padding_is_no_category(read, padding):
    tables = with_rows("item_features.csv", item(13, padding))
    tables["rec_inter.csv"][1].append(shown(1, 13))
    data = read(tables)
    assert lost(data, "rec_inter.csv") == {"the item has no category at this level": 1}
    assert set(data.categories) == {"Food", "Cars"}


def test_a_result_counts_as_clicked_if_any_of_its_rows_says_so(read):
    """Items repeat within a search with conflicting clicks."""
    conflicting = [result(1, 11, click=click, keyword="[5]") for click in (0, 1, 0, 2)]
    data = read(with_rows("src_inter.csv", *conflicting))
    assert len(data.searches) == 3 + 1
    assert len(data.queries) == 3 + 1


def test_a_session_that_recurs_is_another_query(read):
    """Ids can recur: the query is known by user, time, words and source too."""
    again = [result(1, 10, HOUR), result(1, 10, keyword="[8]"), result(1, 10, session=8)]
    data = read(with_rows("src_inter.csv", *again))
    assert len(data.searches) == len(data.queries) == 3 + 3


def test_a_delivery_with_conflicting_clicks_was_clicked(read):
    data = read(with_rows("rec_inter.csv", shown(1, 11, 0, 1)))
    assert lost(data, "rec_inter.csv") == {"the row stands there already": 1}
    assert data.deliveries.groupby("user")["engaged"].sum().tolist() == [2, 1]


def test_suggested_queries_are_kept_and_marked(read, tmp_path):
    data = read(with_rows("src_inter.csv", result(1, 11, source="HOT_LIST")))
    assert data.searches["suggested"].tolist() == [0, 0, 0, 1]
    assert data.queries["user_input"].sum() == 3
    write(data, tmp_path / "out", min_events=1)
    dataset = read_dataset(tmp_path / "out")
    assert dataset.counts["suggested"].sum() == 1
    assert dataset.search.sum() == 3  # the users' own


def test_captions_may_be_large_and_hold_anything(read):
    tables = files()
    tables["item_features.csv"][1][0][1] = '["' + 'a ""b"", c\n' * 20_000 + '"]'
    assert len(read(tables).deliveries) == 4


# --- Covariates ----------------------------------------------------------------------------------------------


def test_covariates_are_what_they_say(read, tmp_path):
    tables = with_rows("rec_inter.csv", shown(1, 10, DAY), shown(2, 11, DAY + HOUR, duration=0))
    tables["rec_inter.csv"][1].extend(shown(2, 10, DAY + hour * HOUR) for hour in (6, 20))
    tables["item_features.csv"][1][1][5] = "LongCamera"
    tables["src_inter.csv"][1].append(result(2, 11, DAY, keyword="[3]"))
    tables["src_inter.csv"][1].append(result(2, 11, HOUR, keyword="[9]", source="HOT_LIST"))
    write(read(tables), tmp_path / "out", min_events=1)
    users = read_dataset(tmp_path / "out").users
    expected = {
        # deliveries of the items: 10 four times, 11 three times, 12 once
        "popularity": [np.log([4, 3, 1, 4]).mean(), np.log([3, 3, 4, 4]).mean()],
        "duration": [np.log(8), np.log([2, 8, 8]).mean()],  # a duration of 0 is none
        "age": [np.log([4, 4, 11, 5]).mean(), np.log(5)],
        "unusual_uploads": [1 / 4, 2 / 4],
        "batch_size": [np.log(4 / 3), 0],
        "cadence": [np.log(3 / 2), np.log(4)],  # days are Beijing's
        "night_share": [3 / 4, 2 / 4],
        "feed_activity": [1, 2],
        "query_rate": np.log1p(np.array([1, 3]) / (1 + 20 / 24)),  # the user's own queries
        "query_breadth": [0, np.log(2 / 3)],
        "search_activity": [3, 6],
        "follows": [np.log(4), 0],
        "feat1_is_1": [0, 1],
    }
    for name, values in expected.items():
        assert users[name].to_numpy() == pytest.approx(np.array(values), rel=1e-5), name
    assert set(users) == {"user_id", *expected}  # onehot_feat2 is 2 for both, and says nothing


def test_every_covariate_has_a_definition_and_a_reason(read, tmp_path):
    account = write(read(files()), tmp_path / "out", min_events=1)
    assert {c["block"] for c in account["covariates"]} == {"exposure", "preference"}
    assert all(len(c["definition"]) > 5 and len(c["why"]) > 5 for c in account["covariates"])


def test_covariates_can_be_replaced(read, tmp_path):
    own = Covariate(
        "deliveries", "number of deliveries", "so I say", lambda data: np.bincount(data.deliveries["user"])
    )
    write(read(files()), tmp_path / "out", exposure=[own], min_events=1)
    data = read_dataset(tmp_path / "out")
    assert data.exposure_covariates == ["deliveries"]
    assert data.users["deliveries"].tolist() == [3, 1]


def test_a_user_without_a_value_gets_the_median_and_is_counted(read, tmp_path):
    tables = with_rows("user_features.csv", [3, 0, 2, 3, 1])
    tables["src_inter.csv"][1].append(result(3, 10))
    account = write(read(tables), tmp_path / "out", min_events=1)
    described = {c["name"]: c for c in account["covariates"]}
    assert described["age"]["users_given_the_median"] == 1
    age = read_dataset(tmp_path / "out").users["age"]
    assert age[2] == pytest.approx(age[:2].mean())


# --- Choices -------------------------------------------------------------------------------------------------


def test_a_window_is_in_beijing_time(read):
    data = read(files())
    first = data.between(until="2023-05-23 01:00")
    assert (len(first.deliveries), len(first.searches)) == (2, 2)
    later = data.between("2023-05-23 01:00")
    assert (len(later.deliveries), len(later.searches)) == (2, 1)
    with pytest.raises(KuaisarError, match=r"no searches .* logs run from 2023-05-23 00:00:00"):
        data.between("2023-05-24")
    with pytest.raises(KuaisarError, match="write it like"):
        data.between("yesterday")


def test_users_with_few_events_are_left_out(read, tmp_path):
    account = write(read(files()), tmp_path / "out", min_events=4)
    assert account["users"] == {"read": 2, "kept": 1, "least_events": 4}


# --- Errors --------------------------------------------------------------------------------------------------


def changed(name, old, new):
    def change(path):
        file = path / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new, 1))

    return change


BAD = {
    "a missing file": (lambda path: (path / "src_inter.csv").unlink(), "src_inter.csv is not there"),
    "a file twice": (
        lambda path: (path / "more").mkdir() or (path / "more/rec_inter.csv").write_text(""),
        "rec_inter.csv is there 2 times",
    ),
    "an empty file": (lambda path: (path / "rec_inter.csv").write_text(""), "no column 'user_id'"),
    "a missing column": (
        changed("rec_inter.csv", "click,", "clack,"),
        "rec_inter.csv: no column 'click'; its first",
    ),
    "a cut row": (
        changed("rec_inter.csv", ".0,0,0,0,0,0,0,2023-05-23 00:00:00", ".0,0"),
        "row 2: 6 values for 12",
    ),
    "a word for a number": (
        changed("rec_inter.csv", "1,11,8000", "1,11,long"),
        "column 'duration_ms', row 2: 'long'",
    ),
    "a click of 2": (
        changed("rec_inter.csv", ",1,2023", ",2,2023"),
        "column 'click', row 1: 2.0 is neither 0 nor 1",
    ),
    "no users": (lambda path: (path / "user_features.csv").write_text(USER + "\n"), "no users"),
    "no search": (
        lambda path: (path / "src_inter.csv").write_text(SRC + "\n"),
        "src_inter.csv: no clicked result",
    ),
    "no feed": (
        lambda path: (path / "rec_inter.csv").write_text(REC + "\n"),
        "rec_inter.csv: no row is left",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_clear_error(tmp_path, case):
    spoil, message = BAD[case]
    path = folder(tmp_path / "KuaiSAR_final", files())
    spoil(path)
    with pytest.raises(KuaisarError, match=message):
        read_kuaisar(path)


@pytest.mark.parametrize("left", [0.3, 0.9])
def test_a_truncated_zip_is_one_clear_error(tmp_path, left):
    whole = zipped(tmp_path / "K.zip").read_bytes()
    (tmp_path / "K.zip").write_bytes(whole[: int(left * len(whole))])
    with pytest.raises(KuaisarError, match=r"K.zip: not a zip, or cut off; download it again"):
        read_kuaisar(tmp_path / "K.zip")


def test_a_damaged_zip_is_one_clear_error(tmp_path):
    whole = zipped(tmp_path / "K.zip").read_bytes()
    (tmp_path / "K.zip").write_bytes(whole.replace(b"1,11,8000", b"1,11,8888", 1))
    with pytest.raises(
        KuaisarError, match=r"rec_inter.csv: damaged \(Bad CRC-32.*download the archive again"
    ):
        read_kuaisar(tmp_path / "K.zip")


def test_no_such_source(tmp_path):
    with pytest.raises(KuaisarError, match="no such file or folder"):
        read_kuaisar(tmp_path / "nowhere")
    with pytest.raises(KuaisarError, match="level is 'fifth': choose of first"):
        read_kuaisar(folder(tmp_path / "here", files()), level="fifth")


def test_nothing_is_half_written(read, tmp_path):
    data = read(files())
    with pytest.raises(DatasetError):
        write(data, tmp_path / "out", min_events=1_000)
    bad = Covariate("bad", "not a number", "for the test", lambda data: np.array([np.inf, np.inf]) / 0 * 0)
    with pytest.raises((DatasetError, FloatingPointError, RuntimeWarning)):
        write(data, tmp_path / "out", exposure=[bad], preference=[bad], min_events=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["KuaiSAR_final"]
