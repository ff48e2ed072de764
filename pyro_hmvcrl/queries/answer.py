"""The answer to a causal question: the effects of a change, with the checks that it needs to be believed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from pyro_hmvcrl.data.dataset import CHANNELS
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.inference.writing import whole_file
from pyro_hmvcrl.queries.averages import (
    EffectDraws,
    Users,
    average_effects,
    factors_by_channel,
    sites_of_past,
)
from pyro_hmvcrl.queries.by_category import shares_by_category
from pyro_hmvcrl.queries.by_segment import effects_by_segment, segments
from pyro_hmvcrl.queries.checks import e_values, negative_controls, noise_checks, placebo, rho_curve
from pyro_hmvcrl.queries.findings import (
    check_level,
    interval,
    proportion_mediated,
    relative,
    sentences,
    substitution,
    substitution_undone,
    suppression,
)
from pyro_hmvcrl.queries.further import outcome_sentence, outcomes_of
from pyro_hmvcrl.queries.headline import headline
from pyro_hmvcrl.queries.interventions import (
    InterventionError,
    Interventions,
    Policy,
    Shift,
    scaled,
)
from pyro_hmvcrl.queries.mediation import OUTCOMES, Mediators, Outcome
from pyro_hmvcrl.queries.population import Population
from pyro_hmvcrl.queries.question import Question, question_of
from pyro_hmvcrl.queries.regression import FEWEST_USERS, beside, negative_control_outcomes, observed_rates
from pyro_hmvcrl.queries.reliability import RELIABILITIES, meant
from pyro_hmvcrl.run.files import RunError
from pyro_hmvcrl.run.run import LIKELY

Array = NDArray[np.float64]
LEVEL = 0.9
IN_DETAIL, OF_CURVE = (
    0.25,
    0.125,
)  #: share of the draws for questions beside TE, NDE and NIE; for a curve's points
UNSPLIT = Mediators({})  #: of TE alone, where a world less for each part of NIE has to be played
SIZES = (-1.0, -0.5, 0.5, 1.0, 1.5, 2.0)  #: of the dose-response, in units of the asked shift


@own_state()
def effects(
    folder: str | Path,
    change: Policy | Sequence[Shift],
    *,
    counterfactual: bool = False,
    outcomes: Mapping[str, Outcome] = OUTCOMES,
    level: float = LEVEL,
    by: str | pd.Series | None = None,
    controls: pd.DataFrame | None = None,
    extrapolate: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Effects of a change on engagement, alignment, the run's further outcomes and the factors, with their checks.

    Parameters
    ----------
    folder
        A run folder.
    change
        A policy, that is a function of the exposure covariates; or shifts of covariates, of factors, or of whole
        channels (``platform``: the same shift of each of its factors).  Several of one column are done one after
        the other; a standard deviation is always that of the users as they are.
    counterfactual
        Effects on these very users, with the noise that their own logs speak of, instead of on a population with
        their covariates.
    outcomes
        Functions of a world, of which engagement and alignment must be two.  The run's further outcomes come to them.
    level
        Of the intervals.
    by
        Segments of the users, each with its own effects: see :func:`~pyro_hmvcrl.queries.by_segment.segments`.
    controls
        Negative controls, a column for each: numbers by user_id that the policy cannot have moved, such as engagement
        before it was set.  See :func:`~pyro_hmvcrl.queries.regression.negative_control_outcomes`.
    extrapolate
        Answer even where no data support the change.

    Returns
    -------
    dict
        What the command ``effects`` writes as JSON: the `headline`, `shift`, `kind`, `level` and `users`; `outcomes`,
        for each the mean and interval of TE, NDE, NIE and its parts, by factor and path too, and TE `relative` to the
        level before; the probabilities of `suppression`, `substitution` and its reverse (`substitution_undone`);
        `displacement` of each factor in standard deviations, with its label; the shares of the `categories` in what
        is searched and shown, before and after; the `course` of the outcomes over the periods; effects `by_segment`,
        if they are asked; and the checks (`overlap`, with the shares that are `held` between 0 and 1;
        `negative_controls`, `noise`, `e_values`; for a policy `regression`, `placebo`, `sensitivity`, `reliability`
        and `dose_response`).

    Raises
    ------
    InterventionError
        If a column or a factor is unknown, or the change is not supported and `extrapolate` is off.
    RunError
        If the folder is not a run folder, or no fit makes numbers like those in it.
    ValueError
        If `level` does not lie between 0 and 1, or an outcome of one's own is not finite.
    """
    return effects_of_each(
        folder,
        {"": change},
        counterfactual=counterfactual,
        outcomes=outcomes,
        level=level,
        by=by,
        controls=controls,
        extrapolate=extrapolate,
        seed=seed,
        progress=progress,
    )[""]


