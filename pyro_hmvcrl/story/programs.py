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
    """The model conditioned on the users' events; the past of a period is that of these events."""
    events = {"search": logs.search, "exposure": logs.exposure, "engagement": logs.engagement}
    if logs.suggested is not None:
        events["suggested"] = logs.by_category.suggested
    conditioned: Program = pyro.condition(lambda logs: model(logs.given_past()), data=events)
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


def log_joint(trace: poutine.Trace) -> Tensor:
    """Log probability ``(particles, B)`` of the users' noise and events, in a trace of the model."""
    return torch.stack([log_prob(trace, name) for name in USER_SITES if name in trace.nodes]).sum(0)


def log_prob(trace: poutine.Trace, name: str) -> Tensor:
    """Of one site of a trace."""
    site = trace.nodes[name]
    value: Tensor = site["fn"].log_prob(site["value"])
    return value
