"""Emissions: the likelihood of each surface's events given the factors.

Given the factors a user's events are exchangeable, so a surface's events enter as counts by category: the log
likelihood of the events in any order is a function of their counts.  The two distributions below are those of
the *sequence* of events, evaluated on counts; they carry no multinomial or binomial coefficient.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from scipy.stats import binom
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_hmvcrl.story.mechanisms import linear

#: Standard deviations of weak priors on a decoder's weights, of which the fit finds the mode.  With this `outer` the
#: nonlinear part of a logit is about a third of the linear one.  Its hidden features (`inner`, `shift`) have none.
DECODER_PRIOR = {"intercept": 2.0, "linear": 1.0, "outer": 0.15}


#: Of one category in one period: of more showings, engaged ones are drawn by scipy, one by one.
MOST_INVERTED = 64
VANISHES = 1e-30  #: a probability that single precision hardly knows from 0


class CategoryDecoder(nn.Module):
    """Category logits given a channel's factors: ``f_S`` of a search event, ``f_E`` of an exposure.

    ``intercept + z linear + tanh(z inner + shift) outer``: linear, with a small nonlinear part that starts near
    zero and grows only as far as the data ask.
    """

    def __init__(self, n_factors: int, n_categories: int, width: int = 16) -> None:
        super().__init__()
        self.intercept = nn.Parameter(torch.zeros(n_categories))
        self.linear = nn.Parameter(0.3 * torch.randn(n_factors, n_categories))
        self.inner = nn.Parameter(torch.randn(n_factors, width) / n_factors**0.5)
        self.shift = nn.Parameter(torch.zeros(width))
        self.outer = nn.Parameter(0.02 * torch.randn(width, n_categories))

    def forward(self, factors: Tensor) -> Tensor:
        """``(..., K) -> (..., C)``."""
        linear = self.intercept + factors @ self.linear
        return linear + torch.tanh(factors @ self.inner + self.shift) @ self.outer

    def log_prior(self) -> Tensor:
        """Log density of the weights under `DECODER_PRIOR`, up to a constant."""
        return (
            -0.5
            * torch.stack([(getattr(self, n) / sd).square().sum() for n, sd in DECODER_PRIOR.items()]).sum()
        )

    def jacobian(self, factors: Tensor) -> Tensor:
        """Derivative of the logits by the factors, ``(..., K) -> (..., K, C)``."""
        slope = 1 - torch.tanh(factors @ self.inner + self.shift) ** 2
        return self.linear + (self.inner * slope.unsqueeze(-2)) @ self.outer


def engagement_logits(
    coefficients: dict[str, Tensor], platform: Tensor, preference: Tensor, other: Tensor
) -> Tensor:
    """Log odds ``b[cat] + a[cat].preference + alpha.platform + other`` by category, ``(..., N, C)``.

    Shapes: platform ``(..., N, K_P)``, preference ``(..., N, K_Q)``, and what is the same in every category
    ``(..., N, 1)``: the direct path and readiness.
    """
    a, b, alpha = (coefficients[name] for name in ("a", "b", "alpha"))
    return b + linear(preference, a.mT) + linear(platform, alpha.unsqueeze(-1)) + other


class EventCounts(TorchDistribution):
    """Counts by category of a user's events on one surface: what both emissions share."""

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012 (torch's own convention)
    support = constraints.independent(constraints.nonnegative, 1)

    total_dims = 0  #: of the total, after the users: 0 for events a user, 1 for exposures a category

    def __init__(self, logits: Tensor, total: Tensor) -> None:
        self.logits, self.total = logits, total
        batch = torch.broadcast_shapes(logits.shape[:-1], total.shape[: total.dim() - self.total_dims])
        super().__init__(batch, logits.shape[-1:], validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> EventCounts:
        tail = self.total.shape[self.total.dim() - self.total_dims :]
        return type(self)(self.logits.expand(*batch_shape, -1), self.total.expand(*batch_shape, *tail))


class CategoryEvents(EventCounts):
    """Counts ``(..., C)`` of `total` exchangeable events, ``category ~ Categorical(softmax logits)`` each."""

    @property
    def probability(self) -> Tensor:
        """Of each category, ``(..., C)``."""
        return self.logits.softmax(-1)

    @property
    def log_normaliser(self) -> Tensor:
        """``log sum_c exp(logits)``, ``(...)``."""
        return self.logits.logsumexp(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits).sum(-1) - value.sum(-1) * self.log_normaliser

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Invert one uniform an event, so that a user's draw never depends on another user's logits."""
        shape = self.shape(sample_shape)
        uniform = torch.rand(*shape[:-1], int(self.total.max()), device=self.logits.device)
        cumulative = self.probability.cumsum(-1).expand(shape).contiguous()
        category = torch.searchsorted(cumulative, uniform).clamp_max(shape[-1] - 1)
        happened = torch.arange(uniform.shape[-1], device=uniform.device) < self.total.unsqueeze(-1)
        happened = happened.expand_as(uniform).to(cumulative)
        return torch.zeros_like(cumulative).scatter_add_(-1, category, happened)


class EngagementEvents(EventCounts):
    """Engaged events by category among the `total` shown, ``engaged ~ Bernoulli(sigmoid logits[category])`` each."""

    total_dims = 1

    @property
    def probability(self) -> Tensor:
        """Of engagement with each category, ``(..., C)``."""
        return self.logits.sigmoid()

    def log_prob(self, value: Tensor) -> Tensor:
        return (value * self.logits - self.total * softplus(self.logits)).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Invert one uniform a category, so that like logits give like draws."""
        shape = self.shape(sample_shape)
        total, p = self.total.expand(shape), self.probability.expand(shape).clamp(1e-6, 1 - 1e-6)
        uniform, heavy = torch.rand(shape, device=p.device), total > MOST_INVERTED
        engaged = _inverted(uniform, total.masked_fill(heavy, 0.0), p)
        if heavy.any():
            of_heavy = (t[heavy].double().cpu().numpy() for t in (uniform.clamp_min(1e-9), total, p))
            engaged[heavy] = torch.as_tensor(binom.ppf(*of_heavy)).to(engaged)
        return engaged


def _inverted(uniform: Tensor, total: Tensor, p: Tensor) -> Tensor:
    """Quantiles of binomials, found by going through their probabilities."""
    # Where none is next to impossible, the others are counted, and the uniform from its other end.
    from_above = (1 - p) ** total < VANISHES
    p, uniform = torch.where(from_above, 1 - p, p), torch.where(from_above, 1 - uniform, uniform)
    mass, upto, drawn = (1 - p) ** total, torch.zeros_like(p), torch.zeros_like(p)
    for k in range(int(total.max())):
        upto = upto + mass
        drawn += (uniform > upto) & (k < total)
        mass = mass * (total - k) / (k + 1) * (p / (1 - p))
    return torch.where(from_above, total - drawn, drawn)


# --- A window of periods, given its past ---------------------------------------------------------------------


class CategoryWindow(TorchDistribution):
    """Counts ``(T, C)`` of events in T periods, of which each owes something to what was before it.

    A period's events have the logits of the user and what its past adds; given the past they are independent.  The
    normalisers of all periods are one product of matrices, as the past is the same for all particles.

    Parameters
    ----------
    logits
        Of the user ``(..., N, C)``.
    past
        What the past of each period adds ``(..., N, T, C)``, with or without the first dimensions of the logits.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.nonnegative, 2)

    def __init__(self, logits: Tensor, past: Tensor) -> None:
        self.logits, self.past = logits, past
        super().__init__(logits.shape[:-1], past.shape[-2:], validate_args=False)

    @property
    def probability(self) -> Tensor:
        """Of each category in each period, ``(..., T, C)``."""
        return (self.logits.unsqueeze(-2) + self.past).softmax(-1)

    @property
    def log_normaliser(self) -> Tensor:
        """``log sum_c exp(logits + past)`` of each period, ``(..., N, T)``."""
        most, most_past = self.logits.amax(-1, keepdim=True), self.past.amax(-1, keepdim=True)
        own, past = (self.logits - most).exp(), (self.past - most_past).exp()
        if past.dim() == own.dim() + 1:
            sums = (past @ own.unsqueeze(-1)).squeeze(-1)
        else:
            sums = torch.einsum("...nc,ntc->...nt", own, past)
        return sums.clamp_min(1e-30).log() + most + most_past.squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        of_user = (value.sum(-2) * self.logits).sum(-1)
        return of_user + (value * self.past).sum((-2, -1)) - (value.sum(-1) * self.log_normaliser).sum(-1)


class EngagementWindow(TorchDistribution):
    """Engaged events ``(T, C)`` among those shown, given the past.

    Parameters
    ----------
    logits
        Of the user ``(..., N, C)``.
    past
        What the past of each period adds ``(..., N, T, C)``.
    total
        Shown ``(N, T, C)``.
    cells
        Where among them anything is shown ``(N, M)``: positions on the axis of T times C.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.independent(constraints.nonnegative, 2)

    def __init__(self, logits: Tensor, past: Tensor, total: Tensor, cells: Tensor) -> None:
        self.logits, self.past, self.total, self.cells = logits, past, total, cells
        super().__init__(logits.shape[:-1], total.shape[-2:], validate_args=False)

    @property
    def probability(self) -> Tensor:
        """Of engagement with each category in each period, ``(..., T, C)``."""
        return (self.logits.unsqueeze(-2) + self.past).sigmoid()

    @property
    def cell_logits(self) -> Tensor:
        """Log odds where anything is shown, ``(..., N, M)``."""
        category = (self.cells % self.logits.shape[-1]).expand(*self.logits.shape[:-1], -1)
        return self.logits.gather(-1, category) + at_cells(self.past, self.cells)

    def log_prob(self, value: Tensor) -> Tensor:
        logits, shown = self.cell_logits, at_cells(self.total, self.cells)
        return (at_cells(value, self.cells) * logits - shown * softplus(logits)).sum(-1)


def at_cells(values: Tensor, cells: Tensor) -> Tensor:
    """Of values ``(..., N, T, C)`` those at cells ``(N, M)``, ``(..., N, M)``."""
    flat = values.flatten(-2)
    return flat.gather(-1, cells.expand(*flat.shape[:-1], -1))
