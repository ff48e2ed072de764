"""What a change does segment by segment: one answer for the users of each level of a column.

The more segments are looked at, the likelier is one that stands out by chance.  So intervals are wider, by Bonferroni:
with probability `level` the intervals of **all** segments hold what they are of, those of one effect on one outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from pyro_hmvcrl.guide.experts import Expert
from pyro_hmvcrl.queries.averages import EffectDraws, Users
from pyro_hmvcrl.queries.findings import substitution, substitution_undone, suppression
from pyro_hmvcrl.queries.interventions import InterventionError, Interventions

MOST_SEGMENTS, LEAST_USERS = 12, 20
LEVELS = 10  #: a column of numbers with more values is cut into thirds
OTHER, BASE = "other", "base level"  #: segments of few users; users of no indicator
CORRECTION = "Bonferroni"
Array = NDArray[np.float64]
Ask = Callable[[Users, Interventions], EffectDraws]


def segments(by: str | pd.Series, covariates: pd.DataFrame) -> pd.Series:
    """The segment of each user, named as the column.

    Parameters
    ----------
    by
        A covariate; what the indicators of a text begin with (``plan`` of ``plan_premium``); or a value of each user,
        by user_id.
    covariates
        Of the run, with user_id.

    Raises
    ------
    InterventionError
        If there is no such column, a user has no value, or there are too many segments, or only one.

    Examples
    --------
    >>> users = pd.DataFrame({"user_id": range(60), "plan_premium": [1.0] * 25 + [0.0] * 35})
    >>> segments("plan", users).value_counts().to_dict()
    {'base level': 35, 'premium': 25}
    """
    if isinstance(by, str):
        name, values = by, _of_covariates(by, covariates)
    else:
        name, values = str(by.name or "segment"), by.reindex(covariates["user_id"])
    if (gap := values.isna().to_numpy()).any():
        user = covariates["user_id"][gap].iloc[0]
        raise InterventionError(f"{name}: user {user} has no value; give one to every user of the run")
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > LEVELS:
        thirds = pd.qcut(values, 3, duplicates="drop")
        ends = _in_words([*thirds.cat.categories.left, *thirds.cat.categories.right])
        values = thirds.map(lambda third: f"{ends[third.left]} to {ends[third.right]}")
    elif pd.api.types.is_numeric_dtype(values):
        values = values.map(_in_words(values.unique()))
    named = values.astype(str).reset_index(drop=True).rename(name)
    sizes = named.value_counts()
    named = named.where(~named.isin(sizes.index[sizes < LEAST_USERS]), OTHER)
    if not 2 <= named.nunique() <= MOST_SEGMENTS:
        raise InterventionError(
            f"{name}: {named.nunique()} segments of {LEAST_USERS} users or more; give a column with 2 to "
            f"{MOST_SEGMENTS} of them"
        )
    return named


def _in_words(numbers: Iterable[float]) -> dict[float, str]:
    """Numbers in as few digits as tell them apart, six at least."""
    different = set(numbers)
    for digits in range(6, 17):
        words = {number: f"{number:.{digits}g}" for number in different}
        if len({*words.values()}) == len(words):
            break
    return words


def _of_covariates(by: str, covariates: pd.DataFrame) -> pd.Series:
    """A covariate, or the level of which a user has the indicator."""
    names = [str(name) for name in covariates.columns if name != "user_id"]
    if by in names:
        return covariates[by]
    indicators = covariates[[name for name in names if name.startswith(f"{by}_")]]
    if indicators.empty or not indicators.isin([0, 1]).all(axis=None) or (indicators.sum(axis=1) > 1).any():
        raise InterventionError(
            f"no covariate {by}, nor indicators of it: choose of {', '.join(names)}; of another column give the "
            "values by user_id (in Python: by=Series)"
        )
    level = indicators.idxmax(axis=1).str.removeprefix(f"{by}_")
    return level.where(indicators.sum(axis=1) == 1, BASE)


def effects_by_segment(
    ask: Ask, users: Users, interventions: Interventions, of: pd.Series, level: float
) -> dict[str, Any]:
    """Effects on the users of each segment, with intervals that hold for all segments together.

    Parameters
    ----------
    ask
        Gives the draws of some users' effects.
    of
        The segment of each user.
    """
    names = sorted(of.unique(), key=_in_order)
    of_each = 1 - (1 - level) / len(names)
    found = {}
    for name, own in zip(names, _parts(users, interventions, of, names), strict=True):
        draws = ask(*own)
        found[name] = {
            "users": int((of == name).sum()),
            "outcomes": {
                outcome: {
                    "before": _interval(draws.levels[outcome]["before"], of_each),
                    **{effect: _interval(effects[effect], of_each) for effect in ("TE", "NDE", "NIE")},
                }
                for outcome, effects in draws.contrasts.items()
            },
            "suppression": suppression(draws.contrasts["engagement"]),
            "substitution": substitution(draws.contrasts),
            "substitution_undone": substitution_undone(draws.contrasts),
        }
    return {"by": str(of.name), "correction": CORRECTION, "level_of_each": of_each, "segments": found}


def _in_order(name: str) -> tuple[bool, float, str]:
    """Numbers by size, then texts, and what is left last."""
    try:
        return False, float(name.partition(" to ")[0]), name
    except ValueError:
        return name in (OTHER, BASE), np.inf, name


def _parts(
    users: Users, interventions: Interventions, of: pd.Series, names: Sequence[str]
) -> Iterator[tuple[Users, Interventions]]:
    """The users of each segment as all that there are, and what is done to them."""
    for name in names:
        rows = torch.as_tensor(np.flatnonzero((of == name).to_numpy()))
        logs = users.logs.batch(rows)._replace(index=torch.arange(len(rows)), n_users=len(rows))
        experts = users.experts and Expert(*(part[rows] for part in users.experts))
        forces = {s: f[rows] if isinstance(f, Tensor) and f.dim() else f for s, f in interventions.items()}
        yield replace(users, logs=logs, experts=experts), forces


def _interval(draws: Array, level: float) -> dict[str, float]:
    """As of a normal distribution: its ends are too far out for quantiles of the draws."""
    mean, half = float(draws.mean()), float(norm.ppf((1 + level) / 2) * draws.std(ddof=1))
    return {"mean": mean, "lower": mean - half, "upper": mean + half}
