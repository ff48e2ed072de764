"""Files of a company that keeps its logs in its own way: texts, gaps, guests, ISO dates, items in genres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

GENRES = [f"genre {n}" for n in range(37)] + ["Westerns", "Stand-up", "Cars"]
ITEMS = 2_000


def company(users: int = 400, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Tables `users`, `searches` and `deliveries`: autoplay lowers what is searched and raises what is engaged with."""
    rng = np.random.default_rng(seed)
    genre_of = rng.integers(0, len(GENRES), ITEMS)
    ids = np.array([f"{rng.integers(16**8):08x}-{n:04x}" for n in range(users)])
    autoplay, tenure = rng.random(users).round(3), rng.gamma(2, 300, users).round()
    table = pd.DataFrame(
        {
            "uid": ids,
            "autoplay": autoplay,
            "novelty": rng.normal(0.4, 0.1, users).round(4),
            "plan": rng.choice(["free", "Free ", "premium", "family"], users, p=[0.5, 0.1, 0.25, 0.15]),
            "tenure": tenure,
            "country": rng.choice(["DE", "FR", "AT", "LU", "LI"], users, p=[0.6, 0.25, 0.14, 0.003, 0.007]),
            "device": rng.choice(["ios", "android", "web"], users),
            "kids": rng.choice(["yes", "no"], users),
            "signed_up": pd.Timestamp("2022-01-01") + pd.to_timedelta(rng.integers(0, 500, users), "D"),
        }
    )
    table.loc[rng.random(users) < 0.05, "tenure"] = np.nan
    table.loc[rng.random(users) < 0.03, "device"] = None
    liking = rng.normal(size=(users, 3)) + tenure[:, None] / 600

    def items(who: np.ndarray, push: np.ndarray) -> np.ndarray:
        """An item for each of these events, of the genres that are pushed."""
        logits = np.zeros((len(who), len(GENRES)))
        logits[:, -3:] += push[who]
        noisy = logits + rng.gumbel(size=logits.shape)
        noisy[:, ~np.isin(np.arange(len(GENRES)), genre_of)] = -np.inf
        genre = noisy.argmax(1)
        order = np.argsort(genre_of, kind="stable")
        first = np.searchsorted(genre_of[order], genre)
        number = np.searchsorted(genre_of[order], genre, "right") - first
        return order[first + (rng.random(len(who)) * number).astype(int)]

    def log(number: int, push: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
        who = rng.integers(0, users, number)
        item = items(who, push)
        when = pd.Timestamp("2024-03-01", tz="UTC") + pd.to_timedelta(
            rng.integers(0, 6 * 86_400, number), "s"
        )
        frame = {
            "uid": ids[who],
            "time": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "item": [f"i{i}" for i in item],
        }
        frame["genre"] = np.array(GENRES)[genre_of[item]]
        return pd.DataFrame(frame), who

    searches, _ = log(20 * users, liking)
    deliveries, who = log(40 * users, 2 * autoplay[:, None] - 1 + 0 * liking)
    chance = 1 / (1 + np.exp(-(liking[who, 0] + autoplay[who] - 1)))
    deliveries["watched"] = np.where(rng.random(len(who)) < chance, "true", "false")
    searches.loc[:4, "uid"] = "guest"
    searches.loc[5:9, "genre"] = None
    searches.loc[10:19, "genre"] = searches.loc[10:19, "genre"].str.upper()
    deliveries.loc[:2, "watched"] = None
    return {"users": pd.concat([table, table.iloc[:3]]), "searches": searches, "deliveries": deliveries}


def write_company(folder: Path, **options: int) -> Path:
    """The same as CSV files."""
    folder.mkdir(parents=True)
    for name, table in company(**options).items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder
