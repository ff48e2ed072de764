"""Claims about the import of FINN.no's slates: arrays by name, every drop counted, nothing half-written."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import pyro_hmvcrl as hm
from pyro_hmvcrl.cli import app
from pyro_hmvcrl.data.finn.copy import write_finn_copy
from pyro_hmvcrl.data.finn.importing import MEASURED, import_finn
from pyro_hmvcrl.data.finn.slates import read_finn
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.data.tables import DatasetError

GROUPS = ["PAD", "noClick", "<UNK>", "BAP,antiques,Oslo", "BAP,antiques,Troms", "MOTOR,,Oslo", "JOB, Troms"]
#: Of items 0, 1, 2, 3, ...: the special ones, and two of each group.
ITEM_GROUP = [0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6]
ANTIQUES_OSLO, ANTIQUES_TROMS, MOTOR, JOB = (3, 4), (5, 6), (7, 8), (9, 10)
SEARCH, REC = 1, 2


def step(kind, *items, click=1):
    """What one step has: its kind, its slate, the item that was clicked (1: none)."""
    return kind, [1, *items], click


def sequences():
    """Four users, of six steps each; the first two are those of the covariates."""
    later = [step(SEARCH, 3, 7, click=7), step(REC, 5, 9, click=9), step(REC, 7, 4), step(SEARCH, 7, 8)]
    return {
        11: [step(SEARCH, 3, 4, click=3), step(REC, 3, 5, 7), *later],
        12: [step(SEARCH, 5, 6), step(REC, 9, 10, click=10), *later],
        13: [step(SEARCH, 5, 7, click=7), step(SEARCH, 9, 9), *later],
        14: [step(REC, 7, 8, click=8), step(REC, 3, 8), *later],
    }


def arrays_of(users):
    shape = len(users), 8, 5
    arrays = {"userId": np.array([*users]), "slate": np.zeros(shape, np.int32)}
    arrays |= {name: np.zeros(shape[:2], np.int32) for name in ("click", "interaction_type")}
    for row, steps in enumerate(users.values()):
        for at, (kind, slate, click) in enumerate(steps):
            arrays["slate"][row, at, : len(slate)] = slate
            arrays["click"][row, at] = click
            arrays["interaction_type"][row, at] = kind
    return arrays


def names():
    kinds = {"0": "<UNK>", "1": "search", "2": "rec"}
    return {"category": {str(n): name for n, name in enumerate(GROUPS)}, "interaction_type": kinds}


def folder_of(path, users=None, data="data.npz", **changed):
    """FINN.no's files; arrays of data.npz may be changed by name."""
    path.mkdir(parents=True)
    arrays = arrays_of(sequences() if users is None else users) | changed
    np.savez(path / data, **{name: array for name, array in arrays.items() if array is not None})
    np.savez(path / "itemattr.npz", category=np.array(ITEM_GROUP, float))
    (path / "ind2val.json").write_text(json.dumps(names()))
    return path


def with_step(at, new, user=11):
    users = sequences()
    users[user][at] = new
    return users


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finn") / "copy"
    return folder, write_finn_copy(folder, users=120, seed=1)


# --- What is read ----------------------------------------------------------------------------------------------------


def test_clicked_results_are_searches_and_recommended_items_are_exposures(tmp_path):
    account = import_finn(folder_of(tmp_path / "finn"), tmp_path / "out")
    data = read_dataset(tmp_path / "out")
    assert data.categories == ["BAP,antiques", "JOB", "MOTOR"]
    assert data.search.tolist() == [[0, 0, 1]] * 4
    assert data.exposure.tolist() == [[2, 1, 1]] * 4
    assert data.engagement.tolist() == [[0, 1, 0]] * 4
    assert data.periods.number == 1
    assert account.tables["steps"] == {"read": 24, "dropped": {}, "kept": 24, "before_the_events": 8}
    assert "searches: 4 of 8 have no click, and give no event" in account.said
    assert (
        "steps: 24 of 32 places for them are filled, the others are past the end of their user's sequence"
        in (account.said)
    )


@pytest.mark.parametrize(
    ("level", "categories"),
    [
        ("main", ["BAP", "JOB", "MOTOR"]),
        ("kind", ["BAP,antiques", "JOB", "MOTOR"]),
        ("place", ["BAP,antiques,Oslo", "BAP,antiques,Troms", "JOB,Troms", "MOTOR,Oslo"]),
    ],
)
def test_categories_are_as_fine_as_asked(tmp_path, level, categories):
    shown = read_finn(folder_of(tmp_path / "finn"), level=level).shown
    assert sorted(shown["category"].unique()) == categories
    assert set(shown["place"]) == {"Oslo", "Troms"}


