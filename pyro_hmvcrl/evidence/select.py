"""How many factors: models with other numbers of them side by side, and the choice by the one-standard-error rule.

Models are compared at the same held-out users, user by user, so that how much users differ, which is far more than
models do, drops out (paired differences).  Search sees preference only and exposure sees platform only: the two numbers
can be chosen one after the other (:func:`walk`), in about eight fits where a grid would take dozens.

The rule (Breiman et al. 1984): the smallest model that is within one standard error of the best.  A gain below `LEAST`
counts for nothing, however sure it is: a Gaussian that narrows by a fifth tells as much, and a factor of which users'
logs tell no more is no better than a bend that the others' decoders have not learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pyro_hmvcrl.data.dataset import CHANNELS, Channel

Numbers: TypeAlias = tuple[int, int]  #: of platform and of preference factors
LEAST = 0.25  #: nats a user
MOST = 12  #: factors of a channel that are tried


@dataclass(frozen=True)
class Candidate:
    """A model with so many factors, and what is known of it at the held-out users."""

    bounds: NDArray[np.float64]  #: (N_held,), of each user's log evidence, nats
    search_rest: str  #: level of this predictive check: good, care or no
    exposure_rest: str
    identified: dict[str, bool]  #: by channel, whether up to order, sign and scale of each factor
    collapsed: int  #: factors of which the logs say nothing

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, as :meth:`from_dict` takes them."""
        return asdict(self) | {"bounds": self.bounds.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Candidate:
        return cls(**{**values, "bounds": np.asarray(values["bounds"], float)})


def standard_error(of_users: NDArray[np.float64]) -> float:
    """Of a mean over users."""
    return float(of_users.std(ddof=1) / len(of_users) ** 0.5)


def gain(one: Candidate, other: Candidate) -> tuple[float, float]:
    """By how much one model's bound is above the other's: mean over the users and standard error, nats a user."""
    difference = one.bounds - other.bounds
    return float(difference.mean()), standard_error(difference)


def is_better(one: Candidate, other: Candidate) -> bool:
    """Whether a model's bound is above the other's by more than a standard error, and by more than `LEAST`."""
    mean, error = gain(one, other)
    return mean > max(error, LEAST)


def walk(
    start: Numbers, free: Sequence[Channel], candidate_of: Callable[[Numbers], Candidate]
) -> dict[Numbers, Candidate]:
    """Models on a greedy way from `start`, in the order in which `candidate_of` made them.

    Channel after channel: a factor more as long as that is better, or else a factor less as long as that is not worse.
    The way ends where no `free` channel moves any more.
    """
    found: dict[Numbers, Candidate] = {}

    def better(one: Numbers, other: Numbers) -> bool:
        for numbers in (one, other):
            if numbers not in found:
                found[numbers] = candidate_of(numbers)
        return is_better(found[one], found[other])

    def along(channel: Channel, here: Numbers) -> Numbers:
        before, own = here, CHANNELS.index(channel)
        while here[own] < MOST and better(more := _moved(here, channel, 1), here):
            here = more
        while before[own] >= here[own] > 1 and not better(here, fewer := _moved(here, channel, -1)):
            here = fewer
        return here

    here = start
    for _ in range(MOST):  # rounds; a second one that moves is rare
        before = here
        for channel in free:
            here = along(channel, here)
        if here == before:
            break
    return found


def _moved(numbers: Numbers, channel: Channel, by: int) -> Numbers:
    """So many factors more of a channel."""
    platform, preference = numbers
    return (platform + by, preference) if channel == "platform" else (platform, preference + by)


def recommended(candidates: Mapping[Numbers, Candidate]) -> Numbers:
    """The smallest model than which the best is not better; of two as small the one with the better bound."""
    best = max(candidates.values(), key=lambda c: c.bounds.mean())
    near = [numbers for numbers, c in candidates.items() if not is_better(best, c)]
    return min(near, key=lambda numbers: (sum(numbers), -candidates[numbers].bounds.mean()))


def table(candidates: Mapping[Numbers, Candidate]) -> pd.DataFrame:
    """A row a model: its held-out bound, how far it is above the recommended one's, and the checks.

    ``bound`` and ``standard_error`` are those of the mean over users, ``gain`` and ``gain_error`` of the paired
    difference from the recommended model; all in nats a user.
    """
    chosen = recommended(candidates)
    rows = []
    for numbers, candidate in sorted(candidates.items()):
        mean, error = gain(candidate, candidates[chosen])
        row: dict[str, Any] = {
            f"{channel}_factors": number for channel, number in zip(CHANNELS, numbers, strict=True)
        }
        row |= {"bound": float(candidate.bounds.mean()), "standard_error": standard_error(candidate.bounds)}
        row |= {"gain": mean, "gain_error": error}
        row |= {"search_rest": candidate.search_rest, "exposure_rest": candidate.exposure_rest}
        row |= {f"{channel}_identified": candidate.identified[channel] for channel in CHANNELS}
        rows.append(row | {"collapsed": candidate.collapsed, "recommended": numbers == chosen})
    return pd.DataFrame(rows)


def reasons(candidates: Mapping[Numbers, Candidate], free: Sequence[Channel]) -> list[str]:
    """Why the recommended model: sentences, the choice first."""
    chosen = recommended(candidates)
    platform, preference = chosen
    said = [
        f"{_number(platform, 'platform')} and {_number(preference, 'preference')}: the smallest of "
        f"{len(candidates)} models within a standard error of the best held-out bound"
    ]
    for channel in free:
        of = chosen[CHANNELS.index(channel)]
        for numbers, sign in ((_moved(chosen, channel, 1), 1), (_moved(chosen, channel, -1), -1)):
            if numbers in candidates:
                mean, error = gain(candidates[numbers], candidates[chosen])
                what = f"{_number(of + sign, channel)} instead"
                direction = "gain" if mean > 0 else "lose"
                said.append(
                    f"{what} would {direction} {abs(mean):.2f} nats a user (standard error {error:.2f})"
                )
        if of == MOST:
            said.append(f"no more than {MOST} {channel} factors were tried; give a number to have more")
    for surface, channel in (("search", "preference"), ("exposure", "platform")):
        if getattr(candidates[chosen], f"{surface}_rest") == "no":
            what = {"search": "searches", "exposure": "what is shown"}[surface]
            said.append(
                f"users differ in {what} in more ways than the {channel} factors explain: see the report's checks"
            )
    return said


def _number(n: int, channel: str) -> str:
    return f"{n} {channel} factor{'s' * (n > 1)}"
