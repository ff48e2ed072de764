"""Claims about the dataset folder: what is read, counted and refused.  No torch needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from folders import (
    FORMATS,
    TABLES,
    Content,
    content,
    described,
    put,
    tree,
    with_values,
    without,
    write,
)

from pyro_hmvcrl.data import counts as counts_module
from pyro_hmvcrl.data import folder as folder_module
from pyro_hmvcrl.data import tables
from pyro_hmvcrl.data.dataset import Dataset, Standardisation
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.data.tables import DatasetError


@dataclass(frozen=True)
class Bad:
    """A bad input, and what the one error about it must name; rows from 0."""

    name: str
    change: Callable[[Content], Content]
    file: str
    column: str | None
    row: int | None
    says: str


def bad_values(stem: str, column: str, values: dict[int, Any], says: str) -> Bad:
    def change(parts: Content) -> Content:
        return with_values(parts, stem, column, values)

    return Bad(f"{stem}.{column}={values}", change, stem, column, min(values), says)


def bad_description(says: str, **changes: Any) -> Bad:
    return Bad(f"description {changes}", lambda p: described(p, **changes), "dataset.json", None, None, says)


REQUIRED = [("users", c) for c in ("user_id", "age", "wish")]
REQUIRED += [(stem, c) for stem in TABLES[1:] for c in ("user_id", "timestamp", "category")]
REQUIRED += [("recommendation_events", "engaged")]

BAD = [
    *[
        Bad(f"no {stem}.{column}", lambda p, s=stem, c=column: without(p, s, c), stem, column, None, "add it")
        for stem, column in REQUIRED
    ],
    *[
        Bad(f"empty {stem}", lambda p, s=stem: {**p, s: p[s].iloc[:0]}, stem, None, None, "no rows")
        for stem in TABLES
    ],
    bad_values("users", "user_id", {3: None, 5: None}, "missing"),
    Bad(
        "duplicate users: the second row counts",
        lambda p: with_values(p, "users", "user_id", {2: "twin", 5: "twin", 6: "twin"}),
        "users",
        "user_id",
        5,
        "'twin'",
    ),
    bad_values("users", "age", {2: np.nan, 5: np.inf}, "nan"),
    bad_values("users", "age", {5: np.nan, 3: np.inf}, "inf"),
    bad_values("users", "wish", {1: -np.inf}, "not a finite number"),
    bad_values("users", "wish", {r: 2.5 for r in range(8)}, "does not vary"),
    bad_values("search_events", "user_id", {7: "stranger", 9: "another"}, "'stranger' is not a user of"),
    bad_values("recommendation_events", "user_id", {59: "stranger"}, "'stranger' is not a user of"),
    bad_values("search_events", "user_id", {11: None}, "missing"),
    bad_values("search_events", "category", {4: None, 6: None}, "missing"),
    bad_values("recommendation_events", "category", {8: ""}, "missing"),
    bad_values("recommendation_events", "engaged", {0: 2, 3: -1}, "neither 0 nor 1"),
    bad_values("recommendation_events", "engaged", {10: 0.5}, "neither 0 nor 1"),
    bad_values("recommendation_events", "engaged", {20: None}, "neither 0 nor 1"),
    bad_values("search_events", "timestamp", {6: 1.5}, "found 1.5"),
    bad_values("search_events", "timestamp", {9: None}, "not an integer"),
    bad_values("search_events", "timestamp", {8: 1e30}, "not an integer"),
    Bad(
        "covariate whose variance overflows",
        lambda p: with_values(p, "users", "age", {2: 1e300}),
        "users",
        "age",
        None,
        "variance overflows",
    ),
    Bad(
        "timestamp as text",
        lambda p: {**p, "search_events": p["search_events"].assign(timestamp="2023-05-22 14:30")},
        "search_events",
        "timestamp",
        0,
        "2023-05-22 14:30",
    ),
    Bad(
        "timestamp as a date",
        lambda p: {**p, "search_events": p["search_events"].assign(timestamp=pd.Timestamp("2023-05-22"))},
        "search_events",
        "timestamp",
        0,
        "milliseconds",
    ),
    Bad(
        "covariate as text",
        lambda p: with_values({**p, "users": p["users"].astype({"age": str})}, "users", "age", {4: "old"}),
        "users",
        "age",
        4,
        "'old'",
    ),
    Bad(
        "bad rows in two columns: the first one counts",
        lambda p: with_values(with_values(p, "users", "age", {3: np.nan}), "users", "feed", {6: np.nan}),
        "users",
        "age",
        3,
        "nan",
    ),
    Bad(
        "a bad row counts before a whole column",
        lambda p: with_values({**p, "users": p["users"].assign(feed=1.0)}, "users", "wish", {4: np.nan}),
        "users",
        "wish",
        4,
        "nan",
    ),
    bad_description("'age' is listed 2 times", exposure_covariates=["age", "feed", "age"]),
    bad_description("'age' is listed 2 times", preference_covariates=["wish", "age"]),
    bad_description("user_id", preference_covariates=["user_id"]),
    bad_description("exposure_covariates", exposure_covariates=[1]),
    bad_description('"name"', name=7),
]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "written"])
@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_bad_input_is_one_error_that_names_file_column_and_row(bad: Bad, suffix: str, tmp_path: Path) -> None:
    parts = bad.change(content())
    if suffix != "written":
        put(tmp_path / "set", parts, suffix)
    before = tree(tmp_path)
    with pytest.raises(DatasetError) as caught:
        write(tmp_path / "set", parts) if suffix == "written" else read_dataset(tmp_path / "set")
    where, extension = str(caught.value), "csv" if suffix == "csv" else "parquet"
    assert "\n" not in where
    assert where.startswith(str(tmp_path / "set" / bad.file) + ("" if "." in bad.file else f".{extension}"))
    if bad.column is not None:
        assert f"column {bad.column!r}" in where
    if bad.row is not None and "vary" not in bad.says:  # a whole column has no first row
        assert (f"line {bad.row + 2}:" if suffix == "csv" else f"row {bad.row + 1}:") in where
    assert bad.says in where
    assert tree(tmp_path) == before


@pytest.mark.parametrize("stem", TABLES)
def test_each_table_is_there_exactly_once(stem: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "set", content())
    content()[stem].to_csv(folder / f"{stem}.csv", index=False)
    with pytest.raises(DatasetError, match=rf"both {stem}.parquet and {stem}.csv"):
        read_dataset(folder)
    (folder / f"{stem}.parquet").unlink()
    assert read_dataset(folder).n_users == 8  # formats may differ between tables
    (folder / f"{stem}.csv").unlink()
    with pytest.raises(DatasetError, match=rf"neither {stem}.parquet nor {stem}.csv"):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1 column 2"),
        ("[]", "name"),
        ('{"name": "x", "exposure_covariates": []}', "preference_covariates"),
        ('{"name": "x", "exposure_covariates": "age", "preference_covariates": []}', "exposure_covariates"),
        (
            '{"name": "x", "exposure_covariates": [], "preference_covariates": [], "categories": ["1", 1]}',
            "'1' is listed 2 times",
        ),
        (None, "no such file"),
    ],
)
def test_malformed_description(text: str | None, says: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "set", content())
    (folder / "dataset.json").unlink()
    if text is not None:
        (folder / "dataset.json").write_text(text)
    with pytest.raises(DatasetError, match=r"dataset\.json: ") as caught:
        read_dataset(folder)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("users.parquet", b"not parquet"),
        ("users.csv", b""),
        ("users.csv", b"user_id,feed,age,wish\n\xff\xfe,1,2,3\n"),
        ("users.csv", b"user_id,feed,age,wish\nu1,1,2,3,4\nu2,1,2,3,4\n"),  # one column more than the header
    ],
)
def test_a_file_that_cannot_be_parsed_is_named(name: str, broken: bytes, tmp_path: Path) -> None:
    folder = put(tmp_path / "set", content(), name.split(".")[1])
    (folder / name).write_bytes(broken)
    with pytest.raises(DatasetError, match=rf"{name}: could not be read"):
        read_dataset(folder)


def test_csv_line_numbers_count_blank_lines_and_line_breaks_in_quotes(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", content(), "csv")
    header, *rows = (folder / "users.csv").read_text().splitlines()
    rows[0] = rows[0].replace(",x,", ',"two\nlines",').replace(",y,", ',"two\nlines",')
    rows[3] = rows[3].rsplit(",", 1)[0] + ","  # no `wish`
    text = "\n".join([header, rows[0], "", *rows[1:]]) + "\n\n"
    (folder / "users.csv").write_text(text)
    line = text.splitlines().index(rows[3]) + 1
    with pytest.raises(DatasetError, match=rf"column 'wish', line {line}: "):
        read_dataset(folder)
    assert line == 3 + 2 + 2


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("ids", [str, int])
def test_round_trip_carries_everything(suffix: str, ids: type, tmp_path: Path) -> None:
    parts = content()
    if ids is int:
        for stem in TABLES:
            parts[stem] = parts[stem].assign(user_id=parts[stem]["user_id"].str[1:].astype("int64"))
    found = read_dataset(
        write(tmp_path / "deep" / "set", parts, format=suffix, extra_files={"note.txt": b"hi"})
    )
    for stem in TABLES:
        pd.testing.assert_frame_equal(getattr(found, stem), parts[stem])
    assert {"name": found.name, **parts["description"]} == parts["description"]
    assert found.exposure_covariates == ["feed", "age"]
    assert found.categories == ["None", "food", "shoes"]
    np.testing.assert_array_equal(found.covariates("platform"), parts["users"][["feed", "age"]])
    np.testing.assert_array_equal(found.covariates("preference"), parts["users"][["wish"]])
    assert (tmp_path / "deep" / "set" / "note.txt").read_bytes() == b"hi"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["set"]


def test_writing_stops_halfway_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def fail(frame: pd.DataFrame, path: Path, **_: Any) -> None:
        written.append(path)
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "set", content())
    assert written[0].parent.parent == tmp_path  # beside the target, not the target
    assert written[0].parent.name != "set"
    assert tree(tmp_path) == {}


def test_a_folder_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []

    def move(source: Path, target: Path) -> None:
        moved.append(sorted(p.name for p in source.iterdir()))
        assert not target.exists()
        source.rename(target)

    monkeypatch.setattr("pyro_hmvcrl.data.files.os.replace", move)
    folder = write(tmp_path / "set", content(), extra_files={"note.txt": b"hi"})
    assert moved == [sorted(["dataset.json", "note.txt", *(f"{stem}.parquet" for stem in TABLES)])]
    assert read_dataset(folder).n_users == 8


def test_an_existing_folder_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(DatasetError, match="set: exists already"):
        write(tmp_path / "set", content())
    with pytest.raises(DatasetError, match="'xlsx' is neither"):
        write(tmp_path / "new", content(), format="xlsx")
    assert tree(tmp_path) == {"set": None}


def naive_counts(parts: Content, dataset: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    search, exposure, engagement = np.zeros((3, dataset.n_users, len(dataset.categories)))
    row = {user: n for n, user in enumerate(parts["users"]["user_id"])}
    column = {category: c for c, category in enumerate(dataset.categories)}
    for event in parts["search_events"].itertuples():
        search[row[event.user_id], column[str(event.category)]] += 1
    for event in parts["recommendation_events"].itertuples():
        exposure[row[event.user_id], column[str(event.category)]] += 1
        engagement[row[event.user_id], column[str(event.category)]] += event.engaged
    return search, exposure, engagement


@pytest.mark.parametrize("suffix", FORMATS)
def test_counts_are_those_of_a_loop(suffix: str, tmp_path: Path) -> None:
    parts = content(users=30, events=500, seed=3)
    found = read_dataset(put(tmp_path / "set", parts, suffix))
    for counts, expected in zip(
        (found.search, found.exposure, found.engagement), naive_counts(parts, found), strict=True
    ):
        assert counts.dtype == np.float32
        np.testing.assert_array_equal(counts, expected)
    assert found.search[-1].sum() == found.exposure[0].sum() == 0  # users that lack a surface


@pytest.mark.parametrize("suffix", FORMATS)
def test_rows_come_in_any_order(suffix: str, tmp_path: Path) -> None:
    parts = content()
    mixed = {stem: parts[stem].sample(frac=1, random_state=7) for stem in TABLES}
    a = read_dataset(put(tmp_path / "a", parts, suffix))
    b = read_dataset(put(tmp_path / "b", {**parts, **mixed}, suffix))
    assert list(b.user_id) == list(mixed["users"]["user_id"])
    row = pd.Index(b.user_id).get_indexer(a.user_id)
    assert (row != np.arange(8)).any()
    assert a.categories == b.categories
    for name in ("search", "exposure", "engagement"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name)[row])
    np.testing.assert_array_equal(a.covariates("platform"), b.covariates("platform")[row])


@pytest.mark.parametrize("users_as", [*FORMATS, "string parquet", "float parquet"])
@pytest.mark.parametrize("events_as", [*FORMATS, "string parquet", "categorical parquet"])
def test_ids_and_categories_agree_across_types(users_as: str, events_as: str, tmp_path: Path) -> None:
    """Integers in one file and text in another are the same users; categories sort as numbers."""
    types = {"string": "str", "float": "float64", "categorical": "category"}
    parts = content()
    for stem in TABLES:
        parts[stem]["user_id"] = parts[stem]["user_id"].str[1:].astype("int64")
    for stem in TABLES[1:]:
        categories = parts[stem]["category"].map({"shoes": 10, "food": 9, "None": -1})
        parts[stem] = parts[stem].assign(category=categories)
    expected = naive_counts(parts, read_dataset(put(tmp_path / "plain", parts)))

    folder = put(tmp_path / "set", parts)
    for stem, form in zip(TABLES, (users_as, events_as, "parquet"), strict=True):
        columns = [c for c in ("user_id", "category") if c in parts[stem]]
        frame = parts[stem].astype(dict.fromkeys(columns, types.get(form.split()[0], "int64")))
        (folder / f"{stem}.parquet").unlink()
        if form == "csv":
            frame.to_csv(folder / f"{stem}.csv", index=False)
        else:
            frame.to_parquet(folder / f"{stem}.parquet")
    found = read_dataset(folder)
    assert found.categories == ["-1", "9", "10"]
    np.testing.assert_array_equal(found.search, expected[0])
    np.testing.assert_array_equal(found.engagement, expected[2])
    assert found.search_events["user_id"].isin(found.user_id).all()
    assert set(found.search_events["category"]) <= set(found.categories)


def test_an_integer_and_its_text_are_one_user(tmp_path: Path) -> None:
    twins = with_values(content(), "users", "user_id", {2: 7, 5: "7"})
    with pytest.raises(DatasetError, match=r"column 'user_id', row 6: this user has a row already"):
        write(tmp_path / "set", twins)


def test_csv_ids_keep_their_zeros(tmp_path: Path) -> None:
    parts = content()
    rename = {f"u{n}": text for n, text in enumerate(["7", "007", "07", "1", "2", "3", "4", "5"])}
    for stem in TABLES:
        parts[stem]["user_id"] = parts[stem]["user_id"].replace(rename)
    found = read_dataset(put(tmp_path / "set", parts, "csv"))
    assert set(rename.values()) == set(found.user_id)
    np.testing.assert_array_equal(found.search, naive_counts(parts, found)[0])


def test_a_parquet_index_is_a_column_and_a_folder_name_is_not(tmp_path: Path) -> None:
    """Files that pandas wrote with user_id as the index; ``seed=3`` is no partition."""
    parts = content()
    folder = put(tmp_path / "seed=3", parts)
    parts["users"].set_index("user_id").to_parquet(folder / "users.parquet")
    found = read_dataset(folder)
    assert list(found.user_id) == list(parts["users"]["user_id"])
    assert "seed" not in found.users


def test_engaged_may_be_true_and_false(tmp_path: Path) -> None:
    parts = content()
    parts["recommendation_events"] = parts["recommendation_events"].astype({"engaged": bool})
    for suffix in FORMATS:
        found = read_dataset(put(tmp_path / suffix, parts, suffix))
        np.testing.assert_array_equal(found.engagement, naive_counts(parts, found)[2])


def test_keys_mean_the_same_in_every_part(tmp_path: Path) -> None:
    """Among 1.5 and others 1 is 1.0, also in a part without them."""
    parts = content()
    for stem in TABLES[1:]:
        numbers = parts[stem]["category"].map({"shoes": 1.0, "food": 2.0, "None": 2.0}).tolist()
        parts[stem] = parts[stem].assign(category=[*numbers[:-1], 1.5])
    found = read_dataset(put(tmp_path / "set", parts))
    assert found.categories == ["1.0", "1.5", "2.0"]
    assert found.search.sum() == found.exposure.sum() == 60


def test_events_are_read_in_parts_and_again_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, lengths = content(), []
    folder = put(tmp_path / "set", parts)
    validate = tables.validate
    for module in (folder_module, counts_module):
        monkeypatch.setattr(
            module, "validate", lambda t, rows, *a: lengths.append(len(rows)) or validate(t, rows, *a)
        )
    found = read_dataset(folder)
    assert lengths == [8, *([7] * 8 + [4]) * 2]  # users as a whole
    assert found.search_events["place"].tolist() == parts["search_events"]["place"].tolist()
    (folder / "search_events.parquet").unlink()
    with pytest.raises(DatasetError, match=r"search_events\.parquet: could not be read"):
        _ = found.search_events


def test_many_counts_are_kept_in_a_file_and_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path / "set", content())
    held = read_dataset(folder)
    monkeypatch.setattr(counts_module, "HELD", 40)  # bytes, less than each array has
    monkeypatch.setattr(counts_module.tempfile, "tempdir", str(tmp_path))
    kept = read_dataset(folder)
    for name, counts in kept.counts.items():
        for part in ("data", "indices"):
            assert isinstance(getattr(counts, part).base, np.memmap)
            assert not isinstance(getattr(held.counts[name], part).base, np.memmap)
        assert (counts != held.counts[name]).nnz == 0
        np.testing.assert_array_equal(getattr(kept, name), getattr(held, name))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]  # without a name
    monkeypatch.setattr(counts_module.tempfile, "TemporaryFile", partial(open, "/dev/full", "w+b", 0))
    with pytest.raises(DatasetError, match=r"kept there \(No space left on device\); let TMPDIR be"):
        read_dataset(folder)


def test_either_block_of_covariates_may_be_empty(tmp_path: Path) -> None:
    parts = described(content(), exposure_covariates=[])
    found = read_dataset(put(tmp_path / "set", parts))
    exposure, preference = Standardisation.from_dataset(found).apply(found)
    assert found.covariates("platform").shape == exposure.shape == (8, 0)
    assert preference.shape == (8, 1)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("given", ["argument", "dataset.json"])
def test_given_categories_hold_and_no_others(suffix: str, given: str, tmp_path: Path) -> None:
    parts, order = content(), ["unseen", "shoes", "None", "food"]

    def read(name: str, categories: list[str]) -> Dataset:
        if given == "argument":
            return read_dataset(put(tmp_path / name, parts, suffix), categories)
        return read_dataset(put(tmp_path / name, described(parts, categories=categories), suffix))

    found = read("set", order)
    assert found.categories == order
    assert found.exposure[:, 0].sum() == 0
    np.testing.assert_array_equal(found.exposure, naive_counts(parts, found)[1])

    parts["recommendation_events"].loc[:9, "category"] = "shoes"
    parts = with_values(parts, "recommendation_events", "category", {5: "boats", 8: "planes"})
    if given == "argument":  # of a run, which knows no others
        left = read("other", order)
        kept = ~parts["recommendation_events"]["category"].isin(["boats", "planes"])
        assert left.exposure.sum() == len(left.recommendation_events) == kept.sum()
        known = {**parts, "recommendation_events": parts["recommendation_events"][kept]}
        np.testing.assert_array_equal(left.engagement, naive_counts(known, left)[2])
        assert any("2 of 60 events" in said and "'boats'" in said for said in left.remarks)
        return
    place = rf"recommendation_events\.{suffix}, column 'category', {'line 7' if suffix == 'csv' else 'row 6'}: 'boats'"
    with pytest.raises(DatasetError, match=place):
        read("other", order)


def test_the_argument_outranks_the_categories_of_the_folder(tmp_path: Path) -> None:
    parts = described(content(), categories=["shoes", "food", "None", "hats"])
    assert read_dataset(put(tmp_path / "set", parts), ["food", "None", "shoes"]).categories[0] == "food"


def test_new_logs_are_standardised_as_the_fitted_dataset_was(tmp_path: Path) -> None:
    fitted = read_dataset(put(tmp_path / "fitted", content()))
    standardisation = Standardisation.from_dict(
        json.loads(json.dumps(Standardisation.from_dataset(fitted).to_dict()))
    )
    for block in standardisation.apply(fitted):
        np.testing.assert_allclose(block.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(block.std(0), 1, atol=1e-6)

    # One user, with the columns in other blocks and another order: found by name, and nothing need vary.
    parts = described(content(), exposure_covariates=["wish"], preference_covariates=["age"])
    parts["users"] = parts["users"][["wish", "age", "feed", "user_id"]].iloc[3:4]
    for stem in TABLES[1:]:
        parts[stem] = parts[stem].assign(user_id=parts["users"]["user_id"].iloc[0])
    new = read_dataset(put(tmp_path / "new", parts), fitted.categories)
    exposure, preference = standardisation.apply(new)
    assert exposure.dtype == preference.dtype == np.float32
    feed, age = (
        (new.users[c].iloc[0] - fitted.users[c].mean()) / fitted.users[c].std(ddof=0) for c in ("feed", "age")
    )
    np.testing.assert_allclose(exposure, [[feed, age]], rtol=1e-6)
    with pytest.raises(DatasetError, match=r"column 'wish': does not vary"):
        read_dataset(tmp_path / "new")


def test_a_fitted_covariate_that_new_logs_lack_is_an_error(tmp_path: Path) -> None:
    standardisation = Standardisation.from_dataset(read_dataset(put(tmp_path / "fitted", content())))
    parts = described(content(), name="new", exposure_covariates=[])  # `age` and `feed` unchecked at reading
    hole = with_values(parts, "users", "age", {4: np.nan})
    with pytest.raises(DatasetError, match="users of dataset new, column 'age', row 5: not a finite number"):
        standardisation.apply(read_dataset(put(tmp_path / "hole", hole)))
    with pytest.raises(DatasetError, match="users of dataset new, column 'feed': missing"):
        standardisation.apply(read_dataset(put(tmp_path / "lacks", without(parts, "users", "feed"))))


@pytest.mark.parametrize("form", ["positions", "mask"])
def test_a_subset_is_what_reading_those_users_alone_gives(form: str, tmp_path: Path) -> None:
    parts, rows = content(), np.array([1, 4, 6])
    chosen = parts["users"].iloc[rows]
    alone = {s: parts[s][parts[s]["user_id"].isin(chosen["user_id"])] for s in TABLES}
    whole = read_dataset(put(tmp_path / "whole", parts))
    expected = read_dataset(put(tmp_path / "alone", {**parts, **alone}), whole.categories)
    found = whole.subset(rows if form == "positions" else np.isin(np.arange(8), rows))
    for stem in TABLES:
        pd.testing.assert_frame_equal(getattr(found, stem), getattr(expected, stem))
    for name in ("search", "exposure", "engagement"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.categories, found.n_users, whole.n_users) == (whole.categories, 3, 8)
