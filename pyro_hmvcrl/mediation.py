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

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from pyro_hmvcrl.dataset import CHANNELS
from pyro_hmvcrl.guide import Expert, Guide, product_of_experts
from pyro_hmvcrl.interventions import Interventions, World, hold, run
from pyro_hmvcrl.laplace import ParameterPosterior, Values
from pyro_hmvcrl.model import HMVCRL, Logs, at, observe, side_by_side

Array = NDArray[np.float64]
Outcome = Callable[[World], Tensor]  #: of each user, (..., N)
Contrasts = dict[str, dict[str, Tensor]]  #: by outcome and estimand, of each user

USERS_AT_ONCE = 20_000  #: users times draws, which bounds the memory
Key = tuple[str, str, str]  #: of a sum over users: what, of what, which
Sums = dict[Key, Tensor]  #: of each draw, (S,)


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


# --- Estimands, user by user ---------------------------------------------------------------------------------


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


# --- Averages over users, with intervals ---------------------------------------------------------------------


@dataclass(frozen=True)
class Users:
    """At whom effects are averaged: standardised covariates, and what the users' own logs say of their factors."""

    logs: Logs  #: its events are not read
    experts: Expert | None = None  #: needed for counterfactual effects

    @classmethod
    def with_covariates(cls, exposure: Tensor, preference: Tensor, experts: Expert | None = None) -> Users:
        """Users of whom the events are not at hand."""
        n = len(exposure)
        nothing = torch.zeros(1, 1, device=exposure.device).expand(n, 1)
        index = torch.arange(n, device=exposure.device)
        return cls(Logs(index, n, exposure, preference, nothing, nothing, nothing), experts)

    def noise(self, guide: Guide, values: Values, rows: Tensor) -> Tensor:
        """One posterior draw of these users' noise, ``(..., B, K)``, at each of the values: abduction."""
        if self.experts is None:
            raise ValueError("counterfactual effects need the experts of the users' own logs")
        prior = guide.prior(values, self.logs.batch(rows))
        own = Expert(self.experts.precision[rows], self.experts.information[rows])
        return product_of_experts(prior, [own]).rsample()


@dataclass(frozen=True)
class EffectDraws:
    """Posterior draws ``(D,)`` of average effects.

    Attributes
    ----------
    contrasts, levels
        By outcome and estimand; by outcome and world (before, direct, after).
    displacement
        Of each factor, in standard deviations of the factor before.
    densities
        Of each factor, values of some users ``(2, n)`` before and after.
    """

    contrasts: dict[str, dict[str, Array]]
    levels: dict[str, dict[str, Array]]
    displacement: dict[str, Array]
    densities: dict[str, Array]


