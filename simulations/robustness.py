"""Robustness: what breaks the answers, how far, and which diagnostic says so?

Aims          How far recovery and effects move where the story is not true, one departure at a time; and which
              diagnostic, of those that a user sees without the truth, then warns.
Data          ``none``: the world of ``effects.py``'s ``coverage`` (substitution, 1,000 users, 2 + 2 factors, 12
              categories).  The other cells have the same users with the same standard normal noise, and (`DOSES`)
              ``feedback``: exposures come one after another, and what the user engages with is shown more: its odds
              are multiplied by (1 + engagements with it so far) ** dose.
              ``drift``: between a user's searches and recommendations each preference factor jumps by a normal amount,
              dose standard deviations of its noise.
              ``suggested``: this share of the searches is drawn from what the platform shows.
              ``heavy_tails``: the noise is Student's t with so many degrees of freedom, standardised.
              ``platform_factors``, ``preference_factors``: the fit has so many, the world 2.
              ``misplaced``: the fit is told that this covariate is one of the other channel's.
              ``common_cause``: the noises of ``platform_1`` and ``preference_1`` have this correlation.
              ``hidden_cause``: what makes ``platform_1``'s noise moves engagement's log odds too, not through
              ``platform_1``, with the correlation that ``checks.rho_curve`` calls rho.
              ``policy_cause``: what makes ``exposure_1`` moves engagement's log odds too, with this correlation.
              ``readiness``: users differ in the log odds of all their engagements, with this standard deviation.
              ``u_shape``: this share of the location of ``platform_1`` is a parabola of ``exposure_1``.
              ``bursts``: every event comes so many times.
              ``reliability``: ``exposure_1`` is measured with error, and so reliable.
              ``deliveries``: no covariate does anything but through ``taste_1`` and the like, and in place of
              ``exposure_1`` stands a figure made of the window's own deliveries: the mean over them of a trait of the
              categories, plus an error with this share of its variance.
              These are fitted as logs of one period.  Others are no departures, but arrows of time that the story has
              (`IN_STORY`), in ten days, fitted in the periods that a fit chooses by default: ``learning``:
              `Design.learning` and `Design.personalisation` have this dose.  ``influence``: `Design.influence` has.
              ``marked``: this share of the searches is suggested (`Design.suggestion`), and the logs say which.
              For comparison: ``learning_1.0_one_period``, and ``feedback_1.0_in_periods``, where each user's exposures
              fall to the ten days in their order.
Estimands     Interventional effects of ``exposure_1`` + 1 sd on engagement and alignment **in the world as it is**, by
              Monte Carlo here, with that world's noise.  ``feedback``: averages over the window's exposures; as
              engagement moves what is shown, the direct effect reaches alignment too, where the model has none.
              In the cells of `IN_STORY`, and in ``feedback_1.0_in_periods``, the past is a mediator (NIE_loop), held in
              NDE and the other parts of NIE.
              ``drift``: users engage, and look for things, with the preference at the time of the recommendations;
              the factor to recover is the one half-way.  ``suggested``: what users look for of their own accord.
              ``hidden_cause``, ``policy_cause``: the cause keeps its part of engagement in every world.  The fit's own
              errors (factors, misplaced or mismeasured covariates) leave the truth as it is in ``none``;
              ``deliveries``: it is 0.
Methods       The fit's first stage with `SETTINGS`, the Laplace posterior, ``mediation.average_effects``.
              Diagnostics, with the thresholds of the package's report: the verdict on each channel, both negative
              controls, both noise checks, placebo, overlap, rho (a correlation of 0.1 at most undoes NIE), posterior
              predictive checks, the logs' own regression, and whether the report as a whole calls for care.  Beside
              them, not done by the package: for the number of factors the held-out bound against that of the same
              data's fit with the right one.
Performance   MCC and weak MCC at held-out users (of as many factors as truth and fit both have); bias as a share of the
              largest true effect on the outcome; coverage of 90% intervals; share of the seeds in which a diagnostic
              warns, against that in ``none``: its false alarms.  `SEEDS` data seeds a cell, the same in all, and
              `OF_NONE` of ``none``, with Monte Carlo standard errors; fits that fail are counted.

Run           ``python simulations/robustness.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/robustness/results.csv``, ``effects.csv``, ``summary.md``, ``robustness.png``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one replication a core

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student
from torch import Tensor

from pyro_hmvcrl.data.dataset import CHANNELS, Dataset
from pyro_hmvcrl.evidence.measures import mcc, weak_mcc
from pyro_hmvcrl.evidence.predictive import predictive_checks
from pyro_hmvcrl.guide.experts import factor_posterior
from pyro_hmvcrl.guide.guide import Guide
from pyro_hmvcrl.inference.laplace import ParameterPosterior
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import Screening, screen, tensors_of
from pyro_hmvcrl.queries.answer import OF_CURVE
from pyro_hmvcrl.queries.averages import EffectDraws, Users, average_effects
from pyro_hmvcrl.queries.checks import (
    LOGISTIC_SD,
    e_values,
    negative_controls,
    noise_checks,
    placebo,
    rho_curve,
)
from pyro_hmvcrl.queries.findings import SURE, interval, substitution
from pyro_hmvcrl.queries.overlap import overlap
from pyro_hmvcrl.queries.regression import beside, observed_rates
from pyro_hmvcrl.report.verdicts import judge, overall, trust
from pyro_hmvcrl.run.fitting import parameter_posterior
from pyro_hmvcrl.run.judge import evaluate
from pyro_hmvcrl.run.write import activity_of
from pyro_hmvcrl.synthetic import truth as of_story
from pyro_hmvcrl.synthetic.design import Array, Design, shift_vector
from pyro_hmvcrl.synthetic.simulation import Simulation, simulate
from pyro_hmvcrl.synthetic.world import World, sigmoid, softmax

from effects import LEVEL, SMALL
from study import Tables, account, legend, options, run, simulated_dataset, table, with_error

HERE = Path(__file__).parent / "robustness"
SEEDS = 30
OF_NONE = 100  # in a world where nothing is wrong, for the share of false alarms
SHIFT = {"exposure_1": 1.0}
SETTINGS = {"steps": 400, "device": "cpu"}
DRAWS = {"posterior": 100, "predictive": 100, "noise": 100, "truth": 60}
DAYS = 10  # of the window
# What the tables show; alignment has a direct effect in the model only where the platform learns.
ASKED = ["engagement TE", "engagement NDE", "engagement NIE", "engagement NIE_loop", "alignment TE"]
ASKED += ["alignment NDE", "alignment NIE_platform", "alignment NIE_preference", "alignment NIE_loop"]
SHOWN = ("engagement TE", "engagement NIE", "alignment TE")  # in the figure


# --- The story, violated -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Violation:
    """How a world departs from the story, or a fit from its world: see the top of this file.

    `heavy_tails` is a number of degrees of freedom (0: normal noise), `misplaced` the name of a covariate, `periods`
    those of the fit (None: it chooses them).
    """

    feedback: float = 0.0
    drift: float = 0.0
    suggested: float = 0.0
    heavy_tails: int = 0
    common_cause: float = 0.0
    hidden_cause: float = 0.0
    policy_cause: float = 0.0
    readiness: float = 0.0
    u_shape: float = 0.0
    bursts: int = 1
    reliability: float = 1.0
    deliveries: float = 0.0
    platform_factors: int = 2
    preference_factors: int = 2
    misplaced: str = ""
    learning: float = 0.0
    influence: float = 0.0
    marked: float = 0.0
    periods: int | None = 1

    @property
    def in_story(self) -> dict[str, float]:
        """The knobs of a `Design` that it turns."""
        learns = dict.fromkeys(("learning", "personalisation"), self.learning)
        knobs = learns | {"influence": self.influence, "suggestion": self.marked}
        return {name: dose for name, dose in knobs.items() if dose}

    def noise(self, standard: Array, world: World) -> Array:
        """What standard normal noise ``(N, K)`` becomes."""
        noise, first = standard.copy(), world.preference.start
        if self.heavy_tails:
            spread = (self.heavy_tails / (self.heavy_tails - 2)) ** 0.5
            noise = student.ppf(norm.cdf(standard), self.heavy_tails) / spread
        shared = self.common_cause
        noise[:, first] = shared * noise[:, 0] + (1 - shared**2) ** 0.5 * noise[:, first]
        return noise


DOSES: dict[str, tuple[Any, ...]] = {
    "feedback": (1.0,),
    "drift": (1.0,),
    "suggested": (0.5,),
    "heavy_tails": (3,),
    "platform_factors": (1, 3),
    "preference_factors": (1, 3),
    "misplaced": ("taste_1", "exposure_2"),
    "common_cause": (0.6,),
    "hidden_cause": (0.3, -0.3),
    "policy_cause": (0.2,),
    "readiness": (0.5,),
    "u_shape": (0.5,),
    "bursts": (2,),
    "reliability": (0.67,),
    "deliveries": (0.5,),
}
IN_STORY: dict[str, tuple[float, ...]] = {
    "learning": (1.0,),
    "influence": (1.0,),
    "marked": (0.5,),
}
CELLS = {"none": Violation()}
CELLS |= {f"{name}_{dose}": Violation(**{name: dose}) for name, doses in DOSES.items() for dose in doses}
CELLS |= {
    f"{name}_{dose}": Violation(**{name: dose}, periods=None)
    for name, doses in IN_STORY.items()
    for dose in doses
}
CELLS |= {
    "learning_1.0_one_period": Violation(learning=1.0),
    "feedback_1.0_in_periods": Violation(feedback=1.0, periods=None),
}


class Rates(NamedTuple):
    """What users with these factors do and see, by category, each ``(N, C)``."""

    searched: Array  # probability of a logged search
    sought: Array  # probability of what the user looks for of their own accord
    shown: Array  # logit of an exposure, before any feedback
    engaged: Array  # probability of engagement


class Chance(NamedTuple):
    """What is the user's own, whatever the policy."""

    noise: Array  # (N, K), of the factors
    jump: Array  # (N, K_Q), of the preference factors between searches and recommendations
    readiness: Array  # (N, 1), in log odds of engagement


