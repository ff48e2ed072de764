"""The study of robustness: each violation does what it says, the truth is that of its world, and the study runs."""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from sklearn.linear_model import LinearRegression

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.queries.averages import Users
from pyro_hmvcrl.queries.checks import LOGISTIC_SD, noise_checks
from pyro_hmvcrl.synthetic.design import Design, shift_vector
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate
from pyro_hmvcrl.synthetic.truth import true_effects
from pyro_hmvcrl.synthetic.world import sigmoid, softmax

from studies import run_quick
from worlds import logs_of, true_coefficients, true_expansion


@pytest.fixture(scope="module")
def study():
    return importlib.import_module("robustness")


@pytest.fixture(scope="module")
def design(study):
    return Design.with_knobs(**study.SMALL)


@pytest.fixture(scope="module")
def base(design):
    return simulate(design, 0)


@pytest.fixture(scope="module")
def violated(study, design):
    """The world of a violation, at seed 0."""
    return lambda **dose: study.simulate_violated(design, study.Violation(**dose), 0)


def rates_of(study, sim, jump=0.0, **dose):
    v, rng = study.Violation(**dose), np.random.default_rng(0)
    own = study.chance(v, sim.world, sim.noise, sim.exposure_covariates, rng)
    own = own._replace(jump=np.full_like(sim.preference, jump))
    return study.rates(sim.world, sim.exposure_covariates, sim.factors, own, v)


def chosen(counts, usual, other):
    """The share of events drawn from `other` rather than `usual` (probabilities), by least squares."""
    towards, n = other - usual, counts.sum(1, keepdims=True)
    return ((counts - n * usual) * towards).sum() / (n * towards**2).sum()


# --- What each violation does --------------------------------------------------------------------------------


def test_without_a_violation_the_world_is_the_base(base, violated):
    sim = violated()
    for part in ("exposure_covariates", "preference_covariates", "noise", "factors"):
        np.testing.assert_array_equal(getattr(sim, part), getattr(base, part))
    w = base.world
    for counts, same, p in (
        (sim.search, base.search, softmax(w.search.logits(sim.preference))),
        (sim.exposure, base.exposure, softmax(w.exposure.logits(sim.platform))),
    ):
        np.testing.assert_array_equal(counts.sum(1), same.sum(1))
        n = counts.sum(1, keepdims=True)
        assert (np.abs((counts - n * p).sum(0)) < 4 * np.sqrt((n * p * (1 - p)).sum(0))).all()
    p = sigmoid(w.engagement_logits(sim.factors, sim.exposure_covariates))
    spread = np.sqrt((sim.exposure * p * (1 - p)).sum(0))
    assert (np.abs((sim.engagement - sim.exposure * p).sum(0)) < 4 * spread).all()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_suggested_searches_are_that_share(violated, share):
    sim = violated(suggested=share)
    own = softmax(sim.world.search.logits(sim.preference))
    shown = softmax(sim.world.exposure.logits(sim.platform))
    assert chosen(sim.search, own, shown) == pytest.approx(share, abs=0.02)


def test_feedback_shows_again_what_was_engaged_with(study):
    n, events = 400, np.arange(400) % 3 + 4
    uniform = np.random.default_rng(0).random((6, 2, n))
    flat = np.zeros((n, 5))

    def shown(feedback, engaged):
        rates = study.Rates(flat, flat, flat, np.full_like(flat, engaged))
        return study.window(feedback, rates, events, uniform)

    exposure, engagement, mean = shown(50.0, 1.0)
    np.testing.assert_array_equal(exposure.sum(1), events)
    np.testing.assert_array_equal(exposure.max(1), events)  # the first one, over and over
    np.testing.assert_array_equal(engagement, exposure)
    first = exposure.argmax(1)
    assert np.bincount(first, minlength=5).min() > 50
    expected = (0.2 + events - 1) / events  # the first exposure at random, the others for sure
    np.testing.assert_allclose(mean[np.arange(n), first], expected, atol=1e-6)
    for harmless in (shown(50.0, 0.0), shown(0.0, 1.0)):
        assert harmless[0].max(1).mean() < 3
        np.testing.assert_allclose(harmless[2], 0.2)


