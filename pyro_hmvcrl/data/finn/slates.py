"""The steps of FINN.no's users, and the items that their slates showed; every one that is left out is counted.

A step is a slate that a user saw, of search results or of recommendations, with the one item that was clicked, or none.
Steps come in the user's order, and have no times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pyro_hmvcrl.data.files import check_text
from pyro_hmvcrl.data.finn.files import (
    DATA,
    ITEMS,
    NAMES,
    check,
    find_files,
    read_array,
    read_names,
    whole,
)
from pyro_hmvcrl.data.frames import Account
from pyro_hmvcrl.data.names import listed
from pyro_hmvcrl.data.tables import DatasetError

USERS = 25_000  #: that are read unless asked otherwise: all 2.3 million have some 10^9 items
LEVELS = (
    "main",
    "kind",
    "place",
)  #: of a group like "BAP,antiques,Trøndelag": "BAP", "BAP,antiques", all of it
SPECIAL = (
    "PAD",
    "noClick",
    "<UNK>",
)  #: groups, and items, 0 to 2: nothing, no click, an item that is not known
PAD, UNKNOWN = 0, 2
SURFACES = ("search", "rec")  #: how types of interaction begin


@dataclass(frozen=True, eq=False)
class Slates:
    """What was read.

    Attributes
    ----------
    user_id
        By user; `user` below is a position in it.
    steps
        A row a step: user, order (from 0 among the user's), number (of the user's steps), surface ("search" or "rec"),
        clicked (whether one of its items was).
    shown
        A row an item of a slate: user, step (position among `steps`), surface, item, category, place (of the group,
        empty where it has none), engaged (0/1).
    account
        What was left out, and why.
    source
        Name of the folder.
    """

    user_id: NDArray[np.int64]
    steps: pd.DataFrame
    shown: pd.DataFrame
    account: Account
    source: str


def read_finn(folder: str | Path, users: int | None = USERS, level: str = "kind") -> Slates:
    """Read FINN.no's files.

    Parameters
    ----------
    folder
        Has ``data.npz``, ``itemattr.npz`` and ``ind2val.json``, at any depth.
    users
        The first so many of the file, all for none.
    level
        What is a category: the group's "main" part, its "kind" (main part and sub-category), or all of it, with the
        "place".

    Raises
    ------
    DatasetError
        If a file or an array is missing or holds something else: it names file, array, row and mend.
    """
    if level not in LEVELS:
        raise DatasetError(f"level is {level!r}: choose of {listed(LEVELS)}")
    if users is not None and users < 1:
        raise DatasetError(f"users is {users}: it must be at least 1")
    folder, account = Path(folder), Account()
    files = find_files(folder)
    arrays = _read_data(files[DATA], users, account)
    surfaces = _surfaces(files[NAMES])
    known = np.isin(arrays["interaction_type"], [*surfaces])
    check(files[DATA], "interaction_type", arrays["interaction_type"], known, f"not in {NAMES}")
    groups = _read_groups(files[ITEMS], files[NAMES])
    user_id, rows = _sequences(arrays["userId"], account)
    steps = _steps(arrays, rows, surfaces, account)
    items = arrays["slate"].reshape(-1, arrays["slate"].shape[2])[steps.index]
    steps = _with_clicks(steps, items, account)
    shown = _shown(steps, items, *groups, level, account)
    return Slates(user_id, steps.drop(columns="at"), shown, account, folder.resolve().name)


def _read_data(path: Path, users: int | None, account: Account) -> dict[str, NDArray[np.int64]]:
    """The arrays of ``data.npz`` that say something of their own, of as many users each."""
    dimensions = {"userId": 1, "click": 2, "interaction_type": 2, "slate": 3}
    in_file = len(read_array(path, "userId", 1))
    arrays = {name: whole(path, name, read_array(path, name, n, users)) for name, n in dimensions.items()}
    if len(arrays["userId"]) < in_file:
        account.said.append(f"sequences: the first {users:,} of {in_file:,} users are read")
    shape = arrays["slate"].shape
    if not all(shape):
        raise DatasetError(
            f"{path}, array 'slate': of shape {shape}, there is nothing in it; get the file again"
        )
    for name, array in arrays.items():
        if array.shape != shape[: array.ndim]:
            raise DatasetError(
                f"{path}, array {name!r}: of shape {array.shape}, where slate is of {shape}; get the file again"
            )
    seen = pd.Series(arrays["userId"])
    again = (seen.duplicated() & (seen != PAD)).to_numpy()
    check(path, "userId", arrays["userId"], ~again, "a user that has a row already")
    return arrays


def _surfaces(path: Path) -> dict[int, str]:
    """What each type of interaction is: "search", "rec", or nothing."""
    names = read_names(path, "interaction_type")
    of = {
        number: next((surface for surface in SURFACES if name.casefold().startswith(surface)), "")
        for number, name in names.items()
    }
    for surface in SURFACES:
        if surface not in of.values():
            raise DatasetError(
                f"{path}, 'interaction_type': no name begins with {surface!r} (there are {listed(names.values())}); "
                "name it so"
            )
    return of


def _read_groups(items: Path, names: Path) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Group of each item, and names of the groups."""
    group = whole(items, "category", read_array(items, "category", 1))
    name = read_names(names, "category")
    try:
        check_text(name)
    except ValueError as error:
        raise DatasetError(f"{names}, 'category': {error}; get the file again") from None
    first = [name.get(int(of)) for of in group[: len(SPECIAL)]]
    if first != [*SPECIAL]:
        raise DatasetError(
            f"{items}, array 'category': the first three items are to be {listed(SPECIAL)}, and are {listed(first)}; "
            f"give {ITEMS} and {NAMES} of one release"
        )
    return group, name


