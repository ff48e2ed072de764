"""A platform that learns: what do its knobs do to engagement and alignment, by the model and by others?

Aims          A platform that nobody modelled re-estimates every day what each user likes, and shows more of it.  Are
              the effects of its knobs found: with the default periods, with one period (a story without a past), by
              the regression that stands beside every answer, and by factors of matrix factorisation?
Data          `USERS` users over `DAYS` days, `CATEGORIES` categories, three tastes.  Every day the platform ranks by
              one of `RULES`, which differ from the features of :mod:`pyro_hmvcrl.story.history`, and shows some
              categories at random.  Four knobs of each user set the weight of popularity, of personalisation, of
              exploration, and autoplay, which moves engagement directly.  In the arm ``random`` knobs are independent
              of the user; in the arm ``rules`` the platform sets them by what it knows of the user (the preference
              covariates).
Estimands     TE of one standard deviation more of each knob on engagement and alignment, means over users and days, for
              all users at once; the truth by running the platform again with the same chance, `TRUTH_RUNS` times.
Methods       ``ours`` (the first stage of ``fit``, one start, periods by default), ``one period``, ``regression``
              (:mod:`pyro_hmvcrl.queries.regression`), ``plug-in`` (the observed rates regressed on all covariates and
              on factors of matrix factorisation, linearly).
Performance   Over `SEEDS` worlds an arm: bias as a share of the outcome's largest true effect, with its Monte Carlo
              standard error; coverage of 90% intervals; sign errors where the truth is over two of the estimate's
              standard errors from 0.

Run           ``python simulations/learning_platform.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/learning_platform/results.csv``, ``summary.md`` and ``learning_platform.png``.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one replication a core

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from pyro_hmvcrl.data import Dataset, read_dataset, write_dataset
from pyro_hmvcrl.inference import Settings, screen
from pyro_hmvcrl.inference.svi import tensors_of
from pyro_hmvcrl.queries.averages import Users, average_effects
from pyro_hmvcrl.queries.findings import interval
from pyro_hmvcrl.queries.regression import observed_rates, total_effect
from pyro_hmvcrl.run.fitting import parameter_posterior
from pyro_hmvcrl.run.write import activity_of
from pyro_hmvcrl.synthetic.world import sigmoid, softmax

from methods import matrix_factorisation
from study import Tables, account, legend, options, run, table, with_error

Array = NDArray[np.float64]
HERE = Path(__file__).parent / "learning_platform"
SEEDS, ARMS = 15, ("random", "rules")
USERS, DAYS, CATEGORIES, TASTES = 2_000, 20, 24, 3
SHOWN, SEARCHED = 3.0, 1.5  # a user and day, on average
KNOBS = ("popularity", "personalisation", "exploration", "autoplay")
OUTCOMES = ("engagement", "alignment")
METHODS = ("ours", "one period", "regression", "plug-in")
TRUTH_RUNS = 40
SETTINGS = Settings(2, TASTES, restarts=1, device="cpu")
DRAWS, LEVEL = 100, 0.9
FIRST_DAY, DAY = 1_750_032_000_000, 86_400_000  # ms


@dataclass(frozen=True)
class Platform:
    """Users with tastes, and a platform that learns them.

    Attributes
    ----------
    rule
        By which it ranks, of `RULES`.
    known
        What it knows of the users: preference covariates ``(N, 5)``.
    tastes
        Of each user ``(N, K)``.
    sought, liked
        Logits of what is searched for ``(N, C)``, and log odds of engagement with it.
    popularity
        Of each category ``(C,)``.
    knobs
        ``(N, 4)``, as they are.
    shown, searched
        Numbers of each user's items a day ``(N, days)``.
    """

    rule: str
    known: Array
    tastes: Array
    sought: Array
    liked: Array
    popularity: Array
    knobs: Array
    shown: NDArray[np.int64]
    searched: NDArray[np.int64]

    @classmethod
    def draw(cls, seed: int, arm: str, users: int) -> Platform:
        """A world of this seed."""
        rng = np.random.default_rng([seed, 1])
        known = rng.normal(size=(users, 5))
        location, scale = (np.linalg.qr(rng.normal(size=(5, TASTES)))[0] for _ in range(2))
        tastes = known @ location + np.exp(0.5 * known @ scale) * rng.normal(size=(users, TASTES))
        of_search = 0.9 * rng.normal(size=(TASTES, CATEGORIES))
        of_liking = 0.45 * of_search + 0.45 * rng.normal(size=(TASTES, CATEGORIES))
        knobs = rng.normal(size=(users, len(KNOBS)))
        if arm == "rules":
            knobs = (knobs + known @ rng.normal(size=(5, len(KNOBS))) * 0.3) / np.sqrt(1 + 5 * 0.3**2)
        return cls(
            rule=tuple(RULES)[seed % len(RULES)],
            known=known,
            tastes=tastes,
            sought=tastes @ of_search + 0.4 * rng.normal(size=CATEGORIES),
            liked=tastes @ of_liking + 0.5 * rng.normal(size=CATEGORIES) - 0.3,
            popularity=rng.normal(size=CATEGORIES),
            knobs=knobs,
            shown=rng.poisson(SHOWN, size=(users, DAYS)),
            searched=rng.poisson(SEARCHED, size=(users, DAYS)),
        )

    def run(self, knobs: Array, seed: int) -> tuple[dict[str, Array], dict[str, float]]:
        """Events by user, day and category, and the mean engagement and alignment, with knobs at these values."""
        rng = np.random.default_rng([seed, 2])
        popular, personal, exploring, autoplay = knobs.T[:, :, None]
        weight = {"popularity": 1 + 0.4 * popular, "personalisation": np.maximum(1 + 0.4 * personal, 0)}
        random = sigmoid(-1.8 + 0.6 * exploring)
        engages, searches = sigmoid(self.liked + 0.35 * autoplay), softmax(self.sought)
        usual = sigmoid(self.liked).mean()
        shown, engaged, lately = np.zeros((3, *self.liked.shape))
        days: dict[str, list[Array]] = {"search": [], "exposure": [], "engagement": []}
        outcomes = {name: 0.0 for name in OUTCOMES}
        for day in range(self.shown.shape[1]):
            rank = RULES[self.rule](self.popularity, weight, shown, engaged, lately, usual)
            p = (1 - random) * rank + random / rank.shape[1]
            outcomes["engagement"] += (p * engages).sum(1).mean() / self.shown.shape[1]
            outcomes["alignment"] += (p * searches).sum(1).mean() / self.shown.shape[1]
            today = rng.multinomial(self.shown[:, day], p)
            liked = rng.binomial(today, engages)
            shown, engaged, lately = shown + today, engaged + liked, 0.7 * lately + liked
            for name, counts in zip(
                days, (rng.multinomial(self.searched[:, day], searches), today, liked), strict=True
            ):
                days[name].append(counts)
        return {name: np.stack(counts, 1) for name, counts in days.items()}, outcomes

    def truth(self, runs: int) -> dict[tuple[str, str], tuple[float, float]]:
        """TE of one more of each knob on each outcome, with its standard error."""
        found: dict[tuple[str, str], list[float]] = {(k, o): [] for k in KNOBS for o in OUTCOMES}
        for number in range(runs):
            _, before = self.run(self.knobs, 1_000 + number)
            for i, knob in enumerate(KNOBS):
                _, after = self.run(self.knobs + np.eye(len(KNOBS))[i], 1_000 + number)
                for outcome in OUTCOMES:
                    found[knob, outcome].append(after[outcome] - before[outcome])
        return {key: (float(np.mean(v)), float(np.std(v) / len(v) ** 0.5)) for key, v in found.items()}


Weight = dict[str, Array]


def _by_rate(
    popularity: Array, weight: Weight, shown: Array, engaged: Array, lately: Array, usual: float
) -> Array:
    """The user's smoothed engagement rate, against popularity, in a softmax."""
    return softmax(
        0.6 * weight["popularity"] * popularity
        + 3.5 * weight["personalisation"] * (engaged + 2 * usual) / (shown + 2)
    )


