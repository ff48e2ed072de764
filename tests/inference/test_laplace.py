"""Claims about the posterior over the parameters: its scores are the likelihood's, its spread is the scores'."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyro_hmvcrl.inference import curvature, laplace
from pyro_hmvcrl.inference import scores as scoring
from pyro_hmvcrl.inference.curvature import Dense
from pyro_hmvcrl.inference.laplace import (
    Information,
    ParameterPosterior,
    fitted_values,
    laplace_posterior,
    score_to_the_mode,
    standardise_noise,
)
from pyro_hmvcrl.inference.scores import user_scores
from pyro_hmvcrl.synthetic import oracle
from pyro_hmvcrl.synthetic.simulation import simulate
from pyro_hmvcrl.synthetic.world import World

from worlds import TWO_AND_TWO, everyone, logs_of, make_few_logs, true_expansion

DESIGN = replace(TWO_AND_TWO, users=2_000, categories=4, missing_surface=0.2)
#: Coefficients with a row for each exposure covariate, of a story without a past.
BY_COVARIATE = {"platform_location", "platform_bend", "platform_log_scale", "delta", "delta_bend"}
READINESS = 1.5  # standard deviation in log odds of engagement, where it is asked for


def truth(design, seed=0):
    """A true world, a guide at its parameters, and its logs."""
    sim = simulate(design, seed)
    return sim, true_expansion(sim), logs_of(sim)


@pytest.fixture(scope="module")
def world():
    return truth(DESIGN)


@pytest.fixture(scope="module")
def posterior(world):
    _, guide, logs = world
    return laplace_posterior(guide, everyone(logs), seed=0, draws=1_000)


@pytest.fixture(scope="module")
def scores(world):
    """At the truth, ``(N, parameters)``."""
    return scores_of(world)


@torch.no_grad()
def scores_of(world):
    _, guide, logs = world
    found = user_scores(guide, fitted_values(guide), logs, logs.exposure_covariates)
    return found.double().numpy()


@dataclass(frozen=True)
class BentWorld(World):
    """A world whose lines bend, and whose users are as ready to engage as they are."""

    bends: tuple = ()  # of the locations by channel, and of the direct path
    readiness: object = 0.0  # (..., N)

    def mechanisms(self, exposure_covariates, preference_covariates):
        location, scale = super().mechanisms(exposure_covariates, preference_covariates)
        blocks = zip((exposure_covariates, preference_covariates), self.bends, strict=False)
        return location + np.hstack([(np.hypot(1, c) - 1) @ bend for c, bend in blocks]), scale

    def engagement_logits(self, z, exposure_covariates):
        bend = (np.hypot(1, exposure_covariates) - 1) @ self.bends[2]
        return super().engagement_logits(z, exposure_covariates) + (bend + self.readiness)[..., None]


def at_values(world: World, values, readiness) -> World:
    """The simulator's world at the model's parameters, of users with this standard normal readiness."""
    v = {name: value.double().numpy() for name, value in values.items()}

    def emission(old, name):
        return replace(old, **{part: v[f"{name}.{part}"] for part in ("intercept", "linear", "outer")})

    changed = replace(
        world,
        location_weights=(v["platform_location"], v["preference_location"]),
        log_scale_weights=(v["platform_log_scale"], v["preference_log_scale"]),
        edges=v["edges"],
        search=emission(world.search, "f_search"),
        exposure=emission(world.exposure, "f_exposure"),
        engagement_intercept=v["b"],
        engagement_preference=v["a"],
        engagement_platform=v["alpha"],
        engagement_direct=v["delta"],
    )
    bends = v["platform_bend"], v["preference_bend"], v["delta_bend"]
    ready = 0.25 * np.exp(v["readiness_log_scale"]) * readiness
    return BentWorld(**vars(changed), bends=bends, readiness=ready)


def log_likelihood(sim, values, noise):
    """Each user's log likelihood up to a constant, by plain Monte Carlo over the prior, in numpy."""
    w = at_values(sim.world, values, noise[..., -1])
    location, scale = w.mechanisms(sim.exposure_covariates, sim.preference_covariates)
    z = w.through_graph(location + scale * noise[..., :-1])
    given = oracle.log_likelihood(replace(sim, world=w), np.arange(len(location)), z)
    return np.logaddexp.reduce(given, axis=0)


