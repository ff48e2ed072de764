"""Outcomes: what a policy does to a further outcome, and whether what users look for agrees with what they like.

Aims          Bias and coverage of effects on ``liked``, which a fit does not read and which is fitted afterwards; and
              how often what users look for is said to agree with an outcome, where it does and where it does not.
Data          The world of ``effects.py``'s ``coverage`` with 2,000 users who like what they look for
              (``Design.liked``), and beside it a ``coin``: an outcome that comes up with 3 of 10 deliveries whatever
              they are.  World and users are drawn anew from each of `SEEDS` data seeds.
Estimands     Interventional effects of ``exposure_1`` + 1 sd on ``liked``; on the coin there is none.
Methods       The first stage of a fit with one start, the parameters' posterior and that of the outcomes,
              ``average_effects``; ``value.agreement`` at the held-out users.
Performance   Bias as a share of the largest true effect on ``liked`` (the coin's too), coverage of 90% intervals, the
              share of seeds in which an outcome is said to agree; Monte Carlo standard errors.

Run           ``python simulations/outcomes.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/outcomes/results.csv``, ``agreement.csv``, ``summary.md`` and ``outcomes.png``.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one replication a core

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix

from pyro_hmvcrl.data.dataset import Dataset
from pyro_hmvcrl.evidence.value import RARE, agreement, search_probability
from pyro_hmvcrl.inference.laplace import DRAWS, ParameterPosterior
from pyro_hmvcrl.inference.outcomes import outcomes_posterior
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import Screening, screen, tensors_of
from pyro_hmvcrl.queries.averages import Users, average_effects
from pyro_hmvcrl.queries.findings import interval
from pyro_hmvcrl.queries.further import rate
from pyro_hmvcrl.queries.mediation import OUTCOMES
from pyro_hmvcrl.report.style import ESTIMANDS
from pyro_hmvcrl.run.fitting import parameter_posterior
from pyro_hmvcrl.story.outcomes import OutcomeStory
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import Simulation, simulate
from pyro_hmvcrl.synthetic.truth import true_effects

from effects import LEVEL, SMALL, TRUTH_DRAWS
from study import Tables, account, run_worlds, simulated_dataset, table, with_error

HERE = Path(__file__).parent / "outcomes"
WORLD = SMALL | {"users": 2_000, "liked": 1.0}
SEEDS = 30
COIN = 0.3
NAMES = ("liked", "coin")


def replicate(seed: int, quick: bool, scratch: Path) -> Tables:
    """One world: effects on both outcomes, and whether what users look for agrees with them."""
    d = Design.with_knobs(**(WORLD | ({"users": 200, "categories": 6} if quick else {})))
    sim = simulate(d, seed)
    dataset = simulated_dataset(sim, scratch, seed)
    liked, rng = dataset.outcomes["liked"], np.random.default_rng([seed, 12])
    shown = dataset.counts["exposure"]
    tossed = csr_matrix(rng.binomial(shown.toarray().astype(int), COIN).astype(np.float32))
    said = {"liked": liked, "coin": tossed}
    settings = Settings(d.platform_factors, d.preference_factors, restarts=1, seed=seed, device="cpu")
    found = screen(dataset, replace(settings, steps=20) if quick else settings)
    posterior = parameter_posterior(found, dataset, seed, 20 if quick else DRAWS)
    train = np.flatnonzero(~found.held_out)
    own = outcomes_posterior(
        found.guide, posterior, found.train, {n: of[train] for n, of in said.items()}, seed
    )
    return {
        "results": effects_on(sim, found, posterior.with_outcomes(own), dataset, seed),
        "agreement": agreeing(found, dataset, said, seed),
    }


def effects_on(
    sim: Simulation, found: Screening, posterior: ParameterPosterior, dataset: Dataset, seed: int
) -> list[dict[str, Any]]:
    """A row for each outcome and effect."""
    logs = tensors_of(dataset, found.standardisation).all()
    policy = logs.exposure_covariates.clone()
    policy[:, 0] += 1 / found.standardisation.sd["exposure_1"]
    users = Users(logs, found.guide.expansion(logs.n_users).evidence(logs))
    further = {name: partial(rate, OutcomeStory(name, found.guide.model)) for name in NAMES}
    asked = {"exposure_covariates": policy}
    said = average_effects(
        found.guide, posterior, users, asked, outcomes=OUTCOMES | further, seed=seed
    ).contrasts
    liked = true_effects(sim, {"exposure_1": 1.0}, TRUTH_DRAWS)["outcomes"]["liked"]
    rows = []
    for outcome, estimand in product(NAMES, ESTIMANDS):
        draws, truth = said[outcome][estimand], liked[estimand] * (outcome == "liked")
        row = {"seed": seed, "outcome": outcome, "estimand": estimand, "truth": truth}
        row |= interval(draws, LEVEL) | {"sd": float(draws.std())}
        row["error"] = (row["mean"] - truth) / max(map(abs, liked.values()))
        rows.append(row | {"covered": row["lower"] <= truth <= row["upper"]})
    return rows


def agreeing(
    found: Screening, dataset: Dataset, said: dict[str, csr_matrix], seed: int
) -> list[dict[str, Any]]:
    """A row for each outcome: how steeply it goes with what held-out users look for."""
    rows = np.flatnonzero(found.held_out)
    users = found.held.batch(torch.arange(found.held.n_users))
    shown = users.exposure.numpy().astype(float)
    searched = search_probability(found.guide, users.numbered(), seed)
    of_held = {name: of[rows].toarray().astype(float) for name, of in said.items()}
    found_of = agreement(searched, shown, of_held, LEVEL, seed)
    return [{"seed": seed, "outcome": name} | of["slope"] for name, of in found_of.items() if of["slope"]]


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Tables of effects and of agreement, and the figure with every replication."""
    results, agreed = tables["results"], tables["agreement"]
    results = results[results["sd"] > 0]  # nothing goes through a loop: 0 exactly, in truth and estimate
    parts = [
        "# Further outcomes",
        "",
        account(tables),
        "",
        "Errors are shares of the largest true effect on `liked`.",
        "",
    ]
    parts += [
        table(performance(results)),
        "",
        f"Agreement with what users look for; said where p is below {RARE}.",
        "",
    ]
    by_outcome = agreed.assign(said=(agreed["p"] < RARE) & (agreed["mean"] > 0)).groupby(
        "outcome", sort=False
    )
    told = [
        {"outcome": n, "odds ratio a sd": with_error(np.exp(g["mean"])), "said": with_error(g["said"])}
        for n, g in by_outcome
    ]
    (out / "summary.md").write_text("\n".join([*parts, table(pd.DataFrame(told))]) + "\n")
    _draw(results).savefig(out / "outcomes.png", dpi=150)


