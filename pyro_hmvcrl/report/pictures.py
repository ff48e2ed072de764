"""The report's pictures: figure, file name, and what it shows in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from pyro_hmvcrl.queries.overlap import EXTRAPOLATES
from pyro_hmvcrl.report.answer_figures import (
    effects_categories,
    effects_course,
    effects_displacement,
    effects_dose,
    effects_forest,
    effects_reliability,
    effects_segments,
    effects_sensitivity,
    policies_plane,
    published,
    undone_at,
)
from pyro_hmvcrl.report.reading import EFFECTS_MEND, KUAISAR_MEND, VALIDATION_MEND, Run
from pyro_hmvcrl.report.run_figures import (
    categories,
    coefficients,
    factor_panels,
    graph,
    modulation,
    predictive_checks,
    predictive_densities,
    training,
)
from pyro_hmvcrl.report.selection import selection, selection_alt
from pyro_hmvcrl.report.style import estimands_in, label, most_moved, named, plain, strongest
from pyro_hmvcrl.report.validation import validation_figure
from pyro_hmvcrl.report.verdicts import category_text, effect_text, interval_text, passing, segment_text
from pyro_hmvcrl.run.run import LIKELY


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its files, and what it shows in words."""

    name: str
    figure: Figure
    alt: str


def _factors(run: Run) -> Picture:
    factors = run["factors"]
    said = [
        f"{label(f)} correlates {factors[f].corr(factors[f'{f}_true']):.3f} with the truth"
        if f"{f}_true" in factors
        else f"{label(f)} by thirds of {strongest(run['mechanisms'], f, 'location', 'log_scale')}"
        for f in run["names"]
    ]
    figure = factor_panels(factors, run["covariates"], run["mechanisms"])
    return Picture("factors", figure, f"One panel a factor: {'; '.join(said)}.")


def _categories(run: Run) -> Picture:
    described = run["report"]["factor_categories"]
    said = [f"{label(f)} raises {label(of['raised'][0])} most" for f, of in described.items()]
    alt = f"Change of categories' shares with intervals, a panel a factor. {'; '.join(said)}."
    return Picture("categories", categories(described), alt)


def _predictive(run: Run) -> Picture | None:
    checks = run["report"]["predictive"]["checks"]
    if not checks:
        return None
    said = "; ".join(
        f"{check['title']} {check['distance']:.1f} (passes: {passing(check)})" for check in checks.values()
    )
    alt = f"How far the logs are from the model's, in standard deviations: {said}."
    return Picture("predictive", predictive_checks(checks), alt)


def _predictive_densities(run: Run) -> Picture | None:
    made = run["report"]["predictive"]
    if not made["densities"]:
        return None
    said = ", ".join(of["title"] for of in made["densities"].values())
    alt = f"Histograms over users, of these logs and of those that the model makes: {said}."
    return Picture("predictive_densities", predictive_densities(made["densities"], made["level"]), alt)


def _graph(run: Run) -> Picture:
    likely = run["graph"][run["graph"]["probability"] >= LIKELY]
    source, target = ([named(f, run["labels"]) for f in likely[end]] for end in ("source", "target"))
    said = [f"{a} to {b}, weight {w:.2f}" for a, b, w in zip(source, target, likely["weight"], strict=True)]
    alt = (
        f"Edges drawn solid: {'; '.join(said) or 'none'}. Dashed and faint: {len(run['graph']) - len(said)}."
    )
    return Picture("graph", graph(run["graph"], run["names"], run["labels"]), alt)


def _modulation(run: Run) -> Picture | None:
    moved = {f: strongest(run["mechanisms"], f, "location") for f in run["names"]}
    said = "; ".join(f"{label(f)} by {covariate}" for f, covariate in moved.items() if covariate)
    if not said:
        return None
    figure = modulation(run["factors"], run["covariates"], run["mechanisms"])
    return Picture("modulation", figure, f"Means and spreads by covariate. Location moves most: {said}.")


def _coefficients(run: Run) -> Picture | None:
    if not any(m["covariates"] for m in run["mechanisms"].values()):
        return None
    alt = "Dots with intervals: location and log-scale coefficients of each factor, a row per covariate."
    return Picture("coefficients", coefficients(run["mechanisms"]), alt)


def _training(run: Run) -> Picture:
    selected = next(r["restart"] for r in run["report"]["restarts"] if r["selected"])
    alt = f"The bound rises with the steps; restart {selected} of {len(run['report']['restarts'])} was kept."
    return Picture("training", training(run["training"], selected), alt)


def _effects_forest(run: Run) -> Picture | None:
    if run["effects"] is None:
        return None
    asked = estimands_in(run["effects"])
    said = [
        f"{label(o)}: {', '.join(f'{name} {effect_text(of[e], o)}' for e, name in asked.items())}"
        for o, of in run["effects"]["outcomes"].items()
    ]
    figure = effects_forest(run["effects"])
    return Picture("effects_forest", figure, f"Effects with intervals. {'; '.join(said)}.")


def _effects_categories(run: Run) -> Picture | None:
    if run["effects"] is None:
        return None
    said = "; ".join(category_text(run["effects"], c) for c in most_moved(run["effects"], 5))
    alt = f"Shares of categories before and after, those that move most. {said}."
    return Picture("effects_categories", effects_categories(run["effects"]), alt)


