"""The dataset folder: users with covariates, and their events on two surfaces::

    dataset.json                    {"name", "exposure_covariates": [...], "preference_covariates": [...]}
                                    and, if wanted, "categories": [...]
    users.parquet                   user_id, one number per covariate (in its own unit)
    search_events.parquet           user_id, timestamp (ms since epoch), category
    recommendation_events.parquet   user_id, timestamp, category, engaged (0/1)

Each table may be ``.csv`` instead.  :func:`read_dataset` refuses bad input with one error that names file,
column, first bad row and the mend; :func:`write_dataset` writes nothing that it would refuse.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import re
import shutil
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike, NDArray
from pyarrow import ArrowException

Channel = Literal["platform", "preference"]
CHANNELS: tuple[Channel, Channel] = ("platform", "preference")

TABLES = ("users", "search_events", "recommendation_events")
LOCK = "lock"  #: in a folder that is being filled
#: Text as it stands in CSV: "007" is not 7, and a category may be called "None".
KEYS = ("user_id", "category")
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "None")  #: in CSV's other columns


class DatasetError(ValueError):
    """A dataset that cannot be used: the message names file, column, first bad row and the mend."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A checked dataset and its counts.

    Attributes
    ----------
    name
        As in ``dataset.json``.
    users
        One row per user in the order of the file: user_id (int or str), covariates (float), extra columns.
    exposure_covariates, preference_covariates
        Covariate columns of each channel; either may be empty.
    categories
        The C categories as str, sorted (as numbers when all are integers) unless given.
    search_events, recommendation_events
        In the order of the files, with their extra columns; user_id as in `users`, category as str.
    search, exposure, engagement
        Events of each user in each category, ``(N, C)``: searched, shown, and engaged with among those shown.
    """

    name: str
    users: pd.DataFrame
    exposure_covariates: list[str]
    preference_covariates: list[str]
    categories: list[str]
    search_events: pd.DataFrame
    recommendation_events: pd.DataFrame
    search: NDArray[np.float32]
    exposure: NDArray[np.float32]
    engagement: NDArray[np.float32]

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def user_id(self) -> NDArray[Any]:
        return self.users["user_id"].to_numpy()

    def covariates(self, channel: Channel) -> NDArray[np.float64]:
        """Covariates of a channel in their own units, ``(N, D)``."""
        names = {"platform": self.exposure_covariates, "preference": self.preference_covariates}[channel]
        return self.users[names].to_numpy(np.float64)

    def subset(self, rows: ArrayLike) -> Dataset:
        """The dataset of some users: distinct positions, or a boolean mask of length N."""
        chosen = np.arange(self.n_users)[np.asarray(rows)]
        users = self.users.iloc[chosen].reset_index(drop=True)

        def theirs(events: pd.DataFrame) -> pd.DataFrame:
            return events[events["user_id"].isin(users["user_id"])].reset_index(drop=True)

        return replace(
            self,
            users=users,
            search_events=theirs(self.search_events),
            recommendation_events=theirs(self.recommendation_events),
            search=self.search[chosen],
            exposure=self.exposure[chosen],
            engagement=self.engagement[chosen],
        )


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of each covariate of the fitted dataset, kept with the run."""

    exposure_covariates: list[str]
    preference_covariates: list[str]
    mean: dict[str, float]
    sd: dict[str, float]

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> Standardisation:
        names = [*dataset.exposure_covariates, *dataset.preference_covariates]
        mean = {name: float(dataset.users[name].mean()) for name in names}
        sd = {name: float(dataset.users[name].std(ddof=0)) for name in names}
        return cls(dataset.exposure_covariates, dataset.preference_covariates, mean, sd)

    def apply(self, dataset: Dataset) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Standardised exposure ``(N, D_P)`` and preference ``(N, D_Q)`` covariates, found by name.

        Raises
        ------
        DatasetError
            If a covariate of the fitted dataset is missing here, or is not a finite number of a like size.
        """
        table = _Table(f"users of dataset {dataset.name}", dataset.users)
        _validate(table, {name: [_FINITE] for name in self.mean})
        with np.errstate(over="ignore"):
            blocks = self.standardise(dataset.users)
        far = ~np.isfinite(np.hstack(blocks)).all(0)
        if far.any():
            name = [*self.exposure_covariates, *self.preference_covariates][far.argmax()]
            raise table.error(
                name, "too far from the fitted dataset's values; is it in the same unit? Mend it"
            )
        return blocks

    def standardise(self, users: pd.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Standardised covariates, as :meth:`apply`, of a table that has them all."""

        def block(names: list[str]) -> NDArray[np.float32]:
            columns = [(_numbers(users[name]) - self.mean[name]) / self.sd[name] for name in names]
            return np.array(columns, np.float32).reshape(len(names), len(users)).T.copy()

        return block(self.exposure_covariates), block(self.preference_covariates)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Standardisation:
        return cls(**values)


