"""Many categories: are factors and effects as good with 700 of them, and what does a fit cost?

Aims          Recovery against the oracle's, bias and coverage of effects, and the time of a fit, where restarts see the
              categories in groups and the parameters' posterior is held in blocks.
Data          The world of ``simulate.SUBSTITUTION`` with 8,000 users and 700 categories, of which the rarest come up in
              a few events of all users.  World and users are drawn anew from each of `SEEDS` data seeds.
Estimands     Factors of the held-out users; interventional effects of ``exposure_1`` + 1 sd on engagement and
              alignment.
Methods       The first stage of a fit with one start (`SETTINGS`), the parameters' posterior, ``average_effects``.
Performance   MCC of each channel, and that of the oracle, which has the true parameters, at the same users; bias as a
              share of the replication's largest true effect on the outcome, coverage of 90% intervals; seconds of one
              core; all with Monte Carlo standard errors.

Run           ``python simulations/many.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/many/results.csv``, ``summary.md`` and ``many.png``.
"""

from __future__ import annotations

import os
import time
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
from pyro_hmvcrl.inference.laplace import DRAWS
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import Screening, screen, tensors_of
from pyro_hmvcrl.queries.averages import Users, average_effects
from pyro_hmvcrl.queries.findings import interval
from pyro_hmvcrl.report.style import ESTIMANDS
from pyro_hmvcrl.run.fitting import parameter_posterior
from pyro_hmvcrl.synthetic.design import SUBSTITUTION, Design
from pyro_hmvcrl.synthetic.oracle import oracle
from pyro_hmvcrl.synthetic.simulation import Simulation, simulate
from pyro_hmvcrl.synthetic.truth import true_effects

from effects import performance, with_errors
from study import Tables, account, legend, run_worlds, simulated_dataset, table, with_error

HERE = Path(__file__).parent / "many"
WORLD = SUBSTITUTION | {"users": 8_000, "categories": 700}
SETTINGS = {"restarts": 1}
SEEDS = 20
LEVEL = 0.9
TRUTH_DRAWS = 40  # noise draws a user


def replicate(seed: int, quick: bool, scratch: Path) -> Tables:
    """One world: its factors and effects, and what is said of them."""
    d = Design.with_knobs(**(WORLD | ({"users": 150, "categories": 8} if quick else {})))
    sim = simulate(d, seed)
    dataset = simulated_dataset(sim, scratch, seed)
    settings = Settings(
        d.platform_factors,
        d.preference_factors,
        seed=seed,
        device="cpu",
        **(SETTINGS | ({"steps": 20} if quick else {})),
    )
    start = time.process_time()
    found = screen(dataset, settings)
    posterior = parameter_posterior(found, dataset, seed, 20 if quick else DRAWS)
    seconds = round(time.process_time() - start)
    logs = tensors_of(dataset, found.standardisation)
    users = Users(logs, found.guide.expansion(d.users).evidence(logs))
    policy = logs.exposure_covariates.clone()
    policy[:, 0] += 1 / found.standardisation.sd["exposure_1"]
    effects = average_effects(
        found.guide, posterior, users, {"exposure_covariates": policy}, seed=seed
    ).contrasts
    truth = true_effects(sim, {"exposure_1": 1.0}, 2 if quick else TRUTH_DRAWS)["outcomes"]
    of_world = {"seed": seed, "seconds": seconds} | recovery(sim, found.held_out, found)
    rows = []
    for outcome, estimand in product(truth, ESTIMANDS):
        draws = effects[outcome][estimand]
        row = of_world | {
            "design": "many",
            "kind": "interventional",
            "outcome": outcome,
            "estimand": estimand,
            "truth": truth[outcome][estimand],
        }
        rows.append(row | interval(draws, LEVEL) | {"sd": draws.std()})
    return {"results": rows}


def recovery(sim: Simulation, held: np.ndarray, found: Screening) -> dict[str, float]:
    """MCC of each channel at the held-out users, and the oracle's."""
    users = found.held.batch(torch.arange(found.held.n_users))
    factors, _ = factor_posterior(*found.guide.expansion(found.held.n_users).posterior(users))
    best = oracle(_of_users(sim, held))
    row, start = {}, 0
    for channel, true in (("platform", sim.platform), ("preference", sim.preference)):
        own = slice(start, start := start + true.shape[1])
        for name, z in ((f"{channel}_mcc", factors), (f"{channel}_oracle", best)):
            row[name] = mcc(true[held], z[:, own], n_bootstrap=0).value
    return row


def _of_users(sim: Simulation, users: np.ndarray) -> Simulation:
    """The simulation of these users alone."""
    per_user = (
        "exposure_covariates",
        "preference_covariates",
        "noise",
        "factors",
        "search",
        "exposure",
        "engagement",
    )
    return replace(sim, **{name: getattr(sim, name)[users] for name in per_user})


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Recovery, effects, and the figure with every replication."""
    results = with_errors(tables["results"])
    results = results[results["sd"] > 0]  # the others are 0 exactly, in truth and estimate
    worlds = results.drop_duplicates("seed")
    scores = [f"{channel}_{of}" for channel in ("platform", "preference") for of in ("mcc", "oracle")]
    recovered = pd.DataFrame(
        [{c: with_error(worlds[c]) for c in scores} | {"seconds": worlds["seconds"].median()}]
    )
    parts = ["# Many categories", "", account(tables), "", table(recovered), "", table(performance(results))]
    (out / "summary.md").write_text("\n".join(parts) + "\n")
    _draw(results).savefig(out / "many.png", dpi=150)


def _draw(results: pd.DataFrame) -> plt.Figure:
    """Left: recovery against the oracle's.  Right: every error and stated interval, by effect."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    worlds = results.drop_duplicates("seed")
    for channel, colour in (("platform", "#0072B2"), ("preference", "#D55E00")):
        left.scatter(
            worlds[f"{channel}_oracle"], worlds[f"{channel}_mcc"], s=14, lw=0, color=colour, label=channel
        )
    scores = worlds.filter(regex="mcc|oracle")
    ends = np.array([scores.min(axis=None), scores.max(axis=None)])
    left.plot(ends, ends, color="0.6", lw=0.8)
    left.set(xlabel="MCC of the oracle", ylabel="MCC of the fit, held-out users")
    legend(left)
    names = results.groupby(["outcome", "estimand"], sort=False)
    for y, (_, rows) in enumerate(names):
        places = y + np.linspace(-0.3, 0.3, max(len(rows), 2))[: len(rows)]
        colours = np.where(rows["covered"], "#0072B2", "#D55E00")
        right.hlines(
            places,
            *(100 * (rows["error"] + side * 1.645 * rows["stated_sd"]) for side in (-1, 1)),
            colours,
            lw=0.8,
        )
    right.axvline(0, color="0.4", lw=0.8)
    right.set_yticks(range(len(names)), [" ".join(key) for key in names.groups])
    right.set(xlabel="90% interval minus the truth, % of the largest effect")
    right.invert_yaxis()
    right.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Run what is missing, then write tables and figures."""
    run_worlds(__doc__, HERE, SEEDS, replicate, summarise)


if __name__ == "__main__":
    main()
