"""KuaiSAR's files in a zip or a folder: found by name, read by the columns' names."""

from __future__ import annotations

import csv
import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray
from pandas import Categorical, DataFrame, Series, factorize
from tqdm.auto import tqdm

from pyro_hmvcrl.data.names import WHOLE, listed, short

BLOCK = 1 << 26  #: bytes that the parser takes at a time; captions are long
#: What reading a damaged zip raises; RuntimeError: it looks encrypted, or compressed in a way unknown here.
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, RuntimeError)
NUMBER, TEXT = pa.float64(), pa.string()
#: What is read of each file, by the columns' names: their order differs from the documentation's.
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "user_features.csv": {
        "user_id": NUMBER,
        "onehot_feat1": TEXT,
        "onehot_feat2": TEXT,
        "search_active_level": NUMBER,
        "rec_active_level": NUMBER,
    },
    "item_features.csv": {"item_id": NUMBER, "upload_time": TEXT, "upload_type": TEXT},
    "rec_inter.csv": {
        "user_id": NUMBER,
        "item_id": NUMBER,
        "duration_ms": pa.float32(),
        "timestamp": NUMBER,
        "click": pa.float32(),
        "like": pa.float32(),
        "follow": pa.float32(),
        "forward": pa.float32(),
    },
    "src_inter.csv": {
        "keyword": TEXT,
        "item_id": NUMBER,
        "click_cnt": pa.float32(),
        "search_session_id": TEXT,
        "item_type": TEXT,
        "user_id": NUMBER,
        "search_session_timestamp": NUMBER,
        "search_source": TEXT,
    },
    "social_network.csv": {"user_id": NUMBER, "user_follow_id": TEXT},
}
FEEDBACK = ("like", "follow", "forward")  #: columns of rec_inter.csv that are outcomes, which a copy may lack
WORDS = ("search_source", "item_type")  #: columns of words that stand for something
IDS = ("user_id", "item_id")
PAST_FLOATS = "past 2^53, from where on integers are not told apart here"
SEPARATOR = re.compile("[;\t|]")
LARGE, MOST_UNFOLDED = 1 << 28, 100  #: bytes, and times as many as packed, that a file may have
ALIASES = {"reco_active_level": "rec_active_level"}  #: seen in copies of the files


class KuaisarError(ValueError):
    """Files that cannot be imported: the message names file, column, row and the mend."""


@dataclass
class Account:
    """Rows read of each file, and those left out by reason."""

    read: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    missing: dict[str, dict[str, int]] = field(default_factory=dict)

    def keep(self, file: str, frame: DataFrame, good: NDArray[np.bool_], reason: str) -> DataFrame:
        """The good rows; the others are counted under `reason`."""
        lost = len(frame) - int(good.sum())
        if lost:
            reasons = self.dropped.setdefault(file, {})
            reasons[reason] = reasons.get(reason, 0) + lost
        return frame[good] if lost else frame

    def without(self, file: str, column: str, reasons: dict[str, NDArray[np.bool_]]) -> None:
        """Count rows that are kept without a value of this column, by reason."""
        for reason, rows in reasons.items():
            if number := int(rows.sum()):
                self.missing.setdefault(file, {})[f"{column} {reason}"] = number

    def to_dict(self) -> dict[str, Any]:
        """A file each: rows read, kept, dropped by reason, and kept without a value by reason if there are such."""
        files: dict[str, Any] = {}
        for file, read in self.read.items():
            dropped = self.dropped.get(file, {})
            files[file] = {"read": read, "kept": read - sum(dropped.values()), "dropped": dropped}
            if file in self.missing:
                files[file]["without_a_value"] = self.missing[file]
        return files


