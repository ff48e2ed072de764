"""Claims about further outcomes as a Pyro program: its sites, its likelihood, and a story that does not know it."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from torch.distributions import Binomial

from pyro_hmvcrl.story.outcomes import OutcomeStory, at_with_outcomes
from pyro_hmvcrl.story.programs import at
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import simulate

from worlds import logs_of, model_of

DESIGN = Design(users=30, categories=5, periods=3)


def told(sim, **given):
    """A trace of an outcome of users with random factors, and its story."""
    story, logs = OutcomeStory("liked", model_of(sim)), logs_of(sim).given_past()
    factors, readiness = torch.randn(4, 30, 5), torch.randn(4, 30)
    program = pyro.condition(story, data=given)
    return story, logs, poutine.trace(program).get_trace(factors, readiness, logs), (factors, readiness)


@pytest.mark.parametrize("learning", [0.0, 0.5])
def test_what_users_say_is_drawn_among_what_they_are_shown(learning):
    sim = simulate(Design(**{**vars(DESIGN), "learning": learning}), 0)
    liked = torch.minimum(torch.ones(()), logs_of(sim).exposure)
    story, logs, trace, (factors, readiness) = told(sim, liked=liked)
    c = {part: trace.nodes[story.site(part)]["value"] for part in story.priors}
    assert ("familiarity" in c) == bool(learning)
    model = story.model
    bent = (1 + logs.exposure_covariates**2).sqrt() - 1
    user = factors[..., :2] @ c["alpha"] + c["along"] * readiness
    user = user + logs.exposure_covariates @ c["delta"] + bent @ c["delta_bend"]
    logits = c["b"] + factors[..., 2:] @ c["a"].T + user.unsqueeze(-1)
    shown, said = logs.exposure, liked
    if learning:
        past = torch.log1p(shown.cumsum(1) - shown)
        logits = logits.unsqueeze(-2) + c["familiarity"] * past
    of = Binomial(shown, logits=logits)
    none = Binomial(shown, logits=torch.zeros_like(logits))  # for the coefficient, which the story leaves out
    by_hand = of.log_prob(said) - none.log_prob(said) - shown * torch.tensor(2.0).log()
    expected = by_hand.flatten(2).sum(-1)
    assert torch.allclose(trace.nodes["liked"]["fn"].log_prob(liked), expected, atol=1e-3)
    assert model.priors.keys() >= {*c} - {"along"}


def test_coefficients_are_sites_beside_a_story_that_stays_as_it_is():
    sim = simulate(DESIGN, 0)
    model, logs = model_of(sim), logs_of(sim)
    values = {"alpha": torch.ones(2), "f_search.intercept": torch.ones(5)}
    further = {"liked.b": torch.arange(5.0)}

    def traced(program):
        pyro.set_rng_seed(0)
        return poutine.trace(program).get_trace(logs).nodes

    alone, beside = traced(at(model, values)), traced(at_with_outcomes(model, values | further))
    assert {*beside} - {*alone} == {"liked.b"}
    assert torch.equal(beside["liked.b"]["value"], further["liked.b"])
    assert torch.equal(beside["engagement"]["value"], alone["engagement"]["value"])
