"""The story as a Pyro program under conditions: given the users' events, or at given values of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.func import functional_call

from pyro_hmvcrl.story.logs import Logs
from pyro_hmvcrl.story.model import HMVCRL, USER_SITES

Program = Callable[[Logs], Tensor]  #: the model, or the model under pyro.do and pyro.condition


def observe(model: Program, logs: Logs) -> Program:
    """The model conditioned on the users' events."""
    events = {"search": logs.search, "exposure": logs.exposure, "engagement": logs.engagement}
    conditioned: Program = pyro.condition(model, data=events)
    return conditioned


def at(model: HMVCRL, values: Mapping[str, Tensor]) -> Program:
    """The model at these structural coefficients and decoder weights, by name."""
    weights = {name: value for name, value in values.items() if name not in model.priors}

    def story(logs: Logs) -> Tensor:
        factors: Tensor = functional_call(model, weights, (logs,))
        return factors

    coefficients = {name: value for name, value in values.items() if name in model.priors}
    conditioned: Program = pyro.condition(story, data=coefficients)
    return conditioned


def side_by_side(model: HMVCRL, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """S draws ``(S, ...)`` of what :func:`at` takes, shaped so that the model at them is that of S times the users.

    Its noise is ``(S, N, K)``, and so is all that follows of it.
    """
    return {
        name: value if name not in model.priors and value.dim() == 3 else value.unsqueeze(1)
        for name, value in draws.items()
    }


def log_joint(trace: poutine.Trace) -> Tensor:
    """Log probability ``(particles, B)`` of the users' noise and events, in a trace of the model."""
    return torch.stack([log_prob(trace, name) for name in USER_SITES]).sum(0)


def log_prob(trace: poutine.Trace, name: str) -> Tensor:
    """Of one site of a trace."""
    site = trace.nodes[name]
    value: Tensor = site["fn"].log_prob(site["value"])
    return value
