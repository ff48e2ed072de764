"""Real logs whose answers are known by design: what was shown at random, and what a bandit made of it.

Aims          What do we say of real people's logs where chance itself set what was shown, against what is known by that
              design, against the plain estimate from the data, and against no change?
Data          ``open bandit``: 10,000 items shown by a uniformly random policy and as many by Bernoulli Thompson
              sampling, of each of three campaigns of a fashion shop.  Units are strata of the four user features,
              under an arm.  Nobody searches there: a random half of the random policy's rows stands where searches
              stand, a **placebo** whose contents nothing can move.  So it tests that no preference is invented, moved
              or leaked, and cannot test that one is found.  Clicks are 38 to 69 a file: too few for engagement.
              ``coat`` (users bring it): 290 people, 24 coats that each chose and 16 drawn at random for each; searches
              are the chosen, shown is the drawn, engaged is rated 4 or 5; the exposure covariate is the share of
              women's coats in the draw.  See ``real_logs.py`` for both, their papers and terms.
Estimands     Open Bandit: shares of categories, alignment and engagement under the bandit in strata whose bandit rows
              the fit has not seen.  By design the arm moves nothing that is searched, nor the preference factor; no
              edge joins the channels; and each channel's covariates say nothing of the other.  (A fit of one arm alone
              has no answer: nothing in it varies, and ``from_frames`` refuses such a covariate.)
              Coat: what a tenth more of women's coats does to the share of coats rated 4 or 5, for men and for women,
              which is a tenth of the contrast of women's coats with men's in the drawn half; no edges and no leaks, as
              above; NDCG@5 of the drawn coats that a user had not chosen.
Methods       Ours with 1 + 1 factors (`SETTINGS`): ``hm.fit``, ``validate``, ``effects``, ``rank``.  Plain: the
              bandit's shares in the other strata; the difference of the arms; the slope of users' rates on the draw's
              make-up.  Nothing: as under the random arm.  Ranking is by ``rank`` under do(platform = reference), of
              users whose own drawn coats the fit has not seen (two folds), over a category's coats; against popularity
              and implicit matrix factorisation of the chosen coats rated 4 or 5, and chance.
Performance   Whether our 90% interval holds what is known (for R², whether it is below the 95% point of 200 shuffles of
              the users); mean absolute errors of shares.  Seeds split one and the same data (Open Bandit) or start the
              fit anew (Coat): a spread over them is no sampling error.  What 290 users can show is said beside each
              answer.

Run           ``python simulations/real.py --open-bandit WHEEL`` (``pip download obp==0.4.1 --no-deps``) and
              ``--coat FOLDER``; resumable; ``--quick`` for a small form.
              Results: ``simulations/real/results.csv``, ``summary.md`` and ``real.png``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one replication a core

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from implicit.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.stats import linregress, norm

import pyro_hmvcrl as hm
from pyro_hmvcrl.data.dataset import Dataset
from pyro_hmvcrl.evidence.measures import cross_r2
from pyro_hmvcrl.evidence.observed import Figure, observed_figures
from pyro_hmvcrl.evidence.predictive import Counts
from pyro_hmvcrl.report.verdicts import believe

from real_logs import (
    CAMPAIGNS,
    GENDERS,
    LIKED,
    Coat,
    FilesError,
    bandit_dataset,
    coat_dataset,
    open_bandit,
    read_coat,
)
from study import Options, Tables, account, legend, options, run, table

Array = NDArray[np.float64]
Row = dict[str, Any]
HERE = Path(__file__).parent / "real"
SETTINGS: dict[str, Any] = {"restarts": 1, "steps": 1_000, "encoder_steps": 100, "device": "cpu"}
QUICK = {"steps": 20, "encoder_steps": 5}
SPLITS, STARTS = 3, 10  # seeds of Open Bandit and of Coat
LEVEL, SHUFFLES, TOP, RANK_FACTORS = 0.9, 200, 5, 10
SHIFT = 0.1  # of the share of women's coats
HALF = norm.ppf((1 + LEVEL) / 2)  # of an interval, in standard errors
POWER = norm.ppf(0.975) + norm.ppf(0.8)  # standard errors that are found in 8 of 10 cases, at 5%
BROUGHT = {
    "open-bandit": "the wheel of obp 0.4.1, or its folder obp/dataset/obd",
    "coat": "the folder of Coat's train.ascii, test.ascii and user_item_features",
}


def row(question: str, of: str, known: float, ours: dict[str, float], **more: float | str) -> Row:
    """What is known beside what we say; of one with an interval, whether it holds what is known."""
    said = {"question": question, "of": of, "known": known, "ours": ours["mean"]}
    if "lower" in ours:
        said |= {"lower": ours["lower"], "upper": ours["upper"]}
        said["holds"] = float(ours["lower"] <= known <= ours["upper"])
    return said | more


def nothing_moves(fitted: hm.Run, dataset: Dataset) -> Iterator[Row]:
    """Where all is by chance: edges between the channels, and what each channel's covariates say of the other."""
    edges = json.loads((fitted.folder / "report.json").read_text())["graph"]
    for edge in edges:
        half = HALF * edge["sd"]
        ours = {"mean": edge["weight"], "lower": edge["weight"] - half, "upper": edge["weight"] + half}
        said = f"{edge['source']} to {edge['target']}"
        yield row("edge", said, 0.0, ours, probability=edge["probability"], n=dataset.n_users)
    factors, rng = pd.read_parquet(fitted.folder / "factors.parquet"), np.random.default_rng(0)
    for own, other in (("platform", "preference"), ("preference", "platform")):
        block, channel = dataset.covariates(own), factors[[f"{other}_1"]].to_numpy()

        def r2(rows: NDArray[np.int64], block: Array = block, channel: Array = channel) -> float:
            return cross_r2({"": block[rows]}, {"": channel})[""][""]

        by_chance = [r2(rng.permutation(len(block))) for _ in range(SHUFFLES)]
        found, most = r2(np.arange(len(block))), float(np.quantile(by_chance, 0.95))
        said = row("R2", f"{own} covariates on {other}", float(np.mean(by_chance)), {"mean": found})
        yield said | {"known_upper": most, "holds": float(found <= most), "n": len(block)}


