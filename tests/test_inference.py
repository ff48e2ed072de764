"""Claims about SVI: the bound, seeds, resuming, and that it finds the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_hmvcrl import inference as i
from pyro_hmvcrl import simulate as s
from pyro_hmvcrl.dataset import read_dataset
from pyro_hmvcrl.guide import ExpansionGuide
from pyro_hmvcrl.identifiability import mcc

from worlds import logs_of, model_of, true_expansion

SMALL = s.Design(users=120, categories=6)
QUICK = i.Settings(
    2, 3, restarts=2, steps=12, encoder_steps=8, batch_size=32, encoder_batch_size=32, device="cpu"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "data"
    s.write_simulation(s.simulate(SMALL, 0), folder, seed=0)
    return read_dataset(folder)


def same(one: i.Fit, two: i.Fit) -> bool:
    pairs = zip(one.guide.state_dict().values(), two.guide.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and one.history.equals(two.history)


def test_the_same_seed_gives_the_same_run_to_the_last_digit(dataset):
    one, two = i.fit(dataset, QUICK), i.fit(dataset, QUICK)
    assert same(one, two)
    assert not same(one, i.fit(dataset, replace(QUICK, seed=1)))


@pytest.mark.parametrize("killed_in", ["restart 2 of 2", "encoders"])
def test_a_killed_fit_goes_on_to_the_same_numbers(dataset, tmp_path, monkeypatch, killed_in):
    monkeypatch.setattr(i, "CHECKPOINT_EVERY", 3)
    whole = i.fit(dataset, QUICK)
    rate = i.Stage.rate

    def killed(stage, step):
        if stage.name == killed_in and step == 7:
            raise KeyboardInterrupt
        return rate(stage, step)

    monkeypatch.setattr(i.Stage, "rate", killed)
    with pytest.raises(KeyboardInterrupt):
        i.fit(dataset, QUICK, checkpoints=tmp_path)
    steps_run = []
    monkeypatch.setattr(
        i.Stage, "rate", lambda stage, step: steps_run.append(stage.name) or rate(stage, step)
    )
    resumed = i.fit(dataset, QUICK, checkpoints=tmp_path)
    assert same(whole, resumed)
    assert steps_run.count("restart 1 of 2") == 0  # finished ones are not redone
    assert 0 < steps_run.count(killed_in) <= 6


def test_a_fit_does_not_touch_the_caller_s_random_numbers(dataset):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    i.fit(dataset, replace(QUICK, restarts=1))
    assert torch.equal(torch.rand(3), expected)


def test_the_importance_weighted_bound_is_the_tighter_one():
    sim = s.simulate(SMALL, 0)
    guide = true_expansion(sim, scoring_steps=15)
    bounds = {}
    for particles, weighted in ((2, False), (8, True), (64, True)):
        elbo = i.UserELBO(particles, weighted)
        losses = [elbo.differentiable_loss(guide.model, guide, logs_of(sim)).item() for _ in range(5)]
        bounds[particles] = -np.mean(losses)
    assert bounds[2] < bounds[8] < bounds[64] + 0.02


def test_the_bound_is_the_log_evidence_of_a_user_without_events():
    """Then prior and posterior agree, and every weight is one."""
    sim = s.simulate(SMALL, 0)
    guide = ExpansionGuide(model_of(sim), 120)
    logs = logs_of(sim)
    nothing = logs._replace(
        search=logs.search * 0, exposure=logs.exposure * 0, engagement=logs.engagement * 0
    )
    assert i.user_bounds(guide, nothing).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"restarts": 0}, "restarts is 0: it must be at least 1"),
        ({"device": "tpu"}, "choose auto, cpu or cuda"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **change)


def test_too_few_users_are_refused(dataset):
    with pytest.raises(ValueError, match="10 users, 1 of them held out: too few"):
        i.fit(dataset.subset(np.arange(10)), QUICK)


def test_a_gpu_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        assert i.choose_device("auto").type == "cuda"
    else:
        assert i.choose_device("auto").type == "cpu"
        with pytest.raises(ValueError, match="no GPU here"):
            i.choose_device("cuda")


def test_factors_and_edges_of_a_known_world_are_found():
    """A short run of the first stage, on half of the default world's users; the studies show the full one."""
    sim = s.simulate(s.Design(users=2_000), 0)
    settings = replace(QUICK, restarts=1, steps=400, batch_size=512)
    start, bounds = i._run_restart(0, logs_of(sim), logs_of(sim), settings, None, False)
    assert bounds[-1] > bounds[0] + 5
    assert mcc(sim.platform, start.factors[:, :2]).value > 0.96
    found = mcc(sim.preference, start.factors[:, 2:])
    assert found.value > 0.92
    edges = (start.guide.coefficients.loc["edges"] * start.guide.model.graph.allowed).detach().numpy()
    platform = mcc(sim.platform, start.factors[:, :2])
    for true_source, true_target, weight in ((0, 0, 0.8), (1, 1, -0.8)):
        j, k = platform.assignment[true_source], 2 + found.assignment[true_target]
        sign = platform.signs[true_source] * found.signs[true_target]
        assert sign * edges[j, k] == pytest.approx(weight, abs=0.2)


def test_the_restart_that_is_kept_is_brought_to_the_mode(dataset, monkeypatch):
    brought = []
    monkeypatch.setattr(i, "score_to_the_mode", lambda guide, logs, *_: brought.append((guide, logs.n_users)))
    screened = i.screen(dataset, QUICK)
    [(guide, n_users)] = brought
    assert guide is screened.guide is screened.restarts[screened.selected].guide
    assert n_users == len(screened.train.index) == (~screened.held_out).sum()
    assert screened.restarts[screened.selected].bound == max(r.bound for r in screened.restarts)


def test_a_study_may_build_the_guide_of_a_restart_itself(dataset):
    def without_edges(model, n_users):
        model.graph.allowed.zero_()
        return ExpansionGuide(model, n_users)

    screened = i.screen(dataset, QUICK, build=without_edges)
    assert (screened.guide.model.graph.allowed == 0).all()
    assert all(np.isfinite(r.bound) for r in screened.restarts)
