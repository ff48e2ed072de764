"""The true parameters of one simulated world, and the story as plain numpy functions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pyro_hmvcrl.synthetic.design import Array, Design

#: Of `Design.learning` and `Design.influence` at 1, on the features that they look at.
LEARNING, INFLUENCE = np.array([3.0, 0.3, 0.1, 0.3]), np.array([0.3, 0.3])
#: Logarithm of readiness' standard deviation, as a share of that in the model: hardly any.
NO_READINESS = -4.0
LIKED = -1.5  #: log odds of `liked`, on average
ECHO = 0.5  #: how much a suggested search has of the user's own


@dataclass(frozen=True)
class Emission:
    """Category logits ``intercept + z linear + tanh(z inner) outer`` of one surface."""

    intercept: Array  #: (C,)
    linear: Array  #: (K, C)
    inner: Array  #: (K, H)
    outer: Array  #: (H, C)

    @classmethod
    def draw(
        cls, rng: np.random.Generator, factors: int, categories: int, strength: float, nonlinearity: float
    ) -> Emission:
        hidden = 16
        linear = rng.normal(size=(factors, categories)) * strength * (1 - nonlinearity)
        inner = rng.normal(size=(factors, hidden)) / np.sqrt(factors)
        outer = rng.normal(size=(hidden, categories)) * strength * nonlinearity * np.sqrt(factors / hidden)
        return cls(rng.normal(scale=0.5, size=categories), linear, inner, outer)

    def logits(self, z: Array) -> Array:
        """``(..., K) -> (..., C)``."""
        return self.intercept + z @ self.linear + np.tanh(z @ self.inner) @ self.outer

    def jacobian(self, z: Array) -> Array:
        """Derivative of the logits by the factors, ``(N, K) -> (N, K, C)``."""
        slope = 1 - np.tanh(z @ self.inner) ** 2
        return self.linear + (self.inner * slope[:, None, :]) @ self.outer


@dataclass(frozen=True)
class Loop:
    """What events owe to the user's past, by features as :mod:`~pyro_hmvcrl.synthetic.loop` has them."""

    learning: Array  #: (4,), of exposure on rate, engaged, shown and searched
    personalisation: Array  #: (D_P, 4), what a covariate adds to it
    influence: Array  #: (2,), of search on engaged and shown
    familiarity: float  #: of engagement on shown

    @classmethod
    def draw(cls, rng: np.random.Generator, d: Design) -> Loop:
        by_covariate = _directions(rng, d.exposure_covariates, 1, d.personalisation)
        return cls(d.learning * LEARNING, by_covariate * LEARNING, d.influence * INFLUENCE, d.familiarity)


@dataclass(frozen=True)
class Liking:
    """A further outcome of what is shown, `liked`: coefficients like those of engagement, of its own."""

    intercept: Array  #: (C,)
    preference: Array  #: (C, K_Q)
    platform: Array  #: (K_P,)
    direct: Array  #: (D_P,)

    @classmethod
    def draw(cls, rng: np.random.Generator, d: Design, search: Emission) -> Liking:
        """Loadings on preference are those of search, so that users like what they look for; the rest is drawn."""
        return cls(
            LIKED + rng.normal(scale=0.5, size=d.categories),
            d.liked * search.linear.T / search.linear.std(),
            rng.choice([-1.0, 1.0], size=d.platform_factors) * d.platform_engagement,
            _directions(rng, d.exposure_covariates, 1, d.direct)[:, 0],
        )


