"""Known truth: worlds that follow the generative story, their logs, their oracle and their true effects.

A :class:`Design` names every knob; :func:`draw_world` draws the true parameters of one world from it;
:func:`simulate` draws users and their logs; :func:`write_simulation` makes a dataset folder of them.  Beside the
logs stand what only a simulation can give: the **oracle** (each user's posterior mean under the true parameters,
the ceiling of any estimate's MCC) and the **true effects** of a policy shift.  numpy only, and written apart from
the model, so that each checks the other.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pyro_hmvcrl.dataset import write_dataset

Array = NDArray[np.float64]
Edge = tuple[str, str, float]

DEFAULT_EDGES: tuple[Edge, ...] = (
    ("platform_1", "preference_1", 0.8),
    ("platform_2", "preference_2", -0.8),
)
#: A policy that raises engagement while showing users less of what they look for.
SUBSTITUTION = {"substitution": 0.8, "direct": 0.9, "platform_engagement": 0.2, "engagement_strength": 0.5}
EFFECT_DRAWS = 20  #: noise draws a user in the Monte Carlo of the true effects
FIRST_DAY = 1_684_713_600_000  #: ms since epoch: 22 May 2023
WINDOW = 10 * 86_400_000  #: ms


@dataclass(frozen=True)
class Design:
    """Every knob of a simulated world.

    Attributes
    ----------
    users, platform_factors, preference_factors, categories
        Numbers of users, of factors of each channel, and of categories.
    search_events, recommendation_events
        Smallest and largest number of events a user has on each surface (uniform between them).
    exposure_covariates, preference_covariates
        Number of covariates of each channel; 0 gives a channel without covariates.
    covariate_kind
        ``"gaussian"``, or ``"mixed"``: the first column of each block is skewed (exponential), the second
        is a standardised 0/1 indicator, the others are Gaussian.
    settings
        Number of distinct values that each block of covariates takes over the users, at random (0: every user has
        its own).  With fewer than 2K + 1 the covariates do not identify K factors.
    location, scale
        Strength of modulation: the standard deviation over users of each factor's location, and of the
        logarithm of its scale.  ``scale=0`` is the location-only world, identified only up to rotation.
    edges
        ``(source, target, weight)`` of the structural graph.  An edge inside a channel may be planted too:
        the model has none, and its decoder absorbs it.
    search_strength, exposure_strength
        Standard deviation over categories of the emission loadings, per unit of a factor.
    nonlinearity
        Share of the emission that is a smooth nonlinear function of the factors (0: softmax-linear).
    engagement_strength
        Standard deviation over categories of the loadings ``a[cat]`` of engagement on preference.
    platform_engagement
        Size of the coefficients ``alpha`` of engagement on the platform factors.
    direct
        Strength of the direct path: length of the coefficients ``delta`` of engagement on the exposure
        covariates (0: no direct path).
    substitution
        Strength with which ``platform_1``, made to follow ``exposure_1`` alone, moves exposure away from what users
        look for and engage with (below 0: towards it).  ``exposure_1`` then acts on engagement directly for the
        better (with `direct` above 0), and through ``platform_1`` for the worse: suppression.
    missing_surface
        Share of users who lack one surface (half of them each).
    """

    users: int = 4_000
    platform_factors: int = 2
    preference_factors: int = 3
    categories: int = 24
    search_events: tuple[int, int] = (16, 32)
    recommendation_events: tuple[int, int] = (32, 64)
    exposure_covariates: int = 5
    preference_covariates: int = 5
    covariate_kind: str = "gaussian"
    settings: int = 0
    location: float = 1.0
    scale: float = 0.5
    edges: tuple[Edge, ...] = DEFAULT_EDGES
    search_strength: float = 0.9
    exposure_strength: float = 0.9
    nonlinearity: float = 0.3
    engagement_strength: float = 0.7
    platform_engagement: float = 0.4
    direct: float = 0.2
    substitution: float = 0.0
    missing_surface: float = 0.0

    def __post_init__(self) -> None:
        for f in fields(self):
            _check_knob(f.name, getattr(self, f.name), f.default)
        if self.covariate_kind not in ("gaussian", "mixed"):
            raise ValueError(f"covariate_kind is {self.covariate_kind!r}: choose gaussian or mixed")
        for name in ("users", "platform_factors", "preference_factors", "categories"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")

    @classmethod
    def with_knobs(cls, **knobs: Any) -> Design:
        """A design with some knobs turned; lists (as JSON gives them) become tuples.

        Raises
        ------
        ValueError
            If a knob is unknown; the message lists the knobs.

        Examples
        --------
        >>> Design.with_knobs(scale=0, edges=[["platform_1", "preference_2", 0.5]]).edges
        (('platform_1', 'preference_2', 0.5),)
        """
        known = {f.name for f in fields(cls)}
        if unknown := set(knobs) - known:
            raise ValueError(
                f"unknown knob {', '.join(sorted(unknown))}: choose of {', '.join(sorted(known))}"
            )
        return cls(**{name: _as_tuple(value) for name, value in knobs.items()})

    @property
    def factor_names(self) -> tuple[str, ...]:
        """Platform factors first, then preference factors: the order of every K axis in the package."""
        platform = tuple(f"platform_{k + 1}" for k in range(self.platform_factors))
        return platform + tuple(f"preference_{k + 1}" for k in range(self.preference_factors))

    @property
    def exposure_names(self) -> list[str]:
        return [f"exposure_{d + 1}" for d in range(self.exposure_covariates)]

    @property
    def preference_names(self) -> list[str]:
        return [f"taste_{d + 1}" for d in range(self.preference_covariates)]

    @property
    def category_names(self) -> list[str]:
        return [f"c{c:02d}" for c in range(self.categories)]


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
        }
        for decoder, emission in (("f_search", self.search), ("f_exposure", self.exposure)):
            values |= {f"{decoder}.{part}": weights for part, weights in vars(emission).items()}
        return values

    def engagement_logits(self, z: Array, exposure_covariates: Array) -> Array:
        """Log odds of engagement by category, ``(..., N, C)``."""
        user = z[..., self.platform] @ self.engagement_platform + exposure_covariates @ self.engagement_direct
        return (
            self.engagement_intercept
            + z[..., self.preference] @ self.engagement_preference.T
            + user[..., None]
        )


@dataclass(frozen=True)
class Simulation:
    """Users and logs of one world: arrays with a row per user."""

    world: World
    exposure_covariates: Array
    preference_covariates: Array
    noise: Array
    factors: Array  #: (N, K), platform first
    search: Array  #: (N, C) counts
    exposure: Array
    engagement: Array

    @property
    def observed(self) -> tuple[Array, ...]:
        """What a model reads: both blocks of covariates, and counts of searches, exposures and engagements."""
        covariates = self.exposure_covariates, self.preference_covariates
        return (*covariates, self.search, self.exposure, self.engagement)

    @property
    def platform(self) -> Array:
        return self.factors[:, self.world.platform]

    @property
    def preference(self) -> Array:
        return self.factors[:, self.world.preference]


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


def simulate(
    design: Design, seed: int, world: World | None = None, shift: Mapping[str, float] | None = None
) -> Simulation:
    """Draw users and their logs.

    The same `seed` gives the same users (covariates and noise); a `shift` of exposure covariates, by name, in
    their own units, shows those users under another policy.

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
    d, world, rng = design, world or draw_world(design, seed), np.random.default_rng([seed, 2])
    c_exposure = _covariates(rng, d, d.exposure_covariates)
    c_preference = _covariates(rng, d, d.preference_covariates)
    c_exposure = c_exposure + shift_vector(d, shift or {})
    location, scale = world.mechanisms(c_exposure, c_preference)
    noise = rng.normal(size=location.shape)
    z = world.through_graph(location + scale * noise)
    n_search = rng.integers(d.search_events[0], d.search_events[1], size=d.users, endpoint=True)
    n_shown = rng.integers(
        d.recommendation_events[0], d.recommendation_events[1], size=d.users, endpoint=True
    )
    lacks = rng.random(d.users)
    n_search[lacks < d.missing_surface / 2] = 0
    n_shown[lacks > 1 - d.missing_surface / 2] = 0
    search = rng.multinomial(n_search, softmax(world.search.logits(z[:, world.preference])))
    exposure = rng.multinomial(n_shown, softmax(world.exposure.logits(z[:, world.platform])))
    engagement = rng.binomial(exposure, sigmoid(world.engagement_logits(z, c_exposure)))
    counts = (a.astype(float) for a in (search, exposure, engagement))
    return Simulation(world, c_exposure, c_preference, noise, z, *counts)


