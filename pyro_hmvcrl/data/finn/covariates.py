"""Covariates of FINN.no's users, measured in the first part of each user's steps, from which no events come.

The files say of a user nothing but an id: whatever describes users is made of their logs, and so of steps **before**
the events (see :mod:`pyro_hmvcrl.kuaisar.covariates` for what happens otherwise).  None is made of clicks.  Nor of the
lengths of slates: a slate has what the user scrolled past, who stops where a click is, so that lengths follow
engagement; means over items and shares of pairs of items do not go with the length.

The **exposure covariates** are traits of what was recommended, as no setting of the platform is in the files.
The **preference covariates** are traits of what the user looked for; results are ranked by the platform, but it is the
user's query that they answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pyro_hmvcrl.data.importing import differing

MOST_PLACES = 10  #: the commonest; the others are one
ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Covariate:
    """A value a user, NaN or nothing where there is none, of the steps and items of the first part."""

    name: str
    definition: str
    of: Callable[[pd.DataFrame, pd.DataFrame], pd.Series]


def _popularity(steps: pd.DataFrame, shown: pd.DataFrame) -> pd.Series:
    times = shown["item"].map(shown["item"].value_counts())
    return np.log(times[shown["surface"] == "rec"]).groupby(shown["user"]).mean()


def _variety(steps: pd.DataFrame, shown: pd.DataFrame) -> pd.Series:
    return differing(shown[shown["surface"] == "rec"], ["user", "step"], "category")


def _spread(steps: pd.DataFrame, shown: pd.DataFrame) -> pd.Series:
    placed = shown[(shown["surface"] == "rec") & (shown["place"] != "")]
    return differing(placed, ["user", "step"], "place")


def _search_share(steps: pd.DataFrame, shown: pd.DataFrame) -> pd.Series:
    return (steps["surface"] == "search").groupby(steps["user"]).mean()


def _search_breadth(steps: pd.DataFrame, shown: pd.DataFrame) -> pd.Series:
    return differing(shown[shown["surface"] == "search"], ["user"], "category")


def _place(steps: pd.DataFrame, shown: pd.DataFrame) -> pd.Series:
    """The place of most search results, of those that many users have."""
    placed = shown[(shown["surface"] == "search") & (shown["place"] != "")]
    times = placed.groupby(["user", "place"]).size().sort_values(ascending=False, kind="stable")
    most = times.reset_index("place")["place"]
    most = most[~most.index.duplicated()]
    return most.where(most.isin(most.value_counts().index[:MOST_PLACES]), ELSEWHERE)


EXPOSURE = (
    Covariate(
        "popularity",
        "mean over recommended items of log(times that the item was shown to anyone, in first parts)",
        _popularity,
    ),
    Covariate(
        "variety",
        "share of pairs of items of one recommended slate that are of two categories",
        _variety,
    ),
    Covariate("spread", "share of pairs of items of one recommended slate that are of two places", _spread),
)
PREFERENCE = (
    Covariate("search_share", "share of steps that are searches", _search_share),
    Covariate(
        "search_breadth",
        "share of pairs of search results that are of two categories",
        _search_breadth,
    ),
    Covariate(
        "place",
        f"place of most search results, one of the {MOST_PLACES} commonest or {ELSEWHERE!r}",
        _place,
    ),
)