def test_what_comes_of_a_copy_is_what_its_arrays_say(copy, tmp_path):
    """Counted once more, item by item."""
    folder, _ = copy
    import_finn(folder, tmp_path / "out")
    arrays, group = np.load(folder / "data.npz"), np.load(folder / "itemattr.npz")["category"]
    kinds = json.loads((folder / "ind2val.json").read_text())["category"]
    name_of = {int(n): ",".join(filter(None, name.split(",")[:2])) for n, name in kinds.items()}
    searched, shown = [], []
    arrays = {name: arrays[name] for name in arrays}
    for row, user in enumerate(arrays["userId"]):
        good = []
        for at in range(arrays["click"].shape[1]):
            items = [int(i) for i in arrays["slate"][row, at] if i > 1]
            kind, click = arrays["interaction_type"][row, at], int(arrays["click"][row, at])
            if user and items and kind and click:
                good.append((kind, items, click))
        for kind, items, click in good[int(np.ceil(0.33 * len(good))) :]:
            first = True
            for item in items:
                clicked, first = item == click and first, first and item != click
                if item == 2 or group[item] not in name_of:
                    continue
                where = (int(user), name_of[int(group[item])])
                if kind == REC:
                    shown.append((*where, int(clicked)))
                elif clicked:
                    searched.append(where)
    data = read_dataset(tmp_path / "out")
    columns = ["user_id", "category", "engaged"]
    found = data.search_events[columns[:2]], data.recommendation_events[columns]
    for mine, theirs in zip((searched, shown), found, strict=True):
        assert sorted(mine) == sorted(theirs.itertuples(index=False, name=None))
    assert len(shown) > 1_000


def test_every_oddity_of_a_copy_is_counted(copy):
    folder, planted = copy
    tables = read_finn(folder).account.tables
    assert all(planted.values())
    assert tables["sequences"]["dropped"] == {
        "userId is 0, those who are not told apart": planted["users_not_told_apart"]
    }
    assert tables["steps"]["dropped"] == {
        "the slate is empty, it has no item": planted["empty_slate"],
        "click is 0, it is not known what the user did": planted["click_0"],
        "neither of search nor a recommendation": planted["type_0"],
    }
    assert tables["steps"]["clicks_outside_of_the_slate"] == planted["click_outside"]
    assert tables["items"]["dropped"] == {
        "the category is not in ind2val.json": planted["group_unknown"],
        "an item that is not known (<UNK>)": planted["item_unknown"],
    }
    for of in (tables["steps"], tables["items"]):
        assert of["read"] == of["kept"] + sum(of["dropped"].values())


def test_a_click_outside_of_its_slate_is_none_and_the_items_stay(tmp_path):
    users = with_step(3, step(REC, 5, 9, click=3))
    users[11][2] = step(SEARCH, 3, 7, click=9)
    read = read_finn(folder_of(tmp_path / "finn", users))
    mine = read.shown[read.shown["step"].isin([2, 3])]
    assert mine["item"].tolist() == [3, 7, 5, 9]
    assert not mine["engaged"].any()
    assert not read.steps["clicked"][2:4].any()
    assert read.account.tables["steps"]["clicks_outside_of_the_slate"] == 2


def test_an_item_past_the_items_file_is_left_out(tmp_path):
    read = read_finn(folder_of(tmp_path / "finn", with_step(3, step(REC, 99, 9))))
    assert read.account.tables["items"]["dropped"] == {"the item is not in itemattr.npz": 1}


def test_users_without_events_are_left_out(tmp_path):
    users = sequences() | {15: [step(SEARCH, 3, click=3), step(SEARCH, 3), step(SEARCH, 7)]}
    account = import_finn(folder_of(tmp_path / "finn", users), tmp_path / "out")
    reason = "no event after the steps that covariates describe"
    assert account.tables["sequences"] == {"read": 5, "dropped": {reason: 1}}
    assert read_dataset(tmp_path / "out").users["user_id"].tolist() == [11, 12, 13, 14]


