"""Names of factors in words: made of the categories that they raise and lower, or one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_hmvcrl.data.files import read_json
from pyro_hmvcrl.inference.writing import alone_in, whole_file
from pyro_hmvcrl.run.files import RunError, of_file

MOST = 60  #: characters of a name


def label_of(change: Mapping[str, Mapping[str, float]]) -> str:
    """A factor in words, of what it does to each category's log share; empty if it does nothing that is sure.

    Examples
    --------
    >>> surely, perhaps = {"mean": 0.4, "lower": 0.1, "upper": 0.7}, {"mean": 0.1, "lower": -0.1, "upper": 0.3}
    >>> less = {"mean": -0.4, "lower": -0.7, "upper": -0.1}
    >>> label_of({"westerns": surely, "news": perhaps, "cars": less}), label_of({"news": perhaps})
    ('westerns against cars', '')
    >>> label_of({"news": perhaps, "cars": less})
    'less cars'
    """
    change = {name[:MOST]: of for name, of in change.items()}
    raised = {name: of["mean"] for name, of in change.items() if of["lower"] > 0}
    lowered = {name: of["mean"] for name, of in change.items() if of["upper"] < 0}
    more, less = (
        max(raised, key=raised.__getitem__, default=""),
        min(lowered, key=lowered.__getitem__, default=""),
    )
    if more and less:
        return f"{more} against {less}"
    return more or (less and f"less {less}")


def labels_of(folder: str | Path) -> dict[str, str]:
    """The factors of a run folder in words; empty where there are none.

    Raises
    ------
    RunError
        If it is no run folder.
    """
    path = Path(folder) / "report.json"
    with of_file(path):
        return {name: str(of.get("label", "")) for name, of in read_json(path)["factor_categories"].items()}


def _check_apart(factor: str, labels: Mapping[str, str | None]) -> None:
    """Raise if a factor's name is that of another one."""
    name = labels[factor]
    if other := next((of for of in labels if of != factor and name in (of, labels[of])), None):
        raise RunError(f"{factor}: {name!r} is a name of {other}; give another")


def rename_factors(folder: str | Path, names: Mapping[str, str]) -> None:
    """Give factors of a run folder names of one's own, which its report then has.

    Raises
    ------
    RunError
        If it is no run folder, has no such factor, or a name is empty, too long, that of another factor, or has signs
        that cannot be printed.
    """
    path = Path(folder) / "report.json"
    with alone_in(Path(folder)):
        with of_file(path):
            report: dict[str, Any] = read_json(path)
            described = report["factor_categories"]
            factors = list(described)
        for factor, name in names.items():
            if factor not in factors:
                raise RunError(f"{folder}: no factor {factor}; choose of {', '.join(factors)}")
            if not 0 < len(name) <= MOST or not name.isprintable():
                raise RunError(
                    f"{factor}: a name must have 1 to {MOST} characters that can be printed; give another"
                )
            described[factor]["label"] = name
        for factor in names:
            _check_apart(factor, {name: of.get("label") for name, of in described.items()})
        with whole_file(path) as file:
            file.write_text(json.dumps(report, indent=2, allow_nan=False))