def parted(name: str, places: set[str]) -> tuple[str, str, str]:
    """A group's main part, sub-category and place; the latter two may be empty.

    Examples
    --------
    >>> parted("BAP,antiques,Oslo", {"Oslo"}), parted("MOTOR,,Oslo", {"Oslo"}), parted("JOB, Oslo", {"Oslo"})
    (('BAP', 'antiques', 'Oslo'), ('MOTOR', '', 'Oslo'), ('JOB', '', 'Oslo'))
    """
    main, *rest = (part.strip() for part in name.split(",", 2))
    place = rest[1] if len(rest) == 2 else rest[0] if rest and rest[0] in places else ""
    return main, rest[0] if rest and (len(rest) == 2 or not place) else "", place


def _named(names: Mapping[int, str], level: str) -> pd.DataFrame:
    """Category and place of each group, by its number."""
    places = {part[2].strip() for name in names.values() if len(part := name.split(",", 2)) == 3}
    parts = {number: parted(name, places) for number, name in names.items()}
    depth = LEVELS.index(level) + 1
    category = {number: ",".join(part for part in of[:depth] if part) for number, of in parts.items()}
    return pd.DataFrame({"category": category, "place": {number: of[2] for number, of in parts.items()}})


def _sequences(user_id: NDArray[np.int64], account: Account) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """The users who are told apart, and their rows of the arrays."""
    account.tables["sequences"] = {"read": len(user_id), "dropped": {}}
    users = pd.DataFrame({"user_id": user_id})
    users = account.only(
        "sequences", users, users["user_id"] != PAD, "userId is 0, those who are not told apart"
    )
    return users["user_id"].to_numpy(), users.index.to_numpy()


def _steps(
    arrays: Mapping[str, NDArray[np.int64]],
    rows: NDArray[np.intp],
    surfaces: Mapping[int, str],
    account: Account,
) -> pd.DataFrame:
    """The steps that say what was shown and what the user did; the index is that of the flat arrays."""
    n_steps = arrays["click"].shape[1]
    index = (rows[:, None] * n_steps + np.arange(n_steps)).ravel()
    kinds = pd.Series(arrays["interaction_type"][rows].ravel()).map(surfaces)
    steps = pd.DataFrame(
        {
            "user": np.arange(len(rows)).repeat(n_steps),
            "surface": kinds.to_numpy(),
            "click": arrays["click"][rows].ravel(),
        },
        index,
    )
    slate = arrays["slate"][rows].reshape(len(index), -1)
    padding = pd.Series((slate == PAD).all(1), index)
    past = padding & (steps["click"] == PAD)
    account.said.append(
        f"steps: {int((~past).sum()):,} of {len(past):,} places for them are filled, the others are past the end of "
        "their user's sequence"
    )
    steps = steps[~past]
    account.tables["steps"] = {"read": len(steps), "dropped": {}}
    empty = pd.Series((slate < UNKNOWN).all(1), index)
    steps = account.only("steps", steps, ~empty[steps.index], "the slate is empty, it has no item")
    steps = account.only(
        "steps", steps, steps["click"] != PAD, "click is 0, it is not known what the user did"
    )
    steps = account.only("steps", steps, steps["surface"] != "", "neither of search nor a recommendation")
    if steps.empty:
        raise DatasetError("data.npz: no step is left that can be used; get the file again")
    order = steps.groupby("user").cumcount()
    return steps.assign(order=order, number=steps.groupby("user")["user"].transform("size"))


def _with_clicks(steps: pd.DataFrame, items: NDArray[np.int64], account: Account) -> pd.DataFrame:
    """Where in the slate the click is: `at`, -1 for none."""
    click = steps["click"].to_numpy()
    same = items == click[:, None]
    there, asked = same.any(1), click >= UNKNOWN
    account.tables["steps"]["kept"] = len(steps)
    if outside := int((asked & ~there).sum()):
        account.tables["steps"]["clicks_outside_of_the_slate"] = outside
        account.said.append(
            f"steps: {outside:,} clicks are on an item that is not in their slate, and count as none"
        )
    at = np.where(asked & there, same.argmax(1), -1)
    return steps.assign(at=at, clicked=at >= 0).drop(columns="click").reset_index(drop=True)


def _shown(
    steps: pd.DataFrame,
    items: NDArray[np.int64],
    group: NDArray[np.int64],
    names: Mapping[int, str],
    level: str,
    account: Account,
) -> pd.DataFrame:
    """A row an item that a slate showed."""
    step, at = np.nonzero(items >= UNKNOWN)
    shown = pd.DataFrame(
        {
            "user": steps["user"].to_numpy()[step],
            "step": step,
            "surface": steps["surface"].to_numpy()[step],
            "item": items[step, at],
            "engaged": (at == steps["at"].to_numpy()[step]).astype(np.int64),
        }
    )
    account.tables["items"] = {"read": len(shown), "dropped": {}}
    shown = account.only("items", shown, shown["item"] < len(group), f"the item is not in {ITEMS}")
    shown = shown.assign(group=group[shown["item"].to_numpy()])
    shown = account.only("items", shown, shown["group"].isin([*names]), f"the category is not in {NAMES}")
    special = [number for number, name in names.items() if name in SPECIAL]
    shown = account.only("items", shown, ~shown["group"].isin(special), "an item that is not known (<UNK>)")
    account.tables["items"]["kept"] = len(shown)
    named = _named(names, level)
    found = {column: shown["group"].map(named[column]) for column in ("category", "place")}
    return shown.drop(columns="group").assign(**found).reset_index(drop=True)
