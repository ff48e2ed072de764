"""KuaiSAR's logs in memory, cleaned and joined."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pandas import DataFrame

from pyro_hmvcrl.kuaisar.clock import DAY, beijing, moment
from pyro_hmvcrl.kuaisar.files import Account, KuaisarError


@dataclass(frozen=True, eq=False)
class Kuaisar:
    """What was read, cleaned and joined.

    Attributes
    ----------
    users
        A row a user: user_id, onehot_feat1, onehot_feat2, search_active_level, rec_active_level, follows.
    categories
        Names of the categories that `category` below counts.
    deliveries
        A row an item that the feed delivered: user (position among `users`), time (ms since epoch), category,
        engaged (0/1), item, duration (s), age (days since upload), upload_type; NaN and -1 where it is not known.  And
        like, follow and forward (0/1), where the files have them: outcomes, of which no covariate is made.
    searches
        A row a clicked result: user, time, category, suggested (whether the platform suggested the query).
    queries
        A row a query: user, time, keyword, user_input (whether the user started it).
    account
        Rows read and left out.
    about
        How it was read, for ``import.json``.
    truth
        ``truth.npz`` of a generated copy.
    """

    users: DataFrame
    categories: list[str]
    deliveries: DataFrame
    searches: DataFrame
    queries: DataFrame
    account: Account
    about: dict[str, Any]
    truth: bytes | None = None

    @property
    def window(self) -> tuple[int, int]:
        """First and last moment of any event, ms since epoch."""
        frames = (self.deliveries, self.searches, self.queries)
        times = [frame["time"] for frame in frames if len(frame)]
        return min(int(t.min()) for t in times), max(int(t.max()) for t in times)

    @property
    def days(self) -> float:
        """Length of the window."""
        first, last = self.window
        return max((last - first) / DAY, 1.0)

    def between(self, since: str | int | None = None, until: str | int | None = None) -> Kuaisar:
        """The events from `since` on and before `until`: Beijing times as text, or ms since epoch.

        Raises
        ------
        KuaisarError
            If a time cannot be read, or nothing is left of a surface.
        """
        part = self._between(*(moment(t) for t in (since, until)))
        for name in ("deliveries", "searches"):
            if getattr(part, name).empty:
                stretch = " to ".join(beijing(t) for t in self.window)
                raise KuaisarError(f"no {name} between {since} and {until}: the logs run from {stretch}")
        return part

    def split(self, share: float) -> tuple[Kuaisar, Kuaisar, int | None]:
        """The first `share` of the window, the rest, and the moment (ms since epoch) between them.

        With a share of 0 both are the whole window, and there is no such moment.

        Raises
        ------
        KuaisarError
            If `share` is not from 0 to below 1, or a part has too little in it.
        """
        if not 0 <= share < 1:
            raise KuaisarError(f"covariates_share is {share}: it must be from 0 to below 1")
        if share == 0:
            return self, self, None
        first, last = self.window
        border = math.ceil(first + share * (last - first))
        before, rest = self._between(None, border), self._between(border, None)
        for part, names, where in (
            (before, ["deliveries"], "before"),
            (rest, ["deliveries", "searches"], "from"),
        ):
            for name in names:
                if getattr(part, name).empty:
                    raise KuaisarError(
                        f"{self.about['source']}: no {name} {where} {beijing(border)}, up to where covariates are "
                        f"measured (covariates_share {share:g}); give another share, or 0 to measure them in the very "
                        "window of the events"
                    )
        return before, rest, border

    def _between(self, first: int | None, end: int | None) -> Kuaisar:
        """The events of a stretch, of which there may be none."""

        def part(frame: DataFrame) -> DataFrame:
            time = frame["time"].to_numpy()
            inside = np.ones(len(time), bool) if first is None else time >= first
            return frame[inside & (time < end)] if end is not None else frame[inside]

        parts = {name: part(getattr(self, name)) for name in ("deliveries", "searches", "queries")}
        return replace(self, **parts)
