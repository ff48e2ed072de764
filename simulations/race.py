"""Race: how long until the preference factors are found?

Aims          Seconds until held-out preference MCC passes `GOAL`, ours against rivals, on the same logs in one run.
Data          The ``default`` recovery design: 4,000 users, 3 preference + 2 platform factors, 24 categories; `SEEDS`
              data seeds.
Estimands     Preference factors of the held-out users (MCC).
Methods       ``ours``: one restart of the first stage of ``fit`` with default settings.  ``iVAE on counts``: as its
              authors train it (Khemakhem et al. 2020), one multilayer perceptron that reads the counts of both
              surfaces and all covariates, a prior given the covariates, a decoder for all counts, Adam on the ELBO
              for `LIMIT` seconds.  ``iVAE, our guide``: one channel, but our inference (``variants.ivae``).  The peers
              without a model (``methods.py``) when they are done.  A method without channels may use all its factors.
              The clock stands still while factors are judged.
Performance   Seconds to the goal: median and range over data seeds, and in how many it is reached; the last MCC;
              beside them the oracle and the random-rotation null.

Run           ``python simulations/race.py`` (14 minutes on one core, and to be alone there; ``--quick`` for a
              small form).  Results: ``simulations/race/results.csv``, ``summary.md`` and ``race.png``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core for each

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from pyro_hmvcrl.data.dataset import Dataset, Standardisation
from pyro_hmvcrl.evidence.measures import mcc, rotation_null
from pyro_hmvcrl.guide.experts import factor_posterior
from pyro_hmvcrl.guide.guide import ExpansionGuide
from pyro_hmvcrl.inference.restarts import Build
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import _held_out_users, screen, tensors_of
from pyro_hmvcrl.story.logs import Logs
from pyro_hmvcrl.story.model import HMVCRL
from pyro_hmvcrl.synthetic.design import Array, Design
from pyro_hmvcrl.synthetic.oracle import oracle
from pyro_hmvcrl.synthetic.simulation import Simulation, simulate

from methods import METHODS
from rivals import BATCH, PlainIVAE
from study import options, simulated_dataset, table
from variants import VARIANTS

HERE = Path(__file__).parent / "race"
GOAL = 0.95
SEEDS = 5
LIMIT = 120.0  # seconds
LOOK_EVERY = 0.5  # seconds, growing by a tenth each time
COLOURS = {"ours": "#0072B2", "iVAE on counts": "#D55E00", "iVAE, our guide": "#CC79A7"}


@dataclass
class Watch:
    """A clock that stands still while it looks; what it saw."""

    judge: Callable[[Array], float]  #: preference MCC of factors ``(N_held_out, M)``
    seconds: float = 0.0
    next: float = 0.0
    since: float = field(default_factory=time.perf_counter)
    seen: list[tuple[float, float]] = field(default_factory=list)

    def look(self, encode: Callable[[], Array], now: bool = False) -> None:
        """Judge the factors, if it is time."""
        self.seconds += time.perf_counter() - self.since
        if now or self.seconds >= self.next:
            self.seen.append((self.seconds, self.judge(encode())))
            self.next = 1.1 * self.seconds + LOOK_EVERY
        self.since = time.perf_counter()


# --- Those who race ------------------------------------------------------------------------------------------


def by_our_inference(build: Build, watch: Watch, dataset: Dataset, held: Logs, settings: Settings) -> None:
    """One restart of the first stage, with the guide that `build` makes."""

    def watched(model: HMVCRL, n_users: int) -> ExpansionGuide:
        guide = build(model, n_users)
        forward = guide.forward

        def looked_at(logs: Logs) -> None:
            watch.look(partial(_expanded, guide, held))
            forward(logs)

        guide.forward = looked_at  # type: ignore[method-assign]
        return guide

    found = screen(dataset, settings, build=watched)
    watch.look(partial(_expanded, found.guide, held), now=True)


def _expanded(guide: ExpansionGuide, held: Logs) -> Array:
    with torch.random.fork_rng():
        return factor_posterior(*guide.expansion(held.n_users).posterior(held))[0]


def plain_ivae(watch: Watch, dataset: Dataset, held: Logs, settings: Settings) -> None:
    """Trained until the limit."""
    torch.manual_seed(settings.seed)
    logs = tensors_of(dataset, Standardisation.from_dataset(dataset))
    train = logs.only(torch.as_tensor(np.flatnonzero(~_held_out_users(dataset.n_users, settings))))
    covariates = logs.exposure_covariates.shape[1] + logs.preference_covariates.shape[1]
    model = PlainIVAE(
        len(dataset.categories), covariates, settings.platform_factors + settings.preference_factors
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    @torch.no_grad()
    def encode() -> Array:
        return model.posterior(held)[0].mean.double().numpy()

    limit = LIMIT if settings.steps == Settings.steps else 1.0
    while watch.seconds < limit:
        for rows in torch.randperm(train.n_users).split(BATCH):
            optimiser.zero_grad()
            model.loss(train.batch(rows)).backward()
            optimiser.step()
        watch.look(encode)
    watch.look(encode, now=True)


def peer(name: str, watch: Watch, dataset: Dataset, held_out: Array, settings: Settings) -> None:
    """Done when it is done."""
    found = METHODS[name](dataset.subset(~held_out), settings)
    watch.look(lambda: found.encode(dataset.subset(held_out))[:, found.preference], now=True)


# --- The race ------------------------------------------------------------------------------------------------


def race(seed: int, quick: bool, scratch: Path) -> list[dict[str, Any]]:
    """All methods on one world's logs: a row for each look."""
    sim = simulate(Design(users=200, categories=6) if quick else Design(users=4_000), seed)
    dataset = simulated_dataset(sim, scratch, seed)
    settings = Settings(2, 3, restarts=1, seed=seed, device="cpu", **({"steps": 20} if quick else {}))
    held_out = _held_out_users(dataset.n_users, settings)
    logs = tensors_of(dataset, Standardisation.from_dataset(dataset))
    held = logs.only(torch.as_tensor(np.flatnonzero(held_out)))
    held = held.batch(torch.arange(held.n_users))
    racers: dict[str, Callable[[Watch], None]] = {
        "ours": lambda watch: by_our_inference(ExpansionGuide, watch, dataset, held, settings),
        "iVAE on counts": lambda watch: plain_ivae(watch, dataset, held, settings),
        "iVAE, our guide": lambda watch: by_our_inference(VARIANTS["iVAE"], watch, dataset, held, settings),
    }
    for name in ("matrix factorisation", "PCA", "FastICA", "CCA"):
        racers[name] = lambda watch, name=name: peer(name, watch, dataset, held_out, settings)
    rows = []
    for name, run in racers.items():
        watch = Watch(partial(_preference_mcc, sim, held_out, name))
        run(watch)
        rows += [{"seed": seed, "method": name, "seconds": t, "mcc": score} for t, score in watch.seen]
    ceiling = _preference_mcc(sim, held_out, "ours", oracle(sim)[held_out])
    return [row | {"oracle": ceiling, "null": rotation_null(3).mean} for row in rows]


