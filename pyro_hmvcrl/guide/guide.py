"""The guide: a posterior over the structural coefficients, and a product of experts over each user's noise.

What is the user's own, z, the factors and readiness, gets one Gaussian expert per source, multiplied in the space of z:
the model's own prior given the covariates, a search expert and a recommendation expert.  With
A = I - B' and full-precision experts::

    precision = A' diag(s^-2) A + Lambda_S + Lambda_R
    precision @ mean = A' diag(s^-2) m + Lambda_S mu_S + Lambda_R mu_R

(Product of experts: Hinton 2002; as a posterior over views: Wu & Goodman 2018.)  Full precision matters: diagonal
experts prefer rotated factors.  A surface without events contributes no expert: its Lambda is zero.

Two guides differ in where the experts come from:

:class:`TransformerGuide`
    Two Transformer encoders, one a surface, read the events: the guide of a fitted run.  Its posteriors go on from
    their answer by a few steps of the expansion.
:class:`ExpansionGuide`
    The second-order expansion of the emissions about each user's mode.  It has nothing to learn, so the model itself
    can be fitted in seconds: the guide of the restarts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from pyro_hmvcrl.guide.experts import (
    Expert,
    PrecisionNormal,
    Prior,
    combined,
    expanded_about,
    matvec,
    on_cpu,
    product_of_experts,
    widened,
)
from pyro_hmvcrl.story.logs import Logs, SparseLogs
from pyro_hmvcrl.story.mechanisms import linear
from pyro_hmvcrl.story.model import HMVCRL, OfPast

USERS_AT_ONCE = 1_024  #: where no gradient is asked for, which bounds the memory
STEPS_TO_THE_MODE = 15  #: of Fisher scoring, for a user whose mode is not known
#: The same for one whose mode is known, of a model that has moved on since.  With 2, restarts of many users get stuck.
STEPS_FROM_AFAR = 4
MANY = 200  #: categories, beyond which work that goes through all of them is saved where it can be
#: Standard deviations of the noise: of many categories, steps end where no user moves by more.
AT_THE_MODE = 1e-2
#: Standard deviations of importance sampling's particles, in those of the expansion: tails that cover the posterior's.
TAILS = 1.15


class CoefficientPosterior(nn.Module):
    """Independent Normals over the structural coefficients; of a fitted run, draws of their joint posterior."""

    joint: dict[str, Tensor] | None = None  #: (D, ...) by name, once they are known

    def __init__(self, model: HMVCRL) -> None:
        super().__init__()
        start = {"platform_location": 0.3, "preference_location": 0.3, "a": 0.1}
        start |= {"platform_log_scale": 0.1, "preference_log_scale": 0.1}
        shapes = {name: shape for name, (_, _, shape) in model.priors.items()}
        self.loc = nn.ParameterDict({n: start.get(n, 0.0) * torch.randn(s) for n, s in shapes.items()})
        self.log_sd = nn.ParameterDict({n: torch.full(s, -4.0) for n, s in shapes.items()})

    def forward(self) -> dict[str, Tensor]:
        if self.joint is not None:
            n_draws = len(self.joint["b"])
            one = pyro.sample("draw", dist.Categorical(torch.ones(n_draws)), infer={"is_auxiliary": True})
            return {
                name: pyro.sample(name, dist.Delta(draws[one], event_dim=draws.dim() - 1))
                for name, draws in self.joint.items()
            }
        return {
            name: pyro.sample(name, dist.Normal(loc, self.log_sd[name].exp()).to_event(loc.dim()))
            for name, loc in self.loc.items()
        }

    def means(self) -> dict[str, Tensor]:
        return dict(self.loc.items())


class Guide(nn.Module):
    """Coefficients, then the product of experts.  It holds the model, whose prior is one of the experts."""

    def __init__(self, model: HMVCRL) -> None:
        super().__init__()
        self.model = model
        self.coefficients = CoefficientPosterior(model)

    def experts(self, logs: Logs, prior: Prior) -> list[Expert]:
        """The surfaces' experts."""
        raise NotImplementedError

    def prior(self, coefficients: dict[str, Tensor], logs: Logs) -> Prior:
        """The factors given the covariates, with the graph solved, and readiness, which owes nothing to these."""
        location, scale = self.model.mechanisms(
            coefficients, logs.exposure_covariates, logs.preference_covariates
        )
        inverse = self.model.graph.inverse(coefficients["edges"])
        readiness = self.model.readiness_scale(coefficients).expand(*scale.shape[:-1], 1)
        turn = pad(inverse, (0, 1, 0, 1)) + pad(
            torch.ones_like(inverse[..., :1, :1]), (self.model.n_factors, 0) * 2
        )
        return Prior(
            pad(linear(location, inverse.mT), (0, 1)), turn * torch.cat([scale, readiness], -1).unsqueeze(-2)
        )

    def forward(self, logs: Logs) -> None:
        """Sites: the structural coefficients and the noise."""
        noise = self.noise(self.coefficients(), logs)
        with pyro.plate("users", logs.n_users, subsample=logs.index):
            pyro.sample("noise", noise)

    def noise(self, coefficients: dict[str, Tensor], logs: Logs) -> PrecisionNormal:
        """Distribution of the users' noise at these coefficients."""
        prior = self.prior(coefficients, logs)
        return product_of_experts(prior, self.experts(logs, prior), check=on_cpu(prior))

    def expansion(self, n_users: int) -> ExpansionGuide:
        """The expansion guide of this one's model and coefficients, for other users."""
        return ExpansionGuide.of(self, n_users)

    def proposal(self, logs: Logs) -> PrecisionNormal:
        """What importance sampling draws these users' noise from: the expansion at its mode, with wider tails."""
        _, noise = self.expansion(len(logs.index)).posterior(logs.numbered())
        return noise.wider(TAILS)

    def added(self, logs: Logs) -> OfPast | None:
        """What the past adds to the logits of each period, at the coefficients' means; none with one period."""
        if logs.n_periods == 1:
            return None
        return self.model.given_past(self.coefficients.means(), logs.exposure_covariates, logs)

    @torch.no_grad()
    def posterior(self, logs: Logs) -> tuple[Prior, PrecisionNormal]:
        """Prior and noise posterior of the users, at the coefficients' means."""
        prior = self.prior(self.coefficients.means(), logs)
        return prior, product_of_experts(prior, [self.evidence(logs)])

    @torch.no_grad()
    def evidence(self, logs: Logs | SparseLogs) -> Expert:
        """What the users' own logs say of their factors, at the coefficients' means: the surfaces' experts as one."""
        return in_batches(self.own_evidence, logs)

    def encoded(self, logs: Logs | SparseLogs) -> Expert:
        """The same as the experts alone have it, without what a guide makes of it afterwards."""
        return in_batches(partial(Guide.own_evidence, self), logs)

    def own_evidence(self, users: Logs) -> Expert:
        """:meth:`evidence` of a batch."""
        return combined(self.experts(users, self.prior(self.coefficients.means(), users)))


