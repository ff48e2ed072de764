"""Beijing time and ms since epoch."""

from __future__ import annotations

import pandas as pd

from pyro_hmvcrl.kuaisar.files import KuaisarError

BEIJING = 8 * 3_600_000  #: ms that Beijing is ahead of UTC
DAY = 86_400_000  #: ms


def moment(time: str | int | None) -> int | None:
    """Beijing time as text, to ms since epoch.

    Raises
    ------
    KuaisarError
        If the text is not a time.

    Examples
    --------
    >>> moment("1970-01-01 08:00:01")
    1000
    """
    if time is None or isinstance(time, int):
        return time
    try:
        stamp = pd.Timestamp(time)
        if pd.isna(stamp):
            raise ValueError
        return int(stamp.value // 1_000_000) - BEIJING
    except (ValueError, OverflowError):
        raise KuaisarError(f"{time!r} is not a time: write it like 2023-05-22 or 2023-05-22 14:30") from None


def beijing(time: int) -> str:
    """Ms since epoch as Beijing time, to the second."""
    return str(pd.Timestamp(time + BEIJING, unit="ms").floor("s"))
