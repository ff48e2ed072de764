"""What each user looks for, most of all first: were the platform the same for all, or as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyro_hmvcrl.data.columns import as_codes
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
    items: pd.DataFrame | None = None,
    top: int = TOP,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Categories, or items, by the probability that a user searches for them under ``do(platform = reference)``.

    What the platform makes of preference, by the graph's edges and by the past, is the same for all there, so that a
    user is not ranked what the platform has taught the user to want.  With `as_it_is` the platform stays as each user's
    own logs have it, and what it has made of preference counts: the question is then what users look for today.  Each
    user's noise is drawn as the user's own logs speak of it; the model's parameters are at their means.

    Parameters
    ----------
    folder
        A run folder.
    reference
        Values of the platform's factors; by default their means over users.
    as_it_is
        Leave the platform as it is.
    items
        What is ranked, in place of categories: a row an item, with its `item` and `category`, and its `popularity`, by
        which a category's probability is shared out among its items (in equal parts, where there is none).
    top
        Categories a user, or items; no more than there are.
    draws
        Of each user's noise.

    Returns
    -------
    DataFrame
        A row for each user and rank: `user_id`, `rank` from 1 on, `item` where items are ranked, `category`, and the
        `probability`.

    Raises
    ------
    InterventionError
        If the reference is of other factors than the platform's.
    RunError
        If the folder is not a run folder.
    ValueError
        If `top` is not at least 1, if there is a reference for a platform that stays as it is, or if the items are
        not what they must be.
    """
    if top < 1:
        raise ValueError(f"top is {top}: it must be at least 1")
    if as_it_is and reference is not None:
        raise ValueError("a platform that stays as it is has no reference: leave one of them out")
    population = Population.of(folder)
    values, categories = platform_at(population, reference), population.run.categories
    if items is None:
        items = pd.DataFrame({"category": categories})
    elif missing := {"item", "category"} - {*items}:
        raise ValueError(f"items: no column {', '.join(sorted(missing))}; give item, category and popularity")
    of, share = _shares(items, categories)

    def of_users(now: World, same: World) -> tuple[Tensor, Tensor]:
        probability = over_periods(population, now if as_it_is else same, searched_for).mean(0)
        values, item = (probability[:, of] * share).topk(min(top, len(of)))
        return values, item

    parts = in_own_worlds(population, values, of_users, draws, seed, "rank" if progress else "")
    probability, item = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    n_users, n_ranks = item.shape
    named = {name: items[name].to_numpy()[item.ravel()] for name in ("item", "category") if name in items}
    return pd.DataFrame(
        {
            "user_id": population.covariates["user_id"].repeat(n_ranks).to_numpy(),
            "rank": np.tile(np.arange(1, n_ranks + 1), n_users),
            **named,
            "probability": probability.ravel().astype(float),
        }
    )


def _shares(items: pd.DataFrame, categories: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Which category each item is of, and which share of it the item has, both ``(items,)``."""
    codes, named = as_codes(items["category"])
    of = np.append(pd.Index(categories).get_indexer(named), -1)[codes]
    if (of < 0).any():
        raise ValueError(
            f"items: category {items['category'].iloc[int((of < 0).argmax())]} is none of the run's"
        )
    if "item" in items and items["item"].duplicated().any():
        raise ValueError(f"items: item {items['item'][items['item'].duplicated()].iloc[0]} is there twice")
    popularity = items["popularity"] if "popularity" in items else pd.Series(1.0, items.index)
    popularity = pd.to_numeric(popularity, errors="coerce").to_numpy(float)
    bad = ~(np.isfinite(popularity) & (popularity >= 0))
    if bad.any():
        raise ValueError(f"items: the popularity of row {int(bad.argmax()) + 1} is no number from 0 on")
    total = np.bincount(of, popularity, len(categories))[of]
    share = np.divide(popularity, total, out=np.zeros_like(popularity), where=total > 0)
    return torch.from_numpy(of), torch.from_numpy(share).float()
