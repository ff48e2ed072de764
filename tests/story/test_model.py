"""Claims about the generative story, and about pyro.do and pyro.condition on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Categorical
from pyro.infer import Predictive

from pyro_hmvcrl.guide.guide import CoefficientPosterior
from pyro_hmvcrl.queries.interventions import hold, run
from pyro_hmvcrl.story.emissions import CategoryDecoder, CategoryEvents, EngagementEvents
from pyro_hmvcrl.story.programs import at, observe
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.oracle import log_likelihood
from pyro_hmvcrl.synthetic.simulation import simulate

from worlds import EDGES, TWO_AND_TWO, logs_of, model_of, set_truth, tensor, true_coefficients, true_expansion


@pytest.fixture
def world():
    """A true world, its logs, and a model that has its parameters."""
    sim = simulate(Design(users=50, categories=6, edges=EDGES), 0)
    model = model_of(sim)
    set_truth(model, CoefficientPosterior(model), sim)
    return sim, logs_of(sim), pyro.condition(model, data=true_coefficients(sim))


def sites(model, logs, seed=0):
    pyro.set_rng_seed(seed)
    trace = poutine.trace(model).get_trace(logs)
    return {name: site["value"] for name, site in trace.nodes.items() if site["type"] == "sample"}


FACTORS = ["platform_1", "platform_2", "preference_1", "preference_2", "preference_3"]


def test_the_model_is_the_simulator_s_story(world):
    """Two independent programs agree on the factors and on the likelihood of the logs."""
    sim, logs, model = world
    held = pyro.condition(observe(model, logs), data={"noise": tensor(sim.noise)})
    trace = poutine.trace(held).get_trace(logs)
    found = torch.stack([trace.nodes[name]["value"] for name in FACTORS], -1)
    assert found.numpy() == pytest.approx(sim.factors, abs=1e-4)
    surfaces = [
        trace.nodes[n]["fn"].log_prob(trace.nodes[n]["value"]) for n in ("search", "exposure", "engagement")
    ]
    expected = log_likelihood(sim, np.arange(50), sim.factors)
    assert sum(surfaces).detach().numpy() == pytest.approx(expected, rel=1e-4)


def test_draws_side_by_side_are_the_draws_one_by_one():
    """Every site and every emission, of coefficients as `pyro.infer.Predictive` has them in parallel."""
    sim = simulate(Design(users=40, categories=6, edges=EDGES), 0)
    guide, logs = true_expansion(sim), logs_of(sim)
    model = guide.model
    torch.manual_seed(0)
    values = guide.coefficients.means()
    draws = {name: value + 0.3 * torch.randn(3, 1, *value.shape) for name, value in values.items()}
    noise = torch.randn(3, 40, model.n_factors)

    def world(values, noise):
        return run(hold(observe(at(model, values), logs), noise=noise), (logs,))

    together = world(draws, noise)
    for i in range(3):
        alone = world({name: value[i, 0] for name, value in draws.items()}, noise[i])
        for factor in FACTORS:
            assert torch.allclose(together[factor][i], alone[factor], atol=1e-5)
        for site in ("search", "exposure", "engagement"):
            found, expected = (of.distribution(site).probability for of in (together, alone))
            assert torch.allclose(found[i], expected, atol=1e-5)


def test_counts_have_the_likelihood_of_the_events_one_by_one():
    logits, events = torch.randn(4), torch.tensor([0, 2, 2, 3, 0])
    counts = torch.bincount(events, minlength=4).float()
    one_by_one = Categorical(logits=logits).log_prob(events).sum()
    assert CategoryEvents(logits, counts.sum()).log_prob(counts) == pytest.approx(one_by_one.item(), rel=1e-5)
    engaged = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    one_by_one = Bernoulli(logits=logits[events]).log_prob(engaged).sum()
    hits = torch.zeros(4).index_add(0, events, engaged)
    assert EngagementEvents(logits, counts).log_prob(hits) == pytest.approx(one_by_one.item(), rel=1e-5)


def test_sampled_counts_keep_totals_and_frequencies():
    n_events, logits = torch.tensor([3.0, 0.0, 50.0]), torch.tensor([0.0, 1.0, -1.0]).expand(3, 3)
    counts = CategoryEvents(logits, n_events).sample(torch.Size([400]))
    assert (counts.sum(-1) == n_events).all()
    share = counts[:, 2].mean(0) / 50
    assert share.numpy() == pytest.approx(logits[0].softmax(-1).numpy(), abs=4 * 0.5 / (400 * 50) ** 0.5)
    engaged = EngagementEvents(logits, counts).sample()
    assert (engaged <= counts).all()
    assert (engaged[:, 2].sum(0) / counts[:, 2].sum(0)).numpy() == pytest.approx(
        logits[0].sigmoid().numpy(), abs=0.03
    )


def test_the_decoder_s_jacobian_is_its_derivative():
    decoder, z = CategoryDecoder(3, 5), torch.randn(3)
    torch.nn.init.normal_(decoder.outer)
    exact = torch.autograd.functional.jacobian(decoder, z)
    assert torch.allclose(decoder.jacobian(z), exact.T, atol=1e-5)


@pytest.mark.parametrize(
    ("target", "moved", "still"),
    [
        (
            "platform_1",
            {"preference_1", "exposure", "search"},
            {"platform_2", "preference_2", "preference_3"},
        ),
        (
            "preference_2",
            {"platform_2", "search", "exposure"},
            {"platform_1", "preference_1", "preference_3"},
        ),
        (
            "preference_3",
            {"search"},
            {"platform_1", "platform_2", "preference_1", "preference_2", "exposure"},
        ),
    ],
)
def test_do_on_a_factor_leaves_its_non_descendants_untouched_bit_for_bit(world, target, moved, still):
    _, logs, model = world
    before = sites(model, logs)
    after = sites(pyro.do(model, data={target: torch.tensor(2.0)}), logs)
    for name in still | {"noise", "exposure_covariates", "preference_covariates"}:
        assert torch.equal(before[name], after[name]), name
    for name in moved:
        assert not torch.equal(before[name], after[name]), name


def test_do_on_exposure_covariates_is_a_policy_shift_of_the_same_users(world):
    sim, logs, model = world
    shift = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])
    held = pyro.condition(model, data={"noise": tensor(sim.noise)})
    before = sites(held, logs)
    after = sites(pyro.do(held, data={"exposure_covariates": logs.exposure_covariates + shift}), logs)
    expected = simulate(sim.world.design, 0, shift={"exposure_1": 1.0}).factors
    found = torch.stack([after[name] for name in FACTORS], -1)
    assert found.numpy() == pytest.approx(expected, abs=1e-4)
    assert torch.equal(before["preference_3"], after["preference_3"])
    assert not torch.equal(before["preference_1"], after["preference_1"])


def test_do_on_preference_covariates_and_on_noise_reach_the_factors(world):
    _, logs, model = world
    before = sites(model, logs)
    for name, value in (
        ("preference_covariates", logs.preference_covariates + 1),
        ("noise", torch.zeros(50, 5)),
    ):
        after = sites(pyro.do(model, data={name: value}), logs)
        assert not torch.equal(before["preference_3"], after["preference_3"])
        assert torch.equal(before["platform_1"], after["platform_1"]) == (name == "preference_covariates")


def test_a_batch_is_a_part_of_the_users(world):
    sim, logs, model = world
    rows = torch.tensor([7, 3, 30])
    noise = tensor(sim.noise)[rows]
    found = sites(pyro.condition(model, data={"noise": noise}), logs.batch(rows))
    assert found["platform_2"].numpy() == pytest.approx(sim.factors[rows.numpy(), 1], abs=1e-4)


def test_coefficients_can_be_drawn_in_parallel(world):
    sim, logs, _ = world
    drawn = Predictive(model_of(sim), num_samples=3, parallel=True)(logs)
    assert drawn["platform_1"].shape == (3, 50)
    assert drawn["engagement"].shape == (3, 50, 6)
    assert (drawn["exposure"].sum(-1) == logs.exposure.sum(-1)).all()


def test_the_story_can_be_drawn(world):
    pytest.importorskip("graphviz")
    sim, logs, _ = world
    source = pyro.render_model(model_of(sim), model_args=(logs,)).source
    for arrow in ("noise -> search", "noise -> exposure", "edges -> engagement", "exposure -> engagement"):
        assert arrow in source


def test_exposure_does_not_see_the_preference_emission_nor_search_the_platform_s(world):
    sim, logs, _ = world
    model = model_of(sim)
    trace = poutine.trace(observe(model, logs)).get_trace(logs)
    search, exposure = (
        trace.nodes[n]["fn"].log_prob(trace.nodes[n]["value"]).sum() for n in ("search", "exposure")
    )
    of_search = torch.autograd.grad(search, list(model.parameters()), retain_graph=True, allow_unused=True)
    used = {n for (n, _), g in zip(model.named_parameters(), of_search, strict=True) if g is not None}
    assert {n.split(".")[0] for n in used} == {"f_search"}
    of_exposure = torch.autograd.grad(exposure, list(model.parameters()), allow_unused=True)
    used = {n for (n, _), g in zip(model.named_parameters(), of_exposure, strict=True) if g is not None}
    assert {n.split(".")[0] for n in used} == {"f_exposure"}


@pytest.mark.parametrize(
    ("p", "shown"), [(0.9, 46), (0.85, 60), (0.95, 36), (0.8, 64), (0.999999, 60), (0.3, 40)]
)
def test_engagement_is_as_uncertain_where_it_is_frequent(p, shown):
    logits = torch.tensor(p, dtype=torch.double).logit().float()
    torch.manual_seed(0)
    engaged = EngagementEvents(logits.expand(20_000, 1), torch.full((20_000, 1), float(shown))).sample()
    mean, sd = shown * p, (shown * p * (1 - p)) ** 0.5
    assert engaged.mean().item() == pytest.approx(mean, abs=5 * sd / 20_000**0.5 + 1e-3)
    assert engaged.std().item() == pytest.approx(sd, rel=0.05, abs=0.01)
    assert engaged.max() <= shown


def test_like_logits_give_like_draws_of_engagement_wherever_they_are():
    shown = torch.full((2_000, 1), 46.0)
    drawn = []
    for p in (0.777, 0.778):  # of which only one is counted from above
        torch.manual_seed(0)
        drawn.append(EngagementEvents(torch.tensor(p).logit().expand(2_000, 1), shown).sample())
    assert (drawn[0] - drawn[1]).abs().mean() < 0.1


def test_a_cell_of_many_showings_leaves_the_others_chance_as_it_is():
    shown, p = torch.full((200, 24), 3.0), torch.linspace(-1, 1, 24).expand(200, 24)
    heavy = shown.clone()
    heavy[0, 0] = 3_000
    drawn = []
    for total in (shown, heavy):
        torch.manual_seed(0)
        drawn.append((EngagementEvents(p, total).sample(), torch.rand(3)))
    (few, after_few), (many, after_many) = drawn
    assert torch.equal(few.flatten()[1:], many.flatten()[1:])
    assert torch.equal(after_few, after_many)
    rate = torch.sigmoid(p[0, 0]).item()
    assert many[0, 0].item() == pytest.approx(3_000 * rate, abs=5 * (3_000 * rate * (1 - rate)) ** 0.5)


def test_suggested_searches_can_be_drawn_in_parallel():
    sim = simulate(replace(TWO_AND_TWO, users=30, suggestion=0.4), 0)
    logs = logs_of(sim)
    drawn = Predictive(model_of(sim), num_samples=3, parallel=True)(logs)
    assert (drawn["suggested"].sum(-1) == logs.suggested.sum(-1)).all()


def test_logs_of_one_period_have_no_axis_of_periods():
    sim = simulate(replace(TWO_AND_TWO, users=30, periods=1, learning=0.5), 0)
    logs = logs_of(sim)
    assert logs.search.dim() == 2
    assert logs.n_periods == 1