@dataclass(frozen=True)
class World:
    """The true parameters of one simulated world, with the story as plain numpy functions."""

    design: Design
    location_weights: tuple[Array, Array]  #: a channel each, (D, K): platform, preference
    log_scale_weights: tuple[Array, Array]
    edges: Array  #: (K, K), B[source, target]
    search: Emission
    exposure: Emission
    engagement_intercept: Array  #: b (C,)
    engagement_preference: Array  #: a (C, K_Q)
    engagement_platform: Array  #: alpha (K_P,)
    engagement_direct: Array  #: delta (D_P,)
    loop: Loop | None = None  #: none: events owe nothing to the past
    suggested: Emission | None = None  #: of the platform's factors, in searches that it suggests
    liking: Liking | None = None  #: none: there is no outcome but engagement

    @property
    def platform(self) -> slice:
        return slice(0, self.design.platform_factors)

    @property
    def preference(self) -> slice:
        return slice(self.design.platform_factors, None)

    def mechanisms(self, exposure_covariates: Array, preference_covariates: Array) -> tuple[Array, Array]:
        """Location and scale of every factor before the graph, each ``(N, K)``."""
        blocks = (exposure_covariates, preference_covariates)
        location = [c @ w for c, w in zip(blocks, self.location_weights, strict=True)]
        log_scale = [c @ w for c, w in zip(blocks, self.log_scale_weights, strict=True)]
        return np.concatenate(location, 1), np.exp(bounded(np.concatenate(log_scale, 1)))

    def through_graph(self, drive: Array) -> Array:
        """Factors that solve ``z = B'z + drive``, ``(..., K) -> (..., K)``."""
        return drive @ np.linalg.inv(np.eye(len(self.edges)) - self.edges)

    def parameters(self) -> dict[str, Array]:
        """Structural coefficients and decoders' weights, by the names that they have in the model."""
        values = {
            "platform_location": self.location_weights[0],
            "platform_log_scale": self.log_scale_weights[0],
            "preference_location": self.location_weights[1],
            "preference_log_scale": self.log_scale_weights[1],
            "edges": self.edges,
            "a": self.engagement_preference,
            "b": self.engagement_intercept,
            "alpha": self.engagement_platform,
            "delta": self.engagement_direct,
            "readiness_log_scale": np.array([NO_READINESS]),
        }
        bends = (
            ("platform_bend", "platform_location"),
            ("preference_bend", "preference_location"),
            ("delta_bend", "delta"),
        )
        values |= {bend: np.zeros_like(values[like]) for bend, like in bends}
        if self.loop:
            values |= vars(self.loop) | {"familiarity": np.array([self.loop.familiarity])}
            values |= {"personalisation_bend": np.zeros_like(self.loop.personalisation)}
        if self.suggested:
            values |= {"echo": np.array([ECHO])}
            values |= {f"f_suggested.{part}": weights for part, weights in vars(self.suggested).items()}
        for decoder, emission in (("f_search", self.search), ("f_exposure", self.exposure)):
            values |= {f"{decoder}.{part}": weights for part, weights in vars(emission).items()}
        return values

    def suggested_logits(self, z: Array) -> Array:
        """Category logits of a search that the platform suggested."""
        assert self.suggested is not None
        return ECHO * self.search.logits(z[..., self.preference]) + self.suggested.logits(
            z[..., self.platform]
        )

    def liked_logits(self, z: Array, exposure_covariates: Array) -> Array:
        """Log odds of `liked` by category, ``(..., N, C)``."""
        assert self.liking is not None
        of = self.liking
        user = z[..., self.platform] @ of.platform + exposure_covariates @ of.direct
        return of.intercept + z[..., self.preference] @ of.preference.T + user[..., None]

    def engagement_logits(self, z: Array, exposure_covariates: Array) -> Array:
        """Log odds of engagement by category, ``(..., N, C)``."""
        user = z[..., self.platform] @ self.engagement_platform + exposure_covariates @ self.engagement_direct
        return (
            self.engagement_intercept
            + z[..., self.preference] @ self.engagement_preference.T
            + user[..., None]
        )


def bounded(log_scale: Array, bound: float = 2.0) -> Array:
    """Log scale kept within +-bound, so that a covariate's long tail cannot explode a factor."""
    return bound * np.tanh(log_scale / bound)