def _by_share(
    popularity: Array, weight: Weight, shown: Array, engaged: Array, lately: Array, usual: float
) -> Array:
    """What is popular, mixed with the user's own shares of engagement."""
    popular = softmax(0.8 * weight["popularity"] * popularity)
    own = (engaged + 2 * popular) / (engaged.sum(1, keepdims=True) + 2)
    mixed = np.clip(0.5 * weight["personalisation"], 0, 0.95)
    return np.asarray((1 - mixed) * popular + mixed * own)


def _by_lately(
    popularity: Array, weight: Weight, shown: Array, engaged: Array, lately: Array, usual: float
) -> Array:
    """What the user engaged with lately, in a softmax with popularity."""
    return softmax(
        0.6 * weight["popularity"] * popularity + 0.8 * weight["personalisation"] * np.log1p(lately)
    )


Rule = Callable[[Array, Weight, Array, Array, Array, float], Array]
RULES: dict[str, Rule] = {"rate": _by_rate, "share": _by_share, "lately": _by_lately}


def logs_of(platform: Platform, scratch: Path, seed: int, periods: int | None) -> Dataset:
    """The platform's logs as a dataset, by way of a folder that is gone afterwards."""
    events, _ = platform.run(platform.knobs, seed)
    rng = np.random.default_rng([seed, 3])
    users = pd.DataFrame(platform.knobs, columns=list(KNOBS))
    users[[f"known_{d + 1}" for d in range(5)]] = platform.known
    users.insert(0, "user_id", range(len(users)))

    def rows(counts: Array) -> pd.DataFrame:
        user, day, category = np.nonzero(counts)
        times = counts[user, day, category].astype(int)
        frame = pd.DataFrame({"user_id": user, "day": day, "category": category}).loc[
            np.arange(len(user)).repeat(times)
        ]
        moment = FIRST_DAY + frame.pop("day") * DAY + rng.integers(DAY, size=len(frame))
        return frame.assign(timestamp=moment)

    passed, liked = rows(events["exposure"] - events["engagement"]), rows(events["engagement"])
    shown = pd.concat([passed.assign(engaged=0), liked.assign(engaged=1)])
    shutil.rmtree(scratch, ignore_errors=True)
    write_dataset(
        scratch,
        "platform",
        users,
        rows(events["search"]),
        shown,
        list(KNOBS),
        [c for c in users if "known" in c],
    )
    dataset = read_dataset(scratch, periods=periods)
    shutil.rmtree(scratch)
    return dataset