def _preference_mcc(sim: Simulation, held_out: Array, method: str, factors: Array) -> float:
    own = factors[:, sim.world.preference] if method == "ours" else factors
    return mcc(sim.preference[held_out], own, n_bootstrap=0).value


def summarise(results: pd.DataFrame, out: Path) -> str:
    """Table by method, and the figure."""
    results.to_csv(out / "results.csv", index=False)
    rows = []
    for name, looks in results.groupby("method", sort=False):
        at_goal = looks[looks["mcc"] >= GOAL].groupby("seed")["seconds"].min()
        last = looks.groupby("seed").last()
        took = (
            f"{at_goal.median():.1f} ({at_goal.min():.1f} to {at_goal.max():.1f})"
            if len(at_goal)
            else "never"
        )
        rows.append(
            {
                "method": name,
                f"seconds to {GOAL}": took,
                "reached in": f"{len(at_goal)} of {len(last)}",
                "last MCC, mean": last["mcc"].mean(),
                "seconds in all": last["seconds"].mean(),
            }
        )
    first = results.groupby("seed").first()
    bounds = f"Oracle {first['oracle'].mean():.3f}, random rotation {first['null'].mean():.3f}."
    said = f"# Race\n\nPreference MCC at held-out users, {len(first)} data seeds, one core. {bounds}\n\n"
    said += f"{table(pd.DataFrame(rows))}\n"
    (out / "summary.md").write_text(said)
    _draw(results).savefig(out / "race.png", dpi=150)
    return said


def _draw(results: pd.DataFrame) -> plt.Figure:
    figure, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for name, looks in results.groupby("method", sort=False):
        for i, (_, of_seed) in enumerate(looks.groupby("seed")):
            look = {"color": COLOURS.get(name, "0.45"), "label": name if name in COLOURS and not i else None}
            ax.plot(of_seed["seconds"], of_seed["mcc"], "-" if name in COLOURS else "x", lw=1.3, ms=5, **look)
        if name not in COLOURS:
            at = looks["seconds"].median(), looks["mcc"].median()
            ax.annotate(f"{name} ", at, fontsize=8, color="0.3", ha="right", va="center")
    ax.axhline(results["oracle"].mean(), color="0.2", lw=1, label="oracle ceiling (mean)")
    ax.axhline(GOAL, color="0.2", lw=1, ls="--", label=f"goal, {GOAL}")
    ax.axhline(results["null"].mean(), color="0.2", lw=1, ls=":", label="random rotation (mean)")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="seconds of training, one core", ylabel="preference MCC, held-out users")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def main() -> None:
    """Run it from the start: times are of one sitting."""
    o = options(__doc__, HERE)
    rows = [row for seed in range(1 if o.quick else SEEDS) for row in race(seed, o.quick, o.parts / "logs")]
    print(summarise(pd.DataFrame(rows), o.out))


if __name__ == "__main__":
    main()