def test_feedback_s_dose_is_the_exponent(study):
    """At dose 1 one engagement doubles a category's odds: with two categories, from 1/2 to 2/3."""
    two = np.zeros((1, 2))
    rates = study.Rates(two, two, two, np.ones((1, 2)))
    uniform = np.full((2, 2, 1), 0.4)
    _, _, mean = study.window(1.0, rates, np.array([2]), uniform)
    np.testing.assert_allclose(mean, [[(1 / 2 + 2 / 3) / 2, (1 / 2 + 1 / 3) / 2]])


def test_feedback_concentrates_exposures_and_leaves_factors_and_searches(violated):
    without, mild, strong = (violated(feedback=dose) for dose in (0.0, 0.5, 1.0))
    np.testing.assert_array_equal(strong.factors, without.factors)
    np.testing.assert_array_equal(strong.search, without.search)
    top = [(sim.exposure.max(1) / sim.exposure.sum(1)).mean() for sim in (without, mild, strong)]
    assert top[0] + 0.03 < top[1] < top[2] - 0.03


def test_feedback_in_periods_has_the_same_events_in_their_order(study, violated):
    together, apart = violated(feedback=1.0), violated(feedback=1.0, periods=None)
    for surface in ("exposure", "engagement"):
        in_days = getattr(apart, surface)
        assert in_days.shape[1] == study.DAYS
        np.testing.assert_array_equal(in_days.sum(1), getattr(together, surface))
    np.testing.assert_array_equal(apart.search, together.search)


def test_days_have_a_user_s_events_in_order_and_as_many_each(study):
    events = np.array([20, 35])
    one_each = np.eye(40)[:, None] * (np.arange(40)[:, None] < events)[..., None]  # the category is the order
    days = study.in_days(one_each, events)
    np.testing.assert_array_equal(days.sum((0, 1)), (one_each.sum((0, 1))))
    np.testing.assert_array_equal(days.sum(2)[0], 2)
    assert set(days.sum(2)[1]) == {3, 4}
    for of_user in days:
        day, event = np.nonzero(of_user)
        np.testing.assert_array_equal(event, np.sort(event))
        assert (np.diff(day) >= 0).all()


