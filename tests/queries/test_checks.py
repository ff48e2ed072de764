"""Claims about the checks: each passes where it should, and fails where something is wrong."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chi2, ncx2, norm

from pyro_hmvcrl.inference.laplace import laplace_posterior
from pyro_hmvcrl.queries import checks
from pyro_hmvcrl.queries.averages import Users, average_effects
from pyro_hmvcrl.queries.checks import (
    _all_zero,
    _without_confounding,
    e_value,
    e_values,
    negative_controls,
    noise_checks,
    rho_curve,
)
from pyro_hmvcrl.queries.findings import interval
from pyro_hmvcrl.queries.overlap import new_users, overlap
from pyro_hmvcrl.synthetic.simulation import simulate
from pyro_hmvcrl.synthetic.world import sigmoid, softmax

from worlds import TWO_AND_TWO, everyone, logs_of, true_coefficients, true_expansion

pytestmark = pytest.mark.all_draws

DESIGN = replace(TWO_AND_TWO, users=600, categories=6, direct=0.5)


def of_logs(guide, sim):
    """The users, with what their logs say of them."""
    logs = logs_of(sim)
    return Users.with_covariates(logs.exposure_covariates, logs.preference_covariates, guide.evidence(logs))


@pytest.fixture(scope="module")
def world():
    """A true world: a guide at its parameters, the posterior there, its users, and a shift of exposure_1."""
    sim = simulate(DESIGN, 0)
    guide = true_expansion(sim, scoring_steps=15)
    logs = logs_of(sim)
    shifted = logs.exposure_covariates + torch.tensor([1.0, 0.0, 0.0])
    return (
        sim,
        guide,
        laplace_posterior(guide, everyone(logs), seed=0, draws=100),
        of_logs(guide, sim),
        shifted,
    )


# --- Overlap -------------------------------------------------------------------------------------------------

N = 20_000


@pytest.fixture
def observed():
    rng = np.random.default_rng(0)
    x, y = rng.multivariate_normal([0, 0], [[1, 0.95], [0.95, 1]], size=N).T
    return pd.DataFrame(
        {
            "alone": rng.normal(5, 2, N),
            "x": x,
            "y": y,
            "new": rng.integers(0, 2, N),
            "taste": rng.normal(size=N),
        }
    )


def share(p):
    """A probability, within four standard errors of a share and of the quantile that stands for the tail."""
    return pytest.approx(p, abs=4 * (p * (1 - p) / N) ** 0.5 + 0.01)


def test_without_a_shift_nobody_is_outside(observed):
    found = overlap(observed, observed[["alone", "x", "y", "new"]])
    assert (found.outside, found.beyond_range, found.no_level, found.unlike_others) == (0, 0, 0, 0)
    assert found.supported
    assert found.verdict.startswith("supported")


@pytest.mark.parametrize(
    ("by", "verdict", "supported"),
    [(1, "supported", True), (2, "in part", True), (3, "not supported", False), (-3, "not supported", False)],
)
def test_a_gaussian_s_shift_goes_outside_as_far_as_its_tail_says(observed, by, verdict, supported):
    found = overlap(observed, observed[["alone"]] + 2 * by)
    tail = norm.ppf(0.995)
    expected = norm.sf(tail - abs(by)) + norm.cdf(-tail - abs(by))  # 0.058 for one standard deviation
    assert found.unlike_others == share(expected)
    assert found.outside == share(expected)
    assert found.beyond_range <= found.unlike_others
    assert found.no_level == 0
    assert found.verdict.startswith(verdict)
    assert found.supported == supported
    assert found.to_dict() == {
        "outside": found.outside,
        "beyond_range": found.beyond_range,
        "no_level": found.no_level,
        "unlike_others": found.unlike_others,
        "leaving": found.leaving,
        "ruled": {},
        "verdict": found.verdict,
    }


def test_whoever_is_beyond_the_range_is_counted(observed):
    found = overlap(observed, observed[["alone"]].assign(alone=observed["alone"].max() + 1e-6))
    assert found.beyond_range == found.outside == 1
    low = observed[["alone"]].where(np.arange(N)[:, None] >= 500, observed["alone"].min() - 1e-6)
    assert overlap(observed, low).beyond_range == 500 / N


def test_users_who_leave_the_range_are_counted_by_column(observed):
    shares = observed.assign(share=np.random.default_rng(1).random(N), other=observed["alone"])
    found = overlap(shares, shares[["share", "other"]] + np.array([-0.2, 0.0]))
    low = (shares["share"] - 0.2 < shares["share"].min()).mean()
    assert found.leaving == {
        "share": {"share": low, "low": shares["share"].min(), "high": shares["share"].max()}
    }
    assert f"; share: {low:.1%} of the users leave its observed range, " in found.verdict
    assert found.verdict.partition(":")[0] == "in part"
    assert overlap(shares, shares[["share"]]).leaving == {}


def test_few_users_are_not_said_to_be_none():
    users = pd.DataFrame({"a": np.random.default_rng(0).permutation(np.arange(3_000.0))})
    said = overlap(users, users + 1).verdict
    assert "supported: for 9" in said
    assert "of the users the shifted policy lies within what the data have seen; a: under 0.1% of" in said


def test_an_answer_that_hangs_on_one_user_is_said(observed):
    few = observed[:300].reset_index(drop=True)
    few.loc[17, "alone"] = 1e9
    found = overlap(few, few[["alone"]] + 1)
    assert found.verdict.startswith("in part: the answer hangs on the few users who make nearly all of")
    assert found.ruled["alone"] > 0.99
    assert found.supported
    assert overlap(few, few[["x"]] + 0.01).verdict.startswith("supported")  # another column than that


def test_new_users_beside_those_of_the_fit(observed):
    same = new_users(observed, observed)
    assert not same.outside.any()
    assert same.sentences == []
    new = observed[:6].copy()
    new.loc[1, "alone"] = -999
    new.loc[2, ["x", "y"]] = [2.5, -2.5]  # each within its range
    new.loc[3] = new.loc[3] * 3 + 10
    found = new_users(observed, new)
    assert found.outside.tolist() == [False, True, True, True, False, False]
    assert found.columns["alone"] >= 1
    assert (
        "3 of 6 users (50.0%) are unlike all whom the run was fitted on (beyond the range of"
        in found.sentences[0]
    )
    odd = new_users(observed, new.iloc[2:3])
    assert "in the combination of their covariates" in odd.sentences[0]


def test_new_users_along_what_never_varied_are_outside():
    """a + b + c = 1 of every fitted user."""
    fitted = pd.DataFrame(np.eye(3)[np.arange(300) % 3], columns=list("abc"))
    new = pd.DataFrame([[1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 0]], columns=list("abc"))
    assert new_users(fitted, new).outside.tolist() == [False, True, True, True]
    assert new_users(fitted[[]], new[[]]).outside.tolist() == [False] * 4


def test_a_value_that_nobody_has_is_found(observed):
    new = observed[["new"]]
    half = overlap(observed, new * 0 + 0.5)  # inside the range, and in the middle of the others
    found = half.no_level, half.outside, half.beyond_range, half.unlike_others
    assert found == (1, 1, 0, 1)  # that the square of a 0/1 column is the column is a rule, too
    assert not half.supported
    more = overlap(observed, new + 1)
    assert more.no_level == more.beyond_range == new["new"].mean()  # 0 -> 1 is a level
    assert more.outside == pytest.approx(more.no_level, abs=0.02)
    everyone = overlap(observed, new * 0 + 1)
    assert everyone.no_level == everyone.beyond_range == 0
    assert everyone.supported
    assert overlap(observed, observed[["alone"]] + 0.01).no_level == 0  # a continuous column has no levels


def test_what_no_other_covariate_allows_is_found(observed):
    """Each column by itself stays where the data are."""
    shifted = observed[["x"]] + 1
    by_itself = overlap(observed.drop(columns="y"), shifted)
    given_y = overlap(observed, shifted)
    assert by_itself.outside == share(0.058)
    assert given_y.beyond_range < 0.01
    apart = 1 / (1 - 0.95**2) ** 0.5
    assert given_y.unlike_others == share(norm.sf(norm.ppf(0.995) - apart))
    assert not given_y.supported
    for signs, distance in (
        ((1, 1), 2 / 1.95),
        ((1, -1), 2 / 0.05),
    ):  # along their correlation, and against it
        both = overlap(observed, observed[["x", "y"]] + np.array(signs))
        assert both.unlike_others == share(ncx2(2, distance).sf(chi2(2).ppf(0.99)))


def test_a_column_that_does_not_move_is_one_of_the_others(observed):
    both = overlap(observed, observed[["x", "y"]].assign(x=observed["x"] + 1))
    assert both == overlap(observed, observed[["x"]] + 1)


@pytest.fixture(scope="module")
def bound():
    """Users whose covariates are bound to one another: three of which one holds, a copy, shares, and two at most."""
    rng = np.random.default_rng(1)
    one, copy, share = rng.integers(0, 3, N), rng.normal(5, 2, N), rng.dirichlet([3, 3, 3], N)
    at_most = rng.integers(0, 4, N)
    return pd.DataFrame(
        {"a": one == 0, "b": one == 1, "c": one == 2}
        | {"copy": copy, "original": copy, "double": 2 * copy + 7, "free": rng.normal(size=N)}
        | {f"share_{k}": share[:, k] for k in range(3)}
        | {"red": at_most == 0, "blue": at_most == 1, "green": at_most == 2}
    ).astype(float)


ONE = ({"a": 1, "b": 1, "c": 1}, 1)
PAIR, DOUBLE = ({"copy": 1, "original": -1}, 0), ({"double": 1, "copy": -2}, 7)
SHARES = ({"share_0": 1, "share_1": 1, "share_2": 1}, 1)


@pytest.mark.parametrize(
    ("rule", "to"),
    [
        (ONE, {"a": lambda x: 1, "b": lambda x: 1, "c": lambda x: 1}),
        (ONE, {"a": lambda x: 0, "b": lambda x: 0, "c": lambda x: 0}),
        (ONE, {"a": lambda x: 1, "b": lambda x: 1}),
        (ONE, {"a": lambda x: 0}),  # of those alone who had a
        (PAIR, {"copy": lambda x: x + 1, "original": lambda x: x - 1}),
        (PAIR, {"copy": lambda x: x + 1e-6}),
        (DOUBLE, {"double": lambda x: x + 1, "copy": lambda x: x + 1}),
        (SHARES, {"share_0": lambda x: x + 0.01}),
        (SHARES, {f"share_{k}": lambda x: 1.1 * x for k in range(3)}),
    ],
)
def test_whoever_leaves_a_rule_that_all_keep_is_outside_and_its_columns_are_named(bound, rule, to):
    weights, total = rule
    users = bound[[*weights, "free"]]
    shifted = users.assign(**{name: change(users[name]) for name, change in to.items()})
    leaves = ~np.isclose(sum(w * shifted[name] for name, w in weights.items()), total, rtol=0, atol=1e-9)
    found = overlap(users, shifted[list(to)])
    assert leaves.any()
    assert found.unlike_others >= leaves.mean()
    assert set(found.tied) == set(weights)
    assert found.mend == f"Shift {' and '.join(found.tied)} as they go together"
    if leaves.all():
        assert f"{' and '.join(found.tied)} determine one another in the data" in found.verdict


def test_a_move_that_keeps_the_rule_is_judged_as_any_other(bound):
    for to in ({"a": 1.0, "b": 0.0, "c": 0.0}, {"copy": bound["copy"] + 1, "original": bound["copy"] + 1}):
        users = bound[[*to, "free"]]
        found = overlap(users, users.assign(**to))
        assert found.outside < 0.1
        assert found.tied == ()
        assert found.mend == "Make it smaller"
    half = {"copy": bound["copy"] + 1, "original": bound["original"] + 1, "double": bound["double"] + 2}
    assert overlap(bound, bound.assign(**half)).outside < 0.1


def test_a_pair_of_values_that_nobody_has_is_found(bound):
    """Red and blue exclude each other, though together they determine nothing."""
    users = bound[["red", "blue", "green", "free"]]
    assert overlap(users, users.assign(red=1.0, blue=1.0)).no_level == 1
    assert overlap(users, users.assign(red=1.0)).no_level == share(0.5)  # of those who are blue or green
    assert overlap(users, users.assign(red=1.0, blue=0.0, green=0.0)).no_level == 0
    assert overlap(users, users.assign(red=0.0, blue=0.0, green=0.0)).outside == 0


# --- Placebo -------------------------------------------------------------------------------------------------


def placebo(world, posterior, shifted=None):
    _, guide, _, users, to = world
    few = Users(users.logs.batch(torch.arange(200))._replace(n_users=200))
    to = to if shifted is None else shifted
    return checks.placebo(guide, posterior, few, to[:200], 0.95)


def test_the_placebo_seems_to_do_nothing_where_the_model_is_true(world):
    found = placebo(world, world[2])
    assert (
        found["of"] == 9
    )  # all five contrasts of both outcomes, but alignment's NDE, which is 0; so is the loop
    assert found["covers_zero"] >= 7
    assert found["p"] > 0.05
    for name in ("TE", "NDE", "NIE", "NIE_platform"):
        effect = found["outcomes"]["engagement"][name]
        assert effect["lower"] < 0 < effect["upper"], name
    assert found["outcomes"]["alignment"]["NDE"] == {"mean": 0, "lower": 0, "upper": 0}


def test_a_copy_that_does_something_is_seen(world):
    posterior = world[2]
    real = {name: posterior.draws[name] for name in posterior.placebo}
    found = placebo(world, replace(posterior, placebo=real))
    assert found["of"] == 9
    assert found["covers_zero"] <= 5  # of alignment little is true in this world
    assert found["p"] == pytest.approx(1 / 101)  # farther than any draw
    for name in ("TE", "NDE", "NIE", "NIE_platform"):
        assert found["outcomes"]["engagement"][name]["upper"] < 0, name


def test_the_copy_s_shift_is_dealt_out_with_it(world):
    """Whoever has another's covariates has that one's shift: none here."""
    _, _, posterior, users, _ = world
    real = {name: posterior.draws[name] for name in posterior.placebo}
    found = placebo(world, replace(posterior, placebo=real), users.logs.exposure_covariates)
    assert found["of"] == 0
    assert found["p"] == 1
    assert found["outcomes"]["engagement"]["TE"] == {"mean": 0, "lower": 0, "upper": 0}


@pytest.mark.parametrize("together", [False, True])
def test_effects_that_hang_together_are_judged_together(together):
    """Nine estimates whose error is their spread: too far from zero at the stated rate, however they correlate."""
    rng, found = np.random.default_rng(0), []
    scale = np.geomspace(0.1, 10, 9)[:, None]  # units do not matter
    for _ in range(400):
        errors = rng.normal(size=(1 if together else 9, 201)) + 0.3 * together * rng.normal(size=(9, 201))
        found.append(_all_zero(scale * (errors[:, :1] + errors[:, 1:])))
    assert np.mean(np.array(found) < 0.1) == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 400) ** 0.5)
    assert _all_zero(np.zeros((9, 20))) == 1


# --- Negative controls ---------------------------------------------------------------------------------------

EXPOSURE_ON_PREFERENCE = "exposure covariates on preference noise"
PREFERENCE_ON_PLATFORM = "preference covariates on platform noise"


def leaky(sim, factor, covariate, by, children=()):
    """The logs of a world with a path from a covariate to the other channel's factor, past the graph."""
    w, rng, z = sim.world, np.random.default_rng(1), sim.factors.copy()
    z[:, factor] += by * covariate
    for child, weight in children:
        z[:, child] += weight * by * covariate
    search = rng.multinomial(sim.search.sum(1).astype(int), softmax(w.search.logits(z[:, w.preference])))
    exposure = rng.multinomial(sim.exposure.sum(1).astype(int), softmax(w.exposure.logits(z[:, w.platform])))
    engaged = rng.binomial(exposure, sigmoid(w.engagement_logits(z, sim.exposure_covariates)))
    return replace(sim, factors=z, search=search, exposure=exposure, engagement=engaged)