def replicate(seed: int, arm: str, quick: bool, scratch: Path) -> Tables:
    """One world: the truth, and what each method says."""
    platform = Platform.draw(seed, arm, 150 if quick else USERS)
    truth = platform.truth(2 if quick else TRUTH_RUNS)
    settings = Settings(2, TASTES, restarts=1, device="cpu", seed=seed, **({"steps": 20} if quick else {}))
    found: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for method, periods in (("ours", None), ("one period", 1)):
        dataset, start = logs_of(platform, scratch, seed, periods), time.perf_counter()
        found[method] = by_model(dataset, settings, 8 if quick else DRAWS)
        seconds[method] = time.perf_counter() - start
    found["regression"] = by_regression(dataset)
    found["plug-in"] = by_plug_in(dataset, settings)
    rows = []
    for (knob, outcome), (true, error) in truth.items():
        world = {"seed": seed, "arm": arm, "rule": platform.rule, "knob": knob, "outcome": outcome}
        world |= {"true": true, "true_error": error}
        rows += [
            world | {"method": method, "seconds": seconds.get(method)} | of[knob, outcome]
            for method, of in found.items()
        ]
    return {"results": rows}


def by_model(dataset: Dataset, settings: Settings, draws: int) -> dict[tuple[str, str], dict[str, float]]:
    """Ours."""
    s = screen(dataset, settings)
    posterior = parameter_posterior(s, dataset, settings.seed, draws)
    logs, found = tensors_of(dataset, s.standardisation).all(), {}
    for i, knob in enumerate(KNOBS):
        more = logs.exposure_covariates + torch.eye(len(KNOBS))[i] / s.standardisation.sd[knob]
        effects = average_effects(
            s.guide, posterior, Users(logs), {"exposure_covariates": more}, seed=settings.seed
        )
        found |= {(knob, o): interval(effects.contrasts[o]["TE"], LEVEL) for o in OUTCOMES}
    return found


def by_regression(dataset: Dataset) -> dict[tuple[str, str], dict[str, float]]:
    """The regression beside every answer."""
    now, rates, found = dataset.users.drop(columns="user_id"), observed_rates(activity_of(dataset)), {}
    for knob in KNOBS:
        for outcome in OUTCOMES:
            mean, error = total_effect(now, now.assign(**{knob: now[knob] + 1}), rates[outcome])
            half = norm.ppf((1 + LEVEL) / 2) * error
            found[knob, outcome] = {"mean": mean, "lower": mean - half, "upper": mean + half}
    return found


