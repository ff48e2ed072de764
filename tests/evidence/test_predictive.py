"""Claims about posterior predictive checks: silent where the model is true, and each sees what it is there for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_hmvcrl.evidence import predictive
from pyro_hmvcrl.evidence.predictive import (
    FAR,
    Counts,
    Statistic,
    compare,
    histograms,
    passes,
    predictive_checks,
    statistics,
    verdict,
)
from pyro_hmvcrl.inference.laplace import ParameterPosterior, fitted_values
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import simulate

from worlds import EDGES, logs_of, true_expansion

DESIGN = Design(users=600, categories=8, edges=EDGES)
SCALAR = Statistic("A thing", lambda counts: 0)

NAMES = DESIGN.category_names, DESIGN.exposure_names, DESIGN.preference_names


@pytest.fixture(scope="module")
def world():
    return true_world(DESIGN)


def true_world(design):
    """A model that has the world's parameters, a posterior that is sure of them, and the logs."""
    sim = simulate(design, 1)
    guide = true_expansion(sim)
    mean = fitted_values(guide)
    nothing = {name: torch.zeros_like(value) for name, value in mean.items()}
    draws = {name: value[None] for name, value in mean.items()}
    return guide.model, ParameterPosterior(mean, nothing, draws, {}, {}), logs_of(sim)


def checked(world, logs=None, **more):
    model, posterior, own = world
    more = {"replications": 60} | more
    return predictive_checks(model, posterior, logs or own, *NAMES, **more)


def test_at_the_true_parameters_every_check_passes(world):
    found = checked(world)
    assert len(found["checks"]) == 15
    assert {name for name, check in found["checks"].items() if check["level"] != "good"} == set()
    assert verdict(found["checks"]) == (
        "good",
        ["logs that the model makes look like these logs in all 15 respects."],
    )
    for of in found["densities"].values():
        inside = (np.array(of["lower"]) <= of["observed"]) & (of["observed"] <= np.array(of["upper"]))
        assert inside.mean() > 0.7


@pytest.fixture(scope="module")
def loop():
    """The same of a platform that learns."""
    return true_world(replace(DESIGN, periods=5, learning=1.5, influence=0.8))


def test_at_the_true_parameters_every_check_of_time_passes(loop):
    found = checked(loop)["checks"]
    assert {"following_engagement", "following_exposure", "drift", "bursts"} <= set(found)
    assert {name for name, check in found.items() if check["level"] != "good"} == set()


def backwards(logs):
    return logs._replace(
        **{name: getattr(logs, name).flip(1) for name in ("search", "exposure", "engagement")}
    )


def searches_backwards(logs):
    return logs._replace(search=logs.search.flip(1))


def one_category_a_period(logs):
    total = logs.exposure.sum(-1, keepdim=True)
    return logs._replace(exposure=total * torch.nn.functional.one_hot(logs.exposure.argmax(-1), 8))


def everyone_sees_another_category_later(logs):
    exposure = logs.exposure.clone()
    exposure[:, 3:] = exposure[:, 3:].roll(1, -1)
    return logs._replace(exposure=exposure)


@pytest.mark.parametrize(
    ("broken", "seen_by"),
    [
        (backwards, "following_engagement"),
        (searches_backwards, "following_exposure"),
        (one_category_a_period, "bursts"),
        (everyone_sees_another_category_later, "drift"),
    ],
)
def test_what_a_period_does_not_owe_to_the_last_is_seen(loop, broken, seen_by):
    found = checked(loop, broken(loop[2]), replications=20)
    assert found["checks"][seen_by]["level"] == "no"


def all_or_nothing(logs):
    """Every user engages with all, or with nothing, as often as before."""
    rate = logs.engagement.sum() / logs.exposure.sum()
    return logs._replace(engagement=logs.exposure * (torch.rand(len(logs.index), 1) < rate))


def each_searches_one_thing(logs):
    total = logs.search.sum(1, keepdim=True)
    return logs._replace(search=total * torch.nn.functional.one_hot(logs.search.argmax(1), 8))


def searches_of_others(logs):
    return logs._replace(search=logs.search[torch.randperm(len(logs.index))])


def one_category_is_loved(logs):
    """All of the first category is engaged with, and nothing of the second."""
    first, second, *_ = torch.eye(8)
    return logs._replace(engagement=logs.engagement * (1 - first - second) + logs.exposure * first)


