"""Rivals that are fitted to counts: iVAEs as their authors make them, of multilayer perceptrons, and iDCF."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from pyro_hmvcrl.data.dataset import Dataset, Standardisation
from pyro_hmvcrl.story.logs import Logs
from pyro_hmvcrl.synthetic.design import Array

WIDTH = 128
BATCH = 256  # users
EPOCHS = 300
SWEEPS = 20  # of alternating regressions


def perceptron(n_in: int, n_out: int) -> nn.Sequential:
    """Two hidden layers."""
    layers = nn.Linear(n_in, WIDTH), nn.LeakyReLU(0.1), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.1)
    return nn.Sequential(*layers, nn.Linear(WIDTH, n_out))


def normal(parameters: Tensor) -> torch.distributions.Normal:
    """Of means and logarithms of standard deviations, side by side."""
    mean, log_sd = parameters.chunk(2, -1)
    return torch.distributions.Normal(mean, log_sd.clamp(-6, 4).exp())


class PlainIVAE(nn.Module):
    """iVAE on counts: ``z ~ p(z | u)``, ``counts ~ p(x | z)``, ``q(z | x, u)``, each a multilayer perceptron.

    Khemakhem, Kingma, Monti & Hyvarinen 2020, "Variational Autoencoders and Nonlinear ICA".
    """

    def __init__(self, n_categories: int, n_covariates: int, n_factors: int) -> None:
        super().__init__()
        self.prior = perceptron(n_covariates, 2 * n_factors)
        self.encoder = perceptron(3 * n_categories + n_covariates, 2 * n_factors)
        self.decoder = perceptron(n_factors, 3 * n_categories)

    def posterior(self, logs: Logs) -> tuple[torch.distributions.Normal, Tensor]:
        """Of the factors given counts and covariates; second, the covariates ``(N, D_P + D_Q)``."""
        covariates = torch.cat([logs.exposure_covariates, logs.preference_covariates], -1)
        seen = torch.cat([logs.search, logs.exposure, logs.engagement], -1).log1p()
        return normal(self.encoder(torch.cat([seen, covariates], -1))), covariates

    def loss(self, logs: Logs) -> Tensor:
        """Minus the ELBO, nats a user."""
        posterior, covariates = self.posterior(logs)
        search, exposure, engagement = self.decoder(posterior.rsample()).chunk(3, -1)
        fits = (logs.search * search.log_softmax(-1) + logs.exposure * exposure.log_softmax(-1)).sum(-1)
        engaged = logs.engagement * engagement - logs.exposure * nn.functional.softplus(engagement)
        kl = torch.distributions.kl_divergence(posterior, normal(self.prior(covariates))).sum(-1)
        return (kl - fits - engaged.sum(-1)).mean()

    @torch.no_grad()
    def searched(self, logs: Logs) -> Array:
        """Log odds of what users search for ``(N, C)``, at the factors' posterior means."""
        return self.decoder(self.posterior(logs)[0].mean).chunk(3, -1)[0].double().numpy()


def train(model: nn.Module, loss: Callable[[Tensor], Tensor], n_users: int, seed: int) -> None:
    """By Adam, `EPOCHS` times over all users; `loss` is that of those at some rows."""
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(n_users).split(BATCH):
            optimiser.zero_grad()
            loss(rows).backward()
            optimiser.step()


class LatentConfounder(nn.Module):
    """What users were shown as an iVAE with the users' features as proxies: ``z ~ p(z | w)``, ``shown ~ p(a | z)``."""

    def __init__(self, n_categories: int, n_proxies: int, n_factors: int) -> None:
        super().__init__()
        self.prior = perceptron(n_proxies, 2 * n_factors)
        self.encoder = perceptron(n_categories + n_proxies, 2 * n_factors)
        self.decoder = perceptron(n_factors, n_categories)

    def posterior(self, shown: Tensor, proxies: Tensor) -> torch.distributions.Normal:
        """Of the confounder, ``(N, K)``."""
        return normal(self.encoder(torch.cat([shown.log1p(), proxies], -1)))

    def loss(self, shown: Tensor, proxies: Tensor) -> Tensor:
        """Minus the ELBO, nats a user."""
        posterior = self.posterior(shown, proxies)
        fits = (shown * self.decoder(posterior.rsample()).log_softmax(-1)).sum(-1)
        return (
            torch.distributions.kl_divergence(posterior, normal(self.prior(proxies))).sum(-1) - fits
        ).mean()


class IDCF:
    """A latent confounder of what is shown, then matrix factorisation of engagement rates with it beside.

    Zhang et al. 2023, "Debiasing Recommendation by Learning Identifiable Latent Confounders".  Rates of categories
    weigh as much as was shown.

    Parameters
    ----------
    dataset
        What it is fitted to.
    n_confounders, n_tastes
        Size of the confounder, and of the users' and categories' vectors.
    """

    def __init__(self, dataset: Dataset, n_confounders: int, n_tastes: int, seed: int) -> None:
        self.standardisation = Standardisation.from_dataset(dataset)
        shown, proxies = self._seen(dataset)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.confounder = LatentConfounder(shown.shape[1], proxies.shape[1], n_confounders)
            train(self.confounder, lambda at: self.confounder.loss(shown[at], proxies[at]), len(shown), seed)
        weights, rates = _rates(dataset)
        beside = _with_one(self._confounders(dataset))
        taste = np.random.default_rng(seed).normal(0, 0.1, (len(shown), n_tastes))
        for _ in range(SWEEPS):
            found = _ridge(np.hstack([beside, taste]), rates, weights)
            self.usual, self.categories = np.split(found, [beside.shape[1]], axis=1)
            taste = self._tastes(dataset, beside)

    def encode(self, d: Dataset) -> tuple[Array, Array]:
        """Confounders ``(N, K)`` and tastes ``(N, M)`` of users from their logs."""
        confounders = self._confounders(d)
        return confounders, self._tastes(d, _with_one(confounders))

    def rates(self, d: Dataset) -> Array:
        """Of engagement with each category ``(N, C)``, as it says."""
        confounders, tastes = self.encode(d)
        return np.asarray(_with_one(confounders) @ self.usual.T + tastes @ self.categories.T)

    def _seen(self, d: Dataset) -> tuple[Tensor, Tensor]:
        proxies = np.hstack(self.standardisation.apply(d))
        return torch.as_tensor(d.exposure, dtype=torch.float32), torch.as_tensor(proxies, dtype=torch.float32)

    @torch.no_grad()
    def _confounders(self, d: Dataset) -> Array:
        return self.confounder.posterior(*self._seen(d)).mean.double().numpy()

    def _tastes(self, d: Dataset, beside: Array) -> Array:
        weights, rates = _rates(d)
        return _ridge(self.categories, (rates - beside @ self.usual.T).T, weights.T)


def _rates(d: Dataset) -> tuple[Array, Array]:
    shown = np.asarray(d.exposure, float)
    return shown, d.engagement / np.maximum(shown, 1)


def _with_one(x: Array) -> Array:
    return np.column_stack([np.ones(len(x)), x])


def _ridge(x: Array, y: Array, weights: Array) -> Array:
    """Coefficients ``(C, M)`` of each column of `y` ``(N, C)`` on `x` ``(N, M)``, with weights ``(N, C)``."""
    moments = np.einsum("nm,nc,nl->cml", x, weights, x, optimize=True) + np.eye(x.shape[1])
    return np.asarray(np.linalg.solve(moments, (x.T @ (weights * y)).T[..., None])[..., 0])
