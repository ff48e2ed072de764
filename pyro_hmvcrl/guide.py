"""The guide: a posterior over the structural coefficients, and a product of experts over each user's noise.

A user's factors get one Gaussian expert per source, multiplied in factor space z: the model's own prior given the
covariates, a search expert and a recommendation expert.  With A = I - B' and full-precision experts::

    precision = A' diag(s^-2) A + Lambda_S + Lambda_R
    precision @ mean = A' diag(s^-2) m + Lambda_S mu_S + Lambda_R mu_R

(Product of experts: Hinton 2002; as a posterior over views: Wu & Goodman 2018.)  Full precision matters: diagonal
experts prefer rotated factors.  A surface without events contributes no expert: its Lambda is zero.

Two guides differ in where the experts come from:

:class:`TransformerGuide`
    Two Transformer encoders, one a surface, read the events: the guide of a fitted run.
:class:`ExpansionGuide`
    The second-order expansion of the emissions about each user's mode.  It has nothing to learn, so the model itself
    can be fitted in seconds: the guide of the restarts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor, nn
from torch.nn.functional import pad, softplus

from pyro_hmvcrl.emissions import engagement_logits
from pyro_hmvcrl.mechanisms import linear
from pyro_hmvcrl.model import HMVCRL, Cohort, Logs

USERS_AT_ONCE = 1_024  #: where no gradient is asked for, which bounds the memory
STEPS_TO_THE_MODE = 15  #: of Fisher scoring, for a user whose mode is not known
#: The same for one whose mode is known, of a model that has moved on since.  With 2, restarts of many users get stuck.
STEPS_FROM_AFAR = 4
#: Standard deviations of importance sampling's particles, in those of the expansion: tails that cover the posterior's.
TAILS = 1.15


class Expert(NamedTuple):
    """A Gaussian factor ``exp(-z' precision z / 2 + z' information)`` of the posterior over z."""

    precision: Tensor  #: (N, K, K)
    information: Tensor  #: (N, K), precision @ mean


class Prior(NamedTuple):
    """The factors given the covariates: ``z = base + turn @ noise``."""

    base: Tensor  #: (N, K)
    turn: Tensor  #: (N, K, K)


class PrecisionNormal(TorchDistribution):
    """``Normal(mean, precision^-1)`` from the Cholesky factor of the precision: no matrix is inverted."""

    arg_constraints = {"mean": constraints.real_vector}  # noqa: RUF012 (torch's own convention)
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, mean: Tensor, precision_cholesky: Tensor) -> None:
        self._mean, self.precision_cholesky = mean, precision_cholesky
        super().__init__(mean.shape[:-1], mean.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self._mean

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> PrecisionNormal:
        k = self._mean.shape[-1]
        return PrecisionNormal(
            self._mean.expand(*batch_shape, k), self.precision_cholesky.expand(*batch_shape, k, k)
        )

    def detach(self) -> PrecisionNormal:
        return PrecisionNormal(self._mean.detach(), self.precision_cholesky.detach())

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        standard = torch.randn(self.shape(sample_shape), device=self._mean.device).unsqueeze(-1)
        root = self.precision_cholesky.mT.expand(*standard.shape[:-1], -1)
        return self._mean + torch.linalg.solve_triangular(root, standard, upper=True).squeeze(-1)

    def antithetic(self, n: int) -> Tensor:
        """`n` draws in pairs that mirror each other at the mean."""
        half = self.rsample(torch.Size([n // 2]))
        return torch.cat([half, 2 * self.mean - half])

    def wider(self, by: float) -> PrecisionNormal:
        """The same, with `by` times the standard deviation in every direction."""
        return PrecisionNormal(self._mean, self.precision_cholesky / by)

    def log_prob(self, value: Tensor) -> Tensor:
        standard = (self.precision_cholesky.mT @ (value - self._mean).unsqueeze(-1)).squeeze(-1)
        log_det = self.precision_cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_det - 0.5 * (standard**2).sum(-1) - 0.5 * value.shape[-1] * math.log(2 * math.pi)


def combined(experts: list[Expert]) -> Expert:
    """Several experts as one."""
    precisions, informations = zip(*experts, strict=True)
    return Expert(torch.stack(precisions).sum(0), torch.stack(informations).sum(0))


def product_of_experts(prior: Prior, experts: list[Expert], check: bool = True) -> PrecisionNormal:
    """Posterior over the noise: the product over z, taken to the noise by ``z = base + turn noise``.

    In the noise the prior is standard normal, so its precision is the identity; nothing here divides by a scale.

    Raises
    ------
    FloatingPointError
        If the product is no distribution.  Without `check` that is not looked at: a GPU would have to be waited for.
    """
    precision, information = combined(experts)
    identity = torch.eye(precision.shape[-1], device=precision.device)
    posterior = identity + prior.turn.mT @ precision @ prior.turn
    shift = (information - _times(precision, prior.base)).unsqueeze(-1)
    cholesky, failed = torch.linalg.cholesky_ex(posterior)
    if check and failed.any():
        raise FloatingPointError(
            "the precision of a user's factors is not positive definite; look for extreme covariates in users"
        )
    # Two triangular solves, as torch.cholesky_solve would have a GPU waited for.
    half = torch.linalg.solve_triangular(cholesky, prior.turn.mT @ shift, upper=False)
    mean = torch.linalg.solve_triangular(cholesky.mT, half, upper=True)
    return PrecisionNormal(mean.squeeze(-1), cholesky)


def _on_cpu(prior: Prior) -> bool:
    return prior.base.device.type == "cpu"


class CoefficientPosterior(nn.Module):
    """Independent Normals over the structural coefficients."""

    def __init__(self, model: HMVCRL) -> None:
        super().__init__()
        start = {"platform_location": 0.3, "preference_location": 0.3, "a": 0.1}
        start |= {"platform_log_scale": 0.1, "preference_log_scale": 0.1}
        shapes = {name: shape for name, (_, _, shape) in model.priors.items()}
        self.loc = nn.ParameterDict({n: start.get(n, 0.0) * torch.randn(s) for n, s in shapes.items()})
        self.log_sd = nn.ParameterDict({n: torch.full(s, -4.0) for n, s in shapes.items()})

    def forward(self) -> dict[str, Tensor]:
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
        """The factors given the covariates, with the graph solved."""
        location, scale = self.model.mechanisms(
            coefficients, logs.exposure_covariates, logs.preference_covariates
        )
        inverse = self.model.graph.inverse(coefficients["edges"])
        return Prior(linear(location, inverse.mT), inverse * scale.unsqueeze(-2))

    def forward(self, logs: Logs) -> None:
        """Sites: the structural coefficients and the noise."""
        noise = self.noise(self.coefficients(), logs)
        with pyro.plate("users", logs.n_users, subsample=logs.index):
            pyro.sample("noise", noise)

    def noise(self, coefficients: dict[str, Tensor], logs: Logs) -> PrecisionNormal:
        """Distribution of the users' noise at these coefficients."""
        prior = self.prior(coefficients, logs)
        return product_of_experts(prior, self.experts(logs, prior), check=_on_cpu(prior))

    def expansion(self, n_users: int) -> ExpansionGuide:
        """The expansion guide of this one's model and coefficients, for other users."""
        return ExpansionGuide.of(self, n_users)

    @torch.no_grad()
    def posterior(self, logs: Logs) -> tuple[Prior, PrecisionNormal]:
        """Prior and noise posterior of the users, at the coefficients' means."""
        prior = self.prior(self.coefficients.means(), logs)
        return prior, product_of_experts(prior, [self.evidence(logs)])

    @torch.no_grad()
    def evidence(self, logs: Logs) -> Expert:
        """What the users' own logs say of their factors, at the coefficients' means: the surfaces' experts as one."""
        means = self.coefficients.means()
        batches = logs.batches(USERS_AT_ONCE)
        experts = [combined(self.experts(users, self.prior(means, users))) for users in batches]
        return Expert(*map(torch.cat, zip(*experts, strict=True)))


