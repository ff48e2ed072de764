"""Covariates of KuaiSAR's users: what the platform did, and who the user is.

**Exposure covariates** say what the platform did before any response; **preference covariates** describe the user apart
from what the platform showed.  Nothing comes from feedback (playing time, click, like, ...): a covariate that follows
engagement would explain it away.  Nor from the events that the model is fitted on: what is measured in the logs is
measured **before** them, in the first `COVARIATES_SHARE` of the window.  A covariate that is made of the very
deliveries goes with what was shown by its making, with no policy in the world, and would be taken for one.  A
:class:`Covariate` has its definition and the reason for its block; another list
of them, given to :func:`write_kuaisar`, replaces these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame

from pyro_hmvcrl.kuaisar.clock import BEIJING, DAY
from pyro_hmvcrl.kuaisar.logs import Kuaisar

Array = NDArray[np.float64]
COVARIATES_SHARE = 0.25  #: of the window, its first part: there covariates are measured
RARE = 0.01  #: a level that fewer users have gets no indicator


@dataclass(frozen=True)
class Covariate:
    """One number a user.

    `of` gives it, ``(users,)``, of the logs of the time that covariates describe, NaN where a user has none; `why` says
    why it sits in its block.
    """

    name: str
    definition: str
    why: str
    of: Callable[[Kuaisar], Array]


def _mean(frame: DataFrame, values: Array, n_users: int) -> Array:
    """Mean over each user's rows where there is a value."""
    known = np.isfinite(values)
    user = frame["user"].to_numpy()[known]
    total = np.bincount(user, values[known], minlength=n_users)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / np.bincount(user, minlength=n_users))


def _number(frame: DataFrame, columns: Sequence[Array], n_users: int) -> Array:
    """Number of distinct combinations of `columns` among each user's rows."""
    distinct = DataFrame({"user": frame["user"].to_numpy()} | dict(enumerate(columns))).drop_duplicates()
    return np.bincount(distinct["user"], minlength=n_users).astype(float)


def _log(values: Array) -> Array:
    """Logarithm, NaN where there is nothing to take it of."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, np.log(values), np.nan)


def _popularity(k: Kuaisar) -> Array:
    item = k.deliveries["item"].to_numpy()
    return _mean(k.deliveries, np.log(np.bincount(item)[item]), len(k.users))


def _duration(k: Kuaisar) -> Array:
    return _mean(k.deliveries, _log(k.deliveries["duration"].to_numpy(float)), len(k.users))


def _age(k: Kuaisar) -> Array:
    return _mean(k.deliveries, np.log1p(k.deliveries["age"].to_numpy(float)), len(k.users))


def _n_batches(k: Kuaisar) -> Array:
    return _number(k.deliveries, [k.deliveries["time"].to_numpy()], len(k.users))


def _batch_size(k: Kuaisar) -> Array:
    rows = np.bincount(k.deliveries["user"], minlength=len(k.users))
    return _log(rows / np.maximum(_n_batches(k), 1))


def _cadence(k: Kuaisar) -> Array:
    days = _number(k.deliveries, [(k.deliveries["time"].to_numpy() + BEIJING) // DAY], len(k.users))
    return _log(_n_batches(k) / np.maximum(days, 1))


def _night_share(k: Kuaisar) -> Array:
    hour = (k.deliveries["time"].to_numpy() + BEIJING) // 3_600_000 % 24
    return _mean(k.deliveries, (hour < 6).astype(float), len(k.users))


def _unusual_uploads(k: Kuaisar) -> Array:
    upload_type = k.deliveries["upload_type"].to_numpy()
    known = upload_type >= 0
    commonest = np.bincount(upload_type[known]).argmax() if known.any() else 0
    return _mean(k.deliveries, np.where(known, upload_type != commonest, np.nan), len(k.users))


EXPOSURE = (
    Covariate(
        "popularity",
        "mean over delivered items of log(number of deliveries of the item to anyone)",
        "how much of the head of the catalogue the ranking shows; deliveries, not responses, are counted",
        _popularity,
    ),
    Covariate(
        "duration",
        "mean over delivered items of log(duration in seconds)",
        "a property of what is shown, fixed before it is played",
        _duration,
    ),
    Covariate(
        "age",
        "mean over delivered items of log(1 + days from upload to delivery)",
        "how fresh the ranking's supply is",
        _age,
    ),
    Covariate(
        "unusual_uploads",
        "share of delivered items that are not of the commonest upload type",
        "the types of what is shown",
        _unusual_uploads,
    ),
    Covariate(
        "batch_size",
        "log(items / batches); a batch is what one user is delivered at one moment",
        "the feed's setting: how many items it sends at a time",
        _batch_size,
    ),
    Covariate(
        "cadence",
        "log(batches per day on which the user was delivered anything)",
        "how often the feed is filled",
        _cadence,
    ),
    Covariate(
        "night_share",
        "share of deliveries between 0 and 6 o'clock in Beijing",
        "when the platform delivers",
        _night_share,
    ),
    Covariate(
        "feed_activity",
        "rec_active_level, 0 to 3",
        "the platform's own class of the user's activity on the feed, from before the window",
        lambda k: k.users["rec_active_level"].to_numpy(float),
    ),
)


def _query_rate(k: Kuaisar) -> Array:
    own = k.queries[k.queries["user_input"].to_numpy()]
    return np.log1p(np.bincount(own["user"], minlength=len(k.users)) / k.days)


def _query_breadth(k: Kuaisar) -> Array:
    own = k.queries[k.queries["user_input"].to_numpy()]
    queries = np.bincount(own["user"], minlength=len(k.users))
    return _log(_number(own, [own["keyword"].to_numpy()], len(k.users)) / np.maximum(queries, 1))


def preference_covariates(k: Kuaisar) -> list[Covariate]:
    """The default block; an indicator for each level of the encrypted features that 1% of the users have."""
    found = [
        Covariate(
            "query_rate",
            "log(1 + queries a day that the user typed in)",
            "how much the user looks for anything, of which the platform suggests nothing",
            _query_rate,
        ),
        Covariate(
            "query_breadth",
            "log(distinct queries / queries), of those that the user typed in",
            "how broad the user's own interests are",
            _query_breadth,
        ),
        Covariate(
            "search_activity",
            "search_active_level, 0 to 6",
            "the user's activity on search, from before the window",
            lambda k: k.users["search_active_level"].to_numpy(float),
        ),
        Covariate(
            "follows",
            "log(1 + number of users followed)",
            "ties that the user chose",
            lambda k: np.log1p(k.users["follows"].to_numpy(float)),
        ),
    ]
    return found + _indicators(k, "onehot_feat1") + _indicators(k, "onehot_feat2")


def _indicators(k: Kuaisar, column: str) -> list[Covariate]:
    """One for each level but the commonest."""

    def indicator(level: str) -> Covariate:
        return Covariate(
            f"{column.removeprefix('onehot_')}_is_{level}",
            f"1 where {column} is {level}; the commonest level is {share.index[0]}",
            "an encrypted attribute of the user",
            lambda k: (k.users[column] == level).to_numpy(float),
        )

    share = k.users[column].value_counts(normalize=True)
    return [indicator(level) for level in sorted(share.index[1:][share.to_numpy()[1:] >= RARE])]
