"""Measures of recovery and of identifiability, with the nulls, floors and ceilings that they need beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata

Array = NDArray[np.float64]
MODULATION_THRESHOLD = 0.1  #: noise at 4,000 users: 0.02-0.06; real modulation: 0.4-1
#: That noise is about sqrt(D / n_train); few users raise the threshold to three times this.
NOISE_MULTIPLE = 3.0
RANK_TOLERANCE = 0.05  #: a direction with a twentieth of a natural parameter's spread is within that noise
COLLAPSE_KL = 0.05  #: nats; KL bounds information: the factor and its posterior mean correlate below 0.31


@dataclass(frozen=True)
class MCC:
    """Mean absolute correlation after matching, with a 90% interval; (K,) arrays are in the truth's order."""

    value: float
    lower: float
    upper: float
    per_factor: Array
    assignment: NDArray[np.int64]
    signs: Array


@dataclass(frozen=True)
class RotationNull:
    """MCC of a randomly rotated vector of independent Gaussians."""

    mean: float
    q95: float


@dataclass(frozen=True)
class Modulation:
    """How the covariates move one channel's mechanisms.

    `location_modulation` (K,): sd over users of location / rms scale; `scale_modulation` (K,): of log scale;
    `separation` (K, K): of the log ratio of two scales. `groups`: factors (from 0) that a constant ratio ties.
    `rank` (of 2K) and `condition`: of the centred, standardised natural parameters; those whose modulation is
    below `threshold` count as constant (condition infinite).
    """

    settings: int
    settings_needed: int
    rank: int
    rank_needed: int
    condition: float
    location_modulation: Array
    scale_modulation: Array
    separation: Array
    groups: list[list[int]]
    threshold: float


@dataclass(frozen=True)
class Collapse:
    """Mean KL (K,) of posterior to prior in nats, and the factors (from 0) below the threshold."""

    kl: Array
    collapsed: list[int]


@dataclass(frozen=True)
class RestartAgreement:
    """MCC between restarts (R, R), its median over pairs (NaN for fewer than two), and how many are stuck.

    A stuck restart ended in a clearly worse optimum: it is no rival of the others, and is not among the R.
    """

    matrix: Array
    median: float
    stuck: int = 0


def mcc(
    truth: ArrayLike, estimate: ArrayLike, rank: bool = False, n_bootstrap: int = 200, seed: int = 0
) -> MCC:
    """Mean absolute correlation of `truth` (N, K) with `estimate` (N, M) after the best one-to-one matching.

    A true factor without a column (assignment -1) scores 0, so does a constant. `rank=True` is Spearman.
    The bootstrap holds matching, signs and ranks at the full sample's; `n_bootstrap=0` skips it (NaN).

    Raises
    ------
    ValueError
        If a value is not finite, or the users differ in number.

    Examples
    --------
    >>> truth = np.random.default_rng(0).normal(size=(500, 2))
    >>> swapped = mcc(truth, -3 * truth[:, ::-1])
    >>> round(swapped.value, 3), swapped.assignment, swapped.signs
    (1.0, array([1, 0]), array([-1., -1.]))
    """
    x, y = as_matrices(truth, estimate)
    if rank:
        x, y = rankdata(x, axis=0), rankdata(y, axis=0)
    x, y = _standardise(x), _standardise(y)
    correlation, k = x.T @ y / len(x), x.shape[1]
    rows, columns = linear_sum_assignment(-np.abs(correlation))
    per_factor, signs, assignment = np.zeros(k), np.zeros(k), np.full(k, -1)
    per_factor[rows] = np.minimum(np.abs(correlation[rows, columns]), 1.0)
    signs[rows], assignment[rows] = np.sign(correlation[rows, columns]), columns
    lower = upper = math.nan
    if n_bootstrap > 0:
        draws = _bootstrap_correlations(x[:, rows], y[:, columns] * signs[rows], n_bootstrap, seed).sum(1) / k
        lower, upper = np.clip(np.quantile(draws, [0.05, 0.95]), 0.0, 1.0)
    return MCC(float(per_factor.mean()), float(lower), float(upper), per_factor, assignment, signs)


@lru_cache(maxsize=64)
def rotation_null(n_factors: int, n_draws: int = 2000, seed: int = 0) -> RotationNull:
    """MCC of K independent Gaussians, known perfectly but randomly rotated: .900, .828, .729 for K = 2, 3, 5.

    Correlations are then the entries of a random orthogonal matrix: no data needed. K = 2 gives 2 sqrt(2) / pi.

    Examples
    --------
    >>> round(rotation_null(2).mean, 2), round(rotation_null(3).mean, 2)
    (0.9, 0.83)
    """
    normal = np.random.default_rng(seed).standard_normal((n_draws, n_factors, n_factors))
    values = [draw[linear_sum_assignment(-draw)].mean() for draw in np.abs(np.linalg.qr(normal)[0])]
    return RotationNull(float(np.mean(values)), float(np.quantile(values, 0.95)))


