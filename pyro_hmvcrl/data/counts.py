"""From events to counts by user, period and category, part by part; only what is not 0 is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.util import hash_array
from scipy.sparse import coo_matrix, csr_matrix

from pyro_hmvcrl.data.columns import CHECKS, MARK, OPTIONAL, Checks, as_codes, as_integers
from pyro_hmvcrl.data.names import WHOLE, like, short
from pyro_hmvcrl.data.periods import COARSE, EARLIEST, Periods, latest
from pyro_hmvcrl.data.tables import DatasetError, Table, validate

HELD = 1 << 26  #: bytes of counts that are held in memory; more are kept in a file


MARKS = ("engaged", "suggested")  #: columns that mark some of the events


def checks_of(table: Table, stem: str, outcomes: Sequence[str] = ()) -> Checks:
    """The checks of an event table's columns, with those that it may have and has, and of recommendations outcomes."""
    optional = {name: of for name, of in OPTIONAL[stem].items() if name in table.columns}
    further = {name: [MARK] for name in outcomes if stem == "recommendation_events"}
    return CHECKS[stem] | optional | further


def from_on(rows: pd.DataFrame, since: int | None) -> pd.DataFrame:
    """The events from a moment on (ms since epoch), numbered as they were; all without one."""
    return rows if since is None else rows[as_integers(rows["timestamp"]) >= since]


@dataclass(frozen=True)
class Survey:
    """What a first look at an event table found."""

    labels: pd.Series  #: events by category
    first: int  #: moment, ms since epoch
    last: int
    strange: int  #: events at times that no logs of today have
    strange_time: int | None  #: the first of these
    engaged: int  #: events that are engaged with
    coarse: bool  #: whether all times are multiples of what no clock counts in
    before: int  #: events that are left out, as they are before the first moment that is used
    said: Mapping[str, int]  #: events of which a further outcome holds, by its name

    @property
    def events(self) -> int:
        return int(self.labels.sum())


def survey(table: Table, checks: Checks, since: int | None = None, outcomes: Sequence[str] = ()) -> Survey:
    """Check every row of an event table: which categories it has, and when, from a moment on."""
    said = dict.fromkeys((name for name in outcomes if name in checks), 0)
    labels, strange, engaged, before, coarse = pd.Series(dtype="int64"), [], 0, 0, True
    first_time, last_time = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    for first, rows in table.parts(checks):
        validate(table, rows, checks, first)
        n_rows, rows = len(rows), from_on(rows, since)
        before += n_rows - len(rows)
        codes, distinct = as_codes(rows["category"])
        labels = labels.add(pd.Series(np.bincount(codes, minlength=len(distinct)), distinct), fill_value=0)
        times = as_integers(rows["timestamp"])
        first_time = min(first_time, int(times.min(initial=first_time)))
        last_time = max(last_time, int(times.max(initial=last_time)))
        coarse = coarse and not (times % COARSE).any()
        strange.append(times[(times < EARLIEST) | (times >= latest())])
        if "engaged" in checks:
            engaged += int(as_integers(rows["engaged"]).sum())
        said = {name: n + int(as_integers(rows[name]).sum()) for name, n in said.items()}
    odd = np.concatenate(strange)
    return Survey(
        labels.astype("int64"),
        first_time,
        last_time,
        len(odd),
        int(odd[0]) if len(odd) else None,
        engaged,
        coarse and first_time < last_time,
        before,
        said,
    )


@dataclass(frozen=True)
class Counted:
    """An event table's counts, and what counting found."""

    matrices: list[csr_matrix]
    copies: int  #: rows that say the same as another
    unknown: int  #: rows left out, as their category is not known
    unknown_category: str | None  #: the first of these
    outcomes: Mapping[str, csr_matrix] = field(default_factory=dict)  #: events of which each holds