def chance(v: Violation, world: World, standard: Array, natural: Array, rng: np.random.Generator) -> Chance:
    """Of users with this standard normal noise ``(N, K)`` and these `natural` exposure covariates ``(N, D)``."""
    noise = v.noise(standard, world)
    jump = v.drift * rng.normal(size=noise[:, world.preference].shape)
    hidden = LOGISTIC_SD * (v.hidden_cause * noise[:, :1] + v.policy_cause * natural[:, :1])
    return Chance(noise, jump, hidden + v.readiness * rng.normal(size=(len(noise), 1)))


def rates(world: World, covariates: Array, factors: Array, own: Chance, v: Violation) -> Rates:
    """Rates at factors ``(N, K)`` half-way through the jump."""
    before, after = factors.copy(), factors.copy()
    before[:, world.preference] -= own.jump / 2
    after[:, world.preference] += own.jump / 2
    shown = world.exposure.logits(factors[:, world.platform])
    looked_for = softmax(world.search.logits(before[:, world.preference]))
    log_odds = world.engagement_logits(after, covariates) + own.readiness
    return Rates(
        searched=(1 - v.suggested) * looked_for + v.suggested * softmax(shown),
        sought=softmax(world.search.logits(after[:, world.preference])),
        shown=shown,
        engaged=sigmoid(log_odds),
    )


