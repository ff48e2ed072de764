"""Claims about effects by segment: who is in one, and intervals that hold for all of them together."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm

from pyro_hmvcrl.inference.laplace import ParameterPosterior, fitted_values
from pyro_hmvcrl.queries.averages import Users, average_effects
from pyro_hmvcrl.queries.by_segment import effects_by_segment, segments
from pyro_hmvcrl.queries.interventions import InterventionError
from pyro_hmvcrl.synthetic import Design, simulate

from worlds import logs_of, true_expansion

N = 120
USERS = pd.DataFrame(
    {
        "user_id": [f"u{i}" for i in range(N)],
        "plan_family": np.repeat([1.0, 0.0, 0.0], [30, 50, 40]),
        "plan_premium": np.repeat([0.0, 1.0, 0.0], [30, 50, 40]),
        "age": np.arange(N, dtype=float),
        "kids": np.repeat([0.0, 1.0, 2.0, 7.0], [50, 60, 5, 5]),
    }
)


@pytest.mark.parametrize(
    ("by", "sizes"),
    [
        ("plan", {"premium": 50, "base level": 40, "family": 30}),
        ("plan_family", {"0": 90, "1": 30}),
        ("age", {"-0.001 to 39.667": 40, "39.667 to 79.333": 40, "79.333 to 119": 40}),
        ("kids", {"1": 60, "0": 50}),
    ],
)
def test_a_user_is_in_the_segment_of_a_column(by, sizes):
    users = USERS if by != "kids" else USERS[:110]
    of = segments(by, users)
    assert of.name == by
    assert of.value_counts().to_dict() == sizes


def test_segments_of_few_users_are_one():
    of = segments("kids", USERS[10:])
    assert of.value_counts().to_dict() == {"1": 60, "0": 40} | {"other": 10}


def test_values_may_be_given_by_user():
    own = pd.Series(np.repeat(["a", "b"], N // 2), index=USERS["user_id"], name="group")[::-1]
    assert segments(own, USERS).tolist() == ["a"] * (N // 2) + ["b"] * (N // 2)
    with pytest.raises(InterventionError, match="group: user u119 has no value"):
        segments(own[1:], USERS)


@pytest.mark.parametrize(
    ("by", "said"),
    [("colour", "no covariate colour"), ("plan_", "no covariate plan_"), ("one", "one: 1 segments")],
)
def test_what_makes_no_segments_is_refused(by, said):
    with pytest.raises(InterventionError, match=said):
        segments(by, USERS.assign(one=1.0))


@pytest.fixture(scope="module")
def asked():
    sim = simulate(Design(users=N, categories=5), 1)
    guide, logs = true_expansion(sim), logs_of(sim)
    mean = fitted_values(guide)
    torch.manual_seed(0)
    draws = {name: value + 0.02 * torch.randn(40, *value.shape) for name, value in mean.items()}
    posterior = ParameterPosterior(mean, mean, draws, {}, {})
    shifted = {"exposure_covariates": logs.exposure_covariates + torch.eye(5)[0]}
    return partial(average_effects, guide, posterior), Users(logs), shifted


def test_segments_together_are_all_users(asked):
    ask, users, shifted = asked
    found = effects_by_segment(ask, users, shifted, segments("plan", USERS), 0.9)["segments"]
    assert list(found) == ["family", "premium", "base level"]
    assert [of["users"] for of in found.values()] == [30, 50, 40]
    whole = ask(users, shifted).contrasts
    for outcome in ("engagement", "alignment"):
        parts = sum(of["users"] / N * of["outcomes"][outcome]["TE"]["mean"] for of in found.values())
        assert parts == pytest.approx(whole[outcome]["TE"].mean(), abs=0.004)
    apart = [of["outcomes"]["engagement"]["before"]["mean"] for of in found.values()]
    assert np.ptp(apart) > 0.01


def test_intervals_are_those_of_all_segments_together(asked):
    ask, users, shifted = asked
    of = segments("plan", USERS)
    seen = []

    def watched(*own):
        seen.append(ask(*own))
        return seen[-1]

    found = effects_by_segment(watched, users, shifted, of, 0.9)
    assert found["correction"] == "Bonferroni"
    assert found["level_of_each"] == pytest.approx(1 - 0.1 / 3)
    for draws, segment in zip(seen, found["segments"].values(), strict=True):
        sd, interval = (
            draws.contrasts["engagement"]["TE"].std(ddof=1),
            segment["outcomes"]["engagement"]["TE"],
        )
        assert interval["upper"] - interval["mean"] == pytest.approx(norm.ppf(1 - 0.05 / 3) * sd)


def test_numbers_that_differ_late_are_segments_of_their_own():
    months = pd.Series(np.repeat([20230101, 20230104, 20240101], 40), USERS["user_id"], name="since")
    assert set(segments(months, USERS)) == {"20230101", "20230104", "20240101"}
    days = pd.Series(20230101 + np.arange(N), USERS["user_id"], name="since")
    assert segments(days, USERS).value_counts().tolist() == [40, 40, 40]


def test_a_segment_that_is_shown_nothing_has_effects_too():
    sim = simulate(Design(users=60, categories=5, periods=3, learning=0.5), 1)
    logs, guide = logs_of(sim), true_expansion(sim)
    nothing = logs._replace(exposure=0 * logs.exposure, engagement=0 * logs.engagement)
    mean = fitted_values(guide)
    draws = {name: value + torch.zeros(3, *value.shape) for name, value in mean.items()}
    posterior = ParameterPosterior(mean, mean, draws, {}, {})
    shifted = {"exposure_covariates": logs.exposure_covariates + 1}
    found = average_effects(guide, posterior, Users(nothing), shifted, share=0.01)
    assert np.isfinite(found.contrasts["engagement"]["TE"]).all()
