"""Claims about the regression beside an answer: it finds the whole effect without a model, and says how well."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pyro_hmvcrl.queries.regression import beside, negative_control_outcomes, observed_rates, total_effect


def world(seed, users=800, effect=lambda knob: 0.1 * knob):
    """Users whose knob follows what they are like, as does their rate."""
    rng = np.random.default_rng(seed)
    taste, trait = rng.normal(size=(2, users))
    knob = 0.7 * taste + rng.normal(size=users)
    rate = 0.4 + effect(knob) - 0.2 * taste + 0.05 * trait + rng.normal(0, 0.2, users)
    covariates = pd.DataFrame({"knob": knob, "taste": taste, "trait": trait})
    return covariates, covariates.assign(knob=knob + 1), rate, (effect(knob + 1) - effect(knob)).mean()


def test_what_is_known_of_users_is_taken_out_and_intervals_cover():
    found = [(total_effect(*world(seed)[:3]), world(seed)[3]) for seed in range(60)]
    errors = np.array([mean - true for (mean, _), true in found])
    stated = np.array([error for (_, error), _ in found])
    assert abs(errors.mean()) < 3 * errors.std() / 60**0.5 + 0.002
    assert stated.mean() == pytest.approx(errors.std(), rel=0.3)
    assert 0.8 <= (np.abs(errors) < 1.645 * stated).mean() <= 0.98
    knob, *_, rate, _ = world(0)
    assert np.polyfit(knob["knob"], rate, 1)[0] < 0.07  # a plain slope is far off


def test_an_effect_that_bends_is_found():
    now, then, rate, true = world(1, users=4_000, effect=lambda knob: 0.15 * np.tanh(2 * knob))
    mean, error = total_effect(now, then, rate)
    assert abs(mean - true) < 3 * error < 0.06


def test_few_users_and_users_without_a_rate_are_no_trouble():
    now, then, rate, true = world(2, users=60)
    rate[:20] = np.nan
    mean, error = total_effect(now, then, rate)
    assert abs(mean - true) < 4 * error


def test_rates_are_of_what_was_seen():
    activity = pd.DataFrame(
        {"searched_1": [2, 0], "searched_2": [2, 0], "shown_1": [4, 1], "shown_2": [6, 0], "engaged": [5, 0],
         "aligned": [8, 0]}
    )  # fmt: skip
    rates = observed_rates(activity)
    assert rates["engagement"].tolist() == [0.5, 0.0]
    assert rates["alignment"][0] == pytest.approx(8 / 40)
    assert np.isnan(rates["alignment"][1])


@pytest.mark.parametrize(("said", "agrees"), [(0.1, True), (0.02, False)])
def test_a_model_that_says_something_else_is_told(said, agrees):
    now, then, rate, _ = world(3)
    draws = np.random.default_rng(0).normal(said, 0.005, 200)
    [found] = beside({"engagement": draws}, now, then, {"engagement": rate}, 0.9).values()
    assert found["agrees"] is agrees
    assert found["lower"] < found["mean"] < found["upper"]


def test_a_common_cause_of_policy_and_engagement_moves_a_negative_control():
    """What was engaged with before the knob was set goes with the knob only by what caused both."""
    rng = np.random.default_rng(4)
    hidden = rng.normal(size=2_000)
    taste = rng.normal(size=2_000)
    now = pd.DataFrame({"knob": 0.4 * hidden + taste + rng.normal(size=2_000), "taste": taste})
    then = now.assign(knob=now["knob"] + 1)
    before = pd.DataFrame(
        {"with the cause": 0.5 * hidden + 0.3 * taste + rng.normal(size=2_000), "without": 0.3 * taste}
    )
    before["without"] += rng.normal(size=2_000)
    before.loc[:99, "without"] = np.nan
    found = negative_control_outcomes(now, then, before, 0.9)
    assert found["with the cause"]["verdict"] == "fails: something else goes with the policy"
    assert found["with the cause"]["lower"] > 0
    assert found["without"]["verdict"] == "passes"
    assert found["without"]["lower"] < 0 < found["without"]["upper"]


def test_of_an_outcome_that_few_users_have_nothing_is_said():
    now, then, rate, _ = world(3, users=60)
    few = np.where(np.arange(60) < 4, rate, np.nan)
    draws = np.random.default_rng(0).normal(0.1, 0.01, 50)
    found = beside(
        {"engagement": draws, "alignment": draws}, now, then, {"engagement": rate, "alignment": few}, 0.9
    )
    assert list(found) == ["engagement"]