class Files:
    """The files of a zip or a folder, found by name at any depth."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise KuaisarError(
                f"{path}: no such file or folder; give KuaiSAR's zip, or the folder of its files"
            )
        names = [*COLUMNS, "truth.npz"]
        if path.is_dir():
            there = [p for p in sorted(path.rglob("*")) if p.is_file()]
            self.sizes = {str(p): p.stat().st_size for p in there if _name(p).startswith(tuple(names))}
        else:
            with self._archive() as archive:
                members = [i for i in archive.infolist() if not i.is_dir()]
                self.sizes = {i.filename: i.file_size for i in members}
                self._check_sizes([i for i in members if _name(i.filename) in names])
        self.found = {name: [p for p in self.sizes if _name(p) == name] for name in names}
        for name in COLUMNS:
            if len(self.found[name]) != 1:
                problem = "not there" if not self.found[name] else f"there {len(self.found[name])} times"
                packed = [PureWindowsPath(p).name for p in self.sizes if _name(p).startswith(f"{name}.")]
                instead = f", but {packed[0]}: unpack it" if packed and not self.found[name] else ""
                raise KuaisarError(
                    f"{path}: {name} is {problem}{instead}; give one release of KuaiSAR, whole"
                )

    def _check_sizes(self, members: list[zipfile.ZipInfo]) -> None:
        """No file of logs is a hundredth of its size when packed; one that says so would fill the memory."""
        for member in members:
            if member.file_size > max(LARGE, MOST_UNFOLDED * member.compress_size):
                raise KuaisarError(
                    f"{self.path}, {_name(member.filename)}: {member.compress_size:,} bytes that unfold to "
                    f"{member.file_size:,}, as no logs do; download the archive again"
                )

    @property
    def truth(self) -> bytes | None:
        """Of a generated copy."""
        if not self.found["truth.npz"]:
            return None
        with self._open("truth.npz") as handle:
            return handle.read()

    def label(self, name: str) -> str:
        """How errors name a file."""
        return f"{self.path}, {name}"

    def read(
        self,
        name: str,
        columns: dict[str, pa.DataType],
        account: Account,
        progress: bool,
        optional: Sequence[str] = (),
    ) -> DataFrame:
        """Some columns of a file; text comes as categories.

        Raises
        ------
        KuaisarError
            If a column is missing, or a row cannot be read.
        """
        with self._rows(name) as rows:
            header = next(rows, [])
        known = [ALIASES.get(column.strip(), column.strip()) for column in header]
        wanted = {c: t for c, t in columns.items() if c in known or c not in optional}
        for column in wanted:
            if column not in known:
                there = listed(known) or "nothing"
                hint = (
                    " (separate columns by commas)" if len(known) == 1 and SEPARATOR.search(known[0]) else ""
                )
                raise KuaisarError(
                    f"{self.label(name)}: no column {column!r}; its first line has {there}{hint}"
                )
            if known.count(column) > 1:
                raise KuaisarError(
                    f"{self.label(name)}: column {column!r} is there {known.count(column)} times; leave one"
                )
        types = {c: pa.dictionary(pa.int32(), t) if t == TEXT else t for c, t in wanted.items()}
        bar = {"desc": name, "disable": not progress, "leave": False}
        try:
            with (
                self._open(name) as handle,
                tqdm.wrapattr(handle, "read", self.sizes[self.found[name][0]], **bar) as counted,
                pa.PythonFile(counted, mode="r") as file,
            ):
                table = pacsv.read_csv(
                    file,
                    pacsv.ReadOptions(block_size=BLOCK, column_names=known, skip_rows=1),
                    pacsv.ParseOptions(newlines_in_values=name == "item_features.csv"),
                    pacsv.ConvertOptions(
                        include_columns=list(wanted), column_types=types, strings_can_be_null=True
                    ),
                )
        except MemoryError:
            raise KuaisarError(
                f"{self.label(name)}: too large for the memory of this machine; give the small release, or a machine "
                "with more memory"
            ) from None
        except pa.ArrowException as error:
            place = self._place(name, known, wanted) or f": {str(error)[:300]}; get the file again"
            raise KuaisarError(f"{self.label(name)}{place}") from None
        account.read[name] = len(table)
        frame = table.unify_dictionaries().to_pandas(strings_to_categorical=True, self_destruct=True)
        for column in frame.columns.intersection(IDS):
            self.check(name, frame, column, ~(frame[column].abs() >= 2**53).to_numpy(), PAST_FLOATS)
        codes = [c for c in wanted if types[c] != wanted[c] and _is_code(c)]
        return frame.assign(**{c: _codes(frame[c], c) for c in codes})

    def check(self, name: str, rows: DataFrame, column: str, good: NDArray[np.bool_], problem: str) -> None:
        """Raise for the first row that is not good; the frame's index counts the rows of the file."""
        bad = np.flatnonzero(~good)
        if len(bad):
            row, value = rows.index[bad[0]] + 1, rows[column].iloc[bad[0]]
            raise KuaisarError(
                f"{self.label(name)}, column {column!r}, row {row}: {value} is {problem}; correct it"
            )

    def _place(self, name: str, known: list[str], wanted: dict[str, pa.DataType]) -> str:
        """Where a file cannot be read: a slow second look, for the message."""
        numbers = [(known.index(c), c) for c, t in wanted.items() if t != TEXT]
        with self._rows(name) as rows:
            next(rows)
            for n, row in enumerate(rows, 1):
                if row and len(row) != len(known):
                    return f", row {n}: {len(row)} values for {len(known)} columns; get the file again"
                for at, column in numbers:
                    if row and row[at] and not _is_number(row[at]):
                        return f", column {column!r}, row {n}: {short(row[at])} is not a number; correct it"
        return ""

    @contextmanager
    def _rows(self, name: str) -> Iterator[Iterator[list[str]]]:
        csv.field_size_limit(2**31 - 1)
        with self._open(name) as handle, io.TextIOWrapper(handle, "utf-8-sig", "replace", "") as text:
            try:
                yield csv.reader(text)
            except csv.Error as error:
                raise KuaisarError(f"{self.label(name)}: {error}; get the file again") from None

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        path = self.found[name][0]
        if self.path.is_dir():
            with Path(path).open("rb") as handle:
                yield handle
            return
        try:
            with self._archive() as archive, archive.open(path) as member:
                yield member
        except DAMAGE as error:
            raise KuaisarError(f"{self.label(name)}: damaged ({error}); download the archive again") from None

    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (*DAMAGE, ValueError):  # the latter: a name that is no text
            raise KuaisarError(f"{self.path}: not a zip, or cut off; download it again") from None


def _name(path: str | Path) -> str:
    """A file's name, whatever its case and the system that wrote its path."""
    return PureWindowsPath(path).name.lower()


def _is_code(column: str) -> bool:
    """Whether a column of text has codes or words of a few kinds, which may have been saved in another form."""
    return column.endswith(("_id", "_type", "_source")) or column.startswith("onehot_")


def _codes(values: Series, column: str) -> Series:
    """Codes without the ".0" of integers that were saved as floats, nor their zeros before; words in capitals."""
    written = values.cat.categories.str.strip().str.replace(rf"^{WHOLE}$", r"\1", regex=True)
    if column.endswith("_category_id"):
        written = written.str.replace(r"^0+(?=[0-9]+$)", "", regex=True)
    plain, distinct = factorize(written.str.upper() if column in WORDS else written)
    codes = np.append(plain, -1)[values.cat.codes]
    return Series(Categorical.from_codes(codes, categories=distinct), index=values.index)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
