"""Claims about measurement error: what it leaves of a slope, and the shift that makes up for it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pyro_hmvcrl.queries.interventions import add, apply, together
from pyro_hmvcrl.queries.reliability import attenuation, meant


def users(n=200_000, reliability=0.7):
    """What the platform did, what was measured of it, and something that goes with it."""
    rng = np.random.default_rng(0)
    did = rng.normal(size=n)
    measured = did + rng.normal(size=n) * (1 / reliability - 1) ** 0.5
    return did, pd.DataFrame({"cadence": measured, "age": 0.6 * did + rng.normal(size=n)})


def test_it_is_what_error_leaves_of_a_least_squares_slope():
    did, covariates = users()
    outcome = 2.0 * did + 0.5 * covariates["age"]
    x = np.column_stack([np.ones(len(did)), covariates])
    slope = np.linalg.lstsq(x, outcome, rcond=None)[0][1]
    assert slope / 2.0 == pytest.approx(attenuation(covariates, "cadence", 0.7), abs=0.01)
    assert slope / 2.0 < 0.7 - 0.02  # what goes with it takes a part of its own


def test_a_shift_is_larger_by_what_error_takes_and_others_stay():
    _, covariates = users(1_000)
    policy = together(add("cadence", 0.5), add("age", 0.0))
    changed = apply(meant(policy, covariates, ["cadence", "age"], 0.8), covariates)
    assert np.allclose(changed["age"], covariates["age"])
    assert np.allclose(
        changed["cadence"] - covariates["cadence"], 0.5 / attenuation(covariates, "cadence", 0.8)
    )
    assert meant(policy, covariates, ["cadence", "age"], 1.0) is not None


def test_what_others_tell_cannot_be_error():
    covariates = pd.DataFrame({"cadence": [1.0, 2.0, 3.0, 4.0], "copy": [1.0, 2.0, 3.0, 4.5]})
    assert attenuation(covariates, "cadence", 0.7) < 0
    assert meant(add("cadence", 1.0), covariates, ["cadence", "copy"], 0.7) is None
