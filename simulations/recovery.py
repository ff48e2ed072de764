"""Recovery: does a fit with default settings find the true factors and the true graph?

Aims          Show, seed by seed, that the factors and the cross-channel edges of known worlds are recovered, and
              that they are not where the theory says that they cannot be.
Data          ``default``: 4,000 users, 3 preference + 2 platform factors, 24 categories.  ``hard``: 6,000 users,
              3 + 3 factors, 30 categories, 550,000 events, 5% of users lacking a surface, covariates partly
              categorical and skewed, edges both ways.  Negatives, each the default world with one ingredient taken
              away (``default_short`` lacks nothing, and has the negatives' shorter fit):
              ``location_only`` (covariates do not move scales), ``no_covariates`` (the preference channel has
              none), ``permuted_covariates`` (preference covariates shuffled over users), ``edge_inside_channel``
              (an edge between two preference factors, which the decoder should absorb).
Estimands     Factors (MCC at held-out users) and standardised edge weights.
Methods       ``pyro-hmvcrl fit`` with default settings (the negatives: `NEGATIVE_SETTINGS`); the oracle
              (posterior means under the true parameters); the random-rotation null.
Performance   MCC and its ratio to the oracle's, weak MCC, largest error of an edge, over `SEEDS` data seeds.

Run           ``python simulations/recovery.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/recovery/results.csv``, ``summary.md`` and ``recovery.png``.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one replication a core

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from pyro_hmvcrl.data.dataset import CHANNELS
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.run.fitting import fit_folder
from pyro_hmvcrl.synthetic.design import DEFAULT_EDGES, Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

from study import Tables, account, legend, options, run, with_error

HERE = Path(__file__).parent / "recovery"
BOTH_WAYS = (
    ("platform_1", "preference_1", 0.8),
    ("preference_2", "platform_2", -0.8),
    ("platform_3", "preference_3", 0.8),
)
# About 550,000 events in all.  Changed once, after six seeds of a first form had run (the default's event numbers and
# exposure_strength 1.1: platform MCC 0.971-0.977 under an oracle of 0.978); those six are not in the results.
HARD = {
    "users": 6_000,
    "platform_factors": 3,
    "categories": 30,
    "missing_surface": 0.05,
    "covariate_kind": "mixed",
    "edges": BOTH_WAYS,
    "recommendation_events": (45, 91),
}
INSIDE = (*DEFAULT_EDGES, ("preference_1", "preference_2", 0.8))
DESIGNS: dict[str, dict[str, Any]] = {
    "default": {},
    "hard": HARD,
    "default_short": {},
    "location_only": {"scale": 0.0},
    "no_covariates": {"preference_covariates": 0},
    "permuted_covariates": {},
    "edge_inside_channel": {"edges": INSIDE},
}
SEEDS = 30
POSITIVE = ("default", "hard")
NEGATIVE_SETTINGS = {"restarts": 2, "steps": 750, "encoder_steps": 100}
VERDICTS = """In how many seeds the run's verdict on preference, which does not know the truth, says that factors are
identified only up to a rotation or a map; and the most frequent verdict:"""


def replicate(design: str, seed: int, quick: bool, scratch: Path) -> Tables:
    """One data seed of one design: simulate, fit, compare."""
    knobs = DESIGNS[design] | ({"users": 200, "categories": 6} if quick else {})
    world = Design.with_knobs(**knobs)
    steps = {} if design in POSITIVE else NEGATIVE_SETTINGS
    if quick:
        steps = {"restarts": 1, "steps": 20, "encoder_steps": 20, "periods": 2}
    settings = Settings(world.platform_factors, world.preference_factors, seed=seed, device="cpu", **steps)
    for folder in ("data", "run"):  # made anew from the seed; only the fit's checkpoints outlive a killed run
        shutil.rmtree(scratch / folder, ignore_errors=True)
    write_simulation(simulate(world, seed), scratch / "data", seed)
    if design == "permuted_covariates":
        _permute(scratch / "data", world.preference_names, seed)
    fit_folder(scratch / "data", scratch / "run", settings)
    row = {"design": design, "seed": seed, **compare(scratch / "data", scratch / "run")}
    shutil.rmtree(scratch)
    return {"results": [row]}


def compare(data: Path, run: Path) -> dict[str, Any]:
    """Figures of one run against the truth."""
    report = json.loads((run / "report.json").read_text())
    row: dict[str, Any] = {"seconds": json.loads((run / "config.json").read_text())["seconds"]}
    signs, matched = {}, {}
    for channel, r in report["identifiability"]["channels"].items():
        row |= {f"{channel}_{name}": value for name, value in _figures(r).items()}
        row[f"{channel}_verdict"] = report["identifiability"]["verdict"][channel][0]
        for k, (j, sign) in enumerate(zip(r["mcc"]["assignment"], r["mcc"]["signs"], strict=True)):
            matched[f"{channel}_{k + 1}"], signs[f"{channel}_{k + 1}"] = f"{channel}_{j + 1}", sign
    return row | _edge_errors(data, report["graph"], matched, signs)


def _figures(channel: dict[str, Any]) -> dict[str, float]:
    """A channel's figures, as the columns of the results."""
    return {
        "mcc": channel["mcc"]["value"],
        "mcc_lower": channel["mcc"]["lower"],
        "mcc_upper": channel["mcc"]["upper"],
        "oracle": channel["oracle"]["value"],
        "ratio": channel["ratio_to_oracle"],
        "weak_mcc": channel["weak_mcc"],
        "null": channel["rotation_null"]["mean"],
        "floor": channel["covariate_floor"]["value"],
        "within": channel["within_covariate_mcc"]["value"],
    }


