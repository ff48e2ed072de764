"""Claims about mediation: closed forms, published figures, known truth, and what must not matter."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm
from torch.nn.functional import pad

from pyro_hmvcrl.guide.experts import Expert
from pyro_hmvcrl.inference.laplace import ParameterPosterior, fitted_values
from pyro_hmvcrl.queries import averages, findings
from pyro_hmvcrl.queries.averages import Users, average_effects, factors_by_channel
from pyro_hmvcrl.queries.findings import proportion_mediated, sentences, suppression
from pyro_hmvcrl.queries.interventions import InterventionError, hold, run
from pyro_hmvcrl.queries.mediation import OUTCOMES, Mediators, alignment, engagement, natural_effects
from pyro_hmvcrl.story.emissions import CategoryEvents, EngagementEvents, engagement_logits
from pyro_hmvcrl.story.programs import at, observe
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import simulate
from pyro_hmvcrl.synthetic.truth import true_effects

from worlds import EDGES, logs_of, tensor, true_expansion

pytestmark = pytest.mark.all_draws

SHIFT = {"exposure_1": 1.0}


def mean(effects, outcome, name):
    return effects.contrasts[outcome][name].mean().item()


# --- Observed mediators: closed forms and published figures --------------------------------------------------


def linear_gaussian(a, b, c, interaction=0.0):
    """``M = a T + e``, ``Y = c T + b M + h T M``."""

    def program(treatment):
        with pyro.plate("units", len(treatment)):
            t = pyro.deterministic("treatment", treatment, event_dim=0)
            noise = pyro.sample("noise", dist.Normal(0.0, 1.0).expand([len(treatment)]))
            mediator = pyro.deterministic("mediator", a * t + noise, event_dim=0)
            pyro.deterministic("outcome", c * t + b * mediator + interaction * t * mediator, event_dim=0)

    return program


def linear_effects(program, start, end, noise):
    treatment = torch.full((len(noise),), start)
    return natural_effects(
        hold(program, noise=noise),
        (treatment,),
        {"treatment": end},
        Mediators({"mediator": ["mediator"]}, levels={"mediator": 3.0}),
        {"outcome": lambda world: world["outcome"]},
    )


def test_linear_gaussian_with_interaction_has_its_closed_form():
    """NIE = a (b + h t') (t' - t), NDE = (c + h E[M(t)]) (t' - t), CDE(m) = (c + h m) (t' - t)."""
    a, b, c, h, start, end = 0.8, 0.5, -0.3, 0.4, 0.5, 2.0
    noise = torch.randn(4_000, dtype=torch.double)
    noise -= noise.mean()
    found = linear_effects(linear_gaussian(a, b, c, h), start, end, noise)
    assert mean(found, "outcome", "NIE") == pytest.approx(a * (b + h * end) * (end - start), rel=1e-5)
    assert mean(found, "outcome", "NDE") == pytest.approx((c + h * a * start) * (end - start), rel=1e-5)
    assert mean(found, "outcome", "CDE") == pytest.approx((c + h * 3.0) * (end - start), rel=1e-5)
    assert mean(found, "outcome", "NIE_mediator") == mean(found, "outcome", "NIE")


def test_a_suppressor_is_found_by_regression_and_named():
    """Truth NDE 0.5, NIE -0.56, TE -0.06; 20,000 units; coefficients with their sampling distribution."""
    rng, n = np.random.default_rng(0), 20_000
    t = rng.normal(size=n)
    mediator = 0.8 * t + rng.normal(size=n)
    y = 0.5 * t - 0.7 * mediator + rng.normal(size=n)
    draws = {"NDE": [], "NIE": [], "TE": []}
    (a, a_cov), (cb, cb_cov) = regress(mediator, t[:, None]), regress(y, np.column_stack([t, mediator]))
    noise = torch.randn(200, dtype=torch.double)
    for _ in range(200):
        (path,), (direct, slope) = rng.multivariate_normal(a, a_cov), rng.multivariate_normal(cb, cb_cov)
        found = linear_effects(linear_gaussian(path, slope, direct), 0.0, 1.0, noise)
        for name, values in draws.items():
            values.append(mean(found, "outcome", name))
    for name, truth in (("NDE", 0.5), ("NIE", -0.56), ("TE", -0.06)):
        interval = findings.interval(np.array(draws[name]), 0.98)
        assert interval["lower"] < truth < interval["upper"]
        assert interval["mean"] == pytest.approx(truth, abs=0.03)
    contrasts = {name: np.array(values) for name, values in draws.items()}
    assert suppression(contrasts) == 1
    assert proportion_mediated(contrasts) is None


def regress(y, x):
    """Least squares: coefficients (without the intercept) and their covariance."""
    design = np.column_stack([np.ones(len(y)), x])
    inverse = np.linalg.inv(design.T @ design)
    beta = inverse @ design.T @ y
    residual = y - design @ beta
    return beta[1:], (residual @ residual / (len(y) - design.shape[1]) * inverse)[1:, 1:]


def test_the_framing_experiment_gives_its_closed_form_and_the_published_figures():
    """A linear mediator, a probit outcome (Imai, Keele & Tingley 2010).

    Noise integrates out of a probit in closed form.  The published ACME 0.0759, ADE 0.0218 and TE 0.0977 are a Monte
    Carlo of 100 draws, about a hundredth from their limit.
    """
    sm = pytest.importorskip("statsmodels.api")
    file = resources.files("statsmodels.stats.tests.results") / "framing.csv"
    data = pd.read_csv(str(file))
    others = pd.get_dummies(data[["age", "educ", "gender", "income"]], drop_first=True, dtype=float)
    x = np.column_stack([np.ones(len(data)), others])
    t = data["treat"].to_numpy(float)
    of_mediator = sm.OLS(data["emo"], np.column_stack([x, t])).fit()
    probit = sm.families.Binomial(link=sm.families.links.Probit())
    of_outcome = sm.GLM(data["cong_mesg"], np.column_stack([x, t, data["emo"]]), family=probit).fit()
    g, h = (torch.tensor(np.array(fit.params)) for fit in (of_mediator, of_outcome))
    x, sd = torch.as_tensor(x), of_mediator.scale**0.5

    def program(treatment):
        noise = pyro.sample("noise", dist.Normal(0.0, 1.0).expand(treatment.shape))
        t = pyro.deterministic("treatment", treatment, event_dim=0)
        emotion = pyro.deterministic("emotion", x @ g[:-1] + g[-1] * t + sd * noise, event_dim=0)
        score = x @ h[:-2] + h[-2] * t + h[-1] * emotion
        pyro.deterministic("sends", torch.special.ndtr(score), event_dim=0)

    points = torch.as_tensor(norm.ppf((np.arange(400) + 0.5) / 400)).unsqueeze(-1)  # of the noise
    held = hold(program, noise=points.expand(-1, len(x)))
    mediators, outcomes = Mediators({"mediator": ["emotion"]}), {"sends": lambda world: world["sends"]}
    zero, one = torch.zeros(len(x), dtype=torch.double), torch.ones(len(x), dtype=torch.double)
    up = natural_effects(held, (zero,), {"treatment": one}, mediators, outcomes)
    down = natural_effects(held, (one,), {"treatment": zero}, mediators, outcomes)
    found = {
        name: 0.5 * (mean(up, "sends", name) - mean(down, "sends", name)) for name in ("NIE", "NDE", "TE")
    }

    def sends(direct, by_emotion):
        score = x @ h[:-2] + h[-2] * direct + h[-1] * (x @ g[:-1] + g[-1] * by_emotion)
        return torch.special.ndtr(score / (1 + (h[-1] * sd) ** 2) ** 0.5).mean().item()

    acme = 0.5 * (sends(1, 1) - sends(1, 0) + sends(0, 1) - sends(0, 0))
    ade = 0.5 * (sends(1, 1) - sends(0, 1) + sends(1, 0) - sends(0, 0))
    assert found == pytest.approx({"NIE": acme, "NDE": ade, "TE": sends(1, 1) - sends(0, 0)}, abs=1e-4)
    assert found == pytest.approx({"NIE": 0.0759, "NDE": 0.0218, "TE": 0.0977}, abs=0.01)


def test_a_path_is_the_product_of_its_edges():
    """policy -> first -> second -> outcome, beside other paths."""

    def program(treatment):
        first = pyro.deterministic("first", 0.5 * treatment, event_dim=0)
        second = pyro.deterministic("second", 2.0 * first + 0.3 * treatment, event_dim=0)
        pyro.deterministic("outcome", 7.0 * second + 11.0 * first + 13.0 * treatment, event_dim=0)

    def with_treatment(treatment):
        return program(pyro.deterministic("treatment", treatment, event_dim=0))

    mediators = Mediators(
        {"one": ["first"], "two": ["second"]},
        [("first", "second")],
        each=True,
        levels={"first": 0.0, "second": 0.0},
    )
    outcomes = {"outcome": lambda world: world["outcome"]}
    found = natural_effects(with_treatment, (torch.zeros(3),), {"treatment": 1.0}, mediators, outcomes)
    expected = {"first -> second": 7 * 2 * 0.5, "first": 11 * 0.5, "second": 7 * (2 * 0.5 + 0.3), "NDE": 13.0}
    expected |= {"CDE": 13.0, "NIE_one": 11 * 0.5, "NIE_two": 7 * 1.3, "NIE": 11 * 0.5 + 7 * 1.3}
    assert {name: mean(found, "outcome", name) for name in expected} == pytest.approx(expected)


# --- The model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    """A true world with edges both ways, a guide that has its parameters, and a posterior that is sure of them."""
    sim = simulate(Design(users=1_500, categories=8, edges=EDGES, direct=0.6), 1)
    guide = true_expansion(sim)
    mean = fitted_values(guide)
    nothing = {name: torch.zeros_like(value) for name, value in mean.items()}
    draws = {name: value.expand(4, *value.shape) for name, value in mean.items()}
    return sim, guide, ParameterPosterior(mean, nothing, draws, {}, {}), logs_of(sim)


def shifted(logs):
    return logs.exposure_covariates + torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0])


def test_at_the_true_parameters_effects_are_the_true_effects(world):
    """Two independent programs, by Monte Carlo each, agree on every estimand."""
    sim, guide, posterior, logs = world
    found = average_effects(guide, posterior, Users(logs), {"exposure_covariates": shifted(logs)})
    truth = true_effects(sim, SHIFT)
    for outcome, expected in truth["outcomes"].items():
        for name, value in expected.items():
            assert found.contrasts[outcome][name].mean() == pytest.approx(value, abs=1.5e-3), (outcome, name)
    for factor, value in truth["displacement"].items():
        assert found.displacement[factor].mean() == pytest.approx(value, abs=0.01), factor


def test_counterfactual_effects_of_users_whose_noise_is_known_are_theirs(world):
    sim, guide, posterior, logs = world
    sure, own = 1e8 * torch.eye(6).expand(1_500, 6, 6), pad(tensor(sim.factors), (0, 1))  # of readiness: none
    users = Users(logs, Expert(sure, (sure @ own.unsqueeze(-1)).squeeze(-1)))
    question = {"exposure_covariates": shifted(logs)}
    found = average_effects(guide, posterior, users, question, counterfactual=True)
    truth = true_effects(sim, SHIFT, counterfactual=True)["outcomes"]
    for outcome, expected in truth.items():
        contrasts = {name: draws.mean() for name, draws in found.contrasts[outcome].items()}
        assert contrasts == pytest.approx(expected, abs=2e-4)


def test_the_parts_add_up(world):
    _, guide, posterior, logs = world
    found = average_effects(guide, posterior, Users(logs), {"exposure_covariates": shifted(logs)})
    for c in found.contrasts.values():
        assert c["TE"] == pytest.approx(c["NDE"] + c["NIE"], abs=1e-6)
        assert c["NIE"] == pytest.approx(c["NIE_platform"] + c["NIE_preference"], abs=1e-6)


def test_a_forced_factor_no_longer_mediates(world):
    """platform_1 -> preference_1: the factor itself is the treatment, its child the only mediator."""
    _, guide, posterior, logs = world
    found = average_effects(guide, posterior, Users(logs), {"platform_1": lambda now: now + 1})
    assert found.displacement["platform_1"].mean() > 0.5
    assert abs(found.displacement["platform_2"]).max() == 0
    c = found.contrasts["engagement"]
    assert abs(c["NIE_platform"]).max() == 0
    assert abs(c["NDE"]).min() > 1e-3
    assert abs(c["NIE_preference"]).min() > 1e-5


@pytest.mark.parametrize("channel", ["platform", "preference"])
def test_a_forced_channel_leaves_the_other_to_mediate(world, channel):
    _, guide, posterior, logs = world
    found = average_effects(guide, posterior, Users(logs), {channel: lambda now: now + 1})
    other = {"platform": "preference", "preference": "platform"}[channel]
    for c in found.contrasts.values():
        assert abs(c[f"NIE_{channel}"]).max() == 0
        assert abs(c[f"NIE_{other}"]).min() > 1e-4
        assert c[f"NIE_{other}"] == pytest.approx(c["TE"] - c["NDE"], abs=1e-7)


def test_a_forced_exposure_is_what_is_shown(world):
    """Everything of the first category: engagement is that category's rate, alignment that of searches for it."""
    _, guide, posterior, logs = world
    only_first = torch.zeros_like(logs.exposure)
    only_first[:, 0] = 7.0
    held = hold(at(guide.model, posterior.mean), noise=torch.zeros(len(logs.index), guide.model.n_factors))
    found = run(held, (logs,), {"exposure": only_first})
    for outcome, site in ((engagement, "engagement"), (alignment, "search")):
        assert torch.allclose(outcome(found), found.distribution(site).probability[..., 0])
    with pytest.raises(InterventionError, match="exposure is forced"):
        found.distribution("exposure")