def read_dataset(folder: str | Path, categories: Sequence[str] | None = None) -> Dataset:
    """Read and check a dataset folder.

    Parameters
    ----------
    folder
        See the top of this module for its files.
    categories
        Those of a fitted run, to encode new logs under it.  Covariates need not vary then: the fitted run's
        mean and standard deviation serve.

    Raises
    ------
    DatasetError
        On bad input.  The number of a row is that of the line in the file for CSV ("line"), and else counts
        from 1 ("row").
    """
    folder = Path(folder)
    description = _read_description(folder / "dataset.json")
    return _assemble(description, [_read_table(folder, stem) for stem in TABLES], categories)


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
    tables = [_Table(str(folder / f"{stem}.{format}"), f.reset_index(drop=True)) for stem, f in frames]
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


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not JSON, nests too deep, or is not text that can be written again.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it nests too deep") from None
    check_text(content)
    return content


def check_text(content: Any) -> None:
    """Raise ValueError unless all text in it can be written: JSON can hold half of a character."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it nests too deep") from None


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which becomes `path` if all goes well, and nothing otherwise."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `folder` if all goes well, and nothing otherwise.

    It stands beside its target, on the same file system.  What a killed process left of one is cleared away by the
    next: the system lets go of its lock.
    """
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        with suppress(Timeout, OSError), FileLock(left / LOCK, timeout=0):
            shutil.rmtree(left)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    temporary.mkdir(parents=True)
    try:
        with FileLock(temporary / LOCK):
            yield temporary
            (temporary / LOCK).unlink(missing_ok=True)
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class _Table:
    """A table and how errors name it; `csv_file` where rows are lines of a file."""

    label: str
    frame: pd.DataFrame
    csv_file: Path | None = None

    def error(self, column: str | None, problem: str, row: int | None = None) -> DatasetError:
        where = [self.label] + ([] if column is None else [f"column {column!r}"])
        if row is not None:
            where.append(f"row {row + 1}" if self.csv_file is None else f"line {_line(self.csv_file, row)}")
        return DatasetError(f"{', '.join(where)}: {problem}")


def _line(path: Path, row: int) -> int:
    """Line where a data row starts: not row + 2 after blank lines or line breaks inside quotes."""
    csv.field_size_limit(2**31 - 1)
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader, record, start = csv.reader(handle), -2, 0  # the header is record -1
        while record < row:
            start = reader.line_num + 1
            fields = next(reader, None)
            if fields is None:  # the two parsers count otherwise
                return row + 2
            record += len(fields) > 1 or "".join(fields).strip(" \t") != ""
    return start


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


def _read_table(folder: Path, stem: str) -> _Table:
    names = f"{stem}.parquet", f"{stem}.csv"
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise DatasetError(f"{folder}: has neither {names[0]} nor {names[1]}; add one of them")
    if len(found) > 1:
        raise DatasetError(f"{folder}: has both {names[0]} and {names[1]}; remove one of them")
    path = found[0]
    try:
        if path.suffix == ".csv":
            return _Table(str(path), _read_csv(path), path)
        # Without pandas' metadata an index comes as a column, and row numbers are the file's.
        return _Table(str(path), pq.read_table(path).to_pandas(ignore_metadata=True))
    except (OSError, ValueError, ArrowException, MemoryError, pd.errors.ParserWarning) as error:
        raise DatasetError(f"{path}: could not be read: {_first_line(error)}; write it again") from error