def controls(world, sim):
    _, guide, posterior, *_ = world
    return negative_controls(guide, posterior, of_logs(guide, sim))


def test_negative_controls_pass_in_the_true_world(world):
    found = controls(world, world[0])
    assert found.keys() == {EXPOSURE_ON_PREFERENCE, PREFERENCE_ON_PLATFORM}
    for control in found.values():
        assert control["verdict"] == "passes"
        assert control["r2"] < 0.02
        assert -0.02 < control["null"] < 0.05


def test_a_path_past_the_graph_fails_the_control_that_it_should(world):
    sim = world[0]
    for logs, fails, passes in (
        (leaky(sim, 2, sim.exposure_covariates[:, 0], 0.8), EXPOSURE_ON_PREFERENCE, PREFERENCE_ON_PLATFORM),
        (
            leaky(sim, 0, sim.preference_covariates[:, 0], 0.8, [(2, 0.8)]),
            PREFERENCE_ON_PLATFORM,
            EXPOSURE_ON_PREFERENCE,
        ),
        (leaky(sim, 2, sim.exposure_covariates[:, 0], 0.0), None, EXPOSURE_ON_PREFERENCE),
    ):
        found = controls(world, logs)
        assert found[passes]["verdict"] == "passes"
        if fails:
            assert found[fails]["verdict"].startswith("fails")
            assert found[fails]["r2"] > 0.1


