"""Ranking: who ranks what users like best, where chance itself chooses what they are shown?

Aims          Is a ranking by what users look for, with the platform the same for all, better than rankings by what they
              engaged with on a platform that learns?
Data          A world in which the platform learns and habits form (`WORLD`, 1,000 users, five periods), and in which
              users like what they look for (``Design.liked``), which no method sees.  After its window each user is
              shown every category once, as a random slice would in the long run, and likes it or not.  World and users
              are drawn anew from each of `SEEDS` data seeds.
Estimands     NDCG@5, Recall@5 and AUC of each user's ranking of the categories, for what the user likes of the slice.
Methods       ``ours``: ``rank`` of a fit with `SETTINGS`, the platform as it is; and with the platform the same for
              all, which asks another question: what users would look for, had the platform not moved them.
              ``searches``: the user's own, and nothing else.  ``popularity``: engaged events of all users.
              ``matrix factorisation`` of what users engage with, with searches and without, and with each engaged event
              by the inverse of its chance to be shown (``IPS``).  ``iVAE`` on counts, by what it says is searched;
              ``iDCF``, by the engagement rates that it says (``rivals.py``).  Beside them the world's own probabilities
              (``oracle``), and chance.
Performance   Means over users, and over data seeds with their Monte Carlo standard error; ours minus each rival, seed
              by seed.

Run           ``python simulations/ranking.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/ranking/results.csv``, ``summary.md`` and ``ranking.png``.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one replication a core

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.metrics import ndcg_score

import pyro_hmvcrl as hm
from pyro_hmvcrl.data.dataset import Dataset, Standardisation
from pyro_hmvcrl.inference.svi import tensors_of
from pyro_hmvcrl.synthetic.design import Array, Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

from rivals import IDCF, PlainIVAE, train
from study import Tables, account, legend, run_worlds, table, with_error

HERE = Path(__file__).parent / "ranking"
WORLD: dict[str, Any] = {
    "users": 1_000,
    "preference_factors": 2,
    "liked": 1.0,
    "periods": 5,
    "learning": 1.0,
    "personalisation": 0.5,
    "influence": 0.3,
    "familiarity": 0.1,
}
SETTINGS: dict[str, Any] = {"restarts": 1, "steps": 600, "encoder_steps": 100, "device": "cpu"}
SEEDS = 10
TOP = 5
METRICS = (f"NDCG@{TOP}", f"Recall@{TOP}", "AUC")


def replicate(seed: int, quick: bool, scratch: Path) -> Tables:
    """One world: every method's ranking on one and the same slice."""
    design = Design.with_knobs(**(WORLD | ({"users": 80, "categories": 8} if quick else {})))
    sim = simulate(design, seed)
    chance = expit(sim.world.liked_logits(sim.factors, sim.exposure_covariates))
    rng = np.random.default_rng([seed, 11])
    liked = rng.random(chance.shape) < chance
    shutil.rmtree(scratch, ignore_errors=True)
    write_simulation(sim, scratch / "logs", seed, truth=False)
    dataset = hm.read_dataset(scratch / "logs")
    steps = SETTINGS | ({"steps": 20, "encoder_steps": 5} if quick else {})
    factors = {"platform_factors": 2, "preference_factors": 2}
    fitted = hm.fit(dataset, out=scratch / "run", progress=False, seed=seed, **factors, **steps)
    scores = {"oracle": chance, "ours": searched_for(fitted, dataset, as_it_is=True)}
    scores |= {"ours, same for all": searched_for(fitted, dataset, as_it_is=False)} | rivals(dataset, seed)
    scores["chance"] = rng.random(chance.shape)
    shutil.rmtree(scratch)
    return {"results": [{"seed": seed, "method": name} | judged(s, liked) for name, s in scores.items()]}


def searched_for(fitted: hm.Run, dataset: Dataset, as_it_is: bool) -> Array:
    """Probabilities ``(N, C)`` of what each user looks for, the platform `as_it_is` or the same for all."""
    ranked = fitted.rank(as_it_is=as_it_is, top=len(dataset.categories), progress=False)
    wide = ranked.pivot(index="user_id", columns="category", values="probability")
    return np.asarray(wide.loc[list(dataset.user_id), dataset.categories])


