"""Figures of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.path import Path
from matplotlib.ticker import LogLocator
from scipy.stats import gaussian_kde

from pyro_hmvcrl.evidence.predictive import FAR, passes
from pyro_hmvcrl.report.style import (
    HUES,
    INK,
    LEVELS,
    QUIET,
    RULE,
    SHOWN_COVARIATES,
    VERDICTS,
    Z90,
    Array,
    Mechanisms,
    by_channel,
    channel_of,
    curve_of,
    factor_columns,
    label,
    panel_grid,
    panel_rows,
    plain,
    signed,
    some_of,
    strongest,
    styled,
)
from pyro_hmvcrl.run.run import LIKELY

NO_LABELS: Mapping[str, str] = {}


@styled
def training(history: pd.DataFrame, selected: int) -> Figure:
    """Running mean of the bound (nats a user) against step: a line per restart, and the amortisation beside them.

    `history` has columns stage, restart, step, bound, held_out_bound; `selected` is the restart that was kept.
    """
    stages = history["stage"].unique()
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots(1, len(stages), squeeze=False)[0]
    for ax, stage in zip(axes, stages, strict=True):
        rows, shown = history[history["stage"] == stage], []
        for restart, run in sorted(rows.groupby("restart"), key=lambda item: item[0] == selected):
            color, width = (INK, 1.8) if restart in (selected, -1) else (QUIET, 0.9)
            window = max(1, len(run) // 40)
            smooth = run.set_index("step")["bound"].rolling(window, min_periods=1).mean()
            ax.plot(smooth.iloc[:: max(1, len(run) // 400)], color=color, lw=width)
            shown.append(smooth)
            held = run.dropna(subset="held_out_bound")
            ax.plot(held["step"], held["held_out_bound"], "o", color=color, ms=4.5, mfc="white", zorder=4)
            shown.append(held["held_out_bound"])
        # the first steps are far below and would flatten all that follows
        low, high = np.quantile(pd.concat(shown), [0.06, 1])
        ax.set(title=stage, xlabel="step", ylim=(low, high + 0.1 * (high - low)))
    axes[0].set_ylabel("bound (nats a user)")
    looks: dict[str, dict[str, Any]] = {"kept": {"lw": 1.8}, "another restart": {"color": QUIET, "lw": 0.9}}
    looks["held-out users"] = {"lw": 0, "marker": "o", "mfc": "white", "ms": 4.5}
    handles = [Line2D([], [], label=name, **{"color": INK} | look) for name, look in looks.items()]
    axes[0].legend(handles=handles, loc="lower right")
    return figure


@styled
def modulation(factors: pd.DataFrame, covariates: pd.DataFrame, mechanisms: Mechanisms) -> Figure:
    """Each factor against the covariate that moves its location most, and below it, if another, its scale most.

    `factors` has every factor's posterior mean and ``<factor>_sd``; `covariates` the same users in the same order,
    in their own units. The band is one standard deviation of the factor in a bin, posterior sd included.
    """
    rows: list[list[tuple[str, str, str] | None]] = []
    for names in panel_rows([f for f in factor_columns(factors) if mechanisms[channel_of(f)]["covariates"]]):
        moved = [(f, *(strongest(mechanisms, f, part) for part in ("location", "log_scale"))) for f in names]
        rows.append([(f, "location" if x != y else "location and scale", x) for f, x, y in moved])
        rows.append([(f, "scale", y) if x != y else None for f, x, y in moved])
    rows = [row for row in rows if any(row)]
    figure = Figure(figsize=(2.5 * max(map(len, rows)), 1.95 * len(rows)), layout="constrained")
    for (f, part, covariate), ax in panel_grid(figure, rows).items():
        _binned_panel(ax, covariates[covariate], factors[f], factors[f"{f}_sd"], HUES[channel_of(f)])
        ax.set_xlabel(label(covariate))
        ax.set_title(f"{label(f)}: {part}", color=HUES[channel_of(f)])
    return figure


def _binned_panel(ax: Axes, x: pd.Series, mean: pd.Series, sd: pd.Series, hue: str) -> None:
    discrete = x.nunique() <= 10
    bins = np.asarray(x if discrete else pd.qcut(x, 10, labels=False, duplicates="drop"))
    users = pd.DataFrame({"x": x, "mean": mean, "variance": sd**2}).groupby(bins)
    table, spread = users.mean(), np.sqrt(users["mean"].var(ddof=0) + users["variance"].mean())
    shown, jitter = some_of(x.index), some_of(np.linspace(-0.2, 0.2, len(x)), seed=1) if discrete else 0.0
    ax.scatter(x[shown] + jitter, mean[shown], s=2, color=QUIET, alpha=0.3, lw=0, rasterized=True)
    if discrete:  # nothing lies between two levels: no line
        ax.errorbar(table["x"], table["mean"], spread, color=hue, fmt="o", ms=5, lw=2.2)
        ax.set_xticks(table["x"])
    else:
        low, high = table["mean"] - spread, table["mean"] + spread
        ax.fill_between(table["x"], low, high, color=hue, alpha=0.22, lw=0)
        ax.plot(table["x"], table["mean"], color=hue, lw=2)
        ax.set_xlim(*x.quantile([0.005, 0.995]))
    ax.set_ylim(*mean.quantile([0.003, 0.997]))


@styled
def coefficients(mechanisms: Mechanisms) -> Figure:
    """Location and log-scale coefficients, per sd of the covariate, with 90% intervals; the strongest covariates."""
    channels = [c for c in HUES if len(mechanisms[c]["covariates"])]
    heights = [0.8 + 0.27 * min(len(mechanisms[c]["covariates"]), SHOWN_COVARIATES) for c in channels]
    widest = max(np.shape(mechanisms[c]["location"])[1] for c in channels)
    figure = Figure(figsize=(1.8 + 1.75 * widest, 0.6 + sum(heights)), layout="constrained")
    grid = figure.subplots(
        len(channels), widest, sharex=True, sharey="row", squeeze=False, height_ratios=heights
    )
    for channel, row in zip(channels, grid, strict=True):
        own, hue = mechanisms[channel], HUES[channel]
        strength = np.hypot(own["location"], own["log_scale"]).max(axis=1)
        shown = np.sort(np.argsort(-strength)[:SHOWN_COVARIATES])
        for k, ax in enumerate(row):
            if k >= np.shape(own["location"])[1]:
                ax.set_axis_off()
                continue
            ax.axvline(0, color=RULE, lw=1, zorder=0)
            for part, shift, marker, fill in (
                ("location", -0.17, "o", hue),
                ("log_scale", 0.17, "D", "white"),
            ):
                value, sd = (np.asarray(own[name])[shown, k] for name in (part, f"{part}_sd"))
                y = np.arange(len(shown)) + shift
                ax.errorbar(value, y, xerr=Z90 * sd, fmt=marker, color=hue, mfc=fill, ms=4, lw=1.3, zorder=3)
            ax.set_title(label(f"{channel}_{k + 1}"), color=hue)
            ax.tick_params(axis="x", labelbottom=True)
        row[0].set_yticks(range(len(shown)), [label(own["covariates"][i]) for i in shown])
        row[0].set_ylim(len(shown) - 0.5, -0.5)
    looks = {"location": {"mfc": INK, "marker": "o"}, "log scale": {"mfc": "white", "marker": "D"}}
    handles = [Line2D([], [], color=INK, ms=5, label=name, **look) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


@styled
def factor_panels(factors: pd.DataFrame, covariates: pd.DataFrame, mechanisms: Mechanisms) -> Figure:
    """On simulated data, true (``<factor>_true``) against recovered factors of these users, one panel a factor.

    A factor without known truth shows its density by thirds of its strongest covariate (darkest: the highest).
    """
    rows = panel_rows(factor_columns(factors))
    figure = Figure(figsize=(2.15 * max(map(len, rows)), 2.15 * len(rows)), layout="constrained")
    _draw_factors(figure, factors, covariates, mechanisms)
    return figure


def _draw_factors(
    parent: FigureBase, factors: pd.DataFrame, covariates: pd.DataFrame, mechanisms: Mechanisms
) -> None:
    for f, ax in panel_grid(parent, panel_rows(factor_columns(factors))).items():
        covariate, hue = strongest(mechanisms, f, "location", "log_scale"), HUES[channel_of(f)]
        if f"{f}_true" in factors:
            _recovery_panel(ax, factors[f"{f}_true"], factors[f], hue)
        else:
            _density_panel(ax, factors[f], covariates[covariate] if covariate else None, hue)
        ax.set_title(label(f), color=hue, weight="bold")


def _recovery_panel(ax: Axes, truth: pd.Series, estimate: pd.Series, hue: str) -> None:
    shown = some_of(truth.index)
    dots = np.stack([truth[shown], estimate[shown]])
    density = gaussian_kde(dots)(dots)
    order = np.argsort(density)
    fade = LinearSegmentedColormap.from_list("fade", ["#dfe5ea", hue, INK])
    reach = 1.25 * np.quantile(np.abs(dots - truth.mean()), 0.99)
    limits = truth.mean() - reach, truth.mean() + reach
    ax.plot(limits, limits, color=QUIET, lw=0.7, ls=(0, (1, 2)), zorder=0)
    look = {"cmap": fade, "vmin": 0, "vmax": 1.4 * density.max(), "lw": 0, "rasterized": True}
    ax.scatter(*dots[:, order], s=9, c=density[order], **look)
    ax.set(xlim=limits, ylim=limits, xlabel="true", aspect="equal")
    ax.set_ylabel("recovered", labelpad=1)
    ax.locator_params(nbins=5)
    r = np.corrcoef(truth, estimate)[0, 1]
    ax.text(0.05, 0.98, f"r = {r:.3f}", transform=ax.transAxes, va="top")


def _density_panel(ax: Axes, values: pd.Series, covariate: pd.Series | None, hue: str) -> None:
    levels = pd.Series(0, index=values.index)
    if covariate is not None:
        thirds = np.ceil(3 * covariate.rank(pct=True))
        levels = covariate if covariate.nunique() <= 3 else thirds
        ax.set_xlabel(f"by {label(str(covariate.name))}", labelpad=2)
    low, high = values.quantile([0.003, 0.997]).to_numpy()
    grid = np.linspace(low, high, 200)
    groups = [group for _, group in values.groupby(levels) if group.nunique() > 2]
    for depth, group in zip(np.linspace(0, 1, len(groups) + 1)[1:], groups, strict=True):
        density = gaussian_kde(group)(grid)
        ax.fill_between(grid, density, color=hue, alpha=0.08 + 0.22 * depth, lw=0)
        ax.plot(grid, density, color=hue, alpha=0.35 + 0.65 * depth, lw=0.8 + depth)
    ax.set(ylim=(0, None), yticks=[])
    ax.locator_params(axis="x", nbins=5)
    ax.spines["left"].set_visible(False)


@styled
def categories(described: Mapping[str, Any]) -> Figure:
    """What a standard deviation more of each factor does to the shares of the categories that it moves most.

    `described` is the ``factor_categories`` of report.json; bars are 90% intervals.
    """
    shown = {f: list(dict.fromkeys([*of["raised"], *of["lowered"][::-1]])) for f, of in described.items()}
    rows = panel_rows(factor_columns(described), longest=4)
    height = 0.5 + 0.19 * max(map(len, shown.values()))
    figure = Figure(figsize=(9, 0.4 + height * len(rows)), layout="constrained")
    for f, ax in panel_grid(figure, rows).items():
        change = described[f]["change"]
        times, low, high = np.exp(curve_of([change[c] for c in shown[f]], 1.0))
        ax.axvline(1, color=QUIET, lw=0.8, zorder=0)
        ax.hlines(range(len(times)), low, high, color=HUES[channel_of(f)], lw=2.6)
        ax.plot(times, range(len(times)), "|", color=HUES[channel_of(f)], ms=7, mew=1.6)
        ax.set_yticks(range(len(times)), [label(c, 18) for c in shown[f]])
        ax.set(xscale="log", ylim=(len(times) - 0.4, -0.6))
        in_words = f"\n{label(own, 30)}" if (own := described[f].get("label")) else ""
        ax.set_title(f"{label(f)}{in_words}", color=HUES[channel_of(f)], weight="bold")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(lambda x, _: plain(x))
        ax.minorticks_off()
        ax.tick_params(axis="y", length=0)
    figure.supylabel("category", size=8.5)
    figure.supxlabel("one standard deviation more of the factor multiplies the category's share by", size=8.5)
    return figure


@styled
def predictive_checks(checks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """How far the logs are from those that the model makes, a row a check, beside what passes (grey).

    Of a check of one side all that is below passes.
    """
    figure = Figure(figsize=(9, 0.9 + 0.24 * len(checks)), layout="constrained")
    ax = figure.subplots()
    reach = 1.15 * max(2 * FAR, *(abs(check["distance"]) for check in checks.values()))
    ax.axvline(0, color=QUIET, lw=0.8, zorder=1)
    for y, check in enumerate(checks.values()):
        marker, fill = LEVELS[check["level"]]
        low, high = np.clip(passes(check), -reach, reach)
        ax.barh(y, high - low, 1, low, color=RULE, alpha=0.5, lw=0, zorder=0)
        ax.hlines(y, 0, check["distance"], color=INK, lw=0.8)
        ax.plot(check["distance"], y, marker, color=INK, mfc=fill, ms=6, zorder=4)
    ax.set_yticks(range(len(checks)), [check["title"] for check in checks.values()])
    ax.set_xscale("symlog", linthresh=FAR, linscale=2)
    ticks = [x for x in (FAR, 10.0, 30.0, 100.0, 300.0, 1_000.0) if x < reach]
    ax.set_xticks([-x for x in ticks] + [0.0, *ticks], minor=False)
    ax.xaxis.set_major_formatter(lambda x, _: plain(x))
    ax.minorticks_off()
    ax.set(xlim=(-reach, reach), ylim=(len(checks) - 0.4, -0.6))
    ax.set_xlabel("observed less replicated, in standard deviations of the replications")
    ax.tick_params(axis="y", length=0)
    looks = [(VERDICTS[level], *look) for level, look in LEVELS.items()]
    handles = [Line2D([], [], color=INK, lw=0, marker=m, mfc=fill, ms=6, label=w) for w, m, fill in looks]
    handles.append(Patch(color=RULE, alpha=0.5, lw=0, label="where a check passes"))
    figure.legend(handles=handles, loc="outside upper right", ncols=4)
    return figure


@styled
def predictive_densities(densities: Mapping[str, Mapping[str, Any]], level: float) -> Figure:
    """Histograms over users: of the logs (line), and of those that the model makes (band)."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for ax, of in zip(figure.subplots(1, len(densities), squeeze=False)[0], densities.values(), strict=True):
        ax.fill_between(of["at"], of["lower"], of["upper"], step="mid", color=QUIET, alpha=0.5, lw=0)
        ax.step(of["at"], of["observed"], where="mid", color=INK, lw=1.1)
        ax.set(xlabel=of["title"], ylim=(0, None), yticks=[])
        ax.spines["left"].set_visible(False)
    figure.supylabel("density of users", size=8.5)
    handles = [Line2D([], [], color=INK, lw=1.1, label="these logs")]
    handles.append(Patch(color=QUIET, alpha=0.5, lw=0, label=f"the model's: {level:.0%} of the replications"))
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