@pytest.mark.parametrize(
    ("broken", "seen_by", "sign"),
    [
        (all_or_nothing, "engagement_spread", 1),
        (each_searches_one_thing, "search_mix", -1),
        (searches_of_others, "search_exposure", -1),
        (one_category_is_loved, "engagement_rates", 1),
    ],
)
def test_what_the_model_does_not_make_is_seen_by_its_check(world, broken, seen_by, sign):
    torch.manual_seed(0)
    check = checked(world, broken(world[2]), replications=20)["checks"][seen_by]
    assert check["level"] == "no"
    assert sign * check["distance"] > FAR
    assert check["p"] == pytest.approx((1 if check.get("labels") else 2) / 21)


def test_a_factor_too_few_leaves_differences_past_its_directions(world):
    """Searches of a second world, whose users differ in three directions, under decoders that know of one."""
    model, posterior, logs = world
    weak = {name: value.clone() for name, value in posterior.mean.items()}
    for name in ("linear", "outer"):
        weak[f"f_search.{name}"] = weak[f"f_search.{name}"] * (
            torch.tensor([1.0, 0.0, 0.0])[:, None] if name == "linear" else 0.0
        )
    fewer = ParameterPosterior(weak, posterior.sd, {n: v[None] for n, v in weak.items()}, {}, {})
    checks = checked((model, fewer, logs))["checks"]
    assert checks["search_rest"]["level"] == "no"
    assert checks["exposure_rest"]["level"] == "good"


def test_differences_past_some_directions_are_the_smaller_singular_values(world):
    """Of the Pearson residuals of searches, against shares by category, of users in three directions."""
    model, _, logs = world
    searches = logs.search.double().numpy()
    asked = statistics(model, logs, *NAMES)["search_rest"]
    expected = searches.sum(1, keepdims=True) * searches.sum(0) / searches.sum()
    values = np.linalg.svd((searches - expected) / np.sqrt(expected), compute_uv=False) ** 2 / len(searches)
    assert asked.of(Counts(searches, searches, searches)) == pytest.approx(values[3:].sum())


