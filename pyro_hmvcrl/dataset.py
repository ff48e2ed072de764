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
import tempfile
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow
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
PART = 1 << 20  #: rows of a Parquet file at a time, which bounds the memory
HELD = 1 << 26  #: bytes of counts that are held in memory; more are kept in a file
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
    search, exposure, engagement
        Events of each user in each category, ``(N, C)``: searched, shown, and engaged with among those shown.
    event_tables
        What `search_events` and `recommendation_events` call for the events themselves.
    """

    name: str
    users: pd.DataFrame
    exposure_covariates: list[str]
    preference_covariates: list[str]
    categories: list[str]
    search: NDArray[np.float32]
    exposure: NDArray[np.float32]
    engagement: NDArray[np.float32]
    event_tables: Mapping[str, Callable[[], pd.DataFrame]]

    @property
    def search_events(self) -> pd.DataFrame:
        """In the order of the file, with its extra columns; user_id as in `users`, category as str.

        Events are many, and no model needs more than their counts: those of a Parquet file are read from it each
        time that they are asked for.
        """
        return self.event_tables["search_events"]()

    @property
    def recommendation_events(self) -> pd.DataFrame:
        """As `search_events`, with engaged as 0 or 1."""
        return self.event_tables["recommendation_events"]()

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

        def theirs(table: str) -> pd.DataFrame:
            events = self.event_tables[table]()
            return events[events["user_id"].isin(users["user_id"])].reset_index(drop=True)

        return replace(
            self,
            users=users,
            search=self.search[chosen],
            exposure=self.exposure[chosen],
            engagement=self.engagement[chosen],
            event_tables={table: partial(theirs, table) for table in self.event_tables},
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
        _validate(table, dataset.users, {name: [_FINITE] for name in self.mean})
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


def clear_away(left: Path) -> None:
    """Remove a folder that a killed process left, unless another is at work there, which holds its lock."""
    with suppress(Timeout, OSError), FileLock(left / LOCK, timeout=0):
        shutil.rmtree(left)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `folder` if all goes well, and nothing otherwise.

    It stands beside its target, on the same file system.  What a killed process left of one is cleared away by the
    next: the system lets go of its lock.
    """
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        clear_away(left)
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
    """A table and how errors name it: a frame, whose rows may be lines of `csv_file`, or else a `parquet` file."""

    label: str
    held: pd.DataFrame | None = None
    csv_file: Path | None = None
    parquet: Path | None = None

    @property
    def frame(self) -> pd.DataFrame:
        """All of it."""
        if self.held is not None:
            return self.held
        with _readable(self.parquet):
            # Without pandas' metadata an index comes as a column, and row numbers are the file's.
            return pq.read_table(self.parquet).to_pandas(ignore_metadata=True)

    @property
    def is_empty(self) -> bool:
        with _readable(self.parquet):
            return self.held.empty if self.held is not None else not pq.read_metadata(self.parquet).num_rows

    def parts(self, columns: Iterable[str]) -> Iterator[tuple[int, pd.DataFrame]]:
        """Its rows in parts that fit the memory, with at least these columns: the number of the first row, the rows."""
        if self.held is not None:
            yield 0, self.held
            return
        first = 0
        with _readable(self.parquet), pq.ParquetFile(self.parquet) as file:
            for part in file.iter_batches(PART, columns=list(columns)):
                yield first, part.to_pandas(ignore_metadata=True)
                first += part.num_rows

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
    with _readable(path):
        if path.suffix == ".csv":
            return _Table(str(path), _read_csv(path), path)
        table = _Table(str(path), parquet=path)
        if stem in _CHECKS and _comes_in_parts(pq.read_schema(path), _CHECKS[stem]):
            return table
        return replace(table, held=table.frame)


def _comes_in_parts(schema: pyarrow.Schema, columns: Iterable[str]) -> bool:
    """Whether a Parquet file's keys mean the same in a part as in the whole: floats do not, as 7.0 is 7 beside 8.0."""

    def whole_or_text(key: str) -> bool:
        kind = schema.field(key).type
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        return (
            pyarrow.types.is_integer(kind)
            or pyarrow.types.is_string(kind)
            or pyarrow.types.is_large_string(kind)
        )

    once = all(schema.names.count(name) == 1 for name in columns)
    return once and all(map(whole_or_text, KEYS))


@contextmanager
def _readable(path: Path | None) -> Iterator[None]:
    """Errors of reading a file, as one of the dataset."""
    try:
        yield
    except DatasetError:
        raise
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
_Checks = dict[str, list[pa.Check]]  #: by column
_CHECKS: dict[str, _Checks] = {
    "search_events": {"user_id": [_USER], "timestamp": [_TIME], "category": [_CATEGORY]}
}
_CHECKS["recommendation_events"] = _CHECKS["search_events"] | {"engaged": [_ENGAGED]}


