"""Who: what each user looks for against what is shown, as the platform is, and were it the same for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from pyro_hmvcrl.data.dataset import CHANNELS
from pyro_hmvcrl.inference.ambient import few_threads, own_state
from pyro_hmvcrl.queries.averages import USERS_AT_ONCE
from pyro_hmvcrl.queries.interventions import InterventionError, World, by_chance, hold, run
from pyro_hmvcrl.queries.mediation import alignment, shown_next
from pyro_hmvcrl.queries.population import Population
from pyro_hmvcrl.story.programs import at, observe

DRAWS = 20  #: of each user's own noise
Array = NDArray[np.float64]
Found = TypeVar("Found")


@own_state()
def profile(
    folder: str | Path,
    reference: Mapping[str, float] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """A row a user: how near what is shown is to what the user looks for, and how near it could be.

    Each user's noise is drawn as the user's own logs speak of it; the model's parameters are at their means.

    Parameters
    ----------
    folder
        A run folder.
    reference
        Values of the platform's factors; by default their means over users, so that all are shown what the average
        user is.
    draws
        Of each user's noise.

    Returns
    -------
    DataFrame
        `user_id`; `alignment`, the probability that what is shown next is what the user would search for, and its
        standard deviation over draws (``_sd``); `reference`, the same under ``do(platform = reference)``; `gain`, by
        how much that is nearer; `looks_for` and `shown`, the categories most searched for and most shown; `lacks` and
        `oversupplied`, those of which most is missing, and most too much, in what is shown.

    Raises
    ------
    InterventionError
        If the reference is of other factors than the platform's.
    RunError
        If the folder is not a run folder.
    """
    population = Population.of(folder)
    values = platform_at(population, reference)

    def of_users(now: World, same: World) -> dict[str, Array]:
        return _of_users(population, now, same)

    parts = in_own_worlds(population, values, of_users, draws, seed, "profile" if progress else "")
    found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    missing = found.pop("missing")
    names_of = np.array(population.run.categories, object)
    largest = {
        "looks_for": found.pop("searched"),
        "shown": found.pop("exposed"),
        "lacks": missing,
        "oversupplied": -missing,
    }
    table = pd.DataFrame({"user_id": population.covariates["user_id"], **found})
    return table.assign(**{name: names_of[of.argmax(1)] for name, of in largest.items()})


def platform_at(population: Population, reference: Mapping[str, float] | None) -> dict[str, float]:
    """Values of the platform's factors at which it is the same for all; by default their means over users.

    Raises
    ------
    InterventionError
        If the reference is of other factors than the platform's.
    """
    names = [name for name in population.run.factor_names if name.startswith(CHANNELS[0])]
    values = population.factor_means[names].mean().to_dict() if reference is None else dict(reference)
    if set(values) != set(names):
        raise InterventionError(f"the reference must be of {', '.join(names)}; it is of {', '.join(values)}")
    return {str(name): float(value) for name, value in values.items()}


def in_own_worlds(
    population: Population,
    reference: Mapping[str, float],
    of: Callable[[World, World], Found],
    draws: int,
    seed: int,
    progress: str,
) -> list[Found]:
    """What is asked `of` all users' own worlds, as they are and with the platform at the reference, part by part.

    `progress` is the title of a bar; empty: none.  Memory is bounded.
    """
    logs = population.users.logs
    size, found = max(USERS_AT_ONCE // logs.n_periods // draws, 1), []
    with torch.no_grad(), torch.random.fork_rng(), few_threads(size * draws * len(population.run.categories)):
        torch.manual_seed(seed)
        rows = torch.arange(logs.n_users).split(size)
        for own in tqdm(rows, progress, disable=not progress, leave=False):
            found.append(of(*own_worlds(population, own, reference, draws, seed)))
    return found


def own_worlds(
    population: Population, rows: Tensor, reference: Mapping[str, float], draws: int, seed: int
) -> tuple[World, World]:
    """The worlds of these users as they are, and with the platform at the reference, at draws of their own noise."""
    fitted, users = population.run, population.users
    batch, mean = users.logs.batch(rows), fitted.posterior.mean
    assert users.experts is not None
    standard = torch.randn(draws, len(rows), users.experts.information.shape[-1])
    story = at(fitted.model, mean)
    story = observe(story, batch) if users.logs.n_periods == 1 else by_chance(story, seed)
    program = hold(story, noise=users.noise(fitted.guide, mean, rows, standard))
    now = run(program, (batch,))
    return now, run(program, (batch,), reference, now)


def over_periods(population: Population, world: World, of: Callable[[World], Tensor]) -> Tensor:
    """What something of a period's world is on average over the periods."""
    weights = population.users.weights
    weights = torch.ones(1) if weights is None else weights
    found: Tensor = sum(w * of(period) for w, period in zip(weights, world.periods, strict=True))
    return found


def searched_for(world: World) -> Tensor:
    """Probability of each category to be searched for ``(..., N, C)``."""
    probability: Tensor = world.distribution("search").probability
    return probability


def _of_users(population: Population, now: World, same: World) -> dict[str, Array]:
    """Figures ``(B,)`` of these users, and shares of categories ``(B, C)`` of what they search for and are shown."""
    of_now, of_same = (over_periods(population, world, alignment).double() for world in (now, same))
    searched = over_periods(population, now, searched_for).mean(0)
    exposed = over_periods(population, now, shown_next).mean(0)
    figures = {"alignment": of_now, "reference": of_same, "gain": of_same - of_now}
    found = {
        f"{name}{end}": part.numpy()
        for name, each in figures.items()
        for end, part in (("", each.mean(0)), ("_sd", each.std(0)))
    }
    shares = {"searched": searched, "exposed": exposed, "missing": searched - exposed}
    return found | {name: share.double().numpy() for name, share in shares.items()}


def profile_sentences(table: pd.DataFrame, most: int = 3) -> list[str]:
    """What a profile says of the users together, in plain words."""
    nearer = float((table["gain"] > 0).mean())
    low, middle, high = (100 * table["alignment"].quantile([0.1, 0.5, 0.9])).tolist()
    said = [
        f"What is shown is what a user looks for with a probability of {100 * table['alignment'].mean():.1f}% on "
        f"average; of the middle user {middle:.1f}%, of 80% of them between {low:.1f}% and {high:.1f}%.",
        f"Were the platform the same for all, it would be {100 * table['reference'].mean():.1f}% on average, and "
        f"nearer for {nearer:.0%} of the users.",
    ]
    for column, words in (("lacks", "Most often lacking"), ("oversupplied", "Most often too much")):
        counts = table[column].value_counts(normalize=True).head(most)
        said.append(f"{words}: {', '.join(f'{name} ({share:.0%})' for name, share in counts.items())}.")
    return said
