"""The users of the generated copy: planted covariates and true factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_hmvcrl.synthetic.design import SUBSTITUTION, Array, Design
from pyro_hmvcrl.synthetic.world import World, draw_world, sigmoid, softmax

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
Rows = dict[str, NDArray[Any]]  #: the columns of a table, all of one length
EXPOSURE_COVARIATES = (
    "popularity",
    "duration",
    "age",
    "batch_size",
    "cadence",
    "night_share",
    "rec_active_level",
)
PREFERENCE_COVARIATES = (
    "query_rate",
    "query_breadth",
    "search_active_level",
    "onehot_feat1_is_1",
    "onehot_feat1_is_2",
    "onehot_feat2_is_1_or_4",
)
CATEGORIES = (
    ("美食", "Food"),
    ("音乐", "Music"),
    ("舞蹈", "Dance"),
    ("游戏", "Game"),
    ("体育", "Sports"),
    ("影视", "Film and TV"),
    ("动漫", "Anime"),
    ("搞笑", "Funny"),
    ("情感", "Emotion"),
    ("时尚", "Fashion"),
    ("美妆", "Beauty"),
    ("汽车", "Cars"),
    ("旅游", "Travel"),
    ("宠物", "Pets"),
    ("亲子", "Parenting"),
    ("教育", "Education"),
    ("科技", "Technology"),
    ("健康", "Health"),
    ("三农", "Farming"),
    ("家居", "Home"),
    ("手工", "Crafts"),
    ("摄影", "Photography"),
    ("资讯", "News"),
    ("生活", "Daily life"),
)


@dataclass(frozen=True)
class Population:
    """Users with their planted covariates and true factors."""

    world: World
    features: Rows  #: user_features.csv
    exposure_covariates: Array  #: (N, 7), standardised
    preference_covariates: Array  #: (N, 6), standardised
    noise: Array  #: (N, K)
    factors: Array  #: (N, K)

    @cached_property
    def search(self) -> Array:
        """Probability of each category in a search, ``(N, C)``."""
        return softmax(self.world.search.logits(self.factors[:, self.world.preference]))

    @cached_property
    def exposure(self) -> Array:
        """Probability of each category in a delivery, ``(N, C)``."""
        return softmax(self.world.exposure.logits(self.factors[:, self.world.platform]))

    @cached_property
    def engagement(self) -> Array:
        """Probability of engagement by category, ``(N, C)``."""
        return sigmoid(self.world.engagement_logits(self.factors, self.exposure_covariates))


def draw_population(users: int, seed: int) -> Population:
    """Draw the world, and users with planted covariates and true factors."""
    design = Design.with_knobs(
        users=users,
        categories=len(CATEGORIES),
        exposure_covariates=len(EXPOSURE_COVARIATES),
        preference_covariates=len(PREFERENCE_COVARIATES),
        **SUBSTITUTION,
    )
    world, rng = draw_world(design, seed), np.random.default_rng([seed, 12])
    features = {
        "user_id": rng.permutation(users) + 1,
        "onehot_feat1": _levels(rng, users, (0.5, 0.3, 0.2)),
        "onehot_feat2": _levels(rng, users, (0.2, 0.15, 0.15, 0.1, 0.2, 0.08, 0.07, 0.05)),
        "search_active_level": _levels(rng, users, (0.08, 0.12, 0.18, 0.22, 0.18, 0.13, 0.09)),
        "rec_active_level": _levels(rng, users, (0.1, 0.2, 0.3, 0.4)),
    }
    exposure = [*rng.normal(size=(6, users)), features["rec_active_level"]]
    preference = [
        *rng.normal(size=(2, users)),
        features["search_active_level"],
        features["onehot_feat1"] == 1,
        features["onehot_feat1"] == 2,
        np.isin(features["onehot_feat2"], (1, 4)),
    ]
    c_exposure, c_preference = (_standardised(np.stack(columns, 1)) for columns in (exposure, preference))
    location, scale = world.mechanisms(c_exposure, c_preference)
    noise = rng.normal(size=location.shape)
    factors = world.through_graph(location + scale * noise)
    return Population(world, features, c_exposure, c_preference, noise, factors)


def _levels(rng: np.random.Generator, users: int, shares: Sequence[float]) -> Ints:
    """Levels 0, 1, ... in these shares, exactly, in random order."""
    rank = (rng.permutation(users) + 0.5) / users
    return np.searchsorted(np.cumsum(shares)[:-1], rank)


def _standardised(columns: Array) -> Array:
    return np.asarray((columns - columns.mean(0)) / columns.std(0))
