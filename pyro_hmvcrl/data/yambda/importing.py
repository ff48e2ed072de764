"""Yambda's listens as a dataset folder.

What becomes of them:

- **search event**: the category of a track that the user came to without a recommendation (``is_organic``), and played
  for more than half.  It is a choice in a library, an album or a search, which the files do not tell apart; an album
  plays on by itself.
- **exposure**: a track that the service's feed or playlists began to play, **engaged** where more than half was played.
  What was recommended and never began is not in the files; who skips is shown more.
- **times**: seconds from a moment that is not told, here from 1 January 2010.  Days begin at an hour of their own.
- **categories**: clusters of audio embeddings, which have no names.
- **covariates**: of the days before the events.  None is made of shares played, nor of how many tracks the feed began
  to play, which grows with every skip.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from pyro_hmvcrl.data.folder import check_new
from pyro_hmvcrl.data.frames import Account, prepare
from pyro_hmvcrl.data.importing import differing, tables_of, write_prepared
from pyro_hmvcrl.data.periods import EARLIEST
from pyro_hmvcrl.data.yambda.listens import CATEGORIES, USERS, Listens, read_yambda

NAME = "Yambda"
HALF = 50  #: percent of a track, above which it was listened to
EXPOSURE = {
    "popularity": "mean over recommended tracks of log(times that the track was recommended to anyone)",
    "track_length": "mean over recommended tracks of log(length in seconds)",
    "new_share": "share of recommended tracks that the user had not played before in these days",
}
PREFERENCE = {
    "organic_rate": "log(1 + organic listens a day)",
    "organic_breadth": "share of pairs of organic listens that are of two categories",
    "organic_repeats": "share of organic listens whose track the user had played before in these days",
}
NO_POLICY = (
    "the files hold no setting of the platform: popularity, track_length and new_share are traits of what it "
    "recommended before the events, and a shift of them says what goes with such traits, not what a setting would do"
)


def import_yambda(
    folder: str | Path,
    out: str | Path,
    users: int = USERS,
    days: int = 14,
    covariates_days: int = 28,
    categories: int = CATEGORIES,
) -> Account:
    """Write a dataset folder of Yambda's files, whole or not at all, with ``import.json``, the account of it.

    Parameters
    ----------
    folder, users, days, covariates_days, categories
        As in :func:`~pyro_hmvcrl.data.yambda.listens.read_yambda`.
    out
        Must not exist yet.

    Returns
    -------
    Account
        Its `said` and `tables` have all that was left out, and why.

    Raises
    ------
    DatasetError
        If something is wrong with a file, or `out` exists; nothing is written then.
    """
    out = Path(out)
    check_new(out)
    read = read_yambda(folder, users, days, covariates_days, categories)
    early = read.listens["timestamp"] < read.border
    events = _events(read, read.listens[~early])
    people = _measured(read, read.listens[early], covariates_days)
    there = people["user_id"].isin(pd.concat(events)["user_id"])
    read.account.tables["uids"] = {"read": len(people), "dropped": {}}
    people = read.account.only("uids", people, there, "no event after the days that covariates describe")
    tables = tables_of(read.source, people, *events)
    made = prepare(tables, [*EXPOSURE], [*PREFERENCE], name=NAME)
    made.account.tables = read.account.tables | made.account.tables
    made.account.said[:0] = [*read.account.said, NO_POLICY]
    made = replace(made, description=made.description | {"covariates_until": _moment(read.border)})
    return write_prepared(
        made,
        out,
        source=read.source,
        days=days,
        covariates_days=covariates_days,
        covariates=EXPOSURE | PREFERENCE,
    )


def _moment(seconds: int) -> int:
    """Milliseconds, where a dataset folder takes time for one."""
    return EARLIEST + 1000 * seconds


def _events(read: Listens, late: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Organic listens, and recommended ones."""
    late = late.assign(
        user_id=late["uid"],
        timestamp=_moment(0) + 1000 * late["timestamp"],
        engaged=(late["played_ratio_pct"] > HALF).astype("int64"),
    )
    organic = late["is_organic"] == 1
    found = organic & (late["engaged"] == 1)
    read.account.said.append(
        f"searches: {int((organic & ~found).sum()):,} of {int(organic.sum()):,} organic listens are of half a track or "
        "less, and give no event"
    )
    columns = ["user_id", "timestamp", "category"]
    return late.loc[found, columns], late.loc[~organic, [*columns, "engaged"]]


def _measured(read: Listens, early: pd.DataFrame, days: int) -> pd.DataFrame:
    """The users' table: covariates of the days before the events."""
    early = early.sort_values(["uid", "timestamp"], kind="stable").rename(columns={"uid": "user"})
    early = early.assign(again=early.duplicated(["user", "item_id"]))
    fed, own = early[early["is_organic"] == 0], early[early["is_organic"] == 1]
    times = fed["item_id"].map(fed["item_id"].value_counts())
    columns = {
        "popularity": np.log(times).groupby(fed["user"]).mean(),
        "track_length": np.log(fed["track_length_seconds"]).groupby(fed["user"]).mean(),
        "new_share": 1 - fed.groupby("user")["again"].mean(),
        "organic_breadth": differing(own, ["user"], "category"),
        "organic_repeats": own.groupby("user")["again"].mean(),
    }
    users = pd.Index(np.unique(read.listens["uid"]))
    rate = np.log1p(own.groupby("user").size().reindex(users, fill_value=0) / days)
    measured = {name: of.reindex(users).to_numpy() for name, of in columns.items()}
    return pd.DataFrame({"user_id": users, "organic_rate": rate.to_numpy(), **measured})
