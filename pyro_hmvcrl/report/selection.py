"""How many factors, as it is shown: models with other numbers of them side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pyro_hmvcrl.data.dataset import CHANNELS
from pyro_hmvcrl.data.files import whole_folder
from pyro_hmvcrl.evidence.select import LEAST
from pyro_hmvcrl.report.style import HUES, INK, LEVELS, QUIET, RULE, VERDICTS, plain, styled, to_bytes
from pyro_hmvcrl.run.files import check_new_folder

Found = Mapping[str, Any]  #: what :meth:`~pyro_hmvcrl.run.selecting.Selection.to_dict` gives
CHECK_OF = {"platform": "exposure_rest", "preference": "search_rest"}


@styled
def selection(found: Found) -> Figure:
    """Held-out bound against the number of factors, a panel a channel that had a number to be chosen.

    Dots are gains over the recommended model with a standard error (paired by user); their marker is the level of the
    predictive check of that channel's number of factors.
    """
    figure = Figure(figsize=(4.4 * len(found["channels"]), 3.1), layout="constrained")
    axes = figure.subplots(1, len(found["channels"]), squeeze=False, sharey=True)[0]
    for ax, channel in zip(axes, found["channels"], strict=True):
        _panel(ax, found, channel)
    axes[0].set_ylabel("gain over the recommended model\n(nats a held-out user)")
    shown = [
        level
        for level in LEVELS
        if any(m[check] == level for m in found["models"] for check in CHECK_OF.values())
    ]
    handles = [
        Line2D([], [], label=f"check of the number {VERDICTS[level]}", **_look(level)) for level in shown
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(shown))
    return figure


def _panel(ax: Axes, found: Found, channel: str) -> None:
    """Models with the recommended number of the other channel's factors."""
    other = next(c for c in CHANNELS if c != channel)
    models = [m for m in found["models"] if m[f"{other}_factors"] == found[f"{other}_factors"]]
    numbers, gains = ([m[key] for m in models] for key in (f"{channel}_factors", "gain"))
    ax.axhline(0, color=RULE, lw=0.8)
    ax.axvline(found[f"{channel}_factors"], color=RULE, lw=6, zorder=0)
    ax.plot(numbers, gains, color=QUIET, lw=0.9)
    ax.errorbar(numbers, gains, [m["gain_error"] for m in models], color=HUES[channel], fmt="none", lw=1.6)
    for number, value, model in zip(numbers, gains, models, strict=True):
        ax.plot(number, value, **_look(model[CHECK_OF[channel]]))
    ax.set_yscale(
        "symlog", linthresh=2 * LEAST
    )  # what a missing factor costs would hide what one too many does
    ax.yaxis.set_major_formatter(lambda value, _: plain(value))
    ax.set_xticks(sorted(set(numbers)))
    ax.margins(x=0.15)
    ax.set(xlabel=f"{channel} factors", title=f"{channel}, with {found[f'{other}_factors']} of {other}")


def _look(level: str) -> dict[str, Any]:
    """Of a dot, by the level of its check."""
    marker, fill = LEVELS[level]
    return {"marker": marker, "ls": "", "mec": INK, "mfc": fill, "ms": 6, "zorder": 4}


def selection_alt(found: Found) -> str:
    """The figure in words."""
    return f"Held-out bound of models with other numbers of factors, by channel. {'. '.join(found['sentences'])}."


def write_selection(found: Found, folder: Path) -> None:
    """Write the table (``selection.csv``), the figure (PNG, SVG) and all of it (``selection.json``) into a new folder.

    Raises
    ------
    RunError
        If the folder exists, or cannot be made.
    """
    check_new_folder(folder)
    figure = selection(found)
    with whole_folder(folder) as new:
        (new / "selection.json").write_text(json.dumps(found, indent=2))
        pd.DataFrame(found["models"]).to_csv(new / "selection.csv", index=False)
        for kind in ("png", "svg"):
            (new / f"selection.{kind}").write_bytes(to_bytes(figure, kind))


def selection_text(found: Found) -> str:
    """Models as a table, and why the recommended one."""
    rows = [
        {
            "factors": f"{m['platform_factors']} + {m['preference_factors']}",
            "held-out bound": f"{m['bound']:.2f} ({m['standard_error']:.2f})",
            "gain, paired": f"{m['gain']:+.2f} ({m['gain_error']:.2f})",
            "searches": VERDICTS[m["search_rest"]],
            "what is shown": VERDICTS[m["exposure_rest"]],
            "identified": ", ".join(c for c in CHANNELS if m[f"{c}_identified"]) or "neither",
            "collapsed": m["collapsed"],
            "": "recommended" if m["recommended"] else "",
        }
        for m in found["models"]
    ]
    return "\n".join(
        [
            "Platform + preference factors: bound in nats a held-out user (standard error), checks, identification",
            pd.DataFrame(rows).to_string(index=False),
            *(f"- {sentence}" for sentence in found["sentences"]),
        ]
    )