def test_memory_is_bounded_and_batches_change_nothing_but_chance(world, monkeypatch):
    _, guide, posterior, logs = world
    seen = []

    def outcome(world):
        seen.append(engagement(world).shape)
        return engagement(world)

    question = {"exposure_covariates": shifted(logs), "preference_3": torch.zeros(1_500)}
    whole = average_effects(guide, posterior, Users(logs), question)
    monkeypatch.setattr(averages, "USERS_AT_ONCE", 200)
    outcomes = {"engagement": outcome}
    parts = average_effects(guide, posterior, Users(logs), question, outcomes=outcomes)
    assert max(shape.numel() for shape in seen) <= 400
    te = "engagement", "TE"
    found, expected = (e.contrasts[te[0]][te[1]].mean() for e in (parts, whole))
    assert found == pytest.approx(expected, abs=2e-3)


def test_an_outcome_that_does_not_hang_on_the_noise_counts_every_user_once(world):
    """By how much the policy changes the first covariate, beside an outcome that does hang on the noise."""
    _, guide, posterior, logs = world
    outcomes = OUTCOMES | {"cadence": lambda world: world["exposure_covariates"][..., 0]}
    question = (guide, posterior, Users(logs), {"exposure_covariates": shifted(logs)})
    found = average_effects(*question, outcomes=outcomes)
    assert found.contrasts["cadence"]["TE"] == pytest.approx(np.ones(4), abs=1e-5)
    assert found.contrasts["cadence"]["NIE"] == pytest.approx(np.zeros(4), abs=1e-5)