def _first_line(said: object) -> str:
    return next(iter(str(said).splitlines()), type(said).__name__)


def _read_csv(path: Path) -> pd.DataFrame:
    columns = pd.read_csv(path, nrows=0).columns
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
        return pd.read_csv(
            path,
            dtype={key: "str" for key in KEYS},
            keep_default_na=False,
            na_values={column: [""] if column in KEYS else list(MISSING) for column in columns},
            index_col=False,
            low_memory=False,
        )


def _numbers(values: pd.Series) -> NDArray[np.float64]:
    """A column as numbers, NaN where it holds none."""
    if not pd.api.types.is_numeric_dtype(values):
        values = pd.to_numeric(values.astype("str"), errors="coerce")
    return values.to_numpy(np.float64, na_value=np.nan)


def _coded(values: pd.Series) -> tuple[NDArray[np.intp], pd.Index]:
    """Codes (-1: missing) and the distinct values as text; 7, 7.0 and "7" are the same, "007" is not."""
    codes, distinct = pd.factorize(values)
    distinct = pd.Index(distinct)  # of a categorical column too
    if pd.api.types.is_float_dtype(distinct.dtype) and _whole(distinct.to_series()).all():
        distinct = distinct.astype("int64")
    again, distinct = pd.factorize(distinct.astype("str"))
    return np.append(again, -1)[codes], distinct


def _check(test: Callable[[pd.Series], NDArray[np.bool_]], problem: str) -> pa.Check:
    """A check of every row, of which only the first failure is kept."""
    return pa.Check(
        lambda values: pd.Series(test(values), index=values.index),
        error=problem,
        ignore_na=False,
        n_failure_cases=1,
    )


def _present(values: pd.Series) -> NDArray[np.bool_]:
    codes, distinct = _coded(values)
    return (codes >= 0) & np.append(distinct != "", False)[codes]


def _whole(values: pd.Series) -> NDArray[np.bool_]:
    numbers = _numbers(values)
    return (numbers == np.floor(numbers)) & (np.abs(numbers) < 2.0**62)


def _varies(values: pd.Series) -> bool:
    numbers = _numbers(values)
    with np.errstate(all="ignore"):  # the finite check speaks of NaN and infinity
        return bool(numbers.min() != numbers.max()) and numbers.std() not in (0, np.inf)


_USER = _check(_present, "missing; fill it in or drop the row")
_ONCE = _check(lambda v: ~pd.Index(_coded(v)[0]).duplicated(), "this user has a row already; drop one")
_FINITE = _check(lambda v: np.isfinite(_numbers(v)), "not a finite number; fill it in or drop the user")
_VARIES = pa.Check(
    _varies, error="does not vary over users, or its variance overflows; take it out or rescale it"
)
_TIME = _check(_whole, "not an integer, milliseconds since the epoch; convert it")
_CATEGORY = _check(_present, "missing; fill it in or drop the event")
_ENGAGED = _check(lambda v: np.isin(_numbers(v), (0, 1)), "neither 0 nor 1; recode it or drop the event")
_EVENT = {"user_id": [_USER], "timestamp": [_TIME], "category": [_CATEGORY]}


