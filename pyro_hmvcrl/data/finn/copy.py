"""A generated copy of FINN.no's files: their format and their oddities, and nothing of their content.

Each user lives in a place, has a taste over kinds of items, searches at a rate of their own, and is shown items by a
platform that for each user leans to the taste, to popular items and to one kind a slate more or less.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_hmvcrl.data.files import check_copy, whole_folder
from pyro_hmvcrl.data.finn.files import DATA, ITEMS, NAMES
from pyro_hmvcrl.data.finn.slates import SPECIAL

KINDS = [
    "BAP,antiques",
    "BAP,bicycles",
    "BAP,furniture",
    "BAP,phones",
    "MOTOR,boats",
    "MOTOR,",
    "REAL_ESTATE,homes",
    "JOB,",
]
PLACES = ("Oslo", "Rogaland", "Troms", "Viken")
STEPS, SLATE = 20, 25  #: places for steps, and for items with the one that stands for no click
ITEMS_A_GROUP = 12
FIRST = len(SPECIAL)  #: of the items that are some
CLICKS = {"search": 0.85, "rec": 0.45}  #: share of slates with a click


def write_finn_copy(out: str | Path, users: int = 200, seed: int = 0, quirks: bool = True) -> dict[str, int]:
    """Write a generated copy, whole or not at all; how often each oddity is in it.

    Parameters
    ----------
    out
        The folder; must not exist yet.
    users
        At least 20.
    quirks
        Plant the oddities of the real files: a row of users who are not told apart, and steps and items that an
        importer has to leave out.

    Raises
    ------
    ValueError
        If the folder exists, or there are fewer than 20 users.
    """
    out = Path(out)
    check_copy(out, users)
    rng = np.random.default_rng(seed)
    groups = [*SPECIAL, *(f"{kind},{place}" for kind in KINDS for place in PLACES)]
    group = np.append(np.arange(FIRST), np.arange(FIRST, len(groups)).repeat(ITEMS_A_GROUP))
    arrays = _draw(rng, users)
    planted = _with_quirks(rng, arrays, group) if quirks else {}
    names = {
        "category": {str(number): name for number, name in enumerate(groups)},
        "interaction_type": {"1": "search", "2": "rec", "0": "<UNK>"},
    }
    with whole_folder(out) as folder:
        np.savez_compressed(folder / DATA, **arrays)
        np.savez_compressed(folder / ITEMS, category=group.astype(np.float64))
        (folder / NAMES).write_text(json.dumps(names), encoding="utf-8")
        (folder / "GENERATED.txt").write_text(
            "These files are generated: they are NOT FINN.no's slates, and hold nothing of them but their format.\n",
            encoding="utf-8",
        )
    return planted


def _draw(rng: np.random.Generator, users: int) -> dict[str, Any]:
    """The arrays of ``data.npz`` without oddities."""
    arrays: dict[str, Any] = {
        "userId": 1 + rng.permutation(users).astype(np.int32),
        "slate": np.zeros((users, STEPS, SLATE), np.int32),
    }
    arrays |= {
        name: np.zeros((users, STEPS), np.int32)
        for name in ("click", "click_idx", "slate_lengths", "interaction_type")
    }
    for user in range(users):
        taste = rng.dirichlet(np.full(len(KINDS), 0.5))
        place = rng.integers(len(PLACES))
        searches, head, one_kind = rng.uniform(0.5, 0.9), rng.uniform(0, 2), rng.uniform(0.1, 0.9)
        shown_kinds = 0.5 * taste + 0.5 / len(KINDS)
        for step in range(rng.integers(8, STEPS + 1)):
            search = step % 2 == 0 if step < 2 else rng.random() < searches
            n_items = rng.integers(3, SLATE)
            kinds = rng.choice(len(KINDS), n_items, p=taste if search else shown_kinds)
            kinds[rng.random(n_items) < (0.95 if search else one_kind)] = kinds[0]
            places = np.where(rng.random(n_items) < 0.8, place, rng.integers(len(PLACES), size=n_items))
            weight = np.arange(1, ITEMS_A_GROUP + 1.0) ** -head
            which = rng.choice(ITEMS_A_GROUP, n_items, p=weight / weight.sum())
            items = FIRST + (kinds * len(PLACES) + places) * ITEMS_A_GROUP + which
            likes = taste[kinds] + 0.01
            clicks = rng.random() < CLICKS["search" if search else "rec"]
            at = 1 + rng.choice(n_items, p=likes / likes.sum()) if clicks else 0
            slate = arrays["slate"][user, step]
            slate[: n_items + 1] = [1, *items]
            at = int((slate == slate[at]).argmax())  # where the item stands first
            for name, value in zip(
                ("click", "click_idx", "slate_lengths", "interaction_type"),
                (slate[at], at, n_items + 1, 1 if search else 2),
                strict=True,
            ):
                arrays[name][user, step] = value
    return arrays


def _with_quirks(
    rng: np.random.Generator, arrays: dict[str, Any], group: NDArray[np.int64]
) -> dict[str, int]:
    """Plant oddities in the first steps of some users, and count them by name."""
    users = len(arrays["userId"])
    some = rng.permutation(np.arange(1, users))
    parts = np.array_split(some[: 3 * (users // 10)], 6)
    kinds = ("type_0", "click_outside", "empty_slate", "click_0", "item_unknown", "group_unknown")
    of = dict(zip(kinds, parts, strict=True))
    first = {name: array[:, 0] for name, array in arrays.items() if array.ndim > 1}
    first["interaction_type"][of["type_0"]] = 0
    first["click"][of["click_outside"]] = len(group) - 1
    first["slate"][of["click_outside"], 1:] = FIRST
    first["click_idx"][of["click_outside"]] = 0
    first["slate"][of["empty_slate"], 1:] = 0
    first["click"][of["empty_slate"]] = 1
    first["click"][of["click_0"]] = 0
    for name, item in (("item_unknown", 2), ("group_unknown", FIRST + 1)):
        first["slate"][of[name], 1] = item
        first["click"][of[name]] = 1  # so that no click is on what stood there
    group[FIRST + 1] = 10_000
    arrays["userId"][0] = 0
    planted = {name: len(rows) for name, rows in of.items()}
    planted["group_unknown"] = int((arrays["slate"][1:] == FIRST + 1).sum())
    return planted | {"users_not_told_apart": 1}