def test_negative_controls_ask_for_the_users_own_logs(world):
    _, guide, posterior, users, _ = world
    with pytest.raises(ValueError, match="need the experts of the users' own logs"):
        negative_controls(guide, posterior, replace(users, experts=None))


# --- Noise ---------------------------------------------------------------------------------------------------


def noise_of(change=lambda noise: noise, users=600, seed=0):
    """Noise checks of users whose noise, normal and independent, was changed; it is known exactly."""
    known = change(torch.randn(users, 4, generator=torch.Generator().manual_seed(seed)))
    of = SimpleNamespace(noise=lambda *_: known, logs=SimpleNamespace(index=torch.arange(users)))
    guide = SimpleNamespace(model=SimpleNamespace(n_platform=2, n_factors=4, n_noise=5))
    return noise_checks(guide, SimpleNamespace(mean=None), of, seed)


def test_noise_as_the_story_has_it_passes_at_the_stated_rate():
    found = [noise_of(seed=seed) for seed in range(200)]
    for check in ("channels", "tails"):
        failed = np.mean([of[check]["verdict"] != "passes" for of in found])
        assert failed == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 200) ** 0.5), check
        noise, prior = (np.mean([of[check][part] for of in found]) for part in ("noise", "prior"))
        assert noise / prior == pytest.approx(1, abs=0.05), check


