"""What the generated copy's feed delivers: ``rec_inter.csv``."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pyro_hmvcrl.kuaisar.clock import BEIJING, DAY
from pyro_hmvcrl.kuaisar.copy.catalogue import Catalogue, items_at, scores_of
from pyro_hmvcrl.kuaisar.copy.laws import BATCH_SIZE, CADENCE, CLICK_FROM, NIGHT_SHARE, PULL, SLOTS
from pyro_hmvcrl.kuaisar.copy.population import Ints, Mask, Population, Rows
from pyro_hmvcrl.kuaisar.copy.quirks import Planter, unknown_users
from pyro_hmvcrl.kuaisar.copy.rows import (
    as_text,
    clock_text,
    draw_categories,
    draw_moments,
    joined,
    randomly_rounded,
    rows_at,
    with_point,
    write_rows,
)
from pyro_hmvcrl.synthetic.design import Array
from pyro_hmvcrl.synthetic.world import sigmoid


def _batches(rng: np.random.Generator, covariates: Array, events: float) -> Rows:
    """Deliveries' skeleton: user (a row of `covariates`), local time (ms) and size of each batch."""
    batch_size, cadence, night_share = covariates[:, 3:6].T
    users = len(covariates)
    days = (1 + rng.binomial(SLOTS - 1, rng.beta(4, 2, size=users))) * min(events, 1.0)
    days = np.maximum(randomly_rounded(rng, days), 1)
    present = rng.random((users, SLOTS)).argsort(1) < days[:, None]
    user, slot = np.nonzero(present)
    a_day = np.maximum(np.exp(CADENCE[0] + CADENCE[1] * cadence) * max(events, 1.0), 1)
    batches = 1 + rng.poisson(a_day[user] - 1)
    user, slot = user.repeat(batches), slot.repeat(batches)
    night = _evenly(rng, user, sigmoid(NIGHT_SHARE[0] + NIGHT_SHARE[1] * night_share))
    size = 1 + rng.poisson(np.exp(BATCH_SIZE[0] + BATCH_SIZE[1] * batch_size)[user])
    return {"user": user, "local": draw_moments(rng, slot, night), "size": size}


def _evenly(rng: np.random.Generator, user: Ints, share: Array) -> Mask:
    """Mark each user's share of their rows (which are contiguous), evenly spread."""
    place = np.arange(len(user)) - np.searchsorted(user, user)
    ahead = rng.random(len(share))[user] + share[user] * place
    return np.asarray(np.floor(ahead + share[user]) > np.floor(ahead))


def draw_deliveries(
    rng: np.random.Generator, population: Population, users: slice, catalogue: Catalogue, events: float
) -> Rows:
    """The rows of some users, without quirks; `user` is the position in the population."""
    covariates = population.exposure_covariates[users]
    batches = _batches(rng, covariates, events)
    batch = np.arange(len(batches["size"])).repeat(batches["size"])
    user, local = batches["user"][batch], batches["local"][batch]
    category = draw_categories(rng, user, population.exposure[users])
    mean = scores_of(population, users, catalogue.offsets)[user].T
    scores = mean + np.sqrt(1 - PULL**2) * rng.normal(size=(3, len(user)))
    item = items_at(catalogue, category, scores, local / DAY)
    # A batch does not show an item twice.
    kept = np.sort(np.unique(batch * len(catalogue.category) + item, return_index=True)[1])
    rows = {"user": user, "item": item, "local": local, "category": category}
    rows = rows_at(rows, kept)
    n = len(kept)
    click = rng.random(n) < population.engagement[users][rows["user"], rows["category"]]
    rare = rng.random((5, n))
    return rows | {
        "user": rows["user"] + users.start,
        "user_id": population.features["user_id"][users][rows["user"]],
        "duration": catalogue.duration[rows["item"]].astype(np.int64),
        "playing": _playing_time(rng, click, catalogue.duration[rows["item"]]),
        "click": click.astype(np.int64),
        "forward": (click & (rare[0] < 0.005)).astype(np.int64),
        "like": (click & (rare[1] < 0.04)).astype(np.int64),
        "follow": (click & (rare[2] < 0.008)).astype(np.int64),
        "search": (rare[3] < 0.03).astype(np.int64),
        "related": (rare[4] < 0.3).astype(np.int64),  # means something only where search is 1
    }


def _playing_time(rng: np.random.Generator, click: Mask, duration: NDArray[np.int32]) -> Ints:
    """Ms that agree with the click: the whole of an item of up to 7 s, or more than 7 s of a longer one."""
    short = duration <= CLICK_FROM
    least = np.where(short, duration, CLICK_FROM + 1)
    watched = least + (0.5 * duration * rng.exponential(size=len(click))).astype(np.int64)
    left = (least * rng.random(len(click))).astype(np.int64)
    return np.where(click, watched, left)


def with_rec_quirks(planter: Planter, rows: Rows, users: int) -> Rows:
    """Deliveries with repeated rows, negative durations and unknown users among them."""
    n = len(rows["user"])
    duplicated = rows_at(rows, planter.choose("rec_rows_duplicated", n))
    negative = rows_at(rows, planter.choose("rec_rows_negative_duration", n))
    negative |= {"duration": -negative["duration"], "local": negative["local"] + 1}
    unknown = rows_at(rows, planter.choose("rec_rows_unknown_user", n))
    return joined([rows, duplicated, negative, unknown | {"user_id": unknown_users(unknown, users)}])


def write_deliveries(file: BinaryIO, rows: Rows, catalogue: Catalogue) -> None:
    """Rows of ``rec_inter.csv``."""
    columns = [
        as_text(rows["user_id"]),
        as_text(catalogue.item_id[rows["item"]]),
        with_point(rows["duration"]),
        with_point(rows["playing"]),
        with_point(rows["local"] - BEIJING),
        *(as_text(rows[name]) for name in ("forward", "like", "follow", "related", "search", "click")),
        clock_text(rows["local"]),
    ]
    write_rows(file, columns)


REC_COLUMNS = (
    *("user_id", "item_id", "duration_ms", "playing_time", "timestamp", "forward", "like", "follow"),
    *("search_item_related", "search", "click", "time"),
)