@styled
def graph(edges: pd.DataFrame, factors: Sequence[str], labels: Mapping[str, str] = NO_LABELS) -> Figure:
    """The structural graph: platform on the left, preference on the right; an edge is its source's colour.

    `edges` has columns source, target, weight (standardised) and probability; `labels` are the factors in words.
    """
    width = 7.4 if any(labels.values()) else 6.2
    figure = Figure(figsize=(width, 0.55 + 0.95 * max(map(len, by_channel(factors)))))
    _draw_graph(figure, edges, factors, labels)
    return figure


def _draw_graph(
    parent: FigureBase,
    edges: pd.DataFrame,
    factors: Sequence[str],
    labels: Mapping[str, str],
    top: float = 0.0,
) -> None:
    """Fill `parent`, but for `top`. Units are inches: the sizes of boxes, arrow heads and labels are known."""
    width, height = parent.bbox.size / parent.get_figure(root=True).dpi
    ax = parent.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    ax.set_axis_off()
    box, centre = np.array([1.05 if any(labels.values()) else 0.62, 0.27]), {}  # half its width and height
    for own, x in zip(by_channel(factors), (box[0] + 0.15, width - box[0] - 0.15), strict=True):
        ys = height - top - (height - top - 0.35) * (np.arange(len(own)) + 0.5) / max(len(own), 1)
        centre.update({f: np.array([x, y]) for f, y in zip(own, ys, strict=True)})
    for f, (x, y) in centre.items():
        corner, shape = (x - box[0], y - box[1]), "round,pad=0,rounding_size=0.14"
        ax.add_patch(FancyBboxPatch(corner, *(2 * box), boxstyle=shape, fc=HUES[channel_of(f)], ec="none"))
        look = {"color": "white", "ha": "center", "va": "center"}
        in_words = label(labels.get(f, ""), 32)
        ax.text(x, y + (0.1 if in_words else 0), label(f), weight="bold", **look)
        if in_words:
            ax.text(x, y - 0.1, in_words, size=7.5, **look)
    curves = _curves(edges, centre, box)
    for e, curve in zip(edges.itertuples(), curves, strict=True):
        likely = e.probability >= LIKELY
        line = 0.8 + 5 * min(abs(e.weight), 1.0) if likely else 1.0
        arrow = FancyArrowPatch(
            path=Path(curve, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]),
            arrowstyle="-|>,head_length=0.5,head_width=0.3",
            mutation_scale=9 + 2.2 * line,
            color=HUES[channel_of(e.source)],
            lw=line,
            alpha=0.1 + 0.8 * e.probability if likely else 0.3,
            ls="-" if likely else (0, (4, 3)),
            zorder=2 if likely else 1,
            gid=f"{e.source}->{e.target}",
        )
        ax.add_patch(arrow)
    likely = (edges["probability"] >= LIKELY).to_numpy()
    _label_edges(ax, edges["weight"].to_numpy()[likely], curves[likely])
    note = f"width: |weight|    opacity: probability    dashed: probability below {LIKELY}"
    ax.text(width / 2, 0.16, note, size=7.5, color=QUIET, ha="center", va="center")