# --- Open Bandit ---------------------------------------------------------------------------------------------


def replicate_bandit(source: Path, campaign: str, seed: int, quick: bool, scratch: Path) -> Tables:
    """A split of one campaign."""
    dataset, unseen = bandit_dataset(open_bandit(source, campaign), seed)
    before, after = dataset.subset(~unseen), dataset.subset(unseen)
    fitted = hm.fit(
        before,
        platform_factors=1,
        preference_factors=1,
        seed=seed,
        progress=False,
        **(SETTINGS | (QUICK if quick else {})),
    )
    rows = [*under_the_bandit(fitted, before, after), *moved_by_the_arm(fitted, before)]
    rows += nothing_moves(fitted, before)
    return {"results": [{"log": "open bandit", "campaign": campaign, "seed": seed} | of for of in rows]}


def observed(dataset: Dataset) -> dict[str, Figure]:
    """Shares, engagement and alignment, with standard errors over units."""
    counts = (dataset.search, dataset.exposure, dataset.engagement)
    return observed_figures(Counts.of(*(of.astype(float) for of in counts)))


def by_arm(dataset: Dataset, bandit: int) -> Dataset:
    """The units of one arm."""
    return dataset.subset((dataset.users["bandit"] == bandit).to_numpy())


def under_the_bandit(fitted: hm.Run, before: Dataset, after: Dataset) -> Iterator[Row]:
    """What is foretold of strata that the fit has seen under the random arm alone, against what the bandit showed."""
    found = fitted.validate(after, level=LEVEL, progress=False).to_dict()
    strata = after.users["stratum"]
    random = by_arm(before.subset(before.users["stratum"].isin(strata).to_numpy()), 0)
    came, plain, nothing = observed(after), observed(by_arm(before, 1)), observed(random)
    numbers = {"n": float(after.exposure.sum()), "clicks": float(after.engagement.sum())}
    for name, foretold in (("shown", found["shown"]), *((n, {n: of}) for n, of in found["outcomes"].items())):
        for i, (of, said) in enumerate(foretold.items()):
            more = {"known_se": came[name].se[i], "plain": plain[name].value[i]}
            more |= {"nothing": nothing[name].value[i]} | numbers
            yield row(name, of, said["observed"], said["predicted"], **more)


