"""Edges: is an edge that is not there ever sure, where decoders are of another kind than the model's?

Aims          The share of absent edges that the run calls probable, and of true ones that it finds.
Data          The ``hard`` recovery design (6,000 users, 3 + 3 factors, edges both ways), but each surface's logits are
              those of a wide tanh network alone: 64 hidden features, half as steep again, no linear part, which the
              model's decoders can only come near to.  `SEEDS` worlds, drawn anew from each seed.
Estimands     Each pair of factors of different channels, in both directions: is there an edge?
Methods       The first stage of a fit with two starts, the parameters' posterior, and the ``probability`` of
              ``graph.csv``.  A pair that the learned order of factors excludes has probability 0.
Performance   Shares with a probability above `SURE`, of absent and of true edges, with the standard error over worlds;
              the largest weight of an absent one; beside it the same against a point null of zero (a `trifle` of 0).

Run           ``python simulations/edges.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/edges/results.csv``, ``summary.md`` and ``edges.png``.
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one replication a core

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from pyro_hmvcrl.evidence.measures import mcc
from pyro_hmvcrl.guide.experts import factor_posterior
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import screen
from pyro_hmvcrl.run.fitting import parameter_posterior
from pyro_hmvcrl.run.run import TRIFLE, edges_of
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import Simulation, simulate
from pyro_hmvcrl.synthetic.world import Emission, World, draw_world

from recovery import HARD
from study import Tables, account, legend, run_worlds, simulated_dataset, table, with_error

HERE = Path(__file__).parent / "edges"
SEEDS = 30
SETTINGS = {"restarts": 2, "steps": 600}
DRAWS = 100  # of the parameters
HIDDEN, STEEPER = 64, 1.5
SURE = 0.9


def with_wide_decoders(world: World, seed: int) -> World:
    """The world with networks without a linear part for its decoders."""
    d, rng = world.design, np.random.default_rng([seed, HIDDEN])

    def wide(factors: int, strength: float) -> Emission:
        inner = STEEPER * rng.normal(size=(factors, HIDDEN)) / np.sqrt(factors)
        outer = strength * rng.normal(size=(HIDDEN, d.categories)) * np.sqrt(factors / HIDDEN)
        no_line = np.zeros((factors, d.categories))
        return Emission(rng.normal(scale=0.5, size=d.categories), no_line, inner, outer)

    return replace(
        world,
        search=wide(d.preference_factors, d.search_strength),
        exposure=wide(d.platform_factors, d.exposure_strength),
    )


def replicate(seed: int, quick: bool, scratch: Path) -> Tables:
    """One world: its edges, and what is said of them."""
    small = {"users": 200, "categories": 8} if quick else {}
    design = Design.with_knobs(**(HARD | small))
    sim = simulate(design, seed, with_wide_decoders(draw_world(design, seed), seed))
    dataset = simulated_dataset(sim, scratch, seed)
    settings = SETTINGS | ({"steps": 20} if quick else {})
    found = screen(dataset, Settings(3, 3, seed=seed, device="cpu", **settings))
    posterior = parameter_posterior(found, dataset, seed, DRAWS)
    users = found.held.batch(torch.arange(found.held.n_users))
    factors, _ = factor_posterior(*found.guide.expansion(found.held.n_users).posterior(users))
    names = list(sim.world.design.factor_names)
    frame = pd.DataFrame(factors, columns=names)
    said, of_zero = (
        edges_of(found.guide.model, posterior, frame, trifle).set_index(["source", "target"])
        for trifle in (TRIFLE, 0.0)
    )
    own, recovery = matched(sim, found.held_out, factors)
    rows = []
    for j, k in product(range(len(names)), repeat=2):
        if names[j].split("_")[0] == names[k].split("_")[0]:
            continue
        row = {"seed": seed, "source": names[j], "target": names[k], "true": sim.world.edges[j, k]} | recovery
        pair = names[own[j]], names[own[k]]
        row |= dict.fromkeys(("weight", "sd", "probability", "of_zero"), 0.0)
        if pair in said.index:
            row |= said.loc[pair].to_dict() | {"of_zero": of_zero.loc[pair, "probability"]}
        rows.append(row)
    return {"results": rows}


def matched(sim: Simulation, users: np.ndarray, factors: np.ndarray) -> tuple[list[int], dict[str, float]]:
    """Which recovered factor stands for each true one, and the channels' MCC."""
    own, recovery = [], {}
    for channel, true in (("platform", sim.platform), ("preference", sim.preference)):
        start = len(own)
        found = mcc(true[users], factors[:, start : start + true.shape[1]], n_bootstrap=0)
        own += [start + int(j) for j in found.assignment]
        recovery[f"{channel}_mcc"] = found.value
    return own, recovery


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Shares that are called sure, and the figure with every edge."""
    results = tables["results"]
    parts = ["# Edges with decoders of another kind", "", account(tables), ""]
    parts += [f"Shares with a probability above {SURE}, and recovery; ± over worlds.", ""]
    parts += [table(performance(results))]
    (out / "summary.md").write_text("\n".join(parts) + "\n")
    _draw(results).savefig(out / "edges.png", dpi=150)


def performance(results: pd.DataFrame) -> pd.DataFrame:
    """A row for absent edges, one for those of them that the order admits, and one for true edges."""
    kinds = {
        "absent": results["true"] == 0,
        "absent and admissible": (results["true"] == 0) & (results["sd"] > 0),
        "true": results["true"] != 0,
    }
    rows = []
    for kind, these in kinds.items():
        g = results[these]
        by_world = g.assign(sure=g["probability"] > SURE, zero=g["of_zero"] > SURE).groupby("seed")
        rows.append(
            {
                "edges": kind,
                "number": len(g),
                "sure": with_error(by_world["sure"].mean()),
                "sure, against zero": with_error(by_world["zero"].mean()),
                "largest weight": g["weight"].abs().max(),
                "least weight": g["weight"].abs().min(),
                **{c: with_error(by_world[c].first()) for c in ("platform_mcc", "preference_mcc")},
            }
        )
    return pd.DataFrame(rows)


def _draw(results: pd.DataFrame) -> plt.Figure:
    """Probability against the weight, an edge a dot."""
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for kind, these, colour in (
        ("absent", results["true"] == 0, "#D55E00"),
        ("true", results["true"] != 0, "#0072B2"),
    ):
        g = results[these]
        ax.scatter(g["weight"].abs(), g["probability"], s=12, lw=0, alpha=0.7, color=colour, label=kind)
    ax.axhline(SURE, color="0.6", lw=0.8, zorder=0)
    ax.set(xlabel="size of the standardised weight", ylabel="probability of the edge")
    legend(ax)
    return figure


def main() -> None:
    """Run what is missing, then write tables and figures."""
    run_worlds(__doc__, HERE, SEEDS, replicate, summarise)


if __name__ == "__main__":
    main()
