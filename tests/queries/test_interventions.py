"""Claims about interventions: policies do what they say, and every trap of pyro.do has a guard."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyro import poutine

from pyro_hmvcrl.guide.guide import CoefficientPosterior
from pyro_hmvcrl.queries.interventions import (
    InterventionError,
    Shift,
    add,
    apply,
    hold,
    parse_shift,
    run,
    scaled,
    set_to,
    together,
)
from pyro_hmvcrl.story.programs import at, observe
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import simulate
from pyro_hmvcrl.synthetic.world import softmax

from worlds import EDGES, logs_of, model_of, set_truth, tensor, true_coefficients

FACTORS = ["platform_1", "platform_2", "preference_1", "preference_2", "preference_3"]


# --- Policies ------------------------------------------------------------------------------------------------


@pytest.fixture
def covariates():
    return pd.DataFrame({"fee": [1.0, 2.0, 3.0, 6.0], "visits": [0, 4, 4, 0], "new": [0.0, 1.0, 0.0, 1.0]})


def test_add_is_in_own_units_or_in_standard_deviations_and_set_to_is_for_all(covariates):
    sd = np.sqrt(((covariates["fee"] - 3) ** 2).mean())  # over users, not n - 1
    for policy, expected in (
        (add("fee", -0.5), [0.5, 1.5, 2.5, 5.5]),
        (add("fee", 2, in_sd=True), [1 + 2 * sd, 2 + 2 * sd, 3 + 2 * sd, 6 + 2 * sd]),
        (set_to("fee", 2.5), [2.5] * 4),
    ):
        shifted = apply(policy, covariates)
        assert shifted["fee"].tolist() == pytest.approx(expected)
        pd.testing.assert_frame_equal(shifted[["visits", "new"]], covariates[["visits", "new"]])
    assert apply(add("visits", 0.5), covariates)["visits"].tolist() == [0.5, 4.5, 4.5, 0.5]


def test_policies_compose_and_scale(covariates):
    both = together(add("fee", 1), set_to("new", 1), add("fee", 1))
    shifted = apply(both, covariates)
    assert shifted["fee"].tolist() == [3, 4, 5, 8]
    assert shifted["new"].tolist() == [1, 1, 1, 1]
    assert apply(together(set_to("fee", 5), add("fee", 1)), covariates)["fee"].tolist() == [6] * 4
    assert apply(together(add("fee", 1), set_to("fee", 5)), covariates)["fee"].tolist() == [5] * 4
    half = apply(scaled(both, 0.5), covariates)
    assert half["fee"].tolist() == [2, 3, 4, 7]
    assert half["new"].tolist() == [0.5, 1, 0.5, 1]
    assert apply(scaled(both, -1), covariates)["fee"].tolist() == [-1, 0, 1, 4]
    pd.testing.assert_frame_equal(apply(scaled(both, 0), covariates), covariates, check_dtype=False)
    pd.testing.assert_frame_equal(apply(together(), covariates), covariates)


def test_a_function_of_one_s_own_is_a_policy(covariates):
    def cap(c, rng):
        return c.assign(fee=c["fee"].clip(upper=2), visits=np.where(c["new"] == 1, 9, c["visits"]))

    shifted = apply(cap, covariates)
    assert shifted["fee"].tolist() == [1, 2, 2, 2]
    assert shifted["visits"].tolist() == [0, 9, 4, 9]


def test_a_stochastic_policy_is_its_seed_s(covariates):
    def jitter(c, rng):
        return c.assign(fee=c["fee"] + rng.normal(size=len(c)))

    once = apply(jitter, covariates, seed=3)
    pd.testing.assert_frame_equal(once, apply(jitter, covariates, seed=3))
    assert (once["fee"] != apply(jitter, covariates, seed=4)["fee"]).all()
    drawn = []  # each part draws anew
    apply(together(*[lambda c, rng: drawn.append(rng.normal()) or c] * 2), covariates)
    assert drawn[0] != drawn[1]
    change = apply(scaled(jitter, 2), covariates, seed=3) - covariates  # the same draw, twice as large
    assert change["fee"].tolist() == pytest.approx((2 * (once - covariates)["fee"]).tolist())


def test_a_policy_does_not_change_its_input(covariates):
    def in_place(c, rng):
        c["fee"] *= 2
        c.loc[0, "new"] = 7
        return c

    untouched = covariates.copy(deep=True)
    for policy in (in_place, add("fee", 1), set_to("new", 1), scaled(add("fee", 1), 2)):
        assert not apply(policy, covariates).equals(untouched)
        pd.testing.assert_frame_equal(covariates, untouched)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (add("fees", 1), "no exposure covariate or factor fees: choose of fee, visits, new"),
        (lambda c, rng: c.drop(columns="new"), r"columns \['fee', 'visits', 'new'\]"),
        (lambda c, rng: c.assign(more=1), r"columns \['fee', 'visits', 'new'\]"),
        (lambda c, rng: c[["new", "visits", "fee"]], r"columns \['fee', 'visits', 'new'\]"),
        (lambda c, rng: None, "must give a data frame"),
        (lambda c, rng: c.to_numpy(), "must give a data frame"),
        (lambda c, rng: c[c["new"] == 1], "2 rows for 4 users"),
        (lambda c, rng: pd.concat([c, c]), "8 rows for 4 users"),
        (lambda c, rng: c.assign(visits=[1, 2, np.nan, 4]), "nan for visits in row 3"),
        (lambda c, rng: c.assign(new=np.log(c["fee"] - 1)), "-inf for new in row 1"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_by_name(covariates, policy, said):
    with np.errstate(divide="ignore"), pytest.raises(InterventionError, match=said):
        apply(policy, covariates)


@pytest.mark.parametrize(
    ("text", "shift"),
    [
        ("fee=+1.0", add("fee", 1)),
        ("fee=1", add("fee", 1)),
        ("fee=-0.5sd", add("fee", -0.5, in_sd=True)),
        ("fee:=3", set_to("fee", 3)),
        ("fee:=-1e-3", set_to("fee", -0.001)),
        ("monthly fee=+2", add("monthly fee", 2)),
        ("sd=1sd", add("sd", 1, in_sd=True)),
    ],
)
def test_a_shift_is_read_from_text(text, shift):
    assert parse_shift(text) == shift


@pytest.mark.parametrize(
    "text",
    [
        *("", "fee", "fee=", "=1", ":=1", "fee=sd", "fee=a", "fee==1", "fee=nan", "fee=inf", "fee:=1sd"),
        *("fee=*1sd", "fee:=*1", "fee=*", "fee=1 min", "fee=1 min a", "fee=1 min 3 max 2", "fee=1 max nan"),
    ],
)
def test_a_text_that_is_no_shift_is_refused_with_the_ways_to_write_one(text):
    with pytest.raises(InterventionError) as refusal:
        parse_shift(text)
    for part in (repr(text), "COLUMN=+1.0", "COLUMN=-0.5sd", "COLUMN:=3"):
        assert part in str(refusal.value)


names = st.text(min_size=1).filter(lambda name: "=" not in name and not name.endswith(":"))
amounts = st.integers(-99_999, 99_999).map(lambda n: n / 1_000)  # as precise as a shift is written
kinds = st.sampled_from([(False, False), (True, False), (False, True), (False, False, True)])


@given(names, amounts, kinds, st.none() | amounts, st.none() | amounts)
def test_a_shift_is_read_as_it_is_written(column, amount, kind, low, high):
    low, high = (high, low) if None not in (low, high) and low > high else (low, high)
    shift = replace(Shift(column, amount, *kind), low=low, high=high)
    assert parse_shift(str(shift)) == shift


@given(st.text())
def test_any_text_is_a_shift_or_is_refused(text):
    try:
        shift = parse_shift(text)
    except InterventionError:
        return
    assert shift.column
    assert np.isfinite(shift.amount)
    assert parse_shift(str(shift)).column == shift.column


def test_a_shift_forces_a_factor_as_it_does_a_covariate():
    now = torch.tensor([1.0, 2.0])
    for shift, expected in (
        (add("platform_1", -1), [0.0, 1.0]),
        (add("platform_1", 2, in_sd=True), [7.0, 8.0]),
        (set_to("platform_1", 5), [5.0, 5.0]),
        (parse_shift("platform_1=*3"), [3.0, 6.0]),
        (parse_shift("platform_1=+2 max 3.5"), [3.0, 3.5]),
        (parse_shift("platform_1=-1sd min -1.5 max 0"), [-1.5, -1.0]),
    ):
        assert shift.force(3.0)(now).tolist() == expected


# --- Worlds --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def users():
    """A true world, its logs, and a program that is the model at the truth with the users' own noise held."""
    sim = simulate(Design(users=40, categories=6, edges=EDGES), 0)
    model, logs = model_of(sim), logs_of(sim)
    set_truth(model, CoefficientPosterior(model), sim)
    program = observe(at(model, true_coefficients(sim)), logs)
    return sim, logs, program, hold(program, noise=tensor(sim.noise))


