"""Cost: what does a fit take in time and memory, and how does that grow?

Worlds of the ``default`` recovery design with one thing changed at a time (`AXES`): users, events a user, factors,
categories.  Up to `DRAWN` users are drawn; more are copies of these under other names, which cost the same.  Each is
fitted by ``pyro-hmvcrl fit`` in a process of its own on all cores, with one restart and `STEPS` of each stage: so the
part of a fit that does not grow, the default's steps, does not hide the part that does.  Beside it,
milliseconds of a step of each stage against the particles of its bound.  ``default settings`` and ``many categories``
(20,000 users, one period) are whole fits with default settings.

Writes ``simulations/cost/results.csv`` (axis, value, users, events, categories, seconds of the whole process, and the
peak in MiB of its memory that the system cannot take back: without libraries, and without the file in which many counts
are kept), ``particles.csv`` and ``cost.png``.

Run  ``python simulations/cost.py`` (40 minutes on two cores, more than half of it for the million users), or with the
names of some axes as arguments, whose rows replace those there.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyro
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from pyro_hmvcrl.guide.guide import ExpansionGuide
from pyro_hmvcrl.guide.transformers import TransformerGuide
from pyro_hmvcrl.inference.bound import UserELBO
from pyro_hmvcrl.story.logs import Logs
from pyro_hmvcrl.story.model import HMVCRL
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

from study import measured, step_timer

OUT = Path(__file__).parent / "cost"
DRAWN = 10_000
STEPS = 100
#: Of each axis: what it is called, and the knobs that each value turns.
DEFAULT, PROCESSES, MANY = "default settings", "processes", "many categories"  # axes, too
AXES: dict[str, tuple[str, dict[int, dict[str, Any]]]] = {
    "users": ("users", {n: {"users": n} for n in (1_000, 10_000, 100_000, 1_000_000)}),
    "events": (
        "events a user, mean",
        {
            72 * x: {"search_events": (16 * x, 32 * x), "recommendation_events": (32 * x, 64 * x)}
            for x in (1, 4, 16)
        },
    ),
    "factors": (
        "factors in all",
        {2 * k: {"platform_factors": k, "preference_factors": k} for k in (2, 4, 8)},
    ),
    "categories": ("categories", {c: {"categories": c} for c in (24, 48, 96, 192)}),
    DEFAULT: ("users", {n: {"users": n} for n in (1_000, 4_000)}),
    MANY: ("categories", {c: {"categories": c, "users": 20_000} for c in (700, 3_000, 10_000)}),
    PROCESSES: ("processes of torchrun, one thread each", {n: {} for n in (1, 2)}),
}
PARTICLES = (2, 4, 8, 16, 32)
USERS_A_STEP = {"restarts": 1_024, "encoders": 128}


def measure(axis: str, value: int, folder: Path) -> dict[str, Any]:
    """Make the logs, fit in a child process, and read its clock and its peak memory."""
    knobs = {"users": DRAWN} | AXES[axis][1][value]
    design = Design.with_knobs(**(knobs | {"users": min(knobs["users"], DRAWN)}))
    write_simulation(simulate(design, 0), folder / "drawn", seed=0, truth=False)
    events = copied(folder / "drawn", folder / "data", knobs["users"] // design.users)
    sizes = ["--platform-factors", design.platform_factors, "--preference-factors", design.preference_factors]
    steps = (
        ["--restarts", 1, "--steps", STEPS, "--encoder-steps", STEPS] if axis not in (DEFAULT, MANY) else []
    )
    steps += ["--periods", 1] * (axis == MANY)
    words = ["fit", folder / "data", "--out", folder / "run", *sizes, "--device", "cpu", *steps]
    cost = measured(words, value if axis == PROCESSES else 0)
    cost.pop("peak_mib", None)  # libraries and the file of counts are in it
    row = {"axis": axis, "value": value, "users": knobs["users"], "events": events}
    return row | {"categories": design.categories} | cost


def copied(source: Path, out: Path, times: int) -> int:
    """Write a dataset folder with each user so many times, part by part; returns its number of events."""
    out.mkdir()
    (out / "dataset.json").write_text((source / "dataset.json").read_text())
    rows = 0
    for table in ("users", "search_events", "recommendation_events"):
        part = pq.read_table(source / f"{table}.parquet")
        with pq.ParquetWriter(out / f"{table}.parquet", part.schema) as writer:
            for copy in range(times):
                writer.write_table(part.set_column(0, part.schema.field(0), named(part["user_id"], copy)))
        rows += times * len(part) * (table != "users")
    return rows


def named(user_id: pa.ChunkedArray, copy: int) -> pa.Array:
    """Ids of the users' copies, of the type of their own."""
    return pa.array([f"{user}-{copy}" for user in user_id.to_pylist()], user_id.type)


