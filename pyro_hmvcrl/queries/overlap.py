"""Overlap: does the data support the shifted policy, or does the answer extrapolate?"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pyro_hmvcrl.data.columns import as_numbers
from pyro_hmvcrl.data.names import percent, short
from pyro_hmvcrl.data.remarks import leverage
from pyro_hmvcrl.queries.checks import Array
from pyro_hmvcrl.queries.rules import breaks_a_rule
from pyro_hmvcrl.run.files import of_file

LEVELS = 10  #: a covariate with no more values than this is taken for discrete
TAIL = 0.99  #: share of users that the support holds
EXTRAPOLATES = 0.1  #: share of users outside the support from which an answer is said to extrapolate
FLAT = 1e-6  #: variance of standardised columns along an axis that is said not to vary
UNSUPPORTED = 0.5  #: ... and from which there is none
ROUNDING = 1e-12  #: relative to the largest value of a column
LEAST = 1e-9  #: standard deviations, below which nothing varies
NARROW, ENOUGH = 0.01, 20  #: standard deviations that so many new users have at least
NEARLY_ONE = 0.99  #: a correlation of columns that all but copy one another


@dataclass(frozen=True)
class Overlap:
    """Share of users whom a policy shifts outside the support of the data, and what that means.

    Attributes
    ----------
    outside
        For any of the reasons below.
    beyond_range, no_level, unlike_others
        A shifted column is beyond its observed range; a discrete one has a value that nobody has, or two of two
        values each have a pair that nobody has; or the shifted columns are, given the user's other covariates,
        further from expectation than those of 99% of the users, or break a
        rule that all users keep (:mod:`~pyro_hmvcrl.queries.rules`).
    tied
        Columns of such a rule, as of a copy, or of shares that add up to 1; or of what is nearly one.
    leaving
        Of each column that some users leave the range of: their share, and the range.
    ruled
        Of each shifted column whose variance comes of a few users: the share that does.
    """

    outside: float
    beyond_range: float
    no_level: float
    unlike_others: float
    tied: tuple[str, ...] = ()
    leaving: dict[str, dict[str, float]] = field(default_factory=dict)
    ruled: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """In words; what comes before the colon is one of three."""
        return "; ".join(
            [
                self._level,
                *(
                    f"{name}: {percent(of['share'])} of the users leave its observed range, {of['low']:g} to "
                    f"{of['high']:g}"
                    for name, of in self.leaving.items()
                ),
            ]
        )

    @property
    def _level(self) -> str:
        rule = f": {' and '.join(self.tied)} determine one another in the data" if self.tied else ""
        ruled = ", ".join(f"{name} ({percent(share)})" for name, share in self.ruled.items())
        if self.supported and ruled:
            return (
                f"in part: the answer hangs on the few users who make nearly all of the variance of {ruled}"
            )
        if self.outside <= EXTRAPOLATES:
            of = f"for {percent(1 - self.outside)} of the users " if self.outside else ""
            return f"supported: {of}the shifted policy lies within what the data have seen"
        if self.supported:
            return (
                f"in part: for {self.outside:.0%} of the users the answer rests on the model's extrapolation"
            )
        return f"not supported: {self.outside:.0%} of the users are shifted to where there are no data{rule}"

    @property
    def mend(self) -> str:
        """What to do about a change that is not supported."""
        return f"Shift {' and '.join(self.tied)} as they go together" if self.tied else "Make it smaller"

    @property
    def supported(self) -> bool:
        return self.outside <= UNSUPPORTED

    def to_dict(self) -> dict[str, Any]:
        shares = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tied"}
        return shares | {"verdict": self.verdict}


def overlap(observed: pd.DataFrame, shifted: pd.DataFrame) -> Overlap:
    """Overlap of the shifted with the observed values.

    Parameters
    ----------
    observed
        All covariates of the users, preference covariates too: support is needed given these.
    shifted
        Columns of `observed` under the policy, the same users in the same order.

    Examples
    --------
    >>> users = pd.DataFrame({"hours": np.linspace(0, 9, 100)})
    >>> overlap(users, users + 1.0).beyond_range  # of those who had more than 8 hours
    0.11
    """
    moved = [c for c in shifted if not np.array_equal(shifted[c], observed[c])]
    now, then = observed[moved].to_numpy(float), shifted[moved].to_numpy(float)
    beyond, no_level = np.zeros((2, len(observed)), bool)
    leaving, ruled = dict[str, dict[str, float]](), dict[str, float]()
    for name, x, to in zip(moved, now.T, then.T, strict=True):
        rounding, levels = ROUNDING * np.abs(x).max(), np.unique(x)
        leaves = (to < levels[0] - rounding) | (to > levels[-1] + rounding)
        beyond |= leaves
        if leaves.any():
            leaving[name] = {
                "share": float(leaves.mean()),
                "low": float(levels[0]),
                "high": float(levels[-1]),
            }
        if found := leverage(x):
            ruled[name] = found[0]
        if len(levels) <= LEVELS:
            no_level |= (np.abs(to[:, None] - levels) > rounding).all(1)
    no_level |= _no_pair(observed, shifted[moved])
    unlike, tied = _unlike_others(observed, shifted[moved])
    broken, bound = breaks_a_rule(observed, observed.assign(**shifted[moved]))
    unlike |= broken
    outside = beyond | no_level | unlike
    tied = tied or bound or (_near_copies(observed, moved) if unlike.mean() > UNSUPPORTED else ())
    shares = [float(part.mean()) for part in (outside, beyond, no_level, unlike)]
    return Overlap(shares[0], shares[1], shares[2], shares[3], tied, leaving, ruled)


def _near_copies(observed: pd.DataFrame, moved: list[str]) -> tuple[str, ...]:
    """Columns that all but copy one another, of which some are moved and others are not."""
    alike = observed.corr().abs() > NEARLY_ONE
    left = [c for c in observed if c not in moved and alike.loc[c, moved].any()]
    return (*(c for c in moved if alike.loc[c, left].any()), *left)


def _no_pair(observed: pd.DataFrame, shifted: pd.DataFrame) -> NDArray[np.bool_]:
    """Who has, after the shift, two values of two columns of two values each that nobody has together before."""
    upper = {c: observed[c].max() for c in observed if observed[c].nunique() == 2}
    nobody = np.zeros(len(observed), bool)
    for pair in combinations(upper, 2):
        if not {*pair} & {*shifted}:
            continue
        before, after = (
            sum(place * np.isclose(users[c], upper[c]) for place, c in zip((1, 2), pair, strict=True))
            for users in (observed, observed.assign(**shifted))
        )
        nobody |= ~np.isin(after, before)
    return nobody


def _unlike_others(
    observed: pd.DataFrame, shifted: pd.DataFrame
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Who is, after the shift, further from a linear prediction (Mahalanobis) than `TAIL` of the users are before.

    A direction without spread is a rule that all users keep, and whoever leaves it is unlike them; columns of the
    rules that are left come too.
    """
    if not shifted.shape[1]:
        return np.zeros(len(observed), bool), ()
    others = observed.drop(columns=shifted.columns)
    middle, spread = observed.mean(), observed.std(ddof=0)
    spread = spread.where(spread > 0, 1.0)
    given, now, then = (
        ((users - middle[users.columns]) / spread[users.columns]).to_numpy(float)
        for users in (others, observed[shifted.columns], shifted)
    )
    slopes = np.linalg.lstsq(given, now, rcond=LEAST)[0]
    _, root, axes = np.linalg.svd(now - given @ slopes, full_matrices=False)
    before, after = ((x - given @ slopes) @ axes.T for x in (now, then))
    rounding = max(LEAST, ROUNDING * float((observed.abs().max() / spread).max()))
    free = root > rounding * len(observed) ** 0.5
    leaves = np.abs(after[:, ~free]) > 10 * rounding

    def distance(x: Array) -> Array:
        return np.asarray(((x[:, free] / root[free]) ** 2).sum(1))

    left = axes[~free][leaves.any(0)]
    weights = np.abs(np.hstack([left, left @ slopes.T])).max(0, initial=0.0)
    names = [*shifted.columns, *others.columns]
    tied = tuple(str(c) for c, weight in zip(names, weights, strict=True) if weight > 1e-6)
    return leaves.any(1) | (distance(after) > np.quantile(distance(before), TAIL)), tied