def by_plug_in(dataset: Dataset, settings: Settings) -> dict[tuple[str, str], dict[str, float]]:
    """Least squares of the observed rates on all covariates and factors of matrix factorisation."""
    factors, found = matrix_factorisation(dataset, settings).encode(dataset), {}
    rates = observed_rates(activity_of(dataset))
    for outcome in OUTCOMES:
        told = np.isfinite(rates[outcome])
        covariates = (dataset.covariates(channel)[told] for channel in ("platform", "preference"))
        x = np.column_stack([np.ones(told.sum()), *covariates, factors[told]])
        slopes, *_ = np.linalg.lstsq(x, rates[outcome][told], rcond=None)
        missed = rates[outcome][told] - x @ slopes
        errors = np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * missed.var(ddof=x.shape[1]))
        for i, knob in enumerate(KNOBS, 1):
            half = norm.ppf((1 + LEVEL) / 2) * errors[i]
            found[knob, outcome] = {"mean": slopes[i], "lower": slopes[i] - half, "upper": slopes[i] + half}
    return found


# --- Results -------------------------------------------------------------------------------------------------


def judged(results: pd.DataFrame) -> pd.DataFrame:
    """Each estimate against its truth: error in % of the outcome's largest effect; covered or not; its sign."""
    largest = (
        results["true"].abs().groupby([results["arm"], results["seed"], results["outcome"]]).transform("max")
    )
    half = (results["upper"] - results["lower"]) / 2
    return results.assign(
        error=100 * (results["mean"] - results["true"]) / largest,
        covers=(results["lower"] <= results["true"]) & (results["true"] <= results["upper"]),
        wrong=(results["true"].abs() > 2 * half / norm.ppf((1 + LEVEL) / 2))
        & (results["true"] * results["mean"] < 0),
    )


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Tables by arm, outcome and knob, and the figure with every replication."""
    results = judged(tables["results"])
    parts = ["# A platform that learns", "", account(tables)]
    for arm in ARMS:
        parts += [
            "",
            "## Knobs at random" if arm == "random" else "## Knobs set by what is known of the user",
            "",
        ]
        parts += [
            "Bias ± its standard error, % of the outcome's largest true effect; coverage of 90% intervals; wrong signs "
            "where the truth is over two standard errors from 0.",
            "",
            table(by_knob(results[results["arm"] == arm])),
        ]
    (out / "summary.md").write_text("\n".join(parts) + "\n")
    _draw(results).savefig(out / "learning_platform.png", dpi=150)


def by_knob(results: pd.DataFrame) -> pd.DataFrame:
    """A row an outcome and knob: the mean true effect, and each method's bias, coverage and wrong signs."""
    rows = []
    for (outcome, knob), g in results.groupby(["outcome", "knob"], sort=False):
        row = {
            "outcome": outcome,
            "knob": knob,
            "worlds": g["seed"].nunique(),
            "true": f"{g['true'].mean():.4f}",
        }
        for method in METHODS:
            of = g[g["method"] == method]
            row[method] = f"{with_error(of['error'], 1)}; {of['covers'].mean():.2f}; {of['wrong'].sum()}"
        rows.append(row)
    return pd.DataFrame(rows)


def _draw(results: pd.DataFrame) -> plt.Figure:
    figure, axes = plt.subplots(len(OUTCOMES), len(METHODS), figsize=(14, 7), layout="constrained")
    colours = dict(zip(KNOBS, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=True))
    for row, outcome in zip(axes, OUTCOMES, strict=True):
        own = results[results["outcome"] == outcome]
        ends = 100 * own["true"].min(), 100 * own["true"].max()
        for ax, method in zip(row, METHODS, strict=True):
            for knob, colour in colours.items():
                g = own[(own["method"] == method) & (own["knob"] == knob)]
                for arm, marker in zip(ARMS, "ox", strict=True):
                    of = g[g["arm"] == arm]
                    ax.scatter(
                        100 * of["true"],
                        100 * of["mean"],
                        s=10,
                        marker=marker,
                        color=colour,
                        lw=0.8,
                        label=knob,
                    )
            ax.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
            ax.set(title=f"{method}: {outcome}", xlabel="true effect, points", ylabel="estimate, points")
            legend(ax, frameon=False)
    figure.suptitle("dots: knobs at random; crosses: knobs set by what is known of the user", size=10)
    return figure


def main() -> None:
    """Run what is missing, then write tables and figure."""
    o = options(__doc__, HERE)
    worlds = {
        f"{arm}-{seed}": partial(replicate, seed, arm, o.quick) for seed in range(SEEDS) for arm in ARMS
    }
    summarise(run(worlds, o), o.out)
    print((o.out / "summary.md").read_text())


if __name__ == "__main__":
    main()
