"""When do the MCC figures mean something?

The mean correlation coefficient (MCC) alone misleads: rotated factors still score 0.83 when there are three.
Beside it belong the random-rotation null, covariate-only floor, oracle ceiling, within-covariate and affine (weak)
MCC; without the truth, covariate modulation, restart agreement and collapse. Pass held-out users only.

iVAE (Khemakhem et al. 2020): location and scale modulated in 2K+1 settings with linearly independent differences
of natural parameters identify factors up to order and componentwise maps; location alone, up to an affine map.
Pham & Cardoso 2001, Hyvarinen & Morioka 2016: a rotation of two factors hides if their scales keep one ratio.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

MODULATION_THRESHOLD = 0.1  #: noise at 4,000 users: 0.02-0.06; real modulation: 0.4-1
#: That noise is about sqrt(D / n_train); few users raise the threshold to three times this.
NOISE_MULTIPLE = 3.0
RANK_TOLERANCE = 0.05  #: a direction with a twentieth of a natural parameter's spread is within that noise
RESTART_AGREEMENT = 0.95  #: solved restarts share their data: above 0.98; rotated ones average 0.90 or less
COLLAPSE_KL = 0.05  #: nats; KL bounds information: the factor and its posterior mean correlate below 0.31
AXES_GAP = 0.1  #: weak MCC minus MCC: above sampling error, below the cost of rotating three factors (0.17)
SUBSPACE_SHARE = 0.9  #: weak MCC below this share of the ceiling: factors are lost, not only rotated
CEILING_SHARE = 0.98  #: of the oracle's MCC: good restarts differ by as much
LEAKAGE_R2 = 0.05  #: noise stays below 0.02; published, exposure covariates on preference: 0.046


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


@dataclass(frozen=True)
class ChannelEvidence:
    """What is known of one channel at N held-out users; arrays (N, K) unless marked."""

    estimate: Array  #: posterior means
    location: Array  #: the channel's own mechanisms
    scale: Array
    covariates: Array  #: (N, D), its own block
    other_covariates: Array  #: (N, D'), the other channel's block
    kl: Array | None = None  #: also (K,)
    truth: Array | None = None
    oracle: Array | None = None  #: posterior means under the true parameters
    restarts: Sequence[Array] = ()  #: those that are not stuck
    stuck: int = 0  #: restarts that are
    prior_mean: Array | None = None  #: means given all covariates, if edges make them differ from `location`
    n_train: int | None = None  #: users the run was fitted to


@dataclass(frozen=True)
class ChannelReport:
    """All figures for one channel; None where the evidence lacks the truth, the oracle, restarts or KL.

    `r2_own` and `r2_other`: out-of-fold R² of its own and of the other channel's covariates on the posterior means.
    `covariate_floor`: MCC of what the covariates alone predict. `oracle`: MCC of the posterior means under the true
    parameters; `ratio_to_oracle`: MCC as a share of it.
    """

    n_users: int
    n_factors: int
    n_covariates: int
    rotation_null: RotationNull
    modulation: Modulation
    r2_own: float
    r2_other: float
    collapse: Collapse | None = None
    restarts: RestartAgreement | None = None
    mcc: MCC | None = None
    spearman: MCC | None = None
    covariate_floor: MCC | None = None
    within_covariate_mcc: MCC | None = None
    weak_mcc: float | None = None
    oracle: MCC | None = None
    within_covariate_oracle: MCC | None = None
    ratio_to_oracle: float | None = None


@dataclass(frozen=True)
class IdentifiabilityReport:
    """Figures for every channel, and a verdict in plain sentences, the headline first."""

    channels: dict[str, ChannelReport]
    verdict: dict[str, list[str]]

    def to_dict(self) -> dict[str, Any]:
        """Plain floats, lists, dicts; missing or infinite is None. Factors from 0 (sentences: from 1)."""
        return dict(_plain(self))

    def table(self) -> pd.DataFrame:
        """One row per channel, for reading."""
        import pandas as pd

        return pd.DataFrame.from_dict({c: _row(r) for c, r in self.channels.items()}, orient="index")


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
    x, y = _matrices(truth, estimate)
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
    x, y = _matrices(truth, estimate)
    white, rng = _whitening(y)(y), np.random.default_rng(seed)
    normal = rng.standard_normal((n_draws, white.shape[1], white.shape[1]))
    return float(np.mean([mcc(x, white @ q, n_bootstrap=0).value for q in np.linalg.qr(normal)[0]]))


def within_covariate_mcc(
    truth: ArrayLike, estimate: ArrayLike, covariates: ArrayLike, n_bootstrap: int = 200, seed: int = 0
) -> MCC:
    """MCC after least squares on `covariates` (N, D) is taken out of both: what the events tell.

    Where mechanisms are not linear, pass their fitted locations as further columns.
    """
    x, y, known = _matrices(truth, estimate, covariates)
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
    x, y = _matrices(truth, estimate)
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
    m, s = _matrices(location, scale)
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


def identifiability(
    channels: Mapping[str, ChannelEvidence], n_bootstrap: int = 200, seed: int = 0
) -> IdentifiabilityReport:
    """Every figure, and the verdict, for one fitted run, from the evidence at held-out users."""
    reports = {name: _channel_report(evidence, n_bootstrap, seed) for name, evidence in channels.items()}
    return IdentifiabilityReport(reports, {name: verdict(name, report) for name, report in reports.items()})


def verdict(name: str, report: ChannelReport) -> list[str]:
    """Plain sentences on one channel: what is identified, then what speaks against it, then the rest."""
    against, rest = [], []
    if restarts := report.restarts:
        n = len(restarts.matrix) + restarts.stuck
        left_out = f"; left out, in a worse optimum: {restarts.stuck} of {n}" if restarts.stuck else ""
        if math.isnan(restarts.median):
            against.append(
                f"one restart alone reached this optimum{left_out}: nothing confirms it, try more."
            )
        elif restarts.median < RESTART_AGREEMENT:
            disagree = f"restarts disagree (MCC {restarts.median:.2f}{left_out})"
            against.append(f"{disagree}: do not interpret single factors.")
        else:
            rest.append(f"restarts agree (MCC {restarts.median:.2f}{left_out}).")
    if found := report.collapse:
        dead = "has collapsed: its posterior equals its prior"
        against += [f"{name} factor {k + 1} {dead} (KL {found.kl[k]:.2f} nats)." for k in found.collapsed]
    if report.r2_other > LEAKAGE_R2:
        edges = "edges between channels, or leakage"
        rest.append(f"the other channel's covariates predict {name} (R² {report.r2_other:.2f}): {edges}.")
    truth_against, truth_rest = _truth_sentences(report)
    headline = _headline(name, report, "could be" if against or truth_against else "is")
    return [headline, *against, *truth_against, *rest, *truth_rest]


def _headline(name: str, report: ChannelReport, verb: str) -> str:
    """What the covariates' modulation allows."""
    m, k = report.modulation, report.n_factors
    location, scale = m.location_modulation.max(), m.scale_modulation.max()
    at_most = "is identified only up to"
    if k == 1:  # the views isolate the channel, and inside it there is nothing to mix with
        return f"{name} {verb} identified up to sign and scale: a single factor has no other to rotate with."
    if report.n_covariates == 0:
        return f"{name} {at_most} an invertible map: it has no covariates."
    if max(location, scale) <= m.threshold:
        figures = f"sd of location {location:.2f}, of log scale {scale:.2f}"
        return f"{name} {at_most} an invertible map: its covariates carry no information on it ({figures})."
    if scale <= m.threshold:
        return (
            f"{name} {at_most} rotation: its covariates do not modulate scale (sd of log scale {scale:.2f})."
        )
    if tied := [" and ".join(str(j + 1) for j in group) for group in m.groups if len(group) > 1]:
        return f"{name} {at_most} rotation of factors {'; '.join(tied)}: their scales keep a constant ratio."
    settings = f"2K+1 = {m.settings_needed} settings needed, {m.settings:,} found"
    if m.rank < m.rank_needed or m.settings < m.settings_needed:
        why = f"natural parameters of rank {m.rank} of {m.rank_needed}; {settings}"
        return f"{name} is separated by scale, but short of the full condition for identification ({why})."
    why = f"its covariates modulate location and scale of all {k} factors ({settings})"
    return f"{name} {verb} identified up to order, sign and scale of each factor: {why}."


