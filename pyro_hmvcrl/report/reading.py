"""A run folder as the report reads it, with every key and number that the page needs checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from pyro_hmvcrl.data.dataset import CHANNELS
from pyro_hmvcrl.data.files import read_json
from pyro_hmvcrl.queries.kept import kept_files
from pyro_hmvcrl.queries.validation import FILE
from pyro_hmvcrl.report.style import ESTIMANDS, INTERVAL, PARTS, SURFACES
from pyro_hmvcrl.run.files import MEND, of_file
from pyro_hmvcrl.run.load import check_config

Run = dict[str, Any]
Effects = dict[str, Any]
EFFECTS_MEND = "ask for the effects again (pyro-hmvcrl effects), or delete the file"
KEPT_MEND = "delete the file, and ask again"
KUAISAR_MEND = "give the command kuaisar again, or delete the file"
VALIDATION_MEND = "validate again (pyro-hmvcrl validate), or delete the file"
VALIDATION_KEYS = ["name", "kind", "sentences.0", "sentences.1", "remarks"]
VALIDATION_NUMBERS = ["level", "users", "users_of_the_run", "replications"]
VALIDATION_NUMBERS += [f"coverage.*.{key}" for key in ("inside", "as_before", "of", "p")]
VALIDATION_NUMBERS += [f"error.*.{key}" for key in ("model", "as_before")]
VALIDATION_NUMBERS += [
    f"{name}.*.{key}"
    for name in ("shown", "searched", "outcomes")
    for key in ("before", "observed", "inside", "change.observed", "change.predicted.mean")
]
VALIDATION_NUMBERS += [
    f"{name}.*.predicted.{part}" for name in ("shown", "searched", "outcomes") for part in INTERVAL
]
KUAISAR_KEYS = [f"{part}.*.{key}" for part in ("agreement", "figures") for key in ("figure", "published")]
KUAISAR_NUMBERS = [
    f"{part}.*.{key}" for part in ("agreement", "figures") for key in ("users", "obtained.mean")
]
KUAISAR_NUMBERS += [f"agreement.*.{key}" for key in ("obtained.lower", "obtained.upper", "rotation_null")]
KUAISAR_NUMBERS += [f"agreement.*.{key}" for key in ("covariates_alone", "within_covariates", "weak_mcc")]
CONFIG_KEYS = ["version", "name", "platform_factors", "preference_factors", "exposure_covariates"]
CONFIG_KEYS += ["preference_covariates", "categories", "users", "held_out_users", "search_events"]
CONFIG_KEYS += ["recommendation_events", "settings.restarts", "seconds", "periods.number"]
MECHANISM_KEYS = ("covariates", "location", "location_sd", "log_scale", "log_scale_sd")
CHANNEL_KEYS = [
    f"identifiability.{part}" for part in ("verdict.{0}", "channels.{0}.mcc", "channels.{0}.modulation")
]
CHANNEL_KEYS += [f"mechanisms.{{0}}.{part}" for part in MECHANISM_KEYS]
REPORT_KEYS = [
    "restarts",
    "scoring",
    "information",
    "readiness",
    "pareto_k.median",
    "pareto_k.unreliable",
    "factor_categories",
    "history",
    "held_out_bound.mean",
    "held_out_bound.standard_error",
]
REPORT_KEYS += ["predictive.users", "predictive.replications", "predictive.level", "predictive.densities"]
REPORT_KEYS += [f"predictive.checks.*.{key}" for key in ("title", "level", "distance", "difference", "p")]
CATEGORY_KEYS = ["raised", "lowered", "change"]
REPORT_KEYS += [key.format(channel) for channel in CHANNELS for key in CHANNEL_KEYS]
# "*" stands for every entry of a dict or list.
EFFECT_KEYS = [
    "headline",
    "shift",
    "kind",
    "sentences",
    "overlap.verdict",
    "outcomes.engagement",
    "outcomes.alignment",
]
EFFECT_KEYS += [
    "course.period",
    "categories",
    "outcomes.*.relative",
    "outcomes.*.proportion_mediated",
    "negative_controls.*.verdict",
    "noise.*.verdict",
]
EFFECT_NUMBERS = ["level", "users", "overlap.outside", "negative_controls.*.r2", "negative_controls.*.null"]
EFFECT_NUMBERS += [
    "substitution",
    "substitution_undone",
    "outcomes.*.suppression",
    *(f"noise.*.{part}" for part in ("noise", "prior", "p")),
]
EFFECT_NUMBERS += [f"e_values.{e}.{v}" for e in PARTS for v in ("e_value", "e_value_of_interval")]
EFFECT_INTERVALS = [f"outcomes.*.{e}" for e in (*ESTIMANDS, "CDE", "factors.*", "paths.*")]
EFFECT_INTERVALS += ["outcomes.*.levels.before", "outcomes.*.levels.after", "displacement.*"]
DENSITY = ("at", "before", "after")
ABSENT = object()
TEXT = {"user_id", "stage", "source", "target"}  #: all other columns hold numbers
MAY_BE_EMPTY = {"held_out_bound"}


class ReportError(ValueError):
    """A run folder that cannot be reported on: names the file, what is wrong with it, and the mend."""


of_run_file = partial(of_file, kind=ReportError)


def read_run(folder: str | Path, answered: bool = True) -> Run:
    """The checked files of a run folder, by name; `factors` and `covariates` of the held-out users, in one order.

    With `answered` off, what a new answer replaces is not read.

    Raises
    ------
    ReportError
        If a file is missing or malformed.
    """
    folder = Path(folder)
    config = _json(folder / "config.json", CONFIG_KEYS)
    with of_run_file(folder / "config.json"):
        check_config(config)
    names = [f"{c}_{k + 1}" for c in CHANNELS for k in range(config[f"{c}_factors"])]
    of_factors = [f"factor_categories.{f}.{key}" for f in names for key in CATEGORY_KEYS]
    report = _json(folder / "report.json", REPORT_KEYS + of_factors)
    for key in (["scoring", "*"], ["readiness"], ["pareto_k", "*"]):
        _require(folder / "report.json", report, key, MEND, number=True)
    labels = {f: str(report["factor_categories"][f].get("label") or "") for f in names}
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
        "labels": labels,
        "effects": _effects(folder / "effects.json", labels) if answered else None,
        "policies": _policies(folder, labels),
        "validation": _validation(folder / FILE),
        "kuaisar": _kuaisar(folder / "kuaisar.json"),
    }


def found_of(run: str | Path) -> dict[str, Any]:
    """What a run folder's report.json has, with the last back-test."""
    found: dict[str, Any] = read_json(Path(run) / "report.json")
    if (path := Path(run) / FILE).exists():
        with of_file(path):
            found["validation"] = read_json(path)
    return found


