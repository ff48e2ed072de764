"""Claims about search preference held against outcomes: known answers, and a null that is one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from sklearn.metrics import roc_auc_score

from pyro_hmvcrl.evidence.value import agreement, auc, search_probability, slope
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import simulate
from pyro_hmvcrl.synthetic.world import softmax

from worlds import logs_of, tensor, true_expansion


@pytest.fixture(scope="module")
def events():
    """Log probabilities, events shown, and those of which something holds, of 60 users in 4 categories."""
    rng = np.random.default_rng(0)
    x, n = rng.normal(size=(60, 4)) - [0, 0.5, 1, 2], rng.integers(1, 9, size=(60, 4))
    own = rng.normal(size=(60, 1))  # users who say yes to anything, who search more of the first category
    x[:, :1] += own
    y = rng.binomial(n, 1 / (1 + np.exp(-1.5 * x - [0, 0.3, -0.4, 1] - own)))
    return x, n.astype(float), y.astype(float)


def test_the_slope_is_that_of_a_logistic_regression_with_errors_over_users(events):
    x, n, y = events
    user, category = (of.ravel() for of in np.indices(x.shape))
    inside = x - (n * x).sum(0) / n.sum(0)
    inside /= np.sqrt((n * inside**2).sum() / n.sum())
    design = np.column_stack([inside.ravel(), pd.get_dummies(category).to_numpy(float)])
    by_events = sm.GLM(
        np.column_stack([y.ravel(), (n - y).ravel()]), design, family=sm.families.Binomial()
    ).fit(cov_type="cluster", cov_kwds={"groups": user, "use_correction": False})
    found = slope(x, n, y, 0.9)
    assert found["mean"] == pytest.approx(by_events.params[0], abs=0.02)  # the weak prior on intercepts
    error = by_events.bse[0] * (60 / 59) ** 0.5
    assert found["upper"] - found["mean"] == pytest.approx(1.671 * error, rel=0.01)  # t, 59 users


def test_the_area_is_that_of_single_events(events):
    x, n, y = events
    score = np.concatenate([x.ravel().repeat(of.ravel().astype(int)) for of in (y, n - y)])
    holds = np.repeat([1, 0], [int(y.sum()), int((n - y).sum())])
    found = auc(x, n, y, 0.9, seed=0)
    assert found["mean"] == pytest.approx(roc_auc_score(holds, score))
    assert found["lower"] < found["mean"] < found["upper"]
    assert found["null"]["lower"] < found["null"]["mean"] < found["null"]["upper"] < found["mean"]


def test_what_users_look_for_is_found_to_agree_with_what_follows_it_and_with_nothing_else():
    covered = []
    for seed in range(8):
        sim = simulate(Design(users=150, categories=8, liked=0.6), seed)
        rng = np.random.default_rng(seed)
        coin, shown = (rng.binomial(sim.exposure.astype(int), p).astype(float) for p in (0.2, 1.0))
        searched = softmax(sim.world.search.logits(sim.preference))
        outcomes = {"liked": sim.liked, "hidden": sim.exposure - sim.liked, "coin": coin}
        found = agreement(searched, shown, outcomes, seed=seed)
        assert found["liked"]["slope"]["lower"] > 0.3
        assert found["hidden"]["slope"]["mean"] == pytest.approx(-found["liked"]["slope"]["mean"], abs=0.02)
        assert found["liked"]["auc"]["lower"] > found["liked"]["auc"]["null"]["upper"]
        assert found["liked"]["sentence"].startswith("What users look for agrees with liked: of users")
        assert found["hidden"]["sentence"].startswith("What users look for is at odds with hidden:")
        covered.append(found["coin"]["slope"]["lower"] < 0 < found["coin"]["slope"]["upper"])
        null = found["coin"]["auc"]["null"]
        covered.append(null["lower"] <= found["coin"]["auc"]["mean"] <= null["upper"])
    assert sum(covered) >= 12  # of 16, where 14.4 are expected


def test_too_little_is_said_to_be_too_little():
    few = np.ones((3, 2))
    found = agreement(few / 2, few, {"liked": np.eye(3, 2)})["liked"]
    assert (found["slope"], found["auc"]) == (None, None)
    assert "too few events" in found["sentence"]


def test_a_user_s_wishes_are_near_the_true_ones_and_do_not_come_from_engagement():
    sim = simulate(Design(users=80, categories=8), 0)
    logs, guide = logs_of(sim), true_expansion(sim)
    found = search_probability(guide, logs)
    true = softmax(sim.world.search.logits(sim.preference))
    assert found.sum(1) == pytest.approx(np.ones(80), abs=1e-5)
    assert np.corrcoef(np.log(found).ravel(), np.log(true).ravel())[0, 1] > 0.9
    other = logs._replace(engagement=tensor(sim.exposure - sim.engagement))
    assert search_probability(guide, other) == pytest.approx(found)
    assert search_probability(guide, logs._replace(search=logs.search.flip(0))) != pytest.approx(
        found, abs=0.01
    )


def test_few_users_are_not_too_sure_of_a_slope():
    """Users who differ in how often they say yes, and a preference that tells nothing."""
    rng = np.random.default_rng(0)
    p = []
    for _ in range(300):
        x, n = rng.normal(size=(20, 8)), rng.integers(1, 9, size=(20, 8)).astype(float)
        y = rng.binomial(n.astype(int), 1 / (1 + np.exp(-rng.normal(size=(20, 1))))).astype(float)
        p.append(slope(x, n, y, 0.9)["p"])
    assert np.mean(np.array(p) < 0.1) < 0.17


def test_of_too_few_users_nothing_is_said(events):
    x, n, y = (of[:14] for of in events)
    found = agreement(np.exp(x), n, {"liked": y}, 0.9, seed=0)["liked"]
    assert found["slope"] is None
    assert found["auc"] is None
