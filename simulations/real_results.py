"""What the study of real logs says: its tables, and its figure."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.stats import norm

from real_logs import CAMPAIGNS
from study import account, legend, table

POWER = norm.ppf(0.975) + norm.ppf(0.8)  # standard errors that are found in 8 of 10 cases, at 5%
MAKE_UP = "a tenth more of women's coats"
COLOURS = dict(zip([*CAMPAIGNS, "coat"], ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=True))
SHARE = "share of a category, points"  # of many rows that are told together


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Tables by log, and the figure."""
    results = tables["results"]
    parts = ["# Real logs whose answers are known by design", "", account(tables)]
    bandit, coat = (results[results["log"] == log] for log in ("open bandit", "coat"))
    if len(bandit):
        parts += [
            "",
            "## Open Bandit: what the bandit shows in strata that the fit has seen under the random arm alone",
            "",
            "Mean absolute errors of the shares of categories, in percentage points: ours, of the bandit's shares in "
            "the other strata (plain), and of no change (nothing); `chance` is that of the held-out rows alone. "
            "`held`: how many of our 90% intervals hold what came.",
            "",
            table(shares(bandit)),
            "",
            "## Open Bandit: outcomes there",
            "",
            "In percentage points, means over the splits; ± is a standard error over units. Clicks are too few to "
            "judge engagement.",
            "",
            table(outcomes(bandit)),
        ]
    if len(coat):
        parts += [
            "",
            "## Coat: coats rated 4 or 5, in percentage points, after a tenth more of women's coats",
            "",
            "`least` is the effect that these users show in 8 of 10 cases: by the contrast within users, and by the "
            "slope over users.",
            "",
            table(make_up_table(coat)),
            "",
            "## Coat: NDCG@5 of the drawn coats",
            "",
            "± is a standard error over users, of a start; the ends are over starts.",
            "",
            table(ranking_table(coat)),
        ]
    parts += [
        "",
        "## Where the design knows that nothing moves, and nothing leaks",
        "",
        "Means over seeds, in size where the sign is free; `known` of R² is the mean of shuffled users, with the 95% "
        "point. `grade` is the report's own, of the answer.",
        "",
        table(none(results)),
    ]
    (out / "summary.md").write_text("\n".join(parts) + "\n")
    _draw(results).savefig(out / "real.png", dpi=150)


def shares(bandit: pd.DataFrame) -> pd.DataFrame:
    """A row a campaign: errors of ours, of the plain estimate, of no change, and those by chance."""
    rows = []
    for campaign, g in bandit[bandit["question"] == "shown"].groupby("campaign", sort=False):
        missed = {name: 100 * (g[name] - g["known"]).abs() for name in ("ours", "plain", "nothing")}
        rows.append(
            {
                "campaign": campaign,
                "splits": g["seed"].nunique(),
                "categories": g["of"].nunique(),
                "rows a split": f"{g['n'].mean():.0f}",
                **{name: float(of.mean()) for name, of in missed.items()},
                "chance": float(100 * (2 / np.pi) ** 0.5 * g["known_se"].mean()),
                "held": f"{g['holds'].sum():.0f} of {len(g)}",
            }
        )
    return pd.DataFrame(rows)


def outcomes(bandit: pd.DataFrame) -> pd.DataFrame:
    """A row a campaign and outcome."""
    rows = []
    own = bandit[bandit["question"].isin(["engagement", "alignment"])]
    for (campaign, outcome), g in own.groupby(["campaign", "of"], sort=False):
        mean = 100 * g[["known", "known_se", "ours", "lower", "upper", "plain", "nothing"]].mean()
        rows.append(
            {
                "campaign": campaign,
                "outcome": outcome,
                "known": f"{mean['known']:.2f} ± {mean['known_se']:.2f}",
                "ours": _with_ends(mean, 2),
                "other strata": f"{mean['plain']:.2f}",
                "no change": f"{mean['nothing']:.2f}",
                "held": f"{g['holds'].sum():.0f} of {len(g)}",
                "clicks a split": f"{g['clicks'].mean():.0f}",
            }
        )
    return pd.DataFrame(rows)


def make_up_table(coat: pd.DataFrame) -> pd.DataFrame:
    """A row a gender."""
    rows = []
    own = coat[coat["question"] == MAKE_UP]
    for gender, g in own.groupby("of", sort=False):
        mean = 100 * g[["known", "known_se", "ours", "lower", "upper", "plain", "plain_se"]].mean()
        rows.append(
            {
                "users": f"{g['n'].iloc[0]:.0f} {gender}",
                "starts": len(g),
                "known": f"{mean['known']:.2f} ± {mean['known_se']:.2f}",
                "ours": _with_ends(mean, 2),
                "slope over users": f"{mean['plain']:.2f} ± {mean['plain_se']:.2f}",
                "least": f"{POWER * mean['known_se']:.2f}; {POWER * mean['plain_se']:.2f}",
                "held": f"{g['holds'].sum():.0f} of {len(g)}",
                "grade": ", ".join(sorted(g["grade"].unique())),
            }
        )
    return pd.DataFrame(rows)


