"""Interventions, on ``pyro.do`` and ``pyro.condition`` themselves.

A **policy** is a function of the exposure covariates (:func:`add`, :func:`set_to`, or one of your own, which may
draw at random).  An **intervention** maps sites of the model to values, or to functions of their natural values; a
policy shift is ``{"exposure_covariates": shifted}``, an intervention on a factor ``{"platform_1": 2.0}``, on a whole
channel ``{"platform": lambda factor: factor + 1}``.

:func:`run` gives the **world** that results, by one call of ``pyro.do``, after the traps of ``pyro.do`` have been
ruled out: it ignores a misspelt site, refuses functions, lets a value of other users' shape into a batch, and
recurses on a site that is forced twice.  Contrasts compare worlds of the same users with the same noise, which
:func:`hold` makes so by ``pyro.condition``: noise drawn anew gives **interventional** (population) effects, noise
that a guide has abducted from the users' own logs **counterfactual** (unit-level) ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_hmvcrl.data.dataset import CHANNELS
from pyro_hmvcrl.inference.writing import printable

Policy = Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]  #: covariates in their own units
Force: TypeAlias = Tensor | float | Callable[[Tensor], Tensor]
Interventions: TypeAlias = Mapping[str, Force]


IN_PERIODS = ("history", "search", "suggested", "exposure", "engagement")  #: sites that each period has
AMOUNT = re.compile(r"(\*?)([^\s*]+?)(sd)?(?: min (\S+))?(?: max (\S+))?")  #: of a shift, and its ends
POLICY = re.compile(r"\s*(?P<name>[^=:,]*[^=:,\s])\s*:(?!=)(?P<shifts>.+)")
OF_PERIOD = re.compile(rf"(?:{'|'.join(IN_PERIODS)})_\d+")


class InterventionError(ValueError):
    """An intervention that cannot be carried out: the message names the site or column and the mend."""


@dataclass(frozen=True)
class Shift:
    """The policy that changes one covariate: adds (in its own units or standard deviations), multiplies, or sets it.

    On a factor the same change is an intervention, see :meth:`force`.

    Attributes
    ----------
    times, fixed
        The amount is what values are multiplied by, or set to.
    low, high
        Ends at which values are held, in the column's own units.
    """

    column: str
    amount: float
    in_sd: bool = False
    fixed: bool = False
    times: bool = False
    low: float | None = None
    high: float | None = None

    def __call__(self, covariates: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        if self.column not in covariates:
            known = ", ".join(covariates.columns)
            raise InterventionError(f"no exposure covariate or factor {self.column}: choose of {known}")
        values = covariates[self.column]
        return covariates.assign(**{self.column: self.in_units(float(values.std(ddof=0))).changed(values)})

    def force(self, sd: float) -> Callable[[Tensor], Tensor]:
        """The change as a function of a factor's natural value; `sd` is the factor's."""
        return self.in_units(sd).changed

    def in_units(self, sd: float) -> Shift:
        """The same change in the column's own units; `sd` is the column's."""
        return replace(self, amount=self.amount * sd, in_sd=False) if self.in_sd else self

    def changed(self, now: Any) -> Any:
        """Values after a change in their own units."""
        start = 0 * now if self.fixed else now
        then = start * self.amount if self.times else start + self.amount
        return then if self.low is None and self.high is None else then.clip(self.low, self.high)

    def __str__(self) -> str:
        ends = (("min", self.low), ("max", self.high))
        within = "".join(f" {end} {value:.15g}" for end, value in ends if value is not None)
        if self.fixed:
            return f"{self.column}:={self.amount:.15g}{within}"
        if self.times:
            return f"{self.column}=*{self.amount:.15g}{within}"
        return f"{self.column}={self.amount:+.15g}{'sd' if self.in_sd else ''}{within}"


def add(column: str, amount: float, in_sd: bool = False) -> Shift:
    """Add an amount to a covariate, in its own units or in standard deviations."""
    return Shift(column, amount, in_sd)


def set_to(column: str, value: float) -> Shift:
    """Give all users the same value of a covariate, in its own units."""
    return Shift(column, value, fixed=True)


def together(*policies: Policy) -> Policy:
    """One policy after the other."""

    def policy(covariates: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        for part in policies:
            covariates = part(covariates, rng)
        return covariates

    return policy


def scaled(policy: Policy, size: float) -> Policy:
    """The policy's change of the covariates, `size` times as large."""

    def sized(covariates: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        changed: pd.DataFrame = covariates + size * (policy(covariates, rng) - covariates)
        return changed

    return sized


def parse_shift(text: str) -> Shift:
    """A change as the command line has it: ``COLUMN=+1.0``, ``COLUMN=-0.5sd``, ``COLUMN=*0.8``, or ``COLUMN:=3``.

    The last sets a value, ``*`` multiplies.  ``min`` and ``max`` hold the values at ends: ``COLUMN=-0.2 min 0``.

    Raises
    ------
    InterventionError
        If the text is none of these.

    Examples
    --------
    >>> parse_shift("popularity=-0.5sd") == add("popularity", -0.5, in_sd=True)
    True
    >>> parse_shift("popularity:=3") == set_to("popularity", 3.0)
    True
    >>> str(parse_shift("share=*1.2 max 1"))
    'share=*1.2 max 1'
    """
    column, _, change = text.partition("=")
    fixed, read = column.endswith(":"), AMOUNT.fullmatch(change.strip())
    try:
        times, number, sd, *ends = read.groups() if read else ("", "nan", "", None, None)
        amount, (low, high) = float(number), (None if end is None else float(end) for end in ends)
    except ValueError:
        amount, low, high = np.nan, None, None
    empty = low is not None and high is not None and low > high
    unclear = not column.removesuffix(":") or not np.isfinite([amount, low or 0, high or 0]).all()
    if unclear or empty or bool(fixed) + bool(sd) + bool(times) > 1:
        raise InterventionError(
            f"shift {text!r}: write COLUMN=+1.0, COLUMN=-0.5sd, COLUMN=*0.8, or COLUMN:=3 to set a value; "
            "and after it, to hold values at ends, min 0, max 1, or both"
        )
    return Shift(column.removesuffix(":"), amount, bool(sd), fixed, bool(times), low, high)


def parse_policy(text: str) -> tuple[str, list[Shift]]:
    """A policy as the command line has it: ``NAME: COLUMN=-0.2, COLUMN=+1sd``; its name, or that of its shifts.

    Raises
    ------
    InterventionError
        If the text is none.

    Examples
    --------
    >>> name, shifts = parse_policy("calmer: autoplay=-0.2, novelty:=1")
    >>> name, [str(shift) for shift in shifts]
    ('calmer', ['autoplay=-0.2', 'novelty:=1'])
    >>> parse_policy("autoplay=-0.2")[0]
    'autoplay=-0.2'
    """
    named = POLICY.fullmatch(text)
    shifts = [parse_shift(part.strip()) for part in (named["shifts"] if named else text).split(",")]
    return (named and named["name"]) or name_of(shifts), shifts


def name_of(shifts: Sequence[Shift]) -> str:
    """Of a policy that was given none: what it does, in signs that can be printed."""
    return printable(", ".join(map(str, shifts)).replace("\n", " "))


def parse_policies(
    shifts: Sequence[str], policies: Sequence[str], counterfactual: bool
) -> dict[str, list[Shift]]:
    """Policies by name: the shifts, which are one, and each of `policies` (:func:`parse_policy`).

    Raises
    ------
    InterventionError
        If there is none, or two have one name.
    """
    named = [parse_policy(text) for text in policies]
    if own := [parse_shift(text) for text in shifts]:
        named = [(name_of(own), own), *named]
    if not named:
        raise InterventionError(
            'no policy is given: give --shift COLUMN=+1.0, or --policy "NAME: COLUMN=+1.0"'
        )
    found = {f"{name} (counterfactual)" if counterfactual else name: of for name, of in named}
    if len(found) < len(named):
        raise InterventionError("two policies have one name: give each its own, NAME: SHIFT")
    return found


def apply(policy: Policy, covariates: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The exposure covariates under a policy; `covariates` themselves are not changed.

    Raises
    ------
    InterventionError
        If the policy gives other rows or columns, or a value that is not a finite number.
    """
    shifted = policy(covariates.copy(), np.random.default_rng(seed))
    if not isinstance(shifted, pd.DataFrame) or list(shifted.columns) != list(covariates.columns):
        raise InterventionError(
            f"the policy must give a data frame of the columns {list(covariates.columns)}"
        )
    if len(shifted) != len(covariates):
        raise InterventionError(f"the policy gave {len(shifted)} rows for {len(covariates)} users")
    if not shifted.index.equals(covariates.index):
        raise InterventionError("the policy must keep every user, in the same order (the same index)")
    numbers = shifted.apply(pd.to_numeric, errors="coerce")
    finite = np.isfinite(numbers.to_numpy(float))
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InterventionError(
            f"the policy gave {shifted.iat[row, column]} for {shifted.columns[column]} in row {row + 1}"
        )
    return numbers


class World:
    """What a Pyro program computes under interventions: values of sites, and distributions of sampled ones.

    Attributes
    ----------
    trace
        Of the program.  Under the name of an intervened site it has the natural value.
    forced
        The values of the intervened sites.
    """

    def __init__(self, trace: Any, forced: dict[str, Tensor]) -> None:
        self.trace, self.forced = trace, forced

    @cached_property
    def periods(self) -> list[World]:
        """The world of each period, in which its sites go without their number: ``exposure`` for ``exposure_2``.

        A program without periods has one, itself.
        """
        numbers = [int(site.rpartition("_")[2]) for site in self.trace.nodes if OF_PERIOD.fullmatch(site)]

        def named(values: Mapping[str, Any], number: int) -> dict[str, Any]:
            own = {s: v for s, v in values.items() if not OF_PERIOD.fullmatch(s)}
            return own | {s: values[f"{s}_{number}"] for s in IN_PERIODS if f"{s}_{number}" in values}

        return [
            World(SimpleNamespace(nodes=named(self.trace.nodes, t)), named(self.forced, t))
            for t in range(1, max(numbers, default=0) + 1)
        ] or [self]

    def __getitem__(self, site: str) -> Tensor:
        """The value that the rest of the program saw."""
        if site in self.forced:
            return self.forced[site]
        if site not in self.trace.nodes:
            raise InterventionError(f"no site {site}: choose of {', '.join(self.sites)}")
        if _is_forced(self.trace.nodes[site]):
            raise InterventionError(f"site {site} was forced outside: the trace has only its natural value")
        value: Tensor = self.trace.nodes[site]["value"]
        return value

    def distribution(self, site: str) -> Any:
        """The distribution of a sampled site in this world.

        Raises
        ------
        InterventionError
            If the site is forced: it has a value, and no distribution.
        """
        if site in self.forced:
            raise InterventionError(f"site {site} is forced: it has a value here, and no distribution")
        return self.trace.nodes[site]["fn"]

    @property
    def drawn(self) -> dict[str, Tensor]:
        """Values that this world drew, rather than being given them or working them out."""
        nodes = self.trace.nodes.items()
        return {
            n: site["value"]
            for n, site in nodes
            if site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site)
        }

    @property
    def sites(self) -> list[str]:
        """Names of what can be intervened on."""
        nodes = self.trace.nodes.items()
        return [n for n, site in nodes if site["type"] == "sample" and not site_is_subsample(site)]


def hold(program: Callable[..., Any], **values: Tensor) -> Callable[..., Any]:
    """The program with these sites (its noise, above all) held at values, by ``pyro.condition``."""
    held: Callable[..., Any] = pyro.condition(program, data=values)
    return held


def by_chance(program: Callable[..., Any], seed: int) -> Callable[..., Any]:
    """The program with the chance of this seed: what it draws in one world it draws alike in another."""

    def seeded(*args: Any) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return program(*args)

    return seeded


def run(
    program: Callable[..., Any],
    args: tuple[Any, ...],
    interventions: Interventions | None = None,
    natural: World | None = None,
) -> World:
    """The world under interventions: one call of ``pyro.do``.

    Parameters
    ----------
    program
        The model, or any Pyro program whose randomness is held (see :func:`hold`).
    args
        The program's arguments.
    interventions
        Values of sites, or functions of their natural values.
    natural
        The world without interventions, when it is at hand already.

    Raises
    ------
    InterventionError
        If a site is unknown or forced already, or a value does not fit the site's users.

    Examples
    --------
    >>> def program():
    ...     x = pyro.deterministic("x", torch.tensor([1.0, 2.0]))
    ...     return pyro.deterministic("y", 2 * x)
    >>> run(program, (), {"x": lambda now: now + 1})["y"]
    tensor([4., 6.])
    """
    if not interventions:
        return World(poutine.trace(program).get_trace(*args), {})
    natural = natural or run(program, args)
    forced: dict[str, Tensor] = {}
    for name, force in interventions.items():
        for site in _sites(name, natural):
            if site in forced:
                raise InterventionError(f"site {site} is forced twice in one mapping")
            forced[site] = _value(site, force, natural)
    return World(poutine.trace(pyro.do(program, data=forced)).get_trace(*args), forced)


def _sites(name: str, natural: World) -> list[str]:
    """A site, or the factors of a channel."""
    if name in CHANNELS and name not in natural.sites:
        factor = re.compile(rf"{name}_\d+")
        return [site for site in natural.sites if factor.fullmatch(site)] or [name]
    return [name]


def _is_forced(site: dict[str, Any]) -> bool:
    return site.get("_intervener_id") is not None


def _value(site: str, force: Force, natural: World) -> Tensor:
    if site not in natural.sites:
        raise InterventionError(f"no site {site}: choose of {', '.join(natural.sites)}")
    if _is_forced(natural.trace.nodes[site]):
        raise InterventionError(f"site {site} is forced already: give all interventions in one mapping")
    now: Tensor = natural.trace.nodes[site]["value"]
    value = torch.as_tensor(force(now) if callable(force) else force, dtype=now.dtype, device=now.device)
    fits = value.dim() <= now.dim() or value.shape[value.dim() - now.dim() :] == now.shape
    fits &= all(v in (1, n) for v, n in zip(value.shape[::-1], now.shape[::-1], strict=False))
    if not fits:
        raise InterventionError(
            f"the value for {site} has shape {tuple(value.shape)}, the site {tuple(now.shape)}: "
            "give a number, or a value for each of the users at hand"
        )
    if not value.isfinite().all():
        raise InterventionError(f"the value for {site} is not finite everywhere")
    return value.expand(torch.broadcast_shapes(value.shape, now.shape))
