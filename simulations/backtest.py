"""Back-test: does a run foretell logs made after a change of policy, and is it found out where it does not?

Aims          Coverage of ``validate``'s 90% intervals, for the shares of categories in what is shown and searched, and
              for engagement and alignment; errors of what is predicted, beside those of "as before"; how often the run
              is said not to predict the logs, where it should and where it should not.
Data          ``window``: the world of ``simulate.SUBSTITUTION`` at 1,000 users with 2 + 2 factors and 12 categories.
              ``loop``: the same with five periods in which the platform learns and habits form.  In the middle the
              platform changes: the logs after are those of ``same users`` or of ``other users`` with one more standard
              deviation of ``exposure_1``; of other users with ``no change``; and of other users after a ``hidden
              change``, the same of which the covariates do not tell.  World and users are drawn anew from each seed.
Estimands     What the new logs have: 12 + 12 shares and two means over users.
Methods       A whole fit of the logs before, encoders included (`SETTINGS`), and ``validate`` with its defaults; of
              the same users counterfactual, too.  Against it "as before", with the sampling errors of both logs.
Performance   Coverage with its Monte Carlo standard error over seeds (a seed's figures hang together); the mean
              absolute errors; the share of seeds in which as few figures inside come about by chance in less than 5%.

Run           ``python simulations/backtest.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/backtest/results.csv``, ``summary.md`` and ``backtest.png``.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one replication a core

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.queries.checks import RARE
from pyro_hmvcrl.queries.validation import REPLICATIONS, validate
from pyro_hmvcrl.run.fitting import fit_folder
from pyro_hmvcrl.synthetic.design import SUBSTITUTION, Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import Simulation, simulate
from pyro_hmvcrl.synthetic.world import World, draw_world

from study import Tables, account, legend, options, run, table, with_error

HERE = Path(__file__).parent / "backtest"
SMALL = SUBSTITUTION | {"users": 1_000, "preference_factors": 2, "categories": 12}
LOOP = {"periods": 5, "learning": 1.0, "personalisation": 0.5, "influence": 0.3, "familiarity": 0.1}
DESIGNS: dict[str, dict[str, Any]] = {"window": SMALL, "loop": SMALL | LOOP}
SETTINGS = {"restarts": 1, "steps": 600, "encoder_steps": 600}
SEEDS = 30  # of every design
OTHERS = 10_000  # from a seed to that of other users of its world
EVENTS = 20_000  # and to that of later events
SHIFT = {"exposure_1": 1.0}
#: The logs after, and of which kinds the predictions are.
AFTER = {
    "same users": ("interventional", "counterfactual"),
    "other users": ("interventional",),
    "no change": ("interventional",),
    "hidden change": ("interventional",),
}


def replicate(design: str, seed: int, quick: bool, scratch: Path) -> Tables:
    """One data seed of one design: simulate before and after, fit the one and foretell the other."""
    d = Design.with_knobs(**(DESIGNS[design] | ({"users": 120, "categories": 6} if quick else {})))
    steps = SETTINGS | ({"steps": 20, "encoder_steps": 20} if quick else {})
    periods = d.periods if d.has_loop else 1
    settings = Settings(
        d.platform_factors, d.preference_factors, seed=seed, device="cpu", periods=periods, **steps
    )
    shutil.rmtree(scratch, ignore_errors=True)
    world, rows = draw_world(d, seed), []
    write_simulation(simulate(d, seed, world), scratch / "before", seed, truth=False)
    fit_folder(scratch / "before", scratch / "run", settings)
    for after, kinds in AFTER.items():
        write_simulation(logs_after(after, d, seed, world), scratch / after, seed, truth=False)
        for kind in kinds:
            found = validate(
                scratch / "run",
                scratch / after,
                counterfactual=kind == "counterfactual",
                replications=20 if quick else REPLICATIONS,
                seed=seed,
            )
            for figure, of in found["coverage"].items():
                row = {"design": design, "seed": seed, "after": after, "kind": kind, "figure": figure}
                errors = found["error"].get(figure, {"model": np.nan, "as_before": np.nan})
                rows.append(row | of | {f"error_{name}": error for name, error in errors.items()})
    shutil.rmtree(scratch)
    return {"results": rows}


def logs_after(after: str, design: Design, seed: int, world: World) -> Simulation:
    """The logs after the change."""
    users = seed if after == "same users" else seed + OTHERS
    shift = {} if after == "no change" else SHIFT
    # Events of their own chance: the run has seen that of the logs before.
    sim = simulate(design, users, world, shift, events_seed=seed + EVENTS)
    if after != "hidden change":
        return sim
    return replace(sim, exposure_covariates=simulate(design, users, world).exposure_covariates)


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Coverage and errors by design and logs, and the figure with every replication."""
    results = tables["results"]
    parts = ["# Back-test", "", account(tables), "", "## Coverage", ""]
    parts += ["Shares of the figures inside, ± Monte Carlo standard errors over seeds.", ""]
    parts += [table(performance(results)), "", "## Verdicts", ""]
    parts += ["Seeds in which the run is said not to predict the logs.", "", table(verdicts(results))]
    (out / "summary.md").write_text("\n".join(parts) + "\n")
    _draw(results).savefig(out / "backtest.png", dpi=150)