def ranking_table(coat: pd.DataFrame) -> pd.DataFrame:
    """A row a method."""
    rows = []
    for method, g in coat[coat["question"] == "NDCG@5"].groupby("of", sort=False):
        value, ends = (
            f"{g['ours'].mean():.3f} ± {g['ours_se'].mean():.3f}",
            (g["ours"].min(), g["ours"].max()),
        )
        rows.append({"method": method, "starts": len(g), "users": f"{g['n'].iloc[0]:.0f}", "NDCG": value})
        rows[-1]["ends"] = f"{ends[0]:.3f} to {ends[1]:.3f}"
    return pd.DataFrame(rows)


def none(results: pd.DataFrame) -> pd.DataFrame:
    """A row a log, campaign and question whose answer is none."""
    rows = []
    own = results[
        results["question"].isin(["edge", "R2", "searched, moved", "factor, moved", "NIE_preference"])
    ]
    own = own.assign(of=own["of"].where(own["question"] != "searched, moved", SHARE))
    for (log, campaign, question, of), g in own.fillna({"campaign": ""}).groupby(
        ["log", "campaign", "question", "of"], sort=False
    ):
        points = 100 if of == SHARE or question == "NIE_preference" else 1
        half = points * ((g["upper"] - g["lower"]) / 2).mean()
        size = points * g["ours"].abs().mean()
        most = f"{g['known'].mean():.3f} ({g['known_upper'].mean():.3f})" if question == "R2" else "0"
        rows.append(
            {
                "log": f"{log} {campaign}",
                "question": question,
                "of": of,
                "known": most,
                "ours": f"{points * g['ours'].mean():.3f}" if question == "R2" else f"{size:.3f} in size",
                "half of the interval": "" if question == "R2" else f"{half:.3f}",
                "plain": f"{points * g['plain'].abs().mean():.3f} in size"
                if g["plain"].notna().any()
                else "",
                "held": f"{g['holds'].sum():.0f} of {len(g)}",
                "grade": ", ".join(sorted(g["grade"].dropna().unique())),
            }
        )
    return pd.DataFrame(rows)


def _with_ends(mean: pd.Series, digits: int) -> str:
    return f"{mean['ours']:.{digits}f} ({mean['lower']:.{digits}f} to {mean['upper']:.{digits}f})"


def _draw(results: pd.DataFrame) -> plt.Figure:
    """A panel for what is shown, for the draw's make-up (if there), and for what is known to be none."""
    panels = [(_draw_shown, "shown"), (_draw_make_up, MAKE_UP)]
    there = [draw for draw, question in panels if (results["question"] == question).any()]
    figure, axes = plt.subplots(
        1, len(there) + 1, figsize=(5.5 * (len(there) + 1), 4.8), layout="constrained"
    )
    for ax, draw in zip(axes, [*there, _draw_none], strict=True):
        draw(ax, results)
        legend(ax, frameon=False)
    return figure


def _draw_shown(ax: Axes, results: pd.DataFrame) -> None:
    shown = results[results["question"] == "shown"]
    for campaign, g in shown.groupby("campaign", sort=False):
        x, y, colour = 100 * g["known"], 100 * g["ours"], COLOURS[campaign]
        ends = (y - 100 * g["lower"], 100 * g["upper"] - y)
        ax.errorbar(x, y, ends, fmt="o", ms=4, lw=0.7, color=colour, label=f"{campaign}: ours, 90%")
        ax.scatter(x, 100 * g["nothing"], marker="x", s=18, lw=0.8, color=colour, label="as under random")
    most = 100 * shown["known"].max()
    ax.plot((0, most), (0, most), color="0.6", lw=0.8, zorder=0)
    title = "Open Bandit: categories under the bandit,\nin strata not seen under it"
    ax.set(title=title, xlabel="share that came, %", ylabel="share foretold, %")


def _draw_make_up(ax: Axes, results: pd.DataFrame) -> None:
    own = results[results["question"] == MAKE_UP]
    genders = list(own["of"].unique())
    for place, (_, r) in enumerate(own.iterrows()):
        x = genders.index(r["of"]) + 0.5 * place / len(own)
        ax.plot((x, x), (100 * r["lower"], 100 * r["upper"]), color=COLOURS["coat"], lw=1)
        ax.plot(x, 100 * r["ours"], "o", ms=4, color=COLOURS["coat"], label="ours, a start, 90%")
        ax.plot(x, 100 * r["known"], "_", ms=9, color="0.2", label="known")
    ax.axhline(0, color="0.6", lw=0.8, zorder=0)
    ax.set_xticks([place + 0.2 for place in range(len(genders))], genders)
    ax.set(title=f"Coat: {MAKE_UP}", ylabel="rated 4 or 5, points")


def _draw_none(ax: Axes, results: pd.DataFrame) -> None:
    own = results[results["question"].isin(["edge", "factor, moved"])]
    own = own.assign(name=own["question"] + ":\n" + own["of"])
    names = list(own["name"].unique())
    for y, name in enumerate(names):
        g = own[own["name"] == name]
        for place, (_, r) in enumerate(g.iterrows()):
            at = y + 0.7 * ((place + 0.5) / len(g) - 0.5)
            which = r["campaign"] if r["log"] == "open bandit" else r["log"]
            ax.plot((r["lower"], r["upper"]), (at, at), color=COLOURS[which], lw=1.2, label=which)
            ax.plot(r["ours"], at, "o", ms=4, color=COLOURS[which])
    ax.axvline(0, color="0.6", lw=0.8, zorder=0)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set(
        title="Known to be none: 90% intervals", xlabel="standard deviations", ylim=(-0.6, len(names) - 0.2)
    )
