"""A change of the platform as the model takes it: what was asked in words, and whether the data support it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor

from pyro_hmvcrl.data.dataset import CHANNELS
from pyro_hmvcrl.queries.headline import change_in_words
from pyro_hmvcrl.queries.interventions import (
    InterventionError,
    Interventions,
    Policy,
    Shift,
    apply,
    together,
)
from pyro_hmvcrl.queries.overlap import Overlap, overlap
from pyro_hmvcrl.queries.population import Population


@dataclass(frozen=True)
class Question:
    """A change as the model takes it: what was asked in words, and whether the data support it."""

    words: list[str]
    in_words: str  #: as a sentence starts
    interventions: Interventions
    support: Overlap
    policy: Policy | None = None  #: none: the change is one of factors
    held: Mapping[str, float] = field(default_factory=dict)  #: users at the ends of a share, by column

    @property
    def remarks(self) -> list[str]:
        """Which covariates cannot follow the policy for all users."""
        return [
            f"{name} is taken for a share: {of:.1%} of the users would leave 0 to 1, and are held at its ends."
            for name, of in self.held.items()
        ]


def words_of(change: Policy | Sequence[Shift]) -> list[str]:
    """What is asked, in words; a function's are its name."""
    return list(map(str, change)) if isinstance(change, Sequence) else [getattr(change, "__name__", "policy")]


def question_of(population: Population, change: Policy | Sequence[Shift], seed: int) -> Question:
    """A policy, or shifts of covariates or factors, as the model takes it.

    Raises
    ------
    InterventionError
        If a column is unknown, or covariates and factors are shifted at once.
    """
    if not isinstance(change, Sequence):
        words = words_of(change)
        return _of_covariates(population, words, f"The policy {words[0]}", change, seed)
    names = population.run.factor_names
    shifts = [shift for of_one in change for shift in _each_factor(of_one, names)]
    words = words_of(shifts)
    exposure = population.run.config["exposure_covariates"]
    for shift in shifts:
        if shift.column not in [*names, *exposure]:
            raise InterventionError(
                f"no exposure covariate or factor {shift.column}: choose of {', '.join([*exposure, *names])}, "
                f"or {' or '.join(CHANNELS)} for all factors of it"
            )
    of_factors = [shift.column in names for shift in shifts]
    if any(of_factors) and not all(of_factors):
        other = shifts[of_factors.index(False)].column
        raise InterventionError(
            f"{other} is no factor: shift covariates or factors ({', '.join(names)}), not both at once"
        )
    if any(of_factors):
        return Question(words, change_in_words(shifts), *_force_factors(population, shifts))
    spread = population.exposure.std(ddof=0)
    policy = together(*(shift.in_units(float(spread[shift.column])) for shift in shifts))
    return _of_covariates(population, words, change_in_words(shifts), policy, seed)


def _of_covariates(
    population: Population, words: list[str], in_words: str, policy: Policy, seed: int
) -> Question:
    _, held = population.changed(policy, seed)
    return Question(words, in_words, *population.under(policy, seed), policy, held)


def _each_factor(shift: Shift, names: Sequence[str]) -> list[Shift]:
    """A shift of a channel as shifts of its factors; any other as it is."""
    if shift.column not in CHANNELS:
        return [shift]
    return [replace(shift, column=name) for name in names if name.startswith(f"{shift.column}_")]


def _force_factors(population: Population, shifts: Sequence[Shift]) -> tuple[Interventions, Overlap]:
    """Interventions on factors, and whether the users' own factors support them."""
    shifts = [shift.in_units(population.sd_of(shift.column)) for shift in shifts]
    forced = apply(together(*shifts), population.factor_means)
    own = {name: [s for s in shifts if s.column == name] for name in {s.column: None for s in shifts}}
    interventions = {name: partial(_in_turn, each) for name, each in own.items()}
    return interventions, overlap(population.factor_means, forced)


def _in_turn(shifts: Sequence[Shift], now: Tensor) -> Tensor:
    """A factor's value after one shift and the next."""
    for shift in shifts:
        now = shift.changed(now)
    return now