@own_state()
def effects_of_each(
    folder: str | Path,
    changes: Mapping[str, Policy | Sequence[Shift]],
    *,
    counterfactual: bool = False,
    outcomes: Mapping[str, Outcome] = OUTCOMES,
    level: float = LEVEL,
    by: str | pd.Series | None = None,
    controls: pd.DataFrame | None = None,
    extrapolate: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, dict[str, Any]]:
    """Effects of several changes by name, as of :func:`effects`; no work starts before all prove to be supported."""
    check_level(level)
    population = Population.of(folder)
    questions = {
        name: _supported(name, question_of(population, change, seed), extrapolate)
        for name, change in changes.items()
    }
    of = None if by is None else segments(by, population.covariates)
    own = None if controls is None else _of_users(controls, population)
    further = outcomes_of(population.run)
    outcomes = {**outcomes, **{name: of for name, of in further.items() if name not in outcomes}}
    found = {}
    for name, question in questions.items():
        try:
            answer = _answer(population, question, counterfactual, outcomes, level, of, seed, progress)
            if own is not None and question.policy is not None:
                now, then = _covariates(population, question.policy, seed)
                answer["controls"] = negative_control_outcomes(now, then, own, level)
            for outcome in outcomes.keys() - OUTCOMES.keys():
                if not _all_finite(answer["outcomes"][outcome]):
                    raise ValueError(
                        f"outcome {outcome!r} is not finite for every user; let it give a finite number"
                    )
            finite = _all_finite(answer)
        except FloatingPointError:
            finite = False
        if not finite:
            raise RunError(f"{folder}: its numbers give no finite effects; fit again")
        found[name] = answer
    return found


def _supported(name: str, question: Question, extrapolate: bool) -> Question:
    """A question that the data support, or that is asked although they do not."""
    if not question.support.supported and not extrapolate:
        raise InterventionError(
            f"{name and f'policy {name}: '}the change is {question.support.verdict}. {question.support.mend}, or ask "
            "for the extrapolation by name (extrapolate=True; on the command line --extrapolate)"
        )
    return question


def _all_finite(answer: Any) -> bool:
    """Whether every number in it is."""
    if isinstance(answer, dict):
        return all(map(_all_finite, answer.values()))
    if isinstance(answer, list):
        return all(map(_all_finite, answer))
    return not isinstance(answer, float) or math.isfinite(answer)


