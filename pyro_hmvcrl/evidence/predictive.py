"""Posterior predictive checks: do logs that the fitted model makes look like the logs that it was fitted to?

Each replication draws the parameters from their posterior and every user's noise anew, and lets the model make logs
of the same users: the same covariates, the same numbers of events.  What is observed is set against what the
replications have (Rubin 1984; Gelman, Meng & Stern 1996).  Noise is drawn anew, not taken from a user's own logs, as
the model is a story about users, and factors that follow each user's logs could copy what the story does not tell.

The logs were used to fit the model, so what the fit matches directly (shares and rates by category) is reproduced
more closely than by chance: such checks err towards passing.  The others look at what no single parameter answers
for: how much users differ, in how many ways, and what goes together on the two surfaces.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from tqdm.auto import tqdm

from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.inference.laplace import ParameterPosterior
from pyro_hmvcrl.inference.scores import Values
from pyro_hmvcrl.story.logs import Logs, SparseLogs
from pyro_hmvcrl.story.model import HMVCRL
from pyro_hmvcrl.story.programs import at, observe

Array = NDArray[np.float64]
REPLICATIONS = 200
USERS = 4_000  #: at most, drawn at random: a check does not get better for more, only slower
NUMBERS = 1 << 22  #: of users, periods and categories together, in one replication
FEWEST = 200  #: users
FAR = 3.0  #: standard deviations of the replications from their mean, from which a check fails
COSINE = 0.2  #: to which differences of a cosine are relative
MATTERS = 0.1  #: relative difference below which a failed check is a small matter
GROUPS = 5  #: of users, by an exposure covariate
BINS = 30  #: of a histogram over users
LEVEL = 0.9  #: of the replications' intervals


class Counts(NamedTuple):
    """Events ``(N, C)`` by user and category: searched, shown, and engaged with among those shown.

    `in_periods` has the same by period, ``(N, T, C)``; nothing where there is but one.
    """

    search: Array
    exposure: Array
    engagement: Array
    in_periods: tuple[Array, ...] = ()

    @classmethod
    def of(cls, search: Array, exposure: Array, engagement: Array) -> Counts:
        """Of events by category, or by period and category."""
        if search.ndim == 2:
            return cls(search, exposure, engagement)
        return cls(search.sum(1), exposure.sum(1), engagement.sum(1), (search, exposure, engagement))

    @classmethod
    def of_logs(cls, logs: Logs) -> Counts:
        """Of logs as the model reads them."""
        return cls.of(
            *(events.double().cpu().numpy() for events in (logs.search, logs.exposure, logs.engagement))
        )


@dataclass(frozen=True)
class Statistic:
    """What is looked at in logs, and how it is called.

    Attributes
    ----------
    title
        In plain words.
    of
        A number, or numbers ``(L,)`` of which each has one of `labels`.
    labels
        Names, if there are several numbers.
    weights
        What each number counts for in the distance between two logs ``(L,)``.
    excess
        Only more than the model makes speaks against it.
    size
        What a difference is relative to; by default the replications' mean.
    """

    title: str
    of: Callable[[Counts], Any]
    labels: Sequence[str] = ()
    weights: Array | float = 1.0
    excess: bool = False
    size: float = 0.0


@own_state()
def predictive_checks(
    model: HMVCRL,
    posterior: ParameterPosterior,
    logs: Logs | SparseLogs,
    categories: Sequence[str],
    exposure_covariates: Sequence[str],
    preference_covariates: Sequence[str],
    seed: int = 0,
    replications: int = REPLICATIONS,
    progress: bool = False,
) -> dict[str, Any]:
    """Check a fitted model against logs: those of its own fit, or others.

    Parameters
    ----------
    logs
        Users with their events; of more than `USERS` a random part is taken, of many categories and periods a smaller
        one (`NUMBERS`), but no fewer than `FEWEST`.
    categories, exposure_covariates, preference_covariates
        Their names.

    Returns
    -------
    dict
        ``checks`` by name, see :func:`compare`; ``densities``, histograms over users; and how they were made.
    """
    rng = np.random.default_rng(seed)
    some = min(USERS, max(NUMBERS // (logs.n_periods * len(categories)), FEWEST))
    rows = torch.as_tensor(np.sort(rng.permutation(len(logs.index))[:some]))
    logs = logs.batch(rows.to(logs.index.device)).to("cpu")
    logs = logs._replace(index=torch.arange(len(rows)), n_users=len(rows))
    model = copy.deepcopy(model).to("cpu")  # where the posterior is
    observed = Counts.of_logs(logs)
    asked = statistics(model, logs, categories, exposure_covariates, preference_covariates)
    made: dict[str, list[Any]] = {name: [] for name in (*asked, *DENSITIES)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for i in tqdm(range(replications), "replicated logs", disable=not progress, leave=False):
            counts = replicate(model, posterior.draw(i % posterior.n_draws), logs, rng)
            for name, statistic in asked.items():
                made[name].append(statistic.of(counts))
            for name, (_, of_user) in DENSITIES.items():
                made[name].append(of_user(counts))
    checks = {name: compare(s, s.of(observed), np.array(made[name])) for name, s in asked.items()}
    densities = {n: histograms(title, of(observed), made[n]) for n, (title, of) in DENSITIES.items()}
    return {
        "replications": replications,
        "users": len(rows),
        "level": LEVEL,
        "checks": {name: check for name, check in checks.items() if check},
        "densities": {name: density for name, density in densities.items() if density},
    }


@torch.no_grad()
def replicate(
    model: HMVCRL, values: Values, logs: Logs, rng: np.random.Generator, noise: torch.Tensor | None = None
) -> Counts:
    """Logs that the model makes at these parameters, of users with these covariates and numbers of events.

    Their `noise` ``(N, K + 1)`` is drawn anew, unless it is given.
    """
    story = at(model, values)
    if noise is not None:
        story = pyro.condition(story, data={"noise": noise})
    if logs.n_periods > 1:  # a period's past is what the model makes, too
        sites = poutine.trace(story).get_trace(logs._replace(shown_cells=None)).nodes
        every = range(1, logs.n_periods + 1)
        surfaces = ("search", "exposure", "engagement")
        made = ([sites[f"{name}_{t}"]["value"].double().numpy() for t in every] for name in surfaces)
        return Counts.of(*(np.stack(periods, 1) for periods in made))
    sites = poutine.trace(observe(story, logs)).get_trace(logs).nodes
    searched, shown, engaged = (
        sites[name]["fn"].probability.double().numpy() for name in ("search", "exposure", "engagement")
    )
    search = rng.multinomial(logs.search.sum(1).int().numpy(), searched / searched.sum(1, keepdims=True))
    exposure = rng.multinomial(logs.exposure.sum(1).int().numpy(), shown / shown.sum(1, keepdims=True))
    engagement = rng.binomial(exposure, engaged)
    return Counts(search.astype(float), exposure.astype(float), engagement.astype(float))


def statistics(
    model: HMVCRL,
    logs: Logs,
    categories: Sequence[str],
    exposure_covariates: Sequence[str],
    preference_covariates: Sequence[str],
) -> dict[str, Statistic]:
    """What is looked at in logs of these users, by name."""
    k_platform, k_preference = model.n_platform, model.n_factors - model.n_platform
    shown = _share(logs.by_category.exposure.double().numpy())
    asked = {
        "search_shares": Statistic(
            "Categories searched: their shares", lambda c: _share(c.search), categories
        ),
        "exposure_shares": Statistic(
            "Categories shown: their shares", lambda c: _share(c.exposure), categories
        ),
        "engagement_rates": Statistic("Engagement with each category", _rates, categories, shown),
        "engagement_spread": Statistic(
            "Engagement: how much users differ (sd)", lambda c: user_rate(c).std()
        ),
        "alignment": Statistic("Alignment: shown what the user searches", lambda c: _mean(user_alignment(c))),
        "search_mix": Statistic("How mixed a user's searches are", lambda c: _mean(entropy(c.search))),
        "exposure_mix": Statistic("How mixed what a user is shown is", lambda c: _mean(entropy(c.exposure))),
        "search_rest": Statistic(
            f"Users' searches: differences past {k_preference} directions",
            lambda c: _past(_surprise(c.search), k_preference, 1),
            excess=True,
        ),
        "exposure_rest": Statistic(
            f"What users are shown: differences past {k_platform} directions",
            lambda c: _past(_surprise(c.exposure), k_platform, 1),
            excess=True,
        ),
        "engagement_rest": Statistic(
            f"Users' engagement by category: differences past {k_preference + 1} directions",
            lambda c: _past(_engagement_surprise(c), k_preference + 1),
            excess=True,
        ),
        "search_exposure": Statistic(
            "Searched and shown: what goes together",
            lambda c: _together(_surprise(c.search), _surprise(c.exposure)),
        ),
        "search_engagement": Statistic(
            "Searched and engaged with: what goes together",
            lambda c: _together(_surprise(c.search), _engagement_surprise(c)),
        ),
    }
    if logs.n_periods > 2:  # of two, each is what the user's usual leaves of the other
        asked |= {
            "following_engagement": Statistic(
                "What is shown follows what was engaged with, a period before",
                lambda c: following(c.in_periods[1], c.in_periods[2]),
                size=COSINE,
            ),
            "following_exposure": Statistic(
                "What is searched follows what was shown, a period before",
                lambda c: following(c.in_periods[0], c.in_periods[1]),
                size=COSINE,
            ),
        }
    if logs.n_periods > 1:
        asked |= {
            "drift": Statistic("What is shown: drift over the window", lambda c: drift(c.in_periods[1])),
            "bursts": Statistic(
                "What is shown comes in bursts of one category", lambda c: bursts(c.in_periods[1])
            ),
        }
    platform_s = logs.exposure_covariates.double().numpy()
    groups, labels = _groups(platform_s, exposure_covariates)
    if labels:
        of_groups = Statistic(
            "Engagement by exposure covariates", lambda c: _group_rates(c, groups), labels, 1 / len(labels)
        )
        asked["engagement_by_covariate"] = of_groups
    own = logs.preference_covariates.double().numpy()
    for surface, what, covariates, names in (
        ("exposure", "What is shown", platform_s, exposure_covariates),
        ("search", "What is searched", own, preference_covariates),
    ):
        pairs, of_pairs = _pairs(covariates, names)
        if of_pairs:
            asked[f"{surface}_by_covariate"] = Statistic(
                f"{what} by covariate: shares of categories, ends and middle",
                partial(_parted, surface=surface, pairs=pairs),
                of_pairs,
                1 / len(of_pairs),
            )
    return asked


def user_rate(counts: Counts) -> Array:
    """Share of what a user is shown that the user engages with; of users who are shown something."""
    shown = counts.exposure.sum(1)
    return np.asarray(counts.engagement.sum(1)[shown > 0] / shown[shown > 0])


def user_alignment(counts: Counts) -> Array:
    """Chance that an item shown and an item searched are of one category; of users with both surfaces."""
    both = (counts.search.sum(1) > 0) & (counts.exposure.sum(1) > 0)
    searched, shown = counts.search[both], counts.exposure[both]
    return np.asarray((searched * shown).sum(1) / (searched.sum(1) * shown.sum(1)))


def entropy(events: Array) -> Array:
    """Entropy in nats of each user's shares of categories; of users with at least two events."""
    total = events.sum(1, keepdims=True)
    share = (events / np.maximum(total, 1))[total[:, 0] > 1]
    return np.asarray(-(share * np.log(np.where(share > 0, share, 1.0))).sum(1))


