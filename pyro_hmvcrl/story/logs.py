"""What the model reads of the logs: each user's covariates and counts of events, all users or a batch of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor


class Logs(NamedTuple):
    """N users, or a batch of B of them: standardised covariates, and counts of events by category."""

    index: Tensor  #: (B,) positions among the n_users
    n_users: int  #: N
    exposure_covariates: Tensor  #: (B, D_P)
    preference_covariates: Tensor  #: (B, D_Q)
    search: Tensor  #: (B, C)
    exposure: Tensor  #: (B, C)
    engagement: Tensor  #: (B, C), engaged among the exposures

    @classmethod
    def of(cls, *per_user: ArrayLike) -> Logs:
        """All users, from arrays of covariates and counts in the order of the fields."""
        tensors = [torch.as_tensor(values, dtype=torch.float32) for values in per_user]
        return cls(torch.arange(len(tensors[0])), len(tensors[0]), *tensors)

    def batch(self, rows: Tensor) -> Logs:
        """The users at `rows`."""
        per_user = (t[rows] for t in self[2:])
        return Logs(self.index[rows], self.n_users, *per_user)

    def batches(self, size: int) -> Iterator[Logs]:
        """All of them in order, `size` users at a time."""
        return map(self.batch, torch.arange(len(self.index), device=self.index.device).split(size))

    def only(self, rows: Tensor) -> Cohort:
        """The users at `rows`, as all that there are."""
        return Cohort(self, rows.to(self.index.device))

    def to(self, device: torch.device | str) -> Logs:
        return Logs(self.index.to(device), self.n_users, *(t.to(device) for t in self[2:]))


class Cohort(NamedTuple):
    """Some of the users, as a dataset of their own that takes no copy of their events."""

    logs: Logs
    rows: Tensor  #: (N,) their positions in `logs`

    @property
    def n_users(self) -> int:
        return len(self.rows)

    @property
    def exposure_covariates(self) -> Tensor:
        """(N, D_P)."""
        return self.logs.exposure_covariates[self.rows]

    def batch(self, rows: Tensor) -> Logs:
        """Those at `rows` among them."""
        return self.logs.batch(self.rows[rows])._replace(index=rows, n_users=self.n_users)

    def batches(self, size: int) -> Iterator[Logs]:
        """All of them in order, `size` users at a time."""
        return map(self.batch, torch.arange(self.n_users, device=self.rows.device).split(size))
