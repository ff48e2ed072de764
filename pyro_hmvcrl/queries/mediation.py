"""Mediation: how much of a policy's effect runs through the platform's factors, and how much through preference.

For a change a -> a' of the policy, with Y an outcome, P and Q the factors of the two channels::

    TE             = Y(a', P(a'), Q(a')) - Y(a, P(a), Q(a))
    NDE            = Y(a', P(a), Q(a))   - Y(a, P(a), Q(a))
    NIE_platform   = Y(a', P(a'), Q(a))  - Y(a', P(a), Q(a))
    NIE_preference = Y(a', P(a'), Q(a')) - Y(a', P(a'), Q(a))         NIE = TE - NDE = NIE_platform + NIE_preference

Where there are several periods the user's past H is a third mediator, held at H(a) in all of these but TE::

    TE       = Y(a', P(a'), Q(a'), H(a')) - Y(a, P(a), Q(a), H(a))
    NIE_loop = Y(a', P(a'), Q(a'), H(a')) - Y(a', P(a'), Q(a'), H(a))         NIE = TE - NDE is the sum of all three

Natural effects: Pearl (2001); Imai, Keele & Tingley (2010).  Each Y is one world, one call of ``pyro.do`` on the
program with its noise held, in which the mediators are forced to the values they had in the world a or a'.  That asks
for nothing but a Pyro program whose mediators are sites, so :func:`natural_effects` serves any such program.

NDE and NIE of opposite sign are **suppression** (inconsistent mediation: MacKinnon, Krull & Lockwood 2000).  More
engagement with less alignment is **substitution**: what the user wanted has been replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_hmvcrl.queries.interventions import Interventions, World, hold, run

Outcome = Callable[[World], Tensor]  #: of each user, (..., N)
Contrasts = dict[str, dict[str, Tensor]]  #: by outcome and estimand, of each user


def engagement(world: World) -> Tensor:
    """Probability that a user engages with what is shown next: ``sum_c p_exposed(c) p_engage(c)``."""
    return (shown_next(world) * world.distribution("engagement").probability).sum(-1)


def alignment(world: World) -> Tensor:
    """Probability that what is shown next is what the user would search for: ``sum_c p_exposed(c) p_search(c)``."""
    return (shown_next(world) * world.distribution("search").probability).sum(-1)


def shown_next(world: World) -> Tensor:
    """Probability ``(..., N, C)`` of each category to be shown next; where exposure is forced, its share there."""
    if "exposure" in world.forced:
        return world["exposure"] / world["exposure"].sum(-1, keepdim=True)
    probability: Tensor = world.distribution("exposure").probability
    return probability


OUTCOMES: dict[str, Outcome] = {"engagement": engagement, "alignment": alignment}


@dataclass(frozen=True)
class Mediators:
    """Which sites mediate, and what is asked of them.

    Attributes
    ----------
    channels
        Sites by channel, in the order in which NIE is split.
    paths
        Edges ``(source, target)`` between mediators, whose path policy -> source -> target -> outcome is asked.
    each
        Ask for the effect through each mediator alone, the others held at their values before.
    levels
        Values of all mediators for the controlled direct effect (CDE); none: it is not asked.
    loop
        Sites of the users' past, the last part of NIE: what comes of the platform's learning and of habit.
    """

    channels: Mapping[str, Sequence[str]]
    paths: Sequence[tuple[str, str]] = ()
    each: bool = False
    levels: Mapping[str, float] | None = None
    loop: Sequence[str] = ()


@dataclass(frozen=True)
class UserEffects:
    """Worlds before and after, and what each user's outcomes are in them and in those between."""

    before: World
    after: World
    by_period: Contrasts  #: outcomes by world, ``(..., N, T)``
    asked: Mapping[str, tuple[str, str]]  #: estimands, each the difference of two worlds: from, to
    weights: Tensor  #: of the periods (T,)

    @property
    def worlds(self) -> Contrasts:
        """Outcomes by world, ``(..., N)``, averaged over the periods."""
        return {
            o: {name: y @ self.weights.to(y) for name, y in of.items()} for o, of in self.by_period.items()
        }

    @property
    def contrasts(self) -> Contrasts:
        """By outcome and estimand, ``(..., N)``."""
        return {
            o: {name: y[end] - y[start] for name, (start, end) in self.asked.items()}
            for o, y in self.worlds.items()
        }


def natural_effects(
    program: Callable[..., Any],
    args: tuple[Any, ...],
    interventions: Interventions,
    mediators: Mediators,
    outcomes: Mapping[str, Outcome],
    weights: Tensor | None = None,
) -> UserEffects:
    """Effects of interventions on outcomes, by way of mediators.

    Parameters
    ----------
    program, args
        A Pyro program and its arguments; its noise must be held (:func:`hold`), or worlds differ by
        chance.
    interventions
        What the policy forces.  A mediator among them is a treatment, and no longer mediates.
    outcomes
        Of each period's world; an effect is their average over the periods.
    weights
        Of the periods ``(T,)``; equal ones if there are none.

    Raises
    ------
    InterventionError
        If a site is unknown or forced already, or a value does not fit.
    """
    before = run(program, args)
    after = run(program, args, interventions, before)
    policy = after.forced
    channels = {c: [s for s in sites if s not in policy] for c, sites in mediators.channels.items()}
    as_before = {site: before[site] for sites in channels.values() for site in sites}
    past = {site: before[site] for site in mediators.loop if site not in policy}
    # Where the past is held, what is drawn of a period matters to no other.
    with_past = hold(program, **before.drawn) if past else program

    def forced(changed: Mapping[str, Tensor]) -> World:
        return run(with_past, args, {**policy, **as_before, **past, **changed}, before)

    direct = forced({}) if as_before or past else after
    worlds = {"before": before, "after": after, "direct": direct}
    asked = {"TE": ("before", "after"), "NDE": ("before", "direct"), "NIE": ("direct", "after")}
    moved: dict[str, Tensor] = {}
    reached = "direct"
    for channel, sites in channels.items():
        moved |= {site: after[site] for site in sites}
        moved_to = "after" if len(moved) == len(as_before) and not past else channel
        worlds |= {} if moved_to in worlds else {moved_to: forced(moved)}
        asked[f"NIE_{channel}"] = reached, moved_to
        reached = moved_to
    if past:
        asked["NIE_loop"] = reached, "after"
    if mediators.each:
        worlds |= {site: forced({site: after[site]}) for site in as_before}
        asked |= {site: ("direct", site) for site in as_before}
    for source, target in mediators.paths:
        if source in as_before and target in as_before:
            others = {site: value for site, value in as_before.items() if site != target}
            carried = run(with_past, args, {**others, **past, source: after[source]}, before)[target]
            worlds[f"{source} -> {target}"] = forced({target: carried})
            asked[f"{source} -> {target}"] = "direct", f"{source} -> {target}"
    if mediators.levels is not None:
        fixed = {site: mediators.levels[site] for site in as_before} | past
        worlds["fixed"] = run(with_past, args, fixed, before)
        worlds["fixed after"] = run(with_past, args, {**fixed, **policy}, before)
        asked["CDE"] = "fixed", "fixed after"

    by_period = {
        o: {name: torch.stack([of(period) for period in world.periods], -1) for name, world in worlds.items()}
        for o, of in outcomes.items()
    }
    if weights is None:
        weights = torch.full((len(before.periods),), 1 / len(before.periods))
    return UserEffects(before, after, by_period, asked, weights)