def columns(values):
    """Where each parameter is among the scores."""
    sizes = [value.numel() for value in values.values()]
    ends = np.cumsum(sizes).tolist()
    return {name: slice(end - n, end) for name, end, n in zip(values, ends, sizes, strict=True)}


# --- Scores --------------------------------------------------------------------------------------------------


def test_scores_are_the_derivatives_of_the_likelihood(monkeypatch):
    """Against finite differences of the simulator's likelihood: no line of code in common.

    Along a random direction of each block of parameters in turn, then of all at once.
    """
    monkeypatch.setattr(scoring, "PARTICLES", 8_192)
    few = replace(
        DESIGN, users=6, search_events=(2, 4), recommendation_events=(2, 4)
    )  # the prior covers them
    sim, guide, logs = truth(few, 1)
    guide.coefficients.loc["readiness_log_scale"].data.fill_(math.log(READINESS / 0.25))
    values, scores = fitted_values(guide), scores_of((sim, guide, logs))
    rng, at = np.random.default_rng(0), columns(values)
    half = rng.normal(size=(6_000, len(sim.noise), guide.model.n_noise))
    noise = np.concatenate([half, -half])
    for names in [*([name] for name in values), list(values)]:
        direction = {n: torch.as_tensor(rng.normal(size=values[n].shape)) for n in names}
        if "edges" in direction:
            direction["edges"] *= guide.model.graph.allowed
        length = sum((d**2).sum() for d in direction.values()) ** 0.5
        direction = {n: d / length for n, d in direction.items()}
        there, back = (
            log_likelihood(sim, values | {n: values[n] + h * d for n, d in direction.items()}, noise)
            for h in (0.01, -0.01)
        )
        found = sum(scores[:, at[n]] @ d.flatten().numpy() for n, d in direction.items())
        expected = (there - back) / 0.02
        largest = np.abs(expected).max()
        assert largest > 0.1, names
        assert found == pytest.approx(expected, abs=min(0.12, 0.4 * largest)), names


def test_scores_average_to_zero_at_the_true_parameters(world, scores):
    reached = scores.std(0) > 0
    z = scores[:, reached].mean(0) / scores[:, reached].std(0) * len(scores) ** 0.5
    assert np.abs(z).max() < 4
    assert 0.6 < (z**2).mean() < 1.5
    _, guide, _ = world
    values = fitted_values(guide)
    never = np.flatnonzero(~reached)  # only edges that the graph's orientation forbids
    forbidden = columns(values)["edges"].start + np.flatnonzero(guide.model.graph.allowed.numpy() == 0)
    assert never.tolist() == forbidden.tolist()


def test_scores_are_not_zero_elsewhere(world):
    """Logs of another delta: its scores say so."""
    sim, guide, _ = world
    delta = sim.world.engagement_direct + np.array([0.3, 0, 0])
    moved = simulate(DESIGN, 0, replace(sim.world, engagement_direct=delta))
    scores = scores_of((moved, guide, logs_of(moved)))
    at = columns(fitted_values(guide))
    z = scores.mean(0) / scores.std(0).clip(1e-9) * len(scores) ** 0.5
    assert z[at["delta"]][0] > 6