def test_a_common_cause_of_both_channels_is_seen():
    def joined(noise):
        noise[:, 2] = 0.6 * noise[:, 0] + 0.8 * noise[:, 2]
        return noise

    found = noise_of(joined)
    assert found["channels"]["verdict"].startswith(
        "fails: something that was not measured moves both channels"
    )
    assert found["channels"]["noise"] == pytest.approx(0.6, abs=0.06)
    assert found["channels"]["prior"] < 0.1
    assert found["tails"]["verdict"] == "passes"


def test_what_is_small_does_not_matter_however_many_users_show_it():
    def joined(by, far):
        return lambda z: torch.cat([z[:, :2], by * z[:, :1] + far * z[:, 2:3], z[:, 3:]], 1)

    small, large = (noise_of(joined(by, far), 20_000) for by, far in ((0.03, 1.03), (0.1, 1.12)))
    for name in ("channels", "tails"):
        assert max(small[name]["p"], large[name]["p"]) < 0.05
        assert small[name]["verdict"] == "passes" != large[name]["verdict"]


def test_what_goes_together_inside_a_channel_is_its_decoder_s():
    assert noise_of(lambda noise: noise[:, [0, 0, 2, 2]])["channels"]["verdict"] == "passes"


def test_users_far_out_are_seen():
    far = torch.where(torch.arange(600)[:, None] % 20 == 0, 3.0, 0.8)
    found = noise_of(lambda noise: noise * far)
    assert found["tails"]["verdict"].startswith("fails: single users are further out")
    assert found["channels"]["verdict"] == "passes"


