"""The model or its guide with one part taken away or replaced.

Each of `VARIANTS` makes a restart's guide (the `build` of ``inference.screen``) from a new model.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_hmvcrl.guide.experts import Expert, PrecisionNormal, Prior, widened
from pyro_hmvcrl.guide.guide import ExpansionGuide, expand_categories, expand_engagement
from pyro_hmvcrl.inference.restarts import Build
from pyro_hmvcrl.story.emissions import CategoryDecoder
from pyro_hmvcrl.story.logs import Logs
from pyro_hmvcrl.story.mechanisms import location_scale
from pyro_hmvcrl.story.model import HMVCRL, OfPast

NOTHING = 1e-4  # a prior's standard deviation that keeps a coefficient at zero


def without_graph(model: HMVCRL, n_users: int) -> ExpansionGuide:
    """No edges."""
    model.graph.allowed.zero_()
    return ExpansionGuide(model, n_users)


def with_edges_inside(model: HMVCRL, n_users: int) -> ExpansionGuide:
    """Edges inside the channels too, which their decoders can absorb."""
    model.graph.allowed.copy_(1 - torch.eye(model.n_factors))
    return ExpansionGuide(model, n_users)


def location_only(model: HMVCRL, n_users: int) -> ExpansionGuide:
    """Covariates move the factors' locations, not their scales."""
    for name in ("platform_log_scale", "preference_log_scale"):
        prior, _, shape = model.priors[name]
        model.priors[name] = (prior, NOTHING, shape)
    return ExpansionGuide(model, n_users)


# --- Guides that say less ------------------------------------------------------------------------------------


class DiagonalExperts(ExpansionGuide):
    """Each expert's precision keeps its diagonal alone; its gradient at the user's mode stays."""

    def expand(
        self, logs: Logs, coefficients: dict[str, Tensor], z: Tensor, added: OfPast | None = None
    ) -> list[Expert]:
        return [_diagonal(expert, z) for expert in super().expand(logs, coefficients, z, added)]


class MeanField(ExpansionGuide):
    """The factors are taken for independent given the logs, after a product of full experts."""

    def noise(self, coefficients: dict[str, Tensor], logs: Logs) -> PrecisionNormal:
        return _independent(super().noise(coefficients, logs))

    @torch.no_grad()
    def posterior(self, logs: Logs) -> tuple[Prior, PrecisionNormal]:
        prior, noise = super().posterior(logs)
        return prior, _independent(noise)


def _diagonal(expert: Expert, z: Tensor) -> Expert:
    diagonal = expert.precision.diagonal(dim1=-2, dim2=-1)
    gradient = expert.information - (expert.precision @ z.unsqueeze(-1)).squeeze(-1)
    return Expert(diagonal.diag_embed(), gradient + diagonal * z)


def _independent(noise: PrecisionNormal) -> PrecisionNormal:
    precision = noise.precision_cholesky @ noise.precision_cholesky.mT
    return PrecisionNormal(noise.mean, precision.diagonal(dim1=-2, dim2=-1).sqrt().diag_embed())


# --- iVAE: one channel, which every covariate moves and every emission reads -----------------------------------


class OneChannel(HMVCRL):
    """All factors have the covariates of both blocks, and search, exposure and engagement read all of them."""

    def __init__(self, sizes: HMVCRL) -> None:
        d_p, d_q = (sizes.priors[f"{c}_location"][2][0] for c in ("platform", "preference"))
        k, c = sizes.n_factors, sizes.priors["b"][2][0]
        curved = {name: getattr(sizes, name) for name in ("curved_exposure", "curved_preference")}
        super().__init__(sizes.n_platform, k - sizes.n_platform, d_p, d_q, c, **curved)
        self.f_search, self.f_exposure = CategoryDecoder(k, c), CategoryDecoder(k, c)
        self.graph.allowed.zero_()
        self.priors |= {
            "platform_location": (dist.Normal, 1.0, (d_p + d_q, k)),
            "platform_log_scale": (dist.Normal, 0.5, (d_p + d_q, k)),
            "platform_bend": (dist.Normal, 0.5, (d_p + d_q, k)),
            "preference_bend": (dist.Normal, 0.5, (0, 0)),
            "preference_location": (dist.Normal, 1.0, (0, 0)),
            "preference_log_scale": (dist.Normal, 0.5, (0, 0)),
            "a": (dist.Normal, 1.0, (c, k)),
            "alpha": (dist.Normal, NOTHING, (k,)),  # what `a` has already
        }

    def mechanisms(self, coefficients: dict[str, Tensor], c_p: Tensor, c_q: Tensor) -> tuple[Tensor, Tensor]:
        weights = (coefficients[f"platform_{part}"] for part in ("location", "bend", "log_scale"))
        curved = torch.cat([self.curved_exposure, self.curved_preference])
        return location_scale(torch.cat([c_p, c_q], -1), curved, *weights)

    def channels(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        return factors, factors


class OneChannelExpansion(ExpansionGuide):
    """Expansions of emissions that all read all factors, of logs in one period: there is no past."""

    def expand(
        self, logs: Logs, coefficients: dict[str, Tensor], z: Tensor, added: OfPast | None = None
    ) -> list[Expert]:
        model, c, factors = self.model, coefficients, z[..., :-1]
        user = model.of_user(c, factors, z[..., -1], logs.exposure_covariates)
        search = expand_categories(user.search, model.f_search.jacobian(factors), logs.search, factors)
        exposure = expand_categories(
            user.exposure, model.f_exposure.jacobian(factors), logs.exposure, factors
        )
        loadings = torch.cat([c["a"] + c["alpha"], torch.ones_like(c["b"]).unsqueeze(-1)], -1)
        return [
            *(widened(expert, 0, 1) for expert in (search, exposure)),
            expand_engagement(logs, user.engagement, loadings, z),
        ]


def ivae(model: HMVCRL, n_users: int) -> ExpansionGuide:
    """One channel and one guide for both surfaces, with the covariates of both blocks (Khemakhem et al. 2020)."""
    return OneChannelExpansion(OneChannel(model), n_users)


VARIANTS: dict[str, Build] = {
    "ours": ExpansionGuide,
    "diagonal experts": DiagonalExperts,
    "diagonal guide": MeanField,
    "no graph": without_graph,
    "edges inside channels": with_edges_inside,
    "location only": location_only,
    "iVAE": ivae,
}
