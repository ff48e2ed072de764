"""Robustness: what breaks the answers, how far, and which diagnostic says so?

Aims          How far recovery and effects move when the story is not true, one departure at a time and in two doses;
              and which diagnostic that a user sees, without the truth, then warns.
Data          ``none``: the world of ``effects.py``'s ``coverage`` (substitution, 1,000 users, 2 + 2 factors, 12
              categories).  The other cells of `CELLS` have the same users with the same standard normal noise, and
              depart from it as `Violation` says:
              ``feedback``: exposures come one after another, and a category's probability of being shown grows with
              (1 + engagements with it so far) ** strength.  ``drift``: between a user's searches and recommendations
              each preference factor jumps by that many standard deviations of its noise.  ``suggested``: that share
              of the searches is drawn from what the platform shows.  ``heavy_tails``: the noise is Student's t with 3
              degrees of freedom, standardised.  ``..._factors``: the fit has one too few or too many.
              ``taste_1_misplaced``, ``exposure_2_misplaced``: the fit is told that this covariate is the other
              channel's.  ``common_cause``: the noises of platform_1 and preference_1 have that correlation.
              ``hidden_cause``: what moves platform_1's noise also moves engagement's log odds, past platform_1, so
              that the errors have the correlation rho of ``checks.rho_curve``.
Estimands     Interventional effects of ``exposure_1`` + 1 sd on engagement and alignment **in the world as it is**, by
              Monte Carlo here, with that world's noise.  Under ``feedback`` they are averages over the window's
              exposures, so that engagement moves what is shown: even alignment then has a direct effect, which the
              model fixes at 0.  Under ``drift`` a user engages, and looks for things, with the preference at the time
              of the recommendations; the factor to recover is the one half-way.  What the user looks for leaves
              suggested searches out.  Under ``hidden_cause`` the cause keeps its own part of engagement in every
              world.  The fit's own errors (factors, misplaced covariates) leave the truth as in ``none``.
Methods       The fit's first stage with `SETTINGS`, and with the truth's number of factors but where a cell says
              otherwise; the Laplace posterior; ``mediation.average_effects``.
              Diagnostics, with the thresholds of the package's own report: its verdict on each channel, both negative
              controls, placebo, overlap, the sensitivity to rho, and whether the report as a whole calls for care.
              For a wrong number of factors: the held-out bound, against the same data's fit with the right one.
              Posterior predictive checks, which the package does not have: `predictive_checks` tries what its
              model's sites give in a few lines.
Performance   MCC and weak MCC at held-out users (of as many factors as both sides have); bias relative to the largest
              true effect; coverage of 90% intervals; the share of seeds in which each diagnostic warns, against that
              in ``none``, its false alarms.  `SEEDS` data seeds a cell, the same in all; Monte Carlo standard errors;
              fits that fail are counted.

Run           ``python simulations/robustness.py`` (resumable; ``--quick`` for a small form).
              Results: ``simulations/robustness/results.csv``, ``effects.csv``, ``summary.md``, ``robustness.png``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one replication a core

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from scipy.stats import kurtosis, norm
from scipy.stats import t as student

from pyro_hmvcrl.checks import LOGISTIC_SD, negative_controls, overlap, placebo, rho_curve
from pyro_hmvcrl.dataset import CHANNELS, Dataset
from pyro_hmvcrl.guide import Guide
from pyro_hmvcrl.identifiability import mcc, weak_mcc
from pyro_hmvcrl.inference import Fit, Screening, Settings, factor_posterior, screen, tensors_of
from pyro_hmvcrl.interventions import Interventions, hold, run
from pyro_hmvcrl.laplace import ParameterPosterior
from pyro_hmvcrl.mediation import SURE, Users, average_effects, interval, substitution
from pyro_hmvcrl.model import at, observe
from pyro_hmvcrl.report import judge, overall, trust
from pyro_hmvcrl.results import evaluate, parameter_posterior
from pyro_hmvcrl.simulate import Array, Design, Simulation, World, shift_vector, sigmoid, simulate, softmax

from effects import LEVEL, SHIFT, SMALL, performance
from study import keep, legend, options, simulated_dataset

HERE = Path(__file__).parent / "robustness"
SEEDS = 30
SETTINGS = {"restarts": 3, "steps": 300, "device": "cpu"}
DRAWS = {"posterior": 100, "placebo": 50, "rho": 20, "predictive": 40, "truth": 60}
ASKED = [("engagement", e) for e in ("TE", "NDE", "NIE")]
ASKED += [("alignment", e) for e in ("TE", "NIE_platform", "NIE_preference")]  # its NDE is 0, its NIE is TE
WARNINGS = {
    "verdict_platform": "verdict: platform",
    "verdict_preference": "verdict: preference",
    "control_exposure": "control: exposure covariates",
    "control_preference": "control: preference covariates",
    "placebo": "placebo",
    "overlap": "overlap",
    "rho": "sensitivity to rho",
    "report": "report as a whole",
    "bound": "held-out bound*",
    "search": "predictive: searches*",
    "exposure": "predictive: exposures*",
    "engagement": "predictive: engagement*",
    "channels": "predictive: channels' noise*",
    "tails": "predictive: tails of noise*",
}


# --- The story, violated -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Violation:
    """How a world departs from the story, or a fit from its world; see the top of this file.

    `heavy_tails` is a number of degrees of freedom (0: normal noise), `misplaced` the name of a covariate.
    """

    feedback: float = 0.0
    drift: float = 0.0
    suggested: float = 0.0
    heavy_tails: int = 0
    common_cause: float = 0.0
    hidden_cause: float = 0.0
    platform_factors: int = 2
    preference_factors: int = 2
    misplaced: str = ""

    def noise(self, standard: Array, world: World) -> Array:
        """What standard normal noise ``(N, K)`` becomes."""
        noise, first = standard.copy(), world.preference.start
        if self.heavy_tails:
            spread = (self.heavy_tails / (self.heavy_tails - 2)) ** 0.5
            noise = student.ppf(norm.cdf(standard), self.heavy_tails) / spread
        shared = self.common_cause
        noise[:, first] = shared * noise[:, 0] + (1 - shared**2) ** 0.5 * noise[:, first]
        return noise


CELLS = {
    "none": Violation(),
    "feedback_0.5": Violation(feedback=0.5),
    "feedback_1": Violation(feedback=1.0),
    "drift_0.5": Violation(drift=0.5),
    "drift_1": Violation(drift=1.0),
    "suggested_20%": Violation(suggested=0.2),
    "suggested_50%": Violation(suggested=0.5),
    "heavy_tails": Violation(heavy_tails=3),
    "1_platform_factor": Violation(platform_factors=1),
    "3_platform_factors": Violation(platform_factors=3),
    "1_preference_factor": Violation(preference_factors=1),
    "3_preference_factors": Violation(preference_factors=3),
    "taste_1_misplaced": Violation(misplaced="taste_1"),
    "exposure_2_misplaced": Violation(misplaced="exposure_2"),
    "common_cause_0.3": Violation(common_cause=0.3),
    "common_cause_0.6": Violation(common_cause=0.6),
    "hidden_cause_0.1": Violation(hidden_cause=0.1),
    "hidden_cause_0.3": Violation(hidden_cause=0.3),
}
NUMBER_OF_FACTORS = [cell for cell in CELLS if cell[0].isdigit()]


class Rates(NamedTuple):
    """What users with these factors do and see, by category, each ``(N, C)``."""

    searched: Array  # probability of a logged search
    sought: Array  # probability of what the user looks for of their own accord
    shown: Array  # logit of an exposure, before any feedback
    engaged: Array  # probability of engagement


def rates(v: Violation, world: World, covariates: Array, factors: Array, noise: Array, jump: Array) -> Rates:
    """Rates at factors ``(N, K)`` half-way through a `jump` of the preference factors ``(N, K_Q)``."""
    before, after = factors.copy(), factors.copy()
    before[:, world.preference] -= jump / 2
    after[:, world.preference] += jump / 2
    shown = world.exposure.logits(factors[:, world.platform])
    own = softmax(world.search.logits(before[:, world.preference]))
    log_odds = world.engagement_logits(after, covariates) + v.hidden_cause * LOGISTIC_SD * noise[:, :1]
    return Rates(
        searched=(1 - v.suggested) * own + v.suggested * softmax(shown),
        sought=softmax(world.search.logits(after[:, world.preference])),
        shown=shown,
        engaged=sigmoid(log_odds),
    )


def window(feedback: float, r: Rates, events: NDArray[np.int64], uniform: Array) -> tuple[Array, Array, Array]:
    """Exposures and engagements ``(N, C)`` of users with these `events` ``(N,)``, one after another.

    `uniform` ``(T, 2, N)`` is all that is random.  Third, the mean over the window of the probabilities of exposure.
    """
    exposure, engagement, shown = np.zeros((3, *r.shown.shape))
    user = np.arange(len(events))
    for t, (which, whether) in enumerate(uniform):
        probability = softmax(r.shown + feedback * np.log1p(engagement))
        category = (probability.cumsum(1)[:, :-1] < which[:, None]).sum(1)
        goes_on = t < events
        exposure[user, category] += goes_on
        engagement[user, category] += goes_on & (whether < r.engaged[user, category])
        shown += probability * (goes_on / events)[:, None]
    return exposure, engagement, shown


def simulate_violated(design: Design, v: Violation, seed: int) -> Simulation:
    """The users of ``simulate.simulate``, with the same standard normal noise, in the violated world."""
    base, rng = simulate(design, seed), np.random.default_rng([seed, 5])
    world, c_p, c_q = base.world, base.exposure_covariates, base.preference_covariates
    noise = v.noise(base.noise, world)
    factors = factors_of(world, c_p, c_q, noise)
    r = rates(v, world, c_p, factors, noise, v.drift * rng.normal(size=factors[:, world.preference].shape))
    searches, events = (counts.sum(1).astype(int) for counts in (base.search, base.exposure))
    search = rng.multinomial(searches, r.searched).astype(float)
    exposure, engagement, _ = window(v.feedback, r, events, rng.random((events.max(), 2, len(events))))
    return Simulation(world, c_p, c_q, noise, factors, search, exposure, engagement)


def factors_of(world: World, c_p: Array, c_q: Array, noise: Array) -> Array:
    """Factors ``(N, K)`` of users with these covariates and noise."""
    location, scale = world.mechanisms(c_p, c_q)
    return world.through_graph(location + scale * noise)


def true_effects(sim: Simulation, v: Violation, draws: int, seed: int) -> dict[str, dict[str, float]]:
    """``simulate.true_effects`` in the violated world, by outcome and estimand."""
    world, rng, found = sim.world, np.random.default_rng([seed, 6]), []
    events, c_p = sim.exposure.sum(1).astype(int), sim.exposure_covariates
    shifted = c_p + shift_vector(world.design, SHIFT)
    for _ in range(draws):
        noise = v.noise(rng.normal(size=sim.noise.shape), world)
        jump = v.drift * rng.normal(size=sim.preference.shape)
        uniform = rng.random((events.max(), 2, len(events))) if v.feedback else np.empty(0)
        z0, z1 = (factors_of(world, c, sim.preference_covariates, noise) for c in (c_p, shifted))
        p1_q0 = np.hstack([z1[:, world.platform], z0[:, world.preference]])
        worlds = []
        for c, z in ((c_p, z0), (shifted, z0), (shifted, p1_q0), (shifted, z1)):
            r = rates(v, world, c, z, noise, jump)
            shown = window(v.feedback, r, events, uniform)[2] if v.feedback else softmax(r.shown)
            worlds.append([(shown * rate).sum(1).mean() for rate in (r.engaged, r.sought)])
        found.append(worlds)
    before, direct, platform, after = np.mean(found, 0)  # each (2 outcomes,)
    contrasts = {"TE": after - before, "NDE": direct - before, "NIE": after - direct}
    contrasts |= {"NIE_platform": platform - direct, "NIE_preference": after - platform}
    return {
        outcome: {name: float(value[i]) for name, value in contrasts.items()}
        for i, outcome in enumerate(("engagement", "alignment"))
    }


def misplace(dataset: Dataset, name: str) -> Dataset:
    """The dataset with one covariate declared to be the other channel's."""
    blocks = (dataset.exposure_covariates, dataset.preference_covariates)
    exposure, preference = (
        [c for c in own if c != name] + [c for c in other if c == name]
        for own, other in (blocks, blocks[::-1])
    )
    return replace(dataset, exposure_covariates=exposure, preference_covariates=preference)