def _effects(path: Path, labels: Mapping[str, str], mend: str = EFFECTS_MEND) -> Effects | None:
    """The answer of the command effects, if it has been asked."""
    if not path.exists():
        return None
    effects: Effects = _json(path, EFFECT_KEYS, mend)
    with of_run_file(path, mend):
        return _check_effects(path, effects, labels, mend)


def _policies(folder: Path, labels: Mapping[str, str]) -> dict[str, Effects]:
    """The answers that the run keeps, by the policy's name."""
    answers = {}
    for path in kept_files(folder):
        if answer := _effects(path, labels, KEPT_MEND):
            _require(path, answer, ["policy"], KEPT_MEND)
            answers[str(answer["policy"])] = answer
    return answers


def _check_effects(path: Path, effects: Effects, labels: Mapping[str, str], mend: str) -> Effects:
    """Numbers where there must be numbers, and of the run's factors."""
    factors = list(labels)
    if "sensitivity" in effects:
        for part in ("NDE", "NIE"):
            _require(path, effects, ["sensitivity", f"first_rho_with_zero_in_{part}"], mend)
    if "by_segment" in effects:
        for part in ("by", "correction"):
            _require(path, effects, ["by_segment", part], mend)
    for key in _numbers(effects, factors):
        _require(path, effects, key, mend, number=True)
    if set(effects["displacement"]) != set(factors):
        raise ReportError(f"{path}: its 'displacement' is of other factors than the run's; {mend}")
    for factor, moved in effects["displacement"].items():  # a factor may have been renamed
        moved["label"] = labels[factor]
    return effects


def _validation(path: Path) -> dict[str, Any] | None:
    """The back-test, if there was one."""
    if not path.exists():
        return None
    found: dict[str, Any] = _json(path, VALIDATION_KEYS, VALIDATION_MEND)
    for key in VALIDATION_NUMBERS:
        _require(path, found, key.split("."), VALIDATION_MEND, number=True)
    return found


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
    may_be_none = ("proportion_mediated", "relative")
    intervals += [["outcomes", o, part] for o in outcomes for part in may_be_none if outcomes[o][part]]
    periods = range(len(effects["course"]["period"]))
    intervals += [["course", o, "TE", str(t)] for o in outcomes for t in periods]
    shares = ("before", "after", "change")
    intervals += [["categories", "*", surface, part] for surface in SURFACES for part in shares]
    if "by_segment" in effects:
        numbers += [
            f"by_segment.segments.*.{key}"
            for key in ("users", "suppression", "substitution", "substitution_undone")
        ]
        estimates = ("before", "TE", "NDE", "NIE")
        intervals += [["by_segment", "segments", "*", "outcomes", o, e] for o in outcomes for e in estimates]
    if "placebo" in effects:
        numbers += ["placebo.covers_zero", "placebo.of", "placebo.p"]
        intervals += [["placebo", "outcomes", "*", e] for e in ESTIMANDS]
    if "sensitivity" in effects:
        numbers += ["sensitivity.rho.*"]
        intervals += [["sensitivity", e, "*"] for e in PARTS]
    if "reliability" in effects:
        numbers += ["reliability.reliability.*"]
        intervals += [["reliability", o, "*"] for o in outcomes]
    if "dose_response" in effects:
        numbers += ["dose_response.size.*", "dose_response.outside.*"]
        intervals += [["dose_response", o, "*"] for o in outcomes]
    return [key.split(".") for key in numbers] + [[*e, part] for e in intervals for part in INTERVAL]


def _json(path: Path, keys: Sequence[str], mend: str = MEND) -> Any:
    """A JSON file that has these dotted keys."""
    with of_run_file(path, mend):
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
    inside = {str(i): of for i, of in enumerate(content)} if isinstance(content, list) else content
    found = isinstance(inside, dict) and (key[0] == "*" or key[0] in inside)
    if not found:
        yield [*key], ABSENT
        return
    for part in inside if key[0] == "*" else key[:1]:
        for name, value in _entries(inside[part], key[1:]):
            yield [str(part), *name], value


def _table(path: Path, columns: list[str]) -> pd.DataFrame:
    """A table that has these columns, without gaps, with numbers in all but those of text."""
    with of_run_file(path):
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    for column in columns:
        if column not in table:
            raise ReportError(f"{path}: no column {column!r}; {MEND}")
        if len(table) and column not in TEXT and not pd.api.types.is_numeric_dtype(table[column]):
            raise ReportError(f"{path}: column {column!r} must hold numbers; {MEND}")
        if column not in MAY_BE_EMPTY and (empty := table[column].isna()).any():
            raise ReportError(f"{path}: column {column!r} is empty in row {empty.argmax() + 1}; {MEND}")
    return table
