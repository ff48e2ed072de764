"""A checked dataset in memory, and the standardisation of its covariates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix, identity, vstack

from pyro_hmvcrl.data.columns import FINITE, as_numbers
from pyro_hmvcrl.data.periods import Periods
from pyro_hmvcrl.data.tables import Table, validate

Channel = Literal["platform", "preference"]
CHANNELS: tuple[Channel, Channel] = ("platform", "preference")


@dataclass(frozen=True, eq=False)
class Dataset:
    """A checked dataset and its counts.

    Attributes
    ----------
    name
        As in ``dataset.json``.
    users
        One row per user in the order of the file: user_id (int or str), covariates (float), extra columns.
    exposure_covariates, preference_covariates
        Covariate columns of each channel; either may be empty.
    categories
        The C categories as str, sorted (as numbers when all are integers) unless given.
    periods
        Into which the window of the events is cut.
    counts
        Events of each user in each period and category, ``(N, T C)``, where there are any: `search`, `exposure`,
        `engagement` (among those shown), and `suggested` where searches that the platform suggested are marked.
    event_tables
        What `search_events` and `recommendation_events` call for the events themselves.
    remarks
        What reading found worth saying, a sentence each: see :mod:`~pyro_hmvcrl.data.remarks`.
    covariates_until
        The covariates describe what was before this moment (ms since epoch), and events before it are not among these;
        None if the dataset does not say.
    outcomes
        As `counts`: events shown of which each further outcome holds, by its name.
    """

    name: str
    users: pd.DataFrame
    exposure_covariates: list[str]
    preference_covariates: list[str]
    categories: list[str]
    periods: Periods
    counts: Mapping[str, csr_matrix]
    event_tables: Mapping[str, Callable[[], pd.DataFrame]]
    remarks: tuple[str, ...] = ()
    covariates_until: int | None = None
    outcomes: Mapping[str, csr_matrix] = field(default_factory=dict)

    @cached_property
    def search(self) -> NDArray[np.float32]:
        """Events of each user in each category, ``(N, C)``: searched, of the user's own accord."""
        return self._by_category("search")

    @cached_property
    def exposure(self) -> NDArray[np.float32]:
        """As `search`: shown."""
        return self._by_category("exposure")

    @cached_property
    def engagement(self) -> NDArray[np.float32]:
        """As `search`: engaged with among those shown."""
        return self._by_category("engagement")

    def _by_category(self, surface: str) -> NDArray[np.float32]:
        return self.in_one_period(self.counts[surface])

    def in_one_period(self, counts: csr_matrix) -> NDArray[np.float32]:
        """Counts of all periods together, ``(N, T C)`` as ``(N, C)``."""
        categories = identity(len(self.categories), np.float32, "csr")
        all_periods = vstack([categories] * self.periods.number)
        return np.asarray((counts @ all_periods).toarray())

    @property
    def search_events(self) -> pd.DataFrame:
        """In the order of the file, with its extra columns; user_id as in `users`, category as str.

        Events are many, and no model needs more than their counts: those of a Parquet file are read from it each
        time that they are asked for.
        """
        return self.event_tables["search_events"]()

    @property
    def recommendation_events(self) -> pd.DataFrame:
        """As `search_events`, with engaged as 0 or 1."""
        return self.event_tables["recommendation_events"]()

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def user_id(self) -> NDArray[Any]:
        return self.users["user_id"].to_numpy()

    def covariates(self, channel: Channel) -> NDArray[np.float64]:
        """Covariates of a channel in their own units, ``(N, D)``."""
        names = {"platform": self.exposure_covariates, "preference": self.preference_covariates}[channel]
        return self.users[names].to_numpy(np.float64)

    def with_counts(self, **by_category: NDArray[np.floating]) -> Dataset:
        """The dataset with other events ``(N, C)`` on some surfaces; all of its events in one period.

        Further outcomes are those of the events that were, and are left out.
        """
        kept = {name: self._by_category(name) for name in self.counts if name not in by_category}
        counts = {name: csr_matrix(np.asarray(of, np.float32)) for name, of in (kept | by_category).items()}
        return replace(self, periods=replace(self.periods, number=1), counts=counts, outcomes={})

    def subset(self, rows: ArrayLike) -> Dataset:
        """The dataset of some users: distinct positions, or a boolean mask of length N."""
        chosen = np.arange(self.n_users)[np.asarray(rows)]
        users = self.users.iloc[chosen].reset_index(drop=True)

        def theirs(table: str) -> pd.DataFrame:
            events = self.event_tables[table]()
            return events[events["user_id"].isin(users["user_id"])].reset_index(drop=True)

        return replace(
            self,
            users=users,
            counts={name: counts[chosen] for name, counts in self.counts.items()},
            outcomes={name: counts[chosen] for name, counts in self.outcomes.items()},
            event_tables={table: partial(theirs, table) for table in self.event_tables},
        )

    def sample(self, most: int, seed: int) -> Dataset:
        """The dataset of at most so many users, drawn at random, in their order."""
        if self.n_users <= most:
            return self
        return self.subset(np.sort(np.random.default_rng(seed).permutation(self.n_users)[:most]))


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of each covariate of the fitted dataset, kept with the run."""

    exposure_covariates: list[str]
    preference_covariates: list[str]
    mean: dict[str, float]
    sd: dict[str, float]

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> Standardisation:
        names = [*dataset.exposure_covariates, *dataset.preference_covariates]
        mean = {name: float(dataset.users[name].mean()) for name in names}
        # Of some of the users a rare indicator may be the same for all.
        sd = {name: float(dataset.users[name].std(ddof=0)) or 1.0 for name in names}
        return cls(dataset.exposure_covariates, dataset.preference_covariates, mean, sd)

    def apply(self, dataset: Dataset) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Standardised exposure ``(N, D_P)`` and preference ``(N, D_Q)`` covariates, found by name.

        Raises
        ------
        DatasetError
            If a covariate of the fitted dataset is missing here, or is not a finite number of a like size.
        """
        table = Table(f"users of dataset {dataset.name}", dataset.users)
        validate(table, dataset.users, {name: [FINITE] for name in self.mean})
        with np.errstate(over="ignore"):
            blocks = self.standardise(dataset.users)
        far = ~np.isfinite(np.hstack(blocks)).all(0)
        if far.any():
            name = [*self.exposure_covariates, *self.preference_covariates][far.argmax()]
            raise table.error(
                name, "too far from the fitted dataset's values; is it in the same unit? Mend it"
            )
        return blocks

    def standardise(self, users: pd.DataFrame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Standardised covariates, as :meth:`apply`, of a table that has them all."""

        def block(names: list[str]) -> NDArray[np.float32]:
            columns = [(as_numbers(users[name]) - self.mean[name]) / self.sd[name] for name in names]
            return np.array(columns, np.float32).reshape(len(names), len(users)).T.copy()

        return block(self.exposure_covariates), block(self.preference_covariates)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Standardisation:
        return cls(**values)
