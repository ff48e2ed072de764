"""Calibration: does the guide say of each user's factors what the fitted model implies, and no more?

Aims          Simulation-based calibration (SBC; Talts et al. 2018) of the guide given the fitted model: whether its
              posteriors are too narrow, too wide or off centre, by how much, and whether SBC tells.
Data          ``base`` of the study of identifiability: 1,000 users, 2 + 2 factors, 12 categories, world and users drawn
              anew from each seed, to fit to.  Then as many new users: covariates and event numbers by the same design,
              standardised as in the fit; noise, factors and events drawn from the fitted model itself, at the means of
              its coefficients.  So the model is right by construction, and only the guide is judged.
Estimands     Each new user's factors, and the log likelihood log p(events | factors): a quantity that depends on the
              data, without which SBC passes a guide that has not looked at them (Modrak et al. 2023).
Methods       The whole ``fit`` with `SETTINGS`.  Four guides of the fitted model: the Transformers; the expansions; and
              two that must fail: ``collapsed``, the prior given the covariates, and ``over-confident``, the
              Transformers with `NARROW` times their standard deviations.
Performance   The rank of the truth among `DRAWS` posterior draws, in `BINS` bins; whether the ranks' ECDF leaves its
              simultaneous 95% band (Säilynoja et al. 2022), as a calibrated guide's does in 5% of the seeds; coverage
              of central intervals, which says how large a miscalibration is; posterior contraction
              1 - var(posterior) / var(prior given covariates) (Schad et al. 2021); Pareto k-hat of the importance
              weights of model over guide.  k-hat alone would not do: were the posterior Gaussian, ``over-confident``
              would have k = 1 - 0.7² = 0.51.  Means over `SEEDS` data seeds (and both factors of a channel) with Monte
              Carlo standard errors.  Fits that fail are counted.

Run           ``python simulations/calibration.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/calibration/results.csv``, ``summary.md`` and ``calibration.png``.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one replication a core

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from pyro import poutine
from scipy.stats import binom
from torch import Tensor

from pyro_hmvcrl.evidence.to_arviz import pareto_k
from pyro_hmvcrl.guide.experts import PrecisionNormal, factor_posterior, product_of_experts
from pyro_hmvcrl.guide.guide import Guide
from pyro_hmvcrl.inference.bound import UNRELIABLE
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import fit, tensors_of
from pyro_hmvcrl.story.logs import Logs
from pyro_hmvcrl.story.programs import at, log_joint, log_prob, observe
from pyro_hmvcrl.synthetic.design import Array, Design
from pyro_hmvcrl.synthetic.simulation import simulate
from pyro_hmvcrl.synthetic.world import draw_world

from identifiability import BASE
from study import Tables, account, legend, options, run, simulated_dataset, table

HERE = Path(__file__).parent / "calibration"
SEEDS = 100
NEW = 1_000  # added to a seed: the new users' seed
SETTINGS = {"restarts": 1, "steps": 500, "encoder_steps": 1_000, "device": "cpu"}
NARROW = 0.7
DRAWS, BINS = 999, 20  # 1,000 ranks, 50 a bin
RANKS = [f"rank_{b + 1}" for b in range(BINS)]
POINTS = np.arange(1, BINS) / BINS  # where the ECDF is looked at
BAND = 0.95
LEVELS = {"coverage_50%": 0.5, "coverage_80%": 0.8, "coverage_90%": 0.9}
EVENTS = ("search", "exposure", "engagement")
QUANTITIES = ("platform factors", "preference factors", "log likelihood")
GUIDES = ("Transformers", "expansions", "collapsed", "over-confident")
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#D55E00")
NOTE = """Means over seeds ± Monte Carlo standard error. A calibrated guide is outside the band in 5% of the seeds. With
1,000 users a seed, one that is slightly off is outside it too in most of them: coverage says how far off it is."""

Counts = NDArray[np.int64]


def replicate(seed: int, quick: bool, scratch: Path) -> Tables:
    """One data seed: fit, and judge the guides at new users."""
    design = Design.with_knobs(**(BASE | ({"users": 80, "categories": 6} if quick else {})))
    world = draw_world(design, seed)
    sims = (simulate(design, s, world) for s in (seed, seed + NEW))
    dataset, new = (simulated_dataset(sim, scratch, seed) for sim in sims)
    steps = SETTINGS | ({"steps": 5, "encoder_steps": 5} if quick else {})
    found = fit(dataset, Settings(design.platform_factors, design.preference_factors, seed=seed, **steps))
    rows = judged(found.guide, tensors_of(new, found.standardisation).all(), seed)
    return {"results": [{"seed": seed} | row for row in rows]}


# --- Simulation-based calibration ----------------------------------------------------------------------------


@torch.no_grad()
def judged(guide: Guide, logs: Logs, seed: int) -> list[dict[str, Any]]:
    """A row for each of the four guides and each quantity.

    Of `logs` only covariates and event numbers are read: the users' factors and events are drawn from the model.
    """
    torch.manual_seed(seed)
    model = at(guide.model, guide.coefficients.means())
    drawn = poutine.trace(model).get_trace(logs)
    logs = logs._replace(**{name: drawn.nodes[name]["value"] for name in EVENTS})
    truth, names = quantities(drawn), [*guide.model.graph.names, "log likelihood"]
    prior = guide.prior(guide.coefficients.means(), logs)
    encoded = product_of_experts(prior, [guide.encoded(logs)])
    rows, limit = [], critical(logs.n_users)
    for name, posterior in zip(GUIDES, guides(guide, logs, encoded), strict=True):
        noise = posterior.sample(torch.Size([DRAWS]))
        held = pyro.condition(observe(model, logs), data={"noise": noise})
        draws = poutine.trace(held).get_trace(logs)
        ranks = (quantities(draws) < truth).sum(0).numpy()  # (N, K + 1)
        k = pareto_k((log_joint(draws) - posterior.log_prob(noise)).numpy())
        weights = {"khat_median": float(np.median(k)), "khat_unreliable": float((k > UNRELIABLE).mean())}
        _, sd = factor_posterior(prior, posterior)
        contraction = (1 - (sd / prior.of_factors[1].numpy()) ** 2).mean(0).tolist()
        for quantity, of_users, contracted in zip(names, ranks.T, [*contraction, None], strict=True):
            row = {"guide": name, "quantity": quantity, "contraction": contracted}
            rows.append(row | judgement(of_users, limit) | weights)
    return rows


def guides(guide: Guide, logs: Logs, encoded: PrecisionNormal) -> tuple[PrecisionNormal, ...]:
    """Posteriors over the noise by the guides in `GUIDES`, of which `encoded` is the first."""
    _, expanded = guide.expansion(logs.n_users).posterior(logs)
    identity = torch.eye(guide.model.n_noise).expand_as(encoded.precision_cholesky)
    collapsed = PrecisionNormal(torch.zeros_like(encoded.mean), identity)
    return encoded, expanded, collapsed, encoded.wider(NARROW)


def quantities(trace: poutine.Trace) -> Tensor:
    """Factors and log likelihood in a trace of the model, ``(..., N, K + 1)``."""
    log_likelihood = torch.stack([log_prob(trace, name) for name in EVENTS]).sum(0)
    return torch.cat([trace.nodes["_RETURN"]["value"], log_likelihood.unsqueeze(-1)], -1)


def judgement(ranks: Counts, limit: float) -> dict[str, float]:
    """What the ranks ``(N,)``, 0 to `DRAWS`, say of one quantity; `limit` is the `critical` extremity."""
    counts = np.bincount(ranks * BINS // (DRAWS + 1), minlength=BINS)
    found = {"outside_band": float(extremity(counts) < limit)}
    for name, level in LEVELS.items():
        found[name] = float((np.abs(2 * ranks - DRAWS) < level * (DRAWS + 1)).mean())
    return found | dict(zip(RANKS, counts.tolist(), strict=True))


# --- The test of uniformity ----------------------------------------------------------------------------------


def extremity(counts: Counts) -> Array:
    """The least two-sided binomial tail, over `POINTS`, of the ECDF of binned ranks ``(..., BINS)``."""
    n_users, below = counts.sum(-1, keepdims=True), counts.cumsum(-1)[..., :-1]
    tails = np.minimum(binom.cdf(below, n_users, POINTS), binom.sf(below - 1, n_users, POINTS))
    return np.asarray(2 * tails.min(-1))


def critical(n_users: int) -> float:
    """Extremity below which the ECDF leaves its band: one of uniform ranks does so with probability 1 - `BAND`."""
    uniform = np.random.default_rng(0).multinomial(n_users, np.full(BINS, 1 / BINS), size=20_000)
    return float(np.quantile(extremity(uniform), 1 - BAND))


def band(n_users: int) -> tuple[Array, Array]:
    """Simultaneous band at `POINTS` of the ECDF minus the uniform's."""
    lower, upper = binom.interval(1 - critical(n_users), n_users, POINTS)
    return lower / n_users - POINTS, upper / n_users - POINTS