# --- The oracle ----------------------------------------------------------------------------------------------


def oracle(sim: Simulation, draws: int = 200, seed: int = 0, chunk: int = 1_000) -> Array:
    """Posterior means ``(N, K)`` of the factors under the true parameters.

    Importance sampling from the Laplace approximation of each user's posterior over the noise, its scale
    inflated by a tenth so that the weights stay bounded: an effective size of about nine draws in ten.
    """
    rng, means = np.random.default_rng(seed), np.empty_like(sim.factors)
    for start in range(0, len(means), chunk):
        users = np.arange(start, min(start + chunk, len(means)))
        base, turn = _prior(sim, users)
        mode, covariance_root = _laplace(sim, users, base, turn)
        standard = rng.normal(size=(draws, *mode.shape))
        noise = mode + 1.1 * np.einsum("nij,dnj->dni", covariance_root, standard)
        z = base + np.einsum("nij,dnj->dni", turn, noise)
        log_weight = log_likelihood(sim, users, z) + 0.5 * (standard**2 - noise**2).sum(-1)
        weight = np.exp(log_weight - log_weight.max(0))
        means[users] = np.einsum("dn,dnk->nk", weight / weight.sum(0), z)
    return means


def log_likelihood(sim: Simulation, users: NDArray[np.int64], z: Array) -> Array:
    """Log likelihood ``(..., n)`` of the users' events given factors ``z (..., n, K)``."""
    w = sim.world
    searched, shown = w.search.logits(z[..., w.preference]), w.exposure.logits(z[..., w.platform])
    log_odds = w.engagement_logits(z, sim.exposure_covariates[users])
    engaged = sim.engagement[users] * log_odds - sim.exposure[users] * np.logaddexp(0, log_odds)
    events = sim.search[users] * _log_softmax(searched) + sim.exposure[users] * _log_softmax(shown) + engaged
    return np.asarray(events.sum(-1))


