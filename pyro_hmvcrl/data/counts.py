"""From events to counts by user, period and category, part by part; only what is not 0 is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix

from pyro_hmvcrl.data.columns import CHECKS, OPTIONAL, Checks, as_codes, as_integers
from pyro_hmvcrl.data.periods import Periods
from pyro_hmvcrl.data.tables import DatasetError, Table, validate

HELD = 1 << 26  #: bytes of counts that are held in memory; more are kept in a file


MARKS = ("engaged", "suggested")  #: columns that mark some of the events


def checks_of(table: Table, stem: str) -> Checks:
    """The checks of an event table's columns, with those that it may have and has."""
    return CHECKS[stem] | {name: of for name, of in OPTIONAL[stem].items() if name in table.columns}


def survey(table: Table, checks: Checks) -> tuple[set[str], int, int]:
    """Check every row of an event table: the categories that it has, and its first and last moment."""
    labels: set[str] = set()
    first_time, last_time = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    for first, rows in table.parts(checks):
        validate(table, rows, checks, first)
        labels.update(as_codes(rows["category"])[1])
        times = as_integers(rows["timestamp"])
        first_time, last_time = min(first_time, int(times.min())), max(last_time, int(times.max()))
    return labels, first_time, last_time


@dataclass(frozen=True)
class Keys:
    """What events may name: users, of the table with this label, and categories."""

    users: pd.Index
    categories: pd.Index
    users_label: str

    def positions(
        self, table: Table, rows: pd.DataFrame, first_row: int = 0
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Position of each row's user and category; one that is not known is an error."""

        def among(known: pd.Index, key: str, problem: str) -> NDArray[np.intp]:
            codes, distinct = as_codes(rows[key])
            positions = known.get_indexer(distinct)[codes]
            lost = np.flatnonzero(positions < 0)
            if len(lost):
                raise table.error(key, f"{distinct[codes[lost[0]]]!r} is {problem}", first_row + int(lost[0]))
            return positions

        unknown_user = f"not a user of {self.users_label}; add the user there or drop the event"
        unknown_category = "not among the known categories; recode it or drop the event"
        user = among(self.users, "user_id", unknown_user)
        return user, among(self.categories, "category", unknown_category)

    def count(self, table: Table, columns: Iterable[str], periods: Periods) -> list[csr_matrix]:
        """Events of each user in each period and category, ``(N, T C)``; where some are marked, those apart.

        Of recommendations the second matrix has those that were engaged with, of searches those that were suggested;
        the first has all recommendations, and the searches of the users' own.
        """
        mark = next((name for name in MARKS if name in columns), None)
        parts: list[tuple[NDArray[Any], ...]] = []
        for first, rows in table.parts(columns):
            user, category = self.positions(table, rows, first)
            cell = periods.at(as_integers(rows["timestamp"])) * len(self.categories) + category
            marked = as_integers(rows[mark]).astype(bool) if mark else np.zeros(len(rows), bool)
            parts.append((user.astype(np.int32), cell.astype(np.int32), marked))
        user, cell, marked = map(np.concatenate, zip(*parts, strict=True))
        parts.clear()
        shape = len(self.users), periods.number * len(self.categories)

        def counted(some: NDArray[np.bool_] | slice) -> csr_matrix:
            places = user[some], cell[some]
            return _kept(coo_matrix((np.ones(len(places[0]), np.float32), places), shape).tocsr())

        every = slice(None) if mark != "suggested" else ~marked
        return [counted(every)] + ([counted(marked)] if mark == "engaged" or marked.any() else [])


def _kept(counts: csr_matrix) -> csr_matrix:
    """Counts as they are, or, if they are many, with their arrays in a nameless file.

    Its pages are on a disk, and the system takes them back at need.
    """
    if counts.data.nbytes + counts.indices.nbytes > HELD:
        counts.data, counts.indices = _in_file(counts.data), _in_file(counts.indices)
    return counts


def _in_file(values: NDArray[Any]) -> NDArray[Any]:
    try:
        with tempfile.TemporaryFile() as file:
            for start in range(
                0, len(values), HELD
            ):  # now, so that a full disk is an error here and no crash later
                file.write(values[start : start + HELD].tobytes())
            file.flush()
            return np.asarray(np.memmap(file, values.dtype, "r+", shape=values.shape))
    except OSError as error:
        raise DatasetError(
            f"{tempfile.gettempdir()}: no counts of {values.nbytes:,} bytes can be kept there ({error.strerror}); let "
            "TMPDIR be a folder on a disk with more room"
        ) from error