# --- Results -------------------------------------------------------------------------------------------------


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Tables by guide, and the figure with every replication."""
    results = tables["results"]
    of_channel = results["quantity"].str.replace(r"_\d+$", " factors", regex=True)
    results = results.assign(quantity=of_channel)
    parts = ["# Calibration", "", account(tables), "", NOTE]
    shown = ["outside_band", *LEVELS, "contraction"]
    parts += ["", table(performance(results, ["guide", "quantity"], shown))]
    parts += ["", f"Pareto k-hat, and the share of users in whom it is above {UNRELIABLE}:"]
    parts += ["", table(performance(results, ["guide"], ["khat_median", "khat_unreliable"]))]
    (out / "summary.md").write_text("\n".join(parts) + "\n")
    _draw(results).savefig(out / "calibration.png", dpi=150)


def performance(results: pd.DataFrame, by: list[str], columns: list[str]) -> pd.DataFrame:
    """Means over seeds with their Monte Carlo standard errors; a seed's factors of a channel are averaged first."""
    seeds = results.groupby([*by, "seed"], sort=False)[columns].mean().groupby(by, sort=False)
    mean, error = (part.map("{:.3f}".format) for part in (seeds.mean(), seeds.sem()))
    return (mean + " ± " + error).replace("nan ± nan", "").reset_index()


