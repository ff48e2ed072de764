"""A back-test to look at: what was predicted against what came, as a table, a figure and words."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyro_hmvcrl.data.names import level_words
from pyro_hmvcrl.evidence.observed import OF_CATEGORIES
from pyro_hmvcrl.report.style import HUES, INK, INTERVAL, QUIET, RULE, curve_of, label, styled

SHOWN = 15  #: categories of a panel, those that moved most
TITLES = {"shown": "what is shown", "searched": "what is searched", "outcomes": "engagement and alignment"}


class Validation:
    """What a run said of logs after a change, against what came.

    Parameters
    ----------
    found
        What :func:`~pyro_hmvcrl.queries.validation.validate` gave.
    """

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    @property
    def sentences(self) -> list[str]:
        """What is found, in words, the headline first."""
        return list(self.found["sentences"])

    def to_dict(self) -> dict[str, Any]:
        """What is written as JSON."""
        return self.found

    def to_frame(self) -> pd.DataFrame:
        """A row for each figure and category or outcome: before, predicted with its interval, observed, and inside."""
        return validation_table(self.found)

    def plot(self) -> Figure:
        """Before, predicted and observed, those that moved most."""
        return validation_figure(self.found)

    def __repr__(self) -> str:
        return "\n  ".join(self.sentences)

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.sentences)
        return f"<ul>{said}</ul>{self.to_frame().to_html(border=0)}"


def validation_table(found: dict[str, Any]) -> pd.DataFrame:
    """A back-test as a table."""
    rows = {
        (name, key): {"before": of["before"]}
        | {("predicted" if part == "mean" else part): of["predicted"][part] for part in INTERVAL}
        | {"observed": of["observed"], "inside": of["inside"]}
        for name in TITLES
        for key, of in found[name].items()
    }
    frame = pd.DataFrame.from_dict(rows, "index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["figure", "of"])
    return frame


def validation_text(found: dict[str, Any]) -> str:
    """A back-test as a terminal shows it."""
    rows = {}
    for name in TITLES:
        for key in _most_moved(found, name):
            of, (mean, lower, upper) = found[name][key], curve_of([found[name][key]["predicted"]], 100)[:, 0]
            rows[f"{name} {label(key)}" if name in OF_CATEGORIES else label(key)] = [
                f"{100 * of['before']:.2f}",
                f"{mean:.2f} ({lower:.2f} to {upper:.2f})",
                f"{100 * of['observed']:.2f}",
                "yes" if of["inside"] else "no",
            ]
    columns = ["before", "predicted", "observed", "inside"]
    return "\n".join(
        [
            found["sentences"][0] + " " + found["sentences"][1],
            f"\nPercent, {level_words(found['level'])} intervals ({found['kind']}; {found['users']:,} users)",
            pd.DataFrame.from_dict(rows, "index", columns=columns).to_string(),
            "",
            *(f"- {sentence}" for sentence in found["sentences"][2:]),
        ]
    )


@styled
def validation_figure(found: dict[str, Any]) -> Figure:
    """Before (hollow), predicted with interval, and observed (cross), a panel a figure."""
    chosen = {name: _most_moved(found, name) for name in TITLES}
    hues = {"shown": HUES["platform"], "searched": HUES["preference"], "outcomes": INK}
    longest = max(map(len, chosen.values()))
    figure = Figure(figsize=(11, 1.2 + 0.25 * longest), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=[3, 3, 2])
    for ax, (name, keys) in zip(panels, chosen.items(), strict=True):
        of, y = [found[name][key] for key in keys], np.arange(len(keys))
        before, observed = (100 * np.array([each[part] for each in of]) for part in ("before", "observed"))
        mean, low, high = curve_of([each["predicted"] for each in of], 100)
        ax.hlines(y, before, mean, color=RULE, lw=5, zorder=0)
        ax.plot(before, y, "o", color=QUIET, mfc="white", ms=5)
        ax.hlines(y, low, high, color=hues[name], lw=2.2)
        ax.plot(mean, y, "|", color=hues[name], ms=9, mew=1.8)
        ax.plot(observed, y, "x", color=INK, ms=6, mew=1.4, zorder=4)
        ax.set(title=TITLES[name], xlabel="percent", ylim=(longest - 0.4, -0.6), xlim=(0, None))
        ax.set_yticks(y, [label(key, 24) for key in keys])
        ax.tick_params(axis="y", length=0)
    handles = [
        Line2D([], [], color=QUIET, mfc="white", marker="o", ms=5, lw=0, label="before"),
        Line2D(
            [], [], color=INK, lw=2.2, marker="|", label=f"predicted, {level_words(found['level'])} interval"
        ),
        Line2D([], [], color=INK, marker="x", lw=0, label="observed"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3)
    return figure


def _most_moved(found: dict[str, Any], name: str) -> list[str]:
    """Of a figure the numbers that are farthest from before, as observed or as predicted."""
    of = found[name]
    size = {
        key: max(abs(of[key]["change"]["observed"]), abs(of[key]["change"]["predicted"]["mean"]))
        for key in of
    }
    return sorted(size, key=lambda key: -size[key])[:SHOWN]