def following(later: Array, earlier: Array) -> float:
    """Cosine over categories between a user's events and the others of the period before, against the user's usual.

    Both are events ``(N, T, C)``.  From -1 to 1; where nothing follows a little below 0, as the usual has these events
    in it, too.
    """
    now, before = (events - _usual(events) for events in (later[:, 1:], earlier[:, :-1]))
    return float((now * before).sum() / np.sqrt((now**2).sum() * (before**2).sum()).clip(1e-9))


def _usual(events: Array) -> Array:
    """What each period's events would be with the user's shares in all periods together, ``(N, T, C)``."""
    total = events.sum((1, 2), keepdims=True)
    return np.asarray(events.sum(1, keepdims=True) * events.sum(2, keepdims=True) / np.maximum(total, 1))


def drift(events: Array) -> float:
    """Total variation between all users' shares of categories in the first and in the second half of the window."""
    half = (events.shape[1] + 1) // 2
    return float(np.abs(_share(events[:, :half].sum(1)) - _share(events[:, half:].sum(1))).sum() / 2)


def bursts(events: Array) -> float:
    """How much likelier two events of a user's are of one category within a period than across periods, as a ratio."""
    n, total = events.sum(2), events.sum((1, 2))
    within = (events * (events - 1)).sum()
    of_within = (n * (n - 1)).sum()
    of_all = (total * (total - 1)).sum()
    every = events.sum(1)
    across = (every * (every - 1)).sum() - within
    return float(within / max(of_within, 1) / max(across / max(of_all - of_within, 1), 1e-9))


