"""The generative story of HMV-CRL.

For user n with exposure covariates c^P and preference covariates c^Q, and factors k = 1..K, K = K_P + K_Q::

    noise_k        ~ Normal(0, 1)                                                 k = 1..K + 1
    platform_k     = m_k(c^P) + s_k(c^P) noise_k + sum_j B[j, k] preference_j
    preference_k   = m_k(c^Q) + s_k(c^Q) noise_k + sum_j B[j, k] platform_j       B acyclic, between channels only
    readiness      = s noise_{K + 1}                                              to engage, whatever is shown

and then, period by period t = 1..T, with H[t] what the user searched, was shown and engaged with before t::

    search in t      ~ Categorical(softmax(f_S(preference) + influence.H[t]))       category of a search event
    suggested in t   ~ Categorical(softmax(echo f_S(preference) + f_G(platform)))   ... that the platform suggested
    exposure in t    ~ Categorical(softmax(f_E(platform) + learning(c^P).H[t]))     category that the platform showed
    engagement in t  ~ Bernoulli(sigmoid(b[cat] + a[cat].preference + alpha.platform + delta(c^P) + readiness
                                         + familiarity.H[t]))

    learning(c^P) = learning + c^P personalisation + bent(c^P) personalisation_bend how much the platform looks at H
    m_k and delta(c) are likewise lines that may bend:  bent(c) = sqrt(1 + c^2) - 1

Search sees preference only and exposure sees platform only, which separates the channels and directs the edges
between them; covariates that move location and scale separate the factors inside a channel.  The past does not
spoil this: in the logs it is observed, and given it the likelihood of the window is a product over periods, each of
them as it would be without a past but for a known offset.  Under ``pyro.do`` the past is a consequence, and the
program draws it (:mod:`~pyro_hmvcrl.story.history`).  With T = 1 there is none.

``pyro.do(model, {"exposure_covariates": shifted})`` is a policy shift, ``pyro.do(model, {"platform_1": value})``
an intervention on a factor, and ``pyro.condition(model, {"noise": noise})`` holds the users fixed (abduction).
"""

from __future__ import annotations

from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_hmvcrl.story.emissions import (
    CategoryDecoder,
    CategoryEvents,
    CategoryWindow,
    EngagementEvents,
    EngagementWindow,
    engagement_logits,
)
from pyro_hmvcrl.story.graph import StructuralGraph
from pyro_hmvcrl.story.history import LOOKS_AT, Past, pasts, term
from pyro_hmvcrl.story.logs import Logs
from pyro_hmvcrl.story.mechanisms import line, location_scale

READINESS = 0.25  #: standard deviation over users of the log odds of engagement, where its prior is highest
USER_SITES = ("noise", "search", "suggested", "exposure", "engagement")


class OfUser(NamedTuple):
    """Logits ``(..., N, C)`` of the users' events, whatever came before."""

    search: Tensor
    suggested: Tensor | None
    exposure: Tensor
    engagement: Tensor

    def after(self, past: OfPast) -> OfUser:
        """The same after a past."""
        return OfUser(
            self.search + past.search,
            self.suggested,
            self.exposure + past.exposure,
            self.engagement + past.engagement,
        )


