"""What the model reads of the logs: each user's covariates and counts of events, all users or a batch of them.

Counts are by category ``(B, C)``, or by period and category ``(B, T, C)``: with one period there is no past.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix
from torch import Tensor


class Logs(NamedTuple):
    """N users, or a batch of B of them: standardised covariates, and counts of events by category."""

    index: Tensor  #: (B,) positions among the n_users
    n_users: int  #: N
    exposure_covariates: Tensor  #: (B, D_P)
    preference_covariates: Tensor  #: (B, D_Q)
    search: Tensor  #: (B, C) or (B, T, C)
    exposure: Tensor  #: as `search`
    engagement: Tensor  #: engaged among the exposures
    suggested: Tensor | None = None  #: searches that the platform suggested, where they are told apart
    #: (B, M), where on the axis of T times C anything is shown.  With it the past of a period is that of these events;
    #: without it, the past is drawn period by period.
    shown_cells: Tensor | None = None

    @classmethod
    def of(cls, *per_user: ArrayLike) -> Logs:
        """All users, from arrays of covariates and counts in the order of the fields."""
        tensors = [torch.as_tensor(values, dtype=torch.float32) for values in per_user]
        tensors = [t.squeeze(1) if t.dim() == 3 else t for t in tensors]  # one period has no axis of its own
        return cls(torch.arange(len(tensors[0])), len(tensors[0]), *tensors)

    @property
    def n_periods(self) -> int:
        """T."""
        return self.search.shape[1] if self.search.dim() == 3 else 1

    def totals(self, period: int | None = None) -> dict[str, Tensor]:
        """Number of events of each user ``(B,)`` by surface, in one of the periods."""
        surfaces = {"search": self.search, "suggested": self.suggested, "exposure": self.exposure}
        counted = {name: counts.sum(-1) for name, counts in surfaces.items() if counts is not None}
        return counted if period is None else {name: n[:, period] for name, n in counted.items()}

    @property
    def by_category(self) -> Logs:
        """The same events with their periods forgotten."""
        if self.search.dim() == 2:
            return self
        events = (None if t is None else t.sum(1) for t in self[4:8])
        return Logs(*self[:4], *events)

    def given_past(self) -> Logs:
        """The same events, with the past of each period taken from them."""
        if self.n_periods == 1 or self.shown_cells is not None:
            return self
        shown = self.exposure.flatten(1)
        most = max(int((shown > 0).sum(-1).max()), 1)
        return self._replace(shown_cells=shown.topk(most, sorted=False).indices)

    def batch(self, rows: Tensor) -> Logs:
        """The users at `rows`."""
        per_user = (None if t is None else t[rows] for t in self[2:])
        return Logs(self.index[rows], self.n_users, *per_user)

    def numbered(self) -> Logs:
        """The same users, at positions from 0 on."""
        return self._replace(index=torch.arange(len(self.index), device=self.index.device))

    def batches(self, size: int) -> Iterator[Logs]:
        """All of them in order, `size` users at a time."""
        return map(self.batch, torch.arange(len(self.index), device=self.index.device).split(size))

    def only(self, rows: Tensor) -> Cohort:
        """The users at `rows`, as all that there are."""
        return Cohort(self, rows.to(self.index.device))

    def to(self, device: torch.device | str) -> Logs:
        return Logs(
            self.index.to(device), self.n_users, *(None if t is None else t.to(device) for t in self[2:])
        )


class SparseLogs(NamedTuple):
    """N users, of whose counts only those are kept that are not 0; a batch of them has all."""

    exposure_covariates: Tensor  #: (N, D_P)
    preference_covariates: Tensor  #: (N, D_Q)
    counts: Mapping[str, csr_matrix]  #: by surface, (N, T C)
    n_periods: int  #: T
    n_categories: int  #: C

    @property
    def n_users(self) -> int:
        return len(self.exposure_covariates)

    @property
    def index(self) -> Tensor:
        """(N,)."""
        return torch.arange(self.n_users, device=self.exposure_covariates.device)

    def batch(self, rows: Tensor) -> Logs:
        """The users at `rows`."""
        shape = (self.n_periods, self.n_categories) if self.n_periods > 1 else (self.n_categories,)
        counts = {
            name: torch.from_numpy(of[rows.numpy()].toarray()).view(len(rows), *shape)
            for name, of in self.counts.items()
        }
        return Logs(
            rows, self.n_users, self.exposure_covariates[rows], self.preference_covariates[rows], **counts
        )

    def batches(self, size: int) -> Iterator[Logs]:
        """All of them in order, `size` users at a time."""
        return map(self.batch, self.index.split(size))

    def all(self) -> Logs:
        """All of them at once."""
        return self.batch(self.index)

    def only(self, rows: Tensor) -> Cohort:
        """The users at `rows`, as all that there are."""
        return Cohort(self, rows)

    def to(self, device: torch.device | str) -> Logs | SparseLogs:
        """On a GPU, all of them at once."""
        return self if torch.device(device).type == "cpu" else self.all().given_past().to(device)


class Cohort(NamedTuple):
    """Some of the users, as a dataset of their own that takes no copy of their events."""

    logs: Logs | SparseLogs
    rows: Tensor  #: (N,) their positions in `logs`

    @property
    def n_users(self) -> int:
        return len(self.rows)

    @property
    def exposure_covariates(self) -> Tensor:
        """(N, D_P)."""
        return self.logs.exposure_covariates[self.rows]

    @property
    def preference_covariates(self) -> Tensor:
        """(N, D_Q)."""
        return self.logs.preference_covariates[self.rows]

    def batch(self, rows: Tensor) -> Logs:
        """Those at `rows` among them."""
        return self.logs.batch(self.rows[rows])._replace(index=rows, n_users=self.n_users)

    def batches(self, size: int) -> Iterator[Logs]:
        """All of them in order, `size` users at a time."""
        return map(self.batch, torch.arange(self.n_users, device=self.rows.device).split(size))
