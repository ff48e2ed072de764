"""The report of a fitted run: report.html, self-contained, and its figures, from the files of the run folder alone.

``report.html.jinja`` holds the page's words and tables.  Another figure is a function in `PICTURES` and a call of
``picture`` in the template.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from pyro_hmvcrl import plots, predictive
from pyro_hmvcrl.checks import EXTRAPOLATES, RARE
from pyro_hmvcrl.dataset import CHANNELS, read_json, whole_file
from pyro_hmvcrl.plots import ESTIMANDS, PARTS, PROBABILITIES, label, plain, strongest
from pyro_hmvcrl.results import LIKELY, MEND, check_config, of_file

Run = dict[str, Any]
Effects = dict[str, Any]

EFFECTS_MEND = "ask for the effects again (pyro-hmvcrl effects), or delete the file"
KUAISAR_MEND = "give the command kuaisar again, or delete the file"
KUAISAR_KEYS = [f"{part}.*.{key}" for part in ("agreement", "figures") for key in ("figure", "published")]
KUAISAR_NUMBERS = [
    f"{part}.*.{key}" for part in ("agreement", "figures") for key in ("users", "obtained.mean")
]
KUAISAR_NUMBERS += [f"agreement.*.{key}" for key in ("obtained.lower", "obtained.upper", "rotation_null")]
KUAISAR_NUMBERS += [f"agreement.*.{key}" for key in ("covariates_alone", "within_covariates", "weak_mcc")]
CONFIG_KEYS = ["version", "name", "platform_factors", "preference_factors", "exposure_covariates"]
CONFIG_KEYS += ["preference_covariates", "categories", "users", "held_out_users", "search_events"]
CONFIG_KEYS += ["recommendation_events", "settings.restarts", "seconds"]
MECHANISM_KEYS = ("covariates", "location", "location_sd", "log_scale", "log_scale_sd")
CHANNEL_KEYS = [
    f"identifiability.{part}" for part in ("verdict.{0}", "channels.{0}.mcc", "channels.{0}.modulation")
]
CHANNEL_KEYS += [f"mechanisms.{{0}}.{part}" for part in MECHANISM_KEYS]
REPORT_KEYS = [
    "restarts",
    "scoring",
    "factor_categories",
    "held_out_bound.mean",
    "held_out_bound.standard_error",
]
REPORT_KEYS += ["predictive.users", "predictive.replications", "predictive.level", "predictive.densities"]
REPORT_KEYS += [f"predictive.checks.*.{key}" for key in ("title", "level", "distance", "difference", "p")]
CATEGORY_KEYS = ["raised", "lowered", "change"]
REPORT_KEYS += [key.format(channel) for channel in CHANNELS for key in CHANNEL_KEYS]
# "*" stands for every entry of a dict or list.
EFFECT_KEYS = ["shift", "kind", "sentences", "overlap.verdict", "outcomes.engagement", "outcomes.alignment"]
EFFECT_KEYS += ["outcomes.*.proportion_mediated", "negative_controls.*.verdict", "noise.*.verdict"]
EFFECT_NUMBERS = ["level", "users", "overlap.outside", "negative_controls.*.r2", "negative_controls.*.null"]
EFFECT_NUMBERS += ["outcomes.*.suppression", *(f"noise.*.{part}" for part in ("noise", "prior", "p"))]
EFFECT_NUMBERS += [f"e_values.{e}.{v}" for e in PARTS for v in ("e_value", "e_value_of_interval")]
INTERVAL = ("mean", "lower", "upper")
EFFECT_INTERVALS = [f"outcomes.*.{e}" for e in (*ESTIMANDS, "CDE", "factors.*", "paths.*")]
EFFECT_INTERVALS += ["outcomes.*.levels.before", "outcomes.*.levels.after", "displacement.*"]
DENSITY = ("at", "before", "after")
ANSWERS = ("effects", "kuaisar")  #: of questions that were put to a run
ABSENT = object()
WEAK = 0.1  #: a correlation that easily goes unnoticed
TEXT = {"user_id", "stage", "source", "target"}  #: all other columns hold numbers
MAY_BE_EMPTY = {"held_out_bound"}
FAR_FROM_MODE = 0.5  #: standard deviations of the posterior
#: Words of a verdict (identifiability.verdict) that speak against the fit.
AGAINST = (
    "could be",
    "disagree",
    "nothing confirms",
    "collapsed",
    "not above",
    "not recovered",
    "axes are not",
)


class ReportError(ValueError):
    """A run folder that cannot be reported on: names the file, what is wrong with it, and the mend."""


_of_file = partial(of_file, kind=ReportError)


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its files, and what it shows in words."""

    name: str
    figure: Figure
    alt: str