def _prior(sim: Simulation, users: NDArray[np.int64]) -> tuple[Array, Array]:
    """``base (n, K)`` and ``turn (n, K, K)`` with ``z = base + turn noise``."""
    w = sim.world
    location, scale = w.mechanisms(sim.exposure_covariates[users], sim.preference_covariates[users])
    inverse = np.linalg.inv(np.eye(len(w.edges)) - w.edges.T)
    return location @ inverse.T, inverse * scale[:, None, :]


def _laplace(sim: Simulation, users: NDArray[np.int64], base: Array, turn: Array) -> tuple[Array, Array]:
    """Mode ``(n, K)`` and Cholesky factor of the covariance of the noise, by Fisher scoring."""
    mode, identity = np.zeros_like(base), np.eye(base.shape[1])
    for _ in range(12):
        gradient, information = _score(sim, users, base + np.einsum("nij,nj->ni", turn, mode))
        precision = turn.swapaxes(1, 2) @ information @ turn + identity
        step = np.linalg.solve(
            precision, np.einsum("nij,ni->nj", turn, gradient)[..., None] - mode[..., None]
        )[..., 0]
        mode += step * np.minimum(1, 2 / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9))
    return mode, np.linalg.cholesky(np.linalg.inv(precision))


def _score(sim: Simulation, users: NDArray[np.int64], z: Array) -> tuple[Array, Array]:
    """Gradient ``(n, K)`` of the log likelihood by the factors, and their Fisher information ``(n, K, K)``."""
    w, gradient = sim.world, np.zeros_like(z)
    information = np.zeros((*z.shape, z.shape[1]))
    for counts, emission, block in (
        (sim.search[users], w.search, w.preference),
        (sim.exposure[users], w.exposure, w.platform),
    ):
        probability, slope = softmax(emission.logits(z[:, block])), emission.jacobian(z[:, block])
        expected = counts.sum(1, keepdims=True) * probability
        gradient[:, block] += np.einsum("nkc,nc->nk", slope, counts - expected)
        centred = slope - (slope * probability[:, None]).sum(-1, keepdims=True)
        information[:, block, block] += (centred * expected[:, None]) @ centred.swapaxes(1, 2)
    p = sigmoid(w.engagement_logits(z, sim.exposure_covariates[users]))
    shown = sim.exposure[users]
    loadings = np.hstack([np.tile(w.engagement_platform, (shown.shape[1], 1)), w.engagement_preference])
    gradient += (sim.engagement[users] - shown * p) @ loadings
    outer = (loadings[:, :, None] * loadings[:, None, :]).reshape(len(loadings), -1)
    information += ((shown * p * (1 - p)) @ outer).reshape(information.shape)
    return gradient, information