def factors(world):
    return torch.stack([world[name] for name in FACTORS], -1)


def test_a_policy_shift_is_the_simulator_s_world_of_the_same_users(users):
    sim, logs, _, held = users
    assert factors(run(held, (logs,))).numpy() == pytest.approx(sim.factors, abs=1e-4)
    shift = {"exposure_1": 1.0, "exposure_3": -0.5}
    expected = simulate(sim.world.design, 0, shift=shift)
    by = torch.tensor([1.0, 0.0, -0.5, 0.0, 0.0])
    for force in (logs.exposure_covariates + by, lambda now: now + by):
        world = run(held, (logs,), {"exposure_covariates": force})
        assert factors(world).numpy() == pytest.approx(expected.factors, abs=1e-4)
        log_odds = sim.world.engagement_logits(expected.factors, expected.exposure_covariates)
        assert world.distribution("engagement").logits.numpy() == pytest.approx(log_odds, abs=1e-3)
        shown = world.distribution("exposure").probability.detach().numpy()
        assert shown == pytest.approx(softmax(sim.world.exposure.logits(expected.platform)), abs=1e-4)


def test_an_unknown_site_is_refused_with_the_sites_there_are(users):
    """pyro.do ignores it in silence."""
    _, logs, _, held = users
    pyro.do(held, data={"platform_7": torch.tensor(1.0)})(logs)
    with pytest.raises(InterventionError, match="no site platform_7: choose of") as refusal:
        run(held, (logs,), {"platform_1": 0.0, "platform_7": 1.0})
    for site in [*FACTORS, "exposure_covariates", "preference_covariates", "noise", "engagement"]:
        assert site in str(refusal.value)
    assert "users" not in str(refusal.value)  # the plate is no site to force