def _draw(results: pd.DataFrame) -> plt.Figure:
    figure, axes = plt.subplots(4, 4, figsize=(13, 12.5), layout="constrained")
    for row, quantity in zip(axes, QUANTITIES, strict=False):
        for ax, guide, colour in zip(row, GUIDES, COLOURS, strict=True):
            of_both = results[(results["guide"] == guide) & (results["quantity"] == quantity)]
            _draw_ecdf(ax, of_both, colour)
            outside = f"{of_both['outside_band'].sum():.0f} of {len(of_both)} outside the band"
            ax.set_title(f"{guide}, {quantity}:\n{outside}", fontsize=9)
        row[0].set_ylabel("ECDF of the rank minus uniform")
    legend(axes[0, 0], loc="upper right")
    for ax in axes[2]:
        ax.set_xlabel("rank of the truth / 1,000")
    by_seed = results[results["contraction"].notna()].groupby(["guide", "seed"]).mean(numeric_only=True)
    _draw_coverage(axes[3, 0], by_seed)
    _draw_by_guide(axes[3, 1], by_seed["contraction"], "contraction, mean of the factors")
    _draw_by_guide(axes[3, 2], by_seed["khat_median"], "median Pareto k-hat of the users")
    _draw_by_guide(axes[3, 3], by_seed["khat_unreliable"], f"share of users with k-hat > {UNRELIABLE}")
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_ecdf(ax: Axes, of_quantity: pd.DataFrame, colour: str) -> None:
    """A line for each replication (and factor), and the band."""
    counts = of_quantity[RANKS].to_numpy()
    n_users = int(counts[0].sum())
    ax.fill_between(POINTS, *band(n_users), color="0.85", lw=0, label="95% band of calibrated guides")
    ax.plot(POINTS, (counts.cumsum(1)[:, :-1] / n_users - POINTS).T, color=colour, lw=0.6, alpha=0.7)
    ax.set_yscale("symlog", linthresh=0.1)  # as much room for what is near the band as for what is far out
    ax.set(xlim=(0, 1), ylim=(-1, 1))
    ax.set_yticks(ticks := (-1, -0.5, -0.1, -0.05, 0, 0.05, 0.1, 0.5, 1), [f"{tick:g}" for tick in ticks])


def _draw_coverage(ax: Axes, by_seed: pd.DataFrame) -> None:
    for x, (name, level) in enumerate(LEVELS.items()):
        ax.hlines(level, x - 0.45, x + 0.45, color="black", lw=0.8, label="nominal")
        for aside, guide, colour in zip((-0.33, -0.11, 0.11, 0.33), GUIDES, COLOURS, strict=True):
            covered = by_seed.loc[guide, name]
            at_seed = x + aside + np.linspace(-0.08, 0.08, len(covered))
            ax.scatter(at_seed, covered, s=7, color=colour, alpha=0.7, lw=0, label=guide)
    ax.set_xticks(range(len(LEVELS)), [f"{level:.0%}" for level in LEVELS.values()])
    ax.set(xlabel="nominal coverage", ylabel="coverage, mean of the factors")
    legend(ax, loc="lower right")


def _draw_by_guide(ax: Axes, values: pd.Series, label: str) -> None:
    """A dot for each replication, and the mean."""
    for x, (guide, colour) in enumerate(zip(GUIDES, COLOURS, strict=True)):
        at_seed = x + np.linspace(-0.25, 0.25, len(values[guide]))
        ax.scatter(at_seed, values[guide], s=9, color=colour, alpha=0.7, lw=0)
        ax.hlines(values[guide].mean(), x - 0.35, x + 0.35, color="black", lw=0.8)
    ax.set_xticks(range(len(GUIDES)), GUIDES, rotation=15)
    ax.set_ylabel(label)


def main() -> None:
    """Run what is missing, then write tables and figure."""
    o = options(__doc__, HERE)
    replications = {f"{seed}": partial(replicate, seed, o.quick) for seed in range(SEEDS)}
    summarise(run(replications, o), o.out)
    print((o.out / "summary.md").read_text())


if __name__ == "__main__":
    main()
