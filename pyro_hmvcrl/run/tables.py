"""Tables that are written for others, as Parquet or CSV: the name of the file says which."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pyro_hmvcrl.inference.writing import whole_file
from pyro_hmvcrl.run.files import RunError, check_out

FORMULA = r"[=+\-@\t\r\n＝＋－＠]"  #: how text begins that a spreadsheet runs
NUMBER = r"[+-]?[0-9]+(\.[0-9]+)?"


def check_table(out: Path) -> None:
    """Say before the work that no table can be written there.

    Raises
    ------
    RunError
        If the name ends in something else, or as of :func:`~pyro_hmvcrl.run.files.check_out`.
    """
    if out.suffix not in (".parquet", ".csv"):
        raise RunError(f"{out}: the name must end in .parquet or .csv")
    check_out(out)


def check_text(table: pd.DataFrame, out: Path, source: Path) -> None:
    """Refuse to write as CSV a table with text that a spreadsheet would run; `source` is where it comes from.

    Raises
    ------
    RunError
        If so.
    """
    if out.suffix != ".csv":
        return
    for name in table.columns[[not pd.api.types.is_numeric_dtype(of) for of in table.dtypes]]:
        values = table[name].astype("str")
        runs = values.str.match(FORMULA) & ~values.str.fullmatch(NUMBER)
        if runs.any():
            raise RunError(
                f"{source}: a spreadsheet would take {name} {values[runs].iloc[0]!r} for a formula; "
                "write a .parquet file instead"
            )


def write_table(table: pd.DataFrame, out: Path) -> None:
    """Write a table, whole or not at all."""
    with whole_file(out) as file:
        if out.suffix == ".parquet":
            table.to_parquet(file, index=False)
        else:
            table.to_csv(file, index=False)


def write_users(table: pd.DataFrame, out: Path, folder: Path) -> None:
    """Write a table of a folder's users and categories, whole or not at all.

    Raises
    ------
    RunError
        As of :func:`check_text`.
    """
    check_text(table, out, folder)
    write_table(table, out)