def _answer(
    population: Population,
    question: Question,
    counterfactual: bool,
    outcomes: Mapping[str, Outcome],
    level: float,
    segment: pd.Series | None,
    seed: int,
    progress: bool,
) -> dict[str, Any]:
    """What :func:`effects` returns; `segment` is each user's."""
    run, users = population.run, population.users
    posterior = run.posterior.with_outcomes(run.outcomes)

    def ask(
        interventions: Interventions,
        share: float,
        mediators: Mediators | None = None,
        whole: bool = False,
        title: str = "",
        of: Mapping[str, Outcome] = outcomes,
        among: Users = users,
    ) -> EffectDraws:
        return average_effects(
            run.guide,
            posterior,
            among,
            interventions,
            mediators,
            of,
            counterfactual,
            seed,
            share,
            whole,
            progress=title if progress else "",
        )

    main = ask(question.interventions, 1.0, whole=True, title="effects")
    detail = ask(question.interventions, IN_DETAIL, _in_detail(population), title="factors and paths")

    def by_category(shares: Mapping[str, Outcome], part: float) -> EffectDraws:
        return ask(question.interventions, OF_CURVE * part, UNSPLIT, title="categories", of=shares)

    of_outcomes = {name: _outcome(name, main, detail, level) for name in outcomes}
    answer = {
        "headline": headline(question.in_words, of_outcomes, level),
        "shift": question.words,
        "kind": "counterfactual" if counterfactual else "interventional",
        "level": level,
        "users": users.logs.n_users,
        "outcomes": of_outcomes,
        "suppression": suppression(main.contrasts["engagement"]),
        "substitution": substitution(main.contrasts),
        "substitution_undone": substitution_undone(main.contrasts),
        "sentences": [
            *sentences(main.contrasts),
            *(outcome_sentence(name, of_outcomes[name], level) for name in run.outcome_names),
            *question.remarks,
        ],
        "categories": shares_by_category(by_category, run, users, question.interventions, level),
        "course": _course(main, level),
        "displacement": {
            factor: interval(draws, level) | {"label": population.labels[factor]}
            for factor, draws in main.displacement.items()
        },
        "densities": {factor: _density(values) for factor, values in main.densities.items()},
        "overlap": question.support.to_dict() | {"held": question.held},
        "negative_controls": negative_controls(run.guide, run.posterior, users, seed),
        "noise": noise_checks(run.guide, run.posterior, users, seed),
        "e_values": e_values(main.levels["engagement"], level),
    }
    if segment is not None:
        factors = Mediators({"factors": run.factor_names}, loop=sites_of_past(users.logs))
        answer["by_segment"] = effects_by_segment(
            lambda who, forces: ask(forces, IN_DETAIL, factors, title="segments", among=who),
            users,
            question.interventions,
            segment,
            level,
        )
    if question.policy is None:
        return answer
    shifted = question.interventions["exposure_covariates"]
    assert isinstance(shifted, Tensor)
    of_run = (run.guide, run.posterior, users)
    answer["regression"] = _regression(population, question.policy, main, level, seed)
    answer["placebo"] = placebo(*of_run, shifted, level, seed, progress="placebo" if progress else "")
    answer["sensitivity"] = rho_curve(
        *of_run,
        question.interventions,
        level,
        seed=seed,
        share=OF_CURVE,
        progress="sensitivity" if progress else "",
    )
    answer["reliability"] = _by_reliability(population, question.policy, ask, outcomes, level, seed)
    doses = [population.under(scaled(question.policy, size), seed) for size in SIZES]
    found = [
        ask(interventions, OF_CURVE, UNSPLIT)
        for interventions, _ in tqdm(doses, "dose-response", disable=not progress, leave=False)
    ]
    answer["dose_response"] = {
        "size": list(SIZES),
        "outside": [support.outside for _, support in doses],
        **{o: [interval(draws.contrasts[o]["TE"], level) for draws in found] for o in outcomes},
    }
    return answer


def write_effects(answer: dict[str, Any], out: str | Path) -> None:
    """Write an answer as JSON, whole or not at all."""
    with whole_file(Path(out)) as file:
        file.write_text(json.dumps(answer, indent=2, allow_nan=False))


def _in_detail(population: Population) -> Mediators:
    """Each factor alone, each likely path from platform to preference, and the controlled direct effect."""
    run = population.run
    edges = run.edges(population.factors)
    likely = edges[(edges["probability"] >= LIKELY) & edges["source"].str.startswith(CHANNELS[0])]
    paths = list(zip(likely["source"], likely["target"], strict=True))
    levels = population.factor_means.mean().to_dict()
    loop = sites_of_past(population.users.logs)
    return Mediators(factors_by_channel(run.guide.model), paths, each=True, levels=levels, loop=loop)