#: Of which the histogram over users is kept.
DENSITIES: dict[str, tuple[str, Callable[[Counts], Array]]] = {
    "engagement": ("share of a user's items engaged with", user_rate),
    "search": ("entropy of a user's searches, nats", lambda counts: entropy(counts.search)),
    "exposure": ("entropy of what a user is shown, nats", lambda counts: entropy(counts.exposure)),
}


def _mean(of_users: Array) -> float:
    """NaN without users."""
    return float(of_users.mean()) if len(of_users) else np.nan


def _share(events: Array) -> Array:
    return np.asarray(events.sum(0) / events.sum())


def _rates(counts: Counts) -> Array:
    return np.asarray(counts.engagement.sum(0) / np.maximum(counts.exposure.sum(0), 1))


def _surprise(events: Array) -> Array:
    """Pearson residuals ``(N, C)`` of the events against the shares of all users together."""
    expected = events.sum(1, keepdims=True) * _share(events)
    return np.asarray((events - expected) / np.sqrt(np.where(expected > 0, expected, 1.0)))


def _engagement_surprise(counts: Counts) -> Array:
    """Pearson residuals ``(N, C)`` of engagement against each category's rate."""
    rate = _rates(counts)
    variance = counts.exposure * rate * (1 - rate)
    return np.asarray(
        (counts.engagement - counts.exposure * rate) / np.sqrt(np.where(variance > 0, variance, 1.0))
    )


