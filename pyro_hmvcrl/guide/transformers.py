"""Experts that are learned: two Transformer encoders, one a surface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_hmvcrl.guide.experts import Expert, Prior, expert_of, product_of_experts, widened
from pyro_hmvcrl.guide.guide import USERS_AT_ONCE, ExpansionGuide, Guide
from pyro_hmvcrl.story.logs import Cohort, Logs
from pyro_hmvcrl.story.model import HMVCRL

POLISH = 4  #: steps of Fisher scoring from the encoders' answer; with 300 steps of training two do


class EventEncoder(nn.Module):
    """A Transformer over a user's events on one surface, to one expert ``(Lambda = L L', mu)``.

    Equal events are equal tokens, and are evaluated once: a token that stands n times enters the attention with
    log n added to its logits, and the pooling with weight n.  That is the Transformer over the events themselves,
    at a fraction of its cost.  The events carry no position: given the factors, and what their past adds, they are
    exchangeable.

    Parameters
    ----------
    n_tokens
        Number of distinct events.
    n_factors
        Dimension of the expert.
    n_context
        Number of covariates that are added to every token, 0 for none.
    n_told
        Number of figures that come with every event, 0 for none.
    """

    rows: Tensor
    columns: Tensor
    #: The most distinct events that a user has, where that is known ahead: a GPU then need not be waited for.
    longest: int | None = None

    def __init__(
        self,
        n_tokens: int,
        n_factors: int,
        n_context: int = 0,
        n_told: int = 0,
        width: int = 48,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.n_factors, self.n_tokens = n_factors, n_tokens
        self.embedding = nn.Embedding(n_tokens, width)
        self.context = nn.Parameter(torch.randn(n_context, width) / max(n_context, 1) ** 0.5)
        if n_told:
            self.told = nn.Linear(n_told, width, bias=False)
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

    def forward(self, counts: Tensor, context: Tensor, told: Tensor | None = None) -> Expert:
        """Counts and covariates ``(N, n_context)`` to experts ``(N, K, K), (N, K)``.

        Counts are ``(N, n_tokens)``, or of several periods ``(N, T, n_tokens)``, with what is `told` of each event
        ``(N, T, n_tokens, n_told)``.
        """
        counts = counts.flatten(1)
        n_events = counts.sum(-1, keepdim=True)
        longest = self.longest or most_distinct(counts)
        times, event = counts.topk(longest, dim=-1, sorted=False)  # (N, L); a padded event stands 0 times
        embedded = self.embedding(event % self.n_tokens) + (context @ self.context).unsqueeze(-2)
        if told is not None:
            of_events = event.unsqueeze(-1).expand(-1, -1, told.shape[-1])
            embedded = embedded + self.told(told.flatten(1, 2).gather(1, of_events))
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
    """The most distinct events of a user, at least 1, among counts ``(N, ...)``."""
    return max(int((counts.flatten(1) > 0).sum(-1).max()), 1)


class TransformerGuide(Guide):
    """Two Transformer encoders.

    The search encoder sees categories and gives an expert of preference.  The recommendation encoder sees
    (category, engaged or not), searches that the platform suggested, and the exposure covariates, which reach
    engagement directly, and gives an expert of all factors and of readiness.  Where there are several periods,
    each event comes with its period and with what the user's past added to its logits.

    SVI trains the encoders' own answer (`encoded`).  Where a posterior is asked for, `POLISH` steps of Fisher
    scoring go on from it to the user's mode, so that quality does not hang on how long the encoders were trained
    (the semi-amortised inference of Kim et al. 2018, with second-order steps).
    """

    def __init__(self, model: HMVCRL) -> None:
        super().__init__(model)
        n_categories, n_exposure_covariates = model.priors["b"][2][0], model.priors["delta"][2][0]
        kinds = 3 if "echo" in model.priors else 2
        of_search, of_recommendation = (2, 3) if "learning" in model.priors else (0, 0)
        self.search_encoder = EventEncoder(n_categories, model.n_factors - model.n_platform, n_told=of_search)
        self.recommendation_encoder = EventEncoder(
            kinds * n_categories, model.n_noise, n_exposure_covariates, n_told=of_recommendation
        )

    def experts(self, logs: Logs, prior: Prior) -> list[Expert]:
        recommended_events, added = recommended(logs), self.added(logs)
        of_search = of_recommendation = None
        if added is not None:
            kinds = recommended_events.shape[-1] // logs.search.shape[-1]
            of_search = told(added.search)
            of_recommendation = told(added.exposure, added.engagement).repeat(1, 1, kinds, 1)
        search = self.search_encoder(logs.search, logs.search.new_zeros(len(logs.search), 0), of_search)
        recommendation = self.recommendation_encoder(
            recommended_events, logs.exposure_covariates, of_recommendation
        )
        return [widened(search, self.model.n_platform, 1), recommendation]

    def own_evidence(self, users: Logs) -> Expert:
        polished = ExpansionGuide.of(self, len(users.index))
        polished.scoring_steps = POLISH
        prior = self.prior(self.coefficients.means(), users)
        polished.mode.copy_(product_of_experts(prior, [super().own_evidence(users)]).mean)
        return polished.own_evidence(users.numbered())

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
    """What the platform started, by category (and period): engaged with, not engaged with, and suggested searches."""
    events = [logs.engagement, logs.exposure - logs.engagement]
    return torch.cat(events if logs.suggested is None else [*events, logs.suggested], -1)


def told(*added: Tensor) -> Tensor:
    """What is told of events ``(N, T, C, ...)``: their period, and what the past added, against other categories."""
    period = torch.linspace(0, 1, added[0].shape[1], device=added[0].device)[:, None].expand_as(added[0])
    return torch.stack([period, *(a - a.mean(-1, keepdim=True) for a in added)], -1)
