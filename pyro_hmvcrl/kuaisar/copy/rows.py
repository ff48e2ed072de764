"""Rows of the generated copy, and how they are written as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pyro_hmvcrl.kuaisar.clock import DAY
from pyro_hmvcrl.kuaisar.copy.laws import CLOSES, FIRST_DATE, OPENS, SLOTS
from pyro_hmvcrl.kuaisar.copy.population import Ints, Mask, Rows
from pyro_hmvcrl.synthetic.design import Array


def draw_moments(rng: np.random.Generator, slot: Ints, night: Mask) -> Ints:
    """Local times in ms: 0-6 h at night, else mostly in the evening.

    Slot 0 is the first date after the window opens and the last date before it closes.
    """
    n = len(slot)
    hour = np.where(night, 6 * rng.random(n), 6 + 18 * rng.beta(2, 1.5, size=n))
    parts = slot == 0
    hour[parts & (hour >= CLOSES) & (hour < OPENS)] += 7  # between the two parts: later that evening
    day = np.where(parts & (hour < CLOSES), SLOTS, slot)
    return np.asarray((FIRST_DATE + day) * DAY + (hour * (DAY / 24)).astype(np.int64))


def randomly_rounded(rng: np.random.Generator, values: NDArray[np.floating]) -> Ints:
    """Whole numbers of these means."""
    return np.floor(values + rng.random(len(values))).astype(np.int64)


def draw_categories(rng: np.random.Generator, user: Ints, probability: Array) -> Ints:
    """One category per event, of the law ``(n, C)`` of its user."""
    categories = probability.shape[1]
    upto = np.cumsum(probability, 1)[:, :-1]  # what rounding leaves over is the last category's
    ladder = np.hstack([upto, np.ones((len(upto), 1))]) + np.arange(len(upto))[:, None]
    rung = np.searchsorted(ladder.ravel(), user + rng.random(len(user)), side="right")
    return np.minimum(rung - categories * user, categories - 1)


def rows_at(rows: Rows, places: Ints) -> Rows:
    """The rows at these places."""
    return {name: column[places] for name, column in rows.items()}


def joined(parts: Sequence[Rows]) -> Rows:
    """Tables of the same columns as one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def shuffled(rng: np.random.Generator, rows: Rows) -> Rows:
    """The rows in random order."""
    return rows_at(rows, rng.permutation(len(rows["user"])))


def token_lists(tokens: Ints, lengths: Ints) -> pa.Array:
    """``(n, most)`` tokens, of which each list has its length, as text such as ``[12, 345]``."""
    used = np.arange(tokens.shape[1]) < lengths[:, None]
    ends = np.append(0, np.cumsum(lengths)).astype(np.int32)
    joined = pc.binary_join(pa.ListArray.from_arrays(ends, as_text(tokens[used])), ", ")
    return pc.binary_join_element_wise("[", joined, "]", "")


def as_text(values: NDArray[Any]) -> pa.Array:
    """Values as a column of text."""
    return pa.array(values).cast(pa.string())


def with_point(values: Ints) -> pa.Array:
    """Whole numbers as floating-point text, ``7.0``."""
    return pc.binary_join_element_wise(as_text(values), "0", ".")


def clock_text(local: Ints) -> pa.Array:
    """Local ms as text, to the second."""
    return pa.array(local // 1_000, pa.timestamp("s")).cast(pa.string())


def picked(names: Sequence[str], which: Ints) -> pa.Array:
    """Names by position."""
    return pa.array(names).take(pa.array(which))


def quoted(values: pa.Array) -> pa.Array:
    """In quotes where CSV needs them."""
    doubled = pc.replace_substring(values, '"', '""')
    return pc.if_else(
        pc.match_substring_regex(values, '[",\r\n]'),
        pc.binary_join_element_wise('"', doubled, '"', ""),
        values,
    )


def write_header(file: BinaryIO, names: Sequence[str]) -> None:
    """The first line of a CSV file."""
    file.write((",".join(names) + "\n").encode())


def write_rows(file: BinaryIO, columns: Sequence[pa.Array]) -> None:
    """Lines of CSV.  pyarrow's own writer would put every text in quotes, which the real files do not."""
    lines = pc.binary_join_element_wise(pc.binary_join_element_wise(*columns, ","), "", "\n")
    file.write(lines.buffers()[2])