def test_the_first_users_alone_are_read(tmp_path):
    """What stands after them may be anything."""
    arrays = arrays_of(sequences())
    arrays["click"][3, 0] = -5
    folder = folder_of(tmp_path / "finn", **arrays)
    read = read_finn(folder, users=3)
    assert read.user_id.tolist() == [11, 12, 13]
    assert "sequences: the first 3 of 4 users are read" in read.account.said
    with pytest.raises(DatasetError, match=r"array 'click', row 4, 1: -5 is no whole number"):
        read_finn(folder)


def test_a_file_of_32_bits_goes_by_its_own_name(tmp_path):
    one, other = folder_of(tmp_path / "one"), folder_of(tmp_path / "other" / "deep", data="data32.npz")
    assert read_finn(one).shown.equals(read_finn(other.parent).shown)


def test_events_without_times_are_not_called_copies(copy, tmp_path):
    import_finn(copy[0], tmp_path / "out")
    assert "copies" not in " ".join(read_dataset(tmp_path / "out").remarks)


# --- Covariates ------------------------------------------------------------------------------------------------------


def measured(folder, out, **words):
    import_finn(folder, out, **words)
    return read_dataset(out).users.set_index("user_id")


def test_covariates_are_what_they_say(tmp_path):
    users = measured(folder_of(tmp_path / "finn"), tmp_path / "out")
    # Items of first steps: 3 stands there 3 times, 4 once, 5 three times, 6 once, 7 three, 8 twice, 9 three, 10 once.
    popularity = [np.log([3, 3, 3]).mean(), np.log([3, 1]).mean(), np.nan, np.log([3, 2, 3, 2]).mean()]
    popularity[2] = np.median([popularity[0], popularity[1], popularity[3]])
    expected = {
        "popularity": popularity,
        "variety": [2 / 3, 0, 1 / 2, 1 / 2],  # 13 was recommended nothing, and has the median
        "spread": [2 / 3, 0, 0, 0],
        "search_share": [1 / 2, 1 / 2, 1, 0],
        "search_breadth": [0, 0, 5 / 6, 0],
        "place_Oslo": [1, 0, 0, 0],
        "place_missing": [0, 0, 0, 1],  # 14 searched nothing
    }
    for name, values in expected.items():
        assert users[name].to_numpy() == pytest.approx(np.array(values, float)), name


def test_covariates_follow_neither_clicks_nor_the_events(copy, tmp_path):
    """Turned clicks, and later steps of other items, leave them as they were."""
    folder, _ = copy
    arrays = dict(np.load(folder / "data.npz"))
    late = np.arange(20) >= np.ceil(0.33 * (arrays["click"] > 0).sum(1))[:, None] + 3
    first_item = arrays["slate"][:, :, 1]
    turned = np.where((arrays["click"] == 1) & (first_item > 1), first_item, np.minimum(arrays["click"], 1))
    slate = np.where(late[:, :, None] & (arrays["slate"] > 3), 3, arrays["slate"])
    other = tmp_path / "other"
    other.mkdir()
    np.savez(
        other / "data.npz", **(arrays | {"click": np.where(arrays["click"] == 0, 0, turned), "slate": slate})
    )
    for name in ("itemattr.npz", "ind2val.json"):
        (other / name).write_bytes((folder / name).read_bytes())
    before, after = read_finn(folder), read_finn(other)

    def values(read):
        early = read.steps["order"] < np.ceil(0.33 * read.steps["number"])
        of = read.shown[early[read.shown["step"]].to_numpy()]
        return pd.DataFrame({c.name: c.of(read.steps[early], of) for c in MEASURED})

    assert before.steps["clicked"].mean() != after.steps["clicked"].mean()
    pd.testing.assert_frame_equal(values(before), values(after))