def test_noise_needs_the_users_own_logs(world):
    _, guide, posterior, users, _ = world
    with pytest.raises(ValueError, match="experts"):
        noise_checks(guide, posterior, replace(users, experts=None))


# --- Sensitivity ---------------------------------------------------------------------------------------------

RHOS = (-0.4, -0.3, -0.1, 0.0, 0.2)


@pytest.fixture(scope="module")
def curve(world):
    _, guide, posterior, users, shifted = world
    return rho_curve(guide, posterior, users, {"exposure_covariates": shifted}, 0.9, RHOS)


def means(curve, name):
    return np.array([point["mean"] for point in curve[name]])


def test_without_correlation_the_answer_is_the_plain_one(world, curve):
    _, guide, posterior, users, shifted = world
    plain = average_effects(guide, posterior, users, {"exposure_covariates": shifted})
    assert curve["rho"] == list(RHOS)
    for name in ("NDE", "NIE", "TE"):
        assert curve[name][3] == pytest.approx(interval(plain.contrasts["engagement"][name], 0.9), abs=1e-6)


def test_the_total_effect_does_not_hinge_on_rho_and_the_indirect_one_does(world, curve):
    nie, nde, te = (means(curve, name) for name in ("NIE", "NDE", "TE"))
    assert nde + nie == pytest.approx(te, abs=1e-6)
    assert (np.diff(nie) < 0).all()
    assert (np.diff(nde) > 0).all()
    assert np.ptp(te) < 0.2 * np.ptp(nie)


