"""Peers: what do ablations and rivals recover, what do they say of effects, and how do they see a new policy?

Aims          What each part of the method buys, and what methods without the model reach, on the same data.  Under
              policies of growing strength: do the factors that a policy moves move, and the others stay?
Data          The world of ``simulate.SUBSTITUTION`` (2 + 3 factors, 24 categories) at 1,000 users.  One more standard
              deviation of ``exposure_1`` raises engagement and lowers alignment; it moves ``platform_1``, by an edge
              ``preference_1``, and no other factor.  World and users are drawn anew from each seed, and every method
              has the same ones.
Estimands     The factors of 1,000 new users of the world.  TE, NDE and NIE of ``exposure_1`` + 1 sd on engagement,
              and TE on alignment.  Each factor's displacement when the new users' logs are made under a policy of
              ``exposure_1`` + `STRENGTHS` sd, and encoded by the fitted method.
Methods       ``methods.METHODS``: ours (the first stage of ``fit``, with `SETTINGS`), ours with one thing changed,
              and methods without the model.  A method without channels may use all its factors for each channel.
              Against the oracle and the random-rotation null.
Performance   Over `SEEDS` data seeds: mean MCC with its Monte Carlo standard error, and in how many seeds ours is
              ahead; bias (as a share of the outcome's largest true effect) with its standard error, and root mean
              squared error; error of displacement; seconds on one core, as the study ran (two replications at a time).

Run           ``python simulations/peers.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/peers/results.csv``, ``displacement.csv``, ``summary.md``, ``peers.png`` and
              ``policy_shift.png``.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one replication a core

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pyro_hmvcrl.data.dataset import CHANNELS, Dataset
from pyro_hmvcrl.evidence.measures import mcc, rotation_null, weak_mcc
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.synthetic.design import SUBSTITUTION, Array, Design
from pyro_hmvcrl.synthetic.oracle import oracle
from pyro_hmvcrl.synthetic.simulation import Simulation, simulate
from pyro_hmvcrl.synthetic.truth import true_effects
from pyro_hmvcrl.synthetic.world import draw_world

from methods import METHODS, Found
from study import FAILURES, Tables, account, legend, options, run, simulated_dataset, table, with_error

HERE = Path(__file__).parent / "peers"
SEEDS = 30
USERS = 1_000
STRENGTHS = (0.5, 1.0, 1.5, 2.0)  # of a policy, sd of exposure_1
SETTINGS = {"restarts": 2, "steps": 500, "device": "cpu"}
TRUTH_DRAWS = 200
ASKED = ("engagement TE", "engagement NDE", "engagement NIE", "alignment TE")
OF_PLATFORM, OF_PREFERENCE = "#0072B2", "#D55E00"


def replicate(seed: int, quick: bool, scratch: Path) -> Tables:
    """One data seed: every method on the same logs, judged on the same new users."""
    design = Design.with_knobs(
        **(SUBSTITUTION | ({"users": 60, "categories": 6} if quick else {"users": USERS}))
    )
    world = draw_world(design, seed)
    sim = simulate(design, seed, world)
    new = [simulate(design, seed + 10_000, world, {"exposure_1": s}) for s in (0.0, *STRENGTHS)]
    dataset, *unseen = (simulated_dataset(s, scratch, seed) for s in (sim, *new))
    steps = SETTINGS | ({"restarts": 1, "steps": 3} if quick else {})
    settings = Settings(design.platform_factors, design.preference_factors, seed=seed, **steps)
    truth = true_effects(sim, {"exposure_1": 1.0}, TRUTH_DRAWS)["outcomes"]
    ceiling = {"seed": seed, "method": "oracle"} | scores(new[0], *_channels(new[0], oracle(new[0])))
    found_by: Tables = {"results": [ceiling], "displacement": [], "failures": []}
    for name, method in METHODS.items():
        start = time.perf_counter()
        try:
            found = method(dataset, settings)
        except FAILURES as error:
            found_by["failures"].append({"failure": f"{name}: {error}"})
            continue
        seconds = time.perf_counter() - start
        before = found.encode(unseen[0])
        which = {"seed": seed, "method": name}
        row = which | {"seconds": seconds}
        row |= scores(new[0], before[:, found.platform], before[:, found.preference])
        found_by["results"].append(row | errors(found, truth))
        found_by["displacement"] += [which | moved for moved in displacements(found, before, new, unseen)]
    return found_by


def _channels(sim: Simulation, factors: Array) -> tuple[Array, Array]:
    return factors[:, sim.world.platform], factors[:, sim.world.preference]


def scores(sim: Simulation, platform: Array, preference: Array) -> dict[str, float]:
    """MCC and weak MCC of both channels' estimates ``(N, M)``."""
    row = {}
    for channel, estimate in zip(CHANNELS, (platform, preference), strict=True):
        truth = getattr(sim, channel)
        row[f"{channel}_mcc"] = mcc(truth, estimate, n_bootstrap=0).value
        row[f"{channel}_weak_mcc"] = weak_mcc(truth, estimate)
    return row


