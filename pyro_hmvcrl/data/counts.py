"""From events to counts by user and category, part by part."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pyro_hmvcrl.data.columns import Checks, as_codes, as_integers
from pyro_hmvcrl.data.tables import DatasetError, Table, validate

HELD = 1 << 26  #: bytes of counts that are held in memory; more are kept in a file


def labels_of(table: Table, checks: Checks) -> set[str]:
    """Check every row of an event table; the categories that it has."""
    labels: set[str] = set()
    for first, rows in table.parts(checks):
        validate(table, rows, checks, first)
        labels.update(as_codes(rows["category"])[1])
    return labels


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

    def count(self, table: Table, columns: Iterable[str]) -> list[NDArray[np.float32]]:
        """Events of each user in each category, ``(N, C)``; where they are engaged or not, the engaged ones second."""
        shape = len(self.users), len(self.categories)
        counts = [_zeros(shape) for _ in range(2 if "engaged" in columns else 1)]
        for first, rows in table.parts(columns):
            user, category = self.positions(table, rows, first)
            cells = user * shape[1] + category
            np.add.at(counts[0].reshape(-1), cells, np.float32(1))
            if "engaged" in columns:
                np.add.at(counts[1].reshape(-1), cells, as_integers(rows["engaged"]).astype(np.float32))
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