@torch.no_grad()
def test_a_copy_of_the_covariates_has_the_scores_of_a_covariate(world):
    """The same copy, the same scores; a copy of zeros, none; whatever copy, the real ones' own."""
    _, guide, logs = world
    logs = logs.batch(torch.arange(20))
    fitted = fitted_values(guide)
    wider = fitted | {n: torch.cat([fitted[n], 0 * fitted[n]]) for n in BY_COVARIATE}
    real = logs.exposure_covariates

    def scores(values, covariates):
        torch.manual_seed(0)
        found = user_scores(guide, values, logs, covariates)
        return {n: found[:, at].unflatten(1, values[n].shape) for n, at in columns(values).items()}

    alone = scores(fitted, real)
    same, none = (scores(wider, torch.cat([real, copy], 1)) for copy in (real, 0 * real))
    for name, expected in alone.items():
        rows = expected.shape[1]
        assert torch.allclose(same[name][:, :rows], expected, atol=1e-4), name
        assert torch.allclose(none[name][:, :rows], expected, atol=1e-4), name
        if name in BY_COVARIATE:
            assert torch.allclose(same[name][:, rows:], expected, atol=1e-4), name
            assert (none[name][:, rows:] == 0).all()


# --- The mode ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_scoring_finds_one_mode_from_two_sides(world, posterior):
    """It comes to the same place, at the true parameters' side, whether loadings start too small or too large."""
    sim, _, logs = world
    ends = []
    for factor in (0.9, 1.1):
        guide = true_expansion(sim)
        for name in ("platform_location", "a", "delta"):
            guide.coefficients.loc[name].mul_(factor)
        guide.coefficients.loc["readiness_log_scale"].fill_(
            -1.0
        )  # about where a world without any has its mode
        users = everyone(logs)
        distances = score_to_the_mode(guide, users, seed=0)
        ends.append(fitted_values(guide))
        k = laplace.information(guide, ends[-1], users, users.exposure_covariates, 0).curvature.determined
        assert k * distances[0] > 100 > 8 > k * distances[-1]
    sd = flat(posterior.sd)
    one, two = map(flat, ends)
    assert np.abs((one - two) / sd).max() < 1
    assert ((one - flat(posterior.mean)) / sd).std() < 1.3  # the truth, as far from the mode as it may be


@torch.no_grad()
def test_a_scoring_step_is_that_of_the_curvature(world, monkeypatch):
    """Shortened by the share of the made users that the parameters take."""
    sim, _, logs = world
    monkeypatch.setattr(laplace, "SCORING_STEPS", 1)
    guide, users = true_expansion(sim), everyone(logs)
    before = fitted_values(guide)
    known = laplace.information(guide, before, users, users.exposure_covariates, 0)
    before = flat(before)  # which the step changes in place
    of = known.curvature
    assert 20 < of.determined < len(known.prior)
    n_made = 2_000 * math.ceil(curvature.MADE_A_PARAMETER * len(known.prior) / 2_000)
    assert torch.allclose(known.step, (1 - of.determined / n_made) * (of.inverse @ known.gradient))
    score_to_the_mode(guide, users, 0)
    moved = flat(fitted_values(guide)) - before
    assert np.abs(moved - known.step.numpy()).max() < 1e-4 * np.abs(known.step.numpy()).max()


@torch.no_grad()
@pytest.mark.parametrize(("too_long", "seen"), [(3.0, [0, 3, 1.5, 0.75]), (100.0, [0, 100, 50, 25, 12.5])])
def test_of_a_step_that_led_away_from_the_mode_half_is_taken(world, monkeypatch, too_long, seen):
    """And half of that, from where it was nearest; where all led away, nothing has moved."""
    sim, _, logs = world
    guide, places, start = true_expansion(sim), [], flat(fitted_values(true_expansion(sim)))

    def misled(guide, values, *_):
        """One parameter away from the mode by 1, and steps that are too long."""
        places.append(flat(values) - start)
        n = len(start)
        one, gradient = torch.ones(n).double(), torch.zeros(n).double()
        gradient[0] = float(1 - places[-1][0])
        of = Dense(one, 1.0, 1.0, 1.0, too_long * torch.eye(n).double())
        return Information(of, gradient, one, 2_000, one, torch.zeros(n, 0), one)

    monkeypatch.setattr(laplace, "information", misled)
    distances = score_to_the_mode(guide, everyone(logs), 0)
    assert [p[0] for p in places[: len(seen)]] == pytest.approx(seen, abs=1e-5)
    assert all(np.abs(p[1:]).max() < 1e-6 for p in places)
    assert distances == pytest.approx([too_long * (1 - p[0]) ** 2 for p in places], rel=1e-4)
    moved = flat(fitted_values(guide))[0] - start[0]
    assert moved == pytest.approx(0 if too_long == 100 else 1, abs=0.1)