def write_report(run_folder: Path) -> Path:
    """Write ``report.html``, ``figures/*.png`` and ``figures/*.svg`` into a run folder; returns the page's path.

    ``report.json`` gets the answers that the page tells of (``effects``, ``kuaisar``), so that it has every number in
    it; curves and densities are drawn from the tables beside it.  Everything is made before anything is written, and
    each file appears whole or not at all.

    Raises
    ------
    ReportError
        If a file of the run folder is missing or malformed.
    """
    run = read_run(run_folder)
    pictures: list[Picture] = []
    files: dict[str, bytes] = {}
    for make, source in PICTURES.items():
        with _of_file(run_folder / source, MENDS.get(source, MEND)):
            if picture := make(run):
                pictures.append(picture)
                files |= _image_files(picture.name, picture.figure)
    with _of_file(run_folder / "report.json"):
        files |= _image_files("overview", plots.overview(run))
        sources = {p.name: base64.b64encode(files[f"figures/{p.name}.svg"]).decode() for p in pictures}
        alts = {p.name: p.alt for p in pictures}
        page = _template().render(run, alts=alts, sources=sources, **WORDS)
    answers = {name: run[name] for name in ANSWERS if run[name] is not None}
    numbers = {key: value for key, value in run["report"].items() if key not in ANSWERS} | answers
    files |= {"report.html": page.encode(), "report.json": json.dumps(numbers, indent=2).encode()}
    (run_folder / "figures").mkdir(exist_ok=True)
    for name, content in files.items():
        with whole_file(run_folder / name) as file:
            file.write_bytes(content)
    return run_folder / "report.html"


def _image_files(name: str, figure: Figure) -> dict[str, bytes]:
    return {f"figures/{name}.{kind}": plots.to_bytes(figure, kind) for kind in ("png", "svg")}


def trust(verdict: list[str]) -> tuple[str, str]:
    """What a channel's verdict comes to: a level (good, care or no), and whether to believe its factors."""
    if "only up to" in verdict[0]:
        return "no", "Read this channel as a whole; do not interpret its single factors."
    if any(words in sentence for words in AGAINST for sentence in verdict):
        return "no", "Do not rely on its factors: the evidence speaks against this fit."
    if "short of the full condition" in verdict[0]:
        return "care", "Interpret its factors with care: the full condition is not met."
    return "good", "Its factors can be believed."


def judge(
    effects: Effects, verdict: dict[str, list[str]], predictive_checks: dict[str, Any]
) -> dict[str, tuple[str, str]]:
    """What the checks of an answer come to: for each a level (good, care, no; empty: neither) and, shortly, why."""
    levels = {channel: trust(sentences)[0] for channel, sentences in verdict.items()}
    doubted = [channel for channel, level in levels.items() if level != "good"]
    supported = effects["overlap"]["verdict"].partition(":")[0]
    leaks, unlike = (
        [name for name, found in effects[check].items() if found["verdict"] != "passes"]
        for check in ("negative_controls", "noise")
    )
    checks = {
        "factors": ("care", f"doubt on {' and '.join(doubted)}") if doubted else ("good", "can be believed"),
        "predictive": (predictive.verdict(predictive_checks)[0], _alike(predictive_checks)),
        "overlap": ({"supported": "good", "in part": "care"}.get(supported, "no"), supported),
        "negative_controls": ("no", "failed") if leaks else ("good", "passed"),
        "noise": ("care", f"failed: {' and '.join(unlike)}") if unlike else ("good", "passed"),
    }
    if "placebo" in effects:
        p, covers, of = (effects["placebo"][part] for part in ("p", "covers_zero", "of"))
        level = "good" if p >= RARE else "care" if covers >= of / 2 else "no"
        checks["placebo"] = level, f"covers zero {covers} of {of}, p {p:.2f}"
    if "sensitivity" in effects:
        checks["rho"] = _judge_rho(effects["sensitivity"])
    return checks