# --- Experts that are learned: two Transformers --------------------------------------------------------------


class EventEncoder(nn.Module):
    """A Transformer over a user's events on one surface, to one expert ``(Lambda = L L', mu)``.

    Equal events are equal tokens, and are evaluated once: a token that stands n times enters the attention with
    log n added to its logits, and the pooling with weight n.  That is the Transformer over the events themselves,
    at a fraction of its cost.  The events carry no position: given the factors they are exchangeable.

    Parameters
    ----------
    n_tokens
        Number of distinct events.
    n_factors
        Dimension of the expert.
    n_context
        Number of covariates that are added to every token, 0 for none.
    """

    rows: Tensor
    columns: Tensor
    #: The most distinct events that a user has, where that is known ahead: a GPU then need not be waited for.
    longest: int | None = None

    def __init__(
        self, n_tokens: int, n_factors: int, n_context: int = 0, width: int = 48, heads: int = 4
    ) -> None:
        super().__init__()
        self.n_factors = n_factors
        self.embedding = nn.Embedding(n_tokens, width)
        self.context = nn.Parameter(torch.randn(n_context, width) / max(n_context, 1) ** 0.5)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)
        triangle = torch.tril_indices(n_factors, n_factors)
        self.head = nn.Sequential(
            nn.Linear(width + 1, 2 * width), nn.GELU(), nn.Linear(2 * width, n_factors + triangle.shape[1])
        )
        self.skip = nn.Linear(width, n_factors)
        self.register_buffer("rows", triangle[0])
        self.register_buffer("columns", triangle[1])
        nn.init.normal_(self.head[-1].weight, std=0.02)

    def forward(self, counts: Tensor, context: Tensor) -> Expert:
        """Counts ``(N, n_tokens)`` and covariates ``(N, n_context)`` to experts ``(N, K, K), (N, K)``."""
        n_events = counts.sum(-1, keepdim=True)
        longest = self.longest or most_distinct(counts)
        times, token = counts.topk(longest, dim=-1, sorted=False)  # (N, T); a padded token stands 0 times
        embedded = self.embedding(token) + (context @ self.context).unsqueeze(-2)
        with torch.autocast("cuda", torch.bfloat16, enabled=counts.is_cuda):
            hidden = self.transformer(embedded, src_key_padding_mask=times.clamp_min(1e-9).log()).float()
        share = times / n_events.clamp_min(1)
        pooled = (share.unsqueeze(-2) @ hidden).squeeze(-2)  # (N, width)
        out = self.head(torch.cat([pooled, n_events.clamp_min(1).log() / 3], -1))
        mean = out[..., : self.n_factors] + self.skip(pooled)
        # Information grows with the number of events, so L grows with its root, and is 0 without any.
        return _expert(mean, self._triangle(out[..., self.n_factors :]) * n_events.sqrt().unsqueeze(-1))

    def _triangle(self, entries: Tensor) -> Tensor:
        diagonal = self.rows == self.columns
        entries = 0.5 * torch.where(diagonal, softplus(entries + 0.5), entries)
        triangle = entries.new_zeros(*entries.shape[:-1], self.n_factors, self.n_factors)
        triangle[..., self.rows, self.columns] = entries
        return triangle