def test_values_of_other_users_are_refused_with_both_shapes(users):
    """In a batch, the values of all users."""
    sim, logs, program, held = users
    rows = torch.tensor([7, 3, 30])
    batch, own = logs.batch(rows), hold(observe(program, logs.batch(rows)), noise=tensor(sim.noise)[rows])
    assert run(own, (batch,))["platform_2"].numpy() == pytest.approx(sim.factors[rows, 1], abs=1e-4)
    for site, value, shape in (
        ("platform_1", torch.zeros(40), r"\(3,\)"),
        ("exposure_covariates", logs.exposure_covariates, r"\(3, 5\)"),
        ("exposure_covariates", lambda now: logs.exposure_covariates, r"\(3, 5\)"),
        ("exposure_covariates", torch.zeros(3), r"\(3, 5\)"),
    ):
        with pytest.raises(InterventionError, match=f"value for {site} has shape .* the site {shape}"):
            run(own, (batch,), {site: value})
    with pytest.raises(InterventionError, match=r"has shape \(40, 5\), the site \(3, 5\)"):
        run(own, (batch,), {"exposure_covariates": logs.exposure_covariates})
    shifted = {"exposure_covariates": logs.exposure_covariates[rows] + 1}
    all_of_them = run(held, (logs,), {"exposure_covariates": logs.exposure_covariates + 1})
    assert torch.allclose(factors(run(own, (batch,), shifted)), factors(all_of_them)[rows], atol=1e-5)