# --- True effects --------------------------------------------------------------------------------------------


def true_effects(
    sim: Simulation,
    shift: Mapping[str, float],
    draws: int = EFFECT_DRAWS,
    seed: int = 0,
    counterfactual: bool = False,
) -> dict[str, Any]:
    """True effects of a policy shift, averaged over the users' covariates and `draws` of their noise.

    Interventional (population) effects: TE, NDE, NIE and the split of NIE by channel, for engagement and
    alignment, and each factor's displacement in standard deviations of the factor before the shift.  Or, with
    the users' own noise, the counterfactual ones of these very users.

    Raises
    ------
    ValueError
        If a name is not an exposure covariate.
    """
    w, rng = sim.world, np.random.default_rng([seed, 3])
    before = sim.exposure_covariates
    after = before + shift_vector(w.design, shift)
    worlds: list[Array] = []
    displacement = []
    for _ in range(1 if counterfactual else draws):
        noise = sim.noise if counterfactual else rng.normal(size=sim.noise.shape)
        z0, z1 = (_factors(w, c, sim.preference_covariates, noise) for c in (before, after))
        p1_q0 = np.hstack([z1[:, w.platform], z0[:, w.preference]])
        states = ((before, z0), (after, z0), (after, p1_q0), (after, z1))
        worlds.append(np.array([outcomes(w, c, z) for c, z in states]))
        displacement.append((z1 - z0).mean(0) / z0.std(0))
    y = np.mean(worlds, 0)  # (4 worlds, 2 outcomes)
    contrasts = {
        "TE": y[3] - y[0],
        "NDE": y[1] - y[0],
        "NIE": y[3] - y[1],
        "NIE_platform": y[2] - y[1],
        "NIE_preference": y[3] - y[2],
    }
    return {
        "shift": dict(shift),
        "outcomes": {
            outcome: {name: float(value[i]) for name, value in contrasts.items()}
            for i, outcome in enumerate(("engagement", "alignment"))
        },
        "displacement": dict(zip(w.design.factor_names, np.mean(displacement, 0).tolist(), strict=True)),
    }


def outcomes(world: World, exposure_covariates: Array, z: Array) -> tuple[float, float]:
    """Mean engagement, and mean alignment of what is shown with what the user would search for."""
    shown = softmax(world.exposure.logits(z[:, world.platform]))
    searched = softmax(world.search.logits(z[:, world.preference]))
    engaged = sigmoid(world.engagement_logits(z, exposure_covariates))
    return float((shown * engaged).sum(1).mean()), float((shown * searched).sum(1).mean())