def moved_by_the_arm(fitted: hm.Run, before: Dataset) -> Iterator[Row]:
    """What do(bandit) makes of what is searched and of the preference factor: by design nothing."""
    answer = fitted.effects("bandit:=1", level=LEVEL, progress=False).to_dict()
    report = json.loads((fitted.folder / "report.json").read_text())
    grade = believe(answer, report)[0]
    arms = [observed(by_arm(before, bandit))["searched"].value for bandit in (0, 1)]
    numbers = {"n": float(before.search.sum()), "grade": grade}
    for of, difference in zip(before.categories, arms[1] - arms[0], strict=True):
        change = answer["categories"][of]["searched"]["change"]
        yield row("searched, moved", of, 0.0, change, plain=difference, **numbers)
    yield row("factor, moved", "preference_1", 0.0, answer["displacement"]["preference_1"], **numbers)
    through = answer["outcomes"]["alignment"]["NIE_preference"]
    yield row("NIE_preference", "alignment", 0.0, through, **numbers)


# --- Coat ----------------------------------------------------------------------------------------------------


def replicate_coat(folder: Path, seed: int, quick: bool, scratch: Path) -> Tables:
    """A start of the fits."""
    coat = read_coat(folder)
    fit = partial(hm.fit, platform_factors=1, preference_factors=1, seed=seed, progress=False)
    fit = partial(fit, **(SETTINGS | (QUICK if quick else {})))
    dataset = coat_dataset(coat)
    fitted = fit(dataset)
    rows = [*make_up(fitted, coat), *nothing_moves(fitted, dataset)]
    rng = np.random.default_rng(seed)
    ours = scores_unseen(coat, fit, rng)
    for name, scores in ({"ours": ours} | peers(coat, seed)).items():
        each = ndcg(scores, coat, rng)
        error = float(np.nanstd(each) / np.isfinite(each).sum() ** 0.5)
        value = {"question": "NDCG@5", "of": name, "ours": float(np.nanmean(each)), "ours_se": error}
        rows.append(value | {"n": float(np.isfinite(each).sum())})
    return {"results": [{"log": "coat", "campaign": "", "seed": seed} | of for of in rows]}


def contrast(coat: Coat, gender: int) -> tuple[float, float]:
    """By how much oftener drawn coats are rated 4 or 5 if they are women's, by users of one gender; standard error."""
    drawn = coat.drawn[coat.users["gender"] == gender]
    rates = []
    for womens in (0, 1):
        ratings = drawn[:, coat.coats["gender"] == womens]
        rates.append((ratings[ratings > 0] >= LIKED).astype(float))
    return float(rates[1].mean() - rates[0].mean()), float(sum(r.var() / len(r) for r in rates) ** 0.5)


def make_up(fitted: hm.Run, coat: Coat) -> Iterator[Row]:
    """What a tenth more of women's coats does, by gender."""
    change = f"womens_share=+{SHIFT:g}"
    answer = fitted.effects(change, by="gender_women", level=LEVEL, progress=False).to_dict()
    report = json.loads((fitted.folder / "report.json").read_text())
    segments = answer["by_segment"]["segments"]
    for gender, name in enumerate(GENDERS):
        known, error = (SHIFT * of for of in contrast(coat, gender))
        own = (coat.users["gender"] == gender).to_numpy()
        slope = linregress(coat.womens_share[own], liked_share(coat)[own])
        te = segments[str(gender)]["outcomes"]["engagement"]["TE"]
        apart = np.hypot((te["upper"] - te["lower"]) / 2, HALF * error)  # what is known has an error, too
        more: dict[str, Any] = {"known_se": error, "plain": SHIFT * slope.slope}
        more |= {"plain_se": SHIFT * slope.stderr, "n": float(own.sum()), "grade": believe(answer, report)[0]}
        more["holds"] = float(abs(te["mean"] - known) <= apart)
        yield row("a tenth more of women's coats", name, known, te, **more)
    yield row("factor, moved", "preference_1", 0.0, answer["displacement"]["preference_1"], n=len(coat.users))


def liked_share(coat: Coat) -> Array:
    """Of the coats drawn for each user, the share rated 4 or 5."""
    return np.asarray((coat.drawn >= LIKED).sum(1) / (coat.drawn > 0).sum(1))