def test_scores_that_are_not_finite_are_refused(world, monkeypatch):
    _, guide, logs = world
    n = len(flat(fitted_values(guide)))
    monkeypatch.setattr(scoring, "user_scores", lambda *_: torch.full((1, n), torch.nan))
    with pytest.raises(FloatingPointError, match="scores are not finite; look for extreme covariates"):
        score_to_the_mode(guide, everyone(logs), 0)


def test_scoring_moves_nothing_where_users_are_few(world):
    _, guide, logs = world
    before = {name: value.clone() for name, value in fitted_values(guide).items()}
    assert score_to_the_mode(guide, logs.only(torch.arange(100)), seed=0) == []
    assert all(torch.equal(value, before[name]) for name, value in fitted_values(guide).items())


# --- The posterior -------------------------------------------------------------------------------------------

PRIOR_SD = {
    "platform_location": 1.0,
    "platform_bend": 0.5,
    "platform_log_scale": 0.5,
    "preference_location": 1.0,
    "preference_bend": 0.5,
    "preference_log_scale": 0.5,
    "edges": 0.3 * 2**0.5,  # of the Laplace distribution of scale 0.3
    "a": 1.0,
    "b": 2.0,
    "alpha": 1.0,
    "delta": 1.0,
    "delta_bend": 0.5,
    "readiness_log_scale": 1.0,
    "f_search.intercept": 2.0,
    "f_search.linear": 1.0,
    "f_search.outer": 0.15,
    "f_exposure.intercept": 2.0,
    "f_exposure.linear": 1.0,
    "f_exposure.outer": 0.15,
}


def flat(values):
    return np.concatenate([values[name].flatten(-values[name].dim()).double().numpy() for name in values])


def test_the_decoders_hidden_features_have_no_posterior(posterior):
    """And everything else has one."""
    assert posterior.mean.keys() == posterior.sd.keys() == posterior.draws.keys() == PRIOR_SD.keys()
    for name, mean in posterior.mean.items():
        assert posterior.sd[name].shape == mean.shape
        assert posterior.draws[name].shape == (1_000, *mean.shape)


def test_it_lies_at_the_fitted_values(world, posterior):
    for name, value in fitted_values(world[1]).items():
        assert torch.equal(posterior.mean[name], value)


def test_without_events_the_posterior_is_the_prior(world):
    _, guide, logs = world
    nothing = [0 * events for events in (logs.search, logs.exposure, logs.engagement)]
    mute = logs._replace(**dict(zip(("search", "exposure", "engagement"), nothing, strict=True)))
    found = laplace_posterior(guide, mute.only(torch.arange(10)), seed=0, draws=2_000)
    for name, sd in PRIOR_SD.items():
        assert torch.allclose(found.sd[name], torch.tensor(sd), rtol=1e-3), name
    for name in BY_COVARIATE:
        assert found.placebo[name].std(0).numpy() == pytest.approx(PRIOR_SD[name], rel=0.1)


