"""Select: does ``pyro-hmvcrl select`` find how many factors there are?

Aims          The share of worlds in which both numbers of factors are right, and by how much they miss.
Data          `WORLDS` worlds of 2,000 users with 2 to 4 platform and 2 to 4 preference factors, all else as in
              ``simulate``; every pair of numbers comes twice or more.  World and users are drawn anew from each seed.
Estimands     The numbers of factors of the two channels.
Methods       ``select`` with its defaults: no number is given, and the way starts at 2 + 2.
Performance   Worlds in which both numbers are right, too small or too large; models fitted, and seconds of one core.

Run           ``python simulations/selecting.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/selecting/results.csv``, ``summary.md`` and ``selecting.png``.
"""

from __future__ import annotations

import os
import time
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one replication a core

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from pyro_hmvcrl.data.dataset import CHANNELS
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.run.selecting import START, select_factors
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import simulate

from study import Tables, account, run_worlds, simulated_dataset, table

HERE = Path(__file__).parent / "selecting"
USERS = 2_000
NUMBERS = list(product((2, 3, 4), repeat=2))  # platform and preference factors
WORLDS = 20


def replicate(seed: int, quick: bool, scratch: Path) -> Tables:
    """One world: simulate it, and choose the numbers from its logs."""
    true = dict(zip(CHANNELS, NUMBERS[seed % len(NUMBERS)], strict=True))
    numbers = {f"{channel}_factors": n for channel, n in true.items()}
    small = {"users": 80, "categories": 6} if quick else {"users": USERS}
    design = Design.with_knobs(**numbers, **small)
    dataset = simulated_dataset(simulate(design, seed), scratch, seed)
    start = {f"{channel}_factors": START for channel in CHANNELS}
    steps = {"steps": 20} if quick else {}
    began = time.process_time()
    chosen = select_factors(dataset, Settings(**start, seed=seed, device="cpu", **steps))
    row = {"seed": seed, "models": len(chosen.candidates), "seconds": time.process_time() - began}
    for channel, n in true.items():
        row |= {channel: n, f"{channel}_chosen": getattr(chosen, f"{channel}_factors")}
    return {"results": [row]}


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """How many are right, every world, and the figure."""
    results = tables["results"]
    missed = {c: results[f"{c}_chosen"] - results[c] for c in CHANNELS}
    right = pd.DataFrame(missed).eq(0).all(axis=1)
    counts = [
        {"numbers": c, "right": (m == 0).sum(), "too small": (m < 0).sum(), "too large": (m > 0).sum()}
        for c, m in missed.items()
    ]
    cost = f"{results['models'].median():.0f} models and {results['seconds'].median():.0f} seconds of a core"
    parts = ["# Numbers of factors", "", account(tables), ""]
    parts += [f"Both numbers are right in {right.sum()} of {len(results)} worlds. Medians: {cost}.", ""]
    parts += [table(pd.DataFrame(counts)), "", table(results.drop(columns=["replication", "commit"]))]
    (out / "summary.md").write_text("\n".join(parts) + "\n")
    _draw(results).savefig(out / "selecting.png", dpi=150)


def _draw(results: pd.DataFrame) -> plt.Figure:
    """Chosen against true numbers, a dot a world."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained", sharey=True)
    rng = np.random.default_rng(0)
    ticks = range(1, results[[f"{c}_chosen" for c in CHANNELS]].max(axis=None) + 2)
    for ax, channel in zip(axes, CHANNELS, strict=True):
        beside = rng.uniform(-0.18, 0.18, (2, len(results)))
        ax.plot([1.5, 4.5], [1.5, 4.5], color="0.7", lw=0.8, zorder=0)
        ax.scatter(results[channel] + beside[0], results[f"{channel}_chosen"] + beside[1], s=16, lw=0)
        ax.set(xticks=(2, 3, 4), yticks=ticks, xlabel=f"{channel} factors of the world", title=channel)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("chosen")
    return figure


def main() -> None:
    """Run what is missing, then write tables and figures."""
    run_worlds(__doc__, HERE, WORLDS, replicate, summarise)


if __name__ == "__main__":
    main()
