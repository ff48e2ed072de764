"""Three files of a company made into a dataset folder, with ``import.json``, the account of what was done."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from pyro_hmvcrl.data.folder import check_new, write_dataset
from pyro_hmvcrl.data.frames import LABELS, Account, Prepared, prepare
from pyro_hmvcrl.data.tables import SEPARATORS, DatasetError, Table, check_header, other_form, readable

UNPACK: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
LARGE, MOST_UNFOLDED = 1 << 28, 100  #: bytes, and times as many as packed, that a file may have


def tables_of(
    source: str, users: pd.DataFrame, searches: pd.DataFrame, recommendations: pd.DataFrame
) -> dict[str, Table]:
    """What an importer made of a `source`, as :func:`~pyro_hmvcrl.data.frames.prepare` takes it."""
    frames = zip(LABELS, (users, searches, recommendations), strict=True)
    return {label: Table(f"{source}, {label}", frame.reset_index(drop=True)) for label, frame in frames}


def differing(shown: pd.DataFrame, by: list[str], column: str) -> pd.Series:
    """Share of the pairs of items inside a group that differ, summed over the groups of a user."""
    number = shown.groupby(by).size()
    same = shown.groupby([*by, column]).size()
    pairs, alike = ((n * (n - 1)).groupby(level="user").sum() for n in (number, same))
    return 1 - alike / pairs.where(pairs > 0)


def import_files(
    users: str | Path,
    searches: str | Path,
    recommendations: str | Path,
    out: str | Path,
    exposure: Sequence[str],
    preference: Sequence[str],
    columns: Mapping[str, str] | None = None,
    top_categories: int | None = None,
    name: str | None = None,
    outcomes: Sequence[str] = (),
) -> Account:
    """Write a dataset folder of files as they are.

    Parameters
    ----------
    users, searches, recommendations
        Parquet, or text with commas, semicolons, tabs or bars (which may be compressed).  The latter two may be one
        file, with a column ``surface``.
    out
        Must not exist yet.
    name
        Of the dataset; by default that of the folder.
    exposure, preference, columns, top_categories, outcomes
        As in :func:`~pyro_hmvcrl.data.frames.from_frames`.

    Raises
    ------
    DatasetError
        If a file cannot be read, or the folder exists.
    ProblemsError
        As in :func:`~pyro_hmvcrl.data.frames.from_frames`; nothing is written then.
    """
    out = Path(out)
    check_new(out)
    paths = map(Path, (users, searches, recommendations))
    tables = {label: read_own(path) for label, path in zip(LABELS, paths, strict=True)}
    made = prepare(tables, exposure, preference, columns, top_categories, name or out.name, outcomes)
    return write_prepared(made, out)


def write_prepared(made: Prepared, out: Path, **more: Any) -> Account:
    """Write tables that are prepared as a dataset folder, with ``import.json``, in which there may be more.

    Raises
    ------
    DatasetError
        If the folder exists, or on anything that a dataset folder cannot have.
    """
    account = json.dumps(more | made.account.to_dict(), indent=2, ensure_ascii=False).encode()
    parts = made.users, made.search_events, made.recommendation_events
    description = dict(made.description)
    files = {"import.json": account}
    remarks = write_dataset(out, description.pop("name"), *parts, **description, extra_files=files)
    made.account.said += remarks
    return made.account


def read_own(path: Path) -> Table:
    """A table of any usual kind; that of a text file is all text.

    Raises
    ------
    DatasetError
        If the file cannot be read.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: {'a folder, and no file' if path.is_dir() else 'no such file'}")
    packed = path.suffix.lower() in (*UNPACK, ".zip", ".zst")
    with readable(path):
        if path.suffix.lower() == ".parquet":
            return Table(str(path), pq.read_table(path).to_pandas(ignore_metadata=True))
        if not packed and (what := other_form(path)):
            raise ValueError(f"it holds {what}")
        _check_unfolding(path)
        text = {"dtype": "str", "keep_default_na": False, "na_values": [""], "encoding": "utf-8-sig"}
        headers = {by: len(pd.read_csv(path, sep=by, nrows=0, **text).columns) for by in (",", *SEPARATORS)}
        separator = max(headers, key=lambda by: headers[by])
        first = pd.read_csv(path, sep=separator, header=None, nrows=1, **text)
        check_header(path, first.iloc[0].dropna())  # pandas renames what is there twice
        frame = pd.read_csv(path, sep=separator, index_col=False, **text)
    plain_text = path.suffix.lower() in (".csv", ".tsv", ".txt")
    return Table(str(path), frame, path if plain_text else None)


def _check_unfolding(path: Path) -> None:
    """Raise if a packed file is one that no logs are: it would fill the memory."""
    unpack, size = UNPACK.get(path.suffix.lower()), 0
    most = max(LARGE, MOST_UNFOLDED * path.stat().st_size)
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    elif unpack:
        with unpack(path) as file:
            while size <= most and (block := file.read(1 << 20)):
                size += len(block)
    if size > most:
        raise ValueError(f"its {path.stat().st_size:,} bytes unfold to more than {most:,}, as no logs do")