@dataclass(frozen=True)
class NewUsers:
    """New users beside those whom a run was fitted on.

    Attributes
    ----------
    outside
        Who is where no fitted user was, ``(N,)``.
    columns
        Number of users who are beyond the fitted range of each column, where there are any.
    narrow
        Columns of many values that all but one value is left of, and the spread as a share of the fit's: as of another
        unit.
    """

    outside: NDArray[np.bool_]
    columns: dict[str, int]
    narrow: dict[str, float] = field(default_factory=dict)

    @property
    def sentences(self) -> list[str]:
        """In words; none where nobody is outside, and they differ as the fit's do."""
        said = [
            f"column {short(name)} varies {share:.1g} times as much as among the users of the fit; is it in the "
            "same unit"
            for name, share in self.narrow.items()
        ]
        number, of = int(self.outside.sum()), len(self.outside)
        if not number:
            return said
        beyond = ", ".join(f"{name}: {n:,}" for name, n in self.columns.items())
        why = f"beyond the range of {beyond}" if beyond else "in the combination of their covariates"
        return [
            *said,
            f"{number:,} of {of:,} users ({percent(number / of)}) are unlike all whom the run was fitted on ({why}): "
            "their factors are extrapolated",
        ]


def new_users(fitted: pd.DataFrame, new: pd.DataFrame) -> NewUsers:
    """Who of new users is outside of the support of a fit: beyond a range, or further (Mahalanobis) than all its users.

    Parameters
    ----------
    fitted, new
        Covariates of the fitted and of the new users; the former's columns are looked at.

    Examples
    --------
    >>> fitted = pd.DataFrame({"hours": np.linspace(0, 9, 100)})
    >>> new_users(fitted, pd.DataFrame({"hours": [3.0, -999.0]})).outside
    array([False,  True])
    """
    now, then = (frame[fitted.columns].to_numpy(float) for frame in (fitted, new))
    if not now.shape[1]:
        return NewUsers(np.zeros(len(then), bool), {})
    rounding = 1e-6 * np.abs(now).max(0)
    beyond = (then < now.min(0) - rounding) | (then > now.max(0) + rounding)
    middle, sd = now.mean(0), now.std(0)
    now, then = (now - middle) / sd, (then - middle) / sd
    spread, axes = np.linalg.eigh(np.atleast_2d(now.T @ now / len(now)))
    flat = spread < FLAT
    moved = then @ axes
    off = (np.abs(moved[:, flat]) > FLAT**0.5).any(1)  # along what never varied
    distances = [((of @ axes[:, ~flat]) ** 2 / spread[~flat]).sum(1) for of in (now, then)]
    far = distances[1] > distances[0].max() * (1 + FLAT)
    columns = {name: int(n) for name, n in zip(fitted.columns, beyond.sum(0), strict=True) if n}
    broken, _ = breaks_a_rule(fitted, new[fitted.columns])
    many = fitted.nunique().to_numpy() > LEVELS
    share = then.std(0) if len(then) >= ENOUGH else np.ones(len(many))  # in the fit's standard deviations
    narrow = {n: float(s) for n, s, of in zip(fitted.columns, share, many, strict=True) if of and s < NARROW}
    return NewUsers(beyond.any(1) | off | far | broken, columns, narrow)


def beside_fit(folder: Path, users: pd.DataFrame) -> NewUsers:
    """New users, whose table has the covariates of a run, beside the users of that run.

    Raises
    ------
    RunError
        If the run's ``covariates.parquet`` cannot be read.
    """
    path = folder / "covariates.parquet"
    with of_file(path):
        fitted = pd.read_parquet(path).drop(columns="user_id")
        new = pd.DataFrame({name: as_numbers(users[name]) for name in fitted})
        return new_users(fitted.astype(np.float64), new)