def test_the_common_cause_goes_with_the_noise_where_the_policy_moves_it(world, monkeypatch):
    sim, guide, posterior, users, shifted = world
    loadings, real = [], _without_confounding
    monkeypatch.setattr(checks, "_without_confounding", lambda *a: loadings.append(a[2]) or real(*a))
    found = rho_curve(guide, posterior, users, {"exposure_covariates": shifted}, 0.9, (0.0, 0.1))
    step, unit = platform_step(sim)
    assert (loadings[0] == 0).all()
    of_noise = loadings[-1].numpy() * unit
    assert np.linalg.norm(of_noise) == pytest.approx(0.1 * np.pi / 3**0.5, rel=1e-4)
    assert of_noise / np.linalg.norm(of_noise) == pytest.approx(step / np.linalg.norm(step), abs=1e-3)
    assert found["first_rho_with_zero_in_NIE"] is None


def test_what_the_indirect_effect_loses_is_the_correlation_s_part(world, curve):
    """In log odds: rho times the error's sd times how far the platform's factors move, in sds of their noise."""
    sim = world[0]
    after = simulate(DESIGN, 0, shift={"exposure_1": 1.0})
    p = sigmoid(sim.world.engagement_logits(after.factors, after.exposure_covariates))
    slope = (softmax(after.world.exposure.logits(after.platform)) * p * (1 - p)).sum(1).mean()
    lost = (means(curve, "NIE")[0] - means(curve, "NIE")[-1]) / 0.6
    step, _ = platform_step(sim)
    assert lost == pytest.approx(np.pi / 3**0.5 * np.linalg.norm(step) * slope, rel=0.2)


def platform_step(sim):
    """How far a unit of exposure_1 moves the platform's factors, in sds of their noise, and these sds."""
    w, c = sim.world, sim.exposure_covariates
    before, scale = w.mechanisms(c, sim.preference_covariates)
    after, _ = w.mechanisms(c + np.array([1.0, 0.0, 0.0]), sim.preference_covariates)
    unit = scale[:, :2].mean(0)
    return w.through_graph(after - before)[:, :2].mean(0) / unit, unit


def test_the_first_rho_that_undoes_the_indirect_effect_is_named(curve):
    sign = np.sign(means(curve, "NIE")[3])
    undone = [
        abs(rho)
        for rho, e in zip(RHOS, curve["NIE"], strict=True)
        if e["lower"] <= 0 <= e["upper"] or sign * e["mean"] < 0
    ]
    assert undone == [0.4, 0.3]
    assert curve["first_rho_with_zero_in_NIE"] == 0.3