def draw_world(design: Design, seed: int) -> World:
    """Draw the true parameters of one world.

    Raises
    ------
    ValueError
        If an edge names an unknown factor, or the edges have a cycle.
    """
    rng = np.random.default_rng([seed, 1])
    d, sizes = (
        design,
        [
            (design.exposure_covariates, design.platform_factors),
            (design.preference_covariates, design.preference_factors),
        ],
    )
    location = tuple(_directions(rng, *size, d.location) for size in sizes)
    log_scale = tuple(_directions(rng, *size, d.scale) for size in sizes)
    signs = rng.choice([-1.0, 1.0], size=d.platform_factors)
    world = World(
        design=d,
        location_weights=(location[0], location[1]),
        log_scale_weights=(log_scale[0], log_scale[1]),
        edges=_edge_matrix(d),
        search=Emission.draw(rng, d.preference_factors, d.categories, d.search_strength, d.nonlinearity),
        exposure=Emission.draw(rng, d.platform_factors, d.categories, d.exposure_strength, d.nonlinearity),
        engagement_intercept=rng.normal(scale=0.5, size=d.categories),
        engagement_preference=rng.normal(
            scale=d.engagement_strength, size=(d.categories, d.preference_factors)
        ),
        engagement_platform=signs * d.platform_engagement,
        engagement_direct=_directions(rng, d.exposure_covariates, 1, d.direct)[:, 0],
    )
    if d.has_loop:
        world = replace(world, loop=Loop.draw(rng, d))
    if d.suggestion:
        of_platform = d.platform_factors, d.categories, d.exposure_strength, d.nonlinearity
        world = replace(world, suggested=Emission.draw(rng, *of_platform))
    if d.liked:  # from chance of its own, so that the rest of the world is as it is without
        own = np.random.default_rng([seed, 7])
        world = replace(world, liking=Liking.draw(own, d, world.search))
    return _with_substitution(world, d.substitution) if d.substitution else world


def _with_substitution(world: World, strength: float) -> World:
    """The world in which ``exposure_1`` is a policy that substitutes what users look for (`Design.substitution`)."""
    d, first = world.design, np.eye(world.design.exposure_covariates)[0]
    sought = world.search.intercept - world.search.intercept.mean()
    sought /= sought.std()
    of_platform_1 = np.eye(d.platform_factors)[0]
    location = world.location_weights[0] * (1 - first[:, None])  # exposure_1 moves no other factor
    location[:, 0] = d.location * first
    exposure = replace(
        world.exposure, linear=world.exposure.linear - strength * of_platform_1[:, None] * sought
    )
    alpha = world.engagement_platform.copy()
    alpha[0] = -np.sign(strength) * abs(alpha[0])
    return replace(
        world,
        location_weights=(location, world.location_weights[1]),
        search=replace(world.search, intercept=sought),
        exposure=exposure,
        engagement_intercept=world.engagement_intercept + 0.5 * sought,
        engagement_platform=alpha,
        engagement_direct=d.direct * first,
    )


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(p / p.sum(-1, keepdims=True))


def sigmoid(logits: Array) -> Array:
    """Probabilities from log odds."""
    return 1 / (1 + np.exp(-logits))


def log_softmax(logits: Array) -> Array:
    """Log probabilities over the last axis."""
    centred = logits - logits.max(-1, keepdims=True)
    return np.asarray(centred - np.log(np.exp(centred).sum(-1, keepdims=True)))


def _directions(rng: np.random.Generator, covariates: int, factors: int, strength: float) -> Array:
    """Weights ``(D, K)``: columns of length `strength`, orthogonal while there are covariates enough."""
    w = rng.normal(size=(covariates, factors))
    if covariates == 0:
        return w
    if covariates >= factors:
        w = np.linalg.qr(w)[0]
    return strength * w / np.linalg.norm(w, axis=0)


def _edge_matrix(design: Design) -> Array:
    names, edges = design.factor_names, np.zeros((len(design.factor_names),) * 2)
    for source, target, weight in design.edges:
        if source not in names or target not in names:
            raise ValueError(f"edge {source} -> {target}: the factors are {', '.join(names)}")
        edges[names.index(source), names.index(target)] = weight
    if np.linalg.matrix_power((edges != 0).astype(float), len(names)).any():
        raise ValueError(f"the edges {design.edges} have a cycle: the structural graph must be acyclic")
    return edges
