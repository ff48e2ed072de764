"""Effects: are the effects of a policy shift estimated without bias, and do their intervals cover?

Aims          Bias of TE, NDE, NIE and the split of NIE by channel; coverage of their 90% intervals; whether
              suppression and substitution are found where they are, and only there; whether logs made under a new
              policy, encoded by the old run, move in the factors that the policy moves and in no other.
Data          ``substitution``: the world of ``simulate.SUBSTITUTION`` (2 + 3 factors, 24 categories), in which one
              more standard deviation of ``exposure_1`` raises engagement and lowers alignment, at 4,000 and at
              20,000 users.  ``control``: the same strengths, but exposure moves towards what users look for.
              ``coverage``: the world of substitution at 1,000 users with 2 + 2 factors and 12 categories.
              ``placebo``: a world of that size without substitution, in which ``exposure_1`` moves no factor and no
              engagement, so that every effect is 0.  The world and its users are drawn anew from each seed.
Estimands     Interventional effects of ``exposure_1`` + 1 sd on engagement and alignment, at the users' covariates.
              The fits of ``coverage`` are asked for more: counterfactual effects, of the same users with their own
              noise; and (``far``) the effects of a policy with bad overlap, + 3 sd, where the data hardly reach.
Methods       The fit's first stage with its defaults, but for fewer restarts in all but ``substitution`` (`RESTARTS`);
              the encoders are not needed for these effects and are left out.  Then the Laplace posterior, and
              ``mediation.average_effects``.  For counterfactual effects the users' noise is abducted by the expansion
              guide.  ``invariance`` uses whole fits of the world of ``coverage``, encoders included (`INVARIANCE`).
              Against them the naive comparison: the slope of users' engagement rates on ``exposure_1``.
Performance   Bias relative to the largest true effect on the outcome, its Monte Carlo standard error, and the empirical
              against the model's standard error; coverage with its Monte Carlo standard error; the share of
              intervals without 0 (type I error in ``placebo``, power elsewhere).

Run           ``python simulations/effects.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/effects/results.csv``, ``invariance.csv``, ``summary.md`` and ``effects.png``.
"""

from __future__ import annotations

import json
import os
import shutil
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
from matplotlib.axes import Axes

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.evidence.measures import cross_r2
from pyro_hmvcrl.inference.laplace import DRAWS
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import screen, tensors_of
from pyro_hmvcrl.queries.averages import Users, average_effects
from pyro_hmvcrl.queries.findings import SURE, interval, substitution, suppression
from pyro_hmvcrl.queries.overlap import overlap
from pyro_hmvcrl.report.style import ESTIMANDS
from pyro_hmvcrl.run.fitting import fit_folder, parameter_posterior
from pyro_hmvcrl.run.load import load_run
from pyro_hmvcrl.synthetic.design import SUBSTITUTION, Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate
from pyro_hmvcrl.synthetic.truth import true_effects
from pyro_hmvcrl.synthetic.world import World, draw_world

from study import Tables, account, legend, options, run, simulated_dataset, table

HERE = Path(__file__).parent / "effects"
LEVEL = 0.9
SMALL = SUBSTITUTION | {"users": 1_000, "preference_factors": 2, "categories": 12}
DESIGNS: dict[str, dict[str, Any]] = {
    "coverage": SMALL,
    "placebo": SMALL | {"substitution": 0.0},
    "substitution": SUBSTITUTION,
    "control": SUBSTITUTION | {"substitution": -SUBSTITUTION["substitution"]},
    "substitution_20000": SUBSTITUTION | {"users": 20_000},
}
# What the fits of a design are asked: under which name, how far exposure_1 is shifted, and of which kind.
ONE_SD = (1.0, "interventional")
QUESTIONS = {design: [(design, *ONE_SD)] for design in DESIGNS}
QUESTIONS["coverage"] += [("coverage", 1.0, "counterfactual"), ("far", 3.0, "interventional")]
SEEDS = 100  # of every design
RESTARTS = {"substitution": Settings.restarts}  # 1 in the others, where a stuck start counts
INVARIANCE, INVARIANCE_SEEDS = {"restarts": 1, "steps": 600, "encoder_steps": 1_000}, 30
# What tables and figures show: in the model the policy has no direct effect on alignment.
NAMES = [(o, e) for o in ("engagement", "alignment") for e in ESTIMANDS if (o, e) != ("alignment", "NDE")]
NOTE = """Bias and standard errors are shares of the replication's largest true effect on the outcome; in `placebo`,
where all are 0, probabilities. Empirical: the errors' standard deviation over data seeds; model: the root mean square
of the posterior's. Without 0: the share of the intervals; type I error in `placebo`, power elsewhere. Monte Carlo
standard errors of n seeds: of an empirical or model one about itself / √(2n), of a share p √(p(1 - p) / n)."""
TRUTH_DRAWS = 120  # noise draws a user: their Monte Carlo error is about an eighth of the posterior's sd


