"""What is worth saying of a dataset that can be read, and may mean something else than what was meant: in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, identity, kron

from pyro_hmvcrl.data.counts import Counted, Survey
from pyro_hmvcrl.data.names import listed, look_alikes, percent, short
from pyro_hmvcrl.data.periods import COARSE, DAY, EARLIEST, Periods, date_of, latest, likely_unit, moment_of

SHARED = 0.995  #: share of events in categories of both surfaces, below which it is said
LITTLE = 0.5  #: ... and below which names should be looked at
COPIES = 0.2  #: share of rows that are copies, from which it is said
LACKING = 0.1  #: share of users without a surface, from which it is said
SOMETIMES = 0.01  #: share of users whose events, that are no fewer than these, lie in one half of the window
ENOUGH = 10
RULES = 0.5  #: share of a covariate's variance that comes of one user, from which it is said
FEW_RULE = 0.75  #: ... and that comes of 1% of the users
NEGLIGIBLE = 0.01  #: share of one of these
FEWEST = 20  #: users, among whom one is not to rule a column
FAR = 100  #: quartile ranges from the median
MOST_PAIRS = 3
RULES_EVENTS = (
    0.1  #: share of a surface's events that are one user's, among `FEWEST` or more, from which it is said
)
KEYS_OF_DESCRIPTION = [
    "name",
    "exposure_covariates",
    "preference_covariates",
    "categories",
    "covariates_until",
]


def of_names(label: str, column: str, names: Sequence[str]) -> list[str]:
    """Names that look alike, and are not the same."""
    pairs = look_alikes(names)
    if not pairs:
        return []
    said = "; ".join(f"{short(a)} and {short(b)}" for a, b in pairs[:MOST_PAIRS])
    more = f"; and {len(pairs) - MOST_PAIRS:,} more" if len(pairs) > MOST_PAIRS else ""
    return [
        f"{label}, column {column!r}: names that look alike count as different ones: {said}{more}. If they mean the "
        "same, write them in one way"
    ]


def of_keys(keys: Iterable[str]) -> list[str]:
    """Keys of dataset.json that are nearly those that mean something."""
    near = {key: get_close_matches(key.casefold(), KEYS_OF_DESCRIPTION, 1, 0.8) for key in keys}
    return [
        f"dataset.json: {short(key)} means nothing here; was {short(known[0])} meant?"
        for key, known in near.items()
        if known and key not in KEYS_OF_DESCRIPTION
    ]


def of_floats(label: str, labels: Sequence[str], known: Sequence[str]) -> list[str]:
    """Categories that are written as floats here, and as integers among the known."""
    among = set(known)
    read = [name for name in labels if name not in among and name.removesuffix(".0") in among]
    if not read:
        return []
    return [
        f"{label}, column 'category': integers that are written as floats ({listed(read[:2])}) are read as integers"
    ]


def shared_categories(surveys: Mapping[str, Survey]) -> list[float]:
    """Share of each surface's events that is in categories of the other."""
    one, other = (of.labels.rename(lambda name: name.removesuffix(".0")) for of in surveys.values())
    return [float(a[a.index.isin(b.index)].sum() / max(a.sum(), 1)) for a, b in ((one, other), (other, one))]


def of_surfaces(surveys: Mapping[str, Survey]) -> list[str]:
    """Whether the surfaces speak of the same categories, and of the same time."""
    shares, said = shared_categories(surveys), []
    if min(shares) < SHARED:
        both = " and ".join(
            f"{share:.0%} of the events of {stem}" for stem, share in zip(surveys, shares, strict=True)
        )
        doubt = ": are they named alike in both tables?" if min(shares) < LITTLE else ""
        said.append(f"{both} are in categories that the other table has{doubt}")
    one, other = surveys.values()
    if one.last < other.first or other.last < one.first:
        said.append("search_events and recommendation_events have no time in common")
    shown = surveys["recommendation_events"]
    rare = min(shown.engaged, shown.events - shown.engaged)
    if rare < ENOUGH and shown.events >= ENOUGH**2:
        kind = "engaged with" if rare == shown.engaged else "not engaged with"
        said.append(
            f"only {rare} of {shown.events:,} recommendation events are {kind}, which tells next to nothing"
        )
    for stem, of in surveys.items():
        if len(of.labels) == 1:
            said.append(f"all of {stem} are in one category, which tells nothing of users")
    return said


def of_times(label: str, found: Survey) -> list[str]:
    """Times that logs of today do not have, and the unit that they may be in."""
    if found.strange_time is None:
        rounded = (
            f"{label}, column 'timestamp': all times are whole multiples of {COARSE:,} ms; were they rounded?"
        )
        return [rounded] if found.coarse else []
    time = found.strange_time
    said = (
        f"{label}, column 'timestamp': {found.strange:,} of {found.events:,} events are before "
        f"{date_of(EARLIEST)[:4]} or after {int(date_of(latest())[:4]) - 1}, the first at {time} ({date_of(time)})"
    )
    if likely := likely_unit(time):
        return [f"{said}; that looks like {likely[0]}, and milliseconds are wanted: {likely[1]}"]
    return [f"{said}; are these milliseconds since 1970?"]


