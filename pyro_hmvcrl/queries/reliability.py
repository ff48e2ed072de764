"""Measurement error: what would an answer be if the shifted covariates did not measure quite what they stand for?

A covariate's reliability r is the share of its variance that is no error.  Given the other covariates, of which R² of
it can be told, events follow what it measured at only ``(r - R²) / (1 - R²)`` of the slope at which they follow what it
stands for (regression calibration: Carroll, Ruppert, Stefanski & Crainiceanu 2006, chapter 4).  So a shift of what it
stands for does as much as a shift of what was measured that is larger by the inverse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pyro_hmvcrl.queries.interventions import Policy, apply

RELIABILITIES = (1.0, 0.9, 0.8, 0.7)


def attenuation(covariates: pd.DataFrame, name: str, reliability: float) -> float:
    """Share of a covariate's slope that measurement error leaves; below 0: it cannot be as unreliable as that.

    Examples
    --------
    >>> users = pd.DataFrame({"hours": [1.0, -1.0, 1.0, -1.0], "age": [1.0, 1.0, -1.0, -1.0]})
    >>> attenuation(users, "hours", 0.8)
    0.8
    """
    x, others = covariates[name].to_numpy(float), covariates.drop(columns=name).to_numpy(float)
    x, others = x - x.mean(), others - others.mean(0)
    missed = x - others @ np.linalg.lstsq(others, x, rcond=None)[0]
    left = (missed**2).mean() / (x**2).mean()  # 1 - R²
    return float(1 - (1 - reliability) / left) if left > 0 else -np.inf


def meant(
    policy: Policy, covariates: pd.DataFrame, exposure: Sequence[str], reliability: float
) -> Policy | None:
    """The policy as a change of what its covariates stand for, were these of this reliability; None: they cannot be.

    Parameters
    ----------
    covariates
        All covariates of the users; those of `exposure` are what a policy may change.
    """
    shares = pd.Series({name: attenuation(covariates, name, reliability) for name in exposure})
    now = covariates[[*exposure]]
    then = apply(policy, now)
    moved = [name for name in exposure if not np.array_equal(then[name], now[name])]
    if (shares[moved] <= 0).any():
        return None

    def sized(now: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        changed: pd.DataFrame = now + (policy(now, rng) - now) / shares.where(shares.index.isin(moved), 1.0)
        return changed

    return sized
