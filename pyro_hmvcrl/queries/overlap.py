"""Overlap: does the data support the shifted policy, or does the answer extrapolate?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pyro_hmvcrl.queries.checks import Array

LEVELS = 10  #: a covariate with no more values than this is taken for discrete
TAIL = 0.99  #: share of users that the support holds
EXTRAPOLATES = 0.1  #: share of users outside the support from which an answer is said to extrapolate
UNSUPPORTED = 0.5  #: ... and from which there is none


@dataclass(frozen=True)
class Overlap:
    """Share of users whom a policy shifts outside the support of the data, and what that means.

    Attributes
    ----------
    outside
        For any of the reasons below.
    beyond_range, no_level, unlike_others
        A shifted column is beyond its observed range; a discrete one has a value that nobody has; or the shifted
        columns are, given the user's other covariates, further from expectation than those of 99% of the users.
    """

    outside: float
    beyond_range: float
    no_level: float
    unlike_others: float

    @property
    def verdict(self) -> str:
        if self.outside <= EXTRAPOLATES:
            return "supported: the shifted policy lies within what the data have seen"
        if self.supported:
            return (
                f"in part: for {self.outside:.0%} of the users the answer rests on the model's extrapolation"
            )
        return f"not supported: {self.outside:.0%} of the users are shifted to where there are no data"

    @property
    def supported(self) -> bool:
        return self.outside <= UNSUPPORTED

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


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
    for x, to in zip(now.T, then.T, strict=True):
        rounding, levels = 1e-9 * np.abs(x).max(), np.unique(x)
        beyond |= (to < levels[0] - rounding) | (to > levels[-1] + rounding)
        if len(levels) <= LEVELS:
            no_level |= (np.abs(to[:, None] - levels) > rounding).all(1)
    unlike = _unlike_others(observed.drop(columns=moved).to_numpy(float), now, then)
    outside = beyond | no_level | unlike
    return Overlap(*(float(part.mean()) for part in (outside, beyond, no_level, unlike)))


def _unlike_others(given: Array, now: Array, then: Array) -> NDArray[np.bool_]:
    """Who is, after the shift, further from a linear prediction (Mahalanobis) than `TAIL` of the users are before."""
    if not now.shape[1]:
        return np.zeros(len(now), bool)
    design = np.column_stack([np.ones(len(given)), given])
    expected = design @ np.linalg.lstsq(design, now, rcond=None)[0]
    residual = now - expected
    precision = np.linalg.pinv(np.atleast_2d(np.cov(residual.T)))

    def distance(r: Array) -> Array:
        return np.asarray(np.einsum("ni,ij,nj->n", r, precision, r))

    return distance(then - expected) > np.quantile(distance(residual), TAIL)
