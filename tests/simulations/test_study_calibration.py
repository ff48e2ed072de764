"""The study of calibration: its ranks, its test and its tables are right, and it runs in its quick form."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PathCollection
from pyro import poutine
from scipy.stats import norm

from pyro_hmvcrl.story.programs import at, log_joint, log_prob
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import simulate

import calibration
from studies import run_quick
from worlds import EDGES, logs_of, true_expansion

FACTORS = ["platform_1", "platform_2", "preference_1", "preference_2"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("calibration")
    return out, run_quick("calibration", out)


# --- The test of uniformity ----------------------------------------------------------------------------------


def test_every_rank_once_is_uniform_and_covers_exactly():
    found = calibration.judgement(np.arange(calibration.DRAWS + 1), 0.05)
    assert [found[name] for name in ("outside_band", *calibration.LEVELS)] == [0, 0.5, 0.8, 0.9]
    assert [found[name] for name in calibration.RANKS] == [50] * calibration.BINS


def test_uniform_ranks_leave_the_band_as_often_as_it_says():
    ranks, limit = (
        np.random.default_rng(0).integers(calibration.DRAWS + 1, size=(2_000, 300)),
        calibration.critical(300),
    )
    found = pd.DataFrame([calibration.judgement(of_users, limit) for of_users in ranks])
    assert found["outside_band"].mean() == pytest.approx(0.05, abs=0.015)
    assert found["coverage_80%"].mean() == pytest.approx(0.8, abs=0.003)


def test_the_test_says_outside_where_the_drawn_ecdf_leaves_the_drawn_band():
    ranks = np.random.default_rng(1).integers(60, calibration.DRAWS + 1, size=(300, 80))
    limit, (lower, upper) = calibration.critical(80), calibration.band(80)
    said = []
    for of_users in ranks:
        found = calibration.judgement(of_users, limit)
        curve = np.cumsum([found[name] for name in calibration.RANKS])[:-1] / 80 - calibration.POINTS
        assert bool(found["outside_band"]) == bool(((curve < lower) | (curve > upper)).any())
        said.append(found["outside_band"])
    assert 0.1 < np.mean(said) < 0.9


@pytest.mark.parametrize(("times_sd", "off", "outside"), [(1, 0, 0), (0.85, 0, 1), (1.2, 0, 1), (1, 0.15, 1)])
def test_of_a_gaussian_posterior_only_the_exact_one_passes(times_sd, off, outside):
    """z ~ Normal(0, 1), y ~ Normal(z, 1): z given y ~ Normal(y / 2, 1 / 2)."""
    rng, sd = np.random.default_rng(2), 0.5**0.5
    z = rng.normal(size=2_000)
    mean = (z + rng.normal(size=2_000)) / 2 + off * sd
    draws = mean + times_sd * sd * rng.normal(size=(calibration.DRAWS, 2_000))
    found = calibration.judgement((draws < z).sum(0), 0.01)
    assert found["outside_band"] == outside
    ends = norm.ppf([0.05, 0.95]) * times_sd + off
    assert found["coverage_90%"] == pytest.approx(np.diff(norm.cdf(ends))[0], abs=0.02)


@pytest.mark.parametrize("k", [0.2, 0.6, 1.2])
def test_pareto_weights_have_their_k(k):
    weights = np.random.default_rng(3).pareto(1 / k, size=(4_000, 30)) + 1
    assert calibration.pareto_k(np.log(weights)).mean() == pytest.approx(k, abs=0.1)


# --- The guides ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged():
    """Of the world's own parameters; here the expansions stand in the Transformers' place too."""
    sim = simulate(Design(users=500, preference_factors=2, categories=12, edges=EDGES), 1)
    return pd.DataFrame(calibration.judged(true_expansion(sim, 15), logs_of(sim), 1)).set_index(
        ["guide", "quantity"]
    )


def test_the_guide_that_is_nearly_exact_passes(judged):
    expansions = judged.loc["expansions"]
    assert expansions.loc[FACTORS, "outside_band"].sum() <= 1
    assert expansions["coverage_90%"].to_numpy() == pytest.approx(0.9, abs=0.045)
    assert (expansions.loc[FACTORS, "contraction"] > 0.7).all()
    assert (expansions["khat_median"] < 0.7).all()


def test_the_collapsed_guide_passes_by_its_factors_and_fails_by_the_log_likelihood(judged):
    collapsed = judged.loc["collapsed"]
    assert collapsed.loc[FACTORS, "outside_band"].sum() <= 1
    assert collapsed.loc[FACTORS, "coverage_80%"].to_numpy() == pytest.approx(0.8, abs=0.06)
    assert collapsed.loc[FACTORS, "contraction"].to_numpy() == pytest.approx(0, abs=1e-5)
    assert collapsed.loc["log likelihood", "outside_band"] == 1
    assert collapsed.loc["log likelihood", "rank_20"] > 400  # of 500: the truth explains its events best
    assert (collapsed["khat_unreliable"] > 0.9).all()


def test_the_over_confident_guide_fails(judged):
    narrow, encoded = judged.loc["over-confident"], judged.loc["Transformers"]
    assert (narrow["outside_band"] == 1).all()
    assert narrow.loc[FACTORS, "coverage_90%"].mean() == pytest.approx(
        2 * norm.cdf(calibration.NARROW * norm.ppf(0.95)) - 1, abs=0.03
    )
    left = 1 - encoded.loc[FACTORS, "contraction"]
    assert narrow.loc[FACTORS, "contraction"].to_numpy() == pytest.approx(
        1 - calibration.NARROW**2 * left, abs=1e-4
    )
    assert narrow["khat_median"].iloc[0] > encoded["khat_median"].iloc[0] + 0.1


def test_the_log_likelihood_is_of_all_events():
    guide, logs = true_expansion(sim := simulate(Design(users=20, edges=()), 0)), logs_of(sim)
    trace = poutine.trace(at(guide.model, guide.coefficients.means())).get_trace(logs)
    found = calibration.quantities(trace)
    assert torch.equal(found[:, :-1], trace.nodes["_RETURN"]["value"])
    assert torch.allclose(found[:, -1], log_joint(trace) - log_prob(trace, "noise"), atol=1e-3)


def test_the_users_events_are_drawn_anew():
    """Of the logs only covariates and event numbers count."""
    sim = simulate(Design(users=60, preference_factors=2, categories=12, edges=EDGES), 2)
    logs, dealt = logs_of(sim), np.random.default_rng(0).permutation(12)
    other = logs._replace(search=logs.search[:, dealt], exposure=logs.exposure[:, dealt])
    first, second = (calibration.judged(true_expansion(sim, 15), of, 0) for of in (logs, other))
    assert first == second


# --- Replications and results --------------------------------------------------------------------------------


def test_quick_form_writes_table_summary_and_figure(quick):
    out, said = quick
    results = pd.read_csv(out / "results.csv")
    assert len(results) == 4 * 5
    assert set(results["quantity"]) == {*FACTORS, "log likelihood"}
    assert (results.filter(like="rank_").sum(axis=1) == 80).all()
    factors = results[results["quantity"] != "log likelihood"]
    assert factors.notna().all(axis=None)
    by_guide = factors.groupby("guide")[["contraction", "coverage_90%"]].mean()
    assert by_guide["contraction"].idxmin() == "collapsed"
    assert by_guide["coverage_90%"].idxmin() == "over-confident"
    assert "Fits that failed: 0." in said
    assert "| collapsed | log likelihood | 1.000" in said
    assert (out / "calibration.png").stat().st_size > 10_000


def test_a_replication_is_redone_to_the_same(quick, tmp_path):
    kept = json.loads((quick[0] / "replications" / "0.json").read_text())["results"]
    rows = calibration.replicate(0, True, tmp_path / "scratch")["results"]
    assert [{"commit": kept[0]["commit"]} | row for row in rows] == kept
    assert not list(tmp_path.iterdir())


def test_standard_errors_are_over_seeds_and_not_over_the_factors_of_a_channel():
    results = pd.DataFrame(
        {"guide": "g", "quantity": "platform factors", "seed": [0, 0, 1, 1], "x": [0.1, 0.3, 0.5, 0.7]}
    )
    assert calibration.performance(results, ["guide", "quantity"], ["x"])["x"].tolist() == ["0.400 ± 0.200"]


def test_every_replication_is_in_the_figure(quick):
    one = pd.read_csv(quick[0] / "results.csv")
    one["quantity"] = one["quantity"].str.replace(r"_\d$", " factors", regex=True)
    figure = calibration._draw(pd.concat([one.assign(seed=seed) for seed in range(3)]))
    panels = np.reshape(figure.axes, (4, 4))
    assert [[len(ax.lines) for ax in row] for row in panels[:3]] == [[6] * 4, [6] * 4, [3] * 4]
    counts = one.loc[one["guide"] == "collapsed", calibration.RANKS].iloc[-1].to_numpy()
    curve = counts.cumsum()[:-1] / 80 - calibration.POINTS
    assert panels[2, 2].lines[0].get_ydata() == pytest.approx(curve)
    dots = [
        [len(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection)] for ax in panels[3]
    ]
    assert dots == [[3] * 12, [3] * 4, [3] * 4, [3] * 4]