# --- A replication -------------------------------------------------------------------------------------------


def replicate(cell: str, seed: int, quick: bool, parts: Path) -> None:
    """One data seed of one cell: simulate, fit, ask for effects and diagnostics, and keep what they say."""
    part = parts / f"{cell}-{seed}.json"
    if part.exists():
        return
    v = CELLS[cell]
    sim = simulate_violated(Design.with_knobs(**(SMALL | ({"users": 80} if quick else {}))), v, seed)
    dataset = misplace(simulated_dataset(sim, parts / part.stem, seed), v.misplaced)
    steps = SETTINGS | ({"restarts": 2, "steps": 5} if quick else {})
    draws = {name: 4 for name in DRAWS} if quick else DRAWS
    settings = Settings(v.platform_factors, v.preference_factors, seed=seed, **steps)
    try:
        found = screen(dataset, settings)
        posterior = parameter_posterior(found, dataset, seed, draws["posterior"])
    except (FloatingPointError, torch.linalg.LinAlgError) as error:
        keep(part, {"figures": {"failure": str(error)}, "effects": []})
        return
    guide, logs = found.guide.expansion(dataset.n_users), tensors_of(dataset, found.standardisation)
    users = Users(logs, guide.evidence(logs))
    shift = [SHIFT.get(c, 0.0) / found.standardisation.sd[c] for c in dataset.exposure_covariates]
    policy = {"exposure_covariates": logs.exposure_covariates + torch.tensor(shift)}
    contrasts = average_effects(guide, posterior, users, policy, seed=seed).contrasts
    truth = true_effects(sim, v, draws["truth"], seed)
    figures = recovery(sim, guide, users, found.held_out) | {"bound": found.restarts[found.selected].bound}
    figures["substitution_true"] = truth["engagement"]["TE"] > 0 > truth["alignment"]["TE"]
    figures["substitution_found"] = substitution(contrasts) >= SURE
    figures |= diagnose(found, guide, posterior, users, policy, dataset, seed, draws)
    figures |= predictive_checks(guide, posterior, users, seed, draws["predictive"])
    rows = [
        {"outcome": outcome, "estimand": estimand, "truth": truth[outcome][estimand]}
        | {**interval(values, LEVEL), "sd": values.std()}
        for outcome, estimands in contrasts.items()
        for estimand, values in estimands.items()
    ]
    keep(part, {"figures": figures, "effects": rows})


