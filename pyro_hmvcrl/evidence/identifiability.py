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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from pyro_hmvcrl.evidence.measures import (
    MCC,
    MODULATION_THRESHOLD,
    NOISE_MULTIPLE,
    Array,
    Collapse,
    Modulation,
    RestartAgreement,
    RotationNull,
    as_matrices,
    collapse,
    cross_r2,
    mcc,
    modulation,
    restart_agreement,
    rotation_null,
    weak_mcc,
    within_covariate_mcc,
)

RESTART_AGREEMENT = 0.95  #: solved restarts share their data: above 0.98; rotated ones average 0.90 or less
AXES_GAP = 0.1  #: weak MCC minus MCC: above sampling error, below the cost of rotating three factors (0.17)
SUBSPACE_SHARE = 0.9  #: weak MCC below this share of the ceiling: factors are lost, not only rotated
CEILING_SHARE = 0.98  #: of the oracle's MCC: good restarts differ by as much
LEAKAGE_R2 = 0.05  #: noise stays below 0.02; published, exposure covariates on preference: 0.046


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
    from_mode: float | None = None  #: of the fit, in standard deviations of its parameters, if it is far
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
    from_mode: float | None = None
    mcc: MCC | None = None
    spearman: MCC | None = None
    covariate_floor: MCC | None = None
    within_covariate_mcc: MCC | None = None
    weak_mcc: float | None = None
    oracle: MCC | None = None
    within_covariate_oracle: MCC | None = None
    ratio_to_oracle: float | None = None

    @property
    def is_identified(self) -> bool:
        """Whether the covariates' modulation tells each factor up to order, sign and scale (see the headline)."""
        m = self.modulation
        apart = m.scale_modulation.max() > m.threshold and all(len(group) == 1 for group in m.groups)
        full = m.rank >= m.rank_needed and m.settings >= m.settings_needed
        return self.n_factors == 1 or bool(apart and full)


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
    if report.from_mode is not None:
        against.append(
            f"the fit is stuck: scoring could not bring it to a mode, and it stands {report.from_mode:.1f} standard "
            "deviations from one; try more restarts."
        )
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
    estimate, own, other, prior = as_matrices(e.estimate, e.covariates, e.other_covariates, prior)
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
        restarts=restart_agreement(e.restarts, e.stuck) if e.restarts else None,
        from_mode=e.from_mode,
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
    "from_mode",
}  # as they are; the table shows parts of them


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