def test_a_site_forced_already_is_refused(users):
    """pyro.do twice on one site recurses without end."""
    _, logs, _, held = users
    already = pyro.do(held, data={"platform_1": torch.tensor(1.0)})
    for again in ({"platform_1": 2.0}, {"platform": lambda now: now}):
        with pytest.raises(InterventionError, match=r"platform_1 is forced already: give all .* one mapping"):
            run(already, (logs,), again)
    both = run(already, (logs,), {"platform_2": 2.0})  # another site may be
    at_once = run(held, (logs,), {"platform_1": 1.0, "platform_2": 2.0})
    for site in ("preference_1", "preference_2", "preference_3", "platform_2"):
        assert torch.equal(both[site], at_once[site])


def test_functions_of_natural_values_are_what_pyro_do_refuses(users):
    _, logs, _, held = users
    with pytest.raises(NotImplementedError):
        pyro.do(held, data={"platform_1": lambda now: now + 1})(logs)
    before = run(held, (logs,))
    after = run(held, (logs,), {"platform_1": lambda now: 2 * now + 1})
    by_value = run(held, (logs,), {"platform_1": 2 * before["platform_1"] + 1})
    assert torch.equal(after["platform_1"], 2 * before["platform_1"] + 1)
    for site in FACTORS:
        assert torch.equal(after[site], by_value[site])


def test_a_function_s_argument_is_the_value_before_any_intervention(users):
    """Also where the site is a descendant of another forced site."""
    _, logs, _, held = users
    before = run(held, (logs,))
    after = run(held, (logs,), {"platform_1": 3.0, "preference_1": lambda now: now})
    assert torch.equal(after["preference_1"], before["preference_1"])
    assert not torch.equal(run(held, (logs,), {"platform_1": 3.0})["preference_1"], before["preference_1"])


def test_a_natural_world_at_hand_is_used(users):
    _, logs, _, held = users
    other = run(held, (logs,), {"exposure_covariates": lambda now: now + 1})
    after = run(held, (logs,), {"platform_1": lambda now: now}, other)
    assert torch.equal(after["platform_1"], other["platform_1"])


def test_a_world_gives_the_value_that_the_program_saw(users):
    """Where an outer trace gives the natural one."""
    _, logs, _, held = users
    natural = run(held, (logs,))["platform_1"]
    forced = pyro.do(held, data={"platform_1": torch.tensor(2.0)})
    assert torch.equal(poutine.trace(forced).get_trace(logs).nodes["platform_1"]["value"], natural)
    world = run(held, (logs,), {"platform_1": 2.0})
    assert torch.equal(world["platform_1"], torch.full((40,), 2.0))
    assert torch.equal(world.trace.nodes["platform_1"]["value"], natural)
    assert world.forced.keys() == {"platform_1"}
    assert set(FACTORS) < set(world.sites)


def test_numbers_and_integers_take_the_site_s_shape_and_type(users):
    _, logs, _, held = users
    for value in (2, 2.0, np.float64(2), torch.tensor(2), torch.full((40,), 2.0, dtype=torch.double)):
        found = run(held, (logs,), {"platform_1": value})["platform_1"]
        assert torch.equal(found, torch.full((40,), 2.0))
    several = run(
        held, (logs,), {"platform_1": torch.tensor([[0.0], [1.0]]).expand(2, 40)}
    )  # two values for each user
    assert several["platform_1"].shape == several["preference_1"].shape == (2, 40)
    one = run(held, (logs,), {"platform_1": 1.0})
    assert torch.equal(several["preference_1"][1], one["preference_1"])


@pytest.mark.parametrize("channel", ["platform", "preference"])
def test_a_channel_is_its_factors_and_only_those(users, channel):
    _, logs, _, held = users
    before, own = run(held, (logs,)), [f for f in FACTORS if f.startswith(channel)]
    after = run(held, (logs,), {channel: lambda now: now + 1})
    assert sorted(after.forced) == own
    for site in own:
        assert torch.equal(after[site], before[site] + 1)
    one_by_one = run(held, (logs,), {site: before[site] + 1 for site in own})
    for site in FACTORS:
        assert torch.equal(after[site], one_by_one[site])