def scores_unseen(coat: Coat, fit: Callable[[Dataset], hm.Run], rng: np.random.Generator) -> Array:
    """Scores ``(290, 300)`` of each user by the fit of one of two folds that has not seen the user's drawn coats."""
    fold = rng.permutation(len(coat.users)) % 2
    found = np.zeros(coat.drawn.shape)
    for own in (0, 1):
        scores = coat_scores(fit(coat_dataset(coat, rated=fold != own)), coat)
        found[fold == own] = scores[fold == own]
    return found


def coat_scores(fitted: hm.Run, coat: Coat) -> Array:
    """Of each user and coat: the chance that it is chosen, its category's shared out, under one platform for all."""
    category = coat.category
    ranked = fitted.rank(top=category.nunique(), progress=False)
    chance = ranked.pivot(index="user_id", columns="category", values="probability").sort_index()
    coats = category.value_counts()
    return np.asarray(chance[category].to_numpy() / coats[category].to_numpy())


def peers(coat: Coat, seed: int) -> dict[str, Array]:
    """Scores ``(290, 300)`` by what users chose and rated 4 or 5; and none, which is chance."""
    liked = (coat.chosen >= LIKED).astype(np.float32)
    als = AlternatingLeastSquares(RANK_FACTORS, num_threads=1, random_state=seed)
    als.fit(csr_matrix(liked), show_progress=False)
    popular = np.tile(liked.sum(0), (len(liked), 1))
    factorised = als.user_factors @ als.item_factors.T
    return {"popularity": popular, "matrix factorisation": factorised, "chance": np.zeros_like(liked)}


def ndcg(scores: Array, coat: Coat, rng: np.random.Generator) -> Array:
    """Of each user among the drawn coats that the user had not chosen; NaN where none of them is rated 4 or 5."""
    found = np.full(len(scores), np.nan)
    discount = 1 / np.log2(np.arange(TOP) + 2)
    for user, own in enumerate(scores):
        coats = np.flatnonzero((coat.drawn[user] > 0) & (coat.chosen[user] == 0))
        liked = coat.drawn[user, coats] >= LIKED
        if liked.any():
            order = np.lexsort((rng.random(len(coats)), -own[coats]))  # ties as it falls
            best = discount[: min(liked.sum(), TOP)].sum()
            found[user] = (liked[order[:TOP]] * discount[: len(coats)]).sum() / best
    return found


# --- Results -------------------------------------------------------------------------------------------------


def summarise(tables: dict[str, pd.DataFrame], out: Path) -> None:
    """Tables by log, and the figure."""
    results = tables["results"]
    parts = ["# Real logs whose answers are known by design", "", account(tables)]
    bandit, coat = (results[results["log"] == log] for log in ("open bandit", "coat"))
    if len(bandit):
        parts += [
            "",
            "## Open Bandit: what the bandit shows in strata that the fit has seen under the random arm alone",
            "",
            "Mean absolute errors of the shares of categories, in percentage points: ours, of the bandit's shares in "
            "the other strata (plain), and of no change (nothing); `chance` is that of the held-out rows alone. "
            "`held`: how many of our 90% intervals hold what came.",
            "",
            table(shares(bandit)),
            "",
            "## Open Bandit: outcomes there",
            "",
            "In percentage points, means over the splits; ± is a standard error over units. Clicks are too few to "
            "judge engagement.",
            "",
            table(outcomes(bandit)),
        ]
    if len(coat):
        parts += [
            "",
            "## Coat: coats rated 4 or 5, in percentage points, after a tenth more of women's coats",
            "",
            "`least` is the effect that these users show in 8 of 10 cases: by the contrast within users, and by the "
            "slope over users.",
            "",
            table(make_up_table(coat)),
            "",
            f"## Coat: NDCG@{TOP} of the drawn coats",
            "",
            "± is a standard error over users, of a start; the ends are over starts.",
            "",
            table(ranking_table(coat)),
        ]
    parts += [
        "",
        "## Where the design knows that nothing moves, and nothing leaks",
        "",
        "Means over seeds; `known` of R² is the mean of shuffled users, with the 95% point. `grade` is the report's "
        "own, of the answer.",
        "",
        table(none(results)),
    ]
    (out / "summary.md").write_text("\n".join(parts) + "\n")
    _draw(results).savefig(out / "real.png", dpi=150)


