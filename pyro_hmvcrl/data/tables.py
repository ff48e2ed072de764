"""One table of a dataset, read from Parquet or CSV: whole or in parts, with errors that name file, column and row."""

from __future__ import annotations

import csv
import warnings
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from zipfile import BadZipFile

import pandas as pd
import pandera.pandas as pa
import pyarrow
import pyarrow.parquet as pq
from pyarrow import ArrowException

from pyro_hmvcrl.data.columns import CHECKS, KEYS, MISSING, Checks
from pyro_hmvcrl.data.names import like, listed, short

TABLES = ("users", "search_events", "recommendation_events")
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
#: How files begin that are something else than their names say.
FORMS = {
    b"\x1f\x8b": "compressed data (gzip), which is to be unpacked",
    b"PK\x03\x04": "a zip or a spreadsheet",
    b"PAR1": "a Parquet file, whose name must end in .parquet",
    b"\xff\xfe": "text in UTF-16, not UTF-8",
    b"\xfe\xff": "text in UTF-16, not UTF-8",
    b"<": "a page of the web",
    b"sep=": "a first line on separators (sep=), which is to be removed",
    b"version https://git-lfs": "a pointer of Git LFS, in place of the file",
}
MOST_OF_ERROR = 300  #: characters of what a library says
PART = 1 << 20  #: rows of a Parquet file at a time, which bounds the memory


class DatasetError(ValueError):
    """A dataset that cannot be used: the message names file, column, first bad row and the mend."""


@dataclass(frozen=True)
class Table:
    """A table and how errors name it: a frame, whose rows may be lines of `csv_file`, or else a `parquet` file."""

    label: str
    held: pd.DataFrame | None = None
    csv_file: Path | None = None
    parquet: Path | None = None
    as_a_whole: bool = False  #: keys of the `parquet` file mean something else in a part of it

    @property
    def frame(self) -> pd.DataFrame:
        """All of it."""
        return self.only(None)

    def only(self, columns: Iterable[str] | None) -> pd.DataFrame:
        """All rows of a file, with those of these columns that it has."""
        if self.held is not None:
            return self.held
        names = None if columns is None else [name for name in columns if name in self.columns]
        with readable(self.parquet):
            # Without pandas' metadata an index comes as a column, and row numbers are the file's.
            return pq.ParquetFile(self.parquet).read(columns=names).to_pandas(ignore_metadata=True)

    def __len__(self) -> int:
        with readable(self.parquet):
            return len(self.held) if self.held is not None else pq.read_metadata(self.parquet).num_rows

    @property
    def is_empty(self) -> bool:
        return not len(self)

    @property
    def columns(self) -> list[str]:
        """Names of its columns."""
        with readable(self.parquet):
            return list(self.held.columns if self.held is not None else pq.read_schema(self.parquet).names)

    def parts(self, columns: Iterable[str]) -> Iterator[tuple[int, pd.DataFrame]]:
        """Its rows in parts that fit the memory, with at least these columns: the number of the first row, the rows."""
        if self.held is not None or self.as_a_whole or self.is_empty:
            yield 0, self.only(columns)
            return
        first = 0
        with readable(self.parquet), pq.ParquetFile(self.parquet) as file:
            for part in file.iter_batches(PART, columns=list(columns)):
                yield first, part.to_pandas(ignore_metadata=True)
                first += part.num_rows

    def error(self, column: str | None, problem: str, row: int | None = None) -> DatasetError:
        where = [self.label] + ([] if column is None else [f"column {short(column)}"])
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


def read_table(folder: Path, stem: str) -> Table:
    """The table of this stem in a dataset folder: the one of its two kinds of file that is there."""
    path = _find(folder, stem)
    with readable(path):
        if path.suffix.lower() == ".csv":
            return Table(str(path), _read_csv(path), path)
        names = pq.read_schema(path).names
        check_header(path, names)
        in_parts = stem in CHECKS and _comes_in_parts(pq.read_schema(path), CHECKS[stem])
        return Table(str(path), parquet=path, as_a_whole=not in_parts)


