"""A simulation as a dataset folder, with the truth beside the logs."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pyro_hmvcrl.data.folder import write_dataset
from pyro_hmvcrl.synthetic.design import Array, Design
from pyro_hmvcrl.synthetic.oracle import oracle
from pyro_hmvcrl.synthetic.simulation import Simulation
from pyro_hmvcrl.synthetic.truth import true_edges, true_effects

FIRST_DAY = 1_684_713_600_000  #: ms since epoch: 22 May 2023
DAY = 86_400_000  #: ms
WINDOW = 10 * DAY  #: ms


def write_simulation(
    sim: Simulation,
    out: str | Path,
    seed: int,
    format: str = "parquet",
    progress: bool = False,
    truth: bool = True,
) -> None:
    """Write a dataset folder, with ``truth.npz`` and ``truth.json`` in it unless `truth` is off.

    ``truth.npz`` holds platform and preference (the true factors), oracle_platform and oracle_preference (the
    posterior means under the true parameters) and user_id; ``truth.json`` the design, the seed, the edges and
    the true effects of one unit (here one standard deviation) more of each exposure covariate.
    """
    d, user_id = sim.world.design, np.array([f"u{n:06d}" for n in range(len(sim.factors))])
    covariates = np.hstack([sim.exposure_covariates, sim.preference_covariates])
    users = pd.DataFrame(covariates, columns=d.exposure_names + d.preference_names)
    users.insert(0, "user_id", user_id)
    rng = np.random.default_rng([seed, 4])
    recommendations = _events(rng, user_id, d.category_names, [sim.exposure - sim.engagement, sim.engagement])
    if sim.liked is not None:
        recommendations["liked"] = _among(
            np.random.default_rng([seed, 9]), recommendations, user_id, d, sim.liked
        )
    searches = [sim.search] if sim.suggested is None else [sim.search, sim.suggested]
    searched = _events(rng, user_id, d.category_names, searches).rename(columns={"marked": "suggested"})
    write_dataset(
        out,
        name=Path(out).name,
        users=users,
        search_events=searched.drop(columns=["suggested"] if sim.suggested is None else []),
        recommendation_events=recommendations.rename(columns={"marked": "engaged"}),
        exposure_covariates=d.exposure_names,
        preference_covariates=d.preference_names,
        outcomes=[] if sim.liked is None else ["liked"],
        format=format,
        extra_files={
            "truth.npz": truth_arrays(sim, user_id),
            "truth.json": _truth_json(sim, seed, progress),
        }
        if truth
        else {},
    )


def _among(
    rng: np.random.Generator, events: pd.DataFrame, user_id: NDArray[np.str_], d: Design, counts: Array
) -> NDArray[np.int64]:
    """Marks of some of these events, drawn among those of a user, period and category: so many as `counts` says."""
    place = [pd.Index(user_id).get_indexer(events["user_id"])]
    if counts.ndim == 3:
        place.append((events["timestamp"].to_numpy() - FIRST_DAY) // DAY)
    place.append(pd.Index(d.category_names).get_indexer(events["category"]))
    cell = np.ravel_multi_index(tuple(place), counts.shape)
    order = np.lexsort((rng.random(len(events)), cell))  # the events of a cell, one after another at random
    first = np.searchsorted(cell[order], cell[order])
    marks = np.zeros(len(events), np.int64)
    marks[order] = np.arange(len(events)) - first < counts.ravel()[cell[order]]
    return marks


def truth_arrays(sim: Simulation, user_id: NDArray[np.str_], **more: Any) -> bytes:
    """``truth.npz``: the true factors and the oracle's, and what else is given."""
    posterior, w, buffer = oracle(sim), sim.world, io.BytesIO()
    arrays: dict[str, Any] = {
        "user_id": user_id,
        "platform": sim.platform,
        "preference": sim.preference,
        "oracle_platform": posterior[:, w.platform],
        "oracle_preference": posterior[:, w.preference],
    }
    np.savez_compressed(buffer, **arrays, **more)
    return buffer.getvalue()


def _truth_json(sim: Simulation, seed: int, progress: bool) -> bytes:
    names = tqdm(sim.world.design.exposure_names, "true effects", disable=not progress)
    effects = [true_effects(sim, {name: 1.0}) for name in names]
    truth = {"seed": seed, "design": asdict(sim.world.design), "edges": true_edges(sim), "effects": effects}
    return json.dumps(truth, indent=2).encode()


def _events(
    rng: np.random.Generator, user_id: Array, categories: list[str], counts: list[Array]
) -> pd.DataFrame:
    """One row per event, in random order within the window, or its period; `marked` is the position in `counts`."""
    parts = []
    for mark, matrix in enumerate(counts):
        *where, category = np.nonzero(matrix)
        times = matrix[*where, category].astype(int)
        user, period = where[0], where[1] if matrix.ndim == 3 else np.zeros_like(where[0])
        parts.append(
            np.column_stack([user, category, np.full_like(user, mark), period]).repeat(times, axis=0)
        )
    rows = rng.permutation(np.vstack(parts))
    within = WINDOW if counts[0].ndim == 2 else DAY
    timestamp = FIRST_DAY + DAY * rows[:, 3] + rng.integers(0, within, size=len(rows))
    return pd.DataFrame(
        {
            "user_id": user_id[rows[:, 0]],
            "timestamp": timestamp,
            "category": np.array(categories)[rows[:, 1]],
            "marked": rows[:, 2],
        }
    )
