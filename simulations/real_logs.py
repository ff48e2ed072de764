"""Two public logs of real people, read as their files are, checked, and made into datasets.

Open Bandit   Saito, Aihara, Matsutani and Narita (2021), "Open Bandit Dataset and Pipeline", arXiv:2008.07146: what a
              fashion shop showed for a week, by a uniformly random policy and by Bernoulli Thompson sampling, which
              looks at no user.  The small sample lies inside the wheel of obp 0.4.1, whose LICENSE is the Apache
              License 2.0; the page of the whole data names CC BY 4.0.  No row is kept here.
Coat          Schnabel, Swaminathan, Singh, Chandak and Joachims (2016), "Recommendations as Treatments", ICML: ratings
              from 1 to 5 of coats that users chose, and of coats that were drawn for them at random.  Terms of
              redistribution were not found: users bring the files, and no row is kept here.
"""

from __future__ import annotations

import string
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import pyro_hmvcrl as hm
from pyro_hmvcrl.data.dataset import Dataset

Integers = NDArray[np.int64]

# --- Open Bandit ---------------------------------------------------------------------------------------------

CAMPAIGNS = ("men", "women", "all")
ARMS = {"random": 0, "bts": 1}
BANDIT_ROWS = 10_000  # of each file
IN_WHEEL = "obp/dataset/obd/"
USER_FEATURES = [f"user_feature_{i}" for i in range(4)]
COLUMNS = ["timestamp", "item_id", "click", *USER_FEATURES]
CATEGORY = "item_feature_1"
LETTERS = string.ascii_lowercase
RAREST = 0.02  # share of the rows from which a level of a feature has an indicator of its own
AGAIN = "copy the sample's files whole and as they are"
BRING_BANDIT = (
    "give the wheel of obp 0.4.1 (pip download obp==0.4.1 --no-deps), or its folder obp/dataset/obd"
)


class FilesError(ValueError):
    """Files that are not those of this study: which one, what is wrong, and the mend."""


def open_bandit(source: Path, campaign: str) -> pd.DataFrame:
    """A row an item shown, of both arms.

    Its columns: ``timestamp``, ``category``, ``click``, ``arm`` (1: the bandit), the user's four features, and
    ``stratum``, the number of their combination.

    Parameters
    ----------
    source
        The wheel, or the folder of the two policies.

    Raises
    ------
    FilesError
        If a file is missing, or is not as the sample's.
    """
    if not source.exists():
        raise FilesError(f"{source}: not found; {BRING_BANDIT}")
    if source.is_file() and not zipfile.is_zipfile(source):
        raise FilesError(f"{source}: not a wheel; {BRING_BANDIT}")
    root = source if source.is_dir() else zipfile.Path(source, IN_WHEEL)
    category = _categories(root, campaign)
    rows = pd.concat([_arm(root, arm, campaign, category) for arm in ARMS], ignore_index=True)
    return rows.assign(stratum=rows.groupby(USER_FEATURES).ngroup())


def _categories(root: Path | zipfile.Path, campaign: str) -> pd.Series:
    """Of each item.  The two folders hash one category in two ways, so that one of them serves both."""
    paths = [root / arm / campaign / "item_context.csv" for arm in ARMS]
    items = [_read(path, ["item_id", "item_feature_0", CATEGORY]).set_index("item_id") for path in paths]
    first, second = (of["item_feature_0"].sort_index() for of in items)
    if not first.equals(second):
        raise FilesError(f"{paths[1]}: other items than in {paths[0]}; take both of one sample")
    return items[0][CATEGORY]


def _arm(root: Path | zipfile.Path, arm: str, campaign: str, category: pd.Series) -> pd.DataFrame:
    """The rows of one policy."""
    path = root / arm / campaign / f"{campaign}.csv"
    rows = _read(path, COLUMNS)
    if len(rows) != BANDIT_ROWS:
        raise FilesError(f"{path}: {len(rows):,} rows, and the sample has {BANDIT_ROWS:,}; {AGAIN}")
    if not rows["click"].isin([0, 1]).all():
        raise FilesError(f"{path}: click: other values than 0 and 1; {AGAIN}")
    rows["category"] = rows.pop("item_id").map(category)
    if rows["category"].isna().any():
        raise FilesError(f"{path}: item_id: items that item_context.csv does not have; {AGAIN}")
    try:
        rows["timestamp"] = pd.to_datetime(rows["timestamp"], format="ISO8601", utc=True)
    except (ValueError, TypeError) as error:
        raise FilesError(f"{path}: timestamp: {str(error).splitlines()[0]}; {AGAIN}") from error
    return rows.assign(arm=ARMS[arm])


