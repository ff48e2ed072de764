"""The dataset folder: users with covariates, and their events on two surfaces::

    dataset.json                    {"name", "exposure_covariates": [...], "preference_covariates": [...]}
                                    and, if wanted, "categories": [...]
    users.parquet                   user_id, one number per covariate (in its own unit)
    search_events.parquet           user_id, timestamp (ms since epoch), category; if wanted, suggested (0/1)
    recommendation_events.parquet   user_id, timestamp, category, engaged (0/1)

Each table may be ``.csv`` instead.  :func:`read_dataset` refuses bad input with one error that names file,
column, first bad row and the mend; :func:`write_dataset` writes nothing that it would refuse.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pyro_hmvcrl.data.columns import (
    FINITE,
    KEYS,
    ONCE,
    USER,
    VARIES,
    as_codes,
    as_integers,
    as_numbers,
)
from pyro_hmvcrl.data.counts import Keys, checks_of, survey
from pyro_hmvcrl.data.dataset import Dataset
from pyro_hmvcrl.data.files import check_text, read_json, whole_folder
from pyro_hmvcrl.data.periods import Periods
from pyro_hmvcrl.data.tables import TABLES, DatasetError, Table, read_table, validate


def read_dataset(
    folder: str | Path,
    categories: Sequence[str] | None = None,
    periods: int | Periods | None = None,
) -> Dataset:
    """Read and check a dataset folder.

    Parameters
    ----------
    folder
        See the top of this module for its files.
    categories
        Those of a fitted run, to encode new logs under it.  Covariates need not vary then: the fitted run's
        mean and standard deviation serve.
    periods
        Into how many equal parts the window is cut; by default as :mod:`~pyro_hmvcrl.data.periods` says.  Or the
        periods of a fitted run, whose length serves.

    Raises
    ------
    DatasetError
        On bad input.  The number of a row is that of the line in the file for CSV ("line"), and else counts
        from 1 ("row").
    """
    folder = Path(folder)
    description = _read_description(folder / "dataset.json")
    return _assemble(description, [read_table(folder, stem) for stem in TABLES], categories, periods)


def write_dataset(
    folder: str | Path,
    name: str,
    users: pd.DataFrame,
    search_events: pd.DataFrame,
    recommendation_events: pd.DataFrame,
    exposure_covariates: Sequence[str],
    preference_covariates: Sequence[str],
    format: str = "parquet",
    extra_files: Mapping[str, bytes] | None = None,
    categories: Sequence[str] | None = None,
) -> None:
    """Check a dataset and write its folder, whole or not at all.

    Parameters
    ----------
    folder
        Must not exist yet.
    name, users, search_events, recommendation_events, exposure_covariates, preference_covariates
        As in :class:`Dataset`; the tables' indices are left out.
    format
        Of the tables: "parquet" or "csv".
    extra_files
        Name and content of files to put beside them.
    categories
        Where the events may lack some of them.

    Raises
    ------
    DatasetError
        If the folder exists, or on anything that :func:`read_dataset` would refuse.
    """
    folder = Path(folder)
    if format not in ("parquet", "csv"):
        raise DatasetError(f"{folder}: format {format!r} is neither parquet nor csv; choose one of them")
    if folder.exists():
        raise DatasetError(f"{folder}: exists already; choose another folder or remove this one")
    description = {
        "name": name,
        "exposure_covariates": list(exposure_covariates),
        "preference_covariates": list(preference_covariates),
    } | ({} if categories is None else {"categories": list(categories)})
    _check_description(folder / "dataset.json", description)
    frames = zip(TABLES, (users, search_events, recommendation_events), strict=True)
    tables = [Table(str(folder / f"{stem}.{format}"), f.reset_index(drop=True)) for stem, f in frames]
    checked = _assemble(description, tables)

    with whole_folder(folder) as temporary:
        for file, content in (extra_files or {}).items():
            (temporary / file).write_bytes(content)
        (temporary / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        for stem in TABLES:
            frame, path = getattr(checked, stem), temporary / f"{stem}.{format}"
            if format == "csv":
                frame.to_csv(path, index=False)
            else:
                frame.to_parquet(path, index=False)


def _read_description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; a dataset folder has a dataset.json, write one")
    try:
        description = read_json(path)
    except ValueError as error:
        raise DatasetError(f"{path}: not valid JSON: {error}; mend it there") from error
    _check_description(path, description)
    return description


def _check_description(path: Path, description: Any) -> None:
    if not isinstance(description, dict) or not isinstance(description.get("name"), str):
        raise DatasetError(f'{path}: must be an object with a "name", which is a string; add it')
    try:
        check_text(description)
    except ValueError as error:
        raise DatasetError(f"{path}: not plain text: {error}; mend it there") from error
    lists: dict[str, Any] = {"categories": [], **description}
    for key, kinds in (
        ("exposure_covariates", str),
        ("preference_covariates", str),
        ("categories", str | int),
    ):
        if not isinstance(lists.get(key), list) or not all(isinstance(value, kinds) for value in lists[key]):
            raise DatasetError(f'{path}: "{key}" must be a list of names; mend it')
    covariates = [*lists["exposure_covariates"], *lists["preference_covariates"]]
    if "user_id" in covariates:
        raise DatasetError(f"{path}: user_id names the users and cannot be a covariate; take it out")
    for noun, values in (("covariate", covariates), ("category", lists["categories"])):
        for value, times in Counter(map(str, values)).items():
            if times > 1:
                raise DatasetError(f"{path}: {noun} {value!r} is listed {times} times; list it once")


def _assemble(
    description: dict[str, Any],
    tables: Sequence[Table],
    categories: Sequence[str] | None = None,
    periods: int | Periods | None = None,
) -> Dataset:
    """Check the tables, alone and against each other, and count."""
    for table in tables:
        if table.is_empty:
            raise table.error(None, "no rows; the model needs users, and events of both surfaces")
    users, people = tables[0], tables[0].frame
    events = dict(zip(TABLES[1:], tables[1:], strict=True))
    blocks = {key: list(description[key]) for key in ("exposure_covariates", "preference_covariates")}
    covariates = [name for names in blocks.values() for name in names]
    of_covariate = [FINITE] if categories is not None else [FINITE, VARIES]
    validate(users, people, {"user_id": [USER, ONCE], **{name: of_covariate for name in covariates}})
    checks = {stem: checks_of(table, stem) for stem, table in events.items()}
    labels, first, last = zip(*(survey(table, checks[stem]) for stem, table in events.items()), strict=True)
    seen, window = set().union(*labels), (min(first), max(last))
    cut = periods.like(*window) if isinstance(periods, Periods) else Periods.cut(*window, periods)

    given = description.get("categories") if categories is None else categories
    known = _sorted(seen) if given is None else [str(category) for category in given]
    ids = as_codes(people["user_id"])[1]
    keys = Keys(ids, pd.Index(known, dtype="str"), users.label)
    held = people.assign(
        user_id=_native(ids, users), **{name: as_numbers(people[name]) for name in covariates}
    )
    counts = {stem: keys.count(table, checks[stem], cut) for stem, table in events.items()}
    if not counts["search_events"][0].nnz:
        problem = "1 throughout; without searches of the users' own nothing tells of preference"
        raise events["search_events"].error("suggested", problem)

    def as_held(stem: str) -> pd.DataFrame:
        frame = events[stem].frame
        user, category = keys.positions(events[stem], frame)
        whole = {name: as_integers(frame[name]) for name in checks[stem] if name not in KEYS}
        categories = pd.array(known, dtype="str").take(category)
        return frame.assign(user_id=held["user_id"].array.take(user), category=categories, **whole)

    return Dataset(
        name=description["name"],
        users=held,
        **blocks,
        categories=known,
        periods=cut,
        counts=dict(zip(("search", "suggested"), counts["search_events"], strict=False))
        | dict(zip(("exposure", "engagement"), counts["recommendation_events"], strict=True)),
        event_tables={stem: partial(as_held, stem) for stem in events},
    )


def _native(ids: pd.Index, users: Table) -> pd.Index:
    """User ids as integers where the table has integers, as numbers or (all of them) as CSV text."""
    dtype = users.frame["user_id"].dtype
    as_text = users.csv_file is not None and all(re.fullmatch(r"0|-?[1-9][0-9]{0,17}", i) for i in ids)
    try:
        return ids.astype("int64") if as_text or pd.api.types.is_integer_dtype(dtype) else ids
    except OverflowError:  # unsigned, and large
        return ids


def _sorted(labels: set[str]) -> list[str]:
    if all(re.fullmatch("-?[0-9]{1,1000}", label) for label in labels):  # int takes no more than 4,300
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)