def test_where_the_model_is_right_the_precision_is_the_prior_s_and_that_of_the_scores(posterior, scores):
    prior = np.concatenate([np.full(sd.numel(), PRIOR_SD[name] ** -2.0) for name, sd in posterior.sd.items()])
    covariance = np.linalg.inv(np.diag(prior) + scores.T @ scores)
    sd = np.sqrt(covariance.diagonal())
    assert np.median(flat(posterior.sd) / sd) == pytest.approx(1, abs=0.05)
    ratio = flat(posterior.sd) / sd  # of users that the model made, and a placebo beside
    assert np.quantile(np.abs(np.log(ratio)), 0.95) < 0.3
    draws = np.concatenate([d.flatten(1).double().numpy() for d in posterior.draws.values()], 1)
    expected = covariance / sd / sd[:, None]
    strong = (np.abs(expected) > 0.3) & ~np.eye(len(sd), dtype=bool)
    assert strong.sum() > 20
    off = np.abs(np.corrcoef(draws.T) - expected)
    assert off.mean() < 0.06
    assert off.max() < 0.5
    assert {block: float(ratio) for block, ratio in posterior.information.items()} == {
        block: pytest.approx(1, abs=0.1) for block in ("search", "exposure", "engagement", "mechanisms")
    }


def test_events_that_come_twice_make_nobody_surer(world, posterior):
    """Twice the events are no more users; the inverse of the scores' outer products alone would take them for more."""
    _, guide, logs = world
    events = {name: 2 * getattr(logs, name) for name in ("search", "exposure", "engagement")}
    twice = laplace_posterior(guide, everyone(logs._replace(**events)), seed=0)
    for block in ("search", "exposure", "engagement"):
        assert twice.information[block] > 1.4, block
    for name in ("f_search.intercept", "f_exposure.intercept", "b", "delta"):
        assert (twice.sd[name] / posterior.sd[name]).median() > 0.9, name


def test_a_part_of_the_model_that_is_too_sure_is_named(world):
    """Users who engage with all or nothing more often than the story has it."""
    _, guide, logs = world
    torch.manual_seed(0)
    eager = torch.rand(len(logs.index), 1) < 0.5
    engagement = torch.where(
        eager, logs.exposure - (logs.exposure - logs.engagement) // 2, logs.engagement // 2
    )
    ratios = laplace_posterior(
        guide, everyone(logs._replace(engagement=engagement)), seed=0, draws=2
    ).information
    assert max(ratios, key=ratios.get) == "engagement"
    assert ratios["engagement"] > 1.3


def test_half_of_the_users_tell_less_by_the_root_of_two(world, posterior):
    _, guide, logs = world
    half = laplace_posterior(guide, logs.only(torch.arange(0, 2_000, 2)), seed=0)
    prior = np.concatenate([np.full(sd.numel(), PRIOR_SD[name]) for name, sd in posterior.sd.items()])
    told = flat(posterior.sd) < 0.15 * prior  # by the users, hardly by the prior
    assert told.sum() > 20
    ratio = (flat(half.sd) / flat(posterior.sd))[told]
    left = 1 - 100 / np.array([1_000, 2_000])  # of the users' pull, past that of a hundred parameters
    assert np.median(ratio) == pytest.approx((2 * left[1] / left[0]) ** 0.5, rel=0.05)
    assert ratio == pytest.approx(2**0.5, rel=0.3)


def test_draws_have_the_stated_mean_and_sd(posterior):
    for name, draws in posterior.draws.items():
        mean, sd = posterior.mean[name], posterior.sd[name]
        assert (((draws.mean(0) - mean) / sd).abs() < 4.5 / 1_000**0.5).all(), name
        assert torch.allclose(draws.std(0) / sd, torch.tensor(1.0), atol=0.1), name
    assert posterior.n_draws == 1_000
    assert all(torch.equal(value, posterior.draws[name][7]) for name, value in posterior.draw(7).items())