def shares(bandit: pd.DataFrame) -> pd.DataFrame:
    """A row a campaign: errors of ours, of the plain estimate, of no change, and those by chance."""
    rows = []
    for campaign, g in bandit[bandit["question"] == "shown"].groupby("campaign", sort=False):
        missed = {name: 100 * (g[name] - g["known"]).abs() for name in ("ours", "plain", "nothing")}
        rows.append(
            {
                "campaign": campaign,
                "splits": g["seed"].nunique(),
                "categories": g["of"].nunique(),
                "rows a split": f"{g['n'].mean():.0f}",
                **{name: float(of.mean()) for name, of in missed.items()},
                "chance": float(100 * (2 / np.pi) ** 0.5 * g["known_se"].mean()),
                "held": f"{g['holds'].sum():.0f} of {len(g)}",
            }
        )
    return pd.DataFrame(rows)


def outcomes(bandit: pd.DataFrame) -> pd.DataFrame:
    """A row a campaign and outcome."""
    rows = []
    own = bandit[bandit["question"].isin(["engagement", "alignment"])]
    for (campaign, outcome), g in own.groupby(["campaign", "of"], sort=False):
        mean = 100 * g[["known", "known_se", "ours", "lower", "upper", "plain", "nothing"]].mean()
        rows.append(
            {
                "campaign": campaign,
                "outcome": outcome,
                "known": f"{mean['known']:.2f} ± {mean['known_se']:.2f}",
                "ours": _with_ends(mean, 2),
                "other strata": f"{mean['plain']:.2f}",
                "no change": f"{mean['nothing']:.2f}",
                "held": f"{g['holds'].sum():.0f} of {len(g)}",
                "clicks a split": f"{g['clicks'].mean():.0f}",
            }
        )
    return pd.DataFrame(rows)


def make_up_table(coat: pd.DataFrame) -> pd.DataFrame:
    """A row a gender."""
    rows = []
    own = coat[coat["question"] == "a tenth more of women's coats"]
    for gender, g in own.groupby("of", sort=False):
        mean = 100 * g[["known", "known_se", "ours", "lower", "upper", "plain", "plain_se"]].mean()
        rows.append(
            {
                "users": f"{g['n'].iloc[0]:.0f} {gender}",
                "starts": len(g),
                "known": f"{mean['known']:.2f} ± {mean['known_se']:.2f}",
                "ours": _with_ends(mean, 2),
                "slope over users": f"{mean['plain']:.2f} ± {mean['plain_se']:.2f}",
                "least": f"{POWER * mean['known_se']:.2f}; {POWER * mean['plain_se']:.2f}",
                "held": f"{g['holds'].sum():.0f} of {len(g)}",
                "grade": ", ".join(sorted(g["grade"].unique())),
            }
        )
    return pd.DataFrame(rows)


def ranking_table(coat: pd.DataFrame) -> pd.DataFrame:
    """A row a method."""
    rows = []
    for method, g in coat[coat["question"] == "NDCG@5"].groupby("of", sort=False):
        value, ends = (
            f"{g['ours'].mean():.3f} ± {g['ours_se'].mean():.3f}",
            (g["ours"].min(), g["ours"].max()),
        )
        rows.append({"method": method, "starts": len(g), "users": f"{g['n'].iloc[0]:.0f}", "NDCG": value})
        rows[-1]["ends"] = f"{ends[0]:.3f} to {ends[1]:.3f}"
    return pd.DataFrame(rows)


def none(results: pd.DataFrame) -> pd.DataFrame:
    """A row a log, campaign and question whose answer is none."""
    rows = []
    own = results[
        results["question"].isin(["edge", "R2", "searched, moved", "factor, moved", "NIE_preference"])
    ]
    own = own.assign(of=own["of"].where(own["question"] != "searched, moved", "share of a category, points"))
    for (log, campaign, question, of), g in own.fillna({"campaign": ""}).groupby(
        ["log", "campaign", "question", "of"], sort=False
    ):
        points = 100 if "points" in of or question == "NIE_preference" else 1
        size = points * g["ours"].abs().mean()
        most = f"{g['known'].mean():.3f} ({g['known_upper'].mean():.3f})" if question == "R2" else "0"
        rows.append(
            {
                "log": f"{log} {campaign}",
                "question": question,
                "of": of,
                "known": most,
                "ours": f"{points * g['ours'].mean():.3f}" if question == "R2" else f"{size:.3f} in size",
                "plain": f"{points * g['plain'].abs().mean():.3f} in size"
                if g["plain"].notna().any()
                else "",
                "held": f"{g['holds'].sum():.0f} of {len(g)}",
                "grade": ", ".join(sorted(g["grade"].dropna().unique())),
            }
        )
    return pd.DataFrame(rows)