def _past(surprise: Array, directions: int, bound: int = 0) -> float:
    """Variance of the residuals that is left past the strongest directions; NaN where none can be.

    Residuals against shares are `bound` to have a direction less than categories.
    """
    if directions >= surprise.shape[1] - bound:
        return float("nan")
    return float(np.linalg.eigvalsh(surprise.T @ surprise / len(surprise))[::-1][directions:].sum())


def _together(one: Array, other: Array) -> float:
    """Strongest covariance of a direction in one surface's residuals with a direction in the other's."""
    return float(np.linalg.norm(one.T @ other / len(one), 2))


def _groups(covariates: Array, names: Sequence[str]) -> tuple[Array, list[str]]:
    """Who belongs to which group ``(N, G)``: values of a covariate that has few, else fifths of the users by it."""
    groups, labels = [], []
    for name, values in zip(names, covariates.T, strict=True):
        levels = np.unique(values)
        if len(levels) > GROUPS:
            levels = np.unique(np.quantile(values, np.linspace(0, 1, GROUPS + 1)[1:]))
        code = np.searchsorted(levels, values)
        groups += [code == g for g in range(len(levels))]
        labels += [f"{name}, group {g + 1} of {len(levels)}" for g in range(len(levels))]
    return np.array(groups, dtype=float).T.reshape(len(covariates), -1), labels


def _pairs(covariates: Array, names: Sequence[str]) -> tuple[list[tuple[Array, Array]], list[str]]:
    """Of each covariate ``(N, D)`` who is at its low and its high end; and, if it can bend, at either end and not.

    The ends are thirds, by rank.
    """
    pairs, labels = [], []
    for name, values in zip(names, covariates.T, strict=True):
        (low, high), most = np.quantile(values, [1 / 3, 2 / 3]), values.max()
        below = values <= low if low < most else values < most
        above = values > high if high < most else values == most
        pairs.append((below.astype(float), above.astype(float)))
        labels.append(f"{name}, low and high")
        ends = below | above
        if not ends.all():
            pairs.append((ends.astype(float), (~ends).astype(float)))
            labels.append(f"{name}, ends and middle")
    return pairs, labels


def _parted(counts: Counts, surface: str, pairs: Sequence[tuple[Array, Array]]) -> Array:
    """Total variation between the shares of categories of the two groups of each pair, ``(L,)``."""
    events = getattr(counts, surface)
    shares = [[of @ events / max((of @ events).sum(), 1) for of in pair] for pair in pairs]
    return np.array([np.abs(one - other).sum() / 2 for one, other in shares])


def _group_rates(counts: Counts, groups: Array) -> Array:
    shown, engaged = (groups.T @ events.sum(1) for events in (counts.exposure, counts.engagement))
    return np.asarray(engaged / np.maximum(shown, 1))


