"""Figures of an answer: effects, displacement, dose, sensitivity, and published against obtained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pyro_hmvcrl.data.names import level_words
from pyro_hmvcrl.queries.checks import undoing
from pyro_hmvcrl.queries.overlap import EXTRAPOLATES
from pyro_hmvcrl.report.style import (
    ESTIMANDS,
    HUES,
    INK,
    PARTS,
    PROBABILITIES,
    QUIET,
    RULE,
    SURFACES,
    Effects,
    channel_of,
    curve_of,
    estimands_in,
    factor_columns,
    hue_of,
    label,
    labels_in,
    most_moved,
    named,
    outcome_scale,
    panel_grid,
    panel_rows,
    plain,
    signed,
    styled,
)

SHOWN_PATHS = 15  #: the strongest
SHOWN_CATEGORIES = 15  #: those that move most


@styled
def effects_forest(effects: Effects) -> Figure:
    """Effects with intervals, a panel an outcome: the estimands, then through each factor alone and each path.

    In grey under an estimand: the same of the placebo, where there is one.
    """
    outcomes, placebo = effects["outcomes"], effects.get("placebo", {}).get("outcomes", {})
    rows = _forest_rows(effects)
    figure, axes = _outcome_panels(outcomes, 0.9 + 0.22 * len(rows))
    for name, ax in axes.items():
        scale, of = outcome_scale(name), outcomes[name]
        found = {e: of[e] for e in ESTIMANDS} | of["factors"] | of["paths"]
        ax.axvline(0, color=QUIET, lw=0.8, zorder=0)
        for y, key in enumerate(rows):
            if key in placebo.get(name, {}):
                _, low, high = curve_of([placebo[name][key]], scale)
                ax.hlines(y + 0.3, low, high, color=RULE, lw=4, zorder=1)
            if key in found:
                mean, low, high = curve_of([found[key]], scale)
                ax.hlines(y, low, high, color=hue_of(key), lw=2.6, zorder=3)
                ax.plot(mean, y, "|", color=hue_of(key), ms=8, mew=1.8, zorder=4)
        ax.set(title=label(name), xlabel=_change(name), ylim=(len(rows) - 0.4, -0.6))
        ax.set_yticks(range(len(rows)), list(rows.values()))
        for text, key in zip(ax.get_yticklabels(), rows, strict=True):
            text.set_weight("normal" if key in found else "bold")
        ax.tick_params(axis="y", length=0, labelleft=ax.get_subplotspec().is_first_col())
    look = {"color": INK, "lw": 2.6, "marker": "|", "ms": 8, "mew": 1.8}
    handles = [Line2D([], [], label=f"mean and {level_words(effects['level'])} interval", **look)]
    if placebo:
        handles.append(Line2D([], [], color=RULE, lw=4, label="placebo: what nothing looks like"))
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


@styled
def effects_categories(effects: Effects) -> Figure:
    """Share of each category in what is searched and in what is shown: before (hollow) and after, with intervals."""
    shown = most_moved(effects, SHOWN_CATEGORIES)
    figure = Figure(figsize=(9, 1.1 + 0.25 * len(shown)), layout="constrained")
    hues = {"searched": HUES["preference"], "shown": HUES["platform"]}
    for ax, (surface, words) in zip(figure.subplots(1, 2, sharey=True), SURFACES.items(), strict=True):
        of = [effects["categories"][c][surface] for c in shown]
        y, hue = np.arange(len(shown)), hues[surface]
        before, low_before, high_before = curve_of([each["before"] for each in of], 100)
        after, low, high = curve_of([each["after"] for each in of], 100)
        ax.hlines(y, before, after, color=RULE, lw=5, zorder=0)
        ax.hlines(y - 0.12, low_before, high_before, color=QUIET, lw=1.2)
        ax.plot(before, y - 0.12, "o", color=QUIET, mfc="white", ms=5)
        ax.hlines(y + 0.12, low, high, color=hue, lw=1.6)
        ax.plot(after, y + 0.12, "o", color=hue, ms=5)
        ax.set(title=words, xlabel="share, percent", ylim=(len(shown) - 0.4, -0.6), xlim=(0, None))
        ax.set_yticks(y, [label(c, 30) for c in shown])
        ax.tick_params(axis="y", length=0)
    handles = [
        Line2D([], [], color=QUIET, mfc="white", marker="o", ms=5, label="before"),
        Line2D(
            [],
            [],
            color=INK,
            marker="o",
            ms=5,
            label=f"after, with {level_words(effects['level'])} intervals",
        ),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


@styled
def effects_segments(effects: Effects) -> Figure:
    """Total effect on the users of each segment, a panel an outcome, and on all users (grey)."""
    of, outcomes = effects["by_segment"]["segments"], effects["outcomes"]
    figure, axes = _outcome_panels(outcomes, 1.0 + 0.3 * len(of))
    for name, ax in axes.items():
        scale = outcome_scale(name)
        mean, low, high = curve_of([each["outcomes"][name]["TE"] for each in of.values()], scale)
        _, of_all, to_all = curve_of([outcomes[name]["TE"]], scale)
        ax.axvspan(of_all[0], to_all[0], color=RULE, alpha=0.7, lw=0, zorder=0)
        ax.axvline(0, color=QUIET, lw=0.8, zorder=0)
        ax.hlines(range(len(of)), low, high, color=INK, lw=2.6)
        ax.plot(mean, range(len(of)), "|", color=INK, ms=8, mew=1.8)
        ax.set(title=label(name), xlabel=_change(name), ylim=(len(of) - 0.4, -0.6))
        ax.set_yticks(range(len(of)), [f"{label(s)} ({each['users']:,})" for s, each in of.items()])
        ax.tick_params(axis="y", length=0, labelleft=ax.get_subplotspec().is_first_col())
    words = f"{level_words(effects['level'])} interval, of all segments together"
    handles = [Line2D([], [], color=INK, lw=2.6, marker="|", ms=8, mew=1.8, label=f"mean and {words}")]
    handles.append(Patch(color=RULE, alpha=0.7, lw=0, label="all users"))
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


@styled
def policies_plane(answers: Mapping[str, Effects]) -> Figure:
    """Total effects of several policies: engagement against alignment, with the interval of each."""
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    ax = figure.subplots()
    (x, left, right), (y, low, high) = (
        curve_of([of["outcomes"][outcome]["TE"] for of in answers.values()], 100)
        for outcome in ("engagement", "alignment")
    )
    ax.hlines(y, left, right, color=INK, lw=1.4)
    ax.vlines(x, low, high, color=INK, lw=1.4)
    ax.plot(x, y, "o", color=INK, ms=5)
    for name, at in zip(answers, zip(x, y, strict=True), strict=True):
        ax.annotate(label(name, 30), at, (5, 5), textcoords="offset points", weight="bold")
    _in_words(ax)
    return figure


@styled
def frontier_plane(table: pd.DataFrame, level: float) -> Figure:
    """Policies of a frontier: all that were tried (grey), and the best with their intervals at this level."""
    figure = Figure(figsize=(6.6, 4.8), layout="constrained")
    ax, of = figure.subplots(), 100 * table.select_dtypes("number")
    others, best = of[~table["best"]], of[table["best"]]
    told = best.dropna(subset="engagement_lower")
    ax.plot(others["engagement"], others["alignment"], "o", color=RULE, ms=4, label="tried")
    ax.plot(best["engagement"], best["alignment"], "-", color=QUIET, lw=1, zorder=1)
    ax.plot(best["engagement"], best["alignment"], "o", color=INK, ms=4, label="best: none has more of both")
    words = f"its {level_words(level)} interval"
    ax.hlines(
        told["alignment"], told["engagement_lower"], told["engagement_upper"], color=INK, lw=1.4, label=words
    )
    ax.vlines(told["engagement"], told["alignment_lower"], told["alignment_upper"], color=INK, lw=1.4)
    middle = of["engagement"].agg(["min", "max"]).mean()
    for (place, row), up in zip(told.iloc[[0, -1]].iterrows(), (5, -14), strict=True):
        side, across = ("left", 7) if row["engagement"] < middle else ("right", -7)
        look = {"textcoords": "offset points", "ha": side, "size": 8.5, "weight": "bold"}
        name = label(table.loc[place, "policy"] or "as it is", 40)
        ax.annotate(name, (row["engagement"], row["alignment"]), (across, up), **look)
    _in_words(ax)
    figure.legend(loc="outside upper right", ncols=3)
    return figure


def _in_words(ax: Axes) -> None:
    """Axes, lines and corners of a plane of engagement against alignment."""
    ax.axhline(0, color=QUIET, lw=0.8, zorder=0)
    ax.axvline(0, color=QUIET, lw=0.8, zorder=0)
    ax.margins(0.14)
    corners = {
        (0.99, 0.01): "substitution",
        (0.01, 0.99): "substitution undone",
        (0.99, 0.99): "more of both",
    }
    for (across, up), words in corners.items():
        look = {"ha": "right" if across > 0.5 else "left", "va": "top" if up > 0.5 else "bottom"}
        ax.text(across, up, words, transform=ax.transAxes, color=QUIET, size=8.5, **look)
    ax.set(xlabel=_change("engagement"), ylabel=_change("alignment"))


def _forest_rows(effects: Effects) -> dict[str, str]:
    """What is asked of an outcome, and how it is called; headings stand between."""
    rows, labels, outcome = estimands_in(effects), labels_in(effects), effects["outcomes"]["engagement"]
    paths = sorted(outcome["paths"], key=lambda path: -abs(outcome["paths"][path]["mean"]))[:SHOWN_PATHS]
    if outcome["factors"]:
        rows |= {"factors": "Through one factor alone"} | {f: named(f, labels) for f in outcome["factors"]}
    if paths:
        rows |= {"paths": "Along one path"} | {path: label(path.replace("->", "→"), 40) for path in paths}
    return rows


@styled
def effects_displacement(effects: Effects) -> Figure:
    """Histogram of every factor before (grey outline) and after (filled), with its displacement and interval."""
    densities = effects["densities"]
    rows, labels = panel_rows(factor_columns(densities)), labels_in(effects)
    height = 1.9 if any(labels.values()) else 1.75
    figure = Figure(figsize=(2.15 * max(map(len, rows)), 0.6 + height * len(rows)), layout="constrained")
    for f, ax in panel_grid(figure, rows).items():
        at, before, after = (np.array(densities[f][part]) for part in ("at", "before", "after"))
        hue, moved = HUES[channel_of(f)], effects["displacement"][f]
        ax.fill_between(at, after, step="mid", color=hue, alpha=0.45, lw=0)
        ax.step(at, before, where="mid", color=INK, lw=0.8, alpha=0.75)
        ends = f"({signed(moved['lower'])} to {signed(moved['upper'])})"
        in_words = f"\n{label(labels[f], 30)}" if labels[f] else ""
        ax.set_title(f"{label(f)}{in_words}\n{signed(moved['mean'])} sd {ends}", color=hue, size=8.5)
        # a factor set to one value is a spike that would flatten what was before: it leaves the frame
        ax.set(ylim=(0, 1.05 * max(before.max(), min(after.max(), 2 * before.max()))), yticks=[])
        ax.locator_params(axis="x", nbins=5)
        ax.spines["left"].set_visible(False)
    figure.supxlabel("value of the factor, in the model's units", size=8.5)
    handles = [Line2D([], [], color=INK, lw=0.8, label="before"), Patch(color=QUIET, label="after")]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


@styled
def effects_dose(effects: Effects) -> Figure:
    """Total effect against the size of the shift, a panel an outcome; hollow and dashed where it extrapolates."""
    dose = effects["dose_response"]
    sizes = np.array([*dose["size"], 0.0])
    order = np.argsort(sizes)
    x, outside = sizes[order], np.array([*dose["outside"], 0.0])[order]
    seen = outside <= EXTRAPOLATES
    figure, axes = _outcome_panels(effects["outcomes"], 2.9)
    for name, ax in axes.items():
        none = {"mean": 0.0, "lower": 0.0, "upper": 0.0}  # no shift, no effect
        mean, low, high = curve_of([*dose[name], none], outcome_scale(name))[:, order]
        ax.axhline(0, color=RULE, lw=1, zorder=0)
        for i in range(len(x) - 1):
            piece = slice(i, i + 2)
            alpha, dash = (0.2, "-") if seen[piece].all() else (0.07, (0, (3, 2)))
            ax.fill_between(x[piece], low[piece], high[piece], color=INK, alpha=alpha, lw=0)
            ax.plot(x[piece], mean[piece], color=INK, lw=1.4, ls=dash)
        for which, fill in ((seen, INK), (~seen, "white")):
            ax.plot(x[which], mean[which], "o", color=INK, mfc=fill, ms=4.5, zorder=4)
        ax.set(title=label(name), ylabel=_change(name).replace(", ", ",\n"))
        ax.set_xticks(x, [f"{plain(a)}\n{b:.0%}" for a, b in zip(x, outside, strict=True)])
        ax.set_xlabel("size of the shift (1: as asked)\nbelow it: share of users outside the data")
    looks = {
        "within the data": INK,
        f"extrapolates: more than {EXTRAPOLATES:.0%} of the users outside": "white",
    }
    handles = [
        Line2D([], [], color=INK, marker="o", mfc=fill, ms=4.5, ls="-" if fill == INK else "--", label=name)
        for name, fill in looks.items()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, handlelength=3.5)
    return figure


@styled
def effects_course(effects: Effects) -> Figure:
    """Total effect in each period of the window, a panel an outcome: from the short run to the long run."""
    course = effects["course"]
    return _curves(
        course["period"], {o: course[o]["TE"] for o in effects["outcomes"]}, "period of the window"
    )


@styled
def effects_reliability(effects: Effects) -> Figure:
    """Total effect by the reliability of the shifted covariates, a panel an outcome."""
    curve = effects["reliability"]
    return _curves(
        curve["reliability"], {o: curve[o] for o in effects["outcomes"]}, "reliability of what is shifted"
    )


@styled
def effects_sensitivity(effects: Effects) -> Figure:
    """NDE, NIE and TE on engagement against the correlation rho that an unmeasured cause would make."""
    curve = effects["sensitivity"]
    figure = Figure(figsize=(6.6, 3.3), layout="constrained")
    ax = figure.subplots()
    ax.axhline(0, color=QUIET, lw=0.8, zorder=0)
    for (name, hue), dash in zip(PARTS.items(), ("-", (0, (5, 2)), (0, (1, 1))), strict=True):
        mean, low, high = curve_of(curve[name], outcome_scale("engagement"))
        ax.fill_between(curve["rho"], low, high, color=hue, alpha=0.18, lw=0)
        ax.plot(curve["rho"], mean, color=hue, lw=2, ls=dash, label=ESTIMANDS[name])
    for rho in undone_at(curve):
        ax.axvline(rho, color=PARTS["NIE"], lw=0.9, ls=(0, (4, 2)), zorder=0)
        said = f"at rho = {plain(rho)}\nNIE may be nothing"
        ax.annotate(
            said, (rho, 1.02), xycoords=("data", "axes fraction"), ha="center", size=8, color=PARTS["NIE"]
        )
    ax.set_xticks(curve["rho"], [plain(rho) for rho in curve["rho"]])
    ax.set_xlabel("rho: correlation of engagement's error with the platform factors' noise")
    ax.set_ylabel(_change("engagement").replace(", ", ",\n"))
    figure.legend(loc="outside lower center", ncols=3, handlelength=3.5)
    return figure


@styled
def published(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """MCC of each channel against each reference, with what it must exceed, and the published figure.

    `rows` are the agreements of kuaisar.json.
    """
    figure = Figure(figsize=(8.2, 0.9 + 0.42 * len(rows)), layout="constrained")
    ax = figure.subplots()
    for y, row in enumerate(rows):
        hue, of = HUES[row["figure"].partition(" ")[0]], row["obtained"]
        ax.plot([row["rotation_null"]] * 2, [y - 0.32, y + 0.32], color=QUIET, lw=2.2)
        ax.plot(row["covariates_alone"], y, "x", color=INK, ms=6, mew=1.4)
        ax.plot([of["lower"], of["upper"]], [y, y], color=hue, lw=2)
        ax.plot(of["mean"], y, "o", color=hue, ms=7)
        if row["published"] is not None:
            ax.plot(row["published"], y, "D", mfc="white", mec=INK, ms=7, zorder=1)
    ax.set_yticks(range(len(rows)), [row["figure"].replace(" MCC against ", ": ") for row in rows])
    ax.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.02), xlabel="MCC, at users held out from the fit")
    looks: dict[str, dict[str, Any]] = {"obtained, 90% interval": {"marker": "o", "lw": 2, "ms": 7}}
    looks["after a random rotation"] = {"marker": "|", "lw": 0, "ms": 12, "mew": 2.2, "color": QUIET}
    looks["covariates alone"] = {"marker": "x", "lw": 0, "ms": 6}
    looks["published"] = {"marker": "D", "lw": 0, "mfc": "white", "ms": 7}
    handles = [Line2D([], [], label=name, **{"color": INK} | look) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=4)
    return figure


def undone_at(curve: Mapping[str, Any]) -> list[float]:
    """Of the correlations that undo NIE, the smallest, to either side."""
    return [rho for rho in undoing(curve) if abs(rho) == curve["first_rho_with_zero_in_NIE"]]


def _curves(x: Sequence[float], by_outcome: Mapping[str, Any], words: str) -> Figure:
    """A curve with its intervals for each outcome."""
    figure, axes = _outcome_panels(by_outcome, 2.4)
    for name, ax in axes.items():
        mean, low, high = curve_of(by_outcome[name], outcome_scale(name))
        ax.axhline(0, color=RULE, lw=1, zorder=0)
        ax.fill_between(x, low, high, color=INK, alpha=0.2, lw=0)
        ax.plot(x, mean, "o-", color=INK, lw=1.4, ms=3.5)
        ax.set(title=label(name), ylabel=_change(name).replace(", ", ",\n"), xlabel=words)
        ax.set_xticks(x if len(x) <= 14 else x[:: -(-len(x) // 14)])
    return figure


def _change(outcome: str) -> str:
    if outcome in PROBABILITIES:
        return f"change of {PROBABILITIES[outcome]}, percentage points"
    return f"change of {label(outcome)}, in its own units"


def _outcome_panels(outcomes: Mapping[str, Any], height: float) -> tuple[Figure, dict[str, Axes]]:
    """A figure with an axes for every outcome, two in a row; `height` is a row's."""
    rows = -(-len(outcomes) // 2)
    figure = Figure(figsize=(9, height * rows + 0.3), layout="constrained")
    axes = list(figure.subplots(rows, 2, squeeze=False).flat)
    for spare in axes[len(outcomes) :]:
        spare.set_axis_off()
    return figure, dict(zip(outcomes, axes, strict=False))