def one_after_another(
    feedback: float, r: Rates, events: NDArray[np.int64], uniform: Array, past: Array | None = None
) -> tuple[Array, Array, Array]:
    """Exposures and engagements ``(T, N, C)`` of users with these `events` ``(N,)``, in their order.

    `uniform` ``(T, 2, N)`` is all that is random.  Feedback follows the engagements, or else those of a `past`, of the
    same shape.  Third, the mean of the exposures' probabilities over the window ``(N, C)``.
    """
    exposure, engagement = np.zeros((2, len(uniform), *r.shown.shape))
    so_far, shown = np.zeros((2, *r.shown.shape))
    user = np.arange(len(events))
    for t, (which, whether) in enumerate(uniform):
        probability = softmax(r.shown + feedback * np.log1p(so_far))
        category = (probability.cumsum(1)[:, :-1] < which[:, None]).sum(1)
        goes_on = t < events
        exposure[t, user, category] = goes_on
        engagement[t, user, category] = goes_on & (whether < r.engaged[user, category])
        so_far = so_far + (engagement if past is None else past)[t]
        shown += probability * (goes_on / events)[:, None]
    return exposure, engagement, shown


def window(
    feedback: float, r: Rates, events: NDArray[np.int64], uniform: Array
) -> tuple[Array, Array, Array]:
    """As `one_after_another`, with the events of the window together ``(N, C)``."""
    exposure, engagement, shown = one_after_another(feedback, r, events, uniform)
    return exposure.sum(0), engagement.sum(0), shown


