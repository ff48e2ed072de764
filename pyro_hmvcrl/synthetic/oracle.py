"""The oracle: each user's posterior mean under the true parameters, the ceiling of any estimate's MCC."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pyro_hmvcrl.synthetic.design import Array
from pyro_hmvcrl.synthetic.loop import NOTHING, Events, histories, logits, of_past
from pyro_hmvcrl.synthetic.simulation import Simulation
from pyro_hmvcrl.synthetic.world import ECHO, log_softmax, sigmoid, softmax

NUMBERS_AT_ONCE = 20_000_000  #: users times draws times categories, which bounds the memory


def oracle(sim: Simulation, draws: int = 200, seed: int = 0) -> Array:
    """Posterior means ``(N, K)`` of the factors under the true parameters.

    Importance sampling from the Laplace approximation of each user's posterior over the noise, its scale
    inflated by a tenth so that the weights stay bounded: an effective size of about nine draws in ten.
    """
    rng, means = np.random.default_rng(seed), np.empty_like(sim.factors)
    chunk = min(1_000, max(NUMBERS_AT_ONCE // (draws * sim.search.shape[-1]), 1))
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
    """Log likelihood ``(..., n)`` of the users' events given factors ``z (..., n, K)``; the past is observed."""
    w, covariates, total = sim.world, sim.exposure_covariates[users], np.zeros(z.shape[:-1])
    search, exposure, log_odds = logits(w, covariates, z)
    for of_search, shown, engaged, past in _periods(sim, users):
        added = NOTHING if past is None else of_past(w, covariates, past)
        here = search + added.search, exposure + added.exposure, log_odds + added.engagement
        events = of_search * log_softmax(here[0]) + shown * log_softmax(here[1])
        total += (events + engaged * here[2] - shown * np.logaddexp(0, here[2])).sum(-1)
    if w.suggested is not None:
        total += (_suggested(sim, users) * log_softmax(w.suggested_logits(z))).sum(-1)
    return total


def _periods(sim: Simulation, users: NDArray[np.int64]) -> Iterator[tuple[Array, Array, Array, Array | None]]:
    """Events of each period ``(n, C)``: searched, shown, engaged with; and the past's features."""
    if sim.world.loop is None:
        yield sim.search[users], sim.exposure[users], sim.engagement[users], None
        return
    events = Events(sim.search[users], sim.exposure[users], sim.engagement[users])
    past = histories(events)
    for t in range(past.shape[1]):
        yield events.search[:, t], events.exposure[:, t], events.engagement[:, t], past[:, t]


def _suggested(sim: Simulation, users: NDArray[np.int64]) -> Array:
    assert sim.suggested is not None
    counts = sim.suggested[users]
    return np.asarray(counts if counts.ndim == 2 else counts.sum(1))


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
    w, covariates, gradient = sim.world, sim.exposure_covariates[users], np.zeros_like(z)
    information = np.zeros((*z.shape, z.shape[1]))
    every = slice(None)
    of_search, of_exposure = w.search.jacobian(z[:, w.preference]), w.exposure.jacobian(z[:, w.platform])
    loadings = np.hstack([np.tile(w.engagement_platform, (of_search.shape[-1], 1)), w.engagement_preference])
    outer = (loadings[:, :, None] * loadings[:, None, :]).reshape(len(loadings), -1)

    def add(counts: Array, at: Array, slope: Array, block: slice) -> None:
        probability = softmax(at)
        expected = counts.sum(1, keepdims=True) * probability
        gradient[:, block] += np.einsum("nkc,nc->nk", slope, counts - expected)
        centred = slope - (slope * probability[:, None]).sum(-1, keepdims=True)
        information[:, block, block] += (centred * expected[:, None]) @ centred.swapaxes(1, 2)

    search, exposure, log_odds = logits(w, covariates, z)
    for searched, shown, engaged, past in _periods(sim, users):
        added = NOTHING if past is None else of_past(w, covariates, past)
        add(searched, search + added.search, of_search, w.preference)
        add(shown, exposure + added.exposure, of_exposure, w.platform)
        p = sigmoid(log_odds + added.engagement)
        gradient += (engaged - shown * p) @ loadings
        information += ((shown * p * (1 - p)) @ outer).reshape(information.shape)
    if w.suggested is not None:
        slope = np.concatenate([w.suggested.jacobian(z[:, w.platform]), ECHO * of_search], 1)
        add(_suggested(sim, users), w.suggested_logits(z), slope, every)
    return gradient, information
