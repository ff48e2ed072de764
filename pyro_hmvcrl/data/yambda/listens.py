"""Yambda's listens, with a category for each track made of its audio embedding.

Files: ``listens.parquet`` of one size (flat), with ``uid``, ``item_id``, ``timestamp`` (seconds from a moment that is
not told, in steps of 5), ``is_organic``, ``played_ratio_pct`` and ``track_length_seconds``; and ``embeddings.parquet``
with ``item_id`` and ``normalized_embed``, for most tracks.  Format: https://huggingface.co/datasets/yandex/yambda
(Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq

from pyro_hmvcrl.data.frames import Account
from pyro_hmvcrl.data.names import listed
from pyro_hmvcrl.data.tables import PART, DatasetError, check_header, readable

LISTENS, EMBEDDINGS = "listens.parquet", "embeddings.parquet"
COLUMNS = ["uid", "item_id", "timestamp", "is_organic", "played_ratio_pct", "track_length_seconds"]
DAY, STEP = 86_400, 5  #: seconds; the latter is how fine times are
USERS = 10_000
CATEGORIES = 24
MOST_TRACKS = 20_000  #: of which categories are made; the others take the nearest
AGAIN = "get the file again"


@dataclass(frozen=True, eq=False)
class Listens:
    """What was read.

    Attributes
    ----------
    listens
        A row a listen of the window: the columns of `COLUMNS`, and category.
    border
        Second up to where covariates are measured, and from where on there are events.
    account
        What was left out, and why.
    source
        Name of the folder.
    """

    listens: pd.DataFrame
    border: int
    account: Account
    source: str


def read_yambda(
    folder: str | Path,
    users: int = USERS,
    days: int = 14,
    covariates_days: int = 28,
    categories: int = CATEGORIES,
) -> Listens:
    """Read the end of Yambda's listens.

    Parameters
    ----------
    folder
        Has ``listens.parquet``, of one size, and ``embeddings.parquet``, at any depth.
    users
        The first so many, by uid.
    days, covariates_days
        The last days, of which events come, and those before them, in which covariates are measured.
    categories
        Clusters of the tracks' audio embeddings (k-means, always the same for the same files).

    Raises
    ------
    DatasetError
        If a file or a column is missing or holds something else.
    """
    for name, value, least in (
        ("users", users, 1),
        ("days", days, 1),
        ("covariates_days", covariates_days, 1),
        ("categories", categories, 2),
    ):
        if value < least:
            raise DatasetError(f"{name} is {value}: it must be at least {least}")
    folder, account = Path(folder), Account()
    path, embeddings = (_find(folder, name) for name in (LISTENS, EMBEDDINGS))
    window = _window(path, days + covariates_days)
    listens = _read_listens(path, users, window, account)
    category = _categories(embeddings, listens["item_id"].unique(), categories)
    named = listens["item_id"].map(category)
    listens = account.only("listens", listens, named.notna(), f"the track is not in {EMBEDDINGS}")
    if listens.empty:
        raise DatasetError(f"{path}: no listen of the window is left; {AGAIN}")
    account.tables["listens"]["kept"] = len(listens)
    listens = listens.assign(category=named[listens.index]).reset_index(drop=True)
    return Listens(listens, window[1] - days * DAY, account, folder.resolve().name)


def _find(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; give the one that has {LISTENS} and {EMBEDDINGS}")
    there = sorted(p for p in folder.rglob(name) if p.is_file())
    if len(there) != 1:
        problem = f"there {len(there)} times; give one size" if there else f"not there; {AGAIN}"
        raise DatasetError(f"{folder}: {name} is {problem}")
    return there[0]


def _parts(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """These columns of a file, some rows at a time."""
    with readable(path), pq.ParquetFile(path) as file:
        there = file.schema_arrow.names
        check_header(path, there)
        for column in columns:
            if column not in there:
                raise DatasetError(f"{path}, column {column!r}: missing (there are {listed(there)}); {AGAIN}")
        yield from file.iter_batches(PART, columns=columns)


def _window(path: Path, days: int) -> tuple[int, int]:
    """From where to where the last whole days of a file reach, in seconds."""
    first, last = np.inf, -np.inf
    for part in _parts(path, ["timestamp"]):
        times = _numbers(path, part.to_pandas(), "timestamp")
        first, last = min(first, times.min(initial=np.inf)), max(last, times.max(initial=-np.inf))
    if not last >= first:
        raise DatasetError(f"{path}: no rows; {AGAIN}")
    end = int(last + STEP) // DAY * DAY
    if end - days * DAY < first - DAY:
        there = (last - first) / DAY
        raise DatasetError(f"{path}: {days} days are asked for, and it has {there:.1f}; ask for fewer days")
    return end - days * DAY, end


def _numbers(path: Path, frame: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """A column that is to hold numbers, those that are there."""
    values = frame[column]
    if not (pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_bool_dtype(values.dtype)):
        raise DatasetError(f"{path}, column {column!r}: of kind {values.dtype}, and no numbers; {AGAIN}")
    return values.dropna().to_numpy(np.float64)


def _read_listens(path: Path, users: int, window: tuple[int, int], account: Account) -> pd.DataFrame:
    """The listens of the window, of the first users."""
    seen = np.unique(
        np.concatenate([np.unique(_numbers(path, p.to_pandas(), "uid")) for p in _parts(path, ["uid"])])
    )
    some, parts, rows = seen[:users], [], 0
    for part in _parts(path, COLUMNS):
        frame = part.to_pandas()
        for column in COLUMNS:
            _numbers(path, frame, column)
        rows += len(frame)
        outside = (frame["timestamp"] < window[0]) | (frame["timestamp"] >= window[1])
        other = ~frame["uid"].isin(some) & frame["uid"].notna()  # one without a value stays, and is counted
        parts.append(frame[~outside & ~other])
    listens = pd.concat(parts, ignore_index=True)
    account.said.append(
        f"listens: {len(listens):,} of {rows:,} are of the window and of the first {len(some):,} of {len(seen):,} users"
    )
    account.tables["listens"] = {"read": len(listens), "dropped": {}}
    listens = account.only("listens", listens, listens.notna().all(axis=1), "a value is missing")
    listens = account.only(
        "listens", listens, listens["is_organic"].isin([0, 1]), "is_organic is neither 0 nor 1"
    )
    good = (listens["track_length_seconds"] > 0) & (listens["played_ratio_pct"] >= 0)
    listens = account.only("listens", listens, good, "length or share played is negative, or length 0")
    return listens.astype(dict.fromkeys(COLUMNS, "int64"))


def _categories(path: Path, tracks: NDArray[np.int64], number: int) -> pd.Series:
    """A cluster of each of the tracks that have an embedding, the one of most tracks first."""
    items, vectors = [np.empty(0, np.int64)], list[NDArray[np.float64]]()
    wanted, column = pa.array(tracks), "normalized_embed"
    for part in _parts(path, ["item_id", column]):
        kept = part.filter(pc.is_in(part["item_id"].cast(pa.int64()), wanted))
        values = kept[column]
        numbers = pa.types.is_list(values.type) and pa.types.is_floating(values.type.value_type)
        if not numbers or values.null_count or len({len(v) for v in values}) > 1:
            raise DatasetError(f"{path}, column {column!r}: no lists of as many numbers each; {AGAIN}")
        if len(kept):
            items.append(kept["item_id"].to_numpy(zero_copy_only=False))
            vectors.append(values.flatten().to_numpy(zero_copy_only=False).reshape(len(kept), -1))
    item = np.concatenate(items)
    if len(item) < number:
        raise DatasetError(
            f"{path}: {len(item):,} of the {len(tracks):,} tracks that were played are in it, too few for {number} "
            "categories; ask for fewer"
        )
    vector = np.concatenate(vectors)
    if not np.isfinite(vector).all():
        raise DatasetError(f"{path}, column {column!r}: not all numbers are finite; {AGAIN}")
    order = np.argsort(item, kind="stable")
    item, vector = item[order], vector[order].astype(np.float64)
    some = np.random.default_rng(0).permutation(len(item))[:MOST_TRACKS]
    centre, _ = kmeans2(vector[np.sort(some)], number, minit="++", seed=0)
    cluster, _ = vq(vector, centre)
    name = {of: f"audio_{n:02d}" for n, of in enumerate(pd.Series(cluster).value_counts().index, 1)}
    found = pd.Series(cluster, item).map(name)
    return found[~found.index.duplicated()]
