"""Mechanisms: how covariates set the location and the scale of a channel's factors.

Location **and** scale must move for the factors to be identified up to order, sign and scale (iVAE with k = 2
sufficient statistics: Khemakhem et al. 2020, theorem 1).  Both maps are linear in the standardised covariates, and
have no intercept: a factor's origin and unit are free, and are fixed by this.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG_SCALE_BOUND = 2.0  #: a covariate's long tail cannot explode a factor


def location_scale(covariates: Tensor, location: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Location ``m(c)`` and scale ``s(c) > 0`` of each factor.

    Shapes: covariates ``(..., N, D)``, weights ``(..., D, K)``, results ``(..., N, K)``.
    """
    bounded = LOG_SCALE_BOUND * torch.tanh(linear(covariates, log_scale) / LOG_SCALE_BOUND)
    return linear(covariates, location), bounded.exp()


def linear(users: Tensor, weights: Tensor) -> Tensor:
    """``x_n' W`` for each user: ``(..., N, D), (D, K) or (S, 1, D, K) -> (..., N, K)``.

    The longer form of the weights is that of S draws side by side, as ``pyro.infer.Predictive`` has them in parallel.
    """
    return users @ (weights if weights.dim() == 2 else weights.squeeze(-3))