def errors(found: Found, truth: dict[str, dict[str, float]]) -> dict[str, float]:
    """Of the effects that the method can tell, relative to the outcome's largest true effect."""
    row = {}
    for name in ASKED if found.effects else ():
        outcome, estimand = name.split()
        largest = max(map(abs, truth[outcome].values()))
        row[name] = (found.effects[name] - truth[outcome][estimand]) / largest
    return row


def displacements(
    found: Found, before: Array, new: list[Simulation], unseen: list[Dataset]
) -> list[dict[str, Any]]:
    """Of the estimates of every true factor under every policy, beside the true ones, in standard deviations."""
    rows = []
    for strength, sim, logs in zip(STRENGTHS, new[1:], unseen[1:], strict=True):
        after = found.encode(logs)
        for channel in CHANNELS:
            block = getattr(found, channel)
            then, now = (getattr(s, channel) for s in (new[0], sim))
            match = mcc(then, before[:, block], n_bootstrap=0)
            true = (now - then).mean(0) / then.std(0)
            shift = (
                match.signs * ((after - before)[:, block].mean(0) / before[:, block].std(0))[match.assignment]
            )
            rows += [
                {"factor": f"{channel}_{k + 1}", "strength": strength, "true": true[k], "encoded": shift[k]}
                for k in range(len(true))
            ]
    return rows


