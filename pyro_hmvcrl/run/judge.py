"""Judging a fit: every identifiability figure, at users held out from training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pyro_hmvcrl.data.dataset import CHANNELS, Dataset
from pyro_hmvcrl.evidence.identifiability import ChannelEvidence, IdentifiabilityReport, identifiability
from pyro_hmvcrl.evidence.to_arviz import pareto_k
from pyro_hmvcrl.guide.experts import factor_posterior
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.inference.bound import EVALUATED_AT_ONCE, UNRELIABLE, importance_weights
from pyro_hmvcrl.inference.laplace import is_stuck
from pyro_hmvcrl.inference.svi import Fit, Screening, tensors_of
from pyro_hmvcrl.run.files import RunError, of_file
from pyro_hmvcrl.run.run import Array
from pyro_hmvcrl.story.model import HMVCRL

WEIGHED = 500, 200  #: users, at most, and draws of each, by which the guide is judged
STUCK = 0.1  #: nats a user below the best restart: no rival; starts that end alike differ by hundredths


@dataclass(frozen=True)
class Truth:
    """A simulated dataset's true factors and the oracle's posterior means by channel, ``(N, K_channel)``."""

    factors: dict[str, Array]
    oracle: dict[str, Array]

    @classmethod
    def beside(cls, folder: str | Path, dataset: Dataset) -> Truth | None:
        """The truth in a dataset folder, if it has one, in the dataset's order of users.

        Raises
        ------
        RunError
            If it lacks a user of the dataset, or is no such file.
        """
        path = Path(folder) / "truth.npz"
        if not path.exists():
            return None
        with of_file(path, "remove it"), np.load(path, allow_pickle=False) as file:
            row = pd.Index(file["user_id"].astype(str)).get_indexer(pd.Index(dataset.user_id.astype(str)))
            if (row < 0).any():
                unknown = dataset.user_id[np.flatnonzero(row < 0)[0]]
                raise RunError(f"{path}: no user {unknown}; it belongs to another dataset: remove it")
            true: dict[str, Array] = {c: file[c][row].astype(float) for c in CHANNELS}
            oracle: dict[str, Array] = {c: file[f"oracle_{c}"][row].astype(float) for c in CHANNELS}
            for channel in CHANNELS:
                if true[channel].ndim != 2 or true[channel].shape != oracle[channel].shape:
                    raise ValueError(f"{channel} and oracle_{channel} are not of one size")
                if not np.isfinite([true[channel], oracle[channel]]).all():
                    raise ValueError(f"{channel} or oracle_{channel} is not finite")
            return cls(true, oracle)


@own_state()
def evaluate(found: Fit | Screening, dataset: Dataset, truth: Truth | None = None) -> IdentifiabilityReport:
    """Every identifiability figure, at the held-out users."""
    rows = np.flatnonzero(found.held_out)
    guide = found.guide if isinstance(found, Fit) else found.guide.expansion(dataset.n_users)
    model, coefficients = guide.model, guide.coefficients.means()
    logs = tensors_of(dataset, found.standardisation).batch(torch.as_tensor(rows)).to(model.zero.device)
    prior, noise = guide.posterior(logs)
    mean, sd = factor_posterior(prior, noise)
    c_p, c_q = logs.exposure_covariates, logs.preference_covariates
    location, scale = (as_numpy(t) for t in model.mechanisms(coefficients, c_p, c_q))
    prior_mean, prior_sd = map(as_numpy, prior.of_factors)
    kl = np.log(prior_sd / sd) + (sd**2 + (mean - prior_mean) ** 2) / (2 * prior_sd**2) - 0.5
    covariates = {"platform": as_numpy(c_p), "preference": as_numpy(c_q)}
    best = found.restarts[found.selected].bound
    rivals = [r.factors for r in found.restarts if r.bound > best - STUCK]
    evidence: dict[str, ChannelEvidence] = {}
    for channel, other in (CHANNELS, CHANNELS[::-1]):
        block = _block(model, channel)
        evidence[channel] = ChannelEvidence(
            estimate=mean[:, block],
            location=location[:, block],
            scale=scale[:, block],
            covariates=covariates[channel],
            other_covariates=covariates[other],
            kl=kl[:, block],
            truth=truth.factors[channel][rows] if truth else None,
            oracle=truth.oracle[channel][rows] if truth else None,
            restarts=[factors[:, block] for factors in rivals],
            stuck=len(found.restarts) - len(rivals),
            from_mode=max(min(found.scoring), 0) ** 0.5 if is_stuck(found.scoring) else None,
            prior_mean=prior_mean[:, block],
            n_train=int((~found.held_out).sum()),
        )
    return identifiability(evidence)


@own_state()
def guide_quality(found: Fit, dataset: Dataset, seed: int) -> dict[str, float]:
    """How near the guide's posterior is to the model's, at held-out users: Pareto k-hat of its importance weights.

    The median over users, and the share in whom it is `UNRELIABLE`.
    """
    users, draws = WEIGHED
    rows = torch.as_tensor(np.flatnonzero(found.held_out)[:users])
    logs = tensors_of(dataset, found.standardisation).batch(rows).to(found.guide.model.zero.device)
    torch.manual_seed(seed)
    weights = [importance_weights(found.guide, some, draws) for some in logs.batches(EVALUATED_AT_ONCE)]
    k = pareto_k(torch.cat(weights, -1).double().cpu())
    return {"median": float(np.median(k)), "unreliable": float((k > UNRELIABLE).mean())}


def _block(model: HMVCRL, channel: str) -> slice:
    """A channel's place on the K axis."""
    return slice(0, model.n_platform) if channel == "platform" else slice(model.n_platform, None)


def as_numpy(tensor: torch.Tensor) -> Array:
    """A tensor in double precision, apart from its graph."""
    return tensor.detach().double().cpu().numpy()