def rotated_mcc(truth: ArrayLike, estimate: ArrayLike, n_draws: int = 200, seed: int = 0) -> float:
    """Mean MCC after `estimate` is whitened and randomly rotated: the null where truth or estimate is noisy."""
    x, y = as_matrices(truth, estimate)
    white, rng = _whitening(y)(y), np.random.default_rng(seed)
    normal = rng.standard_normal((n_draws, white.shape[1], white.shape[1]))
    return float(np.mean([mcc(x, white @ q, n_bootstrap=0).value for q in np.linalg.qr(normal)[0]]))


def within_covariate_mcc(
    truth: ArrayLike, estimate: ArrayLike, covariates: ArrayLike, n_bootstrap: int = 200, seed: int = 0
) -> MCC:
    """MCC after least squares on `covariates` (N, D) is taken out of both: what the events tell.

    Where mechanisms are not linear, pass their fitted locations as further columns.
    """
    x, y, known = as_matrices(truth, estimate, covariates)
    return mcc(_residual(x, known), _residual(y, known), n_bootstrap=n_bootstrap, seed=seed)


def weak_mcc(truth: ArrayLike, estimate: ArrayLike, n_folds: int = 5, seed: int = 0) -> float:
    """Affine (weak) MCC: mean canonical correlation on held-out folds, directions fitted on the others.

    Blind to invertible affine maps of `estimate`. Strongly correlated true factors can put it below the MCC.

    Examples
    --------
    >>> truth = np.random.default_rng(0).normal(size=(500, 2))
    >>> mixed = truth @ np.array([[1.0, 1.0], [-1.0, 1.0]])
    >>> round(mcc(truth, mixed).value, 1), round(weak_mcc(truth, mixed), 3)
    (0.7, 1.0)
    """
    x, y = as_matrices(truth, estimate)
    scores = []
    for train, held in _folds(len(x), n_folds, seed):
        map_x, map_y = _whitening(x[train]), _whitening(y[train])
        left, _, right = np.linalg.svd(map_x(x[train]).T @ map_y(y[train]), full_matrices=False)
        u, v = _standardise(map_x(x[held]) @ left), _standardise(map_y(y[held]) @ right.T)
        scores.append((u * v).mean(0).sum() / max(len(left), 1))
    return float(max(np.mean(scores), 0.0))


