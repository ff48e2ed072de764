"""Effects averaged over users under each draw of the posterior: interventional or counterfactual."""

from __future__ import annotations

import math
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
from pyro_hmvcrl.inference.ambient import few_threads, own_state
from pyro_hmvcrl.inference.laplace import ParameterPosterior
from pyro_hmvcrl.inference.scores import Values
from pyro_hmvcrl.queries.interventions import Interventions, World, by_chance, hold
from pyro_hmvcrl.queries.mediation import OUTCOMES, Mediators, Outcome, UserEffects, natural_effects
from pyro_hmvcrl.story.logs import Logs
from pyro_hmvcrl.story.model import HMVCRL
from pyro_hmvcrl.story.outcomes import at_with_outcomes
from pyro_hmvcrl.story.programs import observe

Array = NDArray[np.float64]
USERS_AT_ONCE = 20_000  #: users times periods, which bounds the memory
ROUNDING = 1e-7  #: relative; worlds are worked out in single precision
USER_DRAWS = 40_000  #: users times draws of their chance, at least
Key = tuple[str, str, str]  #: of a sum over users: what, of what, which


@dataclass(frozen=True)
class Users:
    """At whom effects are averaged: standardised covariates, and what the users' own logs say of their factors."""

    logs: Logs  #: its events are not read
    experts: Expert | None = None  #: needed for counterfactual effects

    @classmethod
    def with_covariates(
        cls,
        exposure: Tensor,
        preference: Tensor,
        experts: Expert | None = None,
        numbers: Mapping[str, Tensor] | None = None,
    ) -> Users:
        """Users of whom the events are not at hand, but for their `numbers` ``(N, T)`` by surface and period."""
        n = len(exposure)
        nothing = torch.zeros(1, 1, device=exposure.device).expand(n, 1)
        index = torch.arange(n, device=exposure.device)
        logs = Logs(index, n, exposure, preference, nothing, nothing, nothing)
        # As many events of one category: what is read of events is how many there are.
        return cls(
            logs._replace(**{name: each.unsqueeze(-1) for name, each in (numbers or {}).items()}), experts
        )

    @property
    def weights(self) -> Tensor | None:
        """Share of each period ``(T,)`` in all that was shown, by which an effect averages over periods.

        None where there is one period, or nothing was shown: all count alike.
        """
        if self.logs.n_periods == 1:
            return None
        shown = self.logs.exposure.sum((0, 2))
        return shown / shown.sum() if shown.sum() > 0 else None

    def noise(self, guide: Guide, values: Values, rows: Tensor, standard: Tensor) -> Tensor:
        """A posterior draw of these users' noise at each of the values: abduction.

        `standard` is what is drawn of it, standard normal ``(..., B, K + 1)``.
        """
        if self.experts is None:
            raise ValueError("counterfactual effects need the experts of the users' own logs")
        prior = guide.prior(values, self.logs.batch(rows))
        own = Expert(self.experts.precision[rows], self.experts.information[rows])
        return product_of_experts(prior, [own]).at(standard)


@dataclass(frozen=True)
class EffectDraws:
    """Posterior draws ``(D,)`` of average effects, ``(D, C)`` of an outcome that is a vector.

    Attributes
    ----------
    contrasts, levels
        By outcome and estimand; by outcome and world (before, direct, after).
    displacement
        Of each factor, in standard deviations of the factor before.
    densities
        Of each factor, values of some users ``(2, n)`` before and after.
    course
        By outcome, the worlds before and after by period, ``(D, T)``.
    """

    contrasts: dict[str, dict[str, Array]]
    levels: dict[str, dict[str, Array]]
    displacement: dict[str, Array]
    densities: dict[str, Array]
    course: dict[str, dict[str, Array]]


