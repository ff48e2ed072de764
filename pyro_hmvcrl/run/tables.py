"""Tables that are written for others, as Parquet or CSV: the name of the file says which."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from pyro_hmvcrl.inference.writing import whole_file
from pyro_hmvcrl.run.files import RunError, check_out


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


def check_formulas(folder: Path, values: pd.Series) -> None:
    """Refuse to write a column of text that a spreadsheet would run.

    Raises
    ------
    RunError
        If a value, of this folder, is one.
    """
    runs = values.str.match(r"[=+\-@\t\r\n＝＋－＠]") & ~values.str.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?")
    if runs.any():
        raise RunError(
            f"{folder}: a spreadsheet would take {values.name} {values[runs].iloc[0]!r} for a formula; "
            "write a .parquet file instead"
        )


def check_text(table: pd.DataFrame, folder: Path) -> None:
    """:func:`check_formulas` of each column that is not numbers."""
    for name in table.columns[[not pd.api.types.is_numeric_dtype(of) for of in table.dtypes]]:
        check_formulas(folder, table[name].astype("str"))


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
        As of :func:`check_formulas`, of a CSV file.
    """
    if out.suffix == ".csv":
        check_text(table, folder)
    write_table(table, out)
