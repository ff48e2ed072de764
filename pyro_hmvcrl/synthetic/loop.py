"""The loop of a simulated world: what a period's events owe to the user's past, and the periods one after the other.

The features are those of the story (:mod:`pyro_hmvcrl.story.history`), written anew in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_hmvcrl.synthetic.world import World, sigmoid, softmax

Array = NDArray[np.float64]
USUAL_RATE, HELD_BACK = 0.5, 2.0


class Events(NamedTuple):
    """Events by user, period and category, ``(N, T, C)``."""

    search: Array
    exposure: Array
    engagement: Array


class OfPast(NamedTuple):
    """What the past adds to the logits of search, exposure and engagement."""

    search: Array
    exposure: Array
    engagement: Array


NOTHING = OfPast(*np.zeros((3, 1)))


@dataclass(frozen=True)
class Numbers:
    """How many events each user has in each period, ``(N, T)``."""

    search: NDArray[np.int64]
    exposure: NDArray[np.int64]

    @property
    def weights(self) -> Array:
        """Share of each period in all that is shown, ``(T,)``."""
        return np.asarray(self.exposure.sum(0) / self.exposure.sum())


def features(searched: Array, shown: Array, engaged: Array) -> Array:
    """Rate, engaged, shown and searched ``(..., C, 4)``, of events so far ``(..., C)``."""
    rate = (engaged - USUAL_RATE * shown) / (shown + HELD_BACK)
    return np.stack([rate, np.log1p(engaged), np.log1p(shown), np.log1p(searched)], -1)


def of_past(world: World, exposure_covariates: Array, history: Array) -> OfPast:
    """What features ``(N, ..., C, 4)`` of the past add to the logits ``(N, ..., C)``."""
    loop = world.loop
    assert loop is not None
    learning = loop.learning + exposure_covariates @ loop.personalisation
    own = learning.reshape(len(learning), *[1] * (history.ndim - 2), -1)
    return OfPast(
        history[..., 1:3] @ loop.influence, (history * own).sum(-1), history[..., 2] * loop.familiarity
    )


def histories(events: Events) -> Array:
    """Features of the past of every period, ``(N, T, C, 4)``."""
    return features(*(each.cumsum(1) - each for each in events))


def play(
    world: World, exposure_covariates: Array, z: Array, numbers: Numbers, seed: tuple[int, ...]
) -> Events:
    """Let the users go through the periods; the same seed gives the same chance in any world."""
    rng = np.random.default_rng(seed)
    search, exposure, engagement = logits(world, exposure_covariates, z)
    past = [np.zeros_like(exposure) for _ in Events._fields]
    periods: list[list[Array]] = []
    for t in range(numbers.exposure.shape[1]):
        added = of_past(world, exposure_covariates, features(*past))
        searched, _ = _draw(rng, softmax(search + added.search), numbers.search[:, t])
        engages = sigmoid(engagement + added.engagement)
        shown, engaged = _draw(rng, softmax(exposure + added.exposure), numbers.exposure[:, t], engages)
        periods.append([searched, shown, engaged])
        past = [so_far + now for so_far, now in zip(past, periods[-1], strict=True)]
    return Events(*(np.stack(each, 1) for each in zip(*periods, strict=True)))


def _draw(
    rng: np.random.Generator, probability: Array, number: NDArray[np.int64], engages: Array | None = None
) -> tuple[Array, Array]:
    """Events by category ``(N, C)``, and those of them that are engaged with; a uniform or two decide on each."""
    which, liked = rng.random((2, len(number), max(number.max(), 1)))
    category = (which[..., None] > probability.cumsum(1)[:, None, :-1]).sum(-1)
    user, event = np.nonzero(np.arange(which.shape[1]) < number[:, None])
    cell = user * probability.shape[1] + category[user, event]
    engaged = liked[user, event] < engages.ravel()[cell] if engages is not None else np.zeros(len(cell), bool)
    counts = (np.bincount(cells, minlength=probability.size) for cells in (cell, cell[engaged]))
    all_events, engaged_events = (each.reshape(probability.shape).astype(float) for each in counts)
    return all_events, engaged_events


def logits(world: World, exposure_covariates: Array, z: Array) -> tuple[Array, Array, Array]:
    """Logits ``(N, C)`` of search, exposure and engagement, whatever came before."""
    return (
        world.search.logits(z[..., world.preference]),
        world.exposure.logits(z[..., world.platform]),
        world.engagement_logits(z, exposure_covariates),
    )


def outcomes(world: World, exposure_covariates: Array, z: Array, events: Events, weights: Array) -> Array:
    """Mean engagement, alignment and liking, with the past that these events are; periods count by their weights."""
    of_search, of_exposure, of_engagement = (
        base[:, None] + added
        for base, added in zip(
            logits(world, exposure_covariates, z),
            of_past(world, exposure_covariates, histories(events)),
            strict=True,
        )
    )
    shown, searched, engaged = softmax(of_exposure), softmax(of_search), sigmoid(of_engagement)
    of_shown = [engaged, searched]
    if world.liking:
        of_shown.append(sigmoid(world.liked_logits(z, exposure_covariates))[:, None])
    return np.array([((shown * y).sum(-1) @ weights).mean() for y in of_shown])
