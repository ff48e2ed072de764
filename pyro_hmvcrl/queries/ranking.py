"""What each user looks for, most of all first: were the platform the same for all, or as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.queries.interventions import World
from pyro_hmvcrl.queries.population import Population
from pyro_hmvcrl.queries.profile import DRAWS, in_own_worlds, over_periods, platform_at, searched_for

TOP = 10  #: categories a user


@own_state()
def rank(
    folder: str | Path,
    reference: Mapping[str, float] | None = None,
    *,
    as_it_is: bool = False,
    top: int = TOP,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Categories by the probability that a user searches for them under ``do(platform = reference)``.

    What the platform makes of preference, by the graph's edges and by the past, is the same for all there, so that a
    user is not ranked what the platform has taught the user to want.  With `as_it_is` the platform stays as each user's
    own logs have it, and what it has made of preference counts: the question is then what users look for today.  Each
    user's noise is drawn as the user's own logs
    speak of it; the model's parameters are at their means.

    Parameters
    ----------
    folder
        A run folder.
    reference
        Values of the platform's factors; by default their means over users.
    as_it_is
        Leave the platform as it is.
    top
        Categories a user; no more than there are.
    draws
        Of each user's noise.

    Returns
    -------
    DataFrame
        A row for each user and rank: `user_id`, `rank` from 1 on, `category`, and its `probability`.

    Raises
    ------
    InterventionError
        If the reference is of other factors than the platform's.
    RunError
        If the folder is not a run folder.
    ValueError
        If `top` is not at least 1, or if there is a reference for a platform that stays as it is.
    """
    if top < 1:
        raise ValueError(f"top is {top}: it must be at least 1")
    if as_it_is and reference is not None:
        raise ValueError("a platform that stays as it is has no reference: leave one of them out")
    population = Population.of(folder)
    values, categories = platform_at(population, reference), population.run.categories

    def of_users(now: World, same: World) -> tuple[Tensor, Tensor]:
        probability = over_periods(population, now if as_it_is else same, searched_for).mean(0)
        values, category = probability.topk(min(top, len(categories)))
        return values, category

    parts = in_own_worlds(population, values, of_users, draws, seed, "rank" if progress else "")
    probability, category = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    n_users, n_ranks = category.shape
    return pd.DataFrame(
        {
            "user_id": population.covariates["user_id"].repeat(n_ranks).to_numpy(),
            "rank": np.tile(np.arange(1, n_ranks + 1), n_users),
            "category": np.array(categories, object)[category.ravel()],
            "probability": probability.ravel().astype(float),
        }
    )