def test_the_same_seed_gives_the_same_numbers(world):
    _, guide, logs = world
    few = logs.only(torch.arange(20))
    once, other = (laplace_posterior(guide, few, seed, draws=3).to_tensors() for seed in (5, 6))
    torch.manual_seed(99)  # whatever was drawn before
    again = laplace_posterior(guide, few, 5, draws=3).to_tensors()
    assert all(torch.equal(value, again[name]) for name, value in once.items())
    for part in ("sd/delta", "draws/delta", "placebo/delta"):
        assert not torch.equal(once[part], other[part])


def test_it_survives_a_file(posterior):
    flat_ = posterior.to_tensors()
    assert all(isinstance(value, torch.Tensor) for value in flat_.values())
    back = ParameterPosterior.from_tensors(flat_)
    for part in ("mean", "sd", "draws", "placebo"):
        before, after = getattr(posterior, part), getattr(back, part)
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[name]) for name, value in before.items())


# --- The placebo ---------------------------------------------------------------------------------------------


def test_the_placebo_is_zero_within_its_own_sd(posterior):
    z = np.concatenate([(d.mean(0) / d.std(0)).flatten().numpy() for d in posterior.placebo.values()])
    assert len(z) == 3 * 3 * 2 + 3 * 2
    assert np.abs(z).max() < 4
    assert (z**2).mean() < 2.5


def test_the_placebo_is_one_step_away_with_its_spread(world, monkeypatch):
    _, guide, logs = world
    seen, information = [], laplace.information
    monkeypatch.setattr(
        laplace, "information", lambda *of, **n: seen.append(information(*of, **n)) or seen[0]
    )
    found = laplace_posterior(guide, logs.only(torch.arange(300)), seed=0, draws=4_000).placebo
    [known], values = seen, fitted_values(guide)
    wider = values | {n: torch.cat([values[n], values[n]]) for n in BY_COVARIATE}
    for name, at in columns(wider).items():
        if name in BY_COVARIATE:
            step, spread = (t[at].unflatten(0, wider[name].shape)[3:] for t in (known.step, known.sd))
            assert torch.allclose(found[name].std(0).double(), spread, rtol=0.06), name
            off = (found[name].mean(0) - step) / spread
            assert off.abs().max() < 4.5 / 4_000**0.5, name


def test_the_placebo_is_not_the_covariate_s_own_effect(posterior):
    """As sure, about another thing: of a copy that is not dealt out anew nothing would be known."""
    assert posterior.placebo.keys() == set(BY_COVARIATE)
    for name, draws in posterior.placebo.items():
        own, sd = posterior.mean[name], posterior.sd[name]
        assert draws.shape == posterior.draws[name].shape
        assert (0.5 * sd < draws.std(0)).all()
        assert (draws.std(0) < 2 * sd).all()
        strong = own.abs() > 10 * sd
        assert ((draws.mean(0) - own).abs() > 5 * sd)[strong].all()
    assert (posterior.mean["platform_location"].abs() > 10 * posterior.sd["platform_location"]).any()


def test_with_the_placebo_there_are_twice_the_covariates(posterior):
    both = posterior.with_placebo()
    for name in BY_COVARIATE:
        assert torch.equal(both.draws[name][:, :3], posterior.draws[name])
        assert torch.equal(both.draws[name][:, 3:], posterior.placebo[name])
        assert both.draws[name].shape[1] == 6
        assert torch.equal(both.mean[name][:3], posterior.mean[name])
        assert torch.equal(both.mean[name][3:], posterior.placebo[name].mean(0))
    for name in posterior.draws.keys() - set(BY_COVARIATE):
        assert torch.equal(both.draws[name], posterior.draws[name])
        assert torch.equal(both.mean[name], posterior.mean[name])


def test_without_exposure_covariates_there_is_no_placebo():
    _, guide, logs = truth(replace(DESIGN, users=10, exposure_covariates=0))
    found = laplace_posterior(guide, everyone(logs), 0, draws=3)
    assert found.placebo == {}
    assert found.with_placebo().draws.keys() == found.draws.keys()
    assert found.draws["delta"].shape == (3, 0)