def test_own_covariates_stand_beside_or_in_place_of_these(tmp_path):
    folder = folder_of(tmp_path / "finn")
    own = pd.DataFrame({"userId": ["13", "12", "11", "99"], "autoplay": [1.0, 0.0, 3.0, 5.0]})
    own.to_csv(tmp_path / "own.csv", index=False)
    words = {"covariates": tmp_path / "own.csv", "exposure": ["autoplay"], "preference": ["search_share"]}
    users = measured(folder, tmp_path / "out", **words)
    assert users["autoplay"].tolist() == [3, 0, 1, 1]  # 14 has none, and is given the median
    described = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert described["exposure_covariates"] == ["autoplay"]
    account = json.loads((tmp_path / "out" / "import.json").read_text())
    assert [*account["covariates"]] == ["search_share"]
    assert not any("no setting of the platform" in sentence for sentence in account["said"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("who,a\n11,1\n", r"own.csv, column 'userId': missing; add it \(there are who, a\)"),
        ("userId,a\n11,1\n11,2\n", r"column 'userId', line 3: user '11' has a row already"),
        ("userId,place\n11,1\n", "column 'place': also the name of a covariate that is measured"),
        ("userId,a\n1,1\n2,3\n", "none of the users that were read"),
        ("userId,b\n11,1\n12,3\n", "column 'a': missing; there are"),
    ],
)
def test_own_covariates_that_do_not_fit_are_refused(tmp_path, content, message):
    (tmp_path / "own.csv").write_text(content)
    with pytest.raises(DatasetError, match=message):
        import_finn(
            folder_of(tmp_path / "finn"), tmp_path / "out", covariates=tmp_path / "own.csv", exposure=["a"]
        )
    assert not (tmp_path / "out").exists()


# --- Errors ----------------------------------------------------------------------------------------------------------

NEGATIVE = np.full((4, 8), -1)
PICKLED = np.array([[{}] * 8] * 4, object)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 10\n"


def changed(name, change):
    def spoil(folder):
        content = json.loads((folder / "ind2val.json").read_text())
        change(content[name])
        (folder / "ind2val.json").write_text(json.dumps(content))

    return spoil


BAD = {
    "a missing file": (lambda f: (f / "itemattr.npz").unlink(), r"itemattr.npz is not there"),
    "a file twice": (
        lambda f: (f / "more").mkdir() or (f / "more" / "data.npz").touch(),
        "data.npz is there 2 times; leave one",
    ),
    "a pointer": (
        lambda f: (f / "data.npz").write_text(POINTER),
        "a pointer of Git LFS, in place of the file",
    ),
    "a pointer for names": (lambda f: (f / "ind2val.json").write_text(POINTER), "a pointer of Git LFS"),
    "a cut file": (
        lambda f: (f / "data.npz").write_bytes((f / "data.npz").read_bytes()[:300]),
        "data.npz: could not be read: it holds no .npz, or one that is cut off",
    ),
    "no search": (
        changed("interaction_type", lambda kinds: kinds.update({"1": "sok"})),
        "'interaction_type': no name begins with 'search'",
    ),
    "an unknown kind": (
        changed("interaction_type", lambda kinds: kinds.pop("0")),
        r"array 'interaction_type', row 1, 7: 0 is not in ind2val.json",
    ),
    "other special items": (
        changed("category", lambda groups: groups.update({"2": "BAP"})),
        "the first three items are to be PAD, noClick, <UNK>, and are PAD, noClick, BAP",
    ),
    "no names": (changed("category", lambda groups: groups.clear()), "ind2val.json: no object 'category'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_clear_error(tmp_path, case):
    spoil, message = BAD[case]
    folder = folder_of(tmp_path / "finn")
    spoil(folder)
    with pytest.raises(DatasetError, match=message):
        import_finn(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["finn"]


@pytest.mark.parametrize(
    ("array", "value", "message"),
    [
        ("click", None, "no array 'click'; there are interaction_type, slate, userId"),
        ("click", NEGATIVE, r"array 'click', row 1, 1: -1 is no whole number from 0 on"),
        ("click", np.full((4, 8), 0.5), "0.5 is no whole number"),
        ("click", PICKLED, "array 'click': objects of Python"),
        ("click", np.full((4, 8), "a"), "array 'click': of kind <U1, and no numbers"),
        ("click", np.zeros((4, 7), int), r"array 'click': of shape \(4, 7\), where slate is of \(4, 8, 5\)"),
        ("click", np.zeros(4, int), r"of shape \(4,\), and not of 2 dimensions"),
        ("click", np.zeros((4, 8), int), "no step is left that can be used"),
        ("slate", np.asfortranarray(np.ones((4, 8, 5))), "saved by columns"),
        ("slate", np.ones((0, 8, 5), int), r"of shape \(0, 8, 5\), there is nothing in it"),
        ("userId", np.array([11, 12, 11, 14]), "array 'userId', row 3: 11 is a user that has a row already"),
        ("interaction_type", np.full((4, 8), 2), "searches: no row is left"),
    ],
)
def test_bad_arrays_are_one_clear_error(tmp_path, array, value, message):
    folder = folder_of(tmp_path / "finn", **{array: value})
    with pytest.raises(DatasetError, match=message):
        import_finn(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["finn"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"level": "county"}, "level is 'county': choose of main, kind, place"),
        ({"users": 0}, "users is 0"),
        ({"covariates_share": 1}, "covariates_share is 1: it must be between 0 and 1"),
        ({"exposure": ["autoplay"]}, "column 'autoplay': missing"),
    ],
)
def test_bad_choices_are_one_clear_error(tmp_path, words, message):
    folder = folder_of(tmp_path / "finn")
    with pytest.raises(DatasetError, match=message):
        import_finn(folder, tmp_path / "out", **words)
    with pytest.raises(DatasetError, match="exists already"):
        import_finn(folder, folder)
    with pytest.raises(DatasetError, match="no such folder"):
        import_finn(tmp_path / "nothing", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["finn"]


@pytest.mark.parametrize("name", ["data.npz", "itemattr.npz", "ind2val.json"])
def test_damage_anywhere_is_one_clear_error_or_none(tmp_path, name):
    folder, rng = folder_of(tmp_path / "finn"), np.random.default_rng(0)
    whole = (folder / name).read_bytes()
    refused = []
    for turn in range(150):
        spoilt = bytearray(whole)
        if turn % 3 == 0:
            del spoilt[rng.integers(len(whole)) :]
        else:
            spoilt[rng.integers(len(whole))] = rng.integers(256)
        (folder / name).write_bytes(spoilt)
        try:
            read_finn(folder)
        except DatasetError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all(name in message for message in refused)


def test_a_header_that_lies_is_one_clear_error(tmp_path):
    folder = folder_of(tmp_path / "finn")
    path = folder / "data.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for shape, message in (
        (b"(-4,8, 5)", r"array 'slate': of shape \(-4, 8, 5\)"),
        (b"(4, 8,99)", "array 'slate': cut off, it is to have 12,672 bytes"),
        (b"(4, 8, 5]", "could not be read"),
    ):
        assert b"(4, 8, 5)" in members["slate.npy"]
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content.replace(b"(4, 8, 5)", shape))
        with pytest.raises(DatasetError, match=message):
            read_finn(folder)