def _curves(edges: pd.DataFrame, centre: Mapping[str, Array], box: Array) -> Array:
    """Bézier control points (E, 4, 2). Edges leave and enter a box at ports in the order of their other ends."""
    ends = list(zip(edges["source"], edges["target"], strict=True))

    def port(f: str, other: str) -> Array:
        others = {b if a == f else a for a, b in ends if f in (a, b)}
        rank = sorted(others, key=lambda name: -centre[name][1]).index(other)
        y = 0.0 if len(others) < 2 else box[1] * 0.7 * (1 - 2 * rank / (len(others) - 1))
        return centre[f] + np.array([np.sign(centre[other][0] - centre[f][0]) * (box[0] + 0.04), y])

    start, stop = (np.array([port(*e[::way]) for e in ends]).reshape(-1, 2) for way in (1, -1))
    reach = (stop - start) * np.array([0.45, 0.0])
    return np.stack([start, start + reach, stop - reach, stop], axis=1)


def _label_edges(ax: Axes, weights: Array, curves: Array) -> None:
    """Write each weight on its curve, farthest from the other curves and, above all, from other labels."""
    t = np.linspace(0.2, 0.8, 41)[:, None, None]
    a, b, c, d = curves.transpose(1, 0, 2)
    points = (1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d  # (41, E, 2)
    size = np.array([0.5, 0.2])  # of a label: distances are counted in labels
    written: list[Array] = []
    for i in np.argsort(-np.abs(weights)):
        score = -0.1 * np.abs(t[:, 0, 0] - 0.5)
        others = np.delete(points, i, axis=1).reshape(-1, 2)
        for obstacles, weight in ((others, 1.0), (np.reshape(written, (-1, 2)), 3.0)):
            gap = (np.abs(points[:, i, None] - obstacles) / size).max(axis=2)
            score += weight * np.minimum(gap.min(axis=1, initial=1.2), 1.2)
        written.append(points[np.argmax(score), i])
        patch = {"fc": "white", "ec": "none", "pad": 1.2, "alpha": 0.9}
        ax.text(*written[-1], signed(weights[i]), size=8.5, ha="center", va="center", bbox=patch, zorder=5)


@styled
def overview(run: Mapping[str, Any]) -> Figure:
    """One wide figure: the factors (see `factor_panels`) on the left, the graph on the right.

    `run` maps factors, covariates, mechanisms and graph to what the other figures take.
    """
    rows = panel_rows(factor_columns(run["factors"]))
    labels = run.get("labels", NO_LABELS)
    left, right = 2.1 * max(map(len, rows)), 6.4 if any(labels.values()) else 5.2
    figure = Figure(figsize=(left + right, max(2.1 * len(rows), 3.6) + 0.35), layout="constrained")
    panels, beside = figure.subfigures(1, 2, width_ratios=[left, right])
    _draw_factors(panels, run["factors"], run["covariates"], run["mechanisms"])
    panels.suptitle("Factors of held-out users", weight="bold")
    _draw_graph(beside, run["graph"], factor_columns(run["factors"]), labels, top=0.3)
    beside.suptitle("Structural graph", weight="bold")
    return figure
