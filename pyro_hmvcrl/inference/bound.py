"""The bound that is maximised: importance-weighted, user by user."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor

from pyro_hmvcrl.guide.experts import PrecisionNormal
from pyro_hmvcrl.guide.guide import Guide
from pyro_hmvcrl.story.logs import Cohort, Logs
from pyro_hmvcrl.story.model import HMVCRL
from pyro_hmvcrl.story.programs import Program, at, log_joint, log_prob, observe

EVALUATION_PARTICLES = 64
EVALUATED_AT_ONCE = 256  #: users, which bounds the memory
UNRELIABLE = 0.7  #: Pareto k-hat above which importance weights are not to be trusted (Vehtari et al. 2024)


class UserELBO(ELBO):
    """The evidence lower bound a user, importance-weighted user by user, with the log prior of the decoders' weights.

    ``pyro.infer.RenyiELBO`` weighs whole batches against each other, which for independent users is loose; here
    each user has weights of its own.  `particles` come in antithetic pairs.  Without importance weighting the
    gradient is the path derivative.
    """

    def __init__(self, particles: int, importance_weighted: bool) -> None:
        super().__init__(num_particles=particles)
        self.importance_weighted = importance_weighted

    def differentiable_loss(self, model: HMVCRL, guide: Guide, logs: Logs) -> Tensor:
        """Minus the bound, nats a user, as a mean over the batch."""
        model_trace, guide_trace = self._get_trace(model, guide, (logs,), {})
        log_weights = self.log_weights(model_trace, guide_trace)
        bound = _log_mean(log_weights) if self.importance_weighted else log_weights.mean(0)
        names = guide.coefficients.loc.keys()
        coefficients = torch.stack([log_prob(model_trace, n) - log_prob(guide_trace, n) for n in names])
        decoders = torch.stack([decoder.log_prior() for decoder in model.decoders]).sum()
        return -(bound.mean() + (coefficients.sum() + decoders) / logs.n_users)

    def _get_trace(
        self, model: HMVCRL, guide: Guide, args: tuple[Logs], kwargs: dict[str, Any]
    ) -> tuple[poutine.Trace, poutine.Trace]:
        """One draw of the coefficients, and `particles` of the noise under it."""
        guide_trace = poutine.trace(guide).get_trace(*args)
        posterior: PrecisionNormal = guide_trace.nodes["noise"]["fn"]
        noise = posterior.antithetic(self.num_particles)
        held = poutine.condition(observe(model, *args), data={"noise": noise})
        return poutine.trace(poutine.replay(held, guide_trace)).get_trace(*args), guide_trace

    def log_weights(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Tensor:
        """Log importance weights ``(particles, B)`` of the users."""
        posterior: PrecisionNormal = guide_trace.nodes["noise"]["fn"]
        scored_under = posterior if self.importance_weighted else posterior.detach()
        return log_joint(model_trace) - scored_under.log_prob(model_trace.nodes["noise"]["value"])


def _log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - math.log(len(log_weights))


@torch.no_grad()
def user_bounds(guide: Guide, logs: Logs | Cohort) -> Tensor:
    """Importance-weighted bound ``(N,)`` of each user's log evidence, nats, at the coefficients' means."""
    batches = logs.batches(EVALUATED_AT_ONCE)
    return torch.cat([_log_mean(importance_weights(guide, users, EVALUATION_PARTICLES)) for users in batches])


@torch.no_grad()
def user_log_likelihood(guide: Guide, draws: Mapping[str, Tensor], logs: Logs) -> Tensor:
    """Log likelihood ``(D, N)`` of each user's events under each draw of coefficients and decoder weights, nats.

    The noise is integrated out by importance sampling from the expansion guide at the coefficients' means, with the
    same particles for all draws.
    """
    found = []
    for users in logs.batches(EVALUATED_AT_ONCE):
        proposal = guide.proposal(users)
        noise = proposal.antithetic(EVALUATION_PARTICLES)
        under = [
            log_joint_at(at(guide.model, {n: values[i] for n, values in draws.items()}), users, noise)
            for i in range(len(draws["b"]))
        ]
        found.append(_log_mean(torch.stack(under, 1) - proposal.log_prob(noise).unsqueeze(1)))
    return torch.cat(found, -1)


@torch.no_grad()
def importance_weights(guide: Guide, users: Logs, particles: int) -> Tensor:
    """Log importance weights ``(particles, B)`` of the guide's draws of these users' noise, at the means."""
    posterior = guide.posterior(users)[1]
    noise = posterior.antithetic(particles)
    return log_joint_at(at(guide.model, guide.coefficients.means()), users, noise) - posterior.log_prob(noise)


def log_joint_at(story: Program, users: Logs, noise: Tensor) -> Tensor:
    """Log probability ``(particles, B)`` of the users' events and this `noise` ``(particles, B, K + 1)``."""
    held = poutine.condition(observe(story, users), {"noise": noise})
    return log_joint(poutine.trace(held).get_trace(users))
