"""Which policies are best: over shifts of the exposure covariates, the most alignment at each engagement.

Shifts are spread evenly over a box, and only those that the data support are looked at.  The best of them are those
beside which none has more of both.  That they were chosen makes them look a little better than they are; their
intervals are those of each policy by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import qmc
from torch import Tensor
from tqdm.auto import tqdm

from pyro_hmvcrl.inference.ambient import few_threads, own_state
from pyro_hmvcrl.queries.answer import LEVEL, OF_CURVE
from pyro_hmvcrl.queries.averages import USERS_AT_ONCE, Users, average_effects
from pyro_hmvcrl.queries.findings import check_level, interval
from pyro_hmvcrl.queries.interventions import (
    InterventionError,
    Interventions,
    Policy,
    World,
    add,
    by_chance,
    run,
    together,
)
from pyro_hmvcrl.queries.mediation import OUTCOMES
from pyro_hmvcrl.queries.overlap import EXTRAPOLATES, LEVELS
from pyro_hmvcrl.queries.population import Population
from pyro_hmvcrl.run.run import Run
from pyro_hmvcrl.story.programs import at

POINTS, MOST_BEST = 128, 8  #: shifts that are tried; best ones that get intervals
Array = NDArray[np.float64]


@own_state()
def frontier(
    folder: str | Path,
    box: Mapping[str, tuple[float, float]] | None = None,
    *,
    points: int = POINTS,
    level: float = LEVEL,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Policies that are best in alignment at each engagement.

    Parameters
    ----------
    folder
        A run folder.
    box
        By exposure covariate, the least and the largest shift in its own units; by default a standard deviation down
        and up of all that have many values.
    points
        Number of shifts that are tried; no shift at all is one more.
    level
        Of the intervals.

    Returns
    -------
    DataFrame
        A row for each shift that the data support, by engagement: the `policy` as ``effects`` reads it (empty: none),
        the shift of each covariate, `outside` (share of users outside of the data), the changes of `engagement` and
        `alignment`, and whether it is among the `best`.  Of at most `MOST_BEST` of these there are intervals
        (``_lower``, ``_upper``), and their changes are averaged over all users.

    Raises
    ------
    InterventionError
        If a column of the box cannot be shifted, or the data support no shift in it.
    RunError
        If the folder is not a run folder.
    ValueError
        If `level` does not lie between 0 and 1, or there are no points.
    """
    check_level(level)
    if points < 1:
        raise ValueError(f"points is {points}: it must be at least 1")
    population = Population.of(folder)
    ends = _box(population, box)
    low, high = np.array(list(ends.values()), float).T
    tried = qmc.scale(qmc.Sobol(len(ends), seed=seed).random(points), low, high)
    names = list(ends)
    rows, kept = [], []
    for shift in [np.zeros(len(ends)), *tried]:
        interventions, support = population.under(_policy(names, shift), seed)
        if support.outside <= EXTRAPOLATES:
            rows.append(dict(zip(names, shift.tolist(), strict=True)) | {"outside": support.outside})
            kept.append(interventions)
    if len(kept) < 2:
        raise InterventionError(
            f"the data support no shift of {', '.join(names)} in this box; make it smaller"
        )
    table = pd.DataFrame(rows)
    table.insert(0, "policy", [", ".join(f"{n}={row[n]:+.3g}" for n in names if row[n]) for row in rows])
    table[list(OUTCOMES)] = _changes(population.run, population.users, kept, seed, progress)
    table["best"] = best(table[list(OUTCOMES)].to_numpy())
    for i in tqdm(_spread(table), "intervals", disable=not progress, leave=False):
        run_ = population.run
        found = average_effects(
            run_.guide, run_.posterior, population.users, kept[i], seed=seed, share=OF_CURVE, whole=False
        )
        for outcome in OUTCOMES:
            of = interval(found.contrasts[outcome]["TE"], level)
            table.loc[i, [outcome, f"{outcome}_lower", f"{outcome}_upper"]] = list(of.values())
    return table.sort_values("engagement", kind="stable").reset_index(drop=True)


