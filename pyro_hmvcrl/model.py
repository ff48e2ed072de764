"""The generative story of HMV-CRL.

For user n with exposure covariates c^P and preference covariates c^Q, and factors k = 1..K, K = K_P + K_Q::

    noise_k        ~ Normal(0, 1)
    platform_k     = m_k(c^P) + s_k(c^P) noise_k + sum_j B[j, k] preference_j
    preference_k   = m_k(c^Q) + s_k(c^Q) noise_k + sum_j B[j, k] platform_j       B acyclic, between channels only
    search t       ~ Categorical(softmax f_S(preference))                         category of a search event
    exposure t     ~ Categorical(softmax f_E(platform))                           category that the platform showed
    engagement t   ~ Bernoulli(sigmoid(b[cat] + a[cat].preference + alpha.platform + delta.c^P))

Search sees preference only and exposure sees platform only, which separates the channels and directs the edges
between them; covariates that move location and scale separate the factors inside a channel.

``pyro.do(model, {"exposure_covariates": shifted})`` is a policy shift, ``pyro.do(model, {"platform_1": value})``
an intervention on a factor, and ``pyro.condition(model, {"noise": noise})`` holds the users fixed (abduction).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from numpy.typing import ArrayLike
from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call

from pyro_hmvcrl.emissions import CategoryDecoder, CategoryEvents, EngagementEvents, engagement_logits
from pyro_hmvcrl.graph import StructuralGraph
from pyro_hmvcrl.mechanisms import location_scale

USER_SITES = ("noise", "search", "exposure", "engagement")


class Logs(NamedTuple):
    """N users, or a batch of B of them: standardised covariates, and counts of events by category."""

    index: Tensor  #: (B,) positions among the n_users
    n_users: int  #: N
    exposure_covariates: Tensor  #: (B, D_P)
    preference_covariates: Tensor  #: (B, D_Q)
    search: Tensor  #: (B, C)
    exposure: Tensor  #: (B, C)
    engagement: Tensor  #: (B, C), engaged among the exposures

    @classmethod
    def of(cls, *per_user: ArrayLike) -> Logs:
        """All users, from arrays of covariates and counts in the order of the fields."""
        tensors = [torch.as_tensor(values, dtype=torch.float32) for values in per_user]
        return cls(torch.arange(len(tensors[0])), len(tensors[0]), *tensors)

    def batch(self, rows: Tensor) -> Logs:
        """The users at `rows`."""
        per_user = (t[rows] for t in self[2:])
        return Logs(self.index[rows], self.n_users, *per_user)

    def batches(self, size: int) -> Iterator[Logs]:
        """All of them in order, `size` users at a time."""
        return map(self.batch, torch.arange(len(self.index), device=self.index.device).split(size))

    def only(self, rows: Tensor) -> Cohort:
        """The users at `rows`, as all that there are."""
        return Cohort(self, rows.to(self.index.device))

    def to(self, device: torch.device | str) -> Logs:
        return Logs(self.index.to(device), self.n_users, *(t.to(device) for t in self[2:]))


class Cohort(NamedTuple):
    """Some of the users, as a dataset of their own that takes no copy of their events."""

    logs: Logs
    rows: Tensor  #: (N,) their positions in `logs`

    @property
    def n_users(self) -> int:
        return len(self.rows)

    @property
    def exposure_covariates(self) -> Tensor:
        """(N, D_P)."""
        return self.logs.exposure_covariates[self.rows]

    def batch(self, rows: Tensor) -> Logs:
        """Those at `rows` among them."""
        return self.logs.batch(self.rows[rows])._replace(index=rows, n_users=self.n_users)

    def batches(self, size: int) -> Iterator[Logs]:
        """All of them in order, `size` users at a time."""
        return map(self.batch, torch.arange(self.n_users, device=self.rows.device).split(size))


class HMVCRL(nn.Module):
    """The generative model.  Factors are ordered platform first.

    Parameters
    ----------
    n_platform, n_preference
        Number of factors of each channel, K_P and K_Q.
    n_exposure_covariates, n_preference_covariates
        D_P and D_Q; 0 is allowed, and leaves that channel unidentified.
    n_categories
        C.
    """

    def __init__(
        self,
        n_platform: int,
        n_preference: int,
        n_exposure_covariates: int,
        n_preference_covariates: int,
        n_categories: int,
    ) -> None:
        super().__init__()
        self.n_platform, self.n_factors = n_platform, n_platform + n_preference
        self.graph = StructuralGraph(n_platform, n_preference)
        self.f_search = CategoryDecoder(n_preference, n_categories)
        self.f_exposure = CategoryDecoder(n_platform, n_categories)
        d_p, d_q, c = n_exposure_covariates, n_preference_covariates, n_categories
        # These carry the device of the priors: a number would be copied to a GPU at every step, which then waits.
        self.register_buffer("zero", torch.zeros(()))
        self.register_buffer("one", torch.ones(()), persistent=False)
        self.priors = {
            "platform_location": (dist.Normal, 1.0, (d_p, n_platform)),
            "platform_log_scale": (dist.Normal, 0.5, (d_p, n_platform)),
            "preference_location": (dist.Normal, 1.0, (d_q, n_preference)),
            "preference_log_scale": (dist.Normal, 0.5, (d_q, n_preference)),
            "edges": (dist.Laplace, 0.3, (self.n_factors, self.n_factors)),  # sparse
            "a": (dist.Normal, 1.0, (c, n_preference)),
            "b": (dist.Normal, 2.0, (c,)),
            "alpha": (dist.Normal, 1.0, (n_platform,)),
            "delta": (dist.Normal, 1.0, (d_p,)),
        }

    def structural_coefficients(self) -> dict[str, Tensor]:
        """What readers reason about: drawn once, for all users."""
        return {
            name: pyro.sample(name, prior(self.zero, scale * self.one).expand(shape).to_event(len(shape)))
            for name, (prior, scale, shape) in self.priors.items()
        }

    def mechanisms(self, coefficients: dict[str, Tensor], c_p: Tensor, c_q: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of every factor before the graph, each ``(..., N, K)``."""
        c = coefficients
        platform = location_scale(c_p, c["platform_location"], c["platform_log_scale"])
        preference = location_scale(c_q, c["preference_location"], c["preference_log_scale"])
        location, scale = (torch.cat(pair, -1) for pair in zip(platform, preference, strict=True))
        return location, scale

    def channels(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        """The platform ``(..., K_P)`` and the preference ``(..., K_Q)`` part of factors ``(..., K)``."""
        return factors[..., : self.n_platform], factors[..., self.n_platform :]

    def forward(self, logs: Logs) -> Tensor:
        """Draw the users' factors ``(N, K)`` and events.  Of `logs` only covariates and event numbers are read."""
        coefficients = self.structural_coefficients()
        with pyro.plate("users", logs.n_users, subsample=logs.index):
            c_p = pyro.deterministic("exposure_covariates", logs.exposure_covariates, event_dim=1)
            c_q = pyro.deterministic("preference_covariates", logs.preference_covariates, event_dim=1)

            standard = dist.Normal(self.zero, self.one).expand([self.n_factors])
            noise = pyro.sample("noise", standard.to_event(1))
            location, scale = self.mechanisms(coefficients, c_p, c_q)
            factors = self.graph.factors(coefficients["edges"], location + scale * noise)
            platform, preference = self.channels(factors)

            pyro.sample("search", CategoryEvents(self.f_search(preference), logs.search.sum(-1)))
            exposure = pyro.sample(
                "exposure", CategoryEvents(self.f_exposure(platform), logs.exposure.sum(-1))
            )
            log_odds = engagement_logits(coefficients, platform, preference, c_p)
            pyro.sample("engagement", EngagementEvents(log_odds, exposure))
        return factors


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
