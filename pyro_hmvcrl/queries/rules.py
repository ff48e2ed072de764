"""Rules that all users keep to, as of a copy, its logarithm, a square or a product: who breaks one has no like.

Two kinds are looked for: columns of which one rises or falls with the other throughout, and what columns, their squares
and products are bound to together.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
SAMPLE = 5_000  #: users, evenly over the table, of whom a rule is learnt; it must hold for all
MOST_TERMS = 400  #: columns, squares and products, from which on these are not looked at
PER_TERM = 3  #: users that each of these needs
FLAT = 1e-6  #: standard deviation of standardised terms along a rule
HOLDS = 1e-4  #: how far the users may be off it
PART = 0.05  #: of the largest weight, from which a term has a part in a rule
AT_ONCE = 10_000  #: users


def breaks_a_rule(observed: pd.DataFrame, then: pd.DataFrame) -> tuple[Mask, tuple[str, ...]]:
    """Who breaks a rule that all the observed keep, and the columns of these rules.

    Parameters
    ----------
    observed
        Columns of the users as they are.
    then
        The same columns, of the same users after a shift or of others.

    Examples
    --------
    >>> users = pd.DataFrame({"hours": np.linspace(0, 9, 100)}).eval("log_hours = log(1 + hours)")
    >>> who, columns = breaks_a_rule(users, users.assign(hours=users["hours"] / 2))
    >>> bool(who.mean() > 0.9), columns
    (True, ('hours', 'log_hours'))
    """
    broken, tied = np.zeros(len(then), bool), set[str]()
    for find in (_leaves_order, _leaves_terms):
        who, columns = find(observed, then)
        broken |= who
        tied |= columns
    return broken, tuple(str(c) for c in observed if c in tied)


def _leaves_order(observed: pd.DataFrame, then: pd.DataFrame) -> tuple[Mask, set[str]]:
    """Who has two values that do not go together, of columns that rise or fall with each other."""
    now, after = observed.to_numpy(float), then.to_numpy(float)
    broken, tied = np.zeros(len(then), bool), set[str]()
    for i, column in enumerate(observed):
        order = np.argsort(now[:, i], kind="stable")
        x = now[order, i]
        below, above = (np.searchsorted(x, after[:, i], side) for side in ("left", "right"))
        same, some = np.diff(x) == 0, order[:: len(order) // 100 + 1]
        for j, other in enumerate(observed):
            if i == j or not _one_way(now[some, j]):  # a quick look
                continue
            y = now[order, j]
            if not _one_way(y) or np.diff(y)[same].any():
                continue
            falls = y[-1] < y[0]
            y = -y if falls else y
            low, high = np.append(y, np.inf)[above], np.insert(y, 0, -np.inf)[below]
            own = -after[:, j] if falls else after[:, j]
            who = (own > low + _rounding(y)) | (own < high - _rounding(y))
            if who.any():
                broken |= who
                tied |= {column, other}
    return broken, tied


def _one_way(values: Array) -> bool:
    """Whether values rise, or fall, throughout."""
    steps = np.diff(values)
    return bool((steps >= 0).all() or (steps <= 0).all())


def _rounding(values: Array) -> float:
    return 1e-9 * float(np.abs(values).max())


def _leaves_terms(observed: pd.DataFrame, then: pd.DataFrame) -> tuple[Mask, set[str]]:
    """Who is off a hyperplane in columns, squares and products in which all the observed lie."""
    nobody = np.zeros(len(then), bool), set[str]()
    n_columns = observed.shape[1]
    n_terms = n_columns * (n_columns + 3) // 2
    if n_columns < 2 or n_terms > min(MOST_TERMS, len(observed) // PER_TERM):
        return nobody
    middle, spread = observed.mean(), observed.std(ddof=0)
    now, after = (((users - middle) / spread).to_numpy(float) for users in (observed, then))
    learnt = _terms(now[np.linspace(0, len(now) - 1, min(len(now), SAMPLE)).astype(int)])
    mean, sd = learnt.mean(0), learnt.std(0)
    sd[sd == 0] = 1.0
    learnt = (learnt - mean) / sd
    variance, axes = np.linalg.eigh(learnt.T @ learnt / len(learnt))
    rules = axes[:, variance < FLAT**2]
    if not rules.shape[1]:
        return nobody

    def off(users: Array) -> Array:
        parts = (users[start : start + AT_ONCE] for start in range(0, len(users), AT_ONCE))
        return np.concatenate([np.abs((_terms(part) - mean) / sd @ rules) for part in parts])

    most = off(now).max(0)
    rules = rules[:, most < HOLDS]
    if not rules.shape[1]:
        return nobody
    broken = (off(after) > 10 * most[most < HOLDS] + FLAT).any(1)
    if not broken.any():
        return nobody
    left = (_terms(after[broken][:AT_ONCE]) - mean) / sd @ rules @ rules.T
    weights = np.abs(left).mean(0)
    first, second = np.triu_indices(n_columns)
    columns = np.array(
        [*zip(range(n_columns), range(n_columns), strict=True), *zip(first, second, strict=True)]
    )
    return broken, {observed.columns[c] for c in columns[weights > PART * weights.max()].ravel()}


def _terms(x: Array) -> Array:
    """Columns ``(N, D)``, their squares and their products."""
    first, second = np.triu_indices(x.shape[1])
    return np.hstack([x, x[:, first] * x[:, second]])
