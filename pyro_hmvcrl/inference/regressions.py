"""Each category's weights as a regression of its own.

Given the users' factors, and the normaliser of the shares, a category's events tell of this category's weights alone:
a Poisson regression of searches and exposures (Baker 1994), a logistic one of engagement.  EM's steps are these
regressions (:func:`~pyro_hmvcrl.inference.groups.regress`), and their information is that of the curvature's blocks
(:mod:`~pyro_hmvcrl.inference.curvature`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_hmvcrl.guide.guide import ExpansionGuide, Guide
from pyro_hmvcrl.inference.processes import every_nth, place, total
from pyro_hmvcrl.inference.scores import Values
from pyro_hmvcrl.story.emissions import DECODER_PRIOR, CategoryDecoder
from pyro_hmvcrl.story.logs import Cohort, Logs

DRAWS = 2  #: of each user's factors, which mirror each other at the mode
AT_ONCE = 1 << 23  #: draws times users, periods and categories
#: By surface, the parameters of a category in the order of their features.
WEIGHTS = {
    "search": [f"f_search.{name}" for name in DECODER_PRIOR],
    "exposure": [f"f_exposure.{name}" for name in DECODER_PRIOR],
    "suggested": [f"f_suggested.{name}" for name in DECODER_PRIOR],
    "engagement": ["b", "a"],
}


class Regression(NamedTuple):
    """Of one surface's weights: what is known of a batch at their present values."""

    features: Tensor  #: (draws, B, q)
    surplus: Tensor  #: (draws, B, C), of events over those expected
    spread: Tensor  #: (draws, B, C), their variance


def batches_of(users: Cohort) -> list[Tensor]:
    """Which users' regressions are worked out at once."""
    one = users.batch(torch.arange(1, device=users.rows.device))
    size = max(AT_ONCE // (DRAWS * one.exposure.numel()), 16)
    return list(torch.arange(users.n_users, device=users.rows.device).split(size))


def regressions(guide: ExpansionGuide, logs: Logs) -> Iterator[tuple[str, Regression]]:
    """Each surface's regression on draws of these users' factors."""
    model, coefficients = guide.model, guide.coefficients.means()
    prior, noise = guide.posterior(logs)
    z = prior.base + (prior.turn @ noise.antithetic(DRAWS).unsqueeze(-1)).squeeze(-1)
    platform, preference = model.channels(z[..., :-1])
    user = model.of_user(coefficients, z[..., :-1], z[..., -1], logs.exposure_covariates)
    past = guide.added(logs)
    search = past.search if past else None
    yield "search", _chosen(_features(model.f_search, preference), user.search, logs.search, search)
    exposure = past.exposure if past else None
    yield "exposure", _chosen(_features(model.f_exposure, platform), user.exposure, logs.exposure, exposure)
    if user.suggested is not None and logs.suggested is not None:
        suggested = logs.by_category.suggested
        yield "suggested", _chosen(_features(model.f_suggested, platform), user.suggested, suggested, None)
    yield "engagement", _engaged(preference, user.engagement, logs, past.engagement if past else None)


@torch.no_grad()
def information_by_category(guide: Guide, values: Values, users: Cohort, seed: int) -> Tensor:
    """What the users tell of each category's parameters, the rest known, ``(C, q, q)``; on the CPU, in double.

    `q` parameters in the order of `values`.  In place of a user's features stands their posterior mean, so that what
    keeps them from being known is taken away.
    """
    sums: dict[str, Tensor] = {}
    batches = batches_of(users)
    with torch.random.fork_rng():
        torch.manual_seed(seed + place()[0])
        for i in every_nth(len(batches)):
            logs = users.batch(batches[i]).numbered()
            found = dict(regressions(guide.expansion(len(batches[i])), logs))
            for name, (features, _, spread) in found.items():
                if name == "suggested":  # which search's weights have a part in
                    echoed = guide.coefficients.means()["echo"] * found["search"].features
                    features = torch.cat([echoed, features], -1)
                features, spread = features.mean(0), spread.mean(0)
                outer = (features.unsqueeze(-1) * features.unsqueeze(-2)).flatten(1)
                information = (spread.mT @ outer).unflatten(1, (features.shape[1],) * 2).double().cpu()
                sums[name] = sums[name] + information if name in sums else information
    columns = places(values)[2]
    width = sum(map(len, columns.values()))
    whole = torch.zeros(len(values["b"]), width, width, dtype=torch.double)
    for name, information in sums.items():
        weights = [*(WEIGHTS["search"] if name == "suggested" else []), *WEIGHTS[name]]
        rows = torch.tensor([i for weight in weights for i in columns[weight]])
        whole[:, rows[:, None], rows] += information
    return total(whole)


def places(values: Values) -> tuple[Tensor, Tensor, dict[str, list[int]]]:
    """Which of all parameters are structural ``(n,)``, which are of each category ``(C, q)``; and these q by name."""
    structural, of_categories, columns = [], [], {}
    start = width = 0
    for name, value in values.items():
        at = torch.arange(start, start := start + value.numel()).view(value.shape)
        if name in ("a", "b"):
            own = at.view(len(at), -1)
        elif name.rpartition(".")[2] in DECODER_PRIOR:
            own = at.view(-1, at.shape[-1]).T
        else:
            structural.append(at.flatten())
            continue
        of_categories.append(own)
        columns[name] = list(range(width, width := width + own.shape[1]))
    return torch.cat(structural), torch.cat(of_categories, 1), columns


def _features(decoder: CategoryDecoder, factors: Tensor) -> Tensor:
    """What a category's weights multiply ``(..., q)``: one, the factors, and the hidden features."""
    hidden = torch.tanh(factors @ decoder.inner + decoder.shift)
    return torch.cat([torch.ones_like(factors[..., :1]), factors, hidden], -1)


def _chosen(features: Tensor, logits: Tensor, counts: Tensor, past: Tensor | None) -> Regression:
    """Of counts ``(B, C)``, or ``(B, T, C)`` after a past."""
    events = counts.sum(-1, keepdim=True)
    if past is None:
        expected = events * logits.softmax(-1)
        return Regression(features, counts - expected, expected)
    expected = (events * (logits.unsqueeze(-2) + past).softmax(-1)).sum(-2)
    return Regression(features, counts.sum(-2) - expected, expected)


def _engaged(preference: Tensor, logits: Tensor, logs: Logs, past: Tensor | None) -> Regression:
    features = torch.cat([torch.ones_like(preference[..., :1]), preference], -1)
    chance = (logits if past is None else logits.unsqueeze(-2) + past).sigmoid()
    expected = logs.exposure * chance
    surplus, spread = logs.engagement - expected, expected * (1 - chance)
    if past is not None:
        surplus, spread = surplus.sum(-2), spread.sum(-2)
    return Regression(features, surplus, spread)
