"""FINN.no's slates as a dataset folder.

What becomes of them:

- **search event**: the category of the item that was clicked in a slate of search results.  The query is not in the
  files.  What was clicked is what the user looked for as far as the ranking put it before the user; a search without a
  click gives no event, so that users whose searches find nothing say less of themselves.
- **exposure**: each item of a recommended slate, **engaged** where it is the one that was clicked.  A slate has one
  click at most, where the story has a response to each item by itself: a click takes a little from the others.
- **times**: none, only the order of a user's steps.  There is one period, and no past within it.
- **covariates**: of the first part of each user's steps, see :mod:`~pyro_hmvcrl.data.finn.covariates`, or one's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pyro_hmvcrl.data.columns import as_codes
from pyro_hmvcrl.data.finn.covariates import EXPOSURE, PREFERENCE
from pyro_hmvcrl.data.finn.slates import USERS, Slates, read_finn
from pyro_hmvcrl.data.folder import check_new
from pyro_hmvcrl.data.frames import Account, prepare
from pyro_hmvcrl.data.importing import read_own, tables_of, write_prepared
from pyro_hmvcrl.data.names import listed, short
from pyro_hmvcrl.data.tables import DatasetError

COVARIATES_SHARE = (
    0.33  #: of a user's steps, the first; a user has 16 on average, of which 5 are recommended slates
)
TOP_CATEGORIES = 40
MEASURED = (*EXPOSURE, *PREFERENCE)
NAME = "FINN.no slates"
NO_POLICY = (
    "the files hold no setting of the platform: popularity, variety and spread are traits of what it recommended "
    "before the events, and a shift of them says what goes with such traits, not what a setting of FINN.no would do"
)


def import_finn(
    folder: str | Path,
    out: str | Path,
    users: int | None = USERS,
    level: str = "kind",
    top_categories: int | None = TOP_CATEGORIES,
    covariates_share: float = COVARIATES_SHARE,
    covariates: str | Path | None = None,
    exposure: Sequence[str] | None = None,
    preference: Sequence[str] | None = None,
) -> Account:
    """Write a dataset folder of FINN.no's files, whole or not at all, with ``import.json``, the account of it.

    Parameters
    ----------
    folder, users, level
        As in :func:`~pyro_hmvcrl.data.finn.slates.read_finn`.
    out
        Must not exist yet.
    top_categories
        All but this many of the most frequent categories become one, "other".
    covariates_share
        Covariates are measured in this first part of each user's steps, rounded up; the events are of the rest.
    covariates
        A file of one's own with a row a user: ``userId`` as in the files, and columns.  They should say what was so
        before the events, and not follow engagement.
    exposure, preference
        Columns of that file, or of those that are measured; by default all that are measured.

    Returns
    -------
    Account
        Its `said` and `tables` have all that was left out, and why.

    Raises
    ------
    DatasetError
        If something is wrong with a file or an array, or `out` exists; nothing is written then.
    """
    out = Path(out)
    check_new(out)
    if not 0 < covariates_share < 1:
        raise DatasetError(f"covariates_share is {covariates_share}: it must be between 0 and 1")
    slates = read_finn(folder, users, level)
    border = np.ceil(covariates_share * slates.steps["number"])
    early = slates.steps["order"] < border
    people = _measured(slates, early)
    if covariates is not None:
        people = _with_own(people, Path(covariates))
    exposed = [c.name for c in EXPOSURE] if exposure is None else [*exposure]
    preferred = [c.name for c in PREFERENCE] if preference is None else [*preference]
    events = _events(slates, ~early)
    found = slates.account
    there = people["user_id"].isin(pd.concat(events)["user_id"])
    people = found.only("sequences", people, there, "no event after the steps that covariates describe")
    tables = tables_of(slates.source, people, *events)
    made = prepare(tables, exposed, preferred, top_categories=top_categories, name=NAME)
    made.account.tables = found.tables | made.account.tables
    made.account.said[:0] = [*found.said, *([NO_POLICY] if exposure is None else [])]
    return write_prepared(
        made,
        out,
        source=slates.source,
        level=level,
        covariates_share=covariates_share,
        covariates={c.name: c.definition for c in MEASURED if c.name in (*exposed, *preferred)},
    )


def _measured(slates: Slates, early: pd.Series) -> pd.DataFrame:
    """The users' table: covariates of the first part of their steps."""
    steps, shown = slates.steps[early], slates.shown[early[slates.shown["step"]].to_numpy()]
    users = pd.RangeIndex(len(slates.user_id))
    columns = {c.name: c.of(steps, shown).reindex(users) for c in MEASURED}
    return pd.DataFrame({"user_id": slates.user_id, **columns})


def _events(slates: Slates, late: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Searches and recommendations, of the later steps."""
    steps, shown = slates.steps[late], slates.shown[late[slates.shown["step"]].to_numpy()]
    searches = steps[steps["surface"] == "search"]
    slates.account.tables["steps"] |= {"before_the_events": int((~late).sum())}
    slates.account.said.append(
        f"steps: the first {int((~late).sum()):,} of {len(late):,} are for covariates alone, the events are of the rest"
    )
    slates.account.said.append(
        f"searches: {int((~searches['clicked']).sum()):,} of {len(searches):,} have no click, and give no event"
    )
    shown = shown.assign(user_id=slates.user_id[shown["user"].to_numpy()])
    searched = (shown["surface"] == "search") & (shown["engaged"] == 1)
    recommended = shown["surface"] == "rec"
    return shown.loc[searched, ["user_id", "category"]], shown.loc[
        recommended, ["user_id", "category", "engaged"]
    ]


def _with_own(people: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The users' table with the columns of one's own file; users who are not in it have none."""
    table = read_own(path)
    key = next((name for name in ("userId", "user_id") if name in table.columns), None)
    if key is None:
        raise table.error("userId", f"missing; add it (there are {listed(table.columns)})")
    own = table.frame
    if clash := [name for name in own.columns if name != key and name in people]:
        raise table.error(clash[0], "also the name of a covariate that is measured here; rename it")
    codes, labels = as_codes(own[key])
    own = own.assign(**{key: [None if code < 0 else labels[code] for code in codes]})
    if (twice := own[key].duplicated().to_numpy()).any():
        row = int(twice.argmax())
        raise table.error(key, f"user {short(str(own[key].iloc[row]))} has a row already; leave one", row)
    keys = people["user_id"].astype("str")
    if not keys.isin(own[key]).any():
        raise table.error(
            key, f"none of the users that were read ({keys.iloc[0]}, ...) is in it; name them alike"
        )
    return people.join(own.set_index(key), on=keys)
