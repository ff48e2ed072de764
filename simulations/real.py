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
              make-up.  Nothing: as under the random arm.  Ranking is by ``rank`` with the platform as it is, of users
              whose own drawn coats the fit has not seen (two folds), over coats by how many like them; against
              popularity and implicit matrix factorisation of the chosen coats rated 4 or 5, and chance.
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
from real_results import MAKE_UP, summarise
from study import Options, Tables, options, run

Array = NDArray[np.float64]
Row = dict[str, Any]
HERE = Path(__file__).parent / "real"
SETTINGS: dict[str, Any] = {"restarts": 1, "steps": 1_000, "encoder_steps": 100, "device": "cpu"}
QUICK = {"steps": 20, "encoder_steps": 5}
SPLITS, STARTS = 3, 10  # seeds of Open Bandit and of Coat
LEVEL, SHUFFLES, TOP, RANK_FACTORS = 0.9, 200, 5, 10
SHIFT = 0.1  # of the share of women's coats
HALF = norm.ppf((1 + LEVEL) / 2)  # of an interval, in standard errors
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
        yield row(MAKE_UP, name, known, te, **more)
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
    """Of each user and coat: the chance that it is looked for, its category's shared out by how many like which."""
    liked = (coat.chosen >= LIKED).sum(0) + 1.0
    items = pd.DataFrame({"item": range(len(coat.coats)), "category": coat.category, "popularity": liked})
    ranked = fitted.rank(as_it_is=True, items=items, top=len(items), progress=False)
    return ranked.pivot(index="user_id", columns="item", values="probability").sort_index().to_numpy()


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


# --- The study ---------------------------------------------------------------------------------------------


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
