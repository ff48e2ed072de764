"""A generated copy of KuaiSAR: its files, its size and its quirks, with the truth beside them.

KuaiSAR may not be redistributed, and nobody knows the factors of its users.  :func:`write_kuaisar_copy` writes files
of the same names, columns and oddities for users who follow the generative story, at any size, so that an importer
and a fit can be held against what is true.

What is planted: a world of :mod:`pyro_hmvcrl.synthetic` (2 platform and 3 preference factors, 24 first-level
categories) in which one more standard deviation of popularity raises engagement and lowers alignment.  Its covariates
are planted too, and the files are made so that each one, **measured from the files**, is nearly linear in the planted
one:

- *popularity*, *duration* and *age*: inside every category, items stand in bands of geometrically falling
  popularity, and inside a band in a grid, duration by upload date.  A delivery draws three normal scores about the
  user's covariates, and takes the item that stands there.  Categories differ in all three; for each user the ranking
  evens this out, on average and not in what happens to be delivered in a window;
- *batch size*, *cadence* and *night share* set when and how many items are delivered;
- *query rate* and *query breadth* set how many queries of the user's own there are, and how many distinct ones;
- levels and one-hot features stand in ``user_features.csv``.

Nothing but an event's category (and whether it was engaged with) depends on the factors, and the laws are the same
from the window's first day to its last.  Clicked search results follow ``f_S(preference)``, in sessions that the
user typed and in those that the platform suggested alike; results that were not clicked follow the catalogue.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from pyro_hmvcrl.data.files import check_copy, whole_folder
from pyro_hmvcrl.kuaisar.copy.catalogue import (
    ITEMS_A_USER,
    USERS_A_CHUNK,
    Catalogue,
    draw_catalogue,
    write_items,
)
from pyro_hmvcrl.kuaisar.copy.feed import REC_COLUMNS, draw_deliveries, with_rec_quirks, write_deliveries
from pyro_hmvcrl.kuaisar.copy.population import (
    CATEGORIES,
    EXPOSURE_COVARIATES,
    PREFERENCE_COVARIATES,
    Population,
    draw_population,
)
from pyro_hmvcrl.kuaisar.copy.quirks import QUIRKS, Planter, Tally, count_events
from pyro_hmvcrl.kuaisar.copy.rows import as_text, shuffled, write_header, write_rows
from pyro_hmvcrl.kuaisar.copy.search import (
    KEYWORDS_A_USER,
    SRC_COLUMNS,
    draw_keywords,
    draw_results,
    draw_sessions,
    with_session_quirks,
    with_src_quirks,
    write_results,
)
from pyro_hmvcrl.synthetic.folder import truth_arrays
from pyro_hmvcrl.synthetic.simulation import Simulation
from pyro_hmvcrl.synthetic.truth import true_edges, true_effects

SESSIONS_A_CHUNK = 5_000_000  #: room for session ids


def write_kuaisar_copy(
    out: Path,
    users: int = 25_877,
    seed: int = 0,
    quirks: bool = True,
    events: float = 1.0,
    progress: bool = False,
) -> None:
    """Write a generated copy of KuaiSAR with its truth, whole or not at all.

    Beside KuaiSAR's five files stand ``GENERATED.txt``; ``truth.npz``, with a row per user in the order of
    ``user_features.csv``: user_id, the true factors (platform, preference), the posterior means under the true
    parameters (oracle_platform, oracle_preference), the planted exposure_covariates and preference_covariates, and the
    counts ``(N, C)`` of events of known users that have a category, without repeated rows and rows of negative
    duration (search: clicked results of USER_INPUT sessions; exposure; engagement); and ``truth.json`` with the
    seed, design, edges, covariates' names, categories, true effects of one standard deviation more of each exposure
    covariate, and the number of each quirk in the files.

    Parameters
    ----------
    out
        The folder; must not exist yet.
    users
        At least 20.  The default, with `events` at 1, gives KuaiSAR's size.
    quirks
        Plant the oddities of the real files: rows, sessions and items that an importer has to mend or to drop.
    events
        Factor on each user's events, and on the items.  Below 1 users are there on fewer days, above 1 they get
        more batches a day.  A user has at least one batch and one query, and a category 15 items.

    Raises
    ------
    ValueError
        If the folder exists, there are fewer than 20 users, or `events` is not above 0.
    """
    out = Path(out)
    check_copy(out, users)
    if not 0 < events < np.inf:
        raise ValueError(f"events is {events}: it must be above 0, and finite")
    population = draw_population(users, seed)
    tally = Tally.empty(users)
    planter = Planter(np.random.default_rng([seed, 11]), tally.quirks, quirks, whole=True)
    catalogue = draw_catalogue(planter, population, round(users * events * ITEMS_A_USER), seed)
    with whole_folder(out) as folder:
        _write_users(folder, population, seed)
        write_items(folder / "item_features.csv", catalogue, seed)
        _write_events(folder, population, catalogue, tally, seed, quirks, events, progress)
        _write_truth(folder, population, tally, seed, events)
        arguments = f"users={users}, seed={seed}, quirks={quirks}, events={events}"
        (folder / "GENERATED.txt").write_text(
            "These files are generated: they are NOT KuaiSAR, and hold nothing of it but its format. They come from\n\n"
            f"    pyro_hmvcrl.kuaisar.copy.write_kuaisar_copy(Path({out.name!r}), {arguments})\n\n"
            "truth.npz and truth.json say what is true of them.\n",
            encoding="utf-8",
        )


USER_COLUMNS = ("user_id", "onehot_feat1", "onehot_feat2", "search_active_level", "rec_active_level")


def _write_users(folder: Path, population: Population, seed: int) -> None:
    """``user_features.csv``, and ``social_network.csv`` with the few users who follow another."""
    rng, user_id = np.random.default_rng([seed, 15]), population.features["user_id"]
    with (folder / "user_features.csv").open("wb") as file:
        write_header(file, USER_COLUMNS)
        write_rows(file, [as_text(population.features[name]) for name in USER_COLUMNS])
    follower = rng.choice(len(user_id), max(round(0.0223 * len(user_id)), 1), replace=False)
    follower = follower.repeat(rng.integers(1, 4, size=len(follower)))
    followed = (follower + rng.integers(1, len(user_id), size=len(follower))) % len(user_id)
    pairs = np.unique(np.stack([user_id[follower], user_id[followed]], 1), axis=0)
    with (folder / "social_network.csv").open("wb") as file:
        write_header(file, ("user_id", "user_follow_id"))
        write_rows(file, [as_text(pairs[:, 0]), as_text(pairs[:, 1])])


def _write_events(
    folder: Path,
    population: Population,
    catalogue: Catalogue,
    tally: Tally,
    seed: int,
    quirks: bool,
    events: float,
    progress: bool,
) -> None:
    """``rec_inter.csv`` and ``src_inter.csv``, some users at a time, their rows mixed; and count."""
    users = len(population.factors)
    keywords = draw_keywords(np.random.default_rng([seed, 16]), users * KEYWORDS_A_USER)
    starts = range(0, users, USERS_A_CHUNK)
    with (folder / "rec_inter.csv").open("wb") as rec, (folder / "src_inter.csv").open("wb") as src:
        write_header(rec, REC_COLUMNS)
        write_header(src, SRC_COLUMNS)
        for chunk, start in enumerate(tqdm(starts, "users' logs", disable=not progress)):
            some = slice(start, min(start + USERS_A_CHUNK, users))
            rng = np.random.default_rng([seed, 17, chunk])
            planter = Planter(np.random.default_rng([seed, 18, chunk]), tally.quirks, quirks, chunk == 0)

            rows = draw_deliveries(rng, population, some, catalogue, events)
            count_events(tally.exposure, rows, catalogue.has_category[rows["item"]])
            count_events(tally.engagement, rows, catalogue.has_category[rows["item"]] & (rows["click"] == 1))
            rows = with_rec_quirks(planter, rows, users)
            tally.quirks["rec_rows_item_missing"] += int(catalogue.missing[rows["item"]].sum())
            write_deliveries(rec, shuffled(rng, rows), catalogue)

            sessions = draw_sessions(rng, population.preference_covariates[some], len(keywords), events)
            # Even numbers: the odd ones are for users whom nobody knows.
            sessions["id"] = chunk * SESSIONS_A_CHUNK + 2 * rng.permutation(len(sessions["user"]))
            sessions = with_session_quirks(planter, sessions)
            rows = draw_results(rng, population, some, catalogue, sessions)
            counted = (rows["click_cnt"] > 0) & (rows["source"] == 0) & (rows["item"] >= 0)
            count_events(tally.search, rows, counted & catalogue.has_category[rows["item"]])
            rows = with_src_quirks(planter, rows, users)
            lost = catalogue.missing[rows["item"]] & (rows["item"] >= 0)
            tally.quirks["src_rows_item_missing"] += int(lost.sum())
            write_results(src, shuffled(rng, rows), catalogue, keywords)


def _write_truth(folder: Path, population: Population, tally: Tally, seed: int, events: float) -> None:
    searches, shown = tally.search.sum(1), tally.exposure.sum(1)
    design = replace(
        population.world.design,
        search_events=(int(searches.min()), int(searches.max())),
        recommendation_events=(int(shown.min()), int(shown.max())),
    )
    world = replace(population.world, design=design)
    counts = (a.astype(float) for a in (tally.search, tally.exposure, tally.engagement))
    covariates = population.exposure_covariates, population.preference_covariates
    sim = Simulation(world, *covariates, population.noise, population.factors, *counts)
    content = truth_arrays(
        sim,
        population.features["user_id"].astype(str),
        exposure_covariates=covariates[0],
        preference_covariates=covariates[1],
        search=tally.search.astype(np.int32),
        exposure=tally.exposure.astype(np.int32),
        engagement=tally.engagement.astype(np.int32),
    )
    (folder / "truth.npz").write_bytes(content)
    effects = [
        true_effects(sim, {f"exposure_{d + 1}": 1.0}) | {"shift": {name: 1.0}}
        for d, name in enumerate(EXPOSURE_COVARIATES)
    ]
    truth = {
        "seed": seed,
        "events": events,
        "design": asdict(design),
        "edges": true_edges(sim),
        "exposure_covariates": EXPOSURE_COVARIATES,
        "preference_covariates": PREFERENCE_COVARIATES,
        "categories": [
            {"id": c + 1, "name": name, "name_en": english} for c, (name, english) in enumerate(CATEGORIES)
        ],
        "effects": effects,
        "quirks": {name: tally.quirks[name] for name in QUIRKS},
    }
    text = json.dumps(truth, indent=2, ensure_ascii=False)
    (folder / "truth.json").write_text(text + "\n", encoding="utf-8")
