"""Effects averaged over users under each draw of the posterior: interventional or counterfactual."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from pyro_hmvcrl.data.dataset import CHANNELS
from pyro_hmvcrl.guide.experts import Expert, product_of_experts
from pyro_hmvcrl.guide.guide import Guide
from pyro_hmvcrl.inference.laplace import ParameterPosterior, Values
from pyro_hmvcrl.queries.interventions import Interventions, hold
from pyro_hmvcrl.queries.mediation import OUTCOMES, Mediators, Outcome, UserEffects, natural_effects
from pyro_hmvcrl.story.logs import Logs
from pyro_hmvcrl.story.model import HMVCRL
from pyro_hmvcrl.story.programs import at, observe, side_by_side

Array = NDArray[np.float64]
USERS_AT_ONCE = 20_000  #: users times draws, which bounds the memory
Key = tuple[str, str, str]  #: of a sum over users: what, of what, which
Sums = dict[Key, Tensor]  #: of each draw, (S,)


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
