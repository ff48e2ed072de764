"""Further outcomes of a run, as effects are asked of them: the probability of each of what is shown next."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_hmvcrl.data.names import level_words
from pyro_hmvcrl.queries.interventions import World
from pyro_hmvcrl.queries.mediation import Outcome, shown_next
from pyro_hmvcrl.run.run import Run
from pyro_hmvcrl.story.outcomes import OutcomeStory


def outcomes_of(run: Run) -> dict[str, Outcome]:
    """The run's further outcomes by name, functions of a world that has their coefficients among its sites."""
    return {name: partial(rate, OutcomeStory(name, run.model)) for name in run.outcome_names}


def rate(story: OutcomeStory, world: World) -> Tensor:
    """Probability that an outcome holds of what is shown next: ``sum_c p_exposed(c) p_outcome(c)``."""
    coefficients = {part: world[story.site(part)] for part in story.priors}
    factors = torch.stack([world[factor] for factor in story.model.graph.names], -1)
    logits = story.logits(coefficients, factors, world["readiness"], world["exposure_covariates"])
    if "familiarity" in coefficients:
        logits = logits + story.of_past(coefficients, world["history"])
    return (shown_next(world) * logits.sigmoid()).sum(-1)


def outcome_sentence(name: str, of: Mapping[str, Any], level: float) -> str:
    """What a policy does to an outcome, in points of its rate."""
    said = {part: _points(of[part]) for part in ("TE", "NDE", "NIE")}
    before = 100 * of["levels"]["before"]["mean"]
    return (
        f"{name}: from {before:.1f}% of what is shown by {said['TE']} percentage points "
        f"({level_words(level)} intervals), {said['NDE']} of it directly and {said['NIE']} through the factors."
    )


def _points(estimate: Mapping[str, float]) -> str:
    mean, lower, upper = (100 * estimate[part] for part in ("mean", "lower", "upper"))
    return f"{mean:+.2f} ({lower:.2f} to {upper:.2f})".replace("-", "−")