def in_days(in_order: Array, events: NDArray[np.int64]) -> Array:
    """Events in their order ``(T, N, C)`` dealt out evenly to the days, ``(N, DAYS, C)``."""
    day = np.minimum(np.arange(len(in_order))[:, None] * DAYS // events, DAYS - 1)
    found = np.zeros((len(events), DAYS, in_order.shape[-1]))
    np.add.at(found, (np.arange(len(events)), day), in_order)
    return found


def simulate_violated(design: Design, v: Violation, seed: int) -> Simulation:
    """The users of ``simulate.simulate``, with the same standard normal noise, in the violated world."""
    base, rng = simulate(replace(design, **v.in_story), seed), np.random.default_rng([seed, 5])
    if v.in_story:
        return base
    world, c_p, c_q = base.world, base.exposure_covariates, base.preference_covariates
    own = chance(v, world, base.noise, c_p, rng)
    factors = factors_of(world, c_p, c_q, own.noise, v.u_shape)
    r = rates(world, c_p, factors, own, v)
    searches, events = (counts.sum(1).astype(int) // v.bursts for counts in (base.search, base.exposure))
    search = rng.multinomial(searches, r.searched).astype(float)
    shown, engaged, _ = one_after_another(v.feedback, r, events, rng.random((events.max(), 2, len(events))))
    exposure, engagement = (
        in_order.sum(0) if v.periods == 1 else in_days(in_order, events) for in_order in (shown, engaged)
    )
    counts = (v.bursts * events for events in (search, exposure, engagement))
    return Simulation(world, c_p, c_q, own.noise, factors, *counts)


def factors_of(world: World, c_p: Array, c_q: Array, noise: Array, u_shape: float = 0.0) -> Array:
    """Factors ``(N, K)`` of users with these covariates and noise."""
    location, scale = world.mechanisms(c_p, c_q)
    if u_shape:
        slope = np.linalg.norm(world.location_weights[0][:, 0])
        parabola = slope * (c_p[:, 0] ** 2 - 1) / 2**0.5
        location[:, 0] = (1 - u_shape) * location[:, 0] + u_shape * parabola
    return world.through_graph(location + scale * noise)


def true_effects(sim: Simulation, v: Violation, draws: int, seed: int) -> dict[str, dict[str, float]]:
    """``simulate.true_effects`` in the violated world, by outcome and estimand."""
    if v.in_story:
        outcomes: dict[str, dict[str, float]] = of_story.true_effects(sim, SHIFT, draws, seed)["outcomes"]
        return outcomes
    world, rng, found = sim.world, np.random.default_rng([seed, 6]), []
    events, c_p = sim.exposure.reshape(len(sim.noise), -1).sum(1).astype(int), sim.exposure_covariates
    shifted = c_p + shift_vector(world.design, SHIFT)
    past_mediates = v.feedback > 0 and v.periods is None
    for _ in range(draws):
        own = chance(v, world, rng.normal(size=sim.noise.shape), c_p, rng)
        uniform = rng.random((events.max(), 2, len(events))) if v.feedback else np.empty(0)
        z0, z1 = (
            factors_of(world, c, sim.preference_covariates, own.noise, v.u_shape) for c in (c_p, shifted)
        )
        p1_q0 = np.hstack([z1[:, world.platform], z0[:, world.preference]])
        worlds, as_before = [], None
        states = [(c_p, z0), (shifted, z0), (shifted, p1_q0), (shifted, z1)]
        for number, (c, z) in enumerate([*states, *states[-1:] * past_mediates]):
            r = rates(world, c, z, own, v)
            shown = softmax(r.shown)
            if v.feedback:  # the past as it was, where it mediates, and at last as it becomes
                past = as_before if past_mediates and number < len(states) else None
                _, engaged, shown = one_after_another(v.feedback, r, events, uniform, past)
                as_before = engaged if number == 0 else as_before
            worlds.append([(shown * rate).sum(1).mean() for rate in (r.engaged, r.sought)])
        found.append(worlds)
    before, direct, platform, preference, *becomes = np.mean(found, 0)  # each (2 outcomes,)
    after = becomes[0] if past_mediates else preference
    contrasts = {"TE": after - before, "NDE": direct - before, "NIE": after - direct}
    contrasts |= {"NIE_platform": platform - direct, "NIE_preference": preference - platform}
    contrasts |= {"NIE_loop": after - preference} if past_mediates else {}
    real = v.deliveries == 0
    return {
        outcome: {name: real * float(value[i]) for name, value in contrasts.items()}
        for i, outcome in enumerate(("engagement", "alignment"))
    }


def mismeasure(dataset: Dataset, v: Violation, seed: int) -> Dataset:
    """The dataset with ``exposure_1`` measured with error, or made of the window's own deliveries."""
    rng, users = np.random.default_rng([seed, 7]), dataset.users.copy()
    if v.reliability < 1:
        error = (1 / v.reliability - 1) ** 0.5 * rng.normal(size=len(users))
        users["exposure_1"] += users["exposure_1"].std() * error
    if v.deliveries:
        shown = dataset.exposure
        trait = shown @ rng.normal(size=shown.shape[1]) / shown.sum(1)
        trait = (trait - trait.mean()) / trait.std()
        users["exposure_1"] = (1 - v.deliveries) ** 0.5 * trait + v.deliveries**0.5 * rng.normal(
            size=len(users)
        )
    return replace(dataset, users=users)


def misplace(dataset: Dataset, name: str) -> Dataset:
    """The dataset with one covariate declared to be the other channel's."""
    blocks = (dataset.exposure_covariates, dataset.preference_covariates)
    exposure, preference = (
        [c for c in own if c != name] + [c for c in other if c == name]
        for own, other in (blocks, blocks[::-1])
    )
    return replace(dataset, exposure_covariates=exposure, preference_covariates=preference)


# --- A replication -------------------------------------------------------------------------------------------


class Fitted(NamedTuple):
    """What every question is put to."""

    guide: Guide
    posterior: ParameterPosterior
    users: Users


def replicate(cell: str, seed: int, quick: bool, scratch: Path) -> Tables:
    """One data seed of one cell: simulate, fit, ask for effects and diagnostics."""
    which, v = {"cell": cell, "seed": seed}, CELLS[cell]
    draws = dict.fromkeys(DRAWS, 1) if quick else DRAWS
    sim = simulate_violated(
        Design.with_knobs(**(SMALL | ({"users": 80, "periods": 4} if quick else {}))), v, seed
    )
    dataset = mismeasure(simulated_dataset(sim, scratch, seed, v.periods), v, seed)
    dataset = misplace(dataset, v.misplaced)
    settings = SETTINGS | ({"restarts": 2, "steps": 5} if quick else {})
    found = screen(dataset, Settings(v.platform_factors, v.preference_factors, seed=seed, **settings))
    posterior = parameter_posterior(found, dataset, seed, draws["posterior"])
    of_all = [replace(start, guide=start.guide.expansion(dataset.n_users)) for start in found.restarts]
    found, logs = replace(found, restarts=of_all), tensors_of(dataset, found.standardisation).all()
    fitted = Fitted(found.guide, posterior, Users(logs, found.guide.evidence(logs)))
    step = [SHIFT.get(c, 0.0) / found.standardisation.sd[c] for c in dataset.exposure_covariates]
    shifted = logs.exposure_covariates + torch.tensor(step)
    share = 0.01 if quick else 1.0
    effects = average_effects(*fitted, {"exposure_covariates": shifted}, seed=seed, share=share)
    contrasts = effects.contrasts
    figures = {"bound": found.restarts[found.selected].held_out_bound}
    figures |= {"substitution_found": substitution(contrasts) >= SURE}
    checks = predictive_checks(
        found.guide.model,
        posterior,
        logs,
        dataset.categories,
        dataset.exposure_covariates,
        dataset.preference_covariates,
        seed,
        draws["predictive"],
    )["checks"]
    figures |= {f"predictive: {name}": check["level"] != "good" for name, check in checks.items()}
    figures |= recovery(sim, fitted, found.held_out)
    figures |= diagnose(found, fitted, shifted, dataset, effects, checks, seed, draws["noise"], share)
    rows = compare(true_effects(sim, v, draws["truth"], seed), contrasts)
    return {"results": [which | figures], "effects": [which | row for row in rows]}


def recovery(sim: Simulation, fitted: Fitted, held: NDArray[np.bool_]) -> dict[str, float]:
    """MCC and weak MCC of each channel at the held-out users, of as many factors as truth and fit both have."""
    estimate, _ = factor_posterior(*fitted.guide.posterior(fitted.users.logs))
    estimates = np.split(estimate, [fitted.guide.model.n_platform], axis=1)
    row = {}
    for channel, truth, found in zip(CHANNELS, (sim.platform, sim.preference), estimates, strict=True):
        fewer, more = sorted((truth[held], found[held]), key=lambda factors: factors.shape[1])
        row[f"{channel}_mcc"] = mcc(fewer, more, n_bootstrap=0).value
        row[f"{channel}_weak_mcc"] = weak_mcc(fewer, more)
    return row


def compare(
    truth: Mapping[str, Mapping[str, float]], contrasts: Mapping[str, Mapping[str, Array]]
) -> list[dict[str, Any]]:
    """A row for each effect: truth, estimate, error as a share of the outcome's largest effect, and coverage."""
    rows = []
    for outcome, true in truth.items():
        largest = max(map(abs, true.values())) or np.nan
        for estimand, value in true.items():
            estimate = interval(contrasts[outcome][estimand], LEVEL)
            row = {"effect": f"{outcome} {estimand}", "truth": value, **estimate}
            row["error"] = (estimate["mean"] - value) / largest
            rows.append(row | {"covered": estimate["lower"] <= value <= estimate["upper"]})
    return rows


def diagnose(
    found: Screening,
    fitted: Fitted,
    shifted: Tensor,
    dataset: Dataset,
    effects: EffectDraws,
    checks: dict[str, Any],
    seed: int,
    noise_draws: int,
    share: float,
) -> dict[str, Any]:
    """The package's diagnostics as its report takes them: figures, and which of them warn."""
    identified, policy = evaluate(found, dataset), {"exposure_covariates": shifted}
    covariates = dataset.users[[*dataset.exposure_covariates, *dataset.preference_covariates]]
    then = covariates.assign(**{c: covariates[c] + by for c, by in SHIFT.items()})
    total, rates = {o: of["TE"] for o, of in effects.contrasts.items()}, observed_rates(activity_of(dataset))
    answer = {
        "level": LEVEL,
        "regression": beside(total, covariates, then, rates, LEVEL),
        "overlap": overlap(covariates, covariates[[*SHIFT]] + pd.Series(SHIFT)).to_dict(),
        "negative_controls": negative_controls(*fitted, seed),
        "noise": noise_checks(*fitted, seed, noise_draws),
        "placebo": placebo(*fitted, shifted, LEVEL, seed, share),
        "sensitivity": rho_curve(*fitted, policy, LEVEL, seed=seed, share=OF_CURVE * share),
        "e_values": e_values(effects.levels["engagement"], LEVEL),
    }
    row = {"placebo_covers_zero": answer["placebo"]["covers_zero"], "placebo_p": answer["placebo"]["p"]}
    row |= {"first_rho": answer["sensitivity"]["first_rho_with_zero_in_NIE"]}
    for channel, sentences in identified.verdict.items():
        row[f"{channel}_restarts"] = identified.channels[channel].restarts.median
        row[f"warns: verdict on {channel}"] = trust(sentences)[0] != "good"
    for name, control in answer["negative_controls"].items():
        control_of = f"control, {name.partition(' on ')[0]}"
        row |= {f"{control_of}: R2": control["r2"], f"warns: {control_of}": control["verdict"] != "passes"}
    for name, of in answer["noise"].items():
        row |= {f"noise, {name}": of["noise"], f"warns: noise, {name}": of["verdict"] != "passes"}
    information = {block: float(ratio) for block, ratio in fitted.posterior.information.items()}
    judged = judge(answer, identified.verdict, checks, information)
    shown = {"placebo": "placebo", "overlap": "overlap", "rho": "rho", "predictive": "predictive checks"}
    shown |= {"regression": "regression", "information": "information"}
    row |= {f"warns: {name}": judged[check][0] in ("care", "no") for check, name in shown.items()}
    return row | {"warns: report as a whole": overall(judged)[0] != "good"}


# --- Results -------------------------------------------------------------------------------------------------


def with_bounds_compared(results: pd.DataFrame) -> pd.DataFrame:
    """Whether the held-out bound of a wrong number of factors warns: it is below that of the right one's fit."""
    right = results[results["cell"] == "none"].set_index("seed")["bound"]
    of_right = results["seed"].map(right)
    asked = results["cell"].str.contains("_factors_") & of_right.notna()
    lower = (results["bound"] < of_right).astype(float)
    return results.assign(**{"warns: held-out bound*": lower.where(asked)})


def summarise(found: dict[str, pd.DataFrame], out: Path) -> None:
    """Tables by cell, and the figure with every replication."""
    results, effects = with_bounds_compared(found["results"]), found["effects"]
    scores = [f"{channel}_{score}" for channel in CHANNELS for score in ("mcc", "weak_mcc")]
    recovered = by_cell(results)[[*scores, "substitution_found"]].agg(with_error).replace("nan ± nan", "")
    failures = found["failures"]["replication"].str.replace(r"-\d+$", "", regex=True).value_counts()
    by_effect = by_cell(effects, "effect")[["error", "covered"]].agg(with_error).replace("nan ± nan", "")
    warning = warned(results).map("{:.2f}".format).replace("nan", "")
    seeds = by_cell(results)["seed"].nunique()
    failing = results.filter(like="predictive: ").astype(float).assign(cell=results["cell"])
    failing = by_cell(failing).mean().rename(columns=lambda name: name.removeprefix("predictive: "))
    replications = pd.concat([frame["replication"] for frame in found.values()])
    have_run = [cell for cell in CELLS if (replications.str.rpartition("-")[0] == cell).any()]
    at_most = 0.5 / seeds[seeds > 0].min() ** 0.5
    tables = {
        "Recovery": recovered.assign(seeds=seeds, failures=failures.reindex(recovered.index, fill_value=0)),
        "Bias, as a share of the largest true effect on the outcome": by_effect["error"].unstack(),
        "Coverage of 90% intervals": by_effect["covered"].unstack(),
        f"Share of the seeds in which a diagnostic warns (± at most {at_most:.2f})": warning,
        "Share of the seeds in which a predictive check fails": failing.loc[:, failing.max() > 0],
    }
    text = f"# Robustness\n\n{account(found)}\n\nMeans over at most {seeds.max()} data seeds "
    text += "± Monte Carlo standard errors. *: not done by the package. "
    text += "Cells that are not listed have not been run by this code.\n"
    for title, of_cells in tables.items():
        asked = [column for column in ASKED if column in of_cells] or list(of_cells)
        text += f"\n## {title}\n\n{table(of_cells.loc[have_run, asked].reset_index())}\n"
    (out / "summary.md").write_text(text)
    _draw(results, effects).savefig(out / "robustness.png", dpi=150)


def by_cell(rows: pd.DataFrame, *also: str) -> Any:
    """The rows of each cell, in the order of `CELLS`, also of one whose every fit failed."""
    ordered = rows.assign(cell=pd.Categorical(rows["cell"], list(CELLS)))
    return ordered.groupby(["cell", *also], observed=False)


def warned(results: pd.DataFrame) -> pd.DataFrame:
    """Share of the seeds in which each diagnostic warns, ``(cells, diagnostics)``; NaN where it was not asked."""
    shares = by_cell(results.filter(like="warns: ").astype(float).assign(cell=results["cell"])).mean()
    return shares.rename(columns=lambda name: name.removeprefix("warns: "))


def _draw(results: pd.DataFrame, effects: pd.DataFrame) -> plt.Figure:
    figure, axes = plt.subplots(
        1, 3, figsize=(15, 8), sharey=True, layout="constrained", width_ratios=[1, 1, 1.3]
    )
    for channel, colour, aside in (("platform", "#0072B2", -0.2), ("preference", "#D55E00", 0.2)):
        _dots(axes[0], results["cell"], results[f"{channel}_mcc"], aside, colour, channel)
    axes[0].set_xlabel("MCC, held-out users (bar: mean)")
    for effect, colour, aside in zip(
        SHOWN, ("#009E73", "#0072B2", "#CC79A7"), (-0.28, 0.0, 0.28), strict=True
    ):
        asked = effects[effects["effect"] == effect]
        _dots(axes[1], asked["cell"], 100 * asked["error"], aside, colour, effect)
    axes[1].axvline(0, color="0.6", lw=0.8, zorder=0)
    axes[1].set_xscale("symlog", linthresh=20)  # small errors and large ones
    axes[1].xaxis.set_major_formatter("{x:g}")
    axes[1].set_xlabel("error, % of the largest true effect (bar: mean)")
    shares = 100 * warned(results)
    colours = plt.get_cmap("Blues").with_extremes(bad="0.9")
    axes[2].imshow(shares, cmap=colours, vmin=0, vmax=150, aspect="auto")  # so that figures stay legible
    for (y, x), share in np.ndenumerate(shares):
        axes[2].text(x, y, "" if np.isnan(share) else f"{share:.0f}", ha="center", va="center", fontsize=8)
    axes[2].set_xticks(range(shares.shape[1]), shares, rotation=40, ha="left")
    axes[2].tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    axes[2].set_xlabel("% of the seeds in which it warns\n(*: not done by the package; grey: not asked)")
    axes[0].set_yticks(range(len(CELLS)), [cell.replace("_", " ") for cell in CELLS])
    axes[0].set_ylim(len(CELLS) - 0.5, -0.5)
    for ax, y in product(axes, np.cumsum([0.5, *map(len, (DOSES | IN_STORY).values())])):
        ax.axhline(y, color="0.7", lw=0.6, zorder=0)  # between violations
    for ax in axes[:2]:
        legend(ax, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    return figure


def _dots(ax: Axes, cells: pd.Series, values: pd.Series, aside: float, colour: str, label: str) -> None:
    """Every replication of each cell in its row, and a bar at their mean."""
    for y, cell in enumerate(CELLS):
        of_cell = values[cells == cell].dropna()
        place = y + aside + np.linspace(-0.1, 0.1, len(of_cell))
        ax.scatter(of_cell, place, s=9, color=colour, alpha=0.7, lw=0, label=label)
        ax.vlines(of_cell.mean(), y + aside - 0.14, y + aside + 0.14, color="black")


def main() -> None:
    """Run what is missing, then write tables and figure."""
    o = options(__doc__, HERE)
    replications = {
        f"{cell}-{seed}": partial(replicate, cell, seed, o.quick)
        for seed, cell in [*product(range(SEEDS), CELLS), *product(range(SEEDS, OF_NONE), ["none"])]
    }
    summarise(run(replications, o), o.out)
    print((o.out / "summary.md").read_text())


if __name__ == "__main__":
    main()