def performance(results: pd.DataFrame) -> pd.DataFrame:
    """Bias, spread as it is and as stated, and coverage, by outcome and effect."""
    rows = []
    for (outcome, estimand), g in results.groupby(["outcome", "estimand"], sort=False):
        unit = ((g["mean"] - g["truth"]) / g["error"]).abs()
        row = {"outcome": outcome, "estimand": estimand, "seeds": len(g), "bias": with_error(g["error"])}
        row |= {"empirical sd": g["error"].std(), "stated sd": float(((g["sd"] / unit) ** 2).mean() ** 0.5)}
        rows.append(row | {"coverage": with_error(g["covered"], 2)})
    return pd.DataFrame(rows)


def _draw(results: pd.DataFrame) -> plt.Figure:
    """Every seed's interval about the truth."""
    groups = list(results.groupby(["outcome", "estimand"], sort=False))
    figure, ax = plt.subplots(figsize=(7, 5), layout="constrained")
    for y, (_, g) in enumerate(groups):
        places = y + np.linspace(-0.35, 0.35, max(len(g), 2))[: len(g)]
        colours = np.where(g["covered"], "#0072B2", "#D55E00")
        ax.hlines(places, *(100 * (g[end] - g["truth"]) for end in ("lower", "upper")), colours, lw=0.9)
    ax.axvline(0, color="0.4", lw=0.8)
    ax.set_yticks(range(len(groups)), [" ".join(key) for key, _ in groups])
    ax.set_xlabel("90% interval minus the truth, percentage points (orange: a miss)")
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Run what is missing, then write tables and figures."""
    run_worlds(__doc__, HERE, SEEDS, replicate, summarise)


if __name__ == "__main__":
    main()