def cross_r2(
    blocks: Mapping[str, ArrayLike], channels: Mapping[str, ArrayLike], n_folds: int = 5, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Out-of-fold linear R² of covariate blocks (N, D) on channels (N, K), mean over factors: [block][channel].

    Noise gives about 0, often just below. A block without columns gives 0.
    """
    return {
        b: {c: _out_of_fold_r2(x, y, n_folds, seed) for c, y in channels.items()} for b, x in blocks.items()
    }


def modulation(location: ArrayLike, scale: ArrayLike, threshold: float = MODULATION_THRESHOLD) -> Modulation:
    """Modulation of one channel's mechanisms, `location` and `scale` (N, K) at N users; see `Modulation`.

    Natural parameters: m / s² (m about its mean, which changes no rank) and -1 / (2 s²). Scales that vary in
    proportion, even oppositely (log s_1 = -log s_2), do separate two factors; only a constant ratio does not.
    """
    m, s = as_matrices(location, scale)
    if m.shape != s.shape or np.any(s <= 0):
        raise ValueError(
            f"location {m.shape} and scale {s.shape} must have one shape, and scales be positive"
        )
    n, k, rms, log_s = *m.shape, np.sqrt((s**2).mean(0)), np.log(s)
    location_modulation, scale_modulation = (m / rms).std(0), log_s.std(0)
    natural = _standardise(np.hstack([(m - m.mean(0)) / s**2, -0.5 / s**2]))
    natural *= np.concatenate([location_modulation, scale_modulation]) > threshold
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(natural.T @ natural / n), 0, None))
    separation = (log_s[:, :, None] - log_s[:, None, :]).std(0)
    _, group = connected_components(separation <= threshold, directed=False)
    return Modulation(
        settings=len(np.unique(np.round(np.hstack([m / rms, log_s]), 6), axis=0)),
        settings_needed=2 * k + 1,
        rank=int((singular > RANK_TOLERANCE).sum()),
        rank_needed=2 * k,
        condition=float(singular[-1] / singular[0]) if singular[0] > 1e-7 else math.inf,
        location_modulation=location_modulation,
        scale_modulation=scale_modulation,
        separation=separation,
        groups=[np.flatnonzero(group == g).tolist() for g in np.unique(group)],
        threshold=threshold,
    )


def collapse(kl: ArrayLike, threshold: float = COLLAPSE_KL) -> Collapse:
    """Which factors' posteriors equal their priors, from `kl` in nats, (K,) or (N, K)."""
    mean = np.atleast_2d(np.asarray(kl, dtype=float)).mean(0)
    return Collapse(mean, np.flatnonzero(mean < threshold).tolist())


def restart_agreement(restarts: Sequence[ArrayLike], stuck: int = 0) -> RestartAgreement:
    """MCC between the factors (N, K) of every two restarts, at the same users; `stuck` is only passed on."""
    matrix = np.array([[mcc(a, b, n_bootstrap=0).value for b in restarts] for a in restarts])
    pairs = matrix[np.triu_indices(len(restarts), 1)] if len(restarts) else matrix
    return RestartAgreement(matrix, float(np.median(pairs)) if len(pairs) else math.nan, stuck)


def as_matrices(*values: ArrayLike) -> list[Array]:
    """Finite float matrices with one row per user; a vector becomes one column."""
    arrays = [np.asarray(v, dtype=float) for v in values]
    arrays = [a[:, None] if a.ndim == 1 else a for a in arrays]
    if len({a.shape[:1] for a in arrays}) > 1 or not all(
        a.ndim == 2 and np.isfinite(a).all() for a in arrays
    ):
        raise ValueError(
            f"need finite matrices with one row per user, got shapes {[a.shape for a in arrays]}"
        )
    return arrays


def _standardise(x: Array) -> Array:
    """Columns with mean 0 and sd 1; a constant column becomes 0."""
    mean, sd = x.mean(0), x.std(0)
    varies = sd > 1e-10 * np.abs(mean)
    return np.where(varies, (x - mean) / np.where(varies, sd, 1.0), 0.0)


def _bootstrap_correlations(x: Array, y: Array, n_draws: int, seed: int) -> Array:
    """Correlations (n_draws, K) of paired standardised columns under resampled users, as weighted moments."""
    rng, (n, k) = np.random.default_rng(seed), x.shape
    moments = np.hstack([x, y, x * x, y * y, x * y]) / n
    blocks = np.array_split(np.arange(n_draws), math.ceil(n_draws * n / 4_000_000))  # bounds memory
    weighted = np.vstack([rng.multinomial(n, np.full(n, 1 / n), size=len(b)) @ moments for b in blocks])
    mx, my, xx, yy, xy = (weighted[:, i * k : (i + 1) * k] for i in range(5))
    variance = (xx - mx**2) * (yy - my**2)
    return np.where(variance > 1e-20, (xy - mx * my) / np.sqrt(np.maximum(variance, 1e-20)), 0.0)


def _residual(x: Array, covariates: Array) -> Array:
    """What least squares leaves; a column that is fitted exactly leaves zeros, not rounding error."""
    centred, design = x - x.mean(0), _standardise(covariates)
    residual = centred - design @ np.linalg.lstsq(design, centred, rcond=None)[0]
    exact = np.linalg.norm(residual, axis=0) <= 1e-8 * np.linalg.norm(centred, axis=0)
    return np.where(exact, 0.0, residual)


def _folds(n: int, n_folds: int, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Train and held-out user indices; fewer folds where one would hold under four users."""
    if n < 8:
        raise ValueError(f"cross-fitting needs at least 8 users, got {n}")
    order = np.random.default_rng(seed).permutation(n)
    for held in np.array_split(order, max(2, min(n_folds, n // 4))):
        yield np.setdiff1d(order, held), held


def _whitening(x: Array) -> Callable[[Array], Array]:
    """The map (N, K) -> (N, r) to uncorrelated columns; directions below 1e-6 of the largest are dropped."""
    mean, sd = x.mean(0), x.std(0)
    _, singular, right = np.linalg.svd(_standardise(x), full_matrices=False)
    kept = singular > 1e-6 * max(singular[0], 1e-6)
    matrix = (right[kept] / singular[kept, None] / np.where(sd > 0, sd, 1.0)).T
    return lambda new: (new - mean) @ matrix


def _out_of_fold_r2(block: ArrayLike, channel: ArrayLike, n_folds: int, seed: int) -> float:
    x, y = as_matrices(block, channel)
    if x.shape[1] == 0:
        return 0.0
    x, y = np.hstack([np.ones((len(x), 1)), _standardise(x)]), _standardise(y)
    fitted, base = np.zeros_like(y), np.zeros_like(y)
    for train, held in _folds(len(y), n_folds, seed):
        fitted[held] = x[held] @ np.linalg.lstsq(x[train], y[train], rcond=None)[0]
        base[held] = y[train].mean(0)
    total = ((y - base) ** 2).sum(0)
    return float(
        (1 - ((y - fitted) ** 2).sum(0) / np.where(total > 0, total, 1.0))[total > 0].sum() / y.shape[1]
    )