def of_particles() -> Iterator[dict[str, Any]]:
    """Milliseconds of a step of each stage, on one thread, against the particles of its bound."""
    torch.set_num_threads(1)
    for stage, users in USERS_A_STEP.items():
        sim = simulate(Design(users=users), 0)
        logs, d = Logs.of(*sim.observed), sim.world.design
        sizes = d.exposure_covariates, d.preference_covariates, d.categories
        model = HMVCRL(d.platform_factors, d.preference_factors, *sizes)
        model.graph.orient(torch.randn(model.n_factors, model.n_factors))
        guide = ExpansionGuide(model, users) if stage == "restarts" else TransformerGuide(model)
        if stage == "encoders":  # which learn alone
            for part in (guide.model, guide.coefficients):
                part.requires_grad_(False)
        for particles in PARTICLES:
            elbo = UserELBO(particles, stage == "restarts")
            with pyro.validation_enabled(False):  # as in a fit
                taken = step_timer(guide, partial(elbo.differentiable_loss, model, guide, logs))(20)
            yield {"stage": stage, "users": users, "particles": particles, "ms": round(1e3 * taken, 2)}


# --- Results -------------------------------------------------------------------------------------------------


def with_row(row: dict[str, Any]) -> pd.DataFrame:
    """The table that is kept, with a row in the place of the one for the same."""
    table = pd.DataFrame([row])
    if (OUT / "results.csv").exists():
        before = pd.read_csv(OUT / "results.csv")
        same = (before["axis"] == row["axis"]) & (before["value"] == row["value"])
        table = pd.concat([before[~same], table])
    axes = [*AXES]
    return table.sort_values(["axis", "value"], key=lambda c: c.map(axes.index) if c.name == "axis" else c)


def draw(results: pd.DataFrame, particles: pd.DataFrame) -> plt.Figure:
    """Seconds and memory against each axis, and a step against its particles."""
    drawn = {axis: title for axis, (title, _) in AXES.items() if axis not in (DEFAULT, PROCESSES, MANY)}
    figure, axes = plt.subplots(2, len(drawn), figsize=(14, 6), layout="constrained", sharey="row")
    for (top, bottom), (axis, title) in zip(axes.T, drawn.items(), strict=True):
        rows = results[results["axis"] == axis]
        top.loglog(rows["value"], rows["seconds"], "o-", color="#0072B2")
        bottom.loglog(rows["value"], rows["kept_mib"], "o-", color="#D55E00")
        bottom.set_xlabel(title)
        for ax in (top, bottom):
            _ticks(ax, rows["value"])
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:,.0f}")
            ax.yaxis.set_minor_formatter("")
    axes[0, 0].set_ylabel(f"seconds of a fit with\n{STEPS} steps of each stage")
    axes[1, 0].set_ylabel("peak of the memory that the\nsystem cannot take back, MiB")
    return figure


def _ticks(ax: Axes, values: pd.Series) -> None:
    ax.set_xticks(values, [f"{v:,}" for v in values], minor=False)
    ax.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", which="major", color="0.9")


def main() -> None:
    """Measure what is asked, and keep tables and figure."""
    OUT.mkdir(exist_ok=True)
    for axis in sys.argv[1:] or [*AXES]:
        for value in AXES[axis][1]:
            with tempfile.TemporaryDirectory() as folder:
                table = with_row(measure(axis, value, Path(folder)))
            table.to_csv(OUT / "results.csv", index=False, float_format="%g")  # whole MiB
    particles = pd.DataFrame(of_particles())
    particles.to_csv(OUT / "particles.csv", index=False)
    draw(table, particles).savefig(OUT / "cost.png", dpi=150)
    print(table.to_string(index=False), particles.to_string(index=False), sep="\n\n")


if __name__ == "__main__":
    main()
