"""A regression beside the answer: the total effect of a policy without the model.

Each user's observed rate is regressed on all covariates, of both blocks, in splines; the effect is the mean change of
what it predicts under the policy, mended for what it misses by weights that balance the covariates (a doubly robust
estimate, in which both are linear in the same basis and fitted on other users: automatic debiased machine learning,
Chernozhukov, Newey & Singh 2022).  It knows no factors, no surfaces and no past, so that it cannot split an effect; but
where covariates were not shifted by what users want, it finds the whole of it, whatever the platform does within the
window.  An answer that disagrees is not to be believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.compose import make_column_transformer
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, SplineTransformer, StandardScaler

Array = NDArray[np.float64]
FOLDS = 5
FEWEST_USERS = 20  #: whose rates are known
LEVELS = 10  #: a covariate with no more values than this enters as it is
USERS_A_COLUMN = 20  #: with fewer users, all covariates enter as they are
RIDGE = 1e-3  #: on a standardised basis
DISAGREE = 0.01  #: probability of a difference as large, from which two estimates disagree


def observed_rates(activity: pd.DataFrame) -> dict[str, Array]:
    """Each user's own rate of an outcome, NaN where the user lacks a surface.

    Engagement is the share of what was shown that was engaged with; alignment the chance that something shown and
    something searched are of one category.  Of a further outcome it is the share of what was shown of which it holds.
    """
    further = activity.filter(regex="^outcome_")
    shown, searched = (activity.filter(regex=rf"^{name}_\d+$").sum(axis=1) for name in ("shown", "searched"))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "engagement": (activity["engaged"] / shown).to_numpy(float),
            "alignment": (activity["aligned"] / (shown * searched)).to_numpy(float),
        } | {
            str(column).removeprefix("outcome_"): (number / shown).to_numpy(float)
            for column, number in further.items()
        }


def total_effect(now: pd.DataFrame, then: pd.DataFrame, rate: Array, seed: int = 0) -> tuple[float, float]:
    """Effect of a policy on the mean of users' rates, and its standard error.

    Parameters
    ----------
    now, then
        All covariates of the users, as they are and under the policy.
    rate
        Of each user; users without one are left out.
    """
    told = np.isfinite(rate)
    now, then, rate = now[told], then[told], rate[told]
    scores = np.empty(len(rate))
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(now):
        basis = _basis(now).fit(now.iloc[train])
        b, b_then = (np.column_stack([np.ones(len(x)), basis.transform(x)]) for x in (now, then))
        gram = b[train].T @ b[train] / len(train) + RIDGE * np.diag([0.0] + [1.0] * (b.shape[1] - 1))
        predicts = np.linalg.solve(gram, b[train].T @ rate[train] / len(train))
        balances = np.linalg.solve(gram, (b_then - b)[train].mean(0))
        missed = rate[test] - b[test] @ predicts
        scores[test] = (b_then - b)[test] @ predicts + (b[test] @ balances) * missed
    return float(scores.mean()), float(scores.std(ddof=1) / len(scores) ** 0.5)


def _basis(covariates: pd.DataFrame) -> Any:
    """Splines of the covariates that have many values, and the others as they are."""
    many = [name for name in covariates if covariates[name].nunique() > LEVELS]
    splines = SplineTransformer(4, knots="quantile", extrapolation="linear", include_bias=False)
    width = len(covariates.columns) + 4 * len(many)
    chosen = make_column_transformer((splines, many), remainder="passthrough")
    few = len(covariates) < USERS_A_COLUMN * width
    return make_pipeline(FunctionTransformer() if few else chosen, StandardScaler())


def beside(
    model: Mapping[str, Array],
    now: pd.DataFrame,
    then: pd.DataFrame,
    rates: Mapping[str, Array],
    level: float,
) -> dict[str, dict[str, Any]]:
    """The regression's total effects with their intervals, and whether the model's draws of it agree, by outcome.

    Of an outcome that is known of fewer than `FEWEST_USERS`, nothing is said.
    """
    found = {}
    for outcome, rate in rates.items():
        if np.isfinite(rate).sum() < FEWEST_USERS:
            continue
        mean, error = total_effect(now, then, rate)
        half = norm.ppf((1 + level) / 2) * error
        apart = abs(model[outcome].mean() - mean) / np.hypot(error, model[outcome].std())
        agrees = bool(apart < norm.ppf(1 - DISAGREE / 2))
        found[outcome] = {"mean": mean, "lower": mean - half, "upper": mean + half, "agrees": agrees}
    return found


def negative_control_outcomes(
    now: pd.DataFrame, then: pd.DataFrame, outcomes: pd.DataFrame, level: float
) -> dict[str, dict[str, Any]]:
    """Negative controls of the user's choice: the policy's effect on what it cannot have moved, which should be 0.

    Such as engagement before the policy was set, or with what it does not touch (Lipsitch, Tchetgen Tchetgen & Cohen
    2010).  Where the regression finds an effect, something else goes with the policy.

    Parameters
    ----------
    outcomes
        A column for each, of the same users; a user without a figure is left out.

    Returns
    -------
    dict
        By column the effect in its standard deviations, `mean`, `lower` and `upper`, and the `verdict`.
    """
    found = {}
    for name, values in outcomes.items():
        mean, error = (part / values.std() for part in total_effect(now, then, values.to_numpy(float)))
        half = norm.ppf((1 + level) / 2) * error
        moved = abs(mean) > norm.ppf(1 - DISAGREE / 2) * error
        verdict = "fails: something else goes with the policy" if moved else "passes"
        found[str(name)] = {"mean": mean, "lower": mean - half, "upper": mean + half, "verdict": verdict}
    return found