def _outcome(name: str, main: EffectDraws, detail: EffectDraws, level: float) -> dict[str, Any]:
    """Everything that is said of one outcome."""
    contrasts, more = main.contrasts[name], detail.contrasts[name]
    estimands: dict[str, Any] = {estimand: interval(draws, level) for estimand, draws in contrasts.items()}
    paths = {key: interval(draws, level) for key, draws in more.items() if "->" in key}
    factors = {key: interval(draws, level) for key, draws in more.items() if key in main.displacement}
    mediated = proportion_mediated(contrasts)
    share = relative(contrasts["TE"], main.levels[name]["before"])
    return estimands | {
        "relative": None if share is None else interval(share, level),
        "CDE": interval(more["CDE"], level),
        "factors": factors,
        "paths": paths,
        "suppression": suppression(contrasts),
        "proportion_mediated": None if mediated is None else interval(mediated, level),
        "levels": {world: interval(draws, level) for world, draws in main.levels[name].items()},
    }


def _course(main: EffectDraws, level: float) -> dict[str, Any]:
    """Each period, by outcome: what is before and after the change, and the difference (TE)."""
    course: dict[str, Any] = {"period": list(range(1, main.course["engagement"]["before"].shape[1] + 1))}
    for outcome, of in main.course.items():
        draws = of | {"TE": of["after"] - of["before"]}
        course[outcome] = {name: [interval(d, level) for d in by.T] for name, by in draws.items()}
    return course


def _regression(
    population: Population, policy: Policy, main: EffectDraws, level: float, seed: int
) -> dict[str, Any]:
    """The total effect without the model, beside the model's."""
    now, then = _covariates(population, policy, seed)
    model = {outcome: contrasts["TE"] for outcome, contrasts in main.contrasts.items()}
    return beside(model, now, then, observed_rates(population.activity), level)


def _covariates(population: Population, policy: Policy, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All covariates of the users, as they are and under a policy."""
    now = population.covariates.drop(columns="user_id")
    return now, now.assign(**population.changed(policy, seed)[0])


def _of_users(controls: pd.DataFrame, population: Population) -> pd.DataFrame:
    """Negative controls in the order of the run's users."""
    own = controls.reindex(population.covariates["user_id"]).reset_index(drop=True)
    for name, values in own.items():
        if (
            not pd.api.types.is_numeric_dtype(values)
            or not values.std() > 0
            or len(values.dropna()) < FEWEST_USERS
        ):
            raise InterventionError(
                f"control {name}: give numbers that vary, by user_id, for {FEWEST_USERS} or more of the run's users"
            )
    return own


def _by_reliability(
    population: Population,
    policy: Policy,
    ask: Callable[[Interventions, float, Mediators], EffectDraws],
    outcomes: Iterable[str],
    level: float,
    seed: int,
) -> dict[str, Any]:
    """The total effect, were the shifted covariates of this reliability; of as low a one as they can have."""
    covariates = population.covariates.drop(columns="user_id")
    exposure = population.run.config["exposure_covariates"]
    possible = {r: meant(policy, covariates, exposure, r) for r in RELIABILITIES}
    found = {
        r: ask(population.under(change, seed)[0], OF_CURVE, UNSPLIT)
        for r, change in possible.items()
        if change is not None
    }
    by_outcome = {
        o: [interval(draws.contrasts[o]["TE"], level) for draws in found.values()] for o in outcomes
    }
    return {"reliability": list(found), **by_outcome}


def _density(values: Array, bins: int = 40) -> dict[str, list[float]]:
    """Histograms of a factor before and after, on common bins."""
    low, high = np.quantile(values, [0.002, 0.998])
    edges = np.linspace(low, high, bins + 1)
    before, after = (np.histogram(row, edges, density=True)[0] for row in values)
    return {"at": ((edges[1:] + edges[:-1]) / 2).tolist(), "before": before.tolist(), "after": after.tolist()}
