"""Dataset folders that several tests make: small, valid, and then spoilt in one place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyro_hmvcrl.data.folder import write_dataset

FORMATS = ("parquet", "csv")
TABLES = ("users", "search_events", "recommendation_events")
Content = dict[str, Any]  # the three tables and the description of a dataset folder


def content(users: int = 8, events: int = 60, seed: int = 0) -> Content:
    """A small valid dataset in no particular order; the last user lacks search, the first recommendation."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"u{n}" for n in rng.permutation(users)])

    def log(of: np.ndarray) -> pd.DataFrame:
        times = rng.integers(1_684_000_000_000, 1_686_000_000_000, events)
        category = rng.choice(["shoes", "food", "None"], events)
        frame = pd.DataFrame({"user_id": rng.choice(of, events), "timestamp": times, "category": category})
        return frame.assign(place=rng.integers(0, 9, events))

    table = pd.DataFrame({"user_id": ids, "country": rng.choice(["x", "y"], users)})
    return {
        "users": table.assign(
            age=rng.normal(40, 9, users), feed=rng.normal(size=users), wish=rng.random(users)
        ),
        "search_events": log(ids[:-1]),
        "recommendation_events": log(ids[1:]).assign(engaged=rng.integers(0, 2, events)),
        "description": {
            "name": "small",
            "exposure_covariates": ["feed", "age"],
            "preference_covariates": ["wish"],
        },
    }


def put(folder: Path, parts: Content, suffix: str = "parquet") -> Path:
    """Write a folder as a user would, with no check."""
    folder.mkdir(parents=True)
    for stem in TABLES:
        if suffix == "csv":
            parts[stem].to_csv(folder / f"{stem}.csv", index=False)
        else:
            parts[stem].to_parquet(folder / f"{stem}.parquet", index=False)
    (folder / "dataset.json").write_text(json.dumps(parts["description"]))
    return folder


def write(folder: Path, parts: Content, **options: Any) -> Path:
    write_dataset(folder, **{stem: parts[stem] for stem in TABLES}, **parts["description"], **options)
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def with_values(parts: Content, stem: str, column: str, values: dict[int, Any]) -> Content:
    """`parts` with other values in some rows of a column; an int column becomes float if one is missing."""
    frame = parts[stem].copy()
    listed = frame[column].tolist()
    for row, value in values.items():
        listed[row] = value
    return {**parts, stem: frame.assign(**{column: listed})}


def without(parts: Content, stem: str, column: str) -> Content:
    return {**parts, stem: parts[stem].drop(columns=column)}


def described(parts: Content, **changes: Any) -> Content:
    return {**parts, "description": {**parts["description"], **changes}}