# --- Results -------------------------------------------------------------------------------------------------


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Tables by method, and the figures with every replication."""
    results, moved = tables["results"], tables["displacement"]
    parts = [
        "# Peers",
        "",
        account(tables),
        "",
        "## Recovery at new users, and cost",
        "",
        table(recovery(results)),
    ]
    parts += ["", "## Effects: error, % of the outcome's largest true effect (bias ± its se; rmse)", ""]
    parts += [table(of_effects(results)), "", "## Policy shift: displacement of factors, sd", ""]
    parts += ["Root mean squared errors over factors, policies and seeds.", "", table(of_displacement(moved))]
    (out / "summary.md").write_text("\n".join(parts) + "\n")
    _draw(results).savefig(out / "peers.png", dpi=150)
    _draw_policy_shift(moved).savefig(out / "policy_shift.png", dpi=150)


def recovery(results: pd.DataFrame) -> pd.DataFrame:
    """MCC, against ours on the same data, and seconds."""
    wide = results.pivot(index="seed", columns="method", values="preference_mcc")
    rows = []
    for method, g in results.groupby("method", sort=False):
        row = {"method": method, "seeds": len(g)}
        for channel in CHANNELS[::-1]:
            row[f"{channel} MCC"] = with_error(g[f"{channel}_mcc"])
            row[f"{channel} weak MCC"] = f"{g[f'{channel}_weak_mcc'].mean():.3f}"
        row["ours less it (preference)"] = with_error(wide["ours"] - wide[method])
        row["ours ahead"] = f"{(wide['ours'] > wide[method]).sum()} of {wide[method].count()}"
        seconds = g["seconds"].median()
        rows.append(row | {"seconds": "" if np.isnan(seconds) else f"{seconds:.2g}"})
    return pd.DataFrame(rows)


def of_effects(results: pd.DataFrame) -> pd.DataFrame:
    """Bias and root mean squared error, in per cent."""
    rows = []
    for method, g in results.dropna(subset=list(ASKED)).groupby("method", sort=False):
        cells = {a: f"{with_error(100 * g[a], 1)}; {100 * (g[a] ** 2).mean() ** 0.5:.1f}" for a in ASKED}
        rows.append({"method": method, "seeds": len(g)} | cells)
    return pd.DataFrame(rows)


def of_displacement(moved: pd.DataFrame) -> pd.DataFrame:
    """Error for the factor that the policy moves, the one that an edge moves, and those that stay."""
    m = moved.assign(error=(moved["encoded"] - moved["true"]) ** 2, which=moved["factor"].map(kind_of))
    wide = m.pivot_table(index="method", columns="which", values="error", sort=False) ** 0.5
    return wide[list(KINDS)].reset_index()


KINDS = {"platform_1": "moved by the policy", "preference_1": "moved by the edge", "others": "not moved"}


def kind_of(factor: str) -> str:
    """Whether the policy moves a factor, and how."""
    return factor if factor in KINDS else "others"


def _draw(results: pd.DataFrame) -> plt.Figure:
    names = list(METHODS)
    figure, axes = plt.subplots(1, 4, figsize=(15, 6), sharey=True, layout="constrained")
    for ax, channel, colour in ((axes[0], "preference", OF_PREFERENCE), (axes[1], "platform", OF_PLATFORM)):
        _strips(ax, results, names, f"{channel}_mcc", colour)
        ceiling = results.loc[results["method"] == "oracle", f"{channel}_mcc"].mean()
        n_factors = {"platform": 2, "preference": 3}[channel]
        ax.axvline(ceiling, color="0.2", lw=0.9, label="oracle (mean)")
        ax.axvline(rotation_null(n_factors).mean, color="0.2", ls=":", label="random rotation (mean)")
        ax.set(xlabel="MCC, new users", title=f"{channel} recovered")
    for name, colour in (("engagement NDE", "#009E73"), ("engagement NIE", "#CC79A7")):
        _strips(axes[2], results.assign(**{name: 100 * results[name]}), names, name, colour)
    axes[2].axvline(0, color="0.6", lw=0.8, zorder=0)
    axes[2].set(xlabel="error, % of the largest true effect", title="effects on engagement")
    _strips(axes[3], results, names, "seconds", "0.4")
    axes[3].set(xscale="log", xlabel="seconds on one core", title="cost")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    for ax in axes[:3]:
        legend(ax, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False)
    axes[3].spines[["top", "right"]].set_visible(False)
    return figure


def _strips(ax: Axes, results: pd.DataFrame, names: list[str], column: str, colour: str) -> None:
    """A row of points a method, one a replication, with a bar at their mean."""
    for y, name in enumerate(names):
        x = results.loc[results["method"] == name, column].dropna()
        spread = y + np.linspace(-0.25, 0.25, max(len(x), 1))[: len(x)]
        ax.scatter(x, spread, s=8, color=colour, alpha=0.6, lw=0, label=column.replace("_mcc", " MCC"))
        ax.vlines(x.mean(), y - 0.35, y + 0.35, color="black", lw=1.2)


def _draw_policy_shift(moved: pd.DataFrame) -> plt.Figure:
    look = {"sharex": True, "sharey": True, "layout": "constrained"}
    figure, axes = plt.subplots(rows := -(-len(METHODS) // 6), 6, figsize=(18, 2.8 * rows), **look)
    m = moved.assign(which=moved["factor"].map(kind_of))
    for ax in axes.flat[len(METHODS) :]:
        ax.remove()
    for ax, name in zip(axes.flat, METHODS, strict=False):
        for (which, said), colour in zip(KINDS.items(), (OF_PLATFORM, OF_PREFERENCE, "#009E73"), strict=True):
            g = m[(m["method"] == name) & (m["which"] == which)]
            label = f"{which if which != 'others' else 'other factors'}: {said}"
            for _, line in g.groupby(["seed", "factor"]):
                ax.plot([0, *line["strength"]], [0, *line["encoded"]], color=colour, alpha=0.25, lw=0.7)
            true = g.groupby("strength")["true"].mean()
            ax.plot([0, *true.index], [0, *true], color=colour, ls="--", lw=2, label=f"{label} (true, mean)")
        ax.set_title(name)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("strength of the policy, sd of exposure_1")
    for ax in axes[:, 0]:
        ax.set_ylabel("displacement, sd")
    handles = axes.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def main() -> None:
    """Run what is missing, then write tables and figures."""
    o = options(__doc__, HERE)
    summarise(run({f"{seed}": partial(replicate, seed, o.quick) for seed in range(SEEDS)}, o), o.out)
    print((o.out / "summary.md").read_text())


if __name__ == "__main__":
    main()
