"""A generated copy of Yambda's files: their format and their oddities, and nothing of their content.

Tracks lie in clusters of an audio space; each user has a taste over the clusters and comes back to some tracks, and is
fed by a service that leans to the taste, to popular, long or known tracks, for each user more or less.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pyro_hmvcrl.data.files import check_copy, whole_folder
from pyro_hmvcrl.data.yambda.listens import DAY, EMBEDDINGS, LISTENS

CLUSTERS, TRACKS_A_CLUSTER, WIDTH = 8, 60, 16  #: the real embeddings have 128 numbers
LISTENS_A_DAY = 6
WITHOUT_EMBEDDING = 0.1  #: share of the tracks


def write_yambda_copy(out: str | Path, users: int = 100, seed: int = 0, days: int = 50) -> None:
    """Write a generated copy, whole or not at all.

    Parameters
    ----------
    out
        The folder; must not exist yet.
    users
        At least 20.
    days
        That the listens span.

    Raises
    ------
    ValueError
        If the folder exists, or there are fewer than 20 users.
    """
    out = Path(out)
    check_copy(out, users)
    rng = np.random.default_rng(seed)
    n_tracks = CLUSTERS * TRACKS_A_CLUSTER
    cluster = np.arange(CLUSTERS).repeat(TRACKS_A_CLUSTER)
    length = np.exp(rng.normal(5.3, 0.3, n_tracks)).astype(np.uint32)
    popular = rng.normal(size=n_tracks)
    item = np.sort(rng.choice(10 * n_tracks, n_tracks, replace=False)).astype(np.uint32)
    parts = [_draw_user(rng, cluster, length, popular, days) for _ in range(users)]
    listens = pd.concat(parts, ignore_index=True)
    track = listens.pop("track").to_numpy()
    uid = (10 * np.arange(1, users + 1)).repeat([len(part) for part in parts])
    listens = listens.assign(
        uid=uid.astype(np.uint32), item_id=item[track], track_length_seconds=length[track]
    )
    listens = listens.sort_values(["uid", "timestamp"], kind="stable")
    centre = 4 * rng.normal(size=(CLUSTERS, WIDTH))
    embed = centre[cluster] + rng.normal(size=(n_tracks, WIDTH))
    normalized = embed / np.linalg.norm(embed, axis=1, keepdims=True)
    has = rng.random(n_tracks) >= WITHOUT_EMBEDDING
    columns = {"item_id": pa.array(item[has])}
    columns |= {"embed": pa.array(list(embed[has])), "normalized_embed": pa.array(list(normalized[has]))}
    with whole_folder(out) as folder:
        (folder / "flat" / "50m").mkdir(parents=True)
        listens.to_parquet(folder / "flat" / "50m" / LISTENS, index=False)
        pq.write_table(pa.table(columns), folder / EMBEDDINGS)
        (folder / "GENERATED.txt").write_text(
            "These files are generated: they are NOT Yambda, and hold nothing of it but its format.\n",
            encoding="utf-8",
        )


def _draw_user(
    rng: np.random.Generator, cluster: np.ndarray, length: np.ndarray, popular: np.ndarray, days: int
) -> pd.DataFrame:
    """One user's listens."""
    taste = rng.dirichlet(np.full(CLUSTERS, 0.5))
    number = rng.poisson(LISTENS_A_DAY * days) + 10
    organic = rng.random(number) < rng.uniform(0.3, 0.7)
    head, long, lean = rng.normal(0, 0.7), rng.normal(0, 2), rng.uniform(0, 1)
    known = rng.random(len(cluster)) < 0.2
    own = taste[cluster] * (1 + 5 * known)
    fed = (lean * taste[cluster] + (1 - lean) / CLUSTERS) * np.exp(
        head * popular + long * (np.log(length) - 5.3)
    )
    track = np.where(
        organic,
        rng.choice(len(cluster), number, p=own / own.sum()),
        rng.choice(len(cluster), number, p=fed / fed.sum()),
    )
    likes = rng.random(number) < 0.2 + 0.7 * taste[cluster[track]] / taste.max()
    played = np.where(likes, rng.integers(51, 130, number), rng.integers(0, 51, number))
    return pd.DataFrame(
        {
            "timestamp": (5 * rng.integers(0, days * DAY // 5, number)).astype(np.uint32),
            "track": track,
            "is_organic": organic.astype(np.uint8),
            "played_ratio_pct": played.astype(np.uint16),
        }
    )
