"""Experts: Gaussian factors of the posterior over a user's factors, and their product with the prior."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn.functional import pad


class Expert(NamedTuple):
    """A Gaussian factor ``exp(-z' precision z / 2 + z' information)`` of the posterior over z."""

    precision: Tensor  #: (N, K + 1, K + 1)
    information: Tensor  #: (N, K + 1), precision @ mean


class Prior(NamedTuple):
    """The factors given the covariates, and readiness after them: ``z = base + turn @ noise``."""

    base: Tensor  #: (N, K + 1)
    turn: Tensor  #: (N, K + 1, K + 1)

    @property
    def of_factors(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the factors, each ``(N, K)``."""
        return self.base[..., :-1], (self.turn**2).sum(-1).sqrt()[..., :-1]


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
        return self.at(torch.randn(self.shape(sample_shape), device=self._mean.device))

    def at(self, standard: Tensor) -> Tensor:
        """What standard normal values ``(..., K)`` become here."""
        root = self.precision_cholesky.mT.expand(*standard.shape, -1)
        return self._mean + torch.linalg.solve_triangular(root, standard.unsqueeze(-1), upper=True).squeeze(
            -1
        )

    @property
    def root(self) -> Tensor:
        """Vectors ``(K, ..., K)`` whose outer products add up to the covariance."""
        axes = torch.eye(self._mean.shape[-1]).to(self._mean)
        axes = axes.view(-1, *(1,) * (self._mean.dim() - 1), self._mean.shape[-1])
        return self.at(axes.expand(-1, *self._mean.shape)) - self._mean

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
    shift = (information - matvec(precision, prior.base)).unsqueeze(-1)
    cholesky, failed = torch.linalg.cholesky_ex(posterior)
    if check and failed.any():
        raise FloatingPointError(
            "the precision of a user's factors is not positive definite; look for extreme covariates in users"
        )
    # Two triangular solves, as torch.cholesky_solve would have a GPU waited for.
    half = torch.linalg.solve_triangular(cholesky, prior.turn.mT @ shift, upper=False)
    mean = torch.linalg.solve_triangular(cholesky.mT, half, upper=True)
    return PrecisionNormal(mean.squeeze(-1), cholesky)


def on_cpu(prior: Prior) -> bool:
    """Whether the users are on a CPU, where looking at numbers costs nothing."""
    return prior.base.device.type == "cpu"


def expanded_about(z: Tensor, gradient: Tensor, fisher: Tensor) -> Expert:
    """The expert whose log density has this gradient and Fisher information at ``z (N, K)``."""
    return Expert(fisher, gradient + matvec(fisher, z))


def expert_of(mean: Tensor, triangle: Tensor) -> Expert:
    """The expert of this mean ``(N, K)`` and Cholesky factor of its precision ``(N, K, K)``."""
    precision = triangle @ triangle.mT
    return Expert(precision, matvec(precision, mean))


def widened(expert: Expert, before: int, after: int) -> Expert:
    """An expert of some of z as one of all of it."""
    return Expert(
        pad(expert.precision, (before, after, before, after)), pad(expert.information, (before, after))
    )


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """``(..., K, J), (..., J) -> (..., K)``."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


@torch.no_grad()
def factor_posterior(prior: Prior, noise: PrecisionNormal) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Posterior means and standard deviations ``(N, K)`` of the factors; readiness is left out."""
    mean = prior.base + matvec(prior.turn, noise.mean)
    root = torch.linalg.solve_triangular(noise.precision_cholesky, prior.turn.mT, upper=False)
    sd = (root**2).sum(-2).sqrt()
    return mean[..., :-1].double().cpu().numpy(), sd[..., :-1].double().cpu().numpy()