def _with_ends(mean: pd.Series, digits: int) -> str:
    return f"{mean['ours']:.{digits}f} ({mean['lower']:.{digits}f} to {mean['upper']:.{digits}f})"


def _draw(results: pd.DataFrame) -> plt.Figure:
    """Shares under the bandit, predicted against what came; and what is said to move where nothing does."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    colours = dict(zip([*CAMPAIGNS, ""], ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=True))
    shown = results[results["question"] == "shown"]
    for campaign, g in shown.groupby("campaign", sort=False):
        x, y = 100 * g["known"], 100 * g["ours"]
        ends = (y - 100 * g["lower"], 100 * g["upper"] - y)
        left.errorbar(x, y, ends, fmt="o", ms=4, lw=0.7, color=colours[campaign], label=f"{campaign}: ours")
        left.scatter(x, 100 * g["nothing"], marker="x", s=18, color=colours[campaign], lw=0.8)
    if len(shown):
        most = 100 * shown["known"].max()
        left.plot((0, most), (0, most), color="0.6", lw=0.8, zorder=0)
    left.set(
        title="shown by the bandit, in strata not seen under it (crosses: as under random)",
        xlabel="share that came, %",
        ylabel="share foretold, %",
    )
    of_none = results[results["question"].isin(["edge", "factor, moved"])].fillna({"campaign": ""})
    names = list(dict.fromkeys(of_none["question"] + ": " + of_none["of"]))
    for place, (_, r) in enumerate(of_none.iterrows()):
        y = names.index(f"{r['question']}: {r['of']}") + 0.6 * (place / max(len(of_none) - 1, 1) - 0.5)
        label = r["campaign"] or r["log"]
        right.plot((r["lower"], r["upper"]), (y, y), color=colours[r["campaign"]], lw=1.2, label=label)
        right.plot(r["ours"], y, "o", ms=4, color=colours[r["campaign"]])
    right.axvline(0, color="0.6", lw=0.8, zorder=0)
    right.set_yticks(range(len(names)), names)
    right.set(title="known to be none: 90% intervals", xlabel="standard deviations")
    for ax in (left, right):
        legend(ax, frameon=False)
    return figure


def main() -> None:
    """Run what is missing, then write tables and figure."""
    o = options(__doc__, HERE, BROUGHT)
    try:
        jobs = replications(o)
    except FilesError as error:
        raise SystemExit(str(error)) from error
    summarise(run(jobs, o), o.out)
    print((o.out / "summary.md").read_text())


def replications(o: Options) -> dict[str, Any]:
    """Those of the logs that are brought, which are read once to see whether they are right, or are in the tables.

    Raises
    ------
    FilesError
        If a file is not what it should be, or none is brought and there are no tables.
    """
    bandit, coat = o.brought["open-bandit"], o.brought["coat"]
    campaigns = CAMPAIGNS[: 1 if o.quick else None]
    if bandit:
        for campaign in campaigns:
            open_bandit(bandit, campaign)
    if coat:
        read_coat(coat)
    found = {
        f"bandit-{campaign}-{seed}": partial(replicate_bandit, bandit, campaign, seed, o.quick)
        for seed in range(SPLITS)
        for campaign in campaigns
    }
    found |= {f"coat-{seed}": partial(replicate_coat, coat, seed, o.quick) for seed in range(STARTS)}
    path = o.out / "results.csv"
    there = set(pd.read_csv(path)["replication"]) if path.exists() else set()
    found = {
        name: job for name, job in found.items() if name in there or (bandit if "bandit" in name else coat)
    }
    if not found:
        raise FilesError("no logs: give --open-bandit WHEEL, --coat FOLDER or both")
    return found


if __name__ == "__main__":
    main()
