"""The answer to a causal question: the effects of a change, with the checks that it needs to be believed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from pyro_hmvcrl.data.dataset import CHANNELS
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.inference.writing import whole_file
from pyro_hmvcrl.queries.averages import (
    EffectDraws,
    average_effects,
    factors_by_channel,
    sites_of_past,
)
from pyro_hmvcrl.queries.by_category import shares_by_category
from pyro_hmvcrl.queries.checks import e_values, negative_controls, noise_checks, placebo, rho_curve
from pyro_hmvcrl.queries.findings import (
    interval,
    proportion_mediated,
    relative,
    sentences,
    substitution,
    substitution_undone,
    suppression,
)
from pyro_hmvcrl.queries.headline import change_in_words, headline
from pyro_hmvcrl.queries.interventions import (
    InterventionError,
    Interventions,
    Policy,
    Shift,
    apply,
    scaled,
    together,
)
from pyro_hmvcrl.queries.mediation import OUTCOMES, Mediators, Outcome
from pyro_hmvcrl.queries.overlap import Overlap, overlap
from pyro_hmvcrl.queries.population import Population
from pyro_hmvcrl.queries.regression import beside, observed_rates
from pyro_hmvcrl.queries.reliability import RELIABILITIES, meant
from pyro_hmvcrl.run.files import RunError
from pyro_hmvcrl.run.run import LIKELY

Array = NDArray[np.float64]
LEVEL = 0.9
IN_DETAIL, OF_CURVE = (
    0.25,
    0.125,
)  #: share of the draws for questions beside TE, NDE and NIE; for a curve's points
SIZES = (-1.0, -0.5, 0.5, 1.0, 1.5, 2.0)  #: of the dose-response, in units of the asked shift


@own_state()
def effects(
    folder: str | Path,
    change: Policy | Sequence[Shift],
    *,
    counterfactual: bool = False,
    outcomes: Mapping[str, Outcome] = OUTCOMES,
    level: float = LEVEL,
    extrapolate: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Effects of a change on engagement, alignment and the factors, with their checks.

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
        Functions of a world, of which engagement and alignment must be two.
    level
        Of the intervals.
    extrapolate
        Answer even where no data support the change.

    Returns
    -------
    dict
        What the command ``effects`` writes as JSON: the `headline`, `shift`, `kind`, `level` and `users`; `outcomes`,
        for each the mean and interval of TE, NDE, NIE and its parts, by factor and path too, and TE `relative` to the
        level before; the probabilities of `suppression`, `substitution` and its reverse (`substitution_undone`);
        `displacement` of each factor in standard deviations, with its label; the shares of the `categories` in what is
        searched and shown, before and after; the `course` of the outcomes over the
        periods; and the checks (`overlap`, of which shares are `held` between 0 and 1,
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
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: it must lie between 0 and 1")
    population = Population.of(folder)
    question = _question(population, change, seed)
    if not question.support.supported and not extrapolate:
        raise InterventionError(
            f"the change is {question.support.verdict}. {question.support.mend}, or ask for the extrapolation by name "
            "(extrapolate=True; on the command line --extrapolate)"
        )
    try:
        answer = _answer(population, question, counterfactual, outcomes, level, seed, progress)
        for name in outcomes.keys() - OUTCOMES.keys():
            if not _all_finite(answer["outcomes"][name]):
                raise ValueError(
                    f"outcome {name!r} is not finite for every user; let it give a finite number"
                )
        finite = _all_finite(answer)
    except FloatingPointError:
        finite = False
    if not finite:
        raise RunError(f"{folder}: its numbers give no finite effects; fit again")
    return answer


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
    seed: int,
    progress: bool,
) -> dict[str, Any]:
    """What :func:`effects` returns."""
    run, users = population.run, population.users

    def ask(
        interventions: Interventions,
        share: float,
        mediators: Mediators | None = None,
        whole: bool = False,
        title: str = "",
        of: Mapping[str, Outcome] = outcomes,
    ) -> EffectDraws:
        return average_effects(
            run.guide,
            run.posterior,
            users,
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
    by_category = partial(ask, question.interventions, OF_CURVE, Mediators({}), False, "categories")
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
        "sentences": [*sentences(main.contrasts), *_held_sentences(question.held)],
        "categories": shares_by_category(
            lambda shares: by_category(of=shares), run, users, question.interventions, level
        ),
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
        ask(interventions, OF_CURVE)
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


@dataclass(frozen=True)
class Question:
    """A change as the model takes it: what was asked in words, and whether the data support it."""

    words: list[str]
    in_words: str  #: as a sentence starts
    interventions: Interventions
    support: Overlap
    policy: Policy | None = None  #: none: the change is one of factors
    held: Mapping[str, float] = field(default_factory=dict)  #: users at the ends of a share, by column


def _question(population: Population, change: Policy | Sequence[Shift], seed: int) -> Question:
    if not isinstance(change, Sequence):
        name = getattr(change, "__name__", "policy")
        return _of_covariates(population, [name], f"The policy {name}", change, seed)
    names = population.run.factor_names
    shifts = [shift for of_one in change for shift in _each_factor(of_one, names)]
    words = [str(shift) for shift in shifts]
    exposure = population.run.config["exposure_covariates"]
    for shift in shifts:
        if shift.column not in [*names, *exposure]:
            raise InterventionError(
                f"no exposure covariate or factor {shift.column}: choose of {', '.join([*exposure, *names])}, "
                f"or {' or '.join(CHANNELS)} for all factors of it"
            )
    of_factors = [shift.column in names for shift in shifts]
    if any(of_factors) and not all(of_factors):
        other = shifts[of_factors.index(False)].column
        raise InterventionError(
            f"{other} is no factor: shift covariates or factors ({', '.join(names)}), not both at once"
        )
    if any(of_factors):
        return Question(words, change_in_words(shifts), *_force_factors(population, shifts))
    spread = population.exposure.std(ddof=0)
    policy = together(*(shift.in_units(float(spread[shift.column])) for shift in shifts))
    return _of_covariates(population, words, change_in_words(shifts), policy, seed)


def _of_covariates(
    population: Population, words: list[str], in_words: str, policy: Policy, seed: int
) -> Question:
    _, held = population.changed(policy, seed)
    return Question(words, in_words, *population.under(policy, seed), policy, held)


def _held_sentences(held: Mapping[str, float]) -> list[str]:
    """Which covariates cannot follow the policy for all users."""
    return [
        f"{name} is taken for a share: {of:.1%} of the users would leave 0 to 1, and are held at its ends."
        for name, of in held.items()
    ]


def _each_factor(shift: Shift, names: Sequence[str]) -> list[Shift]:
    """A shift of a channel as shifts of its factors; any other as it is."""
    if shift.column not in CHANNELS:
        return [shift]
    return [replace(shift, column=name) for name in names if name.startswith(f"{shift.column}_")]


def _force_factors(population: Population, shifts: Sequence[Shift]) -> tuple[Interventions, Overlap]:
    """Interventions on factors, and whether the users' own factors support them."""
    shifts = [shift.in_units(population.sd_of(shift.column)) for shift in shifts]
    forced = apply(together(*shifts), population.factor_means)
    own = {name: [s for s in shifts if s.column == name] for name in {s.column: None for s in shifts}}
    interventions = {name: partial(_in_turn, each) for name, each in own.items()}
    return interventions, overlap(population.factor_means, forced)


def _in_turn(shifts: Sequence[Shift], now: Tensor) -> Tensor:
    """A factor's value after one shift and the next."""
    for shift in shifts:
        now = shift.changed(now)
    return now


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
    now = population.covariates.drop(columns="user_id")
    then = now.assign(**population.changed(policy, seed)[0])
    model = {outcome: contrasts["TE"] for outcome, contrasts in main.contrasts.items()}
    return beside(model, now, then, observed_rates(population.activity), level)


def _by_reliability(
    population: Population,
    policy: Policy,
    ask: Callable[[Interventions, float], EffectDraws],
    outcomes: Iterable[str],
    level: float,
    seed: int,
) -> dict[str, Any]:
    """The total effect, were the shifted covariates of this reliability; of as low a one as they can have."""
    covariates = population.covariates.drop(columns="user_id")
    exposure = population.run.config["exposure_covariates"]
    possible = {r: meant(policy, covariates, exposure, r) for r in RELIABILITIES}
    found = {
        r: ask(population.under(change, seed)[0], OF_CURVE)
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