def shift_vector(design: Design, shift: Mapping[str, float]) -> Array:
    """A shift by name as a vector over the exposure covariates ``(D_P,)``.

    Raises
    ------
    ValueError
        If a name is not an exposure covariate.
    """
    for name in shift:
        if name not in design.exposure_names:
            raise ValueError(f"no exposure covariate {name}: choose of {', '.join(design.exposure_names)}")
    return np.array([shift.get(name, 0.0) for name in design.exposure_names])


# --- The dataset folder --------------------------------------------------------------------------------------


def write_simulation(
    sim: Simulation,
    out: Path,
    seed: int,
    format: str = "parquet",
    progress: bool = False,
    truth: bool = True,
) -> None:
    """Write a dataset folder, with ``truth.npz`` and ``truth.json`` in it unless `truth` is off.

    ``truth.npz`` holds platform and preference (the true factors), oracle_platform and oracle_preference (the
    posterior means under the true parameters) and user_id; ``truth.json`` the design, the seed, the edges and
    the true effects of one unit (here one standard deviation) more of each exposure covariate.
    """
    d, user_id = sim.world.design, np.array([f"u{n:06d}" for n in range(len(sim.factors))])
    covariates = np.hstack([sim.exposure_covariates, sim.preference_covariates])
    users = pd.DataFrame(covariates, columns=d.exposure_names + d.preference_names)
    users.insert(0, "user_id", user_id)
    rng = np.random.default_rng([seed, 4])
    recommendations = _events(rng, user_id, d.category_names, [sim.exposure - sim.engagement, sim.engagement])
    write_dataset(
        out,
        name=Path(out).name,
        users=users,
        search_events=_events(rng, user_id, d.category_names, [sim.search]).drop(columns="engaged"),
        recommendation_events=recommendations,
        exposure_covariates=d.exposure_names,
        preference_covariates=d.preference_names,
        format=format,
        extra_files={
            "truth.npz": truth_arrays(sim, user_id),
            "truth.json": _truth_json(sim, seed, progress),
        }
        if truth
        else {},
    )


def truth_arrays(sim: Simulation, user_id: NDArray[np.str_], **more: Any) -> bytes:
    """``truth.npz``: the true factors and the oracle's, and what else is given."""
    posterior, w, buffer = oracle(sim), sim.world, io.BytesIO()
    arrays: dict[str, Any] = {
        "user_id": user_id,
        "platform": sim.platform,
        "preference": sim.preference,
        "oracle_platform": posterior[:, w.platform],
        "oracle_preference": posterior[:, w.preference],
    }
    np.savez_compressed(buffer, **arrays, **more)
    return buffer.getvalue()


def _truth_json(sim: Simulation, seed: int, progress: bool) -> bytes:
    names = tqdm(sim.world.design.exposure_names, "true effects", disable=not progress)
    effects = [true_effects(sim, {name: 1.0}) for name in names]
    truth = {"seed": seed, "design": asdict(sim.world.design), "edges": true_edges(sim), "effects": effects}
    return json.dumps(truth, indent=2).encode()


def true_edges(sim: Simulation) -> list[dict[str, Any]]:
    """Every cross-channel edge's true weight, standardised as in a run's ``graph.csv`` (0: absent)."""
    names, sd = sim.world.design.factor_names, sim.factors.std(0)
    standardised = sim.world.edges * sd[:, None] / sd
    return [
        {"source": names[j], "target": names[k], "weight": float(standardised[j, k])}
        for j, k in np.ndindex(*standardised.shape)
        if names[j].split("_")[0] != names[k].split("_")[0]
    ]


