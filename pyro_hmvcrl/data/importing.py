"""Three files of a company made into a dataset folder, with ``import.json``, the account of what was done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pyro_hmvcrl.data.files import one_line
from pyro_hmvcrl.data.folder import write_dataset
from pyro_hmvcrl.data.frames import LABELS, Account, prepare
from pyro_hmvcrl.data.tables import SEPARATORS, DatasetError, Table


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
    exposure, preference, columns, top_categories
        As in :func:`~pyro_hmvcrl.data.frames.from_frames`.

    Raises
    ------
    DatasetError
        If a file cannot be read, or the folder exists.
    ProblemsError
        As in :func:`~pyro_hmvcrl.data.frames.from_frames`; nothing is written then.
    """
    out = Path(out)
    if out.exists():
        raise DatasetError(f"{out}: exists already; choose another folder or remove this one")
    paths = map(Path, (users, searches, recommendations))
    tables = {label: read_own(path) for label, path in zip(LABELS, paths, strict=True)}
    made = prepare(tables, exposure, preference, columns, top_categories, name or out.name)
    account = json.dumps(made.account.to_dict(), indent=2).encode()
    parts = made.users, made.search_events, made.recommendation_events
    description = dict(made.description)
    write_dataset(out, description.pop("name"), *parts, **description, extra_files={"import.json": account})
    return made.account


def read_own(path: Path) -> Table:
    """A table of any usual kind; that of a text file is all text.

    Raises
    ------
    DatasetError
        If the file cannot be read.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    try:
        if path.suffix.lower() == ".parquet":
            return Table(str(path), pd.read_parquet(path).reset_index(drop=True))
        text = {"dtype": "str", "keep_default_na": False, "na_values": [""], "encoding": "utf-8-sig"}
        headers = {by: len(pd.read_csv(path, sep=by, nrows=0, **text).columns) for by in (",", *SEPARATORS)}
        frame = pd.read_csv(path, sep=max(headers, key=lambda by: headers[by]), index_col=False, **text)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: could not be read: {one_line(error)[:300]}; write it again") from error
    plain_text = path.suffix.lower() in (".csv", ".tsv", ".txt")
    return Table(str(path), frame, path if plain_text else None)