@torch.no_grad()
def average_effects(
    guide: Guide,
    posterior: ParameterPosterior,
    users: Users,
    interventions: Interventions,
    mediators: Mediators | None = None,
    outcomes: Mapping[str, Outcome] = OUTCOMES,
    counterfactual: bool = False,
    draws: int | None = None,
    seed: int = 0,
    progress: str = "",
) -> EffectDraws:
    """Average effects on outcomes under each draw of the parameters.

    Interventional effects average over noise drawn anew, in antithetic pairs; what that adds of chance is taken out
    by the same noise's effect at the posterior mean (a control variate), so that the draws differ by the parameters
    alone.  Counterfactual effects draw each user's noise from the user's own posterior under the drawn parameters.
    Memory is bounded, whatever the number of users and draws.

    Parameters
    ----------
    interventions
        Values of sites (tensors: one for each user), or functions of their natural values.
    mediators
        By default the factors of both channels, without further questions.
    draws
        At most this many of the posterior's; None: all.
    progress
        Title of a progress bar; empty: none.

    Raises
    ------
    InterventionError
        As :func:`natural_effects`.
    ValueError
        If `counterfactual` is asked of users without experts.
    """
    model, n = guide.model, users.logs.n_users
    mediators = mediators or Mediators(factors_by_channel(model))
    n_draws = min(draws or posterior.n_draws, posterior.n_draws)
    batches = torch.arange(n, device=users.logs.index.device).split(USERS_AT_ONCE)
    n_noise = 1 if counterfactual else 2
    densities: dict[str, Array] = {}
    found: list[Sums] = []
    at_mean: list[Sums] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        chunks = torch.arange(n_draws).split(max(USERS_AT_ONCE // n, 1))
        for chunk in tqdm(chunks, progress, disable=not progress, leave=False):
            drawn: Sums = defaultdict(float)
            centre: Sums = defaultdict(float)
            values = side_by_side(model, posterior.draw(chunk.repeat(n_noise)))
            for rows in batches:
                question = (users.logs.batch(rows), _at_rows(interventions, rows), mediators, outcomes)
                shape = n_noise, len(chunk), len(rows)
                if counterfactual:
                    noise = users.noise(guide, values, rows)
                else:
                    half = torch.randn(len(chunk), len(rows), model.n_factors, device=rows.device)
                    noise = torch.cat([half, -half])
                    effects = _effects_at(model, posterior.mean, noise, *question)
                    _add(centre, effects, model.graph.names, shape)
                effects = _effects_at(model, values, noise, *question)
                _add(drawn, effects, model.graph.names, shape)
                densities = densities or _densities(effects, model.graph.names, len(chunk))
            found.append(_averages(drawn, n_noise * n))
            at_mean.append(_averages(centre, n_noise * n))
    return _collect(found, at_mean, densities)


def factors_by_channel(model: HMVCRL) -> dict[str, list[str]]:
    """Site names of the factors, by channel."""
    names = model.graph.names
    return {CHANNELS[0]: names[: model.n_platform], CHANNELS[1]: names[model.n_platform :]}


def _effects_at(
    model: HMVCRL,
    values: Values,
    noise: Tensor,
    logs: Logs,
    interventions: Interventions,
    mediators: Mediators,
    outcomes: Mapping[str, Outcome],
) -> UserEffects:
    program = hold(observe(at(model, values), logs), noise=noise)  # observed, so that no events are drawn
    return natural_effects(program, (logs,), interventions, mediators, outcomes)


def _at_rows(interventions: Interventions, rows: Tensor) -> Interventions:
    return {
        site: force[rows] if isinstance(force, Tensor) and force.dim() else force
        for site, force in interventions.items()
    }


def _add(sums: Sums, effects: UserEffects, factors: Sequence[str], shape: tuple[int, int, int]) -> None:
    """Add these users to each draw's sums over users; `shape` is that of noise draws, parameter draws and users."""

    def total(of_users: Tensor) -> Tensor:
        return of_users.double().expand(shape[0] * shape[1], -1).unflatten(0, shape[:2]).sum((0, 2)).cpu()

    for outcome, contrasts in effects.contrasts.items():
        for name, of_users in contrasts.items():
            sums["contrast", outcome, name] += total(of_users)
        for name, of_users in effects.levels[outcome].items():
            sums["level", outcome, name] += total(of_users)
    for factor in factors:
        before, after = (world[factor].double() for world in (effects.before, effects.after))
        sums["factor", factor, "before"] += total(before)
        sums["factor", factor, "square"] += total(before**2)
        sums["factor", factor, "moved"] += total(after - before)


def _averages(sums: Sums, n: int) -> Sums:
    """Averages over `n` users and noise draws, and displacements in standard deviations."""
    averages = {key: value / n for key, value in sums.items() if key[0] in ("contrast", "level")}
    for kind, factor, part in sums:
        if (kind, part) == ("factor", "moved"):
            mean, square = (sums["factor", factor, name] / n for name in ("before", "square"))
            sd = (square - mean**2).clamp_min(1e-12).sqrt()
            averages["displacement", factor, ""] = sums["factor", factor, "moved"] / n / sd
    return averages


def _collect(found: list[Sums], at_mean: list[Sums], densities: dict[str, Array]) -> EffectDraws:
    parts: dict[str, dict[str, dict[str, Array]]] = {"contrast": {}, "level": {}, "displacement": {}}
    for key in found[0]:
        kind, of, which = key
        draws = torch.cat([chunk[key] for chunk in found])
        if key in at_mean[0]:
            centre = torch.cat([chunk[key] for chunk in at_mean])
            draws = draws - centre + centre.mean()
        parts[kind].setdefault(of, {})[which] = draws.numpy()
    displacement = {factor: of[""] for factor, of in parts["displacement"].items()}
    return EffectDraws(parts["contrast"], parts["level"], displacement, densities)


def _densities(effects: UserEffects, factors: Sequence[str], n_draws: int) -> dict[str, Array]:
    """Each factor before and after, of these users under the first of the draws."""
    worlds = effects.before, effects.after
    return {
        factor: torch.stack([world[factor].unflatten(0, (-1, n_draws))[:, 0].flatten() for world in worlds])
        .double()
        .cpu()
        .numpy()
        for factor in factors
    }


# --- In words ------------------------------------------------------------------------------------------------

SURE = 0.95  #: posterior probability from which a sign is spoken of as found


def interval(draws: Array, level: float) -> dict[str, float]:
    """Mean and central interval of draws ``(D,)``."""
    lower, upper = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return {"mean": float(draws.mean()), "lower": float(lower), "upper": float(upper)}


def suppression(contrasts: Mapping[str, Array]) -> float:
    """Posterior probability that the direct and the indirect effect have opposite signs.

    Examples
    --------
    >>> suppression({"NDE": np.array([0.2, 0.3]), "NIE": np.array([-0.1, 0.1])})
    0.5
    """
    return float((contrasts["NDE"] * contrasts["NIE"] < 0).mean())


def substitution(contrasts: Mapping[str, Mapping[str, Array]]) -> float:
    """Posterior probability that engagement rises while alignment falls."""
    return float(((contrasts["engagement"]["TE"] > 0) & (contrasts["alignment"]["TE"] < 0)).mean())


def proportion_mediated(contrasts: Mapping[str, Array]) -> Array | None:
    """NIE / TE, or None where it means nothing: unless there is a TE, and NDE and NIE have one sign, for sure."""
    nothing = suppression(contrasts) > 1 - SURE or not contrasts["TE"].all()
    return None if nothing else contrasts["NIE"] / contrasts["TE"]


def sentences(contrasts: Mapping[str, Mapping[str, Array]]) -> list[str]:
    """What the draws say of suppression and substitution, in plain words."""
    e, p_suppression = contrasts["engagement"], suppression(contrasts["engagement"])
    direct, indirect = ("raises" if e[name].mean() > 0 else "lowers" for name in ("NDE", "NIE"))
    if p_suppression >= SURE:
        said = [
            f"Suppression (probability {p_suppression:.2f}): directly the policy {direct} engagement, through the "
            f"factors it {indirect} it, and each hides a part of the other."
        ]
    else:
        said = [f"No suppression found (probability {p_suppression:.2f})."]
    p_substitution = substitution(contrasts)
    if p_substitution >= SURE:
        said.append(
            f"Substitution (probability {p_substitution:.2f}): engagement rises while what is shown moves away from "
            "what users look for. Engagement alone would call this policy a success."
        )
    else:
        said.append(f"No substitution found (probability {p_substitution:.2f}).")
    return said
