"""Claims about the figures that say when an MCC means something. No torch needed."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr, special_ortho_group

from pyro_hmvcrl.evidence.identifiability import ChannelEvidence, identifiability
from pyro_hmvcrl.evidence.measures import (
    collapse,
    cross_r2,
    mcc,
    modulation,
    restart_agreement,
    rotated_mcc,
    rotation_null,
    weak_mcc,
    within_covariate_mcc,
)

N, D = 4000, 6
HALF_TURN = special_ortho_group.rvs(3, random_state=3)  # of three factors: MCC about 0.80


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def rotation_by(degrees: float) -> np.ndarray:
    a = math.radians(degrees)
    return np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])


def evidence(
    k: int = 3, location: float = 0.7, scale: float = 0.5, noise: float = 0.3, seed: int = 0, **changes
):
    """A well-fitted channel of strong modulation; its oracle has the same precision as its estimate."""
    covariates, weights = normal(N, D, seed=seed), normal(2, D, k, seed=seed + 1)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    m, s = location * covariates @ weights[0], np.exp(scale * covariates @ weights[1])
    truth = m + s * normal(N, k, seed=seed + 2)
    estimate = truth + noise * normal(N, k, seed=seed + 3)
    fields = {
        "estimate": estimate,
        "location": m,
        "scale": s,
        "covariates": covariates,
        "other_covariates": normal(N, 4, seed=seed + 4),
        "kl": np.full(k, 1.0),
        "truth": truth,
        "oracle": truth + noise * normal(N, k, seed=seed + 5),
        "restarts": [estimate, estimate[:, ::-1] * 2, estimate + 0.05 * normal(N, k, seed=seed + 6)],
    }
    return ChannelEvidence(**(fields | changes))


def sentences(channel: ChannelEvidence, name: str = "preference") -> list[str]:
    report = identifiability({name: channel}, n_bootstrap=50)
    said, identified = report.verdict[name], ("up to order, sign and scale", "up to sign and scale")
    assert report.channels[name].is_identified == any(words in said[0] for words in identified)
    return said


# --- MCC ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(4)), st.lists(st.sampled_from([-3.0, -1.0, 0.01, 5.0]), min_size=4, max_size=4))
def test_mcc_ignores_order_sign_scale_and_shift(order, factors):
    truth = normal(300, 4)
    estimate = truth + 0.5 * normal(300, 4, seed=1)
    changed = (estimate * factors + 7.0)[:, order]
    before, after = mcc(truth, estimate, n_bootstrap=20), mcc(truth, changed, n_bootstrap=20)
    assert after.value == pytest.approx(before.value)
    assert (after.lower, after.upper) == pytest.approx((before.lower, before.upper))
    assert [order[j] for j in after.assignment] == [0, 1, 2, 3]
    assert after.signs == pytest.approx(np.sign(factors))


def test_mcc_matches_globally_where_greedy_matching_fails():
    truth = normal(50_000, 2)
    estimate = np.column_stack(
        [truth @ [0.9, 0.85], truth @ [0.8, 0.1]]
    )  # column 2 is nearest to factor 1 ...
    assert mcc(truth, estimate).assignment.tolist() == [1, 0]  # ... so column 1 must serve factor 2


def test_a_true_factor_without_a_column_or_with_a_constant_one_scores_zero():
    truth = normal(500, 3)
    short = mcc(truth, truth[:, [2, 0]])
    assert short.per_factor == pytest.approx([1, 0, 1])
    assert short.assignment.tolist() == [1, -1, 0]
    assert mcc(truth, truth * [1, 0, 1]).value == pytest.approx(2 / 3)
    assert mcc(truth, np.hstack([normal(500, 2, seed=1), truth])).value == pytest.approx(1)


def test_bootstrap_interval_is_that_of_resampled_users_and_covers():
    truth, estimate = normal(400, 2), normal(400, 2) + normal(400, 2, seed=1)
    rng, slow = np.random.default_rng(9), []
    for _ in range(600):
        users = rng.integers(0, 400, 400)
        slow.append(np.mean([np.corrcoef(truth[users, k], estimate[users, k])[0, 1] for k in range(2)]))
    fast = mcc(truth, estimate, n_bootstrap=600)
    assert [fast.lower, fast.upper] == pytest.approx(np.quantile(slow, [0.05, 0.95]), abs=0.006)
    inside = 0
    for seed in range(200):
        x = normal(300, 2, seed=1000 + seed)
        interval = mcc(x, x + normal(300, 2, seed=5000 + seed), n_bootstrap=100)
        inside += interval.lower <= math.sqrt(0.5) <= interval.upper
    assert 0.83 <= inside / 200 <= 0.96  # 0.90 within three Monte Carlo standard errors


def test_spearman_mcc_ignores_monotone_transforms_and_agrees_with_scipy_under_ties():
    truth, estimate = normal(300, 2), normal(300, 2) + normal(300, 2, seed=1)
    bent = np.exp(3 * estimate)
    assert mcc(truth, bent, rank=True).value == pytest.approx(mcc(truth, estimate, rank=True).value)
    assert mcc(truth, bent).value < mcc(truth, estimate).value - 0.2
    tied = np.round(estimate)
    expected = np.mean([spearmanr(truth[:, k], tied[:, k]).statistic for k in range(2)])
    assert mcc(truth, tied, rank=True).value == pytest.approx(expected)


@pytest.mark.parametrize("bad", [np.full((10, 2), np.nan), np.zeros((9, 2)), np.zeros((10, 2, 1))])
def test_unusable_factors_are_refused(bad):
    with pytest.raises(ValueError, match="one row per user"):
        mcc(normal(10, 2), bad)


# --- Nulls and floors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "mean"), [(1, 1.0), (2, 2 * math.sqrt(2) / math.pi), (3, 0.8284), (5, 0.7291)])
def test_rotation_null_reproduces_known_means(k, mean):
    draws = 8000
    assert rotation_null(k, n_draws=draws).mean == pytest.approx(mean, abs=4 * 0.09 / math.sqrt(draws))


def test_rotation_null_is_what_rotated_data_give():
    factors = normal(2000, 3)
    values = [
        mcc(factors, factors @ special_ortho_group.rvs(3, random_state=s), n_bootstrap=0).value
        for s in range(300)
    ]
    assert np.mean(values) == pytest.approx(rotation_null(3).mean, abs=0.015)
    assert np.quantile(values, 0.95) == pytest.approx(rotation_null(3).q95, abs=0.015)


def test_rotation_lowers_mcc_but_not_weak_mcc():
    truth = normal(2000, 3)
    rotated = truth @ HALF_TURN
    assert mcc(truth, rotated).value < 0.85
    assert weak_mcc(truth, rotated) == pytest.approx(1)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000), st.floats(-100, 100))
def test_weak_mcc_ignores_affine_maps(seed, shift):
    truth, noisy = normal(400, 3), normal(400, 3) + 0.5 * normal(400, 3, seed=1)
    matrix = normal(3, 3, seed=seed) + 4 * np.eye(3)
    assert weak_mcc(truth, noisy @ matrix + shift) == pytest.approx(weak_mcc(truth, noisy), abs=1e-6)


def test_weak_mcc_does_not_inflate_on_noise():
    values = [weak_mcc(normal(200, 5, seed=s), normal(200, 5, seed=s + 500)) for s in range(20)]
    assert np.mean(values) < 0.04  # canonical correlations in the sample average 0.12
    assert max(values) < 0.15


@pytest.mark.parametrize("k", [1, 3])
def test_weak_mcc_survives_few_users_one_factor_and_collinear_columns(k):
    truth = normal(12, k)
    assert weak_mcc(truth, truth) > 0.99
    truth = normal(500, k)
    doubled = np.hstack([truth, truth @ np.ones((k, 1)) + 1e-9 * normal(500, 1, seed=1), np.ones((500, 1))])
    assert weak_mcc(truth, doubled) > 0.99
    assert weak_mcc(doubled, truth) > 0.99
    assert weak_mcc(truth, np.zeros((500, k))) == 0.0


def test_within_covariate_mcc_takes_a_covariate_only_estimate_to_nothing():
    channel = evidence(location=2.0, scale=0.0)
    assert mcc(channel.truth, channel.location).value > 0.8  # the floor is high here ...
    assert within_covariate_mcc(channel.truth, channel.location, channel.covariates).value == 0.0
    jittered = channel.location + 0.01 * normal(N, 3, seed=77)
    assert (
        within_covariate_mcc(channel.truth, jittered, channel.covariates).value < 0.05
    )  # ... and says nothing
    assert within_covariate_mcc(channel.truth, channel.estimate, channel.covariates).value > 0.9


def test_within_covariate_mcc_without_covariates_is_the_mcc():
    truth, estimate = normal(300, 2), normal(300, 2) + normal(300, 2, seed=1)
    assert within_covariate_mcc(truth, estimate, np.zeros((300, 0))).value == pytest.approx(
        mcc(truth, estimate).value
    )


def test_cross_r2_finds_the_right_block_and_no_other():
    c, d = normal(2000, 3), normal(2000, 3, seed=1)
    channels = {"platform": c @ normal(3, 2, seed=2), "preference": d + normal(2000, 3, seed=3)}
    r2 = cross_r2({"exposure": c, "preference": d, "none": np.zeros((2000, 0))}, channels)
    assert r2["exposure"]["platform"] == pytest.approx(1)
    assert r2["preference"]["preference"] == pytest.approx(0.5, abs=0.04)
    assert abs(r2["exposure"]["preference"]) < 0.02
    assert r2["none"] == {"platform": 0.0, "preference": 0.0}


def test_cross_r2_of_noise_is_not_above_two_hundredths():
    values = [
        cross_r2({"b": normal(300, 8, seed=s)}, {"c": normal(300, 3, seed=s + 99)})["b"]["c"]
        for s in range(20)
    ]
    assert max(values) < 0.02


def test_cross_r2_survives_one_hot_covariates_and_a_constant_factor():
    level = np.random.default_rng(0).integers(0, 3, 600)
    r2 = cross_r2({"b": np.eye(3)[level]}, {"c": np.column_stack([level == 1, np.ones(600)])})
    assert r2["b"]["c"] == pytest.approx(0.5)


# --- Modulation --------------------------------------------------------------------------------------------


def test_location_and_scale_modulation_give_full_rank():
    found = modulation(evidence().location, evidence().scale)
    assert (found.settings, found.settings_needed) == (N, 7)
    assert (found.rank, found.rank_needed) == (6, 6)
    assert found.condition < 20
    assert found.scale_modulation == pytest.approx(0.5, abs=0.03)
    assert found.groups == [[0], [1], [2]]


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.06])
def test_location_only_is_flagged_even_when_the_fitted_scale_wavers(noise):
    found = modulation(evidence(scale=noise).location, evidence(scale=noise).scale)
    assert found.rank == 3
    assert found.condition == math.inf
    assert found.groups == [[0, 1, 2]]


def test_modulation_ignores_units_and_origin_of_a_factor():
    channel = evidence()
    one, other = (
        modulation(channel.location, channel.scale),
        modulation(channel.location * 50 + 900, channel.scale * 50),
    )
    assert other.condition == pytest.approx(one.condition)
    assert other.scale_modulation == pytest.approx(one.scale_modulation)
    assert other.location_modulation == pytest.approx(one.location_modulation)


def test_few_distinct_settings_are_counted():
    segment = np.random.default_rng(0).integers(0, 4, N)
    found = modulation(normal(4, 3)[segment], np.exp(normal(4, 3, seed=1))[segment])
    assert (found.settings, found.rank) == (4, 3)  # four settings span three differences


def test_factors_are_tied_by_a_constant_ratio_of_scales_not_by_correlated_ones():
    log_scale = 0.5 * normal(N, 1)
    m = normal(N, 2, seed=1)
    constant_ratio = np.exp(np.hstack([log_scale, log_scale + 1]))
    proportional, opposite = np.exp(log_scale * [1, 2]), np.exp(log_scale * [1, -1])
    assert modulation(m, constant_ratio).groups == [[0, 1]]
    assert modulation(m, proportional).groups == [[0], [1]]
    assert modulation(m, opposite).groups == [[0], [1]]


@pytest.mark.parametrize(("powers", "hidden"), [([1, 1], True), ([1, 2], False), ([1, -1], False)])
def test_a_constant_ratio_is_exactly_when_a_rotation_is_invisible(powers, hidden):
    """In units that equalise the first user's scales, do all users' covariances stay diagonal when turned?"""
    scale = np.exp(0.5 * normal(50, 1) * powers)
    scale /= scale[0]
    turned = [rotation_by(45) @ np.diag(s**2) @ rotation_by(45).T for s in scale]
    assert (max(abs(c[0, 1]) for c in turned) < 1e-12) == hidden
    assert (modulation(normal(50, 2, seed=1), scale).groups == [[0, 1]]) == hidden


def test_scales_must_be_positive():
    with pytest.raises(ValueError, match="positive"):
        modulation(np.zeros((5, 1)), np.zeros((5, 1)))


# --- Collapse, restarts ------------------------------------------------------------------------------------


def test_collapse_names_the_factor_whose_posterior_is_its_prior():
    per_user = np.column_stack([np.full(50, 1.2), np.linspace(0, 0.02, 50)])
    assert collapse(per_user).collapsed == [1]
    assert collapse(per_user.mean(0)).kl == pytest.approx([1.2, 0.01])


def test_restart_agreement_is_the_median_over_pairs():
    factors = normal(2000, 2)
    found = restart_agreement([factors, -factors[:, ::-1], factors @ rotation_by(30)])
    turned = math.cos(math.radians(30))
    expected = [[1, 1, turned], [1, 1, turned], [turned, turned, 1]]
    assert found.matrix == pytest.approx(np.array(expected), abs=0.02)
    assert found.median == pytest.approx(turned, abs=0.02)
    assert math.isnan(restart_agreement([factors]).median)
    assert math.isnan(restart_agreement([]).median)


# --- Verdict -----------------------------------------------------------------------------------------------


def test_full_modulation_is_identified_up_to_order_sign_and_scale():
    said = sentences(evidence())
    assert said[0] == (
        "preference is identified up to order, sign and scale of each factor: its covariates modulate location and "
        "scale of all 3 factors (2K+1 = 7 settings needed, 4,000 found)."
    )
    assert said[1].startswith("restarts agree (MCC 1.00)")
    assert any("above the range of random rotations" in s for s in said)
    assert any("at the ceiling" in s for s in said)
    assert not any("not" in s for s in said)


def test_location_only_is_identified_up_to_rotation():
    assert sentences(evidence(scale=0.02))[0] == (
        "preference is identified only up to rotation: its covariates do not modulate scale (sd of log scale 0.02)."
    )


def test_tied_scales_leave_a_rotation_of_those_factors():
    channel = evidence()
    tied = channel.scale[:, [0, 1, 0]] * [1, 1, 3]
    assert "only up to rotation of factors 1 and 3:" in sentences(dataclasses.replace(channel, scale=tied))[0]


def test_permuted_covariates_carry_no_information():
    channel = evidence(location=0.04, scale=0.03)
    said = sentences(dataclasses.replace(channel, covariates=channel.covariates[::-1]))
    assert said[0].startswith(
        "preference is identified only up to an invertible map: its covariates carry no information"
    )


def test_noise_in_mechanisms_fitted_to_few_users_is_not_taken_for_modulation():
    noisy = evidence(location=0.15, scale=0.15)
    assert "carry no information" not in sentences(noisy)[0]
    assert "carry no information" in sentences(dataclasses.replace(noisy, n_train=500))[0]


def test_no_covariates_leave_an_invertible_map():
    constant = {"location": np.zeros((N, 3)), "scale": np.ones((N, 3)), "covariates": np.zeros((N, 0))}
    assert sentences(dataclasses.replace(evidence(), **constant))[0] == (
        "preference is identified only up to an invertible map: it has no covariates."
    )


def test_a_single_factor_needs_no_scale_modulation():
    said = sentences(evidence(k=1, scale=0.0))
    assert said[0].startswith("preference is identified up to sign and scale: a single factor has no other")
    assert not any("rotation" in s for s in said[1:])


def test_an_unmodulated_location_falls_short_of_the_full_condition():
    channel = evidence()
    said = sentences(dataclasses.replace(channel, location=channel.location * [1, 0, 1]))
    assert "separated by scale, but short of the full condition" in said[0]
    assert "rank 5 of 6" in said[0]


def test_a_collapsed_factor_is_named_and_clouds_the_headline():
    said = sentences(evidence(k=2, kl=np.array([1.0, 0.01])), "platform")
    assert "platform could be identified up to order" in said[0]
    assert "platform factor 2 has collapsed: its posterior equals its prior (KL 0.01 nats)." in said


def test_disagreeing_restarts_forbid_reading_single_factors():
    channel = evidence(noise=0.0)
    said = sentences(dataclasses.replace(channel, restarts=[channel.truth, channel.truth @ HALF_TURN]))
    assert "preference could be identified" in said[0]
    assert said[1].startswith("restarts disagree (MCC 0.")
    assert said[1].endswith("do not interpret single factors.")


def test_one_start_is_confirmed_by_nothing():
    channel = evidence()
    said = sentences(dataclasses.replace(channel, restarts=[channel.truth]))
    assert any("one restart alone reached this optimum: nothing confirms it" in sentence for sentence in said)


def test_a_fit_far_from_any_mode_is_stuck():
    said = sentences(dataclasses.replace(evidence(), from_mode=0.69))
    assert any(
        sentence.startswith("the fit is stuck") and "0.7 standard deviations" in sentence for sentence in said
    )
    assert not any("stuck" in sentence for sentence in sentences(evidence()))


def test_a_restart_in_a_worse_optimum_is_left_out_and_counted():
    channel = evidence(noise=0.0)
    agreeing = sentences(dataclasses.replace(channel, restarts=[channel.truth, channel.truth], stuck=1))
    assert "restarts agree (MCC 1.00; left out, in a worse optimum: 1 of 3)." in agreeing
    assert "preference is identified" in agreeing[0]
    alone = sentences(dataclasses.replace(channel, restarts=[channel.truth], stuck=2))
    assert alone[1].startswith(
        "one restart alone reached this optimum; left out, in a worse optimum: 2 of 3:"
    )
    assert "preference could be identified" in alone[0]


def test_a_rotated_estimate_has_the_subspace_but_not_the_axes():
    channel = evidence(location=0.2)
    said = " ".join(sentences(dataclasses.replace(channel, estimate=channel.estimate @ HALF_TURN)))
    assert "is not above what a random rotation gives (0.8" in said
    assert "no evidence that factors are separated" in said
    assert "the subspace is right, weak MCC 0.9" in said


def test_an_mcc_below_the_null_counts_for_separation_when_the_oracle_is_no_better():
    said = " ".join(sentences(evidence(noise=1.2)))
    assert "1.00 of the oracle's 0." in said
    assert "not above what a random rotation gives" not in said


def test_a_covariate_only_estimate_is_not_above_its_floor():
    channel = evidence(location=2.0)
    said = " ".join(sentences(dataclasses.replace(channel, estimate=channel.location)))
    assert "is not above what the covariates alone give" in said


def test_pure_noise_has_not_even_the_subspace():
    said = " ".join(sentences(evidence(estimate=normal(N, 3, seed=50))))
    assert "the subspace itself is not recovered" in said


def test_the_other_blocks_influence_is_reported():
    channel = evidence()
    said = sentences(dataclasses.replace(channel, other_covariates=channel.estimate + normal(N, 3, seed=60)))
    assert any(s.startswith("the other channel's covariates predict preference (R² 0.") for s in said)


# --- Report ------------------------------------------------------------------------------------------------


def test_report_survives_json_and_makes_one_row_per_channel():
    real = dataclasses.replace(evidence(scale=0.0, seed=20), truth=None, oracle=None, kl=None, restarts=())
    report = identifiability({"platform": evidence(k=2), "preference": real}, n_bootstrap=50)
    plain = report.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["channels"]["platform"]["mcc"]["value"] == report.channels["platform"].mcc.value
    assert plain["channels"]["preference"]["modulation"]["condition"] is None
    table = report.table()
    assert table.index.tolist() == ["platform", "preference"]
    row = table.loc["platform"]
    assert row["mcc_lower"] <= row["mcc"] <= row["mcc_upper"]
    assert row["ratio_to_oracle"] == pytest.approx(row["mcc"] / row["oracle"])
    assert row["covariate_floor"] < row["mcc"]
    assert row["within_covariate_mcc"] == pytest.approx(row["within_covariate_oracle"], abs=0.02)
    assert table.loc["preference", ["mcc", "weak_mcc", "oracle", "restart_agreement"]].isna().all()


def test_figures_repeat_with_the_seed():
    one, two = (identifiability({"platform": evidence()}, n_bootstrap=30, seed=4).to_dict() for _ in range(2))
    assert one == two


def test_rotated_mcc_is_the_rotation_null_times_what_noise_leaves():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4_000, 3))
    mixed = truth @ rng.normal(size=(3, 3))  # whatever the estimate's own axes are
    assert rotated_mcc(truth, mixed) == pytest.approx(rotation_null(3).mean, abs=0.02)
    noisy = truth + rng.normal(size=truth.shape)
    assert rotated_mcc(noisy, mixed) == pytest.approx(rotation_null(3).mean * 0.5**0.5, abs=0.02)