def _validate(table: _Table, rows: pd.DataFrame, checks: _Checks, first_row: int = 0) -> None:
    """Raise the first failure of a table's rows: a missing column, else a bad row, else a whole column."""
    columns = {name: pa.Column(checks=column, nullable=True) for name, column in checks.items()}
    try:
        pa.DataFrameSchema(columns).validate(rows, lazy=True)
    except pa.errors.SchemaErrors as errors:
        failures = errors.failure_cases
        missing = failures[failures["check"] == "column_in_dataframe"]
        if len(missing):
            has = ", ".join(map(str, rows.columns))
            raise table.error(missing["failure_case"].iloc[0], f"missing; add it (there are {has})") from None
        first = failures.sort_values("index", kind="stable").iloc[0]
        row = None if pd.isna(first["index"]) else int(first["index"])
        if row is None and isinstance(first["failure_case"], str):  # the check itself could not be made
            problem = f"holds neither numbers nor text ({_first_line(first['failure_case'])}); convert it"
            raise table.error(first["column"], problem) from None
        if row is None:
            raise table.error(first["column"], first["check"]) from None
        found = rows[first["column"]].iloc[[row]].tolist()[0]
        raise table.error(first["column"], f"{first['check']} (found {found!r})", first_row + row) from None


def _assemble(
    description: dict[str, Any], tables: Sequence[_Table], categories: Sequence[str] | None = None
) -> Dataset:
    """Check the tables, alone and against each other, and count."""
    for table in tables:
        if table.is_empty:
            raise table.error(None, "no rows; the model needs users, and events of both surfaces")
    users, people = tables[0], tables[0].frame
    events = dict(zip(TABLES[1:], tables[1:], strict=True))
    blocks = {key: list(description[key]) for key in ("exposure_covariates", "preference_covariates")}
    covariates = [name for names in blocks.values() for name in names]
    of_covariate = [_FINITE] if categories is not None else [_FINITE, _VARIES]
    _validate(users, people, {"user_id": [_USER, _ONCE], **{name: of_covariate for name in covariates}})
    seen = {label for stem, table in events.items() for label in _labels(table, _CHECKS[stem])}

    given = description.get("categories") if categories is None else categories
    known = _sorted(seen) if given is None else [str(category) for category in given]
    ids = _coded(people["user_id"])[1]
    keys = _Keys(ids, pd.Index(known, dtype="str"), users.label)
    held = people.assign(user_id=_native(ids, users), **{name: _numbers(people[name]) for name in covariates})
    counts = {stem: keys.count(table, _CHECKS[stem]) for stem, table in events.items()}

    def as_held(stem: str) -> pd.DataFrame:
        frame = events[stem].frame
        user, category = keys.positions(events[stem], frame)
        whole = {name: _integers(frame[name]) for name in _CHECKS[stem] if name not in KEYS}
        categories = pd.array(known, dtype="str").take(category)
        return frame.assign(user_id=held["user_id"].array.take(user), category=categories, **whole)

    return Dataset(
        name=description["name"],
        users=held,
        **blocks,
        categories=known,
        search=counts["search_events"][0],
        exposure=counts["recommendation_events"][0],
        engagement=counts["recommendation_events"][1],
        event_tables={stem: partial(as_held, stem) for stem in events},
    )


def _labels(table: _Table, checks: _Checks) -> set[str]:
    """Check every row of an event table; the categories that it has."""
    labels: set[str] = set()
    for first, rows in table.parts(checks):
        _validate(table, rows, checks, first)
        labels.update(_coded(rows["category"])[1])
    return labels


@dataclass(frozen=True)
class _Keys:
    """What events may name: users, of the table with this label, and categories."""

    users: pd.Index
    categories: pd.Index
    users_label: str

    def positions(
        self, table: _Table, rows: pd.DataFrame, first_row: int = 0
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Position of each row's user and category; one that is not known is an error."""

        def among(known: pd.Index, key: str, problem: str) -> NDArray[np.intp]:
            codes, distinct = _coded(rows[key])
            positions = known.get_indexer(distinct)[codes]
            lost = np.flatnonzero(positions < 0)
            if len(lost):
                raise table.error(key, f"{distinct[codes[lost[0]]]!r} is {problem}", first_row + int(lost[0]))
            return positions

        unknown_user = f"not a user of {self.users_label}; add the user there or drop the event"
        unknown_category = "not among the known categories; recode it or drop the event"
        user = among(self.users, "user_id", unknown_user)
        return user, among(self.categories, "category", unknown_category)

    def count(self, table: _Table, columns: Iterable[str]) -> list[NDArray[np.float32]]:
        """Events of each user in each category, ``(N, C)``; where they are engaged or not, the engaged ones second."""
        shape = len(self.users), len(self.categories)
        counts = [_zeros(shape) for _ in range(2 if "engaged" in columns else 1)]
        for first, rows in table.parts(columns):
            user, category = self.positions(table, rows, first)
            cells = user * shape[1] + category
            np.add.at(counts[0].reshape(-1), cells, np.float32(1))
            if "engaged" in columns:
                np.add.at(counts[1].reshape(-1), cells, _integers(rows["engaged"]).astype(np.float32))
        return counts


def _zeros(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Zeros, in memory; many of them in a nameless file, whose pages, on a disk, the system takes back at need."""
    size = np.dtype(np.float32).itemsize * shape[0] * shape[1]
    if size <= HELD:
        return np.zeros(shape, np.float32)
    try:
        with tempfile.TemporaryFile() as file:
            # now, so that a full disk is an error here and not a crash later
            for start in range(0, size, HELD):
                file.write(bytes(min(HELD, size - start)))
            file.flush()
            return np.asarray(np.memmap(file, np.float32, "r+", shape=shape))
    except OSError as error:
        raise DatasetError(
            f"{tempfile.gettempdir()}: no counts of {size:,} bytes can be kept there ({error.strerror}); let TMPDIR "
            "be a folder on a disk with more room"
        ) from error


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