def test_the_common_cause_takes_what_runs_through_the_noise_and_nothing_else(world):
    """Log odds change by loading times noise: not at all where the noise is zero; also with the planted edges."""
    sim, guide, _, users, _ = world
    model, values = guide.model, true_coefficients(sim)
    values["platform_bend"] = torch.randn_like(values["platform_bend"])
    assert values["edges"][3, 1] == pytest.approx(-0.8)
    loading = torch.tensor([0.7, -0.4])
    stacked = {name: torch.stack([value, 2 * value]) for name, value in values.items()}  # as draws are
    changed = _without_confounding(model, values, loading)
    of_draws = _without_confounding(model, stacked, loading)
    prior = guide.prior(values, users.logs)
    _, scale = model.mechanisms(values, users.logs.exposure_covariates, users.logs.preference_covariates)
    for noise in (torch.zeros(600, 5), torch.randn(600, 5)):
        z = prior.base + (prior.turn @ noise.unsqueeze(-1)).squeeze(-1)
        before, after = (log_odds(v, z, users) for v in (values, changed))
        through = (scale * noise[:, :4])[:, :2] @ loading
        assert torch.allclose(before - after, through.unsqueeze(-1).expand(-1, 6), atol=1e-5)
    for name in changed:
        assert torch.allclose(of_draws[name][0], changed[name])
        if name not in ("alpha", "delta", "delta_bend", "a"):
            assert changed[name] is values[name]


def log_odds(v, z, users):
    c = users.logs.exposure_covariates
    user = z[:, :2] @ v["alpha"] + c @ v["delta"] + (torch.hypot(torch.ones(()), c) - 1) @ v["delta_bend"]
    return v["b"] + z[:, 2:4] @ v["a"].mT + user.unsqueeze(-1)


# --- E-values ------------------------------------------------------------------------------------------------


def test_e_values_are_the_published_ones():
    assert e_value(3.9) == pytest.approx(
        7.26, abs=0.005
    )  # VanderWeele & Ding 2017, maternal leaching example
    assert e_value(0.8) == pytest.approx(1.81, abs=0.005)
    assert e_value(1.0) == 1
    for ratio in (0.1, 0.5, 1.3, 4.0):
        assert e_value(ratio) == pytest.approx(e_value(1 / ratio))
        assert e_value(ratio) > max(ratio, 1 / ratio)


def test_the_e_value_of_an_interval_is_that_of_its_end_nearer_to_1():
    levels = {
        "before": np.full(1001, 0.2),
        "direct": np.linspace(0.3, 0.5, 1001),  # ratio to before: 1.5 to 2.5
        "after": np.linspace(0.1, 0.3, 1001),  # ratio to before: 0.5 to 1.5
    }
    found = e_values(levels, 0.9)
    assert found.keys() == {"TE", "NDE", "NIE"}
    assert found["NDE"]["ratio"] == pytest.approx(2)
    assert found["NDE"]["e_value"] == pytest.approx(2 + 2**0.5)
    assert found["NDE"]["e_value_of_interval"] == pytest.approx(e_value(1.55))
    assert found["TE"]["e_value_of_interval"] == 1  # it crosses 1
    assert found["NIE"]["ratio"] == pytest.approx((levels["after"] / levels["direct"]).mean())
    upper = np.quantile(levels["after"] / levels["direct"], 0.95)
    assert upper < 1
    assert found["NIE"]["e_value_of_interval"] == pytest.approx(
        1 / upper + (1 / upper * (1 / upper - 1)) ** 0.5
    )


def test_levels_are_compared_as_numbers_with_rounding():
    o = pd.DataFrame({"dose": np.tile([0.1, 0.2, 0.3], 200), "g": np.random.default_rng(0).normal(size=600)})
    to = o[["dose"]].where(o[["dose"]] > 0.25, o[["dose"]] + 0.1)  # 0.1 -> 0.2, 0.2 -> 0.30000000000000004
    assert overlap(o, to).no_level == 0
    assert overlap(o, to).beyond_range == 0
