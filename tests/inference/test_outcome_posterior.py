"""Claims about the posterior over a further outcome's coefficients: it finds them, and knows what the fit does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from pyro_hmvcrl.inference.laplace import ParameterPosterior, fitted_values
from pyro_hmvcrl.inference.outcomes import Asked, log_likelihood, outcome_posterior, user_scores
from pyro_hmvcrl.story.outcomes import OutcomeStory
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import simulate

from worlds import everyone, logs_of, tensor, true_expansion

FEW = Design(users=1_000, categories=6, liked=1.2, search_events=(3, 6), recommendation_events=(8, 16))
DRAWS = 60


def certain(guide) -> ParameterPosterior:
    """A fit that knows its parameters."""
    values = fitted_values(guide)
    draws = {name: value.expand(DRAWS, *value.shape).clone() for name, value in values.items()}
    nothing = {name: torch.zeros_like(value) for name, value in values.items()}
    return ParameterPosterior(values, nothing, draws, {}, {})


def found_in(sim, said=None, posterior=None, seed=0):
    guide = true_expansion(sim)
    counts = csr_matrix(sim.liked if said is None else said)
    fit = posterior or certain(guide)
    return outcome_posterior(guide, fit, everyone(logs_of(sim)), counts, "liked", seed)


def truth_of(world):
    of = world.liking
    true = {"a": of.preference, "b": of.intercept, "alpha": of.platform, "delta": of.direct}
    return {f"liked.{part}": tensor(value) for part, value in true.items()}


def test_coefficients_are_found_and_not_attenuated_by_what_is_not_known_of_the_users():
    """With 3 to 6 searches each, factors are known so badly that loadings on their means would be far off."""
    z, loadings = [], []
    for seed in range(3):
        sim = simulate(FEW, seed)
        found, true = found_in(sim), truth_of(sim.world)
        z.append(torch.cat([((found.mean[n] - t) / found.sd[n]).flatten() for n, t in true.items()]))
        a = true["liked.a"]
        loadings.append(float((found.mean["liked.a"] * a).sum() / a.square().sum()))
        spread = found.draws["liked.a"].std(0)
        assert torch.allclose(spread, found.sd["liked.a"], rtol=0.5)
        assert float(found.information["liked"]) == pytest.approx(1, abs=0.1)
    z = torch.cat(z)
    assert float(z.square().mean().sqrt()) == pytest.approx(1, abs=0.25)
    assert np.mean(loadings) == pytest.approx(1, abs=0.06)


def test_users_who_differ_more_than_the_story_lets_them_widen_it():
    sim = simulate(FEW, 0)
    all_or_nothing = np.where(np.random.default_rng(0).random((FEW.users, 1)) < 0.3, sim.exposure, 0)
    found, usual = found_in(sim, all_or_nothing), found_in(sim)
    assert float(found.information["liked"]) > 2
    assert float((found.sd["liked.delta"] / usual.sd["liked.delta"]).mean()) > 1.5


def test_a_draw_of_the_fit_takes_its_mode_with_it():
    """The wider readiness is in a draw, the smaller is what follows it."""
    sim = simulate(Design(users=500, categories=4, liked=0.5), 0)
    guide = true_expansion(sim)
    guide.coefficients.loc["readiness_log_scale"].data.fill_(1.0)
    ready = np.random.default_rng(0).normal(size=(500, 1)) * 0.68
    logits = sim.world.engagement_logits(sim.factors, sim.exposure_covariates) + ready
    rng, shown = np.random.default_rng(1), sim.exposure.astype(int)
    engaged, liked = (
        rng.binomial(shown, 1 / (1 + np.exp(-of))) for of in (logits, 2 * ready - 1 + 0 * logits)
    )
    logs = logs_of(sim)._replace(engagement=tensor(engaged))
    posterior = certain(guide)
    scale = torch.linspace(-0.2, 0.2, DRAWS).unsqueeze(-1)
    posterior.draws["readiness_log_scale"] += scale
    found = outcome_posterior(guide, posterior, everyone(logs), csr_matrix(liked), "liked", 0)
    slope = np.polyfit(scale[:, 0], found.draws["liked.along"][:, 0], 1)[0]
    assert found.mean["liked.along"].item() == pytest.approx(2, abs=0.3)
    assert slope < -0.5


@pytest.mark.parametrize("learning", [0.0, 0.5])
def test_a_score_is_the_gradient_of_the_likelihood(learning):
    sim = simulate(Design(users=12, categories=4, liked=1.0, learning=learning, periods=3, suggestion=0.2), 0)
    guide = true_expansion(sim)
    story = OutcomeStory("liked", guide.model)
    said = csr_matrix(sim.liked.reshape(12, -1))
    (known,) = Asked(guide, fitted_values(guide), everyone(logs_of(sim)), said)
    values = {story.site(p): 0.1 * torch.randn(shape) for p, (_, _, shape) in story.priors.items()}
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    total = log_likelihood(story, leaves, known).sum()
    by_hand = torch.cat([g.flatten() for g in torch.autograd.grad(total, list(leaves.values()))])
    assert torch.allclose(user_scores(story, values, known).sum(0), by_hand, atol=1e-3)