def in_other_units(unit):
    """A true world whose factors come in these units, and weights to match."""
    sim = simulate(replace(TWO_AND_TWO, users=2_000, categories=30), 0)
    guide = true_expansion(sim)
    guide.scoring_steps = 15
    model, coefficients = guide.model, guide.coefficients.means()
    true = {n: t.detach().clone() for n, t in coefficients.items()}
    platform, preference = model.channels(unit)
    with torch.no_grad():
        coefficients["platform_location"].mul_(platform)
        coefficients["preference_location"].mul_(preference)
        coefficients["edges"].mul_(unit / unit.unsqueeze(1))
        coefficients["a"].div_(preference)
        coefficients["alpha"].div_(platform)
        for decoder, of in zip(model.decoders, (preference, platform), strict=True):
            decoder.linear.div_(of.unsqueeze(1))
            decoder.inner.div_(of.unsqueeze(1))
    return sim, guide, everyone(logs_of(sim)), true


def test_noise_is_measured_in_its_own_unit():
    """Factors in other units, and weights to match, come back; what they say of events stays as it was."""
    unit = torch.tensor([2.0, 1.0, 0.5, 1.0])
    sim, guide, users, true = in_other_units(unit)
    model, coefficients = guide.model, guide.coefficients.means()
    factors = torch.from_numpy(sim.factors).float() * unit
    logits = model.f_search(model.channels(factors)[1]).detach()
    for _ in range(4):
        standardise_noise(guide, users)
    for name in ("platform_location", "preference_location", "edges", "a", "alpha"):
        torch.testing.assert_close(coefficients[name].detach(), true[name], rtol=0.12, atol=0.01)
    in_new_units = torch.from_numpy(sim.factors).float()
    found = model.f_search(model.channels(in_new_units)[1]).detach()
    assert (found - logits).abs().mean() < 0.1 * logits.abs().mean()


def test_of_many_categories_scoring_measures_factors_in_their_unit(monkeypatch):
    make_few_logs(monkeypatch)
    monkeypatch.setattr(laplace, "MANY", 10)
    monkeypatch.setattr(laplace, "SCORING_STEPS", 2)
    monkeypatch.setattr(scoring, "PARTICLES", 8)
    _, guide, users, _ = in_other_units(torch.full((4,), 1.5))
    score_to_the_mode(guide, users, seed=0)
    _, noise = guide.expansion(users.n_users).posterior(users.batch(torch.arange(users.n_users)).numbered())
    moment = (noise.mean.square() + noise.root.square().sum(0)).mean(0)[:-1]
    torch.testing.assert_close(moment, torch.ones(4), rtol=0, atol=0.1)


def test_a_step_that_led_away_leaves_the_hidden_features_as_they_were(monkeypatch):
    """They are measured anew before every step, and are no part of it."""
    monkeypatch.setattr(laplace, "MANY", 10)
    monkeypatch.setattr(laplace, "SCORING_STEPS", 2)
    _, guide, users, _ = in_other_units(torch.ones(4))
    for _ in range(4):
        standardise_noise(guide, users)
    own, seen = guide.model.f_search.inner, []

    def one_step_away(guide, values, *_):
        """From 2 in units of the posterior to 3."""
        seen.append(own.detach().clone())
        n = len(scoring.flat(values))
        gradient = torch.full((n,), (2.0 + len(seen)) ** 2 / n, dtype=torch.double)
        return SimpleNamespace(
            gradient=gradient,
            step=torch.ones(n, dtype=torch.double),
            curvature=SimpleNamespace(tied=1.0, determined=1.0),
        )

    monkeypatch.setattr(laplace, "information", one_step_away)
    score_to_the_mode(guide, users, seed=0)
    first, second = seen
    torch.testing.assert_close(own.detach(), first, rtol=0.02, atol=0.01)
    assert (second - first).abs().max() > 0.05
