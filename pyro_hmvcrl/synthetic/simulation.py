"""Users of a world, and their logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pyro_hmvcrl.synthetic.design import Array, Design, shift_vector
from pyro_hmvcrl.synthetic.loop import Numbers, play
from pyro_hmvcrl.synthetic.world import World, draw_world, sigmoid, softmax


@dataclass(frozen=True)
class Simulation:
    """Users and logs of one world: arrays with a row per user."""

    world: World
    exposure_covariates: Array
    preference_covariates: Array
    noise: Array
    factors: Array  #: (N, K), platform first
    search: Array  #: (N, C) counts, of worlds with a loop (N, T, C)
    exposure: Array
    engagement: Array
    suggested: Array | None = None
    liked: Array | None = None  #: among `exposure`

    @property
    def observed(self) -> tuple[Array, ...]:
        """What a model reads: both blocks of covariates, and counts of searches, exposures and engagements.

        And of suggested searches, where there are any.
        """
        covariates = self.exposure_covariates, self.preference_covariates
        suggested = () if self.suggested is None else (self.suggested,)
        return (*covariates, self.search, self.exposure, self.engagement, *suggested)

    @property
    def numbers(self) -> Numbers:
        """How many events there are in each period."""
        return Numbers(*(each.sum(-1).astype(np.int64) for each in (self.search, self.exposure)))

    @property
    def platform(self) -> Array:
        return self.factors[:, self.world.platform]

    @property
    def preference(self) -> Array:
        return self.factors[:, self.world.preference]


def simulate(
    design: Design,
    seed: int,
    world: World | None = None,
    shift: Mapping[str, float] | None = None,
    events_seed: int | None = None,
) -> Simulation:
    """Draw users and their logs.

    The same `seed` gives the same users (covariates and noise); a `shift` of exposure covariates, by name, in
    their own units, shows those users under another policy.  Their events have the same chance, too, as far as it goes
    along with them; an `events_seed` gives them another.

    Raises
    ------
    ValueError
        If a name is not an exposure covariate.

    Examples
    --------
    >>> before, after = (simulate(Design(users=100), 0, shift={"exposure_1": by}) for by in (0.0, 1.0))
    >>> before.search.shape, bool((before.noise == after.noise).all())
    ((100, 24), True)
    >>> (after.exposure_covariates - before.exposure_covariates).mean(0).round(6)
    array([1., 0., 0., 0., 0.])
    """
    chance = seed if events_seed is None else events_seed
    sim = _events(design, seed, world or draw_world(design, seed), shift or {}, chance)
    if sim.world.liking is None:
        return sim
    rng = np.random.default_rng([chance, 8])  # of its own: the logs are those of the world without `liked`
    p = sigmoid(sim.world.liked_logits(sim.factors, sim.exposure_covariates))
    by_period = p if sim.exposure.ndim == 2 else p[:, None]
    return replace(sim, liked=rng.binomial(sim.exposure.astype(np.int64), by_period).astype(float))


def _events(d: Design, seed: int, world: World, shift: Mapping[str, float], chance: int) -> Simulation:
    """Users and their logs, but for further outcomes; `chance` is the seed of the events."""
    rng = np.random.default_rng([seed, 2])
    c_exposure = _covariates(rng, d, d.exposure_covariates)
    c_preference = _covariates(rng, d, d.preference_covariates)
    c_exposure = c_exposure + shift_vector(d, shift)
    location, scale = world.mechanisms(c_exposure, c_preference)
    noise = rng.normal(size=location.shape)
    z = world.through_graph(location + scale * noise)
    n_search = rng.integers(d.search_events[0], d.search_events[1], size=d.users, endpoint=True)
    n_shown = rng.integers(
        d.recommendation_events[0], d.recommendation_events[1], size=d.users, endpoint=True
    )
    lacks = rng.random(d.users)
    if chance != seed:
        rng = np.random.default_rng([chance, 10])
    n_search[lacks < d.missing_surface / 2] = 0
    n_shown[lacks > 1 - d.missing_surface / 2] = 0
    suggested = None
    if d.suggestion:
        n_suggested = rng.binomial(n_search, d.suggestion)
        n_search -= n_suggested
        own = np.random.default_rng([chance, 9])  # a policy that moves them moves no other chance
        suggested = own.multinomial(n_suggested, softmax(world.suggested_logits(z))).astype(float)
    if world.loop:
        in_periods = (rng.multinomial(n, np.full(d.periods, 1 / d.periods)) for n in (n_search, n_shown))
        events = play(world, c_exposure, z, Numbers(*in_periods), (chance, 5))
        suggested = None if suggested is None else _dealt_out(own, suggested, d.periods)
        return Simulation(world, c_exposure, c_preference, noise, z, *events, suggested=suggested)
    search = rng.multinomial(n_search, softmax(world.search.logits(z[:, world.preference]))).astype(float)
    exposure = rng.multinomial(n_shown, softmax(world.exposure.logits(z[:, world.platform])))
    engagement = rng.binomial(exposure, sigmoid(world.engagement_logits(z, c_exposure))).astype(float)
    surfaces = search, exposure.astype(float), engagement, suggested
    return Simulation(world, c_exposure, c_preference, noise, z, *surfaces)


def _dealt_out(rng: np.random.Generator, counts: Array, periods: int) -> Array:
    """Events ``(N, C)`` dealt out to periods at random, ``(N, T, C)``."""
    parts, left = [], counts.astype(np.int64)
    for t in range(periods):
        parts.append(rng.binomial(left, 1 / (periods - t)))
        left = left - parts[-1]
    return np.stack(parts, 1).astype(float)


def _covariates(rng: np.random.Generator, design: Design, columns: int) -> Array:
    """Covariates ``(N, D)`` of mean 0 and variance 1, at least in expectation."""
    rows = design.settings or design.users
    c = rng.normal(size=(rows, columns))
    if design.covariate_kind == "mixed" and columns > 1:
        c[:, 0] = rng.exponential(size=rows) - 1
        c[:, 1] = ((rng.random(rows) < 0.4) - 0.4) / np.sqrt(0.24)
    return c[rng.integers(rows, size=design.users)] if design.settings else c
