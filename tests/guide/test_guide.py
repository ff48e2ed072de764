"""Claims about the guide: the product of experts is exact, and the encoders see events as a set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from pyro_hmvcrl.guide import guide as guide_module
from pyro_hmvcrl.guide.experts import Expert, PrecisionNormal, factor_posterior, product_of_experts
from pyro_hmvcrl.guide.guide import TAILS
from pyro_hmvcrl.guide.transformers import EventEncoder, TransformerGuide
from pyro_hmvcrl.inference import bound
from pyro_hmvcrl.inference import scores as scoring
from pyro_hmvcrl.inference.bound import UserELBO, user_bounds
from pyro_hmvcrl.inference.laplace import fitted_values
from pyro_hmvcrl.inference.scores import user_scores
from pyro_hmvcrl.story.emissions import DECODER_PRIOR
from pyro_hmvcrl.story.model import READINESS
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.oracle import oracle
from pyro_hmvcrl.synthetic.simulation import simulate

from worlds import logs_of, model_of, set_truth, true_expansion

DESIGN = Design(users=60, categories=6, missing_surface=0.3)
LOOP = replace(DESIGN, periods=3, learning=1.0, influence=0.5, familiarity=-0.4, suggestion=0.4)


@pytest.fixture(params=[DESIGN, LOOP], ids=["one period", "loop"])
def guide(request):
    sim = simulate(request.param, 0)
    found = TransformerGuide(model_of(sim))
    set_truth(found.model, found.coefficients, sim)
    torch.nn.init.normal_(found.recommendation_encoder.head[-1].weight, std=0.3)  # as if trained
    return sim, found, logs_of(sim)


def test_linear_gaussian_events_give_the_closed_form_posterior(guide):
    """With x = W z + e, e ~ Normal(0, R), on two surfaces: condition the joint Gaussian of z and x directly."""
    _, found, logs = guide
    prior = found.prior(found.coefficients.means(), logs)
    rng = np.random.default_rng(0)  # five factors, and readiness
    base, turn = (t.detach().double().numpy() for t in prior)
    loadings = [
        np.hstack([np.zeros((4, 2)), rng.normal(size=(4, 3)), np.zeros((4, 1))]),
        rng.normal(size=(6, 6)),
    ]
    noise = [np.diag(rng.uniform(0.5, 2, size=len(w))) for w in loadings]
    observed = [rng.normal(size=(60, len(w))) for w in loadings]
    experts = [
        Expert(
            torch.tensor(np.tile(w.T @ np.linalg.inv(r) @ w, (60, 1, 1)), dtype=torch.float32),
            torch.tensor(x @ np.linalg.inv(r) @ w, dtype=torch.float32),
        )
        for w, r, x in zip(loadings, noise, observed, strict=True)
    ]
    mean, sd = factor_posterior(prior, product_of_experts(prior, experts))
    w, x = np.vstack(loadings), np.hstack(observed)
    r = np.block([[noise[0], np.zeros((4, 6))], [np.zeros((6, 4)), noise[1]]])
    for n in range(60):
        covariance = turn[n] @ turn[n].T
        gain = covariance @ w.T @ np.linalg.inv(w @ covariance @ w.T + r)
        assert mean[n] == pytest.approx((base[n] + gain @ (x[n] - w @ base[n]))[:5], abs=2e-4)
        assert sd[n] == pytest.approx(np.sqrt(np.diag(covariance - gain @ w @ covariance))[:5], abs=2e-4)


def test_the_product_is_the_design_s_formula(guide):
    _, found, logs = guide
    c, model = found.coefficients.means(), found.model
    location, scale = model.mechanisms(c, logs.exposure_covariates, logs.preference_covariates)
    c["readiness_log_scale"] = torch.zeros(1)
    prior = found.prior(c, logs)
    triangle = torch.randn(60, 6, 6).tril()  # five factors, and readiness
    expert = Expert(triangle @ triangle.mT, torch.randn(60, 6))
    a = torch.eye(6)
    a[:5, :5] -= (c["edges"] * model.graph.allowed).mT
    location, scale = pad(location, (0, 1)), pad(scale, (0, 1), value=READINESS)
    precision = a.mT @ torch.diag_embed(scale**-2) @ a + expert.precision
    right = (a.mT @ (location / scale**2).unsqueeze(-1)).squeeze(-1) + expert.information
    expected = torch.linalg.solve(precision, right.unsqueeze(-1)).squeeze(-1).detach().numpy()[:, :5]
    mean, sd = factor_posterior(prior, product_of_experts(prior, [expert]))
    assert mean == pytest.approx(expected, abs=2e-3)
    variance = torch.linalg.inv(precision).diagonal(dim1=-2, dim2=-1)[:, :5]
    assert sd == pytest.approx(variance.detach().sqrt().numpy(), abs=1e-3)


def test_a_normal_by_precision_is_the_normal():
    mean, square = torch.randn(4, 3), torch.randn(4, 3, 3)
    precision = square @ square.mT + torch.eye(3)
    ours = PrecisionNormal(mean, torch.linalg.cholesky(precision))
    theirs = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    value = torch.randn(4, 3)
    assert torch.allclose(ours.log_prob(value), theirs.log_prob(value), atol=1e-4)
    draws = ours.rsample(torch.Size([20_000]))
    assert torch.allclose(draws.mean(0), mean, atol=0.05)
    assert torch.allclose(torch.cov(draws[:, 0].T), theirs.covariance_matrix[0], atol=0.05)


def test_a_missing_surface_contributes_nothing(guide):
    _, found, logs = guide
    prior, _ = found.posterior(logs)
    search, recommendation = found.experts(logs, prior)
    totals = logs.by_category.totals()
    platform_s = totals["exposure"] + totals.get("suggested", 0)
    for expert, events in ((search, totals["search"]), (recommendation, platform_s)):
        lacking = events == 0
        assert lacking.any() or logs.suggested is not None  # of which some are of each user
        assert (expert.precision[lacking] == 0).all()
        assert (expert.information[lacking] == 0).all()
        assert (expert.precision[~lacking].diagonal(dim1=-2, dim2=-1).sum(-1) > 0).all()


@pytest.mark.parametrize("design", [DESIGN, LOOP], ids=["one period", "loop"])
def test_a_few_steps_from_the_encoders_answer_come_to_the_mode(design):
    """Of encoders that know nothing yet; where they know something, what is left is less still."""
    sim = simulate(design, 0)
    logs, found = logs_of(sim), TransformerGuide(model_of(sim))
    set_truth(found.model, found.coefficients, sim)
    prior, polished = found.posterior(logs)
    encoded = product_of_experts(prior, [found.encoded(logs)])
    expansion = found.expansion(logs.n_users)
    _, mode = expansion.posterior(logs)
    before, after = ((of.mean - mode.mean).norm(dim=-1).mean() for of in (encoded, polished))
    assert after < 0.1 * before
    assert user_bounds(found, logs).mean() > user_bounds(expansion, logs).mean() - 0.15


def test_a_user_without_events_has_the_prior_as_posterior(guide):
    _, found, logs = guide
    nothing = logs._replace(
        **{s: e * 0 for s, e in zip(logs._fields[4:8], logs[4:8], strict=True) if e is not None}
    )
    prior, noise = found.posterior(nothing)
    mean, sd = factor_posterior(prior, noise)
    assert mean == pytest.approx(prior.base[:, :-1].numpy(), abs=1e-5)
    assert sd == pytest.approx((prior.turn**2).sum(-1).sqrt()[:, :-1].numpy(), rel=1e-4)


def test_the_posterior_does_not_depend_on_who_else_is_in_the_batch(guide):
    """Another batch has another longest user, so another padding."""
    _, found, logs = guide
    alone = [factor_posterior(*found.posterior(logs.batch(torch.tensor([n])))) for n in range(10)]
    mean, sd = factor_posterior(*found.posterior(logs))
    for n, (mean_alone, sd_alone) in enumerate(alone):
        assert mean_alone[0] == pytest.approx(mean[n], abs=1e-4)
        assert sd_alone[0] == pytest.approx(sd[n], abs=1e-4)


def test_the_encoders_see_when_an_event_happened_and_what_was_suggested():
    sim = simulate(LOOP, 0)
    found, logs = TransformerGuide(model_of(sim)), logs_of(sim)
    set_truth(found.model, found.coefficients, sim)
    for encoder in (found.search_encoder, found.recommendation_encoder):
        torch.nn.init.normal_(encoder.head[-1].weight, std=0.3)
    prior, _ = found.posterior(logs)
    search, recommendation = found.experts(logs, prior)
    backwards = found.experts(
        logs._replace(search=logs.search.flip(1), exposure=logs.exposure.flip(1)), prior
    )
    unsuggested = found.experts(logs._replace(suggested=logs.suggested * 0), prior)
    assert not torch.allclose(backwards[0].information, search.information, atol=1e-2)
    assert not torch.allclose(backwards[1].information, recommendation.information, atol=1e-2)
    assert torch.equal(unsuggested[0].information, search.information)
    assert not torch.allclose(unsuggested[1].information, recommendation.information, atol=1e-2)


def test_users_are_encoded_batch_by_batch(guide, monkeypatch):
    sim, found, logs = guide
    exact = true_expansion(sim, scoring_steps=15)  # under which particles hardly matter
    monkeypatch.setattr(guide_module, "USERS_AT_ONCE", 7)
    monkeypatch.setattr(bound, "EVALUATED_AT_ONCE", 7)
    mean, _ = factor_posterior(*found.posterior(logs))
    bounds = user_bounds(exact, logs)
    monkeypatch.undo()
    whole, _ = factor_posterior(*found.posterior(logs))
    assert mean == pytest.approx(whole, abs=1e-4)
    assert bounds.numpy() == pytest.approx(user_bounds(exact, logs).numpy(), abs=0.5)


def test_the_encoder_is_the_transformer_over_the_events_themselves():
    """One token an event, repeated as often as it happened, in any order."""
    encoder, counts = EventEncoder(7, 3, n_context=2).eval(), torch.tensor([[3.0, 0, 1, 0, 2, 0, 0]])
    torch.nn.init.normal_(encoder.head[-1].weight)
    context = torch.randn(1, 2)
    events = torch.tensor([4, 0, 2, 0, 4, 0])
    hidden = encoder.transformer((encoder.embedding(events) + context @ encoder.context).unsqueeze(0))
    pooled = hidden.mean(1)
    out = encoder.head(torch.cat([pooled, torch.tensor([[6.0]]).log() / 3], -1))
    triangle = encoder._triangle(out[..., 3:]) * 6**0.5
    mean = out[..., :3] + encoder.skip(pooled)
    expert = encoder(counts, context)
    assert torch.allclose(expert.precision, triangle @ triangle.mT, atol=1e-3, rtol=1e-4)
    expected = (triangle @ triangle.mT @ mean.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(expert.information, expected, atol=1e-3, rtol=1e-4)


def test_every_parameter_of_the_guide_is_reached(guide):
    _, found, logs = guide
    prior = found.prior(found.coefficients.means(), logs)
    posterior = product_of_experts(prior, found.experts(logs, prior))
    (posterior.mean.square().sum() + posterior.precision_cholesky.square().sum()).backward()
    reached = {
        name.split(".")[0] for name, p in found.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert {"search_encoder", "recommendation_encoder", "coefficients"} <= reached
    encoders = [found.search_encoder, found.recommendation_encoder]
    without = [n for e in encoders for n, p in e.named_parameters() if p.grad is None]
    assert without == []


def test_what_importance_sampling_draws_from_is_wider_and_carries_no_gradient():
    sim = simulate(Design(users=20, categories=6), 0)
    guide, logs = true_expansion(sim, scoring_steps=15), logs_of(sim)
    coefficients = guide.coefficients.means()
    _, posterior = guide.posterior(logs)
    noise = guide.noise(coefficients, logs)
    assert torch.allclose(
        noise.precision_cholesky * TAILS, posterior.precision_cholesky, rtol=1e-3, atol=1e-4
    )
    assert torch.allclose(noise.mean, posterior.mean, atol=1e-3)
    assert TAILS > 1
    assert all(t.requires_grad for t in coefficients.values())
    assert not noise.mean.requires_grad
    assert not noise.precision_cholesky.requires_grad


@pytest.mark.parametrize("design", [DESIGN, LOOP], ids=["one period", "loop"])
def test_the_restarts_gradient_is_the_users_scores(monkeypatch, design):
    """Fisher's identity, and the priors: whatever the coefficients' spread."""
    sim = simulate(replace(design, users=30, missing_surface=0.0), 0)
    guide, logs = true_expansion(sim, scoring_steps=15), logs_of(sim)
    for log_sd in guide.coefficients.log_sd.values():
        log_sd.data.fill_(-12.0)
    monkeypatch.setattr(scoring, "PARTICLES", 8_192)
    torch.manual_seed(0)
    UserELBO(20_000, True).differentiable_loss(guide.model, guide, logs).backward()
    with torch.no_grad():
        values = fitted_values(guide)
        scores = user_scores(guide, values, logs, logs.exposure_covariates).mean(0)
    parts = dict(zip(values, scores.split([v.numel() for v in values.values()]), strict=True))
    for name, loc in guide.coefficients.loc.items():
        if name == "edges":  # of which some are forbidden
            continue
        prior, scale, _ = guide.model.priors[name]
        value = loc.detach().clone().requires_grad_()
        prior(0.0, scale).log_prob(value).sum().backward()
        expected = parts[name].view_as(loc) + value.grad / logs.n_users
        assert torch.allclose(-loc.grad, expected, atol=0.03), name


def test_a_decoder_s_log_prior_is_that_of_its_normals():
    decoder = model_of(simulate(Design(users=20, categories=6), 0)).f_search
    before = decoder.log_prior()
    normal = {n: torch.distributions.Normal(0.0, sd) for n, sd in DECODER_PRIOR.items()}
    density = [sum(p.log_prob(getattr(decoder, n)).sum() for n, p in normal.items())]
    with torch.no_grad():
        for name in (*DECODER_PRIOR, "inner", "shift"):
            getattr(decoder, name).mul_(1.3).add_(0.1)
    density.append(sum(p.log_prob(getattr(decoder, n)).sum() for n, p in normal.items()))
    assert torch.isclose(decoder.log_prior() - before, density[1] - density[0], rtol=1e-4)


@pytest.mark.parametrize("design", [DESIGN, LOOP], ids=["one period", "loop"])
def test_the_expansion_s_posterior_means_are_the_oracle_s_under_the_true_parameters(design):
    sim = simulate(replace(design, users=400), 1)
    found = true_expansion(sim, scoring_steps=15)
    mode, _ = factor_posterior(*found.posterior(logs_of(sim)))
    exact = oracle(sim, draws=1000)
    for k in range(5):
        assert np.corrcoef(mode[:, k], exact[:, k])[0, 1] > 0.997
        assert np.abs(mode[:, k] - exact[:, k]).mean() < 0.1