def _edge_errors(
    data: Path, graph: list[dict[str, Any]], matched: dict[str, str], signs: dict[str, float]
) -> dict[str, Any]:
    fitted = {(e["source"], e["target"]): e for e in graph}
    nothing = {"weight": 0.0, "sd": np.nan, "probability": 0.0}
    present, absent, scores, reversed_edges = [], [], [], 0
    for edge in json.loads((data / "truth.json").read_text())["edges"]:
        source, target = edge["source"], edge["target"]
        found = fitted.get((matched[source], matched[target]), nothing)
        error = signs[source] * signs[target] * found["weight"] - edge["weight"]
        (present if edge["weight"] else absent).append(abs(error))
        reversed_edges += bool(edge["weight"]) and (matched[target], matched[source]) in fitted
        scores.append(error / found["sd"])
    return {
        "edge_error": max(present),
        "absent_edge": max(absent),
        "reversed_edges": reversed_edges,
        "edge_z": float(np.sqrt(np.nanmean(np.square(scores)))),
    }


def _permute(data: Path, columns: list[str], seed: int) -> None:
    users = pd.read_parquet(data / "users.parquet")
    order = np.random.default_rng(seed).permutation(len(users))
    users[columns] = users[columns].to_numpy()[order]
    users.to_parquet(data / "users.parquet", index=False)


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Table by design, and the figure with every replication."""
    results = tables["results"]
    head = ["design", "seeds"]
    for channel in CHANNELS[::-1]:
        head += [f"{channel} MCC (least)", "oracle", "rotated", "weak MCC", "ratio to oracle"]
    head += ["true edges: largest error", "absent edges: largest", "reversed", "seconds a fit, median"]
    lines = [
        "# Recovery",
        "",
        account(tables),
        "",
        "Means over data seeds, of MCCs with their Monte Carlo standard error; rotated: of a random rotation.",
        "",
    ]
    lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for design, g in results.groupby("design", sort=False):
        cells = [design, str(len(g))]
        for channel in CHANNELS[::-1]:
            score = g[f"{channel}_mcc"]
            cells.append(f"{with_error(score, 4)} ({score.min():.4f})")
            others = ("oracle", "null", "weak_mcc", "ratio")
            cells += [f"{g[f'{channel}_{name}'].mean():.3f}" for name in others]
        cells += [f"{g['edge_error'].max():.3f}", f"{g['absent_edge'].max():.3f}"]
        cells += [f"{g['reversed_edges'].sum()}", f"{g['seconds'].median():.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", VERDICTS, ""]
    for design, said in results.groupby("design", sort=False)["preference_verdict"]:
        doubted = said.str.contains("only up to a|only up to rotation").sum()
        lines.append(f"- `{design}`: {doubted} of {len(said)}. {said.value_counts().index[0]}")
    (out / "summary.md").write_text("\n".join(lines) + "\n")
    _draw(results).savefig(out / "recovery.png", dpi=150)


def _draw(results: pd.DataFrame) -> plt.Figure:
    designs = list(results["design"].unique())
    figure, axes = plt.subplots(
        1, 2, figsize=(11, 0.9 + 0.6 * len(designs)), sharey=True, layout="constrained"
    )
    for ax, channel, colour in zip(axes, ("preference", "platform"), ("#0072B2", "#D55E00"), strict=True):
        for y, design in enumerate(designs):
            g = results[results["design"] == design]
            jitter = y + np.linspace(-0.22, 0.22, len(g)) if len(g) > 1 else np.array([y])
            ax.scatter(g[f"{channel}_oracle"], jitter, marker="|", s=70, color="0.35", label="oracle ceiling")
            ax.scatter(
                g[f"{channel}_weak_mcc"], jitter, marker="x", s=22, color="0.6", label="weak (affine) MCC"
            )
            ax.scatter(g[f"{channel}_mcc"], jitter, s=24, color=colour, label="MCC")
            null = g[f"{channel}_null"].iloc[0]
            ax.vlines(null, y - 0.4, y + 0.4, color="0.5", ls=":", label="random rotation (mean)")
        ax.set_title(f"{channel} factors, held-out users: every replication", fontsize=10)
        ax.set_xlabel("MCC")
        legend(ax, loc="lower left")
    axes[0].set_yticks(range(len(designs)), [d.replace("_", " ") for d in designs])
    axes[0].invert_yaxis()
    return figure


def main() -> None:
    """Run what is missing, then write table and figure."""
    o = options(__doc__, HERE)
    replications = {
        f"{design}-{seed}": partial(replicate, design, seed, o.quick)
        for seed in range(SEEDS)
        for design in DESIGNS
    }
    summarise(run(replications, o), o.out)
    print((o.out / "summary.md").read_text())


if __name__ == "__main__":
    main()
