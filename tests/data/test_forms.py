"""Claims about tables in another form than a dataset folder has them, and about files that are meant ill."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folders import FORMATS, TABLES, content, described, put, with_values, write

from pyro_hmvcrl.data import folder as folder_module
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.data.tables import DatasetError

RESERVED = ["platform", "preference", "platform_1", "preference_12", "platform_2_sd", "exposure", "search"]
RESERVED += ["engagement", "suggested", "noise", "history", "exposure_covariates", "preference_covariates"]
RESERVED += ["Platform", "PREFERENCE_1", "held_out ", "search_2", "platform_１"]


@pytest.mark.parametrize("name", RESERVED)
@pytest.mark.parametrize("block", ["exposure_covariates", "preference_covariates"])
def test_names_that_mean_something_else_are_no_covariates(name: str, block: str, tmp_path: Path) -> None:
    parts = described(content(), **{block: [name]})
    old = {"exposure_covariates": "age", "preference_covariates": "wish"}[block]
    parts["users"] = parts["users"].rename(columns={old: name})
    for reader in (lambda: read_dataset(put(tmp_path / "set", parts)), lambda: write(tmp_path / "w", parts)):
        with pytest.raises(
            DatasetError, match=rf"dataset.json: covariate '{name}' has the name of.*rename it"
        ):
            reader()


@pytest.mark.parametrize(
    "name", ["Platforms", "exposure_1", "a", "search_activity", "platform_age", "taste_1"]
)
def test_other_names_are(name: str, tmp_path: Path) -> None:
    parts = described(content(), exposure_covariates=[name])
    parts["users"] = parts["users"].rename(columns={"age": name})
    assert read_dataset(put(tmp_path / "set", parts)).exposure_covariates == [name]


# --- Marks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("True", "False"), ("true", "false"), ("TRUE", " FALSE ")])
@pytest.mark.parametrize("suffix", FORMATS)
def test_marks_in_words_are_read_and_a_gap_is_found_where_it_is(
    words: tuple[str, str], suffix: str, tmp_path: Path
) -> None:
    parts = content()
    engaged = parts["recommendation_events"]["engaged"]
    texts = engaged.map({1: words[0], 0: words[1]})
    parts["recommendation_events"] = parts["recommendation_events"].assign(engaged=texts)
    assert read_dataset(put(tmp_path / "set", parts, suffix)).engagement.sum() == engaged.sum()
    gap = with_values(parts, "recommendation_events", "engaged", {41: None})
    place = "line 43" if suffix == "csv" else "row 42"
    with pytest.raises(DatasetError, match=rf"column 'engaged', {place}: neither 0 nor 1"):
        read_dataset(put(tmp_path / "gap", gap, suffix))


def test_objects_that_are_true_and_false_are_read(tmp_path: Path) -> None:
    parts = content()
    engaged = parts["recommendation_events"]["engaged"]
    objects = pd.Series([bool(v) for v in engaged], dtype="object")
    parts["recommendation_events"] = parts["recommendation_events"].assign(engaged=objects)
    write(tmp_path / "set", parts)
    assert read_dataset(tmp_path / "set").engagement.sum() == engaged.sum()
    objects[30] = None
    parts["recommendation_events"] = parts["recommendation_events"].assign(engaged=objects)
    with pytest.raises(DatasetError, match="column 'engaged', row 31: neither 0 nor 1"):
        write(tmp_path / "gap", parts)


# --- In another form -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_case_of_a_name_does_not_matter(suffix: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "set", content(), suffix)
    for stem in TABLES:
        (folder / f"{stem}.{suffix}").rename(folder / f"{stem.upper()}.{suffix.upper()}")
    assert read_dataset(folder).n_users == 8


@pytest.mark.parametrize("stem", TABLES)
def test_a_folder_of_parts_is_said(stem: str, tmp_path: Path) -> None:
    """As Spark writes them, with the suffix and without."""
    folder = put(tmp_path / "set", content())
    whole = (folder / f"{stem}.parquet").read_bytes()
    (folder / f"{stem}.parquet").unlink()
    (folder / f"{stem}.parquet").mkdir()
    (folder / f"{stem}.parquet" / "part-00000.parquet").write_bytes(whole)
    with pytest.raises(DatasetError, match=rf"{stem}\.parquet: a folder and no file; put its parts together"):
        read_dataset(folder)
    (folder / f"{stem}.parquet").rename(folder / stem)
    with pytest.raises(
        DatasetError, match=rf"has neither {stem}\.parquet nor {stem}\.csv, but {stem}; write"
    ):
        read_dataset(folder)


@pytest.mark.parametrize("ending", ["csv.gz", "tsv", "json", "xlsx", "parquet.zip", "feather"])
def test_another_kind_of_file_is_said(ending: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "set", content(), "csv")
    (folder / f"users.{ending}").write_bytes(gzip.compress((folder / "users.csv").read_bytes()))
    (folder / "users.csv").unlink()
    with pytest.raises(
        DatasetError, match=rf"neither users.parquet nor users.csv, but users.{ending}; write it"
    ):
        read_dataset(folder)


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_another_separator_is_said(separator: str, name: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "set", content(), "csv")
    for stem in TABLES:
        parts = content()[stem]
        parts.to_csv(folder / f"{stem}.csv", index=False, sep=separator)
    with pytest.raises(
        DatasetError, match=rf"users\.csv: its columns are separated by {name}; write it with"
    ):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("what", "start"),
    [
        ("compressed data", b"\x1f\x8b\x08\x00"),
        ("a zip or a spreadsheet", b"PK\x03\x04\xff"),
        ("a Parquet file", b"PAR1\x15\xff"),
        ("text in UTF-16", "user_id,age\n".encode("utf-16")),
        ("text that is not UTF-8", "user_id,größe\n".encode("latin-1")),
    ],
)
def test_what_is_not_what_its_name_says_is_said(what: str, start: bytes, tmp_path: Path) -> None:
    folder = put(tmp_path / "set", content(), "csv")
    (folder / "users.csv").write_bytes(start)
    with pytest.raises(DatasetError, match=rf"users\.csv: could not be read: it holds {what}.*; write "):
        read_dataset(folder)


def test_a_column_of_nearly_the_name_is_pointed_at(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", content(), "csv")
    header, rest = (folder / "users.csv").read_text().split("\n", 1)
    (folder / "users.csv").write_text(f"{header.replace(',age', ', Age')}\n{rest}")
    with pytest.raises(DatasetError, match="column 'age': missing; rename ' Age'"):
        read_dataset(folder)


def test_files_of_other_names_are_listed(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", content(), "csv")
    (folder / "users.csv").rename(folder / "users_2023.csv")
    with pytest.raises(DatasetError, match=r"add one of them \(there are .*users_2023\.csv\)"):
        read_dataset(folder)


def test_a_description_says_nothing_twice_and_may_come_from_windows(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", described(content(), covariate_until=5, source="us"))
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(text, encoding="utf-8-sig")
    said = [s for s in read_dataset(folder).remarks if "dataset.json" in s]
    assert said == ["dataset.json: 'covariate_until' means nothing here; was 'covariates_until' meant?"]
    (folder / "dataset.json").write_text(f'{text[:-1]}, "exposure_covariates": ["age"]}}')
    with pytest.raises(DatasetError, match="'exposure_covariates' stands there twice; mend it"):
        read_dataset(folder)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("column", ["user_id", "country", "feed"])
def test_a_column_that_is_there_twice_is_refused(column: str, suffix: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "set", content(), suffix)
    users = content()["users"]
    if suffix == "csv":
        twice = pd.concat([users, users[[column]]], axis=1)
        (folder / "users.csv").write_text("\ufeff" + twice.to_csv(index=False))
    else:
        table = pa.Table.from_pandas(users, preserve_index=False)
        pq.write_table(table.append_column(column, table[column]), folder / "users.parquet")
    with pytest.raises(DatasetError, match=rf"users\.{suffix}, column '{column}': there 2 times"):
        read_dataset(folder)


# --- Meant ill -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", FORMATS)
def test_messages_stay_short_whatever_a_file_holds(suffix: str, tmp_path: Path) -> None:
    parts = content()
    wide = pd.DataFrame(np.zeros((8, 1_000)), columns=[f"column {n} {'x' * 300}" for n in range(1_000)])
    lacking = parts["users"].drop(columns="wish")
    cases = {
        "many columns": {**parts, "users": pd.concat([lacking, wide], axis=1)},
        "a large cell": with_values(
            {**parts, "users": parts["users"].astype({"age": str})}, "users", "age", {3: "x" * 100_000}
        ),
        "a large user": with_values(parts, "search_events", "user_id", {3: "x" * 100_000}),
        "a large category": recoded_all(parts, "x" * 100_000),
        "a large name": described(parts, exposure_covariates=["x" * 100_000]),
    }
    for name, case in cases.items():
        with pytest.raises(DatasetError) as caught:
            read_dataset(put(tmp_path / name, case, suffix))
        assert len(str(caught.value)) < 2_000, name


@pytest.mark.parametrize("many", ["columns of one name", "covariates that are not there"])
def test_many_names_are_refused_at_once(many: str, tmp_path: Path) -> None:
    of_folder = content()
    if many != "columns of one name":
        of_folder = described(of_folder, exposure_covariates=[f"x{n}" for n in range(30_000)])
    folder = put(tmp_path / "set", of_folder, "csv")
    if many == "columns of one name":
        (folder / "users.csv").write_text("user_id" + ",x" * 30_000 + "\n")
    start = time.process_time()
    with pytest.raises(DatasetError, match=r"there 30000 times|'x0': missing"):
        read_dataset(folder)
    assert time.process_time() - start < 3


def recoded_all(parts: dict, category: str) -> dict:
    return {**parts, **{s: parts[s].assign(category=category) for s in TABLES[1:]}}


def test_large_columns_that_no_covariate_needs_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "MOST_EXTRA", 7)
    read, of_file = [], pq.ParquetFile.read
    monkeypatch.setattr(
        pq.ParquetFile,
        "read",
        lambda self, columns=None: read.append(columns) or of_file(self, columns=columns),
    )
    found = read_dataset(put(tmp_path / "set", content()))
    assert read == [["user_id", "feed", "age", "wish"]]
    assert list(found.users) == read[0]
    assert "users.parquet: 1 columns that no covariate needs are left out" in "".join(found.remarks)
    monkeypatch.undo()
    assert "country" in read_dataset(tmp_path / "set").users


def test_what_is_wrong_is_found_before_further_columns_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path / "set", with_values(content(), "users", "user_id", {5: "u1", 6: "u1"}))
    read, of_file = [], pq.ParquetFile.read
    monkeypatch.setattr(
        pq.ParquetFile,
        "read",
        lambda self, columns=None: read.append(columns) or of_file(self, columns=columns),
    )
    with pytest.raises(DatasetError, match="has a row already"):
        read_dataset(folder)
    assert read == [["user_id", "feed", "age", "wish"]]


def test_a_description_of_many_names_twice_is_short(tmp_path: Path) -> None:
    parts = described(content(), categories=["food", "shoes", "None", *(["x" * 100_000] * 2)])
    with pytest.raises(DatasetError, match="is listed 2 times") as caught:
        read_dataset(put(tmp_path / "set", parts))
    assert len(str(caught.value)) < 1_000
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["categories"][3] == "x" * 100_000