def _truth_sentences(report: ChannelReport) -> tuple[list[str], list[str]]:
    """What null, floor, weak MCC and ceiling say against the MCC, and for it.

    The null is for perfect estimates: where the oracle is known, the share of its MCC is what must exceed it.
    """
    if report.mcc is None or report.covariate_floor is None or report.weak_mcc is None:
        return [], []
    value, weak, floor, null = report.mcc.value, report.weak_mcc, report.covariate_floor, report.rotation_null
    ceiling, share = report.oracle.value if report.oracle else 1.0, report.ratio_to_oracle
    reached = value if share is None else share
    figure = f"MCC {value:.2f}" + ("" if share is None else f", {share:.2f} of the oracle's {ceiling:.2f},")
    against, rest = [], []
    if report.n_factors > 1 and reached <= null.mean:
        why = "no evidence that factors are separated"
        against.append(f"{figure} is not above what a random rotation gives ({null.mean:.3f}): {why}.")
    elif report.n_factors > 1:
        place = "within" if reached <= null.q95 else "above"
        rest.append(
            f"{figure} is {place} the range of random rotations (mean {null.mean:.3f}, 95% {null.q95:.3f})."
        )
    if report.mcc.lower <= floor.value:
        against.append(f"{figure} is not above what the covariates alone give ({floor.value:.2f}).")
    if weak < SUBSPACE_SHARE * ceiling:
        against.append(f"the subspace itself is not recovered (weak MCC {weak:.2f}).")
    elif weak - value > AXES_GAP:
        against.append(f"the subspace is right, weak MCC {weak:.2f}, but the axes are not, MCC {value:.2f}.")
    if share is not None and share >= CEILING_SHARE:
        rest.append(f"MCC {value:.2f} is at the ceiling that the true parameters give ({ceiling:.2f}).")
    return against, rest