def _find(folder: Path, stem: str) -> Path:
    """The file of a table, whatever the case of its name; what else is there in its place is said."""
    names = f"{stem}.parquet", f"{stem}.csv"
    there = [
        path for path in sorted(folder.iterdir(), reverse=True) if path.stem.lower().split(".")[0] == stem
    ]
    found = [path for path in there if path.name.lower() in names]
    if len(found) > 1:
        raise DatasetError(f"{folder}: has both {found[0].name} and {found[1].name}; remove one of them")
    if not found:
        instead = (
            f", but {there[0].name}; write it as one of them"
            if there
            else f"; add one of them (there are {listed(sorted(p.name for p in folder.iterdir()))})"
        )
        raise DatasetError(f"{folder}: has neither {names[0]} nor {names[1]}{instead}")
    if not found[0].is_file():
        raise DatasetError(
            f"{found[0]}: a folder and no file; put its parts together in one file of that name (Spark: coalesce(1))"
        )
    return found[0]


def check_header(path: Path, names: Sequence[str]) -> None:
    """Raise if a name is there twice: it is not known which column is meant."""
    for name, times in Counter(names).items():
        if times > 1:
            raise DatasetError(
                f"{path}, column {short(name)}: there {times} times; leave one or rename the others"
            )


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

    return all(name in schema.names for name in columns) and all(map(whole_or_text, KEYS))


@contextmanager
def readable(path: Path | None) -> Iterator[None]:
    """Errors of reading a file, as one of the dataset."""
    try:
        yield
    except DatasetError:
        raise
    except (
        OSError,
        EOFError,
        ValueError,
        ArrowException,
        MemoryError,
        BadZipFile,
        LZMAError,
        zlib.error,
        pd.errors.ParserWarning,
    ) as error:
        what = other_form(path) or (
            "text that is not UTF-8" if isinstance(error, UnicodeDecodeError) else None
        )
        if what:
            raise DatasetError(
                f"{path}: could not be read: it holds {what}; write what its name says"
            ) from error
        raise DatasetError(f"{path}: could not be read: {_first_line(error)}; write it again") from error


def other_form(path: Path | None) -> str | None:
    """What a file begins like, if it is not what its name says."""
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(64)
    own = {".parquet": b"PAR1", ".zip": b"PK\x03\x04", ".npz": b"PK\x03\x04", ".gz": b"\x1f\x8b"}.get(
        path.suffix.lower()
    )
    return next(
        (
            what
            for sign, what in FORMS.items()
            if sign != own and start.removeprefix(BOM_UTF8).lstrip().startswith(sign)
        ),
        None,
    )


def _first_line(said: object) -> str:
    return next(iter(str(said).splitlines()), type(said).__name__)[:MOST_OF_ERROR]


def _read_csv(path: Path) -> pd.DataFrame:
    columns = _csv_header(path)
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


def _csv_header(path: Path) -> pd.Index:
    """Names of the columns, if commas separate them and each is there once."""
    csv.field_size_limit(2**31 - 1)
    with path.open(newline="", encoding="utf-8-sig") as handle:  # pandas renames what is there twice
        check_header(path, next((row for row in csv.reader(handle) if "".join(row).strip(" \t")), []))
    columns = pd.read_csv(path, nrows=0).columns
    for separator, name in SEPARATORS.items():
        if "user_id" not in columns and "user_id" in [c.strip('" ') for c in columns[0].split(separator)]:
            raise DatasetError(f"{path}: its columns are separated by {name}; write it with commas")
    return columns


def validate(table: Table, rows: pd.DataFrame, checks: Checks, first_row: int = 0) -> None:
    """Raise the first failure of a table's rows: a missing column, else a bad row, else a whole column."""
    if missing := next((name for name in checks if name not in rows), None):
        other = like(missing, table.columns)
        hint = f"rename {short(other)}" if other else "add it"
        raise table.error(missing, f"missing; {hint} (there are {listed(table.columns)})")
    columns = {name: pa.Column(checks=column, nullable=True) for name, column in checks.items()}
    try:
        pa.DataFrameSchema(columns).validate(rows, lazy=True)
    except pa.errors.SchemaErrors as errors:
        failures = errors.failure_cases
        first = failures.sort_values("index", kind="stable").iloc[0]
        row = None if pd.isna(first["index"]) else int(first["index"])
        if row is None and isinstance(first["failure_case"], str):  # the check itself could not be made
            problem = f"holds neither numbers nor text ({_first_line(first['failure_case'])}); convert it"
            raise table.error(first["column"], problem) from None
        if row is None:
            raise table.error(first["column"], first["check"]) from None
        found = rows[first["column"]].iloc[[row]].tolist()[0]
        raise table.error(
            first["column"], f"{first['check']} (found {short(found)})", first_row + row
        ) from None