def of_until(until: int, surveys: Mapping[str, Survey]) -> list[str]:
    """Events that are left out, as they are before the moment up to which the covariates describe users."""
    said = f"covariates_until of dataset.json is {until} ({moment_of(until)})"
    if left_out := sum(of.before for of in surveys.values()):
        rows = left_out + sum(of.events for of in surveys.values())
        return [f"{said}: {left_out:,} of {rows:,} events are before it, and are left out"]
    if until < EARLIEST and (likely := likely_unit(until)):
        return [f"{said}; that looks like {likely[0]}, and milliseconds are wanted: {likely[1]}"]
    return []


def of_periods(cut: Periods, asked: int | None, first: int, last: int) -> list[str]:
    """A window that is cut otherwise than was asked, or finer than days."""
    if first == last:
        of = "all timestamps are equal"
        return [f"{of}: there is one period, and nothing is learnt of the past"]
    days = (last - first) / DAY
    if asked is not None and asked > 1 and asked > last // DAY - first // DAY + 1:
        return [f"the window has {days:.2g} days, and {asked} were asked for: {cut}"]
    return []


def of_counts(counts: Mapping[str, csr_matrix], periods: int) -> list[str]:
    """Periods without events, and users without a surface or who are there in some periods only."""
    surfaces = {
        "search events": [counts[name] for name in ("search", "suggested") if name in counts],
        "recommendation events": [counts["exposure"]],
    }
    events = {n: np.sum([_by_period(of, periods) for of in some], axis=0) for n, some in surfaces.items()}
    said = []
    for name, number in events.items():
        if (lacking := float((number.sum(1) == 0).mean())) >= LACKING:
            said.append(f"{lacking:.0%} of the users have no {name}")
        by_user = number.sum(1)
        if len(by_user) >= FEWEST and (most := float(by_user.max() / max(by_user.sum(), 1))) >= RULES_EVENTS:
            said.append(
                f"one user has {most:.0%} of all {name}: what is said of the platform and of others hangs on this one"
            )
    if periods == 1:
        return said
    for name, number in events.items():
        if number.any() and (empty := [n for n, some in enumerate(number.any(0), 1) if not some]):
            word = "period" if len(empty) == 1 else "periods"
            said.append(f"there are no {name} in {word} {listed(empty)} of {periods}")
    seldom = _seldom(np.sum([*events.values()], axis=0))
    if seldom >= SOMETIMES:
        said.append(
            f"{seldom:.0%} of the users have events in one half of the {periods} periods only; where they have none, "
            "they count as users who did nothing"
        )
    return said


def _seldom(events: NDArray[np.float32]) -> float:
    """Share of users who came late or left early, of events by period ``(N, T)``."""
    n_periods, there = events.shape[1], events > 0
    first, last = there.argmax(1), n_periods - 1 - there[:, ::-1].argmax(1)
    return float(((events.sum(1) >= ENOUGH) & (last - first + 1 <= n_periods / 2)).mean())


def _by_period(counts: csr_matrix, periods: int) -> NDArray[np.float32]:
    """Events of each user in each period, ``(N, T)``."""
    categories = np.ones((counts.shape[1] // periods, 1), np.float32)
    return np.asarray((counts @ kron(identity(periods, np.float32), categories, "csr")).toarray())


def of_events(label: str, counted: Counted, rows: int, timed: bool = True) -> list[str]:
    """Copies, which without times nothing tells from events that are alike, and events of categories not known."""
    said = []
    if timed and rows and counted.copies / rows > COPIES:
        said.append(
            f"{label}: {counted.copies:,} of {rows:,} rows ({counted.copies / rows:.0%}) are exact copies of another "
            "(same user, time, category and mark). If events were written more than once, drop the copies: every "
            "interval is too narrow with them"
        )
    if counted.unknown:
        said.append(
            f"{label}, column 'category': {counted.unknown:,} of {rows:,} events are in categories that the run does "
            f"not know, e.g. {short(counted.unknown_category)}; they are left out"
        )
    return said


def leverage(values: NDArray[np.float64]) -> tuple[float, NDArray[np.intp]] | None:
    """Share of a covariate's variance that comes of a few users who rule it, and their positions; none if none do."""
    if len(values) < FEWEST:
        return None
    squares = (values - values.mean()) ** 2
    order = np.argsort(-squares, kind="stable")
    total = float(squares.sum())
    if not np.isfinite(total) or total <= 0:
        return None
    most = order[: max(len(values) // 100, 1)]
    if squares[order[0]] > RULES * total or squares[most].sum() > FEW_RULE * total:
        who = most[squares[most] > NEGLIGIBLE * total]
        return float(squares[who].sum() / total), who
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    far = np.flatnonzero(np.abs(values - middle) > FAR * (high - low)) if high > low else np.empty(0, int)
    return (float(squares[far].sum() / total), far) if len(far) else None


def of_covariates(label: str, users: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Covariates of which a few users have the most to say."""
    said = []
    for name in names:
        values = users[name].to_numpy(np.float64)
        if (found := leverage(values)) is None:
            continue
        share, who = found
        user = short(str(users["user_id"].iloc[who[0]]))
        one = f"user {user} has {values[who[0]]:.6g}, the median is {np.median(values):.6g}"
        count = "one user makes" if len(who) == 1 else f"{len(who):,} users make"
        said.append(
            f"{label}, column {short(name)}: {count} {percent(share)} of its variance ({one}). What is said of it "
            "hangs on them: mend these values, or take the column's logarithm or rank"
        )
    return said
