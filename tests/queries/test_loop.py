"""Claims about a platform that learns: under `do` the past is a consequence, and effects say what comes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch

from pyro_hmvcrl.inference.laplace import ParameterPosterior, fitted_values
from pyro_hmvcrl.queries.averages import Users, average_effects, factors_by_channel, sites_of_past
from pyro_hmvcrl.queries.interventions import by_chance, hold, run
from pyro_hmvcrl.queries.mediation import OUTCOMES, Mediators, engagement, natural_effects
from pyro_hmvcrl.story.programs import at
from pyro_hmvcrl.synthetic import Design, simulate, true_effects

from worlds import logs_of, true_expansion

pytestmark = pytest.mark.all_draws

DESIGN = Design(
    users=600,
    categories=8,
    periods=4,
    learning=1.0,
    personalisation=0.6,
    influence=0.5,
    familiarity=-0.3,
    direct=0.4,
    engagement_strength=1.0,
)
SHIFT = {"exposure_1": 1.0}


@pytest.fixture(scope="module")
def world():
    sim = simulate(DESIGN, 1)
    guide = true_expansion(sim)
    mean = fitted_values(guide)
    nothing = {name: torch.zeros_like(value) for name, value in mean.items()}
    draws = {name: value.expand(2, *value.shape) for name, value in mean.items()}
    return sim, guide, ParameterPosterior(mean, nothing, draws, {}, {}), logs_of(sim)


def shifted(logs):
    return logs.exposure_covariates + torch.eye(5)[0]


def test_at_the_true_parameters_effects_are_the_true_effects(world):
    """Two independent programs, by Monte Carlo each, agree on every estimand, that of the loop too."""
    sim, guide, posterior, logs = world
    found = average_effects(guide, posterior, Users(logs), {"exposure_covariates": shifted(logs)})
    for outcome, expected in true_effects(sim, SHIFT, draws=60)["outcomes"].items():
        for name, value in expected.items():
            assert found.contrasts[outcome][name].mean() == pytest.approx(value, abs=1.5e-3), (outcome, name)
    loop = found.contrasts["engagement"]["NIE_loop"].mean()
    assert abs(loop) > 2e-3  # there is something to find


def test_the_parts_add_up_and_the_course_is_the_effect_s(world):
    _, guide, posterior, logs = world
    users = Users(logs)
    found = average_effects(guide, posterior, users, {"exposure_covariates": shifted(logs)}, share=0.02)
    for outcome, c in found.contrasts.items():
        assert c["TE"] == pytest.approx(c["NDE"] + c["NIE"], abs=1e-6)
        parts = sum(c[f"NIE_{part}"] for part in ("platform", "preference", "loop"))
        assert c["NIE"] == pytest.approx(parts, abs=1e-6)
        course = found.course[outcome]
        assert (course["after"] - course["before"]) @ users.weights.numpy() == pytest.approx(
            c["TE"], abs=1e-5
        )


def test_a_past_that_is_forced_is_a_treatment_and_no_longer_mediates(world):
    """Without a past in one period what happens there is direct, and what comes of it later is the loop's."""
    _, guide, posterior, logs = world
    story = at(guide.model, posterior.mean)
    program = hold(by_chance(story, 0), noise=torch.zeros(len(logs.index), guide.model.n_factors))
    before = run(program, (logs,))
    mediators = Mediators(factors_by_channel(guide.model), loop=sites_of_past(logs))
    policy = {"history_2": torch.zeros_like(before["history_2"])}
    found = natural_effects(program, (logs,), policy, mediators, OUTCOMES).contrasts["engagement"]
    direct = run(program, (logs,), policy).periods[1]
    own = (engagement(direct) - engagement(before.periods[1])) / len(before.periods)
    torch.testing.assert_close(found["NDE"], own, atol=1e-5, rtol=0)
    assert found["NDE"].abs().mean() > 1e-3
    torch.testing.assert_close(found["TE"], found["NDE"] + found["NIE_loop"], atol=1e-5, rtol=0)


def test_before_the_first_period_there_is_no_past_and_later_it_is_that_of_the_world(world):
    """A change that acts through the past alone does nothing in the first period."""
    _, guide, posterior, logs = world
    values = posterior.mean | {
        name: torch.zeros_like(posterior.mean[name])
        for name in ("delta", "delta_bend", "personalisation_bend")
    }
    values |= {
        f"platform_{part}": torch.zeros_like(values[f"platform_{part}"])
        for part in ("location", "bend", "log_scale")
    }
    draws = {name: value.expand(2, *value.shape) for name, value in values.items()}
    of_past = replace(posterior, mean=values, draws=draws)
    found = average_effects(guide, of_past, Users(logs), {"exposure_covariates": 3 * shifted(logs)})
    moved = (found.course["engagement"]["after"] - found.course["engagement"]["before"])[0]
    assert moved[0] == pytest.approx(0, abs=1e-6)
    assert abs(moved[1:]).min() > 1e-3


def test_what_events_owe_to_the_parameters_is_in_the_spread(world):
    """The gradient by way of drawn events, against the effect where the parameters are moved."""
    _, guide, posterior, logs = world
    question = Users(logs), {"exposure_covariates": shifted(logs)}
    more = {name: value.clone() for name, value in posterior.mean.items()}
    more["learning"] = more["learning"] + torch.tensor([0.6, 0.1, 0.0, 0.0])
    draws = {name: torch.stack([posterior.mean[name], more[name]]) for name in more}
    told = average_effects(guide, replace(posterior, draws=draws), *question).levels["engagement"]
    there = average_effects(guide, replace(posterior, mean=more, draws=draws), *question).levels["engagement"]
    for world_ in ("before", "after"):
        moved = there[world_][1] - told[world_][0]
        assert abs(moved) > 2e-3
        assert told[world_][1] - told[world_][0] == pytest.approx(moved, rel=0.15)


def test_the_same_chance_makes_the_same_events(world):
    """So that worlds differ by what is done in them, and `do` on the past of one period reaches later ones."""
    _, guide, posterior, logs = world
    noise = torch.zeros(len(logs.index), guide.model.n_factors)
    program = hold(by_chance(at(guide.model, posterior.mean), 5), noise=noise)
    one, two = (run(program, (logs,)) for _ in range(2))
    assert all(torch.equal(one[site], two[site]) for site in one.drawn)
    history = torch.zeros_like(one["history_2"])
    history[..., 0, :] = 2.0
    other = run(program, (logs,), {"history_2": history})
    assert torch.equal(one["exposure_1"], other["exposure_1"])
    assert other["exposure_2"][..., 0].sum() > 1.5 * one["exposure_2"][..., 0].sum()
    assert not torch.equal(one["exposure_4"], other["exposure_4"])


def test_pyro_s_own_handlers_work_on_the_unrolled_program(world):
    _, guide, posterior, logs = world
    program = at(guide.model, posterior.mean)
    policy = pyro.do(program, data={"exposure_covariates": shifted(logs), "platform_1": torch.tensor(1.0)})
    trace = pyro.poutine.trace(pyro.condition(policy, data={"exposure_3": logs.exposure[:, 0]})).get_trace(
        logs
    )
    assert torch.equal(trace.nodes["exposure_3"]["value"], logs.exposure[:, 0])
    assert {f"engagement_{t}" for t in range(1, 5)} <= set(trace.nodes)
    shown = np.stack([trace.nodes[f"exposure_{t}"]["value"] for t in (1, 2, 4)], 1)
    assert (shown.sum(-1) == logs.exposure.sum(-1)[:, [0, 1, 3]].numpy()).all()