def rivals(dataset: Dataset, seed: int) -> dict[str, Array]:
    """Scores ``(N, C)`` of methods without our model."""
    searched, engaged, shown = (
        np.asarray(getattr(dataset, name), float) for name in ("search", "engagement", "exposure")
    )
    usual = shown.sum(0) / shown.sum()
    propensity = (shown + 10 * usual) / (shown.sum(1, keepdims=True) + 10)
    confounded = IDCF(dataset, 2, 2, seed)
    return {
        "searches": searched + searched.sum(0) / searched.sum(),
        "popularity": np.tile(engaged.sum(0), (len(engaged), 1)),
        "matrix factorisation": factorised(engaged, seed),
        "matrix factorisation, searches too": factorised(engaged + searched, seed),
        "matrix factorisation, IPS": factorised(engaged / (len(usual) * propensity), seed),
        "iVAE": by_ivae(dataset, seed),
        "iDCF": confounded.rates(dataset),
    }


def factorised(counts: Array, seed: int) -> Array:
    """Implicit-feedback matrix factorisation with four factors (Hu et al. 2008)."""
    als = AlternatingLeastSquares(4, num_threads=1, random_state=seed)
    als.fit(csr_matrix(counts), show_progress=False)
    return np.asarray(als.user_factors @ als.item_factors.T, float)


def by_ivae(dataset: Dataset, seed: int) -> Array:
    """What an iVAE on the counts of the whole window says is searched."""
    logs = tensors_of(dataset, Standardisation.from_dataset(dataset)).all().by_category
    covariates = logs.exposure_covariates.shape[1] + logs.preference_covariates.shape[1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PlainIVAE(len(dataset.categories), covariates, 4)
        train(model, lambda rows: model.loss(logs.batch(rows)), dataset.n_users, seed)
    return model.searched(logs)


def judged(scores: Array, liked: np.ndarray) -> dict[str, float]:
    """Means over the users who like some of the slice and not all of it."""
    some = liked.any(1) & ~liked.all(1)
    scores, liked = scores[some], liked[some]
    top = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    recall = np.take_along_axis(liked, top, 1).sum(1) / np.minimum(liked.sum(1), TOP)
    n = liked.sum(1)
    ranks = (rankdata(scores, axis=1) * liked).sum(1)
    auc = (ranks - n * (n + 1) / 2) / (n * (liked.shape[1] - n))
    ndcg = ndcg_score(liked.astype(float), scores, k=TOP)
    return dict(zip(METRICS, (float(ndcg), float(recall.mean()), float(auc.mean())), strict=True))


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Means by method, ours against each, and the figure with every seed."""
    results = tables["results"]
    parts = ["# Rankings of what users like, on a random slice", "", account(tables), ""]
    parts += [table(means(results)), "", f"Ours minus each in NDCG@{TOP}, seed by seed.", ""]
    parts += [table(against(results))]
    (out / "summary.md").write_text("\n".join(parts) + "\n")
    _draw(results).savefig(out / "ranking.png", dpi=150)


def means(results: pd.DataFrame) -> pd.DataFrame:
    """A row a method."""
    by_method = results.groupby("method", sort=False)
    rows = [{"method": name} | {m: with_error(g[m]) for m in METRICS} for name, g in by_method]
    return pd.DataFrame(rows)


def against(results: pd.DataFrame) -> pd.DataFrame:
    """By how much ours is ahead of each method, and in how many seeds."""
    by_seed = results.pivot(index="seed", columns="method", values=METRICS[0])
    rows = []
    for name in results["method"].unique():
        ahead = by_seed["ours"] - by_seed[name]
        if name != "ours":
            rows.append({"method": name, "ours ahead by": with_error(ahead), "in seeds": (ahead > 0).sum()})
    return pd.DataFrame(rows)


def _draw(results: pd.DataFrame) -> plt.Figure:
    """Every seed a dot."""
    figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    names = list(results["method"].unique())
    for y, name in enumerate(names):
        x = results.loc[results["method"] == name, METRICS[0]]
        place = y + np.linspace(-0.2, 0.2, max(len(x), 2))[: len(x)]
        colour = "#0072B2" if name == "ours" else "0.55"
        ax.scatter(x, place, s=12, lw=0, color=colour, label="a data seed")
        ax.vlines(x.mean(), y - 0.35, y + 0.35, color="black", lw=1.2, label="mean")
    ax.set_yticks(range(len(names)), names)
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel=f"{METRICS[0]} of what users like on a random slice")
    legend(ax)
    return figure


def main() -> None:
    """Run what is missing, then write tables and figures."""
    run_worlds(__doc__, HERE, SEEDS, replicate, summarise)


if __name__ == "__main__":
    main()