@pytest.mark.parametrize(
    ("dose", "knobs"),
    [
        ({"learning": 0.5}, {"learning": 0.5, "personalisation": 0.5}),
        ({"influence": 1.0}, {"influence": 1.0}),
        ({"marked": 0.2}, {"suggestion": 0.2}),
    ],
)
def test_an_arrow_of_time_of_the_story_is_that_of_the_simulator(study, design, base, violated, dose, knobs):
    sim, same = violated(**dose, periods=None), simulate(replace(design, **knobs), 0)
    for one, other in zip(sim.observed, same.observed, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(sim.factors, base.factors)
    assert effects(study, sim, 3, **dose) == true_effects(sim, study.SHIFT, 3)["outcomes"]


def test_marked_searches_are_that_share_and_the_logs_say_which(study, violated, tmp_path):
    sim = violated(marked=0.5, periods=None)
    dataset = study.simulated_dataset(sim, tmp_path / "logs", 0, None)
    assert dataset.periods.number == study.DAYS
    own, marked = (dataset.counts[surface].sum() for surface in ("search", "suggested"))
    assert marked / (own + marked) == pytest.approx(0.5, abs=0.02)
    np.testing.assert_array_equal(dataset.search, sim.search)
    shown = softmax(sim.world.suggested_logits(sim.factors))
    assert chosen(sim.suggested, softmax(sim.world.search.logits(sim.preference)), shown) > 0.9


def test_drift_parts_searches_from_recommendations(study, base):
    """Half the jump back for searches; half the jump ahead for engagement and for what the user looks for."""
    w, r = base.world, rates_of(study, base, jump=1.0)
    ahead = base.factors.copy()
    ahead[:, w.preference] += 0.5
    np.testing.assert_allclose(r.searched, softmax(w.search.logits(base.preference - 0.5)))
    np.testing.assert_allclose(r.sought, softmax(w.search.logits(base.preference + 0.5)))
    np.testing.assert_allclose(r.engaged, sigmoid(w.engagement_logits(ahead, base.exposure_covariates)))
    np.testing.assert_allclose(r.shown, w.exposure.logits(base.platform))


def test_drift_is_of_its_size(study, violated, base, monkeypatch):
    jumps, as_it_is = [], study.rates
    monkeypatch.setattr(study, "rates", lambda *a: jumps.append(a[3].jump) or as_it_is(*a))
    sim = violated(drift=0.5)
    np.testing.assert_array_equal(sim.factors, base.factors)
    study.true_effects(sim, study.Violation(drift=0.5), 2, 0)
    assert len(jumps) == 9  # the logs', and for each draw of the truth the same in its four worlds
    assert all(jump.std() == pytest.approx(0.5, abs=0.04) for jump in jumps)
    np.testing.assert_array_equal(jumps[1], jumps[4])
    assert not np.array_equal(jumps[4], jumps[5])


def test_heavy_tails_are_those_of_student_s_t_with_unit_variance(study, base):
    standard = np.random.default_rng(0).normal(size=(100_000, 4))
    noise = study.Violation(heavy_tails=3).noise(standard, base.world)
    levels = [0.001, 0.1, 0.75, 0.999]
    expected = student.ppf(levels, 3) / 3**0.5
    for column, of in zip(noise.T, standard.T, strict=True):
        np.testing.assert_allclose(np.quantile(column, levels), expected, rtol=0.1)
        np.testing.assert_array_equal(np.argsort(column), np.argsort(of))
    assert noise.var() == pytest.approx(1, abs=0.05)


def test_a_common_cause_correlates_two_noises_and_no_others(study, base):
    standard = np.random.default_rng(0).normal(size=(100_000, 4))
    kept = standard.copy()
    noise = study.Violation(common_cause=0.6).noise(standard, base.world)
    np.testing.assert_array_equal(standard, kept)
    expected = np.eye(4)
    expected[0, 2] = expected[2, 0] = 0.6  # platform_1 and preference_1
    np.testing.assert_allclose(np.cov(noise.T), expected, atol=0.02)
    np.testing.assert_array_equal(noise[:, [0, 1, 3]], standard[:, [0, 1, 3]])


def test_the_noise_goes_through_the_graph(base, violated):
    sim = violated(common_cause=0.6)
    location, scale = sim.world.mechanisms(sim.exposure_covariates, sim.preference_covariates)
    np.testing.assert_allclose(sim.factors, sim.world.through_graph(location + scale * sim.noise))
    np.testing.assert_array_equal(sim.platform, base.platform)  # no edge reaches it
    assert not np.allclose(sim.preference, base.preference)


def test_a_hidden_cause_moves_engagement_alone(study, base):
    with_cause, without = (rates_of(study, base, hidden_cause=dose) for dose in (0.3, 0.0))
    for part in ("searched", "sought", "shown"):
        np.testing.assert_array_equal(getattr(with_cause, part), getattr(without, part))
    log_odds = [np.log(r.engaged / (1 - r.engaged)) for r in (with_cause, without)]
    added = np.broadcast_to(0.3 * LOGISTIC_SD * base.noise[:, :1], log_odds[0].shape)
    np.testing.assert_allclose(log_odds[0] - log_odds[1], added, atol=1e-6)


def test_a_cause_of_the_policy_keeps_its_part_of_engagement(study, base, violated):
    """It goes with the covariate as it is, and not with the covariate as a policy sets it."""
    causes = [
        study.chance(
            study.Violation(policy_cause=dose),
            base.world,
            base.noise,
            base.exposure_covariates,
            np.random.default_rng(0),
        ).readiness
        for dose in (0.2, 0.0)
    ]
    np.testing.assert_allclose(causes[0] - causes[1], 0.2 * LOGISTIC_SD * base.exposure_covariates[:, :1])
    sim = violated(policy_cause=0.2)
    truth = effects(study, sim, 6, policy_cause=0.2)["engagement"]
    assert truth["TE"] == pytest.approx(effects(study, base, 6)["engagement"]["TE"], abs=0.02)


def test_users_differ_in_readiness_whatever_they_are_shown(violated):
    ready, alike = violated(readiness=0.5), violated()
    rate = [s.engagement.sum(1) / s.exposure.sum(1) for s in (ready, alike)]
    assert rate[0].var() - rate[1].var() > 0.002
    np.testing.assert_array_equal(ready.exposure, alike.exposure)


def test_a_u_shape_bends_the_first_factor_alone(study, base, violated):
    sim = violated(u_shape=0.5)
    np.testing.assert_array_equal(sim.factors[:, 1], base.factors[:, 1])
    added = sim.factors[:, 0] - base.factors[:, 0]
    c = base.exposure_covariates[:, 0]
    assert np.corrcoef(added, (c**2 - 1) / 2**0.5 - c)[0, 1] == pytest.approx(1)


def test_bursts_are_copies(violated):
    sim = violated(bursts=2)
    for events in (sim.search, sim.exposure, sim.engagement):
        assert (events % 2 == 0).all()
        assert events.sum() > 0


def test_a_mismeasured_covariate_is_as_reliable_as_said(study, base, tmp_path):
    write_simulation(base, tmp_path / "logs", 0, truth=False)
    dataset = read_dataset(tmp_path / "logs")
    true = dataset.users["exposure_1"]
    measured = study.mismeasure(dataset, study.Violation(reliability=0.67), 0)
    assert np.corrcoef(true, measured.users["exposure_1"])[0, 1] ** 2 == pytest.approx(0.67, abs=0.04)
    of_deliveries = study.mismeasure(dataset, study.Violation(deliveries=0.5), 0).users
    share = dataset.exposure / dataset.exposure.sum(1, keepdims=True)
    fitted = LinearRegression().fit(share, of_deliveries["exposure_1"])
    assert fitted.score(share, of_deliveries["exposure_1"]) == pytest.approx(0.5, abs=0.06)
    assert of_deliveries["exposure_2"].equals(dataset.users["exposure_2"])
    truth = effects(study, base, 1, deliveries=0.5)
    assert set(truth["engagement"].values()) == {0.0}


def test_a_misplaced_covariate_changes_its_channel_only(study, base, tmp_path):
    write_simulation(base, tmp_path / "logs", 0, truth=False)
    dataset = read_dataset(tmp_path / "logs")
    exposure, taste = dataset.exposure_covariates, dataset.preference_covariates
    moved = study.misplace(dataset, "taste_1")
    assert moved.exposure_covariates == [*exposure, "taste_1"]
    assert moved.preference_covariates == taste[1:]
    assert study.misplace(dataset, "exposure_2").exposure_covariates == [exposure[0], *exposure[2:]]
    assert study.misplace(dataset, "exposure_2").preference_covariates == [*taste, "exposure_2"]
    assert study.misplace(dataset, "").exposure_covariates == exposure
    assert study.misplace(dataset, "").preference_covariates == taste
    assert moved.users is dataset.users


# --- The truth, and what estimates are held against ----------------------------------------------------------


def effects(study, sim, draws=40, **dose):
    return study.true_effects(sim, study.Violation(**dose), draws, 0)


def test_without_a_violation_the_truth_is_the_simulator_s(study, base):
    found, known = effects(study, base), true_effects(base, study.SHIFT, 40)["outcomes"]
    for outcome, sd in (("engagement", 0.002), ("alignment", 0.0005)):
        assert known[outcome].pop("NIE_loop") == 0
        assert found[outcome] == pytest.approx(known[outcome], abs=sd)
    assert found["alignment"]["NDE"] == 0


def test_suggested_searches_leave_the_truth(study, base):
    assert effects(study, base, 3, suggested=0.5) == effects(study, base, 3)


@pytest.mark.parametrize(
    "dose",
    [
        *({"feedback": 1.0}, {"hidden_cause": 0.3}, {"drift": 1.0}, {"heavy_tails": 3}),
        *({"readiness": 0.5}, {"policy_cause": 0.2}, {"u_shape": 0.5}),
    ],
)
def test_the_truth_is_what_happens_when_the_policy_comes(study, violated, dose):
    """The same users' logs under both policies, the same chance in both."""
    sim, v = violated(**dose), study.Violation(**dose)
    w, events, rng = sim.world, sim.exposure.sum(1).astype(int), np.random.default_rng(9)
    totals = []
    for _ in range(12):
        own = study.chance(v, w, rng.normal(size=sim.noise.shape), sim.exposure_covariates, rng)
        uniform, found = rng.random((events.max(), 2, len(events))), []
        for by in (0.0, 1.0):
            c_p = sim.exposure_covariates + shift_vector(w.design, {"exposure_1": by})
            z = study.factors_of(w, c_p, sim.preference_covariates, own.noise, v.u_shape)
            r = study.rates(w, c_p, z, own, v)
            exposure, engagement, _ = study.window(v.feedback, r, events, uniform)
            found.append([engagement.sum(1) / events, (exposure * r.sought).sum(1) / events])
        totals.append(np.diff(found, axis=0)[0].mean(1))
    truth = effects(study, sim, 20, **dose)
    assert truth["engagement"]["TE"] == pytest.approx(np.mean(totals, 0)[0], abs=0.006)
    assert truth["alignment"]["TE"] == pytest.approx(np.mean(totals, 0)[1], abs=0.002)


def test_feedback_gives_alignment_a_direct_effect(study, violated):
    found = effects(study, violated(feedback=1.0), 4, feedback=1.0)
    assert abs(found["alignment"]["NDE"]) > 0.001
    for of in found.values():
        assert of["TE"] == pytest.approx(of["NDE"] + of["NIE"])
        assert of["NIE"] == pytest.approx(of["NIE_platform"] + of["NIE_preference"])


def test_where_the_fit_has_periods_the_past_is_a_mediator(study, violated):
    sim, dose = violated(feedback=1.0, periods=None), {"feedback": 1.0, "periods": None}
    found, of_one_period = effects(study, sim, 4, **dose), effects(study, sim, 4, feedback=1.0)
    assert found["alignment"]["NDE"] == 0
    for outcome, of in found.items():
        assert of["TE"] == pytest.approx(of_one_period[outcome]["TE"])
        assert abs(of["NIE_loop"]) > 0.001
        parts = (of[f"NIE_{part}"] for part in ("platform", "preference", "loop"))
        assert of["NIE"] == pytest.approx(sum(parts))


def test_estimates_are_compared_in_units_of_the_largest_effect(study):
    truth = {"engagement": {"TE": 0.5, "NDE": -2.0}}
    draws = {"engagement": {"TE": np.full(9, 0.6), "NDE": np.linspace(-2.5, -1, 101)}}
    first, second = study.compare(truth, draws)
    assert first["effect"] == "engagement TE"
    assert (first["error"], first["covered"]) == (pytest.approx(0.05), False)
    assert (second["error"], second["covered"]) == (pytest.approx(0.125), True)


def test_recovery_is_of_as_many_factors_as_both_have(study, base, monkeypatch):
    extra = np.random.default_rng(0).normal(size=(len(base.factors), 1))
    estimate = np.hstack([-base.platform[:, [1]], extra, base.preference])
    monkeypatch.setattr(study, "factor_posterior", lambda *_: (estimate, None))
    guide = SimpleNamespace(posterior=lambda logs: (), model=SimpleNamespace(n_platform=1))
    fitted = SimpleNamespace(guide=guide, users=SimpleNamespace(logs=None))
    held = np.arange(len(extra)) < 100
    found = study.recovery(base, fitted, held)
    assert found["platform_mcc"] == pytest.approx(1)
    assert found["preference_mcc"] == pytest.approx(1)
    assert found["platform_weak_mcc"] > 0.95
    assert found["preference_weak_mcc"] > 0.95


# --- What is asked of the noise, at the true parameters of the world without the violation --------------------


def checked(sim):
    """The noise checks."""
    guide, logs = true_expansion(sim, scoring_steps=15), logs_of(sim)
    posterior = SimpleNamespace(mean=true_coefficients(sim))
    return noise_checks(guide, posterior, Users(logs, guide.evidence(logs)))


def test_noise_checks_are_silent_where_the_story_is_true(study, design):
    found = checked(study.simulate_violated(design, study.Violation(), 4))
    assert len(found) == 2
    assert all(0.1 < of["p"] < 0.9 and of["verdict"] == "passes" for of in found.values())


@pytest.mark.parametrize(
    ("dose", "warning"), [({"heavy_tails": 3}, "tails"), ({"common_cause": 0.3}, "channels")]
)
def test_a_noise_check_warns_of_its_violation(violated, dose, warning):
    found = checked(violated(**dose))[warning]
    assert found["p"] == 0
    assert found["verdict"] != "passes"


# --- The study -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("robustness")
    return out, run_quick("robustness", out)


def test_every_cell_has_its_figures_effects_and_warnings(study, quick):
    out, said = quick
    results, found = pd.read_csv(out / "results.csv"), pd.read_csv(out / "effects.csv")
    results = study.with_bounds_compared(results)
    assert results["cell"].tolist() == list(study.CELLS)
    assert results[["platform_mcc", "preference_mcc", "platform_weak_mcc", "bound"]].notna().all(axis=None)
    in_periods = [cell for cell, v in study.CELLS.items() if v.periods is None or v.in_story]
    assert len(in_periods) == 5
    sizes = found.groupby("cell").size()
    assert (sizes == np.where(sizes.index.isin(in_periods), 12, 10)).all()  # with NIE_loop
    assert found["truth"].notna().all()
    warns = results.filter(like="warns: ")
    assert len(warns.columns) == 14
    asked = warns["warns: held-out bound*"].notna()
    assert results.loc[asked, "cell"].str.contains("_factors_").sum() == asked.sum() == 4
    assert warns.drop(columns="warns: held-out bound*").isin([True, False]).all(axis=None)
    assert not warns["warns: overlap"].any()
    for section in ("Recovery", "Bias", "Coverage", "Share of the seeds"):
        table = said.split(f"## {section}")[1].split("\n\n")[1]
        assert len(table.splitlines()) == 2 + len(study.CELLS)
        assert "| hidden_cause_0.3 |" in table
    assert (out / "robustness.png").stat().st_size > 50_000


def test_a_study_redoes_only_what_is_missing(quick):
    out, _ = quick
    before = pd.read_csv(out / "results.csv"), pd.read_csv(out / "effects.csv")
    kept = {p.name: p.stat().st_mtime_ns for p in (out / "replications").iterdir()}
    (out / "replications" / "feedback_1.0-0.json").unlink()
    run_quick("robustness", out)
    again = {p.name: p.stat().st_mtime_ns for p in (out / "replications").iterdir()}
    assert [name for name in again if again[name] != kept[name]] == ["feedback_1.0-0.json"]
    pd.testing.assert_frame_equal(before[0], pd.read_csv(out / "results.csv"))
    pd.testing.assert_frame_equal(before[1], pd.read_csv(out / "effects.csv"))


def test_a_cell_s_failures_stand_in_its_row(study, quick, tmp_path):
    tables = {name: pd.read_csv(quick[0] / f"{name}.csv") for name in ("results", "effects")}
    named = ["replication", "commit"]
    failed = tables["results"].query("cell == 'heavy_tails_3'")[named].assign(failure="lost")
    others = {name: of.query("cell != 'heavy_tails_3'") for name, of in tables.items()}
    second = others["results"].query("cell == 'none'").assign(replication="none-1", seed=1)
    failed = pd.concat([failed, second[named].assign(failure="lost")])
    study.summarise(others | {"failures": failed}, tmp_path)
    summary = (tmp_path / "summary.md").read_text()
    assert "Fits that failed: 2. heavy_tails_3-0: lost. none-1: lost." in summary
    lines = [line for line in summary.split("## ")[1].splitlines() if "|" in line]
    failures = {line.split(" | ")[0]: line.split(" | ")[-1] for line in lines}
    assert list(failures)[2:] == [f"| {cell}" for cell in study.CELLS]
    assert failures["| none"] == failures["| heavy_tails_3"] == "1 |"
    assert failures["| drift_1.0"] == "0 |"


def test_warnings_are_shares_of_the_seeds_that_were_fitted(study):
    """Four seeds, one of them failed; the held-out bound is held against that of the same seed."""
    rows = []
    for cell in study.CELLS:
        for seed in range(4):
            figures = {"bound": seed + (cell == "platform_factors_1") * (seed < 1 or -1)}
            figures |= {"warns: placebo": seed == 1}
            if (cell, seed) != ("drift_1.0", 0):
                rows.append({"cell": cell, "seed": seed} | figures)
    shares = study.warned(study.with_bounds_compared(pd.DataFrame(rows)))
    assert shares.loc["none", "placebo"] == 0.25
    assert shares.loc["drift_1.0", "placebo"] == pytest.approx(1 / 3)
    bound = shares["held-out bound*"]
    assert bound["platform_factors_1"] == 0.75
    assert bound["platform_factors_3"] == 0
    assert np.isnan(bound["none"])
    assert list(shares.index) == list(study.CELLS)
