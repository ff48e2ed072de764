"""Does what users look for agree with what they say of what they are shown? Search preference held against outcomes.

Alignment counts as value what users would search for.  Whether that is what they like is a question to their own words:
of users who were shown the same category, do those who look for it more than others say `liked` more often?

*Slope*: the log odds of the outcome for one standard deviation more of the log probability with which a user searches
the category, relative to other users who were shown it: a logistic regression with an intercept for each category, so
that what everybody looks for and likes has no part in it.  Its error is over users, whose events hang together.

*AUC*: how well the same log probability, as it is, tells events of which the outcome holds from others, over all
categories; with a bootstrap over users, and beside it what it would be if each user had the wishes of another.

A user's wishes are those that covariates, searches and what was shown speak of.  Engagement is kept out, or else it
would be held against itself.  Users are those who were held out from the fit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata
from scipy.stats import t as student

from pyro_hmvcrl.data.names import level_words
from pyro_hmvcrl.guide.experts import Expert, matvec
from pyro_hmvcrl.guide.guide import USERS_AT_ONCE, ExpansionGuide, Guide
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.story.logs import Logs
from pyro_hmvcrl.story.model import OfPast

Array = NDArray[np.float64]
LEVEL = 0.9
DRAWS = 64  #: of a user's factors, over which a probability is averaged
RESAMPLED = 200  #: times that users are drawn anew, and exchanged
SPREAD = 2.0  #: standard deviation of a weak prior on a category's log odds, which a few events leave open
STEPS, NEAR = 50, 1e-9
RARE = 0.01  #: probability of a slope as steep by chance, below which it is said to be one
FEWEST = 10  #: events of both kinds, with fewer of which nothing is said
FEWEST_USERS = 15  #: the same


class WithoutEngagement(ExpansionGuide):
    """The expansion guide that does not read whether users engaged with what they were shown."""

    def expand(
        self, logs: Logs, coefficients: dict[str, torch.Tensor], z: torch.Tensor, added: OfPast | None = None
    ) -> list[Expert]:
        search, exposure, _, *suggested = super().expand(logs, coefficients, z, added)
        return [search, exposure, *suggested]


@own_state()
@torch.no_grad()
def search_probability(guide: Guide, logs: Logs, seed: int = 0) -> Array:
    """Probability ``(N, C)`` with which each user's next search of their own is of a category, whatever came before.

    As covariates, searches and exposure tell: engagement is not read.
    """
    guide = WithoutEngagement.of(copy.deepcopy(guide).to("cpu"), len(logs.index))
    torch.manual_seed(seed)
    found = []
    for users in logs.to("cpu").numbered().batches(USERS_AT_ONCE):
        prior, noise = guide.posterior(users)
        z = prior.base + matvec(prior.turn, noise.antithetic(DRAWS))
        _, preference = guide.model.channels(z[..., :-1])
        found.append(guide.model.f_search(preference).softmax(-1).mean(0))
    return torch.cat(found).double().numpy()


def agreement(
    searched: Array, shown: Array, outcomes: Mapping[str, Array], level: float = LEVEL, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """How each outcome goes with what users look for.

    Parameters
    ----------
    searched
        Probability ``(N, C)`` of each category in a user's own searches.
    shown
        Events ``(N, C)`` shown.
    outcomes
        By name, events ``(N, C)`` among those shown of which it holds.
    level
        Of the intervals.

    Returns
    -------
    dict
        By outcome: the `users` and `events`, its `rate`, `slope` and `auc` (`mean`, `lower`, `upper`; the former with
        the probability `p` of one as steep by chance, the latter with the `null`, the same with users exchanged), and a
        `sentence`.  Of too few events slope and AUC are None.
    """
    users = shown.sum(1) > 0
    x, n = np.log(searched[users]), shown[users]
    found: dict[str, dict[str, Any]] = {}
    for name, of in outcomes.items():
        y = of[users]
        few = min(y.sum(), (n - y).sum()) < FEWEST or len(y) < FEWEST_USERS
        found[name] = {
            "users": len(y),
            "events": int(n.sum()),
            "rate": float(y.sum() / max(n.sum(), 1)),
            "slope": None if few else slope(x, n, y, level),
            "auc": None if few else auc(x, n, y, level, seed),
        }
        found[name]["sentence"] = _sentence(name, found[name], level)
    return found


def slope(x: Array, n: Array, y: Array, level: float) -> dict[str, float]:
    """Log odds of the outcome for a standard deviation more of `x` inside a category, with its interval over users."""
    inside = x - (n * x).sum(0) / np.maximum(n.sum(0), 1e-12)
    inside = inside / np.sqrt((n * inside**2).sum() / n.sum())
    beta, b = 0.0, np.full(x.shape[1], np.log(y.sum() / (n - y).sum()))
    usual, precision = b.copy(), SPREAD**-2
    for _ in range(STEPS):
        p = expit(b + beta * inside)
        v, e = n * p * (1 - p), y - n * p
        own = v.sum(0) + precision  # of each category's intercept
        tie = (v * inside).sum(0)
        of_b = e.sum(0) - precision * (b - usual)
        information = (v * inside**2).sum() - (tie**2 / own).sum()
        step = ((e * inside).sum() - (tie * of_b / own).sum()) / information
        beta, b = beta + step, b + (of_b - tie * step) / own
        if abs(step) < NEAR:
            break
    scores = (e * (inside - tie / own)).sum(1)  # of each user, the intercepts having followed
    error = np.sqrt((scores**2).sum() * len(scores) / (len(scores) - 1)) / information
    of_users = student(len(scores) - 1)
    half = of_users.ppf((1 + level) / 2) * error
    p = 2 * of_users.sf(abs(beta) / error)
    return {"mean": float(beta), "lower": float(beta - half), "upper": float(beta + half), "p": float(p)}


def auc(x: Array, n: Array, y: Array, level: float, seed: int) -> dict[str, Any]:
    """Probability that `x` is higher of an event of which the outcome holds than of another one."""
    rng, n_users = np.random.default_rng(seed), len(x)
    again = [np.bincount(rng.integers(n_users, size=n_users), minlength=n_users) for _ in range(RESAMPLED)]
    once = np.ones(n_users)

    def area(place: NDArray[np.int64], weights: Array) -> float:
        yes, no = (np.bincount(place, (of * weights[:, None]).ravel()) for of in (y, n - y))
        total = yes.sum() * no.sum()
        return float((yes * (no.cumsum() - no / 2)).sum() / total) if total else 0.5

    places = _places(x)
    drawn = [area(places, weights.astype(float)) for weights in again]
    exchanged = [area(_places(x[rng.permutation(n_users)]), once) for _ in range(RESAMPLED)]
    null = {"mean": float(np.mean(exchanged))} | _ends(exchanged, level)
    return {"mean": area(places, once)} | _ends(drawn, level) | {"null": null}


def _places(x: Array) -> NDArray[np.int64]:
    """The place of each value among all, from 0; equal ones stand at one."""
    return np.asarray(rankdata(x, "dense").astype(np.int64).ravel() - 1)


def _ends(draws: list[float], level: float) -> dict[str, float]:
    lower, upper = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return {"lower": float(lower), "upper": float(upper)}


def _sentence(name: str, of: Mapping[str, Any], level: float) -> str:
    """What is found, in plain words."""
    if of["slope"] is None:
        return f"{name}: too few events to say whether it agrees with what users look for."
    odds = {part: np.exp(of["slope"][part]) for part in ("mean", "lower", "upper")}
    sure, way = of["slope"]["p"] < RARE, "agrees with" if of["slope"]["mean"] > 0 else "is at odds with"
    said = f"What users look for {way if sure else 'does not surely go with'} {name}"
    area, null = of["auc"], of["auc"]["null"]
    return (
        f"{said}: of users who are shown the same category, those who look for it a standard deviation more have "
        f"{odds['mean']:.2f} times the odds of it ({level_words(level)}: {odds['lower']:.2f} to {odds['upper']:.2f}); "
        f"over all categories search tells it apart with an AUC of {area['mean']:.3f} ({area['lower']:.3f} to "
        f"{area['upper']:.3f}), with users exchanged {null['mean']:.3f} ({null['lower']:.3f} to {null['upper']:.3f})."
    )