@pytest.mark.parametrize("counterfactual", [False, True])
def test_each_draw_of_the_parameters_has_its_own_effects(world, counterfactual):
    """Those that the same chance has when the parameters are moved there: the delta method is near."""
    sim, guide, posterior, logs = world
    torch.manual_seed(0)
    draws = {name: value + 0.015 * torch.randn_like(value) for name, value in posterior.draws.items()}
    sure, own = 30 * torch.eye(6).expand(1_500, 6, 6), pad(tensor(sim.factors), (0, 1))
    users = Users(logs, Expert(sure, (sure @ own.unsqueeze(-1)).squeeze(-1)))
    shift = {"exposure_covariates": shifted(logs)}

    def effects(values, draws):
        of = replace(posterior, mean=values, draws=draws)
        return average_effects(guide, of, users, shift, counterfactual=counterfactual)

    def figures(found):
        of_levels = found.contrasts["engagement"]["NDE"], found.levels["alignment"]["after"]
        return np.stack([*of_levels, found.contrasts["engagement"]["TE"], found.displacement["platform_1"]])

    together = figures(effects(posterior.mean, draws))
    for i in range(4):
        there = {name: value[i] for name, value in draws.items()}
        alone = figures(effects(there, {name: value[i : i + 1] for name, value in draws.items()}))[:, 0]
        assert together[:, i] == pytest.approx(alone, abs=6e-4)
    assert (np.ptp(together, axis=1) > 1.2e-3).all()


