"""The oracle: each user's posterior mean under the true parameters, the ceiling of any estimate's MCC."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyro_hmvcrl.synthetic.design import Array
from pyro_hmvcrl.synthetic.simulation import Simulation
from pyro_hmvcrl.synthetic.world import log_softmax, sigmoid, softmax


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
    events = sim.search[users] * log_softmax(searched) + sim.exposure[users] * log_softmax(shown) + engaged
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
