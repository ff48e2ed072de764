"""Experts that are learned: two Transformer encoders, one a surface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_hmvcrl.guide.experts import Expert, Prior, expert_of, widened
from pyro_hmvcrl.guide.guide import USERS_AT_ONCE, Guide
from pyro_hmvcrl.story.logs import Cohort, Logs
from pyro_hmvcrl.story.model import HMVCRL


class EventEncoder(nn.Module):
    """A Transformer over a user's events on one surface, to one expert ``(Lambda = L L', mu)``.

    Equal events are equal tokens, and are evaluated once: a token that stands n times enters the attention with
    log n added to its logits, and the pooling with weight n.  That is the Transformer over the events themselves,
    at a fraction of its cost.  The events carry no position: given the factors they are exchangeable.

    Parameters
    ----------
    n_tokens
        Number of distinct events.
    n_factors
        Dimension of the expert.
    n_context
        Number of covariates that are added to every token, 0 for none.
    """

    rows: Tensor
    columns: Tensor
    #: The most distinct events that a user has, where that is known ahead: a GPU then need not be waited for.
    longest: int | None = None

    def __init__(
        self, n_tokens: int, n_factors: int, n_context: int = 0, width: int = 48, heads: int = 4
    ) -> None:
        super().__init__()
        self.n_factors = n_factors
        self.embedding = nn.Embedding(n_tokens, width)
        self.context = nn.Parameter(torch.randn(n_context, width) / max(n_context, 1) ** 0.5)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer = nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)
        triangle = torch.tril_indices(n_factors, n_factors)
        self.head = nn.Sequential(
            nn.Linear(width + 1, 2 * width), nn.GELU(), nn.Linear(2 * width, n_factors + triangle.shape[1])
        )
        self.skip = nn.Linear(width, n_factors)
        self.register_buffer("rows", triangle[0])
        self.register_buffer("columns", triangle[1])
        nn.init.normal_(self.head[-1].weight, std=0.02)

    def forward(self, counts: Tensor, context: Tensor) -> Expert:
        """Counts ``(N, n_tokens)`` and covariates ``(N, n_context)`` to experts ``(N, K, K), (N, K)``."""
        n_events = counts.sum(-1, keepdim=True)
        longest = self.longest or most_distinct(counts)
        times, token = counts.topk(longest, dim=-1, sorted=False)  # (N, T); a padded token stands 0 times
        embedded = self.embedding(token) + (context @ self.context).unsqueeze(-2)
        with torch.autocast("cuda", torch.bfloat16, enabled=counts.is_cuda):
            hidden = self.transformer(embedded, src_key_padding_mask=times.clamp_min(1e-9).log()).float()
        share = times / n_events.clamp_min(1)
        pooled = (share.unsqueeze(-2) @ hidden).squeeze(-2)  # (N, width)
        out = self.head(torch.cat([pooled, n_events.clamp_min(1).log() / 3], -1))
        mean = out[..., : self.n_factors] + self.skip(pooled)
        # Information grows with the number of events, so L grows with its root, and is 0 without any.
        return expert_of(mean, self._triangle(out[..., self.n_factors :]) * n_events.sqrt().unsqueeze(-1))

    def _triangle(self, entries: Tensor) -> Tensor:
        diagonal = self.rows == self.columns
        entries = 0.5 * torch.where(diagonal, softplus(entries + 0.5), entries)
        triangle = entries.new_zeros(*entries.shape[:-1], self.n_factors, self.n_factors)
        triangle[..., self.rows, self.columns] = entries
        return triangle


def most_distinct(counts: Tensor) -> int:
    """The most distinct events of a user, at least 1, among counts ``(N, n_tokens)``."""
    return max(int((counts > 0).sum(-1).max()), 1)


class TransformerGuide(Guide):
    """Two Transformer encoders.

    The search encoder sees categories and gives an expert of preference.  The recommendation encoder sees
    (category, engaged or not) and the exposure covariates, which reach engagement directly, and gives an expert of
    all factors.
    """

    def __init__(self, model: HMVCRL) -> None:
        super().__init__(model)
        n_categories, n_exposure_covariates = model.priors["b"][2][0], model.priors["delta"][2][0]
        self.search_encoder = EventEncoder(n_categories, model.n_factors - model.n_platform)
        self.recommendation_encoder = EventEncoder(2 * n_categories, model.n_factors, n_exposure_covariates)

    def experts(self, logs: Logs, prior: Prior) -> list[Expert]:
        search = self.search_encoder(logs.search, logs.search.new_zeros(len(logs.search), 0))
        recommendation = self.recommendation_encoder(recommended(logs), logs.exposure_covariates)
        return [widened(search, self.model.n_platform, 0), recommendation]

    @contextmanager
    def knowing_longest(self, users: Logs | Cohort) -> Iterator[None]:
        """For these users `EventEncoder.longest` is known, on a GPU; elsewhere each batch's own is better."""
        if not self.model.zero.is_cuda:
            yield
            return
        of = {self.search_encoder: lambda logs: logs.search, self.recommendation_encoder: recommended}
        for encoder, counts in of.items():
            encoder.longest = max(most_distinct(counts(batch)) for batch in users.batches(USERS_AT_ONCE))
        try:
            yield
        finally:
            for encoder in of:
                encoder.longest = None


def recommended(logs: Logs) -> Tensor:
    """Recommendation events ``(N, 2 C)`` by category, those engaged with first."""
    return torch.cat([logs.engagement, logs.exposure - logs.engagement], -1)