# --- The copy, the command and the front door ------------------------------------------------------------------------


def test_a_copy_is_the_same_every_time_and_says_what_it_is(copy, tmp_path):
    folder, planted = copy
    assert write_finn_copy(tmp_path / "again", users=120, seed=1) == planted
    write_finn_copy(tmp_path / "other", users=120, seed=2)
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "other" / "data.npz").read_bytes() != (folder / "data.npz").read_bytes()
    assert "NOT FINN.no" in (folder / "GENERATED.txt").read_text()
    arrays = np.load(folder / "data.npz")
    assert {name: arrays[name].ndim for name in arrays} == {
        "userId": 1,
        "slate": 3,
        "click": 2,
        "click_idx": 2,
        "slate_lengths": 2,
        "interaction_type": 2,
    }
    plain = tmp_path / "plain"
    assert write_finn_copy(plain, users=30, quirks=False) == {}
    assert [of["dropped"] for of in read_finn(plain).account.tables.values()] == [{}, {}, {}]
    for users, message in ((30, "exists already"), (19, "at least 20")):
        with pytest.raises(ValueError, match=message):
            write_finn_copy(plain if users == 30 else tmp_path / "few", users=users)


def test_one_command_imports_and_says_what_was_left_out(tmp_path):
    def run(*words: object):
        return CliRunner().invoke(app, [*map(str, words)])

    assert run("simulate", tmp_path / "copy", "--format", "finn", "--users", 40).exit_code == 0
    said = run("import-finn", tmp_path / "copy", tmp_path / "out", "--preference", "place,search_share")
    assert said.exit_code == 0, said.output
    for words in ("the slate is empty", "no setting of the platform", "39 users, "):
        assert words in said.output
    account = json.loads((tmp_path / "out" / "import.json").read_text())
    assert (account["source"], account["level"], account["covariates_share"]) == ("copy", "kind", 0.33)
    assert "search_breadth" not in account["covariates"]
    again = run("import-finn", tmp_path / "copy", tmp_path / "out")
    assert (again.exit_code, again.stderr.count("\n")) == (1, 1)


def test_it_is_at_the_front_door(tmp_path):
    hm.import_finn(folder_of(tmp_path / "finn"), tmp_path / "out")
    assert Path(tmp_path / "out" / "dataset.json").is_file()
