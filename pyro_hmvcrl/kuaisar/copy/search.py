"""What the generated copy's users search: ``src_inter.csv``."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pyro_hmvcrl.kuaisar.clock import BEIJING
from pyro_hmvcrl.kuaisar.copy.catalogue import Catalogue
from pyro_hmvcrl.kuaisar.copy.laws import (
    MOST_RESULTS,
    QUERY_BREADTH,
    QUERY_RATE,
    SLOTS,
    VOCABULARY,
    WINDOW_DAYS,
)
from pyro_hmvcrl.kuaisar.copy.population import CATEGORIES, Population, Rows
from pyro_hmvcrl.kuaisar.copy.quirks import Planter, unknown_users
from pyro_hmvcrl.kuaisar.copy.rows import (
    as_text,
    clock_text,
    draw_categories,
    draw_moments,
    joined,
    picked,
    quoted,
    randomly_rounded,
    rows_at,
    token_lists,
    write_rows,
)
from pyro_hmvcrl.synthetic.design import Array

KEYWORDS_A_USER = 45
OTHER_ITEMS_FROM = 103_656_000_000  #: ids of users, broadcasts, goods, ... among search results
SEARCH_TYPES = ("VIDEO", "IMAGE_ATLAS", "USER", "LIVE", "COMMODITY", "MUSIC", "ADVERT")
SEARCH_TYPE_SHARES = (0.72, 0.12, 0.06, 0.03, 0.03, 0.02, 0.02)
CATALOGUED_TYPES = 2  #: the first two of them
SOURCES = ("USER_INPUT", "SEARCH_BAR_BACKFILL", "RELATED_SEARCH", "HOT_LIST", "SEARCH_HISTORY")


def draw_sessions(rng: np.random.Generator, covariates: Array, pool: int, events: float) -> Rows:
    """Search sessions: user (a row of `covariates`), local time (ms), source and keyword (of `pool`)."""
    rate, breadth = covariates[:, :2].T
    a_day = np.exp(QUERY_RATE[0] + QUERY_RATE[1] * rate) - 1
    typed = np.maximum(randomly_rounded(rng, events * WINDOW_DAYS * a_day), max(round(3 * events), 1))
    share = np.exp(QUERY_BREADTH[0] + QUERY_BREADTH[1] * breadth)
    distinct = np.clip(randomly_rounded(rng, typed * share), 1, typed)
    suggested = rng.poisson(12 * events, size=len(covariates))
    user = np.arange(len(covariates)).repeat(typed)
    place = np.arange(len(user)) - np.searchsorted(user, user)
    again = (distinct[user] * rng.random(len(user))).astype(np.int64)
    which = np.where(place < distinct[user], place, again)
    stride = 7_919 if pool % 7_919 else 7_907  # prime: a user's keywords are distinct
    own = (rng.integers(pool, size=len(covariates))[user] + stride * which) % pool
    others = np.arange(len(covariates)).repeat(suggested)
    popular = (pool * rng.random(len(others)) ** 4).astype(np.int64)
    source = rng.integers(1, len(SOURCES), size=len(others))
    n = len(user) + len(others)
    return {
        "user": np.concatenate([user, others]),
        "local": draw_moments(rng, rng.integers(SLOTS, size=n), rng.random(n) < 0.2),
        "source": np.concatenate([np.zeros_like(user), source]),
        "keyword": np.concatenate([own, popular]),
        "broken": np.zeros(n, bool),
        "clicked": rng.random(n) < 0.6,
    }


def draw_results(
    rng: np.random.Generator, population: Population, users: slice, catalogue: Catalogue, sessions: Rows
) -> Rows:
    """The rows of sessions (of some users), without quirks of rows; `user` is the position in the population."""
    size = np.minimum(1 + rng.poisson(3.9, size=len(sessions["user"])), MOST_RESULTS)
    session = np.arange(len(size)).repeat(size)
    n, place = len(session), np.arange(size.sum()) - (np.cumsum(size) - size)[session]
    sure = (size * rng.random(len(size))).astype(np.int64)[session] == place  # a click if there are any
    click = sessions["clicked"][session] & (sure | (rng.random(n) < 0.15))
    kind = rng.choice(len(SEARCH_TYPES), n, p=SEARCH_TYPE_SHARES)
    first = catalogue.first
    sought = draw_categories(rng, sessions["user"][session], population.search[users])
    category = np.where(click, sought, rng.choice(len(CATEGORIES), n, p=np.diff(first) / first[-1]))
    # Neighbours in the catalogue, so that a session does not show an item twice.
    base = rng.integers(first[-1], size=len(size))[session] + place
    item = first[category] + base % np.diff(first)[category]
    return rows_at(sessions, session) | {
        "user": sessions["user"][session] + users.start,
        "user_id": population.features["user_id"][users][sessions["user"][session]],
        "kind": kind,
        "category": category,
        "item": np.where(kind < CATALOGUED_TYPES, item, -1 - base % (first[-1] // 4)),  # below 0: not an item
        "click_cnt": click * (1 + rng.poisson(0.2, size=n)),
    }


def with_session_quirks(planter: Planter, sessions: Rows) -> Rows:
    """Sessions with recurring ids and broken keywords among them."""
    ids, broken = sessions["id"].copy(), sessions["broken"].copy()
    recurring = planter.choose("src_session_ids_recurring", len(ids))
    others = np.setdiff1d(np.arange(len(ids)), recurring)
    ids[recurring] = ids[planter.rng.choice(others, len(recurring))]
    broken[planter.choose("src_keywords_broken", np.flatnonzero(~sessions["clicked"]))] = True
    return sessions | {"id": ids, "broken": broken}


def with_src_quirks(planter: Planter, rows: Rows, users: int) -> Rows:
    """Results with repeated and conflicting rows and unknown users among them."""
    n = len(rows["user"])
    duplicated = rows_at(rows, planter.choose("src_rows_duplicated", n))
    conflicting = rows_at(rows, planter.choose("src_rows_conflicting", np.flatnonzero(rows["click_cnt"])))
    conflicting |= {"click_cnt": np.zeros_like(conflicting["click_cnt"])}
    unknown = rows_at(rows, planter.choose("src_rows_unknown_user", n))
    unknown |= {"user_id": unknown_users(unknown, users), "id": unknown["id"] + 1}  # a session of their own
    return joined([rows, duplicated, conflicting, unknown])


def write_results(file: BinaryIO, rows: Rows, catalogue: Catalogue, keywords: pa.Array) -> None:
    """Rows of ``src_inter.csv``."""
    keyword = keywords.take(pa.array(rows["keyword"]))
    cut = pc.utf8_slice_codeunits(keyword, 0, -1)  # the closing bracket is lost
    known = rows["item"] >= 0
    item_id = np.where(known, catalogue.item_id[rows["item"] * known], OTHER_ITEMS_FROM - rows["item"])
    columns = [
        quoted(pc.if_else(pa.array(rows["broken"]), cut, keyword)),
        as_text(item_id),
        as_text(rows["click_cnt"]),
        as_text(rows["id"]),
        picked(SEARCH_TYPES, rows["kind"]),
        as_text(rows["user_id"]),
        as_text(rows["local"] - BEIJING),
        picked(SOURCES, rows["source"]),
        clock_text(rows["local"]),
    ]
    write_rows(file, columns)


SRC_COLUMNS = (
    *("keyword", "item_id", "click_cnt", "search_session_id", "item_type", "user_id"),
    *("search_session_timestamp", "search_source", "search_session_time"),
)


def draw_keywords(rng: np.random.Generator, size: int) -> pa.Array:
    """Distinct keywords: the first token of each is its own."""
    tokens = rng.integers(size, size + VOCABULARY, size=(size, 5))
    tokens[:, 0] = np.arange(size)
    return token_lists(tokens, rng.integers(1, 6, size=size))