def compare(statistic: Statistic, observed: Any, replicated: Array) -> dict[str, Any]:
    """What was observed against replications ``(R,)`` or ``(R, L)``; empty where it cannot be computed.

    Of several numbers, the distance is their weighted mean absolute difference from the replications' mean, and how
    much of it there is in the replications themselves is taken out.

    Returns
    -------
    dict
        ``observed``, and the replications' ``mean``, ``lower`` and ``upper``; ``distance``, in standard deviations of
        the replications; ``difference``, relative to their mean or to the statistic's size; ``one_sided``, as distances
        and an `excess` are: only more than the model makes speaks against it; ``p``, the posterior predictive p-value,
        of one side or two; and the ``level``: good, care (far, but by little) or no.
    """
    lower, upper = np.quantile(replicated, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    mean = replicated.mean(0)
    one, all_, expected, size = observed, replicated, mean, mean
    if statistic.labels:
        one, all_ = (np.sum(statistic.weights * np.abs(x - mean), -1) for x in (observed, replicated))
        all_ = all_ * len(all_) / max(len(all_) - 1, 1)  # each from the mean of the others, as the logs are
        expected, size = all_.mean(), np.sum(statistic.weights * mean)
    size = statistic.size or size
    if not (np.isfinite(replicated).all() and np.isfinite(observed).all() and size > 0):
        return {}
    distance = float((one - expected) / max(all_.std(), 1e-9 * size))
    difference = float((one - expected) / size)
    above, below = ((1 + np.sum(sign * all_ >= sign * one)) / (1 + len(all_)) for sign in (1, -1))
    one_sided = statistic.excess or len(statistic.labels) > 0
    p = above if one_sided else min(1.0, 2 * min(above, below))
    found = {"title": statistic.title, "distance": distance, "difference": difference, "p": float(p)}
    found["one_sided"] = one_sided
    low, high = passes(found)
    far = not low <= distance <= high
    found |= {"labels": list(statistic.labels)} if statistic.labels else {}
    found |= {"size": statistic.size} if statistic.size else {}
    found |= {"level": "good" if not far else "care" if abs(difference) < MATTERS else "no"}
    parts = {"observed": observed, "mean": mean, "lower": lower, "upper": upper}
    return found | {name: np.asarray(part).tolist() for name, part in parts.items()}


def passes(check: Mapping[str, Any]) -> tuple[float, float]:
    """From where to where a check's distance lies when it passes, in standard deviations."""
    return -np.inf if check.get("one_sided") else -FAR, FAR


def histograms(title: str, observed: Array, replicated: Sequence[Array]) -> dict[str, Any]:
    """Densities over users on common bins: observed, and the replications' interval; empty without users."""
    if not len(observed):
        return {}
    low, high = np.quantile(np.concatenate([observed, *replicated]), [0.001, 0.999])
    if low == high:
        return {}
    edges = np.linspace(low, high, BINS + 1)
    of = np.array([np.histogram(x, edges, density=True)[0] for x in (observed, *replicated)])
    lower, upper = np.quantile(of[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    parts = {"at": (edges[1:] + edges[:-1]) / 2, "observed": of[0], "lower": lower, "upper": upper}
    return {"title": title} | {name: part.tolist() for name, part in parts.items()}


def verdict(checks: Mapping[str, Mapping[str, Any]]) -> tuple[str, list[str]]:
    """What the checks come to together: the worst level, and sentences, the headline first."""
    failed = [check for check in checks.values() if check["level"] != "good"]
    level = "no" if any(c["level"] == "no" for c in failed) else "care" if failed else "good"
    if not failed:
        return level, [f"logs that the model makes look like these logs in all {len(checks)} respects."]
    told = sorted(failed, key=lambda check: -abs(check["distance"]))
    return level, [
        f"logs that the model makes differ from these logs in {len(failed)} of {len(checks)} respects.",
        *(f"{c['title'][0].lower()}{c['title'][1:]}: {_differs(c)}." for c in told),
    ]


def _differs(check: Mapping[str, Any]) -> str:
    if "labels" in check:
        return f"off by {check['difference']:.0%} past chance, {check['distance']:.0f} sd"
    if "size" in check:
        both = f"{check['observed']:.2f} in the logs, {check['mean']:.2f} in the model's"
        return f"{both}, {abs(check['distance']):.0f} sd"
    more = "more" if check["difference"] > 0 else "less"
    return f"{abs(check['difference']):.0%} {more} in the logs than in the model's, {abs(check['distance']):.0f} sd"
