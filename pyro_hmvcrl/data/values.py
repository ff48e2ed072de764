"""What the columns of a company's own tables mean: moments, marks, numbers, and texts of a few kinds.

Each function gives the values, with NaN where there is none, and a few words on how they were read.
"""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pyro_hmvcrl.data.columns import MISSING, as_numbers, varies
from pyro_hmvcrl.data.names import listed, short
from pyro_hmvcrl.data.periods import DAY, EARLIEST, UNITS, latest, likely_unit

Array = NDArray[np.float64]
MARKS = {"1": 1.0, "true": 1.0, "yes": 1.0, "y": 1.0, "t": 1.0}
MARKS |= {"1.0": 1.0, "0": 0.0, "false": 0.0, "no": 0.0, "n": 0.0, "f": 0.0, "0.0": 0.0}
MOST_LEVELS = 12  #: of a text that is made into indicators, with that of the rest
RARE_LEVEL = (
    0.02  #: share of the users, below which a level is one of the rest: fewer would rule their indicator
)
REST, GAP = "other", "missing"  #: levels of what is rare, and of what is not there
NUMBER_LIKE = r"^[^\w]{0,2}\d[\d.,' ]*[^\w]{0,2}$"
DAY_OR_MONTH = r"^(\d{1,2})[/. -](\d{1,2})[/. -](?:\d{4}|\d{2})(?!\d)"
DATED = r"\d{4}|^\d{1,2}[/. -]\d{1,2}[/. -]\d{2}"  #: what has a year: "now" and "10:30" are of whenever they are read


class UnclearError(ValueError):
    """A column that may mean several things, or nothing: `row` is the position of the first such value."""

    def __init__(self, problem: str, row: int | None = None) -> None:
        super().__init__(problem)
        self.row = row


def as_text(values: pd.Series) -> pd.Series:
    """Values as text without spaces around it, missing where it says that it is."""
    text = values.astype("str").str.strip()
    return text.mask(text.isin(MISSING))


def one_spelling(text: pd.Series) -> tuple[pd.Series, int]:
    """Texts that differ in case alone in their most frequent spelling, and how many were changed."""
    counts = text.value_counts()
    spellings = pd.Series(counts.index, counts.index.str.casefold())
    best = text.str.casefold().map(spellings[~spellings.index.duplicated()])
    return best, int((best != text)[text.notna()].sum())


def numbers(values: pd.Series) -> Array | None:
    """A column as numbers; none if it holds anything else."""
    if pd.api.types.is_datetime64_any_dtype(values):
        return None
    if pd.api.types.is_numeric_dtype(values):
        found = as_numbers(values)
    else:
        text = as_text(values)
        found = as_numbers(text)
        if (np.isnan(found) & text.notna().to_numpy()).any():
            return None
    return np.where(np.isfinite(found), found, np.nan)


def marks(values: pd.Series) -> tuple[Array, str]:
    """A column of yes and no as 1 and 0.

    Raises
    ------
    UnclearError
        If it has another value.
    """
    text = as_text(values.reset_index(drop=True)).str.casefold()
    found = text.map(MARKS).to_numpy(np.float64)
    if (other := np.isnan(found) & text.notna().to_numpy()).any():
        row = int(other.argmax())
        raise UnclearError(
            f"neither yes nor no (found {short(str(values.iloc[row]))}); recode it as 1 and 0", row
        )
    if np.isnan(found).any() and np.nanmin(found, initial=1) == 1:  # only ones are written down
        return np.nan_to_num(found), "1, and 0 where nothing is written"
    kinds = text.dropna()
    if {*kinds.unique()} <= {"0", "1"}:
        return found, ""
    yes, no = (listed(sorted(kinds[found[kinds.index.to_numpy()] == of].unique())) for of in (1, 0))
    return found, f"{yes} is 1, {no} 0"