class OfPast(NamedTuple):
    """What the past adds to them: ``(..., N, C)`` in one period, ``(..., N, T, C)`` in all."""

    search: Tensor
    exposure: Tensor
    engagement: Tensor


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
    curved_exposure, curved_preference
        Which covariates can bend ``(D,)``, see :func:`line`; by default all.
    past
        Whether periods have a past: there are several.
    suggested
        Whether searches that the platform suggested are told apart.
    usual_engagement
        Rate of engagement of all users together, against which a user's own is held (:mod:`history`).
    """

    def __init__(
        self,
        n_platform: int,
        n_preference: int,
        n_exposure_covariates: int,
        n_preference_covariates: int,
        n_categories: int,
        past: bool = False,
        suggested: bool = False,
        usual_engagement: float = 0.5,
        curved_exposure: Tensor | None = None,
        curved_preference: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.n_platform, self.n_factors = n_platform, n_platform + n_preference
        self.graph = StructuralGraph(n_platform, n_preference)
        self.f_search = CategoryDecoder(n_preference, n_categories)
        self.f_exposure = CategoryDecoder(n_platform, n_categories)
        d_p, d_q, c = n_exposure_covariates, n_preference_covariates, n_categories
        self.register_buffer(
            "curved_exposure", torch.ones(d_p) if curved_exposure is None else curved_exposure
        )
        self.register_buffer(
            "curved_preference", torch.ones(d_q) if curved_preference is None else curved_preference
        )
        # These carry the device of the priors: a number would be copied to a GPU at every step, which then waits.
        self.register_buffer("zero", torch.zeros(()))
        self.register_buffer("one", torch.ones(()), persistent=False)
        self.priors = {
            "platform_location": (dist.Normal, 1.0, (d_p, n_platform)),
            "platform_bend": (dist.Normal, 0.5, (d_p, n_platform)),
            "platform_log_scale": (dist.Normal, 0.5, (d_p, n_platform)),
            "preference_location": (dist.Normal, 1.0, (d_q, n_preference)),
            "preference_bend": (dist.Normal, 0.5, (d_q, n_preference)),
            "preference_log_scale": (dist.Normal, 0.5, (d_q, n_preference)),
            "edges": (dist.Laplace, 0.3, (self.n_factors, self.n_factors)),  # sparse
            "a": (dist.Normal, 1.0, (c, n_preference)),
            "b": (dist.Normal, 2.0, (c,)),
            "alpha": (dist.Normal, 1.0, (n_platform,)),
            "delta": (dist.Normal, 1.0, (d_p,)),
            "delta_bend": (dist.Normal, 0.5, (d_p,)),
            "readiness_log_scale": (dist.Normal, 1.0, (1,)),  # of READINESS
        }
        if past:
            self.register_buffer("usual_engagement", torch.tensor(usual_engagement))
            features = {name: len(of) for name, of in LOOKS_AT.items()}
            self.priors |= {name: (dist.Normal, 2.0, (n,)) for name, n in features.items()}
            self.priors["personalisation"] = (dist.Normal, 1.0, (d_p, features["learning"]))
            self.priors["personalisation_bend"] = (dist.Normal, 0.5, (d_p, features["learning"]))
        if suggested:
            self.f_suggested = CategoryDecoder(n_platform, n_categories)
            self.priors["echo"] = (dist.Normal, 1.0, (1,))

    @property
    def n_noise(self) -> int:
        """Size of a user's noise: of the factors, and of readiness."""
        return self.n_factors + 1

    @property
    def decoders(self) -> list[CategoryDecoder]:
        """All that there are."""
        return [self.f_search, self.f_exposure, *([self.f_suggested] if "echo" in self.priors else [])]

    def structural_coefficients(self) -> dict[str, Tensor]:
        """What readers reason about: drawn once, for all users."""
        return {
            name: pyro.sample(name, prior(self.zero, scale * self.one).expand(shape).to_event(len(shape)))
            for name, (prior, scale, shape) in self.priors.items()
        }

    def mechanisms(self, coefficients: dict[str, Tensor], c_p: Tensor, c_q: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of every factor before the graph, each ``(..., N, K)``."""
        of_platform, of_preference = (
            [coefficients[f"{channel}_{part}"] for part in ("location", "bend", "log_scale")]
            for channel in ("platform", "preference")
        )
        platform = location_scale(c_p, self.curved_exposure, *of_platform)
        preference = location_scale(c_q, self.curved_preference, *of_preference)
        location, scale = (torch.cat(pair, -1) for pair in zip(platform, preference, strict=True))
        return location, scale

    def readiness_scale(self, coefficients: dict[str, Tensor]) -> Tensor:
        """Standard deviation of readiness, ``(..., 1)``."""
        return READINESS * coefficients["readiness_log_scale"].exp()

    def channels(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        """The platform ``(..., K_P)`` and the preference ``(..., K_Q)`` part of factors ``(..., K)``."""
        return factors[..., : self.n_platform], factors[..., self.n_platform :]

    def of_user(
        self, coefficients: dict[str, Tensor], factors: Tensor, readiness: Tensor, c_p: Tensor
    ) -> OfUser:
        """What a user's factors ``(..., N, K)`` and readiness ``(..., N)`` make of the events, whatever came before."""
        platform, preference = self.channels(factors)
        search, suggested = self.f_search(preference), None
        if "echo" in self.priors:
            suggested = coefficients["echo"] * search + self.f_suggested(platform)
        along, bend = (coefficients[name].unsqueeze(-1) for name in ("delta", "delta_bend"))
        user = line(c_p, self.curved_exposure, along, bend) + readiness.unsqueeze(-1)
        engagement = engagement_logits(coefficients, platform, preference, user)
        return OfUser(search, suggested, self.f_exposure(platform), engagement)

    def learning(self, coefficients: dict[str, Tensor], c_p: Tensor) -> Tensor:
        """How much the platform looks at each feature of a user's past, ``(..., N, F)``.

        A covariate moves it along a line that may bend where the covariate is at its mean.
        """
        along, bend = coefficients["personalisation"], coefficients["personalisation_bend"]
        return coefficients["learning"] + line(c_p, self.curved_exposure, along, bend)

    def of_past(self, coefficients: dict[str, Tensor], learning: Tensor, history: Tensor) -> OfPast:
        """What the past adds, by its features ``(..., C, F)`` and each user's `learning` weights."""
        return OfPast(
            term("influence", history, coefficients["influence"]),
            term("learning", history, learning),
            term("familiarity", history, coefficients["familiarity"]),
        )

    def forward(self, logs: Logs) -> Tensor:
        """Draw the users' factors ``(N, K)`` and events.  Of `logs` only covariates and event numbers are read.

        Sites of a period end in its number (``exposure_2``), unless there is but one.  Of logs that are *given their
        past* (:meth:`Logs.given_past`) all periods are one site each.
        """
        coefficients = self.structural_coefficients()
        with pyro.plate("users", logs.n_users, subsample=logs.index):
            c_p = pyro.deterministic("exposure_covariates", logs.exposure_covariates, event_dim=1)
            c_q = pyro.deterministic("preference_covariates", logs.preference_covariates, event_dim=1)

            standard = dist.Normal(self.zero, self.one).expand([self.n_noise])
            noise = pyro.sample("noise", standard.to_event(1))
            location, scale = self.mechanisms(coefficients, c_p, c_q)
            own, of_readiness = noise[..., : self.n_factors], noise[..., self.n_factors :]
            factors = self.graph.factors(coefficients["edges"], location + scale * own)
            ready = (self.readiness_scale(coefficients) * of_readiness).sum(-1)
            readiness = pyro.deterministic("readiness", ready, event_dim=0)

            user = self.of_user(coefficients, factors, readiness, c_p)
            if logs.n_periods == 1:
                self.period(user, logs.totals())
                return factors
            if logs.shown_cells is not None:
                self.window(user, self.given_past(coefficients, c_p, logs), logs)
                return factors
            learning = self.learning(coefficients, c_p)
            past = Past.none(user.exposure)
            for t in range(logs.n_periods):
                features = past.features(self.usual_engagement)
                history = pyro.deterministic(f"history_{t + 1}", features, event_dim=2)
                added = self.of_past(coefficients, learning, history)
                past = past.and_then(*self.period(user.after(added), logs.totals(t), f"_{t + 1}"))
        return factors

    def period(
        self, logits: OfUser, totals: dict[str, Tensor], number: str = ""
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the events of one period: those searched, shown and engaged with, ``(..., N, C)``."""
        search = pyro.sample(f"search{number}", CategoryEvents(logits.search, totals["search"]))
        if logits.suggested is not None and "suggested" in totals:
            pyro.sample(f"suggested{number}", CategoryEvents(logits.suggested, totals["suggested"]))
        exposure = pyro.sample(f"exposure{number}", CategoryEvents(logits.exposure, totals["exposure"]))
        engagement = pyro.sample(f"engagement{number}", EngagementEvents(logits.engagement, exposure))
        return search, exposure, engagement

    def given_past(self, coefficients: dict[str, Tensor], c_p: Tensor, logs: Logs) -> OfPast:
        """What the past of each period adds, where the past is that of the logs."""
        history = pasts(logs.search, logs.exposure, logs.engagement).features(self.usual_engagement)
        return self.of_past(coefficients, self.learning(coefficients, c_p).unsqueeze(-2), history)

    def window(self, user: OfUser, added: OfPast, logs: Logs) -> None:
        """Draw the events of all periods ``(N, T, C)`` at once, as their past is given."""
        pyro.sample("search", CategoryWindow(user.search, added.search))
        if user.suggested is not None and logs.suggested is not None:
            pyro.sample("suggested", CategoryEvents(user.suggested, logs.suggested.sum((-2, -1))))
        pyro.sample("exposure", CategoryWindow(user.exposure, added.exposure))
        engagement = EngagementWindow(user.engagement, added.engagement, logs.exposure, logs.shown_cells)
        pyro.sample("engagement", engagement)