def best(changes: Array) -> NDArray[np.bool_]:
    """Beside which of these ``(n, 2)`` none is as good in both columns, and better in one.

    Examples
    --------
    >>> best(np.array([[0.0, 0.0], [1.0, -1.0], [-1.0, -1.0], [0.0, -0.5]])).tolist()
    [True, True, False, False]
    """
    more = changes[None] - changes[:, None]  # of the second than of the first
    beaten: NDArray[np.bool_] = ((more.min(-1) >= 0) & (more.max(-1) > 0)).max(1)
    return ~beaten


def _box(
    population: Population, box: Mapping[str, tuple[float, float]] | None
) -> dict[str, tuple[float, float]]:
    """The least and the largest shift of each column."""
    now = population.exposure
    many = [name for name in now if now[name].nunique() > LEVELS]
    if box is None:
        box = {name: (-float(now[name].std(ddof=0)), float(now[name].std(ddof=0))) for name in many}
    for name, (low, high) in box.items():
        if name not in many:
            raise InterventionError(
                f"no exposure covariate {name} of many values: choose of {', '.join(many)}"
            )
        if not np.isfinite([low, high]).all() or low >= high:
            raise InterventionError(
                f"{name}: from {low:g} to {high:g} is no range of shifts; give the least first"
            )
    if not box:
        raise InterventionError("no exposure covariate has many values: ask for each policy by itself")
    return dict(box)


def parse_between(texts: Sequence[str]) -> dict[str, tuple[float, float]] | None:
    """A box as the command line has it, ``COLUMN=LOW..HIGH`` each; None: none is given.

    Raises
    ------
    InterventionError
        If a text is none of these.

    Examples
    --------
    >>> parse_between(["autoplay=-0.3..0.1"])
    {'autoplay': (-0.3, 0.1)}
    """
    box = {}
    for text in texts:
        name, _, ends = text.partition("=")
        low, _, high = ends.partition("..")
        try:
            box[name] = float(low), float(high)
        except ValueError:
            raise InterventionError(
                f"range {text!r}: write COLUMN=LOW..HIGH, e.g. autoplay=-0.3..0.1"
            ) from None
    return box or None


def _policy(names: list[str], shift: Array) -> Policy:
    return together(*(add(name, float(by)) for name, by in zip(names, shift, strict=True)))


@torch.no_grad()
def _changes(fitted: Run, users: Users, policies: list[Interventions], seed: int, progress: bool) -> Array:
    """Changes of the outcomes ``(n, 2)`` under each of the policies, for some users, with the same chance for all."""
    rows = torch.randperm(users.logs.n_users, generator=torch.Generator().manual_seed(seed))
    rows = rows[: USERS_AT_ONCE // users.logs.n_periods]
    batch = users.logs.batch(rows)
    program = by_chance(at(fitted.model, fitted.posterior.mean), seed)
    weights = torch.ones(1) if users.weights is None else users.weights

    def outcomes(world: World) -> Tensor:
        by_period = [torch.stack([of(period).mean() for of in OUTCOMES.values()]) for period in world.periods]
        return weights.to(by_period[0]) @ torch.stack(by_period)

    with few_threads(len(rows) * len(fitted.categories)):
        now = run(program, (batch,))
        before, found = outcomes(now), []
        for change in tqdm(policies, "policies", disable=not progress, leave=False):
            forces = {s: f[rows] if isinstance(f, Tensor) and f.dim() else f for s, f in change.items()}
            found.append(outcomes(run(program, (batch,), forces, now)) - before)
    return torch.stack(found).double().numpy()


def _spread(table: pd.DataFrame) -> list[int]:
    """At most `MOST_BEST` of the best rows, evenly along their engagement."""
    own = table[table["best"]].sort_values("engagement")
    places = np.unique(np.linspace(0, len(own) - 1, min(len(own), MOST_BEST)).round().astype(int))
    return [int(i) for i in own.index[places]]