@own_state()
def average_effects(
    guide: Guide,
    posterior: ParameterPosterior,
    users: Users,
    interventions: Interventions,
    mediators: Mediators | None = None,
    outcomes: Mapping[str, Outcome] = OUTCOMES,
    counterfactual: bool = False,
    seed: int = 0,
    share: float = 1.0,
    whole: bool = True,
    progress: str = "",
) -> EffectDraws:
    """Average effects on outcomes, under each draw of the parameters.

    At the posterior mean an average runs over all users and draws of their chance: interventional effects over noise
    drawn anew, in antithetic pairs, counterfactual ones over noise from each user's own posterior; and where there are
    several periods, over their events, drawn with the same chance in every world.  By how much a draw of the parameters
    differs from their mean is told by the average's gradient (the delta method).  Events are drawn, and have no
    gradient of their own: theirs is that of their probability (the score function; Williams 1992), held against what
    the user's first period, which no event precedes, leads to expect.  Memory is bounded.

    Parameters
    ----------
    interventions
        Values of sites (tensors: one for each user), or functions of their natural values.
    outcomes
        A number of each user, ``(..., N)``, or a vector ``(C, ..., N)``: of that only the worlds before and after are
        averaged, as each of its entries takes a gradient.
    mediators
        By default the factors of both channels, and the past, without further questions.
    share
        Of `USER_DRAWS`, where less will do.
    whole
        With the factors' displacement and densities, and the course over the periods; else these are left empty.
    progress
        Title of a progress bar; empty: none.

    Raises
    ------
    InterventionError
        As :func:`natural_effects`.
    ValueError
        If `counterfactual` is asked of users without experts.
    """
    logs, device = users.logs, users.logs.index.device
    mediators = mediators or Mediators(factors_by_channel(guide.model), loop=sites_of_past(logs))
    n_noise = 1 if counterfactual else 2
    n = logs.n_users
    at_once = max(USERS_AT_ONCE // logs.n_periods // n, 1) * n  # all users, and again, or else a part of them
    at_once = min(at_once, max(USERS_AT_ONCE // logs.n_periods, 1))
    steps = (
        torch.arange(n, device=device).repeat(math.ceil(share * USER_DRAWS / (n * n_noise))).split(at_once)
    )
    found = _Averages(posterior.mean)
    densities: dict[str, Array] = {}
    size = at_once * n_noise * len(found.at["b"])
    with torch.random.fork_rng(), torch.enable_grad(), few_threads(size):
        torch.manual_seed(seed)
        for number, rows in enumerate(tqdm(steps, progress, disable=not progress, leave=False)):
            batch = logs.batch(rows)
            drawn = torch.randn(1, len(rows), guide.model.n_noise, device=device)
            antithetic = torch.cat([drawn, -drawn])
            noise = users.noise(guide, found.at, rows, drawn) if counterfactual else antithetic
            story = at_with_outcomes(guide.model, found.at)
            # The one period of a story without a past is observed, so that no events are drawn.
            story = observe(story, batch) if logs.n_periods == 1 else by_chance(story, seed + number)
            forces = {
                site: force[rows] if isinstance(force, Tensor) and force.dim() else force
                for site, force in interventions.items()
            }
            program = hold(story, noise=noise)
            effects = natural_effects(program, (batch,), forces, mediators, outcomes, users.weights)
            names = guide.model.graph.names if whole else []
            found.add(effects, names, with_course=whole and number * at_once < n)
            densities = densities or _densities(effects, names)
    return found.draws(posterior, effects.asked, densities)


def factors_by_channel(model: HMVCRL) -> dict[str, list[str]]:
    """Site names of the factors, by channel."""
    names = model.graph.names
    return {CHANNELS[0]: names[: model.n_platform], CHANNELS[1]: names[model.n_platform :]}


def sites_of_past(logs: Logs) -> list[str]:
    """Site names of the users' past; there is none before the first period."""
    return [f"history_{t + 1}" for t in range(1, logs.n_periods)]


class _Averages:
    """Sums over users, at the posterior mean, and their gradients by the parameters."""

    def __init__(self, mean: Values) -> None:
        self.at = {name: value.clone().requires_grad_() for name, value in mean.items()}
        self._sum: dict[Key, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.double))
        self._gradient: dict[Key, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.double))
        self._users: dict[Key, int] = defaultdict(int)

    def add(self, effects: UserEffects, factors: Sequence[str], with_course: bool) -> None:
        """Add these users."""
        score = {
            name: _score(world) for name, world in (("before", effects.before), ("after", effects.after))
        }
        for outcome, of in effects.by_period.items():
            for name, values in of.items():
                vector = values.dim() > effects.before["noise"].dim()
                if vector and name not in ("before", "after"):
                    continue
                # Every past but that of the world after is as it was before.
                y = _following(values, score["after" if name == "after" else "before"])
                self._add(("world", outcome, name), y @ effects.weights.to(y), vector)
                if with_course and not vector and name in ("before", "after"):
                    for t, in_period in enumerate(y.unbind(-1)):
                        self._add(("course", outcome, f"{name} {t}"), in_period)
        for factor in factors:
            before, after = effects.before[factor], effects.after[factor]
            self._add(("factor", factor, "before"), before)
            self._add(("factor", factor, "square"), before**2)
            self._add(("factor", factor, "moved"), after - before)

    def _add(self, key: Key, of_users: Tensor, vector: bool = False) -> None:
        """Add a number of each user's, or a vector of which each entry is averaged by itself ``(C, ..., N)``."""
        users = tuple(range(1 if vector else 0, of_users.dim()))
        self._sum[key] = self._sum[key] + of_users.detach().double().sum(users).cpu()
        self._users[key] += of_users.numel() // self._sum[key].numel()
        if of_users.requires_grad:
            sums = of_users.sum(users)
            gradients = [self._gradient_of(entry) for entry in sums.reshape(-1)]
            self._gradient[key] = self._gradient[key] + torch.stack(gradients).view(*sums.shape, -1)

    def _gradient_of(self, total: Tensor) -> Tensor:
        leaves = list(self.at.values())
        parts = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
        given = [
            torch.zeros_like(leaf) if part is None else part for leaf, part in zip(leaves, parts, strict=True)
        ]
        return torch.cat([part.flatten() for part in given]).double().cpu()

    def draws(
        self, posterior: ParameterPosterior, asked: Mapping[str, tuple[str, str]], densities: dict[str, Array]
    ) -> EffectDraws:
        """What the averages are at each draw of the parameters."""
        differs = [
            (posterior.draws[name] - posterior.mean[name]).flatten(1).double() for name in posterior.mean
        ]
        moved = torch.cat(differs, 1)
        of: dict[Key, Array] = {}
        for key, total in self._sum.items():
            none = torch.zeros(*total.shape, moved.shape[1], dtype=torch.double)
            by_draw = torch.tensordot(moved, self._gradient.get(key, none), ([1], [-1]))
            of[key] = ((total + by_draw) / self._users[key]).numpy()
        outcomes = dict.fromkeys(outcome for kind, outcome, _ in of if kind == "world")
        worlds = {
            o: {name: of["world", o, name] for kind, p, name in of if (kind, p) == ("world", o)}
            for o in outcomes
        }
        with_course = any(kind == "course" for kind, *_ in of)
        course = {
            o: {name: _by_period(of, o, name) for name in ("before", "after")}
            for o in outcomes
            if with_course
        }
        displacement = {}
        for factor in (f for kind, f, part in of if (kind, part) == ("factor", "moved")):
            before, square, by = (
                (float(self._sum[key]) / self._users[key], of[key])
                for key in (("factor", factor, part) for part in ("before", "square", "moved"))
            )
            variance = max(square[0] - before[0] ** 2, 1e-12)
            wider = (square[1] - square[0] - 2 * before[0] * (before[1] - before[0])) / variance
            displacement[factor] = (by[1] - by[0] * wider / 2) / variance**0.5  # by its gradient, as all here
        estimands = {"NIE_loop": ("after", "after"), **asked}  # 0 without a past
        return EffectDraws(
            {
                o: {
                    name: _less(y[end], y[start])
                    for name, (start, end) in estimands.items()
                    if {start, end} <= y.keys()
                }
                for o, y in worlds.items()
            },
            {
                o: {name: y[name] for name in ("before", "direct", "after") if name in y}
                for o, y in worlds.items()
            },
            displacement,
            densities,
            course,
        )


def _less(end: Array, start: Array) -> Array:
    """The difference of two worlds' draws; what is no more than rounding is 0."""
    difference = end - start
    return np.where(np.abs(difference) < ROUNDING * np.abs(start).max(), 0.0, difference)


def _by_period(of: dict[Key, Array], outcome: str, world: str) -> Array:
    """The draws of an outcome in one of the worlds, ``(D, T)``."""
    own = [
        draws for (kind, o, name), draws in of.items() if kind == "course" and o == outcome and world in name
    ]
    return np.stack(own, -1)


def _score(world: World) -> Tensor | None:
    """Log probability ``(..., N, T)`` of the events that a world drew before each period; None: it drew none."""
    drawn = world.drawn
    periods = [
        [
            world.distribution(site).log_prob(value)
            for site, value in drawn.items()
            if site.endswith(f"_{t + 1}")
        ]
        for t in range(len(world.periods))
    ]
    if not drawn:
        return None
    of_period = torch.stack([torch.stack(events).sum(0) for events in periods], -1)
    return of_period.cumsum(-1) - of_period


def _following(y: Tensor, score: Tensor | None) -> Tensor:
    """An outcome ``(..., N, T)``, with the gradient that it has by way of the events before each period.

    What the user's first period leads to expect is taken off, which leaves the gradient's mean and takes its noise.
    """
    if score is None:
        return y
    first = y.detach()[..., :1]
    users = tuple(range(max(y.dim() - score.dim(), 0), y.dim() - 1))
    expected = first + (y.detach() - first).mean(users, keepdim=True)
    return y + (y.detach() - expected) * (score - score.detach())


def _densities(effects: UserEffects, factors: Sequence[str]) -> dict[str, Array]:
    """Each factor before and after, of these users."""
    worlds = effects.before, effects.after
    return {
        factor: torch.stack([w[factor].detach().flatten() for w in worlds]).double().cpu().numpy()
        for factor in factors
    }