def _channel_report(e: ChannelEvidence, n_bootstrap: int, seed: int) -> ChannelReport:
    prior = e.location if e.prior_mean is None else e.prior_mean
    estimate, own, other, prior = _matrices(e.estimate, e.covariates, e.other_covariates, prior)
    r2 = cross_r2({"own": own, "other": other}, {"channel": estimate}, seed=seed)
    noise = NOISE_MULTIPLE * math.sqrt(own.shape[1] / e.n_train) if e.n_train else 0.0
    report = ChannelReport(
        n_users=len(estimate),
        n_factors=estimate.shape[1],
        n_covariates=own.shape[1],
        rotation_null=rotation_null(estimate.shape[1]),
        modulation=modulation(e.location, e.scale, max(MODULATION_THRESHOLD, noise)),
        r2_own=r2["own"]["channel"],
        r2_other=r2["other"]["channel"],
        collapse=None if e.kl is None else collapse(e.kl),
        restarts=restart_agreement(e.restarts, e.stuck) if len(e.restarts) + e.stuck > 1 else None,
    )
    if e.truth is None:
        return report
    score = partial(mcc, e.truth, n_bootstrap=n_bootstrap, seed=seed)
    known = np.hstack([own, other, prior])
    within = partial(within_covariate_mcc, e.truth, covariates=known, n_bootstrap=n_bootstrap, seed=seed)
    value, oracle = score(estimate), None if e.oracle is None else score(e.oracle)
    return dataclasses.replace(
        report,
        mcc=value,
        spearman=score(estimate, rank=True),
        covariate_floor=score(prior),
        within_covariate_mcc=within(estimate),
        weak_mcc=weak_mcc(e.truth, estimate, seed=seed),
        oracle=oracle,
        within_covariate_oracle=None if e.oracle is None else within(e.oracle),
        ratio_to_oracle=value.value / oracle.value if oracle and oracle.value > 0 else None,
    )


def _row(r: ChannelReport) -> dict[str, Any]:
    m = r.modulation
    scores: dict[str, Any] = {
        f.name: getattr(r, f.name) for f in dataclasses.fields(r) if f.name not in _NOT_SHOWN
    }
    return {
        **{name: math.nan if v is None else getattr(v, "value", v) for name, v in scores.items()},
        "mcc_lower": r.mcc.lower if r.mcc else math.nan,
        "mcc_upper": r.mcc.upper if r.mcc else math.nan,
        "rotation_null": r.rotation_null.mean,
        **{
            name: getattr(m, name)
            for name in ("settings", "settings_needed", "rank", "rank_needed", "condition")
        },
        "min_location_modulation": m.location_modulation.min(),
        "min_scale_modulation": m.scale_modulation.min(),
        "restart_agreement": r.restarts.median if r.restarts else math.nan,
        "collapsed": ", ".join(str(k + 1) for k in r.collapse.collapsed) if r.collapse else "",
    }


_NOT_SHOWN = {
    "rotation_null",
    "modulation",
    "collapse",
    "restarts",
}  # as they are; the table shows parts of them


def _matrices(*values: ArrayLike) -> list[Array]:
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
    x, y = _matrices(block, channel)
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


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
