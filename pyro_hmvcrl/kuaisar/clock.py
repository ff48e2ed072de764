"""Beijing time and ms since epoch."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pandas as pd

from pyro_hmvcrl.data.names import short
from pyro_hmvcrl.kuaisar.files import KuaisarError

BEIJING = 8 * 3_600_000  #: ms that Beijing is ahead of UTC
DAY = 86_400_000  #: ms
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATE, _CLOCK = r"[0-9]{4}-[0-9]{2}-[0-9]{2}", r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,6})?)?"
ISO = re.compile(rf"{_DATE}(?:[T ]{_CLOCK}(?:Z|[+-][0-9]{{2}}(?::?[0-9]{{2}})?)?)?")


def moment(time: str | int | None) -> int | None:
    """A time in ISO 8601, Beijing's unless it has an offset, to ms since epoch.

    Raises
    ------
    KuaisarError
        If the text is not such a time.

    Examples
    --------
    >>> moment("1970-01-01 08:00:01"), moment("1970-01-01T00:00:01Z")
    (1000, 1000)
    """
    if time is None or isinstance(time, int):
        return time
    try:
        if not ISO.fullmatch(time):
            raise ValueError
        stamp = datetime.fromisoformat(time)
    except ValueError:
        raise KuaisarError(
            f"{short(time)} is not a time: write it like 2023-05-22, 2023-05-22 14:30 (Beijing's) or "
            "2023-05-22T14:30+08:00"
        ) from None
    if stamp.tzinfo is None:
        stamp = stamp.replace(tzinfo=timezone(timedelta(milliseconds=BEIJING)))
    return (stamp - EPOCH) // timedelta(milliseconds=1)


def beijing(time: int) -> str:
    """Ms since epoch as Beijing time, to the second."""
    return str(pd.Timestamp(time + BEIJING, unit="ms").floor("s"))
