"""What logs have, without a model: shares of categories, engagement and alignment, with their errors over users."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_hmvcrl.evidence.predictive import Counts, user_alignment, user_rate

Array = NDArray[np.float64]
OF_CATEGORIES = {"shown": "exposure", "searched": "search"}  #: figures, and the surface of each
OF_USERS = {"engagement": user_rate, "alignment": user_alignment}  #: figures that are means over users


class Figure(NamedTuple):
    """Of each category, or one number: values ``(L,)``, and their standard errors over users."""

    value: Array
    se: Array


def figures(counts: Counts) -> dict[str, Array]:
    """By name, shares of each category ``(C,)``, and means over users ``(1,)``, where two users or more have one."""
    found = {name: _share(getattr(counts, surface)) for name, surface in OF_CATEGORIES.items()}
    of_users = {name: of(counts) for name, of in OF_USERS.items()}
    return found | {name: np.array([x.mean()]) for name, x in of_users.items() if len(x) > 1}


def observed_figures(counts: Counts) -> dict[str, Figure]:
    """The same with standard errors; a user's events hang together, so users are what is counted."""
    errors = {name: _error_of_share(getattr(counts, surface)) for name, surface in OF_CATEGORIES.items()}
    for name, of in OF_USERS.items():
        x = of(counts)
        errors[name] = np.array([x.std() / len(x) ** 0.5]) if len(x) else np.zeros(1)
    return {name: Figure(value, errors[name]) for name, value in figures(counts).items()}


def _share(events: Array) -> Array:
    return np.asarray(events.sum(0) / max(events.sum(), 1))


def _error_of_share(events: Array) -> Array:
    """Of a ratio of sums over users, by its linearisation."""
    missed = events - events.sum(1, keepdims=True) * _share(events)
    return np.asarray((missed**2).sum(0) ** 0.5 / max(events.sum(), 1))
