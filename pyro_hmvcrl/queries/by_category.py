"""What a change does category by category: what is searched and what is shown, before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_hmvcrl.queries.averages import EffectDraws, Users
from pyro_hmvcrl.queries.findings import interval
from pyro_hmvcrl.queries.interventions import Interventions, World, by_chance, run
from pyro_hmvcrl.queries.mediation import Outcome, shown_next
from pyro_hmvcrl.run.run import Run
from pyro_hmvcrl.story.programs import at

MOST_CATEGORIES = 40  #: of which intervals are worked out, each at the cost of a gradient
IN_FULL = 20  #: of more than so many each is averaged over fewer draws, so that all together cost no more
SOME_USERS = 1_000  #: by whom the categories are chosen, if there are more
Ask = Callable[[Mapping[str, Outcome], float], EffectDraws]


def searched(world: World) -> Tensor:
    """Share of each category in what users search for, ``(C, ..., N)``."""
    probability: Tensor = world.distribution("search").probability
    return probability.movedim(-1, 0)


def shown(world: World) -> Tensor:
    """Share of each category in what is shown, ``(C, ..., N)``."""
    return shown_next(world).movedim(-1, 0)


SURFACES: dict[str, Outcome] = {"searched": searched, "shown": shown}


def shares_by_category(
    ask: Ask, run: Run, users: Users, interventions: Interventions, level: float
) -> dict[str, dict[str, Any]]:
    """Shares of each category `before` and `after` a change, and the `change`, with intervals, by surface.

    Of more than `MOST_CATEGORIES` those that move most.  `ask` gives the draws of outcomes' averages, with a share of
    the usual number of draws of the users' chance.
    """
    chosen = list(range(len(run.categories)))
    if len(chosen) > MOST_CATEGORIES:
        chosen = sorted(_most_moved(run, users, interventions))
    outcomes = {name: _of_these(of, chosen) for name, of in SURFACES.items()}
    draws = ask(outcomes, min(1.0, IN_FULL / len(chosen)))
    found: dict[str, dict[str, Any]] = {run.categories[c]: {} for c in chosen}
    for surface in SURFACES:
        of = draws.levels[surface] | {"change": draws.contrasts[surface]["TE"]}
        for place, c in enumerate(chosen):
            shares = {name: interval(by[:, place], level) for name, by in of.items() if name != "direct"}
            found[run.categories[c]][surface] = shares
    return found


def _of_these(of: Outcome, categories: list[int]) -> Outcome:
    """A vector by category, of some of them."""
    return lambda world: of(world)[categories]


@torch.no_grad()
def _most_moved(fitted: Run, users: Users, interventions: Interventions) -> list[int]:
    """Categories whose share of what is searched or shown a change moves most, for some of the users."""
    rows = torch.randperm(users.logs.n_users, generator=torch.Generator().manual_seed(0))[:SOME_USERS]
    batch = users.logs.batch(rows)
    forces = {s: f[rows] if isinstance(f, Tensor) and f.dim() else f for s, f in interventions.items()}
    program = by_chance(at(fitted.model, fitted.posterior.mean), 0)
    before = run(program, (batch,))
    after = run(program, (batch,), forces, before)
    moved = [
        torch.stack(
            [of(b).mean(-1) - of(a).mean(-1) for a, b in zip(after.periods, before.periods, strict=True)]
        )
        for of in SURFACES.values()
    ]
    most = torch.stack(moved).mean(1).abs().amax(0)
    return [int(c) for c in most.argsort(descending=True)[:MOST_CATEGORIES]]