def _events(
    rng: np.random.Generator, user_id: Array, categories: list[str], counts: list[Array]
) -> pd.DataFrame:
    """One row per event, in random order within the window; `engaged` is the position in `counts`."""
    parts = []
    for engaged, matrix in enumerate(counts):
        user, category = np.nonzero(matrix)
        times = matrix[user, category].astype(int)
        parts.append(np.column_stack([user, category, np.full_like(user, engaged)]).repeat(times, axis=0))
    rows = rng.permutation(np.vstack(parts))
    timestamp = FIRST_DAY + rng.integers(0, WINDOW, size=len(rows))
    return pd.DataFrame(
        {
            "user_id": user_id[rows[:, 0]],
            "timestamp": timestamp,
            "category": np.array(categories)[rows[:, 1]],
            "engaged": rows[:, 2],
        }
    )


# --- Small parts ---------------------------------------------------------------------------------------------


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(p / p.sum(-1, keepdims=True))


def sigmoid(logits: Array) -> Array:
    """Probabilities from log odds."""
    return 1 / (1 + np.exp(-logits))


def _log_softmax(logits: Array) -> Array:
    centred = logits - logits.max(-1, keepdims=True)
    return np.asarray(centred - np.log(np.exp(centred).sum(-1, keepdims=True)))


def _factors(world: World, exposure_covariates: Array, preference_covariates: Array, noise: Array) -> Array:
    location, scale = world.mechanisms(exposure_covariates, preference_covariates)
    return world.through_graph(location + scale * noise)


def _directions(rng: np.random.Generator, covariates: int, factors: int, strength: float) -> Array:
    """Weights ``(D, K)``: columns of length `strength`, orthogonal while there are covariates enough."""
    w = rng.normal(size=(covariates, factors))
    if covariates == 0:
        return w
    if covariates >= factors:
        w = np.linalg.qr(w)[0]
    return strength * w / np.linalg.norm(w, axis=0)


def _covariates(rng: np.random.Generator, design: Design, columns: int) -> Array:
    """Covariates ``(N, D)`` of mean 0 and variance 1, at least in expectation."""
    rows = design.settings or design.users
    c = rng.normal(size=(rows, columns))
    if design.covariate_kind == "mixed" and columns > 1:
        c[:, 0] = rng.exponential(size=rows) - 1
        c[:, 1] = ((rng.random(rows) < 0.4) - 0.4) / np.sqrt(0.24)
    return c[rng.integers(rows, size=design.users)] if design.settings else c


def _edge_matrix(design: Design) -> Array:
    names, edges = design.factor_names, np.zeros((len(design.factor_names),) * 2)
    for source, target, weight in design.edges:
        if source not in names or target not in names:
            raise ValueError(f"edge {source} -> {target}: the factors are {', '.join(names)}")
        edges[names.index(source), names.index(target)] = weight
    if np.linalg.matrix_power((edges != 0).astype(float), len(names)).any():
        raise ValueError(f"the edges {design.edges} have a cycle: the structural graph must be acyclic")
    return edges


def _check_knob(name: str, value: Any, default: Any) -> None:
    """Raise unless a knob's value is of the kind of its default."""
    if name == "edges":
        said, good = (
            "a list of [source, target, weight]",
            isinstance(value, tuple) and all(map(_is_edge, value)),
        )
    elif isinstance(default, tuple):
        pair = value if isinstance(value, tuple) and len(value) == 2 else (1, 0)
        good = all(isinstance(v, int | np.integer) for v in pair) and bool(0 <= pair[0] <= pair[1])
        said = "two whole numbers, the smaller first"
    elif isinstance(default, str):
        said, good = "a word", isinstance(value, str)
    elif isinstance(default, int):
        said, good = "a whole number", isinstance(value, int | np.integer) and bool(value >= 0)
    else:
        said, good = "a finite number", isinstance(value, int | float) and bool(abs(value) < np.inf)
    if not good:
        raise ValueError(f"{name} is {value!r}: it must be {said}")


def _is_edge(edge: Any) -> bool:
    source, target, weight = edge if isinstance(edge, tuple) and len(edge) == 3 else (None, None, None)
    return isinstance(source, str) and isinstance(target, str) and isinstance(weight, int | float)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value
