"""Mediation: how much of a policy's effect runs through the platform's factors, and how much through preference.

For a change a -> a' of the policy, with Y an outcome, P and Q the factors of the two channels::

    TE             = Y(a', P(a'), Q(a')) - Y(a, P(a), Q(a))
    NDE            = Y(a', P(a), Q(a))   - Y(a, P(a), Q(a))
    NIE_platform   = Y(a', P(a'), Q(a))  - Y(a', P(a), Q(a))
    NIE_preference = Y(a', P(a'), Q(a')) - Y(a', P(a'), Q(a))         NIE = TE - NDE = NIE_platform + NIE_preference

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

from torch import Tensor

from pyro_hmvcrl.queries.interventions import Interventions, World, run

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
    """

    channels: Mapping[str, Sequence[str]]
    paths: Sequence[tuple[str, str]] = ()
    each: bool = False
    levels: Mapping[str, float] | None = None


@dataclass(frozen=True)
class UserEffects:
    """Worlds before and after, and for each outcome the mean worlds and contrasts of each user ``(..., N)``."""

    before: World
    after: World
    levels: Contrasts  #: before, direct (mediators as before), after
    contrasts: Contrasts


def natural_effects(
    program: Callable[..., Any],
    args: tuple[Any, ...],
    interventions: Interventions,
    mediators: Mediators,
    outcomes: Mapping[str, Outcome],
) -> UserEffects:
    """Effects of interventions on outcomes, by way of mediators.

    Parameters
    ----------
    program, args
        A Pyro program and its arguments; its noise must be held (:func:`hold`), or worlds differ by
        chance.
    interventions
        What the policy forces.  A mediator among them is a treatment, and no longer mediates.

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

    def forced(changed: Mapping[str, Tensor]) -> World:
        return run(program, args, {**policy, **as_before, **changed}, before)

    worlds = {"before": before, "after": after, "direct": forced({})}
    asked = {"TE": ("before", "after"), "NDE": ("before", "direct"), "NIE": ("direct", "after")}
    moved: dict[str, Tensor] = {}
    reached = "direct"
    for channel, sites in channels.items():
        moved |= {site: after[site] for site in sites}
        moved_to = "after" if len(moved) == len(as_before) else channel
        worlds |= {} if moved_to in worlds else {moved_to: forced(moved)}
        asked[f"NIE_{channel}"] = reached, moved_to
        reached = moved_to
    if mediators.each:
        worlds |= {site: forced({site: after[site]}) for site in as_before}
        asked |= {site: ("direct", site) for site in as_before}
    for source, target in mediators.paths:
        if source in as_before and target in as_before:
            others = {site: value for site, value in as_before.items() if site != target}
            carried = run(program, args, {**others, source: after[source]}, before)[target]
            worlds[f"{source} -> {target}"] = forced({target: carried})
            asked[f"{source} -> {target}"] = "direct", f"{source} -> {target}"
    if mediators.levels is not None:
        fixed = {site: mediators.levels[site] for site in as_before}
        worlds["fixed"] = run(program, args, fixed, before)
        worlds["fixed after"] = run(program, args, {**fixed, **policy}, before)
        asked["CDE"] = "fixed", "fixed after"

    y = {outcome: {name: of(world) for name, world in worlds.items()} for outcome, of in outcomes.items()}
    return UserEffects(
        before,
        after,
        {o: {name: y[o][name] for name in ("before", "direct", "after")} for o in y},
        {o: {name: y[o][end] - y[o][start] for name, (start, end) in asked.items()} for o in y},
    )