def test_a_seed_fixes_the_checks_and_the_caller_s_random_numbers_are_left_alone(world):
    state = torch.get_rng_state()
    one, two, other = (checked(world, replications=4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    assert one == two != other


def test_of_many_users_a_random_part_is_taken(world, monkeypatch):
    monkeypatch.setattr(predictive, "USERS", 100)
    assert checked(world, replications=2)["users"] == 100


@pytest.mark.parametrize("surface", ["exposure", "search"])
def test_a_response_that_bends_is_seen_by_covariate(world, surface):
    """Users with a covariate at either end are shown, and search, the same category more; the model knows no bend."""
    _, _, logs = world
    block = {"exposure": "exposure", "search": "preference"}[surface]
    ends = getattr(logs, f"{block}_covariates")[:, 0].abs() > 1
    events = getattr(logs, surface).clone()
    moved = torch.zeros_like(events)
    moved[ends, 0] = 0.4 * events[ends].sum(-1)
    bent = (events - moved.sum(-1, keepdim=True) * events / events.sum(-1, keepdim=True) + moved).round()
    checks = checked(world, logs._replace(**{surface: bent}))["checks"]
    assert checks[f"{surface}_by_covariate"]["level"] == "no"
    other = {"exposure": "search", "search": "exposure"}[surface]
    assert checks[f"{other}_by_covariate"]["level"] == "good"
    check = checks[f"{surface}_by_covariate"]
    past = np.subtract(check["observed"], check["mean"])
    name = {"exposure": "exposure_1", "search": "taste_1"}[surface]
    assert check["labels"][past.argmax()] == f"{name}, ends and middle"


def test_ends_of_a_covariate_of_few_values_are_its_values():
    few = np.array([[0, 0], [0, 1], [0, 1], [0, 1], [1, 1], [2, 1.0]])
    pairs, labels = predictive._pairs(few, ["dose", "flag"])
    assert labels == ["dose, low and high", "flag, low and high"]
    assert [[end.tolist() for end in pair] for pair in pairs] == [
        [[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]],
        [[1, 0, 0, 0, 0, 0], [0, 1, 1, 1, 1, 1]],
    ]


# --- Observed against replicated -----------------------------------------------------------------------------


def standard(mean: float, sd: float, n: int = 200) -> np.ndarray:
    """Numbers with exactly this mean and standard deviation."""
    x = np.random.default_rng(0).normal(size=n)
    return mean + sd * (x - x.mean()) / x.std()


@pytest.mark.parametrize(
    ("sd", "distance", "level"),
    [(0.01, 2.5, "good"), (0.01, 4.0, "care"), (0.05, 4.0, "no"), (0.05, -4.0, "no"), (0.05, -2.5, "good")],
)
def test_far_is_three_sds_and_matters_from_a_tenth(sd, distance, level):
    found = compare(SCALAR, 1 + distance * sd, standard(1.0, sd))
    assert found["distance"] == pytest.approx(distance)
    assert found["difference"] == pytest.approx(distance * sd)
    assert found["level"] == level


def test_only_more_than_the_model_makes_speaks_against_an_excess():
    excess = Statistic("A thing", lambda counts: 0, excess=True)
    less, more = (compare(excess, x, standard(1.0, 0.05)) for x in (0.5, 1.5))
    assert (less["level"], more["level"]) == ("good", "no")
    assert less["one_sided"]
    assert passes(less) == (-np.inf, FAR)
    assert passes(compare(SCALAR, 0.5, standard(1.0, 0.05))) == (-FAR, FAR)


def test_of_several_numbers_the_distance_is_weighted_and_past_chance():
    two = Statistic("Shares", lambda counts: 0, labels=("a", "b"), weights=np.array([1.0, 3.0]))
    made = np.stack([standard(0.5, 0.01), standard(0.5, 0.01)[::-1]], 1)
    found = compare(two, np.array([0.6, 0.4]), made)
    by_chance = (np.abs(made - 0.5) * [1, 3]).sum(1) * 200 / 199
    assert found["difference"] == pytest.approx((0.4 - by_chance.mean()) / 2)
    assert found["distance"] == pytest.approx((0.4 - by_chance.mean()) / by_chance.std())
    assert found["p"] == pytest.approx(1 / 201)


def test_what_cannot_be_computed_is_left_out():
    assert compare(SCALAR, 1.0, np.array([1.0, np.nan])) == {}
    assert compare(SCALAR, np.nan, standard(1.0, 0.1)) == {}
    assert histograms("nothing", np.array([]), [np.array([])]) == {}
    assert histograms("one value", np.ones(3), [np.ones(3)]) == {}


def test_the_verdict_tells_the_farthest_first():
    checks = {name: compare(Statistic(name, lambda c: 0), x, standard(1.0, 0.05)) for name, x in
              (("Fine", 1.0), ("Off", 1.3), ("Farther off", 0.5))}  # fmt: skip
    level, said = verdict(checks)
    assert level == "no"
    assert said == [
        "logs that the model makes differ from these logs in 2 of 3 respects.",
        "farther off: 50% less in the logs than in the model's, 10 sd.",
        "off: 30% more in the logs than in the model's, 6 sd.",
    ]


def test_what_follows_where_the_model_says_that_nothing_does_is_seen(loop):
    """The model's own cosine is then below 0, as the user's usual has these events in it."""
    still = true_world(replace(DESIGN, periods=5, learning=1e-9))
    checks = checked(still, loop[2], replications=20)["checks"]
    assert checks["following_engagement"]["level"] == checks["following_exposure"]["level"] == "no"
    said = " ".join(verdict(checks)[1])
    assert "in the logs, -0." in said  # a cosine has no percentage
    own = checked(still, replications=20)["checks"]
    assert own["following_engagement"]["level"] == own["following_exposure"]["level"] == "good"


def test_of_two_periods_neither_follows():
    two = true_world(replace(DESIGN, users=100, periods=2, learning=0.5))
    found = checked(two, replications=5)["checks"]
    assert not {"following_engagement", "following_exposure"} & set(found)
    assert "drift" in found


def test_the_distance_of_many_numbers_is_fair_to_the_logs():
    """Of few replications, too, of whose mean the logs are no part."""
    rng, many = np.random.default_rng(0), Statistic("Many", lambda c: 0, [str(i) for i in range(300)])
    p = [compare(many, of[0], of[1:])["p"] for of in rng.normal(1, 0.1, size=(200, 21, 300))]
    assert np.mean(np.array(p) < 0.1) < 0.18


def test_with_a_factor_less_than_categories_no_more_can_be_told(world):
    model, posterior, logs = true_world(replace(DESIGN, users=100, categories=4))
    found = predictive_checks(model, posterior, logs, ["a", "b", "c", "d"], *NAMES[1:], replications=5)[
        "checks"
    ]
    assert "search_rest" not in found  # three preference factors
    assert "exposure_rest" in found