@torch.no_grad()
def in_batches(of_batch: Callable[[Logs], Expert], logs: Logs | SparseLogs) -> Expert:
    """The experts of all users, of `USERS_AT_ONCE` at a time."""
    return Expert(*map(torch.cat, zip(*map(of_batch, logs.batches(USERS_AT_ONCE)), strict=True)))


class ExpansionGuide(Guide):
    """Each emission's expansion to second order (with Fisher information) about the user's posterior mode.

    Multiplied, they are the Laplace approximation of the user's posterior.  The mode is found by Fisher scoring,
    and kept for the users of the training set: two steps do for users who come up in every batch.
    """

    mode: Tensor  #: (N, K + 1), of the noise

    def __init__(self, model: HMVCRL, n_users: int, scoring_steps: int = 2) -> None:
        super().__init__(model)
        self.scoring_steps = scoring_steps
        self.register_buffer("mode", torch.zeros(n_users, model.n_noise))

    @classmethod
    def of(cls, guide: Guide, n_users: int) -> ExpansionGuide:
        """An expansion guide of the same model and coefficients, for users whose modes are not known yet."""
        expansion = cls(guide.model, n_users, STEPS_TO_THE_MODE).to(guide.model.zero.device)
        expansion.coefficients = guide.coefficients
        return expansion

    def expansion(self, n_users: int) -> ExpansionGuide:
        return self.of(self, n_users)  # of its own class

    @torch.no_grad()
    def noise(self, coefficients: dict[str, Tensor], logs: Logs) -> PrecisionNormal:
        """What importance sampling draws from: a little wider than the posterior, and without a gradient.

        So the model's gradient is that of Fisher's identity, a posterior expectation (the wake phase of Bornschein &
        Bengio 2015).  A gradient through these draws would take the experts for constants, which they are not.
        """
        return super().noise(coefficients, logs).wider(TAILS)

    @torch.no_grad()
    def experts(self, logs: Logs, prior: Prior) -> list[Expert]:
        coefficients, mode = self.coefficients.means(), self.mode[logs.index]
        added = self.added(logs)
        for _ in range(self.scoring_steps):
            experts = self.expand(logs, coefficients, prior.base + matvec(prior.turn, mode), added)
            step = product_of_experts(prior, experts, check=on_cpu(prior)).mean - mode
            size = step.norm(dim=-1, keepdim=True)
            mode = mode + step * (1.5 / size.clamp_min(1.5))
            if logs.exposure.shape[-1] > MANY and on_cpu(prior) and float(size.max()) < AT_THE_MODE:
                break
        self.mode[logs.index] = mode
        return experts

    def expand(
        self, logs: Logs, coefficients: dict[str, Tensor], z: Tensor, added: OfPast | None = None
    ) -> list[Expert]:
        """Experts of search, exposure, engagement and suggested searches: their expansions about ``z (N, K + 1)``.

        `added` is what the past adds to the logits of each period.
        """
        model, c = self.model, coefficients
        n_platform, n_preference = model.n_platform, model.n_factors - model.n_platform
        factors, readiness = z[..., :-1], z[..., -1]
        platform, preference = model.channels(factors)
        user = model.of_user(c, factors, readiness, logs.exposure_covariates)
        past = added or OfPast(None, None, None)
        of_search, of_exposure = model.f_search.jacobian(preference), model.f_exposure.jacobian(platform)
        search = expand_categories(user.search, of_search, logs.search, preference, past.search)
        exposure = expand_categories(user.exposure, of_exposure, logs.exposure, platform, past.exposure)
        of_all = torch.ones_like(c["b"]).unsqueeze(-1)
        loadings = torch.cat([of_all * c["alpha"], c["a"], of_all], -1)  # (C, K + 1)
        engagement = expand_engagement(logs, user.engagement, loadings, z, past.engagement)
        experts = [widened(search, n_platform, 1), widened(exposure, 0, n_preference + 1), engagement]
        if user.suggested is not None:
            jacobian = torch.cat([model.f_suggested.jacobian(platform), c["echo"] * of_search], -2)
            suggested = expand_categories(user.suggested, jacobian, logs.by_category.suggested, factors)
            experts.append(widened(suggested, 0, 1))
        return experts


