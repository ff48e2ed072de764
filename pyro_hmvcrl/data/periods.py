"""The window of the logs, cut into periods: what came before a period is its past.

A platform that learns overnight is seen best in periods of a day.  So a window of `FEWEST_DAYS` to `MOST_DAYS` days is
cut into its days (in UTC); a longer one into equal spans of whole days, a shorter one into `FEWEST_DAYS` equal parts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

DAY = 86_400_000  #: ms
FEWEST_DAYS, MOST_DAYS = 4, 14
MOST_PERIODS = 1_000
EARLIEST = 1_262_304_000_000  #: ms since epoch: 2010, before which hardly any logs are
COARSE = 1_000_000  #: ms; times that are all multiples of it have been rounded
UNITS = {
    "seconds": (1_000, 1),
    "microseconds": (1, 1_000),
    "nanoseconds": (1, 1_000_000),
}  #: to ms: times, by


def latest() -> int:
    """The end of next year, ms since epoch: later logs are not."""
    return int(np.datetime64(f"{datetime.now(UTC).year + 2}-01-01", "ms").astype(np.int64))


def likely_unit(time: int) -> tuple[str, str] | None:
    """The unit that a moment which no logs of today have seems to be in, if any, and what makes milliseconds of it."""
    for unit, (times, by) in UNITS.items():
        if EARLIEST <= time * times // by < latest():
            return unit, f"multiply by {times:,}" if times > 1 else f"divide by {by:,}"
    return None


def date_of(time: int) -> str:
    """The day of a moment in ms since epoch, in UTC."""
    return str(np.datetime64(time, "ms")).partition("T")[0]


def moment_of(time: int) -> str:
    """A moment in ms since epoch in ISO 8601, in UTC: to the day where it is a midnight, else to the second or ms.

    Examples
    --------
    >>> moment_of(19_500 * DAY), moment_of(19_500 * DAY + 3_600_000)
    ('2023-05-23', '2023-05-23T01:00:00Z')
    """
    if time % DAY == 0:
        return date_of(time)
    unit = "s" if time % 1_000 == 0 else "ms"
    return f"{np.datetime64(time, 'ms').astype(f'datetime64[{unit}]')}Z"


@dataclass(frozen=True)
class Periods:
    """T periods of equal length, one after the other."""

    start: int  #: ms since epoch
    length: int  #: ms
    number: int  #: T

    @classmethod
    def cut(cls, first: int, last: int, number: int | None = None) -> Periods:
        """Cut a window from its first to its last moment, both in ms: into `number` equal parts, or as days have it.

        Raises
        ------
        ValueError
            If `number` is not from 1 to `MOST_PERIODS`.

        Examples
        --------
        >>> Periods.cut(0, 10 * DAY - 1).number, Periods.cut(0, 20 * DAY - 1).number
        (10, 10)
        >>> Periods.cut(5, 5)
        Periods(start=5, length=1, number=1)
        """
        if number is not None and not 1 <= number <= MOST_PERIODS:
            raise ValueError(f"periods is {number}: it must be from 1 to {MOST_PERIODS}")
        days = last // DAY - first // DAY + 1
        if first == last:
            number = 1
        elif days >= FEWEST_DAYS and number in (None, days):
            whole_days = -(-days // MOST_DAYS) if number is None else 1
            return cls(first // DAY * DAY, whole_days * DAY, -(-days // whole_days))
        number = number or FEWEST_DAYS
        return cls(first, -(-(last - first + 1) // number), number)

    def at(self, time: NDArray[np.int64]) -> NDArray[np.int64]:
        """Period of each moment, from 0; moments outside the window are of its first or last period."""
        return np.clip((time - self.start) // self.length, 0, self.number - 1)

    def like(self, first: int, last: int) -> Periods:
        """Periods of this length for another window: from its first moment's period on."""
        start = self.start + (first - self.start) // self.length * self.length
        return Periods(start, self.length, min((last - start) // self.length + 1, MOST_PERIODS))

    def __str__(self) -> str:
        if self.number == 1:
            return "one period"
        days, hours = self.length / DAY, self.length / (DAY / 24)
        unit, length = ("day", days) if days >= 1 else ("hour", hours)
        return f"{self.number} periods of {length:.3g} {unit}{'s' * (f'{length:.3g}' != '1')}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
