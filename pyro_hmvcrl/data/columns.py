"""What a column of a dataset must hold, and its values as numbers or codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray

#: Text as it stands in CSV: "007" is not 7, and a category may be called "None".
KEYS = ("user_id", "category")
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "None")  #: in CSV's other columns


def as_numbers(values: pd.Series) -> NDArray[np.float64]:
    """A column as numbers, NaN where it holds none."""
    if not pd.api.types.is_numeric_dtype(values):
        values = pd.to_numeric(values.astype("str"), errors="coerce")
    return values.to_numpy(np.float64, na_value=np.nan)


def as_codes(values: pd.Series) -> tuple[NDArray[np.intp], pd.Index]:
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
    codes, distinct = as_codes(values)
    return (codes >= 0) & np.append(distinct != "", False)[codes]


def _whole(values: pd.Series) -> NDArray[np.bool_]:
    numbers = as_numbers(values)
    return (numbers == np.floor(numbers)) & (np.abs(numbers) < 2.0**62)


def _varies(values: pd.Series) -> bool:
    numbers = as_numbers(values)
    with np.errstate(all="ignore"):  # the finite check speaks of NaN and infinity
        return bool(numbers.min() != numbers.max()) and numbers.std() not in (0, np.inf)


USER = _check(_present, "missing; fill it in or drop the row")
ONCE = _check(lambda v: ~pd.Index(as_codes(v)[0]).duplicated(), "this user has a row already; drop one")
FINITE = _check(lambda v: np.isfinite(as_numbers(v)), "not a finite number; fill it in or drop the user")
VARIES = pa.Check(
    _varies, error="does not vary over users, or its variance overflows; take it out or rescale it"
)
_TIME = _check(_whole, "not an integer, milliseconds since the epoch; convert it")
_CATEGORY = _check(_present, "missing; fill it in or drop the event")
_MARK = _check(lambda v: np.isin(as_numbers(v), (0, 1)), "neither 0 nor 1; recode it or drop the event")
Checks = dict[str, list[pa.Check]]  #: by column
CHECKS: dict[str, Checks] = {
    "search_events": {"user_id": [USER], "timestamp": [_TIME], "category": [_CATEGORY]}
}
CHECKS["recommendation_events"] = CHECKS["search_events"] | {"engaged": [_MARK]}
OPTIONAL: dict[str, Checks] = {"search_events": {"suggested": [_MARK]}, "recommendation_events": {}}


def as_integers(values: pd.Series) -> NDArray[np.int64]:
    """A column of whole numbers, to the last digit."""
    whole = pd.api.types.is_integer_dtype(values)  # not by way of float, which holds 53 bits
    return values.to_numpy(np.int64) if whole else as_numbers(values).astype(np.int64)
