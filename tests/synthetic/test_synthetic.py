"""Claims about known truth.  No torch needed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.oracle import log_likelihood, oracle
from pyro_hmvcrl.synthetic.simulation import simulate
from pyro_hmvcrl.synthetic.truth import true_effects
from pyro_hmvcrl.synthetic.world import Emission, draw_world

SMALL = Design(users=200, search_events=(4, 8), recommendation_events=(8, 12), categories=6)


def test_seeds_fix_the_world_its_users_and_their_logs():
    one, two, other = (simulate(SMALL, seed) for seed in (3, 3, 4))
    for name in ("factors", "search", "exposure", "engagement"):
        assert (getattr(one, name) == getattr(two, name)).all()
        assert (getattr(one, name) != getattr(other, name)).any()


def test_events_keep_to_their_limits_and_the_missing_surfaces_to_their_share():
    sim = simulate(replace(SMALL, users=4000, missing_surface=0.2), 0)
    searches, shown = sim.search.sum(1), sim.exposure.sum(1)
    assert set(searches) <= {0, 4, 5, 6, 7, 8}
    assert set(shown) <= {0, 8, 9, 10, 11, 12}
    assert (sim.engagement <= sim.exposure).all()
    assert ((searches == 0) & (shown == 0)).sum() == 0
    for lacking in (searches == 0, shown == 0):
        assert lacking.mean() == pytest.approx(0.1, abs=4 * np.sqrt(0.1 * 0.9 / 4000))


def test_modulation_has_the_strength_that_the_design_names():
    sim = simulate(Design(users=20_000, location=0.7, scale=0.3), 1)
    location, scale = sim.world.mechanisms(sim.exposure_covariates, sim.preference_covariates)
    assert location.std(0) == pytest.approx(np.full(5, 0.7), abs=0.02)
    assert np.log(scale).std(0) == pytest.approx(np.full(5, 0.3), abs=0.02)


def test_factors_solve_the_structural_equations():
    sim = simulate(SMALL, 0)
    location, scale = sim.world.mechanisms(sim.exposure_covariates, sim.preference_covariates)
    drive = location + scale * sim.noise
    assert sim.factors == pytest.approx(sim.factors @ sim.world.edges + drive)


def test_the_emission_jacobian_is_its_derivative():
    emission = Emission.draw(np.random.default_rng(0), 3, 5, 0.9, 0.5)
    z, step = np.random.default_rng(1).normal(size=(4, 3)), 1e-6
    for k in range(3):
        ahead, behind = (emission.logits(z + sign * step * np.eye(3)[k]) for sign in (1, -1))
        assert emission.jacobian(z)[:, k] == pytest.approx((ahead - behind) / (2 * step), abs=1e-7)


def test_the_oracle_is_the_posterior_mean():
    """Against integration over a fine grid, in a world with one factor a channel and an edge between them."""
    design = replace(SMALL, users=40, platform_factors=1, preference_factors=1, search_events=(1, 3))
    design = replace(design, edges=(("platform_1", "preference_1", 0.8),))
    sim = simulate(design, 0)
    axis = np.linspace(-6, 6, 121)
    noise = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    location, scale = sim.world.mechanisms(sim.exposure_covariates, sim.preference_covariates)
    z = sim.world.through_graph(location + scale * noise)
    log_weight = log_likelihood(sim, np.arange(40), z) - 0.5 * (noise**2).sum(-1)
    weight = np.exp(log_weight - log_weight.max(0))
    exact = (weight[..., None] * z).sum(0) / weight.sum(0)[:, None]
    sampled = oracle(sim, draws=20_000)
    assert sampled == pytest.approx(exact, abs=0.05)
    assert np.abs(sampled - exact).mean() < 0.01


def test_effects_add_up_and_move_what_they_should():
    sim = simulate(replace(SMALL, edges=(("platform_1", "preference_1", 0.8),)), 0)
    found = true_effects(sim, {"exposure_1": 0.5}, draws=2)
    for effect in found["outcomes"].values():
        assert effect["TE"] == pytest.approx(effect["NDE"] + effect["NIE"])
        assert effect["NIE"] == pytest.approx(effect["NIE_platform"] + effect["NIE_preference"])
    assert found["outcomes"]["alignment"]["NDE"] == pytest.approx(0, abs=1e-12)
    moved = found["displacement"]
    assert moved["preference_2"] == moved["preference_3"] == 0
    assert moved["platform_1"] != 0
    assert moved["preference_1"] != 0


def test_displacement_is_the_shift_through_the_mechanism_when_scales_do_not_move():
    sim = simulate(replace(SMALL, scale=0.0, edges=()), 0)
    moved = true_effects(sim, {"exposure_2": 1.5}, draws=1)["displacement"]
    weights = sim.world.location_weights[0][1]
    location, scale = sim.world.mechanisms(sim.exposure_covariates, sim.preference_covariates)
    sd = (location + scale * np.random.default_rng([0, 3]).normal(size=sim.noise.shape)).std(0)
    assert [moved["platform_1"], moved["platform_2"]] == pytest.approx(1.5 * weights / sd[:2])


def test_a_world_without_direct_path_has_no_direct_effect():
    sim = simulate(replace(SMALL, direct=0.0), 0)
    assert true_effects(sim, {"exposure_1": 1.0}, draws=1)["outcomes"]["engagement"]["NDE"] == 0


def test_a_shift_keeps_the_users_and_leaves_what_it_does_not_reach():
    before, after = (
        simulate(replace(SMALL, edges=()), 0, shift=shift) for shift in ({}, {"exposure_1": 2.0})
    )
    assert (before.noise == after.noise).all()
    assert (before.preference == after.preference).all()
    assert (before.search == after.search).all()
    assert (before.platform != after.platform).all()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"edges": (("platform_1", "nobody", 1.0),)}, "platform_1 -> nobody: the factors are"),
        ({"edges": (("platform_1", "preference_1", 1.0), ("preference_1", "platform_1", 1.0))}, "cycle"),
        ({"covariate_kind": "odd"}, "choose gaussian or mixed"),
        ({"users": 0}, "users is 0"),
        ({"use": 0}, "unknown knob use: choose of .*users"),
    ],
)
def test_bad_knobs_are_refused_with_the_choices(knobs, message):
    with pytest.raises(ValueError, match=message):
        draw_world(Design.with_knobs(**knobs), 0)


def test_an_unknown_shift_is_refused():
    with pytest.raises(ValueError, match="no exposure covariate taste_1: choose of exposure_1"):
        simulate(SMALL, 0, shift={"taste_1": 1.0})


@pytest.mark.parametrize("kind", ["gaussian", "mixed"])
@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_the_folder_gives_back_the_counts_and_the_truth(tmp_path, kind, format):
    sim = simulate(replace(SMALL, covariate_kind=kind, missing_surface=0.1), 2)
    write_simulation(sim, tmp_path / "world", seed=2, format=format)
    data = read_dataset(tmp_path / "world")
    used = [int(c[1:]) for c in data.categories]
    for name in ("search", "exposure", "engagement"):
        assert (getattr(data, name) == getattr(sim, name)[:, used]).all()
    assert data.covariates("platform") == pytest.approx(sim.exposure_covariates)
    assert data.covariates("preference") == pytest.approx(sim.preference_covariates)
    with np.load(tmp_path / "world" / "truth.npz", allow_pickle=False) as truth:
        assert (truth["user_id"] == data.user_id.astype(str)).all()
        assert (truth["platform"] == sim.platform).all()
        assert (truth["preference"] == sim.preference).all()
        both = np.hstack([truth["oracle_platform"], truth["oracle_preference"]])
    assert np.corrcoef(both[:, 0], sim.factors[:, 0])[0, 1] > 0.7
    truth = json.loads((tmp_path / "world" / "truth.json").read_text())
    edges = pd.DataFrame(truth["edges"]).set_index(["source", "target"])["weight"]
    assert len(edges) == 12
    assert edges["platform_1", "preference_1"] > 0.3
    assert (edges != 0).sum() == 2
    assert {tuple(e["shift"]) for e in truth["effects"]} == {(f"exposure_{d}",) for d in range(1, 6)}


def test_covariates_of_few_settings_take_few_values():
    few = simulate(replace(SMALL, users=400, settings=5), 0)
    for block in (few.exposure_covariates, few.preference_covariates):
        assert len(np.unique(block, axis=0)) == 5
    together = np.unique(np.hstack([few.exposure_covariates, few.preference_covariates]), axis=0)
    assert len(together) == 25  # the two blocks' settings are drawn apart
    assert len(np.unique(simulate(replace(SMALL, users=400), 0).exposure_covariates, axis=0)) == 400


@pytest.mark.parametrize("learning", [0.0, 0.5])
def test_what_users_like_is_drawn_beside_a_world_that_stays_as_it_is(learning, tmp_path):
    design = replace(SMALL, learning=learning, periods=3)
    plain, sim = simulate(design, 0), simulate(replace(design, liked=0.8), 0)
    for name in ("factors", "search", "exposure", "engagement"):
        assert (getattr(plain, name) == getattr(sim, name)).all()
    assert plain.liked is None
    assert (sim.liked <= sim.exposure).all()
    assert 0 < sim.liked.sum() < sim.exposure.sum()
    write_simulation(plain, tmp_path / "plain", 0, truth=False)
    write_simulation(sim, tmp_path / "data", 0)
    data = read_dataset(tmp_path / "data", periods=3 if learning else 1)
    assert (data.outcomes["liked"].toarray() == sim.liked.reshape(200, -1)).all()
    events, before = (
        read_dataset(tmp_path / name).recommendation_events.drop(columns="liked", errors="ignore")
        for name in ("data", "plain")
    )
    assert events.equals(before)
    truth = json.loads((tmp_path / "data" / "truth.json").read_text())
    assert set(truth["effects"][0]["outcomes"]) == {"engagement", "alignment", "liked"}


def test_the_true_effect_on_what_users_like_is_that_of_the_shift():
    """Against the same users and their logs under the other policy, drawn event by event."""
    design = Design(
        users=10_000,
        liked=0.8,
        direct=0.8,
        recommendation_events=(40, 40),
        search_events=(1, 1),
        categories=6,
    )
    before, after = (simulate(design, 0, shift={"exposure_1": by}) for by in (0.0, 1.0))
    rate = [sim.liked.sum() / sim.exposure.sum() for sim in (before, after)]
    true = true_effects(before, {"exposure_1": 1.0}, counterfactual=True)["outcomes"]["liked"]
    assert true["TE"] == pytest.approx(rate[1] - rate[0], abs=0.003)
    assert true["TE"] == pytest.approx(true["NDE"] + true["NIE"])
    assert abs(true["TE"]) > 0.01


def test_a_policy_moves_no_numbers_of_events_where_searches_are_suggested():
    design = Design(users=200, learning=1.0, suggestion=0.3)
    before, after = (simulate(design, 0, shift={"exposure_1": by}) for by in (0.0, 1.0))
    for name in ("search", "exposure"):
        assert np.array_equal(getattr(before, name).sum(-1), getattr(after, name).sum(-1))


@pytest.mark.parametrize("knobs", [{"categories": 1}, {"exposure_covariates": 0}])
def test_substitution_needs_something_to_substitute(knobs):
    with pytest.raises(ValueError, match="substitution needs"):
        Design(substitution=0.5, **knobs)