def _alike(checks: dict[str, Any]) -> str:
    failed = sum(check["level"] != "good" for check in checks.values())
    return f"{len(checks) - failed} of {len(checks)} pass"


def _judge_rho(curve: dict[str, Any]) -> tuple[str, str]:
    first = curve["first_rho_with_zero_in_NIE"]
    if first is None:
        return "good", f"NIE stands up to {max(map(abs, curve['rho'])):g}"
    if first == 0:
        return "", "NIE includes zero at 0"
    return "care" if first <= WEAK else "", f"{first:g} may undo NIE"


def overall(checks: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """What the checks come to together: the worst level, and whether to believe the answer."""
    levels = {level for level, _ in checks.values()}
    if "no" in levels:
        return "no", "Do not rely on this answer: a check below speaks against it."
    if "care" in levels:
        return "care", "Use this answer with care: see the checks below."
    return "good", "No check below speaks against this answer."


def scored(distances: list[float]) -> str:
    """What `score_to_the_mode` saw, in a sentence."""
    if not distances:
        return (
            "Users are too few for so many parameters to bring the fit to the mode of their posterior: effects may be "
            "off by what the bound leaves open."
        )
    before, after = (max(d, 0) ** 0.5 for d in (distances[0], min(distances)))
    far = (
        f" More than {FAR_FROM_MODE} is far: take more users or more steps." if after > FAR_FROM_MODE else ""
    )
    return (
        f"Fisher scoring with all users found the parameters {_number(before, 2)} standard deviations from the mode of "
        f"their posterior (root mean square), and left them within {_number(after, 2)}.{far}"
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"label": lambda name: label(name, width=60), "number": _number}
    environment.filters |= {"effect": _effect, "level": _level, "interval": _interval}
    environment.tests["probability"] = PROBABILITIES.__contains__
    return environment.get_template("report.html.jinja")


def _effect(e: dict[str, float], outcome: str) -> str:
    """Mean and interval of an effect, in percentage points if the outcome is a probability."""
    return f"{'+' if e['mean'] > 0 else ''}{_level(e, outcome)}"


def _level(e: dict[str, float], outcome: str) -> str:
    return _interval(e, 2 if outcome in PROBABILITIES else 4, plots.outcome_scale(outcome))


def _interval(e: dict[str, float], digits: int, scale: float = 1.0) -> str:
    mean, lower, upper = (_number(scale * e[part], digits) for part in INTERVAL)
    return f"{mean} ({lower} to {upper})"


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{float(value):z,.{digits}f}".replace("-", "−")  # float: a value that is missing says its name


WORDS = {"trust": trust, "judge": judge, "overall": overall, "likely": LIKELY, "estimands": ESTIMANDS}
WORDS |= {"predictive_verdict": predictive.verdict, "far": predictive.FAR, "matters": predictive.MATTERS}
WORDS |= {"verdicts": plots.VERDICTS, "scored": scored}
WORDS |= {"extrapolates": EXTRAPOLATES, "shown_paths": plots.SHOWN_PATHS}


# --- Reading -------------------------------------------------------------------------------------------------


def read_run(folder: Path, answered: bool = True) -> Run:
    """The checked files of a run folder, by name; `factors` and `covariates` of the held-out users, in one order.

    With `answered` off, what a new answer replaces is not read.

    Raises
    ------
    ReportError
        If a file is missing or malformed.
    """
    config = _json(folder / "config.json", CONFIG_KEYS)
    with _of_file(folder / "config.json"):
        check_config(config)
    names = [f"{c}_{k + 1}" for c in CHANNELS for k in range(config[f"{c}_factors"])]
    of_factors = [f"factor_categories.{f}.{key}" for f in names for key in CATEGORY_KEYS]
    report = _json(folder / "report.json", REPORT_KEYS + of_factors)
    _require(folder / "report.json", report, ["scoring", "*"], MEND, number=True)
    posterior = [column for f in names for column in (f, f"{f}_sd")]
    factors = _table(folder / "factors.parquet", ["user_id", "held_out", *posterior])
    factors = factors[factors["held_out"].astype(bool)].reset_index(drop=True)
    covariates = _table(
        folder / "covariates.parquet",
        ["user_id", *config["exposure_covariates"], *config["preference_covariates"]],
    )
    if covariates["user_id"].duplicated().any():
        raise ReportError(f"{folder / 'covariates.parquet'}: a user has two rows; {MEND}")
    if factors.empty:
        raise ReportError(f"{folder / 'factors.parquet'}: no user is held out; {MEND}")
    row = pd.Index(covariates["user_id"]).get_indexer(factors["user_id"])
    if (row < 0).any():
        user = factors["user_id"][row < 0].iloc[0]
        raise ReportError(f"{folder / 'covariates.parquet'}: no user {user} of factors.parquet; {MEND}")
    graph = _table(folder / "graph.csv", ["source", "target", "weight", "sd", "probability"])
    if unknown := sorted({*map(str, [*graph["source"], *graph["target"]])} - set(names)):
        raise ReportError(f"{folder / 'graph.csv'}: {unknown[0]!r} is no factor of config.json; {MEND}")
    return {
        "config": config,
        "report": report,
        "mechanisms": report["mechanisms"],
        "training": _table(folder / "training.csv", ["stage", "restart", "step", "bound", "held_out_bound"]),
        "factors": factors,
        "covariates": covariates.iloc[row].reset_index(drop=True),
        "graph": graph.sort_values("probability", ascending=False, kind="stable"),
        "names": names,
        "effects": _effects(folder / "effects.json", names) if answered else None,
        "kuaisar": _kuaisar(folder / "kuaisar.json"),
    }


def _effects(path: Path, factors: list[str]) -> Effects | None:
    """The answer of the command effects, if it has been asked."""
    if not path.exists():
        return None
    effects: Effects = _json(path, EFFECT_KEYS, EFFECTS_MEND)
    with _of_file(path, EFFECTS_MEND):
        return _check_effects(path, effects, factors)


def _check_effects(path: Path, effects: Effects, factors: list[str]) -> Effects:
    """Numbers where there must be numbers, and of the run's factors."""
    if "sensitivity" in effects:
        _require(path, effects, ["sensitivity", "first_rho_with_zero_in_NIE"], EFFECTS_MEND)
    for key in _numbers(effects, factors):
        _require(path, effects, key, EFFECTS_MEND, number=True)
    if set(effects["displacement"]) != set(factors):
        raise ReportError(f"{path}: its 'displacement' is of other factors than the run's; {EFFECTS_MEND}")
    return effects


def _kuaisar(path: Path) -> dict[str, Any] | None:
    """Published against obtained figures, if this is a run of KuaiSAR."""
    if not path.exists():
        return None
    found: dict[str, Any] = _json(path, ["shift", *KUAISAR_KEYS], KUAISAR_MEND)
    for key in KUAISAR_NUMBERS:
        _require(path, found, key.split("."), KUAISAR_MEND, number=True)
    return found


def _numbers(effects: Effects, factors: list[str]) -> list[list[str]]:
    """Keys of what must be numbers, in parts, as an outcome's name may have a dot."""
    numbers = [*EFFECT_NUMBERS, *(f"densities.{f}.{part}.*" for f in factors for part in DENSITY)]
    intervals, outcomes = [key.split(".") for key in EFFECT_INTERVALS], effects["outcomes"]
    intervals += [
        ["outcomes", o, "proportion_mediated"] for o in outcomes if outcomes[o]["proportion_mediated"]
    ]
    if "placebo" in effects:
        numbers += ["placebo.covers_zero", "placebo.of", "placebo.p"]
        intervals += [["placebo", "outcomes", "*", e] for e in ESTIMANDS]
    if "sensitivity" in effects:
        numbers += ["sensitivity.rho.*"]
        intervals += [["sensitivity", e, "*"] for e in PARTS]
    if "dose_response" in effects:
        numbers += ["dose_response.size.*", "dose_response.outside.*"]
        intervals += [["dose_response", o, "*"] for o in outcomes]
    return [key.split(".") for key in numbers] + [[*e, part] for e in intervals for part in INTERVAL]


def _json(path: Path, keys: Sequence[str], mend: str = MEND) -> Any:
    """A JSON file that has these dotted keys."""
    with _of_file(path, mend):
        content = read_json(path)
    for key in keys:
        _require(path, content, key.split("."), mend)
    return content


def _require(path: Path, content: Any, key: Sequence[str], mend: str, number: bool = False) -> None:
    for name, value in _entries(content, key):
        if value is ABSENT:
            raise ReportError(f"{path}: no {'.'.join(name)!r}; {mend}")
        if number and not isinstance(value, int | float):
            raise ReportError(f"{path}: {'.'.join(name)!r} must be a number; {mend}")


def _entries(content: Any, key: Sequence[str]) -> Iterator[tuple[list[str], Any]]:
    """Name and value of every entry that a key means; `ABSENT` where there is none."""
    if not key:
        yield [], content
        return
    inside = dict(enumerate(content)) if isinstance(content, list) else content
    found = isinstance(inside, dict) and (key[0] == "*" or key[0] in inside)
    if not found:
        yield [*key], ABSENT
        return
    for part in inside if key[0] == "*" else key[:1]:
        for name, value in _entries(inside[part], key[1:]):
            yield [str(part), *name], value


def _table(path: Path, columns: list[str]) -> pd.DataFrame:
    """A table that has these columns, without gaps, with numbers in all but those of text."""
    with _of_file(path):
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    for column in columns:
        if column not in table:
            raise ReportError(f"{path}: no column {column!r}; {MEND}")
        if len(table) and column not in TEXT and not pd.api.types.is_numeric_dtype(table[column]):
            raise ReportError(f"{path}: column {column!r} must hold numbers; {MEND}")
        if column not in MAY_BE_EMPTY and (empty := table[column].isna()).any():
            raise ReportError(f"{path}: column {column!r} is empty in row {empty.argmax() + 1}; {MEND}")
    return table


# --- Pictures ------------------------------------------------------------------------------------------------


def _factors(run: Run) -> Picture:
    factors = run["factors"]
    said = [
        f"{label(f)} correlates {factors[f].corr(factors[f'{f}_true']):.3f} with the truth"
        if f"{f}_true" in factors
        else f"{label(f)} by thirds of {strongest(run['mechanisms'], f, 'location', 'log_scale')}"
        for f in run["names"]
    ]
    figure = plots.factor_panels(factors, run["covariates"], run["mechanisms"])
    return Picture("factors", figure, f"One panel a factor: {'; '.join(said)}.")


def _categories(run: Run) -> Picture:
    described = run["report"]["factor_categories"]
    said = [f"{label(f)} raises {label(of['raised'][0])} most" for f, of in described.items()]
    alt = f"Change of categories' shares with intervals, a panel a factor. {'; '.join(said)}."
    return Picture("categories", plots.categories(described), alt)


def _predictive(run: Run) -> Picture | None:
    checks = run["report"]["predictive"]["checks"]
    if not checks:
        return None
    said = "; ".join(f"{check['title']} {check['distance']:.1f}" for check in checks.values())
    alt = f"How far the logs are from the model's, in standard deviations: {said}."
    return Picture("predictive", plots.predictive_checks(checks), alt)


def _predictive_densities(run: Run) -> Picture | None:
    made = run["report"]["predictive"]
    if not made["densities"]:
        return None
    said = ", ".join(of["title"] for of in made["densities"].values())
    alt = f"Histograms over users, of these logs and of those that the model makes: {said}."
    return Picture("predictive_densities", plots.predictive_densities(made["densities"], made["level"]), alt)


def _graph(run: Run) -> Picture:
    likely = run["graph"][run["graph"]["probability"] >= LIKELY]
    said = [f"{label(e.source)} to {label(e.target)}, weight {e.weight:.2f}" for e in likely.itertuples()]
    alt = (
        f"Edges drawn solid: {'; '.join(said) or 'none'}. Dashed and faint: {len(run['graph']) - len(said)}."
    )
    return Picture("graph", plots.graph(run["graph"], run["names"]), alt)


def _modulation(run: Run) -> Picture | None:
    moved = {f: strongest(run["mechanisms"], f, "location") for f in run["names"]}
    said = "; ".join(f"{label(f)} by {covariate}" for f, covariate in moved.items() if covariate)
    if not said:
        return None
    figure = plots.modulation(run["factors"], run["covariates"], run["mechanisms"])
    return Picture("modulation", figure, f"Means and spreads by covariate. Location moves most: {said}.")


def _coefficients(run: Run) -> Picture | None:
    if not any(m["covariates"] for m in run["mechanisms"].values()):
        return None
    alt = "Dots with intervals: location and log-scale coefficients of each factor, a row per covariate."
    return Picture("coefficients", plots.coefficients(run["mechanisms"]), alt)


def _training(run: Run) -> Picture:
    selected = next(r["restart"] for r in run["report"]["restarts"] if r["selected"])
    alt = f"The bound rises with the steps; restart {selected} of {len(run['report']['restarts'])} was kept."
    return Picture("training", plots.training(run["training"], selected), alt)


def _effects_forest(run: Run) -> Picture | None:
    if run["effects"] is None:
        return None
    said = [
        f"{label(o)}: {', '.join(f'{name} {_effect(of[e], o)}' for e, name in ESTIMANDS.items())}"
        for o, of in run["effects"]["outcomes"].items()
    ]
    figure = plots.effects_forest(run["effects"])
    return Picture("effects_forest", figure, f"Effects with intervals. {'; '.join(said)}.")


def _effects_displacement(run: Run) -> Picture | None:
    if run["effects"] is None:
        return None
    moved = run["effects"]["displacement"]
    said = "; ".join(f"{label(f)} by {_interval(moved[f], 2)} sd" for f in run["names"])
    figure = plots.effects_displacement(run["effects"])
    return Picture("effects_displacement", figure, f"Factors before and after. The policy moves {said}.")


def _effects_dose(run: Run) -> Picture | None:
    if run["effects"] is None or "dose_response" not in run["effects"]:
        return None
    dose = run["effects"]["dose_response"]
    said = [
        f"{label(o)}: "
        + ", ".join(f"{_effect(e, o)} at {plain(x)}" for x, e in zip(dose["size"], dose[o], strict=True))
        for o in run["effects"]["outcomes"]
    ]
    beyond = [plain(x) for x, out in zip(dose["size"], dose["outside"], strict=True) if out > EXTRAPOLATES]
    alt = f"Total effect by size of the shift. {'; '.join(said)}. Extrapolates at: {', '.join(beyond) or 'none'}."
    return Picture("effects_dose", plots.effects_dose(run["effects"]), alt)


def _effects_sensitivity(run: Run) -> Picture | None:
    if run["effects"] is None or "sensitivity" not in run["effects"]:
        return None
    curve = run["effects"]["sensitivity"]
    nie = zip(curve["rho"], curve["NIE"], strict=True)
    said = ", ".join(f"{_effect(e, 'engagement')} at rho {plain(rho)}" for rho, e in nie)
    undone = ", ".join(map(plain, plots.undone_at(curve))) or "none of these"
    alt = f"Indirect effect on engagement: {said}. First undone at: {undone}. What it loses, the direct effect gains."
    return Picture("effects_sensitivity", plots.effects_sensitivity(run["effects"]), alt)


def _published(run: Run) -> Picture | None:
    if run["kuaisar"] is None:
        return None
    rows = run["kuaisar"]["agreement"]
    said = "; ".join(f"{row['figure']} {_interval(row['obtained'], 3)}" for row in rows)
    return Picture("published", plots.published(rows), f"MCC with intervals, null and floor. {said}.")


#: In the order of making, each with the file that errors name: that of its numbers.
PICTURES: dict[Callable[[Run], Picture | None], str] = {
    **dict.fromkeys((_factors, _categories), "report.json"),
    _graph: "graph.csv",
    **dict.fromkeys((_modulation, _coefficients), "report.json"),
    _training: "training.csv",
    **dict.fromkeys((_predictive, _predictive_densities), "report.json"),
    **dict.fromkeys(
        (_effects_forest, _effects_displacement, _effects_dose, _effects_sensitivity), "effects.json"
    ),
    _published: "kuaisar.json",
}
MENDS = {"effects.json": EFFECTS_MEND, "kuaisar.json": KUAISAR_MEND}
