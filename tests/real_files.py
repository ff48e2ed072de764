"""Generated copies of Open Bandit's sample and of Coat, in the format of their files: for tests alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

CATEGORIES, ITEMS = 4, 12
GENDERS = np.arange(290) % 2  # men first


def write_bandit(folder: Path, rows: int = 10_000, campaign: str = "men") -> Path:
    """The random policy's rows and the bandit's, which shows category 0 twice as often."""
    rng = np.random.default_rng(0)
    category = np.arange(ITEMS) % CATEGORIES
    for arm, more in (("random", 1.0), ("bts", 2.0)):
        at = folder / arm / campaign
        at.mkdir(parents=True)
        p = np.where(category == 0, more, 1.0)
        p /= p.sum()
        shown = pd.DataFrame({"timestamp": pd.date_range("2019-11-24", "2019-11-30", rows, tz="UTC")})
        shown["item_id"] = rng.choice(ITEMS, size=rows, p=p)
        shown["position"] = rng.integers(1, 4, size=rows)
        shown["click"] = rng.binomial(1, 0.005, size=rows)
        shown["propensity_score"] = p[shown["item_id"]]
        for i in range(4):
            shown[f"user_feature_{i}"] = rng.choice(["aa", "bb", "cc"], size=rows, p=[0.5, 0.3, 0.2])
        shown.to_csv(at / f"{campaign}.csv")
        items = pd.DataFrame({"item_id": range(ITEMS), "item_feature_0": np.linspace(-1, 1, ITEMS)})
        items["item_feature_1"] = [f"{arm}{c}" for c in category]  # hashed in two ways, as in the sample
        items.to_csv(at / "item_context.csv")
    return folder


def write_coat(folder: Path, own: float = 0.3) -> Path:
    """Coats of the own gender are mostly chosen, and are rated 4 or 5 oftener by `own`."""
    rng = np.random.default_rng(1)
    (folder / "user_item_features").mkdir(parents=True)
    of_coat = np.arange(300) % 2
    same = GENDERS[:, None] == of_coat
    liked = rng.random((290, 300)) < np.where(same, 0.2 + own, 0.2)
    ratings = np.where(liked, rng.integers(4, 6, size=liked.shape), rng.integers(1, 4, size=liked.shape))
    for name, count, weight in (("train", 24, np.where(same, 8.0, 1.0)), ("test", 16, np.ones(same.shape))):
        order = np.argsort(-np.log(rng.random(same.shape)) / weight, axis=1)[:, :count]
        kept = np.zeros(same.shape, int)
        np.put_along_axis(kept, order, np.take_along_axis(ratings, order, 1), 1)
        np.savetxt(folder / f"{name}.ascii", kept, "%d")

    def one_hot(first: np.ndarray, *widths: int) -> np.ndarray:
        others = [np.eye(width, dtype=int)[rng.integers(min(width, 4), size=len(first))] for width in widths]
        return np.hstack([np.eye(2, dtype=int)[first], *others])

    features = {"user": one_hot(GENDERS, 6, 3, 3), "item": one_hot(of_coat, 16, 13, 2)}
    for name, matrix in features.items():
        np.savetxt(folder / "user_item_features" / f"{name}_features.ascii", matrix, "%d")
    return folder