def performance(results: pd.DataFrame) -> pd.DataFrame:
    """Coverage of the run's intervals and of those of no change, and mean absolute errors, in percentage points."""
    rows = []
    for key, g in results.groupby(["design", "after", "kind", "figure"], sort=False):
        row = dict(zip(("design", "after", "kind", "figure"), key, strict=True))
        row |= {"seeds": len(g), "inside": with_error(g["inside"] / g["of"])}
        row |= {"as_before inside": with_error(g["as_before"] / g["of"])}
        for name in ("error_model", "error_as_before"):
            row[name] = "" if g[name].isna().all() else with_error(100 * g[name])
        rows.append(row)
    return pd.DataFrame(rows)


def verdicts(results: pd.DataFrame) -> pd.DataFrame:
    """How often the run is said not to predict the logs."""
    whole = results[results["figure"] == "all"]
    said = whole.assign(refused=whole["p"] < RARE).groupby(["design", "after", "kind"], sort=False)
    return said["refused"].agg(seeds="size", refused="sum").reset_index()


def _draw(results: pd.DataFrame) -> plt.Figure:
    """Coverage by logs, and each seed's errors beside those of as before."""
    figure, (coverage, errors) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    groups = list(results.groupby(["design", "after", "kind"], sort=False))
    for y, (_, g) in enumerate(groups):
        whole = g[g["figure"] == "all"]
        share = 100 * whole["inside"] / whole["of"]
        place = y + np.linspace(-0.25, 0.25, len(share))
        coverage.scatter(share, place, s=10, color="#0072B2", lw=0, alpha=0.7, label="the run")
        coverage.scatter(
            100 * whole["as_before"] / whole["of"], place, s=10, color="0.6", lw=0, label="as before"
        )
        coverage.vlines(share.mean(), y - 0.35, y + 0.35, color="black", lw=1.2)
    coverage.axvline(90, color="0.6", lw=0.8, zorder=0)
    coverage.set_yticks(range(len(groups)), [", ".join(key) for key, _ in groups], fontsize=8)
    coverage.set(ylim=(len(groups) - 0.5, -0.5), xlabel="figures inside 90% intervals, % (bar: mean)")
    told = results[(results["after"] == "other users") & (results["figure"] != "all")]
    for k, (name, g) in enumerate(told.groupby("figure", sort=False)):
        errors.scatter(
            100 * g["error_as_before"], 100 * g["error_model"], s=12, lw=0, color=f"C{k}", label=name
        )
    most = 100 * told[["error_model", "error_as_before"]].max(axis=None)
    errors.plot([0, most], [0, most], color="0.6", lw=0.8, zorder=0)
    errors.set(xlabel="mean error of as before, points", ylabel="mean error of the run, points")
    errors.set_title("other users, after the change", fontsize=10)
    for ax in (coverage, errors):
        legend(ax)
    return figure


def main() -> None:
    """Run what is missing, then write tables and figures."""
    o = options(__doc__, HERE)
    replications = {
        f"{design}-{seed}": partial(replicate, design, seed, o.quick)
        for design in DESIGNS
        for seed in range(SEEDS)
    }
    summarise(run(replications, o), o.out)
    print((o.out / "summary.md").read_text())


if __name__ == "__main__":
    main()
