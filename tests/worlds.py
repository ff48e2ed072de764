"""What several tests share: a true world as a model, its logs as tensors, a fit made short, and one that is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pyro_hmvcrl.data.dataset import Dataset
from pyro_hmvcrl.guide.guide import CoefficientPosterior, ExpansionGuide
from pyro_hmvcrl.inference import curvature
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.stage import Stage
from pyro_hmvcrl.inference.svi import fit
from pyro_hmvcrl.story.logs import Cohort, Logs
from pyro_hmvcrl.story.model import HMVCRL
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import Simulation
from pyro_hmvcrl.synthetic.world import Emission

EDGES = (("platform_1", "preference_1", 0.8), ("preference_2", "platform_2", -0.8))  # both ways
TWO_AND_TWO = Design(preference_factors=2, exposure_covariates=3, preference_covariates=3, edges=EDGES)


def tensor(array) -> torch.Tensor:
    return torch.as_tensor(array, dtype=torch.float32)


def logs_of(sim: Simulation) -> Logs:
    return Logs.of(*sim.observed)


def everyone(logs: Logs) -> Cohort:
    return logs.only(torch.arange(len(logs.index)))


def model_of(sim: Simulation) -> HMVCRL:
    """A model of the world's sizes, oriented as the world is."""
    d = sim.world.design
    model = HMVCRL(
        d.platform_factors,
        d.preference_factors,
        d.exposure_covariates,
        d.preference_covariates,
        d.categories,
        past=d.has_loop,
        suggested=d.suggestion > 0,
    )
    model.graph.orient(tensor(sim.world.edges))
    return model


def true_coefficients(sim: Simulation) -> dict[str, torch.Tensor]:
    return {n: tensor(value) for n, value in sim.world.parameters().items() if "." not in n}


@torch.no_grad()
def set_truth(model: HMVCRL, coefficients: CoefficientPosterior, sim: Simulation) -> None:
    """Give the decoders and the coefficients their true values."""
    emissions = sim.world.search, sim.world.exposure, sim.world.suggested
    for decoder, emission in zip(model.decoders, emissions, strict=False):
        copy_emission(decoder, emission)
    for name, value in true_coefficients(sim).items():
        coefficients.loc[name].copy_(value)


def true_expansion(sim: Simulation, scoring_steps: int = 2) -> ExpansionGuide:
    """An expansion guide, with its model, that has the world's parameters."""
    guide = ExpansionGuide(model_of(sim), len(sim.factors), scoring_steps)
    set_truth(guide.model, guide.coefficients, sim)
    return guide


@torch.no_grad()
def copy_emission(decoder, emission: Emission) -> None:
    for name in ("intercept", "linear", "inner", "outer"):
        getattr(decoder, name).copy_(tensor(getattr(emission, name)))
    decoder.shift.zero_()


def make_few_logs(patch: pytest.MonkeyPatch) -> None:
    """Let a fit of many categories make fewer logs for its curvature, which is most of the work of a short one."""
    for name, fewer in {"MADE_A_DIRECTION": 4, "DIRECTIONS": 20}.items():
        patch.setattr(curvature, name, fewer)


def kill_a_fit(dataset: Dataset, settings: Settings, checkpoints: Path, stage: str, step: int) -> None:
    """Interrupt it in this step of the stage of this name."""
    rate = Stage.rate

    def killed(at: Stage, now: int) -> float:
        if at.name == stage and now == step:
            raise KeyboardInterrupt
        return rate(at, now)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Stage, "rate", killed)
        with pytest.raises(KeyboardInterrupt):
            fit(dataset, settings, checkpoints)
