"""FINN.no's three files: found by name in a folder, arrays by name in the files, and never a pickle.

``data.npz`` (or ``data32.npz``, the same in 32 bits) has ``userId (U,)``, ``slate (U, T, S)``, ``click (U, T)`` and
``interaction_type (U, T)``; its ``click_idx`` and ``slate_lengths`` follow from these, and are not read.
``itemattr.npz`` has ``category (I,)``, a group for each item, and ``ind2val.json`` the names of the groups and of the
types of interaction.  Format: https://github.com/finn-no/recsys_slates_dataset (Apache-2.0).
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pyro_hmvcrl.data.files import read_json
from pyro_hmvcrl.data.names import listed, short
from pyro_hmvcrl.data.tables import DatasetError, other_form, readable

DATA, ITEMS, NAMES = "data.npz", "itemattr.npz", "ind2val.json"
ALSO = {DATA: "data32.npz"}  #: other names of a file
AGAIN = "get the file again"
MOST = 2**53  #: from where on floats do not tell whole numbers apart


def find_files(folder: Path) -> dict[str, Path]:
    """The three files of a folder, at any depth.

    Raises
    ------
    DatasetError
        If there is no such folder, or a file is not there once.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give the one that has {DATA}, {ITEMS} and {NAMES}")
    found = {}
    for name in (DATA, ITEMS, NAMES):
        there = sorted(p for p in folder.rglob("*") if p.is_file() and p.name == name)
        there = there or sorted(p for p in folder.rglob("*") if p.is_file() and p.name == ALSO.get(name))
        if len(there) != 1:
            problem = f"there {len(there)} times; leave one" if there else f"not there; {AGAIN}"
            raise DatasetError(f"{folder}: {name} is {problem}")
        found[name] = there[0]
    return found


def read_array(path: Path, name: str, dimensions: int, rows: int | None = None) -> NDArray[Any]:
    """An array of numbers of an ``.npz``, or its first rows, of which alone the memory is filled.

    Raises
    ------
    DatasetError
        If the file cannot be read, has no such array, or not one of numbers in as many dimensions.
    """
    with readable(path):
        if not zipfile.is_zipfile(path):
            raise ValueError(f"it holds {other_form(path) or 'no .npz, or one that is cut off'}")
        try:
            return _read_member(path, name, dimensions, rows)
        except (RuntimeError, struct.error) as error:  # looks encrypted, or packed in a way unknown here
            raise ValueError(str(error)) from None


def _read_member(path: Path, name: str, dimensions: int, rows: int | None) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if name not in members:
            raise DatasetError(f"{path}: no array {name!r}; there are {listed(sorted(members))}; {AGAIN}")
        with archive.open(members[name]) as file:
            shape, by_column, kind = _header(file)
            _check_kind(path, name, shape, by_column, kind, dimensions)
            first = shape[0] if rows is None else min(rows, shape[0])
            size = first * int(np.prod(shape[1:], dtype=object)) * kind.itemsize
            if size > members[name].file_size:
                raise _error(path, name, f"cut off, it is to have {size:,} bytes; {AGAIN}")
            return np.frombuffer(file.read(size), kind).reshape(first, *shape[1:])


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and kind of number, as the file says."""
    version = npy.read_magic(file)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"an array in version {version[0]}.{version[1]} of the format, unknown here")
    return read(file)


def _check_kind(
    path: Path, name: str, shape: tuple[int, ...], by_column: bool, kind: np.dtype[Any], dimensions: int
) -> None:
    if kind.hasobject:
        raise _error(path, name, "objects of Python (pickle), which are never opened; save it as integers")
    if kind.kind not in "iuf":
        raise _error(path, name, f"of kind {kind}, and no numbers; save it as integers")
    if len(shape) != dimensions or any(n < 0 for n in shape):
        raise _error(path, name, f"of shape {shape}, and not of {dimensions} dimensions; {AGAIN}")
    if by_column and dimensions > 1:
        raise _error(path, name, "saved by columns (Fortran's order); save it by rows")


def _error(path: Path, name: str, problem: str) -> DatasetError:
    return DatasetError(f"{path}, array {name!r}: {problem}")


def check(path: Path, name: str, values: NDArray[Any], good: NDArray[np.bool_], problem: str) -> None:
    """Raise for the first value that is not good, with its place (row from 1, then position from 1)."""
    if good.all():
        return
    place = np.unravel_index(int((~good).argmax()), good.shape)
    where = ", ".join(str(int(at) + 1) for at in place)
    raise DatasetError(
        f"{path}, array {name!r}, row {where}: {values[place]} is {problem}; correct it, or {AGAIN}"
    )


def whole(path: Path, name: str, values: NDArray[Any]) -> NDArray[np.int64]:
    """Values as integers from 0 on.

    Raises
    ------
    DatasetError
        If one is not.
    """
    good = (values >= 0) & (values < MOST)
    if values.dtype.kind == "f":
        good &= values == np.floor(values)
    check(path, name, values, good, "no whole number from 0 on")
    return values.astype(np.int64, copy=False)


def read_names(path: Path, key: str) -> dict[int, str]:
    """Names by number, of one part of ``ind2val.json``.

    Raises
    ------
    DatasetError
        If it is not there, or holds something else.
    """
    with readable(path):
        if what := other_form(path):
            raise ValueError(f"it holds {what}")
        content = read_json(path)
    part = content.get(key) if isinstance(content, dict) else None
    if not isinstance(part, dict) or not part:
        raise DatasetError(f"{path}: no object {key!r}; {AGAIN}")
    for number, name in part.items():
        if not (number.isascii() and number.isdigit() and isinstance(name, str)):
            raise DatasetError(
                f"{path}, {key!r}: {short(number)} is to be a number, and stand for a name; {AGAIN}"
            )
    return {int(number): name for number, name in part.items()}
