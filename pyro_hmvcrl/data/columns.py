"""What a column of a dataset must hold, and its values as numbers or codes."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray

#: Text as it stands in CSV: "007" is not 7, and a category may be called "None".
KEYS = ("user_id", "category")
MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "None")  #: in CSV's other columns
WORDS = {
    "true": 1.0,
    "false": 0.0,
}  #: numbers in words, where a gap or text keeps a column from being one of booleans
SAME = 1e-12  #: relative difference of numbers that are the same but for rounding
#: How a float past 2^53 is written, after which the integers next to it are the same number.
ROUNDED = r"(?i)-?[0-9](?:\.[0-9]+)?e\+[0-9]{2,}|-?(?:9[0-9]{15}|[0-9]{17,})\.0"


def as_numbers(values: pd.Series) -> NDArray[np.float64]:
    """A column as numbers, NaN where it holds none; true is 1 and false 0."""
    if not pd.api.types.is_numeric_dtype(values):
        text = values.astype("str")
        words = text.str.strip().str.lower().map(WORDS).astype("float64")
        values = pd.to_numeric(text, errors="coerce").astype("float64").fillna(words)
    return values.to_numpy(np.float64, na_value=np.nan)


def as_codes(values: pd.Series) -> tuple[NDArray[np.intp], pd.Index]:
    """Codes (-1: missing) and the distinct values as text; 7, 7.0 and "7" are the same, "007" is not."""
    codes, distinct = pd.factorize(values)
    distinct = pd.Index(distinct)  # of a categorical column too
    if pd.api.types.is_float_dtype(distinct.dtype) and _whole(distinct.to_series()).all():
        distinct = distinct.astype("int64")
    elif distinct.dtype == object:
        distinct = distinct.map(_integer)
    again, distinct = pd.factorize(distinct.astype("str"))
    return np.append(again, -1)[codes], distinct


def _integer(value: Any) -> Any:
    """A whole number as an integer."""
    return int(value) if isinstance(value, float | Decimal) and value == value // 1 else value


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


def _most(values: pd.Series | pd.Index) -> float:
    """Below this a column's kind tells all whole numbers apart."""
    dtype = getattr(values.dtype, "numpy_dtype", values.dtype)
    if pd.api.types.is_integer_dtype(dtype):
        return 2.0**62
    return 2.0 ** (np.finfo(dtype).nmant + 1) if pd.api.types.is_float_dtype(dtype) else 2.0**53


def _exact(values: pd.Series) -> NDArray[np.bool_]:
    """Which keys are no floats past the whole numbers that these tell apart."""
    if pd.api.types.is_integer_dtype(values.dtype):
        return np.ones(len(values), bool)
    codes, distinct = pd.factorize(values)
    distinct = pd.Index(distinct)
    if pd.api.types.is_float_dtype(distinct.dtype):
        narrow = (
            values if pd.api.types.is_float_dtype(values.dtype) else distinct
        )  # an index knows no half precision
        good = np.abs(distinct.to_numpy(np.float64)) < _most(narrow)
    else:
        good = ~np.asarray(distinct.astype("str").str.fullmatch(ROUNDED), bool)
    return np.append(good, True)[codes]  # one that is missing is another check's


def first_rounded(keys: pd.Series) -> int | None:
    """Position of the first key that is a float past what its kind tells apart, if there is one."""
    bad = ~_exact(keys)
    return int(bad.argmax()) if bad.any() else None


def _whole(values: pd.Series) -> NDArray[np.bool_]:
    numbers = as_numbers(values)
    return (numbers == np.floor(numbers)) & (np.abs(numbers) < 2.0**62)


def _told_apart(values: pd.Series) -> NDArray[np.bool_]:
    numbers = as_numbers(values)
    return ~(np.abs(numbers) >= _most(values))


def varies(numbers: NDArray[np.float64]) -> bool:
    """Whether numbers differ by more than what is left of adding them up in another order; NaN differs from all."""
    low, high = numbers.min(), numbers.max()
    return bool(not high - low <= SAME * max(abs(low), abs(high)))


def _varies(values: pd.Series) -> bool:
    numbers = as_numbers(values)
    with np.errstate(all="ignore"):  # the finite check speaks of NaN and infinity
        return varies(numbers) and numbers.std() not in (0, np.inf)


ROUNDED_KEY = (
    "a float that may stand for several integers; write this column as integers or text, from its source"
)
USER = [_check(_present, "missing; fill it in or drop the row"), _check(_exact, ROUNDED_KEY)]
ONCE = _check(lambda v: ~pd.Index(as_codes(v)[0]).duplicated(), "this user has a row already; drop one")
FINITE = _check(lambda v: np.isfinite(as_numbers(v)), "not a finite number; fill it in or drop the user")
VARIES = pa.Check(
    _varies, error="does not vary over users, or its variance overflows; take it out or rescale it"
)
_TIME = [
    _check(_whole, "not an integer, milliseconds since the epoch; convert it"),
    _check(_told_apart, ROUNDED_KEY),
]
_CATEGORY = [_check(_present, "missing; fill it in or drop the event"), _check(_exact, ROUNDED_KEY)]
MARK = _check(lambda v: np.isin(as_numbers(v), (0, 1)), "neither 0 nor 1; recode it or drop the event")
Checks = dict[str, list[pa.Check]]  #: by column
CHECKS: dict[str, Checks] = {"search_events": {"user_id": USER, "timestamp": _TIME, "category": _CATEGORY}}
CHECKS["recommendation_events"] = CHECKS["search_events"] | {"engaged": [MARK]}
OPTIONAL: dict[str, Checks] = {"search_events": {"suggested": [MARK]}, "recommendation_events": {}}


def as_integers(values: pd.Series) -> NDArray[np.int64]:
    """A column of whole numbers, to the last digit."""
    whole = pd.api.types.is_integer_dtype(values)  # not by way of float, which holds 53 bits
    return values.to_numpy(np.int64) if whole else as_numbers(values).astype(np.int64)