# --- Effects -------------------------------------------------------------------------------------------------


def replicate(design: str, seed: int, quick: bool, scratch: Path) -> Tables:
    """One data seed of one design: simulate, fit, and hold the effects asked for against the truth."""
    d = Design.with_knobs(**(DESIGNS[design] | ({"users": 200, "categories": 6} if quick else {})))
    sim = simulate(d, seed, without_effects(draw_world(d, seed)) if design == "placebo" else None)
    dataset = simulated_dataset(sim, scratch, seed)
    steps = {"restarts": RESTARTS.get(design, 1)}
    steps |= {"restarts": 1, "steps": 20} if quick else {}
    settings = Settings(d.platform_factors, d.preference_factors, seed=seed, device="cpu", **steps)
    found = screen(dataset, settings)
    logs = tensors_of(dataset, found.standardisation)
    posterior = parameter_posterior(found, dataset, seed, 20 if quick else DRAWS)
    users = Users(logs, found.guide.expansion(d.users).evidence(logs))
    covariates, rows = dataset.users[d.exposure_names + d.preference_names], []
    for asked, by, kind in QUESTIONS[design]:
        policy = logs.exposure_covariates.clone()
        policy[:, 0] += by / found.standardisation.sd["exposure_1"]
        after = covariates.assign(exposure_1=covariates["exposure_1"] + by)[d.exposure_names]
        counterfactual = kind == "counterfactual"
        effects = average_effects(
            found.guide,
            posterior,
            users,
            {"exposure_covariates": policy},
            counterfactual=counterfactual,
            seed=seed,
        ).contrasts
        truth = true_effects(sim, {"exposure_1": by}, TRUTH_DRAWS, counterfactual=counterfactual)
        of_all = {"suppression": suppression(effects["engagement"]), "substitution": substitution(effects)}
        of_all |= {"naive": naive(sim), "outside": overlap(covariates, after).outside}
        for outcome, estimand in product(truth["outcomes"], ESTIMANDS):
            draws = effects[outcome][estimand]
            row = {"design": asked, "seed": seed, "kind": kind, "outcome": outcome, "estimand": estimand}
            row |= {"truth": truth["outcomes"][outcome][estimand]}
            rows.append(row | interval(draws, LEVEL) | {"sd": draws.std()} | of_all)
    return {"results": rows}


def naive(sim: Any) -> float:
    """Slope of users' engagement rates on ``exposure_1``."""
    shown = sim.exposure.sum(1)
    rate = sim.engagement.sum(1)[shown > 0] / shown[shown > 0]
    return float(np.polyfit(sim.exposure_covariates[shown > 0, 0], rate, 1)[0])


def without_effects(world: World) -> World:
    """The world with ``exposure_1`` cut off from all that comes after it."""
    of_others = (np.arange(world.design.exposure_covariates) > 0).astype(float)
    return replace(
        world,
        location_weights=(world.location_weights[0] * of_others[:, None], world.location_weights[1]),
        log_scale_weights=(world.log_scale_weights[0] * of_others[:, None], world.log_scale_weights[1]),
        engagement_direct=world.engagement_direct * of_others,
    )


# --- Invariance ----------------------------------------------------------------------------------------------


def invariance(seed: int, quick: bool, scratch: Path) -> Tables:
    """Encode the logs of the same users under the new policy, and compare the factors' displacement with the truth."""
    d = Design.with_knobs(**(SMALL | ({"users": 200, "categories": 6} if quick else {})))
    steps = INVARIANCE | ({"steps": 20, "encoder_steps": 20} if quick else {})
    settings = Settings(d.platform_factors, d.preference_factors, seed=seed, device="cpu", **steps)
    for folder in ("before", "after", "run"):
        shutil.rmtree(scratch / folder, ignore_errors=True)
    world = draw_world(d, seed)
    before, after = simulate(d, seed, world), simulate(d, seed, world, {"exposure_1": 1.0})
    write_simulation(before, scratch / "before", seed)
    write_simulation(after, scratch / "after", seed, truth=False)
    fit_folder(scratch / "before", scratch / "run", settings)
    run = load_run(scratch / "run")
    first, second = (
        run.encode(read_dataset(scratch / folder, categories=run.categories))
        for folder in ("before", "after")
    )
    report = json.loads((scratch / "run" / "report.json").read_text())["identifiability"]["channels"]
    rows = []
    for channel in ("platform", "preference"):
        matched = report[channel]["mcc"]
        truths = getattr(before, channel), getattr(after, channel)
        for k, (j, sign) in enumerate(zip(matched["assignment"], matched["signs"], strict=True)):
            name = f"{channel}_{j + 1}"
            moved = sign * (second[name] - first[name]).mean() / first[name].std(ddof=0)
            true = (truths[1] - truths[0])[:, k].mean() / truths[0][:, k].std()
            both = {"r2": first[[name]].to_numpy(), "true_r2": truths[0][:, [k]]}
            r2 = cross_r2({"exposure": before.exposure_covariates}, both)["exposure"]
            rows.append({"seed": seed, "factor": f"{channel}_{k + 1}", "true": true, "encoded": moved} | r2)
    shutil.rmtree(scratch)
    return {"invariance": rows}