def test_the_same_seed_gives_the_same_draws_and_leaves_the_global_state(world):
    _, guide, posterior, logs = world
    question = (guide, posterior, Users(logs), {"exposure_covariates": shifted(logs)})
    state = torch.get_rng_state()
    one, two, other = (average_effects(*question, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(state, torch.get_rng_state())
    te = [e.contrasts["engagement"]["TE"] for e in (one, two, other)]
    assert (te[0] == te[1]).all()
    assert (te[0] != te[2]).any()


def test_counterfactual_effects_without_the_users_logs_are_refused(world):
    _, guide, posterior, logs = world
    with pytest.raises(ValueError, match="need the experts of the users' own logs"):
        average_effects(guide, posterior, Users(logs), {"platform_1": 0.0}, counterfactual=True)


# --- What must not matter ------------------------------------------------------------------------------------


def in_other_coordinates(model, values, order, scale, origin):
    """The same story told in factors that are reordered inside their channels, flipped, stretched and moved."""
    p = model.n_platform
    names = {old: new for new, old in enumerate(order)}  # place of each old factor among the new

    def story(logs):
        with pyro.plate("users", logs.n_users, subsample=logs.index):
            c_p = pyro.deterministic("exposure_covariates", logs.exposure_covariates, event_dim=1)
            noise = pyro.sample("noise", dist.Normal(torch.zeros(len(order)), 1.0).to_event(1))
            location, spread = model.mechanisms(values, c_p, logs.preference_covariates)
            drive, z = location + spread * noise, {}
            for k in model.graph.order.tolist():
                total = drive[..., k]
                for j in model.graph.allowed[:, k].nonzero().flatten().tolist():
                    total = total + values["edges"][j, k] * z[j]
                new = pyro.deterministic(
                    model.graph.names[names[k]], scale[k] * total + origin[k], event_dim=0
                )
                z[k] = (new - origin[k]) / scale[k]
            platform, preference = (
                torch.stack([z[k] for k in ks], -1) for ks in (range(p), range(p, len(order)))
            )
            pyro.sample("search", CategoryEvents(model.f_search(preference), logs.search.sum(-1)))
            exposure = pyro.sample(
                "exposure", CategoryEvents(model.f_exposure(platform), logs.exposure.sum(-1))
            )
            direct = (c_p @ values["delta"]).unsqueeze(-1)
            log_odds = engagement_logits(values, platform, preference, direct)
            pyro.sample("engagement", EngagementEvents(log_odds, exposure))

    return story


def test_effects_do_not_hinge_on_sign_order_unit_or_origin_of_the_factors(world):
    sim, guide, posterior, logs = world
    noise, model = tensor(sim.noise), guide.model
    scale, origin = torch.tensor([-2.0, 0.5, 3.0, -1.0, -0.2]), torch.tensor([1.0, -4.0, 0.3, 2.0, 0.0])
    order = [1, 0, 4, 2, 3]
    programs = at(model, posterior.mean), in_other_coordinates(model, posterior.mean, order, scale, origin)
    new_name = {model.graph.names[old]: model.graph.names[new] for new, old in enumerate(order)}
    found = []
    with torch.no_grad():
        for program, name in zip(programs, (lambda n: n, new_name.__getitem__), strict=True):
            channels = {c: [name(n) for n in names] for c, names in factors_by_channel(model).items()}
            mediators = Mediators(channels, [(name("platform_1"), name("preference_1"))], each=True)
            held = hold(observe(program, logs), noise=noise)
            question = {"exposure_covariates": shifted(logs)}
            found.append((natural_effects(held, (logs,), question, mediators, OUTCOMES), name))
    (one, same), (two, renamed) = found
    for outcome in OUTCOMES:
        for estimand in ("TE", "NDE", "NIE", "NIE_platform", "NIE_preference"):
            assert mean(one, outcome, estimand) == pytest.approx(mean(two, outcome, estimand), abs=1e-6)
        for factor in model.graph.names:
            assert mean(one, outcome, same(factor)) == pytest.approx(
                mean(two, outcome, renamed(factor)), abs=1e-6
            )
        path = [" -> ".join(map(name, ("platform_1", "preference_1"))) for name in (same, renamed)]
        assert mean(one, outcome, path[0]) == pytest.approx(mean(two, outcome, path[1]), abs=1e-6)
    assert abs(mean(one, "engagement", "TE")) > 1e-3


# --- In words ------------------------------------------------------------------------------------------------


def test_suppression_and_substitution_are_said_only_where_they_are_sure():
    rng = np.random.default_rng(0)
    up, down, unsure = rng.normal(1, 0.1, 500), rng.normal(-1, 0.1, 500), rng.normal(0, 1, 500)

    def contrasts(nde, nie, aligned):
        of_engagement = {"NDE": nde, "NIE": nie, "TE": nde + nie}
        return {"engagement": of_engagement, "alignment": {"TE": aligned}}

    said = sentences(contrasts(2 * up, down, down))
    assert said[0].startswith("Suppression (probability 1.00): directly the policy raises engagement")
    assert "Engagement alone would call this policy a success" in said[1]
    said = sentences(contrasts(up, up, up))
    none = "No substitution found (probability 0.00), nor its reverse (0.00)."
    assert said == ["No suppression found (probability 0.00).", none]
    said = sentences(contrasts(up, 0.01 * unsure, unsure))
    assert all(sentence.startswith("No s") for sentence in said)
    assert proportion_mediated({"NDE": up, "NIE": up, "TE": 2 * up}).mean() == pytest.approx(0.5, abs=0.01)
    assert proportion_mediated({"NDE": 0 * up, "NIE": 0 * up, "TE": 0 * up}) is None