def _validate(table: _Table, checks: dict[str, list[pa.Check]]) -> None:
    """Raise the first failure of a table: a missing column, else the first bad row, else a whole column."""
    columns = {name: pa.Column(checks=column, nullable=True) for name, column in checks.items()}
    try:
        pa.DataFrameSchema(columns).validate(table.frame, lazy=True)
    except pa.errors.SchemaErrors as errors:
        failures = errors.failure_cases
        missing = failures[failures["check"] == "column_in_dataframe"]
        if len(missing):
            has = ", ".join(map(str, table.frame.columns))
            raise table.error(missing["failure_case"].iloc[0], f"missing; add it (there are {has})") from None
        first = failures.sort_values("index", kind="stable").iloc[0]
        row = None if pd.isna(first["index"]) else int(first["index"])
        if row is None and isinstance(first["failure_case"], str):  # the check itself could not be made
            problem = f"holds neither numbers nor text ({_first_line(first['failure_case'])}); convert it"
            raise table.error(first["column"], problem) from None
        found = "" if row is None else f" (found {table.frame[first['column']].iloc[[row]].tolist()[0]!r})"
        raise table.error(first["column"], f"{first['check']}{found}", row) from None


def _assemble(
    description: dict[str, Any], tables: Sequence[_Table], categories: Sequence[str] | None = None
) -> Dataset:
    """Check the tables, alone and against each other, and count."""
    for table in tables:
        if table.frame.empty:
            raise table.error(None, "no rows; the model needs users, and events of both surfaces")
    users, search, recommendation = tables
    blocks = {key: list(description[key]) for key in ("exposure_covariates", "preference_covariates")}
    covariates = [name for names in blocks.values() for name in names]
    of_covariate = [_FINITE] if categories is not None else [_FINITE, _VARIES]
    _validate(users, {"user_id": [_USER, _ONCE], **{name: of_covariate for name in covariates}})
    _validate(search, _EVENT)
    _validate(recommendation, {**_EVENT, "engaged": [_ENGAGED]})

    given = description.get("categories") if categories is None else categories
    seen = {label for table in (search, recommendation) for label in _coded(table.frame["category"])[1]}
    known = _sorted(seen) if given is None else [str(category) for category in given]
    ids = _coded(users.frame["user_id"])[1]
    held = users.frame.assign(
        user_id=_native(ids, users), **{name: _numbers(users.frame[name]) for name in covariates}
    )
    unknown_user = f"not a user of {users.label}; add the user there or drop the event"
    unknown_category = "not among the known categories; recode it or drop the event"

    def hold(table: _Table) -> tuple[pd.DataFrame, NDArray[np.intp]]:
        """Events as held, and each one's cell in the flat ``(N, C)`` counts."""
        user = _positions(table, "user_id", ids, unknown_user)
        category = _positions(table, "category", pd.Index(known, dtype="str"), unknown_category)
        frame = table.frame.assign(
            user_id=held["user_id"].array.take(user),
            timestamp=_integers(table.frame["timestamp"]),
            category=pd.array(known, dtype="str").take(category),
        )
        return frame, user * len(known) + category

    def count(cells: NDArray[np.intp], weights: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        counts = np.bincount(cells, weights, minlength=len(held) * len(known))
        return counts.reshape(len(held), len(known)).astype(np.float32)

    search_events, searched = hold(search)
    recommendation_events, shown = hold(recommendation)
    engaged = _integers(recommendation.frame["engaged"])
    return Dataset(
        name=description["name"],
        users=held,
        **blocks,
        categories=known,
        search_events=search_events,
        recommendation_events=recommendation_events.assign(engaged=engaged),
        search=count(searched),
        exposure=count(shown),
        engagement=count(shown, engaged),
    )


def _positions(table: _Table, column: str, among: pd.Index, problem: str) -> NDArray[np.intp]:
    """Position of each row's value in `among`; a value that is not there is an error."""
    codes, distinct = _coded(table.frame[column])
    positions = among.get_indexer(distinct)[codes]
    lost = np.flatnonzero(positions < 0)
    if len(lost):
        raise table.error(column, f"{distinct[codes[lost[0]]]!r} is {problem}", int(lost[0]))
    return positions


def _integers(values: pd.Series) -> NDArray[np.int64]:
    whole = pd.api.types.is_integer_dtype(values)  # not by way of float, which holds 53 bits
    return values.to_numpy(np.int64) if whole else _numbers(values).astype(np.int64)


def _native(ids: pd.Index, users: _Table) -> pd.Index:
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
