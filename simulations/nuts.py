"""NUTS: are the stated uncertainties those of the full posterior?

Aims          How near the mode and its sandwich come to the posterior that Hamiltonian Monte Carlo draws from, users'
              noise and all, where the model is right.
Data          The world of ``effects.py``'s ``coverage`` with 400 users and 6 categories, which leave some 340
              parameters and 1,800 numbers of users' noise.  World and users are drawn anew from each of `SEEDS` seeds.
Estimands     Means and standard deviations of the parameters, and of interventional effects of ``exposure_1`` + 1 sd on
              engagement and alignment.
Methods       ``ours``: the first stage of a fit with one start, and the parameters' posterior.  ``NUTS``: Pyro's own
              (Hoffman & Gelman 2014), on parameters and noise together, in units of our standard deviations from our
              mode on; the decoders' hidden features stay as fitted, the edges' prior is the Normal of its variance, as
              in ours.  Effects at its draws are those of ``average_effects``.
Performance   Our standard deviations over those of NUTS, and the distance of the means in the latter; the effective
              number of draws.

Run           ``python simulations/nuts.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/nuts/results.csv``, ``effects.csv``, ``summary.md`` and ``nuts.png``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one replication a core

import arviz as az
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pyro_hmvcrl.guide.experts import PrecisionNormal
from pyro_hmvcrl.inference.bound import log_joint_at
from pyro_hmvcrl.inference.laplace import ParameterPosterior, fitted_values, prior_precision
from pyro_hmvcrl.inference.scores import Values
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import Screening, screen, tensors_of
from pyro_hmvcrl.queries.averages import Users, average_effects
from pyro_hmvcrl.run.fitting import parameter_posterior
from pyro_hmvcrl.story.programs import at
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.simulation import simulate

from effects import SMALL
from study import Tables, account, legend, run_worlds, simulated_dataset, table, with_error

HERE = Path(__file__).parent / "nuts"
WORLD = SMALL | {"users": 400, "categories": 6}
SEEDS = 3
DRAWS = {"warm_up": 300, "nuts": 600, "ours": 1_000, "depth": 8}  #: the last of its trees
EFFECTS = [
    (o, e)
    for o in ("engagement", "alignment")
    for e in ("TE", "NDE", "NIE")
    if (o, e) != ("alignment", "NDE")
]


def replicate(seed: int, quick: bool, scratch: Path) -> Tables:
    """One world, by both."""
    design = Design.with_knobs(**(WORLD | ({"users": 60} if quick else {})))
    dataset = simulated_dataset(simulate(design, seed), scratch, seed)
    n = {"warm_up": 5, "nuts": 5, "ours": 20, "depth": 3} if quick else DRAWS
    settings = Settings(2, 2, restarts=1, steps=20 if quick else 600, seed=seed, device="cpu")
    found = screen(dataset, settings)
    ours = parameter_posterior(found, dataset, seed, n["ours"])
    full = by_nuts(found, ours, n, seed)
    rows = []
    for name, sd in full.sd.items():
        away = (ours.mean[name] - full.mean[name]) / sd
        of = {"of_ours": ours.sd[name] / sd, "away": away}
        rows.append({"seed": seed, "parameter": name} | {k: float(v.median()) for k, v in of.items()})
        rows[-1] |= {"rms_away": float(away.square().mean().sqrt()), "draws": smallest_ess(full.draws[name])}
    logs = tensors_of(dataset, found.standardisation).all()
    policy = logs.exposure_covariates.clone()
    policy[:, 0] += 1 / found.standardisation.sd["exposure_1"]
    users = Users(logs, found.guide.expansion(logs.n_users).evidence(logs))
    said = {
        name: average_effects(found.guide, of, users, {"exposure_covariates": policy}, seed=seed).contrasts
        for name, of in (("ours", ours), ("nuts", full))
    }
    effects: list[dict[str, Any]] = []
    for outcome, estimand in EFFECTS:
        row: dict[str, Any] = {"seed": seed, "outcome": outcome, "estimand": estimand}
        for name, contrasts in said.items():
            draws = np.asarray(contrasts[outcome][estimand])
            row |= {f"{name}_mean": draws.mean(), f"{name}_sd": draws.std()}
        effects.append(row | {"draws": float(az.ess(draws[None]))})
    return {"results": rows, "effects": effects}


def by_nuts(found: Screening, ours: ParameterPosterior, n: dict[str, int], seed: int) -> ParameterPosterior:
    """The posterior as NUTS draws it."""
    fitted, potential, start = potential_of(found, ours)
    with pyro.validation_enabled(False):
        pyro.set_rng_seed(seed)
        kernel = NUTS(potential_fn=potential, max_tree_depth=n["depth"])
        chain = MCMC(kernel, n["nuts"], n["warm_up"], initial_params=start, disable_progbar=True)
        chain.run()
    moved = chain.get_samples()
    drawn = {n: value + ours.sd[n] * moved[_site(n)] for n, value in fitted.items()}
    mean, sd = ({n: of(t, 0) for n, t in drawn.items()} for of in (torch.mean, torch.std))
    return ParameterPosterior(mean, sd, drawn, {}, {})


def potential_of(
    found: Screening, ours: ParameterPosterior
) -> tuple[Values, Callable[[Values], Tensor], Values]:
    """The fitted values, minus the log posterior at moves from them in our standard deviations, and no move."""
    guide, train = found.guide, found.train
    users = train.batch(torch.arange(train.n_users))
    _, known = guide.expansion(train.n_users).posterior(users)
    fitted, noise_sd = fitted_values(guide), _sd(known)
    precision = prior_precision(guide.model, fitted)

    def potential(moves: Values) -> Tensor:
        values = {n: value + ours.sd[n] * moves[_site(n)] for n, value in fitted.items()}
        noise = known.mean + noise_sd * moves["noise"]
        prior = torch.stack([(precision[n] * value.square()).sum() for n, value in values.items()]).sum() / 2
        return prior - log_joint_at(at(guide.model, values), users, noise.unsqueeze(0)).sum()

    start = {_site(n): torch.zeros_like(value) for n, value in fitted.items()}
    return fitted, potential, start | {"noise": torch.zeros_like(known.mean)}


def _site(name: str) -> str:
    """A name that Pyro's sampler takes, which keeps points for itself."""
    return name.replace(".", "_of_")