def most_distinct(counts: Tensor) -> int:
    """The most distinct events of a user, at least 1, among counts ``(N, n_tokens)``."""
    return max(int((counts > 0).sum(-1).max()), 1)


class TransformerGuide(Guide):
    """Two Transformer encoders.

    The search encoder sees categories and gives an expert of preference.  The recommendation encoder sees
    (category, engaged or not) and the exposure covariates, which reach engagement directly, and gives an expert of
    all factors.
    """

    def __init__(self, model: HMVCRL) -> None:
        super().__init__(model)
        n_categories, n_exposure_covariates = model.priors["b"][2][0], model.priors["delta"][2][0]
        self.search_encoder = EventEncoder(n_categories, model.n_factors - model.n_platform)
        self.recommendation_encoder = EventEncoder(2 * n_categories, model.n_factors, n_exposure_covariates)

    def experts(self, logs: Logs, prior: Prior) -> list[Expert]:
        search = self.search_encoder(logs.search, logs.search.new_zeros(len(logs.search), 0))
        recommendation = self.recommendation_encoder(recommended(logs), logs.exposure_covariates)
        return [_widen(search, self.model.n_platform, 0), recommendation]

    @contextmanager
    def knowing_longest(self, users: Logs | Cohort) -> Iterator[None]:
        """For these users `EventEncoder.longest` is known, on a GPU; elsewhere each batch's own is better."""
        if not self.model.zero.is_cuda:
            yield
            return
        of = {self.search_encoder: lambda logs: logs.search, self.recommendation_encoder: recommended}
        for encoder, counts in of.items():
            encoder.longest = max(most_distinct(counts(batch)) for batch in users.batches(USERS_AT_ONCE))
        try:
            yield
        finally:
            for encoder in of:
                encoder.longest = None


