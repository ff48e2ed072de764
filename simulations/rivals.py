"""iVAEs as their authors make them, of multilayer perceptrons: what the rivals of the studies have in common."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from pyro_hmvcrl.data.dataset import Dataset, Standardisation
from pyro_hmvcrl.synthetic.design import Array

WIDTH = 128
BATCH = 256  # users
EPOCHS = 300  # of the latent confounder


def perceptron(n_in: int, n_out: int) -> nn.Sequential:
    """Two hidden layers."""
    layers = nn.Linear(n_in, WIDTH), nn.LeakyReLU(0.1), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.1)
    return nn.Sequential(*layers, nn.Linear(WIDTH, n_out))


def normal(parameters: Tensor) -> torch.distributions.Normal:
    """Of means and logarithms of standard deviations, side by side."""
    mean, log_sd = parameters.chunk(2, -1)
    return torch.distributions.Normal(mean, log_sd.clamp(-6, 4).exp())


class LatentConfounder(nn.Module):
    """What users were shown as an iVAE with the users' features as proxies: ``z ~ p(z | w)``, ``shown ~ p(a | z)``.

    The first step of iDCF (Zhang, Liu, Zhang, Zhang, Zhang & Gai 2023, "Debiasing Recommendation by Learning
    Identifiable Latent Confounders", section 4.1).
    """

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


def latent_confounder(dataset: Dataset, n_factors: int, seed: int) -> Callable[[Dataset], Array]:
    """Learn the confounder; returns the way from logs to its posterior means ``(N, K)``."""
    standardisation = Standardisation.from_dataset(dataset)

    def seen(d: Dataset) -> tuple[Tensor, Tensor]:
        proxies = np.hstack(standardisation.apply(d))
        return torch.as_tensor(d.exposure, dtype=torch.float32), torch.as_tensor(proxies, dtype=torch.float32)

    shown, proxies = seen(dataset)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LatentConfounder(shown.shape[1], proxies.shape[1], n_factors)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(shown)).split(BATCH):
                optimiser.zero_grad()
                model.loss(shown[rows], proxies[rows]).backward()
                optimiser.step()

    @torch.no_grad()
    def encode(d: Dataset) -> Array:
        return model.posterior(*seen(d)).mean.double().numpy()

    return encode