@dataclass(frozen=True)
class Keys:
    """What events may name: users, of the table with this label, and categories."""

    users: pd.Index
    categories: pd.Index
    users_label: str
    leave_out: bool = False  #: events of other categories, rather than refuse them

    def positions(
        self, table: Table, rows: pd.DataFrame, first_row: int = 0
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Position of each row's user and category; a user who is not known is an error, a category may be (-1).

        The index of `rows` counts from `first_row` on.
        """

        def among(known: pd.Index, key: str, problem: str, refuse: bool = True) -> NDArray[np.intp]:
            codes, distinct = as_codes(rows[key])
            found = known.get_indexer(distinct)
            if (found < 0).any():  # integers that were saved as floats
                again = known.get_indexer(distinct.str.replace(rf"^{WHOLE}$", r"\1", regex=True))
                found = np.where(found < 0, again, found)
            positions = found[codes]
            lost = np.flatnonzero(positions < 0)
            if len(lost) and refuse:
                label = distinct[codes[lost[0]]]
                other = like(label, known)
                there = "" if other is None else f" (there is {short(other)}, written otherwise)"
                raise table.error(
                    key, f"{short(label)} is {problem}{there}", first_row + int(rows.index[lost[0]])
                )
            return positions

        unknown_user = f"not a user of {self.users_label}; add the user there or drop the event"
        unknown_category = "not among the known categories; recode it or drop the event"
        user = among(self.users, "user_id", unknown_user)
        return user, among(self.categories, "category", unknown_category, not self.leave_out)

    def count(
        self,
        table: Table,
        columns: Iterable[str],
        periods: Periods,
        since: int | None = None,
        outcomes: Sequence[str] = (),
    ) -> Counted:
        """Events of each user in each period and category, ``(N, T C)``; where some are marked, those apart.

        Of recommendations the second matrix has those that were engaged with, of searches those that were suggested;
        the first has all recommendations, and the searches of the users' own.  Of further `outcomes` each has a matrix.
        """
        outcomes = [name for name in outcomes if name in columns]
        mark = next((name for name in MARKS if name in columns), None)
        parts: list[tuple[NDArray[Any], ...]] = []
        unknown, example = 0, None
        for first, rows in table.parts(columns):
            rows = from_on(rows, since)
            user, category = self.positions(table, rows, first)
            time = as_integers(rows["timestamp"])
            marked = as_integers(rows[mark]).astype(bool) if mark else np.zeros(len(rows), bool)
            said = [as_integers(rows[name]).astype(bool) for name in outcomes]
            known = category >= 0
            if not known.all():
                unknown += int((~known).sum())
                example = example or str(rows["category"].iloc[np.flatnonzero(~known)[0]])
                user, category, time, marked, *said = (
                    of[known] for of in (user, category, time, marked, *said)
                )
            cell = periods.at(time) * len(self.categories) + category
            told = _told_by(user, category, time, marked)
            parts.append((user.astype(np.int32), cell.astype(np.int32), marked, told, *said))
        user, cell, marked, told, *said = map(np.concatenate, zip(*parts, strict=True))
        parts.clear()
        told.sort()
        copies = int((told[1:] == told[:-1]).sum())
        shape = len(self.users), periods.number * len(self.categories)

        def counted(some: NDArray[np.bool_] | slice) -> csr_matrix:
            places = user[some], cell[some]
            return _kept(coo_matrix((np.ones(len(places[0]), np.float32), places), shape).tocsr())

        every = slice(None) if mark != "suggested" else ~marked
        matrices = [counted(every)] + ([counted(marked)] if mark == "engaged" or marked.any() else [])
        by_outcome = {name: counted(of) for name, of in zip(outcomes, said, strict=True)}
        return Counted(matrices, copies, unknown, example, by_outcome)


def _told_by(*columns: NDArray[Any]) -> NDArray[np.uint64]:
    """A number of what each row says, the same for copies and hardly ever for others."""
    found = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        found = hash_array(found ^ hash_array(column.astype(np.int64)))
    return found


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