def expand_engagement(
    logs: Logs, logits: Tensor, loadings: Tensor, z: Tensor, past: Tensor | None = None
) -> Expert:
    """Expansion about ``z (N, K + 1)`` of engagement with these logits ``(N, C)`` and loadings ``(C, K + 1)``."""
    probability = (logits if past is None else logits.unsqueeze(-2) + past).sigmoid()
    expected = logs.exposure * probability
    spread, surplus = expected * (1 - probability), logs.engagement - expected
    if past is not None:
        spread, surplus = spread.sum(1), surplus.sum(1)
    outer = (loadings.unsqueeze(-1) * loadings.unsqueeze(-2)).flatten(1)
    fisher = (spread @ outer).unflatten(-1, loadings.shape[1:] * 2)
    return expanded_about(z, surplus @ loadings, fisher)


def expand_categories(
    logits: Tensor, jacobian: Tensor, counts: Tensor, z: Tensor, past: Tensor | None = None
) -> Expert:
    """Expansion about the factors ``z (N, K)`` of a surface's counts ``(N, C)``, or ``(N, T, C)`` after a `past`.

    `jacobian` ``(N, K, C)`` is the derivative of the logits ``(N, C)`` by the factors.
    """
    if past is None:
        logits, counts = logits.unsqueeze(1), counts.unsqueeze(1)
    probability = (logits if past is None else logits.unsqueeze(1) + past).softmax(-1)  # (N, T, C)
    total = counts.sum(-1, keepdim=True)
    expected = (total * probability).sum(1, keepdim=True)  # of all periods (N, 1, C)
    usual = probability if past is None else expected / expected.sum(-1, keepdim=True).clamp_min(1e-9)
    centred = jacobian - (jacobian * usual).sum(-1, keepdim=True)
    fisher = (centred * expected) @ centred.mT
    if past is not None:  # a period's events are less spread than those of all periods together
        means = probability @ centred.mT  # (N, T, K)
        fisher = fisher - (means * total).mT @ means
    return expanded_about(z, matvec(jacobian, (counts.sum(1, keepdim=True) - expected).squeeze(1)), fisher)
