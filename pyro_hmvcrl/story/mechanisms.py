"""Mechanisms: how covariates set the location and the scale of a channel's factors.

Location **and** scale must move for the factors to be identified up to order, sign and scale (iVAE with k = 2
sufficient statistics: Khemakhem et al. 2020, theorem 1).  The maps are of the standardised covariates, and
have no intercept: a factor's origin and unit are free, and are fixed by this.  What moves along a covariate may bend
where the covariate is at its mean (:func:`line`).
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG_SCALE_BOUND = 2.0  #: a covariate's long tail cannot explode a factor


def location_scale(
    covariates: Tensor, curved: Tensor, location: Tensor, bend: Tensor, log_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Location ``m(c)`` and scale ``s(c) > 0`` of each factor, in the shapes of :func:`line`."""
    return line(covariates, curved, location, bend), scale_of(covariates, log_scale)


def scale_of(covariates: Tensor, log_scale: Tensor) -> Tensor:
    """Scale ``s(c) > 0`` of each factor, ``(..., N, K)``."""
    bounded = LOG_SCALE_BOUND * torch.tanh(linear(covariates, log_scale) / LOG_SCALE_BOUND)
    return bounded.exp()


def line(covariates: Tensor, curved: Tensor, along: Tensor, bend: Tensor) -> Tensor:
    """A line along each covariate that may bend at its mean: ``c along + bent(c) bend``, bent(c) = sqrt(1 + c^2) - 1.

    Shapes: covariates ``(..., N, D)``, weights ``(..., D, K)``, result ``(..., N, K)``.  `curved` ``(D,)`` is 1 for
    covariates that can bend and 0 for those that have two values, through which there is but one line.  Copies of the
    covariates beside them bend as they do.
    """
    may_bend = curved.repeat(covariates.shape[-1] // max(len(curved), 1))
    bent = may_bend * ((1 + covariates**2).sqrt() - 1)
    return linear(covariates, along) + linear(bent, bend)


def linear(users: Tensor, weights: Tensor) -> Tensor:
    """``x_n' W`` for each user: ``(..., N, D), (D, K) or (S, 1, D, K) -> (..., N, K)``.

    The longer form of the weights is that of S draws side by side, as ``pyro.infer.Predictive`` has them in parallel.
    """
    return users @ (weights if weights.dim() == 2 else weights.squeeze(-3))
