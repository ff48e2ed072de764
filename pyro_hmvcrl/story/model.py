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

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_hmvcrl.story.emissions import CategoryDecoder, CategoryEvents, EngagementEvents, engagement_logits
from pyro_hmvcrl.story.graph import StructuralGraph
from pyro_hmvcrl.story.logs import Logs
from pyro_hmvcrl.story.mechanisms import location_scale

USER_SITES = ("noise", "search", "exposure", "engagement")


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
