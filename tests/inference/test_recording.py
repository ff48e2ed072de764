"""Claims about recorded steps, on a machine with a GPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.inference import recording, stage
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.stage import Stage
from pyro_hmvcrl.inference.svi import fit
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

from worlds import kill_a_fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

SETTINGS = Settings(2, 3, restarts=1, steps=40, encoder_steps=40, batch_size=128, device="cuda")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "data"
    write_simulation(simulate(Design(users=200), 0), folder, seed=0)
    return read_dataset(folder)


def test_a_recorded_fit_is_that_of_plain_steps(dataset, monkeypatch):
    """Its bounds, step by step: before and after the graph is oriented, and the encoders', which are in bfloat16.

    Rounding in bfloat16 sends the encoders' weights their own ways, but not the model's, which is done before.
    """
    recorded = fit(dataset, SETTINGS)
    monkeypatch.setattr(recording, "PLAIN_CALLS", 10**9)
    launched = fit(dataset, SETTINGS)
    assert launched.guide.model.zero.is_cuda
    assert len(set(recorded.history["bound"])) == 80  # each step has users of its own
    assert np.allclose(recorded.history["bound"], launched.history["bound"], atol=0.1)
    models = (found.guide.model.parameters() for found in (recorded, launched))
    for one, other in zip(*models, strict=True):
        assert torch.allclose(one, other, atol=1e-3)


def test_a_fit_on_a_gpu_is_that_on_a_cpu(dataset):
    """The bound at the end of each stage; the random numbers are others."""
    settings = replace(SETTINGS, steps=200, encoder_steps=200)
    on_gpu, on_cpu = (fit(dataset, replace(settings, device=device)) for device in ("cuda", "cpu"))
    assert on_gpu.restarts[0].bound == pytest.approx(on_cpu.restarts[0].bound, abs=1.0)
    assert on_gpu.bound[0] == pytest.approx(on_cpu.bound[0], abs=2.0)


@pytest.mark.parametrize("killed_in", ["restart 1 of 1", "encoders"])
def test_a_killed_fit_goes_on(dataset, tmp_path, monkeypatch, killed_in):
    monkeypatch.setattr(stage, "CHECKPOINT_EVERY", 10)
    whole = fit(dataset, SETTINGS)
    kill_a_fit(dataset, SETTINGS, tmp_path, killed_in, 27)
    resumed = fit(dataset, SETTINGS, checkpoints=tmp_path)
    assert np.allclose(resumed.history["bound"], whole.history["bound"], atol=0.1)


def test_a_bound_that_is_not_finite_ends_a_recorded_fit(dataset, monkeypatch):
    rate = Stage.rate
    monkeypatch.setattr(Stage, "rate", lambda stage, step: float("nan") if step == 25 else rate(stage, step))
    with pytest.raises(FloatingPointError, match=r"restart 1 of 1: the bound is nan at step 26"):
        fit(dataset, SETTINGS)