def recommended(logs: Logs) -> Tensor:
    """Recommendation events ``(N, 2 C)`` by category, those engaged with first."""
    return torch.cat([logs.engagement, logs.exposure - logs.engagement], -1)


# --- Experts that need no learning: expansions of the emissions ----------------------------------------------


class ExpansionGuide(Guide):
    """Each emission's expansion to second order (with Fisher information) about the user's posterior mode.

    Multiplied, they are the Laplace approximation of the user's posterior.  The mode is found by Fisher scoring,
    and kept for the users of the training set: two steps do for users who come up in every batch.
    """

    mode: Tensor  #: (N, K), of the noise

    def __init__(self, model: HMVCRL, n_users: int, scoring_steps: int = 2) -> None:
        super().__init__(model)
        self.scoring_steps = scoring_steps
        self.register_buffer("mode", torch.zeros(n_users, model.n_factors))

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
        for _ in range(self.scoring_steps):
            experts = self.expand(logs, coefficients, prior.base + _times(prior.turn, mode))
            step = product_of_experts(prior, experts, check=_on_cpu(prior)).mean - mode
            mode = mode + step * (1.5 / step.norm(dim=-1, keepdim=True).clamp_min(1.5))
        self.mode[logs.index] = mode
        return experts

    def expand(self, logs: Logs, coefficients: dict[str, Tensor], z: Tensor) -> list[Expert]:
        """Experts of search, exposure and engagement: their expansions about ``z (N, K)``."""
        model, c = self.model, coefficients
        n_platform, n_preference = model.n_platform, model.n_factors - model.n_platform
        platform, preference = model.channels(z)
        search = expand_categories(model.f_search, logs.search, preference)
        exposure = expand_categories(model.f_exposure, logs.exposure, platform)
        p = engagement_logits(c, platform, preference, logs.exposure_covariates).sigmoid()
        loadings = torch.cat([c["alpha"].expand(p.shape[-1], -1), c["a"]], -1)  # (C, K)
        engagement = expand_engagement(logs, p, loadings, z)
        return [_widen(search, n_platform, 0), _widen(exposure, 0, n_preference), engagement]


def expand_engagement(logs: Logs, probability: Tensor, loadings: Tensor, z: Tensor) -> Expert:
    """Expansion about ``z (N, K)`` of engagement with this probability ``(N, C)`` and these loadings ``(C, K)``."""
    outer = (loadings.unsqueeze(-1) * loadings.unsqueeze(-2)).flatten(1)
    spread = logs.exposure * probability * (1 - probability)
    fisher = (spread @ outer).unflatten(-1, loadings.shape[1:] * 2)
    return _about(z, (logs.engagement - logs.exposure * probability) @ loadings, fisher)


def expand_categories(decoder: nn.Module, counts: Tensor, z: Tensor) -> Expert:
    """Expansion about the decoder's factors ``z (N, K)`` of a surface's counts ``(N, C)``."""
    probability, jacobian = decoder(z).softmax(-1), decoder.jacobian(z)
    expected = counts.sum(-1, keepdim=True) * probability
    centred = jacobian - (jacobian * probability.unsqueeze(-2)).sum(-1, keepdim=True)
    fisher = (centred * expected.unsqueeze(-2)) @ centred.mT
    return _about(z, _times(jacobian, counts - expected), fisher)


def _about(z: Tensor, gradient: Tensor, fisher: Tensor) -> Expert:
    return Expert(fisher, gradient + _times(fisher, z))


def _expert(mean: Tensor, triangle: Tensor) -> Expert:
    precision = triangle @ triangle.mT
    return Expert(precision, _times(precision, mean))


def _widen(expert: Expert, before: int, after: int) -> Expert:
    """An expert of one channel as one of all factors."""
    return Expert(
        pad(expert.precision, (before, after, before, after)), pad(expert.information, (before, after))
    )


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