def test_a_forced_channel_leaves_its_non_descendants_untouched_bit_for_bit(users):
    _, logs, _, held = users
    before, after = run(held, (logs,)), run(held, (logs,), {"platform": lambda now: now + 1})
    for site in ("preference_2", "preference_3", "noise", "exposure_covariates", "preference_covariates"):
        assert torch.equal(before[site], after[site]), site
    assert not torch.equal(before["preference_1"], after["preference_1"])
    for surface in ("search", "exposure", "engagement"):
        before_, after_ = before.distribution(surface).logits, after.distribution(surface).logits
        assert not torch.equal(before_, after_), surface
    mute = run(held, (logs,), {"preference_3": lambda now: now + 1})
    for surface, moved in (("search", True), ("exposure", False), ("engagement", True)):
        same = torch.equal(before.distribution(surface).logits, mute.distribution(surface).logits)
        assert same != moved


def test_only_noise_that_is_held_is_shared_by_worlds(users):
    _, logs, program, held = users
    assert torch.equal(run(held, (logs,))["noise"], run(held, (logs,))["noise"])
    assert not torch.equal(run(program, (logs,))["noise"], run(program, (logs,))["noise"])


def test_any_pyro_program_serves():
    def program(slope):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        platform = pyro.deterministic("platform", slope * x)  # here a site, no channel
        return pyro.deterministic("y", platform + x)

    held = hold(program, x=torch.tensor(2.0))
    assert run(held, (3.0,))["y"] == 8
    assert run(held, (3.0,), {"platform": lambda now: -now})["y"] == -4
    assert run(held, (3.0,), {"x": 1.0})["y"] == 4  # of a sampled site, held or not
    assert run(program, (3.0,), {"x": 1.0})["y"] == 4
    with pytest.raises(InterventionError, match="no site z: choose of x, platform, y"):
        run(held, (3.0,), {"z": 0.0})


# --- What must not pass in silence -----------------------------------------------------------------------------


def short_program():
    x = pyro.sample("x", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    one = pyro.deterministic("platform_1", x + 1, event_dim=1)
    return pyro.deterministic("y", 2 * one, event_dim=1)


SHORT = hold(short_program, x=torch.arange(4.0))
FRAME = pd.DataFrame({"x": [3.0, 1.0, 2.0], "y": [0.0, 1.0, 1.0]})


def test_a_column_is_not_taken_for_values_of_each_user():
    with pytest.raises(InterventionError, match=r"\(4, 1\)"):
        run(SHORT, (), {"platform_1": torch.zeros(4, 1)})


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(InterventionError):
        run(SHORT, (), {"platform_1": float("nan")})
    with pytest.raises(InterventionError):
        run(SHORT, (), {"platform_1": lambda now: (now - 2).log()})


def test_a_site_twice_in_one_mapping_is_refused():
    with pytest.raises(InterventionError, match="platform_1"):
        run(SHORT, (), {"platform": 1.0, "platform_1": 2.0})


def test_a_channel_without_factors_is_refused():
    with pytest.raises(InterventionError, match="preference"):
        run(SHORT, (), {"preference": 1.0})


def test_a_world_of_a_program_under_do_does_not_pass_off_the_natural_value():
    world = run(pyro.do(SHORT, data={"platform_1": torch.zeros(4)}), ())
    assert (world["y"] == 0).all()
    with pytest.raises(InterventionError):
        world["platform_1"]


def test_a_policy_that_reorders_the_users_is_refused():
    with pytest.raises(InterventionError, match="same order"):
        apply(lambda c, rng: c.sort_values("x"), FRAME)


def test_a_policy_that_gives_words_is_refused_by_name():
    with pytest.raises(InterventionError, match="x in row 1"):
        apply(lambda c, rng: c.assign(x="a"), FRAME)


@pytest.mark.parametrize("shift", [add("x", 0.123456789), set_to("income", 1234567)])
def test_a_shift_is_written_exactly(shift):
    assert parse_shift(str(shift)) == shift