def _policies(run: Run) -> Picture | None:
    if len(run["policies"]) < 2:
        return None
    said = "; ".join(
        f"{label(name)}: "
        + ", ".join(f"{o} {effect_text(of['outcomes'][o]['TE'], o)}" for o in ("engagement", "alignment"))
        for name, of in run["policies"].items()
    )
    return Picture("policies", policies_plane(run["policies"]), f"Policies by their total effects. {said}.")


def _effects_segments(run: Run) -> Picture | None:
    if run["effects"] is None or "by_segment" not in run["effects"]:
        return None
    of = run["effects"]["by_segment"]
    said = "; ".join(segment_text(name, each) for name, each in of["segments"].items())
    alt = f"Total effects by {label(of['by'])}, with intervals. {said}."
    return Picture("effects_segments", effects_segments(run["effects"]), alt)


def _effects_displacement(run: Run) -> Picture | None:
    if run["effects"] is None:
        return None
    moved = run["effects"]["displacement"]
    said = "; ".join(f"{named(f, run['labels'])} by {interval_text(moved[f], 2)} sd" for f in run["names"])
    figure = effects_displacement(run["effects"])
    return Picture("effects_displacement", figure, f"Factors before and after. The policy moves {said}.")


def _effects_dose(run: Run) -> Picture | None:
    if run["effects"] is None or "dose_response" not in run["effects"]:
        return None
    dose = run["effects"]["dose_response"]
    said = [
        f"{label(o)}: "
        + ", ".join(f"{effect_text(e, o)} at {plain(x)}" for x, e in zip(dose["size"], dose[o], strict=True))
        for o in run["effects"]["outcomes"]
    ]
    beyond = [plain(x) for x, out in zip(dose["size"], dose["outside"], strict=True) if out > EXTRAPOLATES]
    alt = f"Total effect by size of the shift. {'; '.join(said)}. Extrapolates at: {', '.join(beyond) or 'none'}."
    return Picture("effects_dose", effects_dose(run["effects"]), alt)


def _effects_course(run: Run) -> Picture | None:
    if run["effects"] is None or len(run["effects"]["course"]["period"]) == 1:
        return None
    course = run["effects"]["course"]
    said = [
        f"{label(o)}: from {effect_text(course[o]['TE'][0], o)} to {effect_text(course[o]['TE'][-1], o)}"
        for o in run["effects"]["outcomes"]
    ]
    alt = f"Total effect by period, first to last. {'; '.join(said)}."
    return Picture("effects_course", effects_course(run["effects"]), alt)


def _effects_sensitivity(run: Run) -> Picture | None:
    if run["effects"] is None or "sensitivity" not in run["effects"]:
        return None
    curve = run["effects"]["sensitivity"]
    nie = zip(curve["rho"], curve["NIE"], strict=True)
    said = ", ".join(f"{effect_text(e, 'engagement')} at rho {plain(rho)}" for rho, e in nie)
    undone = ", ".join(map(plain, undone_at(curve))) or "none of these"
    alt = f"Indirect effect on engagement: {said}. First undone at: {undone}. What it loses, the direct effect gains."
    return Picture("effects_sensitivity", effects_sensitivity(run["effects"]), alt)


def _effects_reliability(run: Run) -> Picture | None:
    if run["effects"] is None or "reliability" not in run["effects"]:
        return None
    curve, at = run["effects"]["reliability"], run["effects"]["reliability"]["reliability"]
    said = [
        f"{label(o)}: {', '.join(f'{effect_text(e, o)} at {plain(r)}' for r, e in zip(at, curve[o], strict=True))}"
        for o in run["effects"]["outcomes"]
    ]
    alt = f"Total effect by reliability of what is shifted. {'; '.join(said)}."
    return Picture("effects_reliability", effects_reliability(run["effects"]), alt)


def _validation(run: Run) -> Picture | None:
    if run["validation"] is None:
        return None
    alt = f"Before, predicted with intervals, and observed. {' '.join(run['validation']['sentences'])}"
    return Picture("validation", validation_figure(run["validation"]), alt)


def _published(run: Run) -> Picture | None:
    if run["kuaisar"] is None:
        return None
    rows = run["kuaisar"]["agreement"]
    said = "; ".join(f"{row['figure']} {interval_text(row['obtained'], 3)}" for row in rows)
    return Picture("published", published(rows), f"MCC with intervals, null and floor. {said}.")


#: In the order of making, each with the file that errors name: that of its numbers.
def _selection(run: Run) -> Picture | None:
    found = run["report"].get("selection")
    return Picture("selection", selection(found), selection_alt(found)) if found else None


PICTURES: dict[Callable[[Run], Picture | None], str] = {
    **dict.fromkeys((_factors, _categories), "report.json"),
    _graph: "graph.csv",
    **dict.fromkeys((_modulation, _coefficients), "report.json"),
    _training: "training.csv",
    **dict.fromkeys((_predictive, _predictive_densities, _selection), "report.json"),
    **dict.fromkeys(
        (
            _effects_forest,
            _effects_categories,
            _effects_segments,
            _effects_course,
            _effects_displacement,
            _effects_dose,
            _effects_sensitivity,
            _effects_reliability,
        ),
        "effects.json",
    ),
    _policies: "answers",
    _validation: "validation.json",
    _published: "kuaisar.json",
}
MENDS = {"effects.json": EFFECTS_MEND, "answers": EFFECTS_MEND, "kuaisar.json": KUAISAR_MEND}
MENDS |= {"validation.json": VALIDATION_MEND}