# --- Results -------------------------------------------------------------------------------------------------


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Tables by design and estimand, and the figures with every replication."""
    results, moved = with_errors(tables["results"]), tables["invariance"]
    parts = [
        "# Effects",
        "",
        account(tables),
        "",
        "## Bias and coverage",
        "",
        NOTE,
        "",
        table(performance(results)),
    ]
    parts += ["", "## Suppression and substitution", "", table(flags(results))]
    parts += ["", "## The seeds furthest off", "", table(furthest(results))]
    parts += ["", "## Invariance: displacement of each factor, in standard deviations", ""]
    moved = moved.assign(error=moved["encoded"] - moved["true"], r2_error=moved["r2"] - moved["true_r2"])
    by_factor = moved.groupby("factor").agg(
        seeds=("seed", "size"),
        true=("true", "mean"),
        encoded=("encoded", "mean"),
        bias=("error", "mean"),
        bias_se=("error", "sem"),
        rmse=("error", lambda e: (e**2).mean() ** 0.5),
        largest_error=("error", lambda e: e.abs().max()),
        r2_rmse=("r2_error", lambda e: (e**2).mean() ** 0.5),
    )
    parts.append(table(by_factor.reset_index()))
    (out / "summary.md").write_text("\n".join(parts) + "\n")
    _draw(results, moved).savefig(out / "effects.png", dpi=150)


def with_errors(results: pd.DataFrame) -> pd.DataFrame:
    """Errors and stated standard deviations as shares of the replication's largest true effect on the outcome.

    Where nothing has an effect they are in the outcome's own unit, a probability.
    """
    of_question = results.groupby(["design", "seed", "kind", "outcome"])["truth"]
    unit = of_question.transform(lambda truth: truth.abs().max() or 1.0)
    covered = (results["lower"] <= results["truth"] + 1e-9) & (results["truth"] - 1e-9 <= results["upper"])
    return results.assign(
        error=(results["mean"] - results["truth"]) / unit, stated_sd=results["sd"] / unit, covered=covered
    )


def performance(results: pd.DataFrame) -> pd.DataFrame:
    """Bias, empirical and model standard error, coverage, and the share of intervals without 0."""
    rows = []
    for key, g in results.groupby(["design", "kind", "outcome", "estimand"], sort=False):
        if not g["sd"].any():
            continue  # alignment has no direct effect: 0 exactly, in truth and estimate
        n, covered = len(g), g["covered"].mean()
        rows.append(dict(zip(("design", "kind", "outcome", "estimand"), key, strict=True)))
        rows[-1] |= {"seeds": n, "bias": g["error"].mean(), "bias_se": g["error"].std() / n**0.5}
        rows[-1] |= {"empirical_se": g["error"].std(), "model_se": (g["stated_sd"] ** 2).mean() ** 0.5}
        rows[-1] |= {"coverage": covered, "coverage_se": (covered * (1 - covered) / n) ** 0.5}
        rows[-1] |= {"without_0": ((g["lower"] > 0) | (g["upper"] < 0)).mean()}
    return pd.DataFrame(rows)


def flags(results: pd.DataFrame) -> pd.DataFrame:
    """How often suppression and substitution are found where they are, and elsewhere; and the naive comparison."""
    interventional = results[results["kind"] == "interventional"]
    rows = []
    for design, g in interventional.groupby("design", sort=False):
        truth = g.pivot(index="seed", columns=["outcome", "estimand"], values="truth")
        said, row = g.drop_duplicates("seed").set_index("seed"), {"design": design, "seeds": len(truth)}
        there = {
            "suppression": truth["engagement", "NDE"] * truth["engagement", "NIE"] < 0,
            "substitution": (truth["engagement", "TE"] > 0) & (truth["alignment", "TE"] < 0),
        }
        for name, true in there.items():
            found = said[name] >= SURE
            row |= {f"{name} found": f"{(found & true).sum()} of {true.sum()}"}
            row |= {f"{name} found where none is": f"{(found & ~true).sum()} of {(~true).sum()}"}
        row |= {"naive says success": (said["naive"] > 0).sum()}
        rows.append(row | {"users outside the support": said["outside"].mean()})
    return pd.DataFrame(rows)


def furthest(results: pd.DataFrame) -> pd.DataFrame:
    """The five seeds of each question and outcome with the largest errors, so that stuck starts show."""
    question = ["design", "kind", "outcome"]
    sizes = results.assign(largest_effect=results["truth"].abs(), largest_error=results["error"].abs())
    of_seed = sizes.groupby([*question, "seed"], sort=False)[["largest_effect", "largest_error"]].max()
    worst = of_seed["largest_error"].groupby(question, sort=False).nlargest(5).droplevel([0, 1, 2])
    return of_seed.loc[worst.index].reset_index()


def _draw(results: pd.DataFrame, moved: pd.DataFrame) -> plt.Figure:
    """Errors of every replication by question, coverage, and what the encoded logs say."""
    figure, axes = plt.subplots(3, 3, figsize=(14, 13), layout="constrained")
    coverage, last, displacement = axes[2]
    errors = [*axes[:2].flat, last]
    questions = list(dict.fromkeys(question for asked in QUESTIONS.values() for question in asked))
    shown = performance(results)
    for ax, (design, by, kind) in zip(errors, questions, strict=True):
        g = results[(results["design"] == design) & (results["kind"] == kind)]
        if g.empty:
            ax.set_axis_off()
            continue
        _draw_errors(ax, g)
        users = Design.with_knobs(**DESIGNS.get(design, SMALL)).users
        ax.set_title(
            f"{design}: {kind}, +{by:g} sd\n{users:,} users, {g['seed'].nunique()} seeds", fontsize=10
        )
        points = "percentage points" if design == "placebo" else "% of the largest effect"
        ax.set_xlabel(f"error, {points} (bar: mean)")
    for k, (design, _, kind) in enumerate(questions):
        g = shown[(shown["design"] == design) & (shown["kind"] == kind)]
        if g.empty:
            continue
        y = np.array([NAMES.index(name) for name in zip(g["outcome"], g["estimand"], strict=True)], float)
        label = f"{design}, {kind}" if kind != "interventional" else design
        x, error = 100 * g["coverage"], 100 * g["coverage_se"]
        coverage.errorbar(x, y + (k - 3) / 9, xerr=error, fmt="o", ms=3, lw=1, color=f"C{k}", label=label)
    coverage.axvline(90, color="0.6", lw=0.8, zorder=0)
    coverage.set(xlim=(40, 102), xlabel="coverage of 90% intervals, % (± Monte Carlo se)")
    coverage.set_title("coverage", fontsize=10)
    legend(coverage, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)
    for ax in (*axes[:2, 0], coverage):
        ax.set_yticks(range(len(NAMES)), [" ".join(name).replace("_", " ") for name in NAMES])
    for ax in (*errors, coverage):
        ax.set_ylim(len(NAMES) - 0.5, -0.5)
        ax.spines[["top", "right"]].set_visible(False)
    for channel, colour in (("platform", "#0072B2"), ("preference", "#D55E00")):
        g = moved[moved["factor"].str.startswith(channel)]
        displacement.scatter(g["true"], g["encoded"], color=colour, s=12, alpha=0.7, lw=0, label=channel)
    ends = [moved[["true", "encoded"]].min(axis=None), moved[["true", "encoded"]].max(axis=None)]
    displacement.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
    displacement.set(xlabel="true displacement, sd", ylabel="displacement of encoded factors, sd")
    displacement.set_title("invariance: logs under the new policy,\nencoded by the old run", fontsize=10)
    legend(displacement)
    return figure


def _draw_errors(ax: Axes, results: pd.DataFrame) -> None:
    """Every replication of one question, by estimand, with a bar at their mean."""
    for y, (outcome, estimand) in enumerate(NAMES):
        error = (
            100 * results.loc[(results["outcome"] == outcome) & (results["estimand"] == estimand), "error"]
        )
        colour = "#0072B2" if outcome == "engagement" else "#D55E00"
        place = y + np.linspace(-0.3, 0.3, max(len(error), 1))[: len(error)]
        ax.scatter(error, place, s=8, color=colour, alpha=0.6, lw=0)
        ax.vlines(error.mean(), y - 0.4, y + 0.4, color="black", lw=1.2)
    ax.axvline(0, color="0.7", lw=0.8, zorder=0)
    ax.set_yticks([])


def main() -> None:
    """Run what is missing, then write tables and figures."""
    o = options(__doc__, HERE)
    replications = {
        f"invariance-{seed}": partial(invariance, seed, o.quick) for seed in range(INVARIANCE_SEEDS)
    }
    replications |= {
        f"{design}-{seed}": partial(replicate, design, seed, o.quick)
        for design in DESIGNS
        for seed in range(SEEDS)
    }
    summarise(run(replications, o), o.out)
    print((o.out / "summary.md").read_text())


if __name__ == "__main__":
    main()