def recovery(sim: Simulation, guide: Guide, users: Users, held: NDArray[np.bool_]) -> dict[str, float]:
    """MCC and weak MCC of each channel at the held-out users, of as many factors as truth and fit both have."""
    estimate, _ = factor_posterior(*guide.posterior(users.logs))
    platform, preference = np.split(estimate, [guide.model.n_platform], axis=1)
    row = {}
    for channel, truth, found in zip(
        CHANNELS, (sim.platform, sim.preference), (platform, preference), strict=True
    ):
        fewer, more = sorted((truth[held], found[held]), key=lambda factors: factors.shape[1])
        row[f"{channel}_mcc"] = mcc(fewer, more, n_bootstrap=0).value
        row[f"{channel}_weak_mcc"] = weak_mcc(fewer, more)
    return row


def diagnose(
    found: Screening,
    guide: Guide,
    posterior: ParameterPosterior,
    users: Users,
    policy: Interventions,
    dataset: Dataset,
    seed: int,
    draws: dict[str, int],
) -> dict[str, Any]:
    """The package's diagnostics as its report takes them: figures, and which of them warn."""
    as_fit = Fit(
        guide, found.standardisation, found.held_out, found.restarts, found.selected, found.history[0], (0, 0)
    )
    identified = evaluate(as_fit, dataset)
    covariates = dataset.users[[*dataset.exposure_covariates, *dataset.preference_covariates]]
    of_fit, shifted = (guide, posterior, users), policy["exposure_covariates"]
    answer = {
        "level": LEVEL,
        "overlap": overlap(covariates, covariates[[*SHIFT]] + pd.Series(SHIFT)).to_dict(),
        "negative_controls": negative_controls(*of_fit, seed),
        "placebo": placebo(*of_fit, shifted, LEVEL, seed, draws["placebo"]),
        "sensitivity": rho_curve(*of_fit, policy, LEVEL, seed=seed, draws=draws["rho"]),
    }
    judged = judge(answer, identified.verdict)
    row: dict[str, Any] = {f"warns_{name}": judged[name][0] in ("care", "no") for name in ("placebo", "overlap", "rho")}
    for channel, sentences in identified.verdict.items():
        row[f"{channel}_restarts"] = identified.channels[channel].restarts.median
        row[f"warns_verdict_{channel}"] = trust(sentences)[0] != "good"
    for name, control in answer["negative_controls"].items():
        block = name.partition(" ")[0]
        row[f"control_{block}_r2"] = control["r2"]
        row[f"warns_control_{block}"] = control["verdict"] != "passes"
    row["placebo_covers_zero"] = answer["placebo"]["covers_zero"]
    row["first_rho"] = answer["sensitivity"]["first_rho_with_zero_in_NIE"]
    return row | {"warns_report": overall(judged)[0] != "good"}