def moments(values: pd.Series) -> tuple[Array, str]:
    """A column of moments in milliseconds since the epoch.

    Raises
    ------
    UnclearError
        If no unit and no way of writing dates fits.
    """
    found = numbers(values)
    if found is not None:
        if values.dtype in ("float32", "float16") and (np.abs(found) >= 2**24).any():
            raise UnclearError(
                f"{values.dtype} holds no moment to the second; write integers, from the source"
            )
        return _of_numbers(found)
    if pd.api.types.is_datetime64_any_dtype(values):
        return _milliseconds(pd.to_datetime(values, utc=True)), "dates (UTC where no zone is given)"
    text = as_text(values)
    dated = text.where(text.str.contains(DATED, na=False))
    when = pd.to_datetime(dated, format="ISO8601", utc=True, errors="coerce")
    if not (when.isna() & text.notna()).any():
        return _milliseconds(when), "ISO dates (UTC where no zone is given)"
    day_first = _day_first(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on guesses, which are checked here
        when = pd.to_datetime(dated, format="mixed", dayfirst=day_first, utc=True, errors="coerce")
    if (bad := when.isna() & text.notna()).any():
        row = int(bad.to_numpy().argmax())
        raise UnclearError(f"no moment (found {short(str(values.iloc[row]))}); write ISO dates", row)
    return _milliseconds(when), f"dates, {'day' if day_first else 'month'} first (UTC)"


def _milliseconds(when: pd.Series) -> Array:
    whole = when.dt.as_unit("ms").astype("int64").to_numpy(np.float64)
    return np.where(when.isna(), np.nan, whole)


def _of_numbers(found: Array) -> tuple[Array, str]:
    known = found[~np.isnan(found)]
    if not len(known):
        return found, ""
    middle = int(np.median(known))
    if EARLIEST <= middle < latest():
        return np.round(found), "milliseconds since 1970"
    if unit := likely_unit(middle):
        times, by = UNITS[unit[0]]
        return np.round(found * times / by), f"{unit[0]} since 1970"
    whole = pd.Series(found).where(found == np.floor(found)).astype("Int64")
    when = pd.to_datetime(whole.astype("str"), format="%Y%m%d", errors="coerce")
    if when.notna().sum() == len(known):
        return _milliseconds(when), "days written as YYYYMMDD (UTC)"
    raise UnclearError(
        f"neither dates nor seconds, milli-, micro- or nanoseconds since 1970 (the middle one is {middle}); convert it"
    )


def _day_first(text: pd.Series) -> bool:
    """Whether dates such as 22/05/2023 begin with the day."""
    parts = text.str.extract(DAY_OR_MONTH).astype("float64")
    day, month = ((parts[column] > 12).any() for column in (0, 1))
    if day and month:
        raise UnclearError("dates with the day first and with the month first; write ISO dates")
    if parts[0].notna().any() and not (day or month):
        raise UnclearError(
            "dates of which nothing tells whether the day or the month is first; write ISO dates"
        )
    return bool(day)


def covariate(name: str, values: pd.Series) -> tuple[dict[str, Array], list[str]]:
    """A covariate as columns of numbers without gaps, none if it does not vary, and what was done in sentences.

    Raises
    ------
    UnclearError
        If it is text of too many kinds.
    """
    found, said = numbers(values), []
    if found is None:
        try:
            found, how = marks(values)
            said = [f"covariate {short(name)}: {how}"]
        except UnclearError:
            found, said = _days(name, values)
    if found is None:
        return _indicators(name, as_text(values))
    gaps = np.isnan(found)
    if gaps.all() or not varies(found[~gaps]):
        return {}, [f"covariate {short(name)} is left out: it does not vary over users"]
    if gaps.any():
        middle = float(np.nanmedian(found))
        said.append(
            f"covariate {short(name)}: {int(gaps.sum()):,} users have none, and are given the median, {middle:.6g}"
        )
        found = np.where(gaps, middle, found)
    return {name: found}, said


def _days(name: str, values: pd.Series) -> tuple[Array | None, list[str]]:
    """A covariate of dates as days since the first of them; none if it holds no dates."""
    try:
        when, how = moments(values)
    except UnclearError:
        return None, []
    first = np.nanmin(when)
    day = str(np.datetime64(int(first), "ms")).partition("T")[0]
    return (when - first) / DAY, [f"covariate {short(name)}: {how}, made days since {day}"]


def _indicators(name: str, text: pd.Series) -> tuple[dict[str, Array], list[str]]:
    """An indicator of each level but the most frequent one, which is their base."""
    levels, _ = one_spelling(text.fillna(GAP))
    counts = levels.value_counts()
    if len(counts) > max(MOST_LEVELS, len(levels) / 10):
        digits = counts.index.str.contains(NUMBER_LIKE)
        if digits.mean() > 0.5:
            odd = short(([*counts.index[~digits & (counts.index != GAP)], *counts.index])[0])
            raise UnclearError(
                f"numbers that cannot all be read, e.g. {odd}; write 3.5, and nothing where there is none"
            )
        raise UnclearError(
            f"{len(counts):,} different texts, e.g. {short(counts.index[0])}; group them, or take the column out"
        )
    rare = counts.index[(counts < RARE_LEVEL * len(levels)) | (np.arange(len(counts)) >= MOST_LEVELS - 1)]
    said = []
    if len(rare) > 1:
        levels = levels.mask(levels.isin(rare), REST)
        said = [
            f"covariate {short(name)}: the {len(rare):,} rarest levels ({listed(rare)}) are one, {REST!r}"
        ]
    few = levels.isin([*rare, REST])
    if 0 < few.mean() < RARE_LEVEL:
        levels = levels.mask(few, counts.index[0])
        who = f"{int(few.sum()):,} users of rare levels ({listed(rare)})"
        said = [f"covariate {short(name)}: {who} are given the base level"]
    kinds = levels.value_counts().index
    columns = {f"{name}_{_plain(of)}": (levels == of).to_numpy(np.float64) for of in kinds[1:]}
    if len(columns) < len(kinds) - 1:
        raise UnclearError(f"levels that differ in signs alone ({listed(kinds)}); rename them")
    if not columns:
        return {}, [f"covariate {short(name)} is left out: it does not vary over users"]
    return columns, [
        *said,
        f"covariate {short(name)}: indicators {listed(columns)}; base level {short(kinds[0])}",
    ]


def _plain(level: str) -> str:
    """A level as a part of a column's name, which a shift can name."""
    return re.sub(r"\W+", "_", level).strip("_") or "empty"