def _read(path: Path | zipfile.Path, columns: list[str]) -> pd.DataFrame:
    """These columns, in whichever order they stand, without a gap."""
    if not path.exists():
        raise FilesError(f"{path}: not found; {BRING_BANDIT}")
    with path.open("rb") as file:
        try:
            found = pd.read_csv(file)
        except ValueError as error:  # pandas' own are of its kind
            raise FilesError(f"{path}: {error}; {AGAIN}") from error
    if missing := [column for column in columns if column not in found]:
        raise FilesError(f"{path}: no column {', '.join(missing)}; {AGAIN}")
    if (gaps := found[columns].isna().any()).any():
        raise FilesError(f"{path}: {gaps.idxmax()}: a value is missing; {AGAIN}")
    return found[columns].copy()


def bandit_dataset(rows: pd.DataFrame, seed: int) -> tuple[Dataset, NDArray[np.bool_]]:
    """The logs of one campaign, and which units are kept from a fit: the bandit's, in half of the strata.

    A unit is a stratum under an arm.  Nobody searches in these logs: a random half of the random policy's
    rows stands where searches stand, shared out between the two units of a stratum.  What it shows hangs on
    neither the arm nor the user, by design.
    """
    rng = np.random.default_rng(seed)
    rows = rows.assign(category=_letters(rows["category"]))
    of_random = np.flatnonzero(rows["arm"] == 0)
    placebo = np.zeros(len(rows), bool)
    placebo[rng.permutation(of_random)[: len(of_random) // 2]] = True
    arm = rows["arm"].mask(placebo, pd.Series(rng.integers(2, size=len(rows)), rows.index))
    unit = rows["stratum"].astype(str) + "/" + arm.astype(str)
    rows = rows.assign(arm=arm, user_id=unit)
    for feature in USER_FEATURES:
        rows[feature] = _letters(rows[feature], RAREST)
    users = rows.groupby("user_id", sort=True)[["stratum", "arm", *USER_FEATURES]].first().reset_index()
    users = users.rename(columns={"arm": "bandit"})
    events = rows[["user_id", "timestamp", "category", "click"]].rename(columns={"click": "engaged"})
    dataset = hm.from_frames(
        users,
        events.loc[placebo, ["user_id", "timestamp", "category"]],
        events[~placebo],
        exposure=["bandit"],
        preference=USER_FEATURES,
        periods=1,
        name="open bandit",
    )
    strata = np.unique(rows["stratum"])
    unseen = rng.permutation(strata)[: len(strata) // 2]
    users = dataset.users
    return dataset, (users["stratum"].isin(unseen) & (users["bandit"] == 1)).to_numpy()


def _letters(values: pd.Series, rarest: float = 0.0) -> pd.Series:
    """Hashes as letters, the most frequent first; levels of a smaller share than `rarest` are one."""
    share = values.value_counts(normalize=True, sort=False).sort_index()  # of equal ones the first by name
    share = share.sort_values(ascending=False, kind="stable")
    of = {level: LETTERS[i] if part >= rarest else "rare" for i, (level, part) in enumerate(share.items())}
    return values.map(of)


# --- Coat ----------------------------------------------------------------------------------------------------

USERS, COATS, CHOSEN, DRAWN = 290, 300, 24, 16
OF_USERS = {"gender": 2, "age": 6, "location": 3, "fashion_interest": 3}  # columns of each, one of them 1
OF_COATS = {"gender": 2, "jacket_type": 16, "colour": 13, "front_page": 2}
GENDERS = ("men", "women")
LIKED = 4  # and more
BRING_COAT = "bring Coat's own files (train.ascii, test.ascii, user_item_features/*.ascii)"


@dataclass(frozen=True)
class Coat:
    """What the files have.

    Attributes
    ----------
    chosen, drawn
        Ratings ``(290, 300)`` of the coats that a user chose and of those drawn at random; 0 where there is none.
    users, coats
        A column a feature, as the number of its level.
    """

    chosen: Integers
    drawn: Integers
    users: pd.DataFrame
    coats: pd.DataFrame

    @property
    def category(self) -> pd.Series:
        """Gender and type of each coat."""
        gender = self.coats["gender"].map(dict(enumerate(GENDERS)))
        return gender + " " + self.coats["jacket_type"].astype(str)

    @property
    def womens_share(self) -> NDArray[np.float64]:
        """Of women's coats among those drawn for each user ``(290,)``."""
        return (self.drawn > 0)[:, self.coats["gender"] == 1].sum(1) / DRAWN


def read_coat(folder: Path) -> Coat:
    """Coat's files.

    Raises
    ------
    FilesError
        If one is missing, or is not as it is known to be.
    """
    chosen, drawn = (
        _ratings(folder / name, count) for name, count in (("train.ascii", CHOSEN), ("test.ascii", DRAWN))
    )
    features = folder / "user_item_features"
    users = _features(features / "user_features.ascii", USERS, OF_USERS)
    return Coat(chosen, drawn, users, _features(features / "item_features.ascii", COATS, OF_COATS))


def _ratings(path: Path, count: int) -> Integers:
    """Ratings, so many of each user."""
    found = _matrix(path, (USERS, COATS))
    if found.min() < 0 or found.max() > 5:
        raise FilesError(f"{path}: ratings outside 0 to 5; {BRING_COAT}")
    rated = (found > 0).sum(1)
    if (other := np.flatnonzero(rated != count)).size:
        raise FilesError(
            f"{path}: row {other[0] + 1} has {rated[other[0]]} ratings, not {count}; {BRING_COAT}"
        )
    return found


def _features(path: Path, rows: int, blocks: dict[str, int]) -> pd.DataFrame:
    """The level of each feature, whose columns stand side by side."""
    found = _matrix(path, (rows, sum(blocks.values())))
    if not np.isin(found, (0, 1)).all():
        raise FilesError(f"{path}: other values than 0 and 1; {BRING_COAT}")
    levels, start = {}, 0
    for name, width in blocks.items():
        block = found[:, start : start + width]
        if (other := np.flatnonzero(block.sum(1) != 1)).size:
            raise FilesError(
                f"{path}: row {other[0] + 1} has {block[other[0]].sum()} levels of {name} in columns {start + 1} to "
                f"{start + width}, not one; put the columns in their own order, or {BRING_COAT}"
            )
        levels[name], start = block.argmax(1), start + width
    return pd.DataFrame(levels)


def _matrix(path: Path, shape: tuple[int, int]) -> Integers:
    if not path.is_file():
        raise FilesError(f"{path}: not found; {BRING_COAT}")
    try:
        found = np.loadtxt(path, dtype=int, ndmin=2)
    except ValueError as error:
        raise FilesError(f"{path}: {error}; {BRING_COAT}") from error
    if found.shape != shape:
        raise FilesError(
            f"{path}: {found.shape[0]} rows of {found.shape[1]}, not {shape[0]} of {shape[1]}; {BRING_COAT}"
        )
    return found


def coat_dataset(coat: Coat, rated: NDArray[np.bool_] | None = None) -> Dataset:
    """Coat's logs: what users chose stands where searches stand, what was drawn for them is what was shown.

    Parameters
    ----------
    rated
        Users ``(290,)`` whose drawn coats are among the logs; by default all.
    """
    users = pd.DataFrame({"user_id": range(USERS), "womens_share": coat.womens_share})
    users["gender"] = coat.users["gender"].map(dict(enumerate(GENDERS)))
    for feature in ("age", "location", "fashion_interest"):
        users[feature] = _letters(coat.users[feature], RAREST)
    category = coat.category.to_numpy()
    chooser, choice = np.nonzero(coat.chosen)
    user, coats = np.nonzero(coat.drawn if rated is None else coat.drawn * rated[:, None])
    shown = pd.DataFrame({"user_id": user, "category": category[coats]})
    return hm.from_frames(
        users,
        pd.DataFrame({"user_id": chooser, "category": category[choice]}),
        shown.assign(engaged=(coat.drawn[user, coats] >= LIKED).astype(int)),
        exposure=["womens_share"],
        preference=["gender", "age", "location", "fashion_interest"],
        periods=1,
        name="coat",
    )