def _sd(known: PrecisionNormal) -> Tensor:
    each = torch.eye(known.mean.shape[-1]).unsqueeze(1).expand(-1, *known.mean.shape)
    return (known.at(each) - known.mean).square().sum(0).sqrt()


def smallest_ess(draws: Tensor) -> float:
    """Effective number of draws ``(D, ...)`` of the parameter of which there are fewest."""
    return min(float(az.ess(of.numpy()[None])) for of in draws.flatten(1).T)


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Ratios and distances by parameter and by effect, and the figure with every one."""
    results, effects = tables["results"], with_ratios(tables["effects"])
    parts = ["# The posterior by NUTS", "", account(tables), "", "## Effects", ""]
    parts += ["Our standard deviation over that of NUTS; how far apart the means are, in the latter.", ""]
    by_effect = effects.groupby(["outcome", "estimand"], sort=False)
    parts += [table(_told(by_effect, ["of_ours", "away", "draws"])), "", "## Parameters", ""]
    parts += [
        "Medians over a parameter's values, but for the distance's root mean square and the fewest draws.",
        "",
    ]
    parts += [table(_told(results.groupby(["parameter"], sort=False), ["of_ours", "rms_away", "draws"]))]
    (out / "summary.md").write_text("\n".join(parts) + "\n")
    _draw(results, effects).savefig(out / "nuts.png", dpi=150)


def with_ratios(effects: pd.DataFrame) -> pd.DataFrame:
    """With ours held against NUTS."""
    away = (effects["ours_mean"] - effects["nuts_mean"]) / effects["nuts_sd"]
    return effects.assign(of_ours=effects["ours_sd"] / effects["nuts_sd"], away=away)


def _told(groups: Any, columns: list[str]) -> pd.DataFrame:
    named = {
        "of_ours": "sd of ours / NUTS",
        "away": "means apart",
        "rms_away": "means apart",
        "draws": "effective draws",
    }
    rows = []
    for key, g in groups:
        row = dict(zip(groups.keys, key, strict=True)) | {"seeds": len(g)}
        rows.append(row | {named[c]: with_error(g[c], 0 if c == "draws" else 2) for c in columns})
    return pd.DataFrame(rows)


def _draw(results: pd.DataFrame, effects: pd.DataFrame) -> plt.Figure:
    """Every ratio of standard deviations a dot: effects, then parameters."""
    names = effects["outcome"] + " " + effects["estimand"]
    rows = pd.concat([effects.assign(of=names), results.assign(of=results["parameter"])])
    order = list(dict.fromkeys(rows["of"]))
    figure, ax = plt.subplots(figsize=(7, 6), layout="constrained")
    for kind, g in (
        ("effect", rows[rows["of"].isin(set(names))]),
        ("parameter", rows[~rows["of"].isin(set(names))]),
    ):
        colour = "#0072B2" if kind == "effect" else "#D55E00"
        ax.scatter(g["of_ours"], g["of"].map(order.index), s=16, lw=0, color=colour, label=kind)
    ax.axvline(1, color="0.4", lw=0.8)
    ax.set_yticks(range(len(order)), order)
    ax.set(xscale="log", xlabel="our standard deviation over that of NUTS (a dot: a data seed)")
    ax.invert_yaxis()
    legend(ax)
    return figure


def main() -> None:
    """Run what is missing, then write tables and figures."""
    run_worlds(__doc__, HERE, SEEDS, replicate, summarise)


if __name__ == "__main__":
    main()
