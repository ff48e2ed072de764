"""The oddities of the real files, planted and counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from pyro_hmvcrl.kuaisar.copy.population import CATEGORIES, Ints, Mask, Rows

QUIRK_RATES = {  # share of rows, sessions or items
    "rec_rows_duplicated": 0.002,
    "rec_rows_negative_duration": 0.001,
    "rec_rows_unknown_user": 0.001,
    "src_rows_duplicated": 0.002,
    "src_rows_conflicting": 0.004,  # of the clicked ones
    "src_rows_unknown_user": 0.001,
    "src_session_ids_recurring": 0.005,
    "src_keywords_broken": 0.002,
    "items_missing": 0.01,
    "items_padding_category": 0.005,
    "items_padding_author": 0.003,
    "items_padding_upload": 0.003,
    "items_caption_large": 1e-5,
}
QUIRKS = (*QUIRK_RATES, "rec_rows_item_missing", "src_rows_item_missing")


@dataclass(frozen=True)
class Tally:
    """What the files hold: events with a category ``(N, C)``, and the quirks that were planted."""

    search: Ints  # clicked, in sessions that the user typed
    exposure: Ints
    engagement: Ints
    quirks: Counter[str]

    @classmethod
    def empty(cls, users: int) -> Tally:
        search, exposure, engagement = np.zeros((3, users, len(CATEGORIES)), np.int64)
        return cls(search, exposure, engagement, Counter())


@dataclass(frozen=True)
class Planter:
    """Chooses where quirks go, and counts them.  `whole`: at least one of each kind."""

    rng: np.random.Generator
    tally: Counter[str]
    on: bool
    whole: bool

    def choose(self, quirk: str, among: int | Ints) -> Ints:
        """Distinct positions, in order, at the quirk's rate."""
        candidates = np.arange(among) if isinstance(among, int) else among
        if not self.on or not len(candidates):
            return np.zeros(0, np.int64)
        number = max(self.rng.binomial(len(candidates), QUIRK_RATES[quirk]), int(self.whole))
        self.tally[quirk] += number
        return np.sort(self.rng.choice(candidates, number, replace=False, shuffle=False))


def count_events(counts: Ints, rows: Rows, counted: Mask) -> None:
    """Add the rows that are `counted` to the counts ``(N, C)`` of their user and category."""
    cell = rows["user"][counted] * counts.shape[1] + rows["category"][counted]
    counts += np.bincount(cell, minlength=counts.size).reshape(counts.shape)


def unknown_users(rows: Rows, users: int) -> Ints:
    """Ids of a few users who have no features, in place of those who have."""
    return np.asarray(users + 1 + rows["user_id"] % (users // 50 + 1))
