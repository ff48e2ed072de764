"""The report of a fitted run: report.html, self-contained, and its figures, from the files of the run folder alone.

``report.html.jinja`` holds the page's words and tables.  Another figure is a function in `PICTURES` and a call of
``picture`` in the template.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from pyro_hmvcrl import plots
from pyro_hmvcrl.dataset import CHANNELS
from pyro_hmvcrl.plots import LIKELY, label, strongest

Run = dict[str, Any]

MEND = "restore it from a copy of the run, or fit again into a new folder"
CONFIG_KEYS = ["version", "name", "platform_factors", "preference_factors", "exposure_covariates"]
CONFIG_KEYS += ["preference_covariates", "categories", "users", "held_out_users", "search_events"]
CONFIG_KEYS += ["recommendation_events", "settings.restarts", "seconds"]
MECHANISM_KEYS = ("covariates", "location", "location_sd", "log_scale", "log_scale_sd")
CHANNEL_KEYS = [
    f"identifiability.{part}" for part in ("verdict.{0}", "channels.{0}.mcc", "channels.{0}.modulation")
]
CHANNEL_KEYS += [f"mechanisms.{{0}}.{part}" for part in MECHANISM_KEYS]
REPORT_KEYS = ["restarts", "factor_categories", "held_out_bound.mean", "held_out_bound.standard_error"]
REPORT_KEYS += [key.format(channel) for channel in CHANNELS for key in CHANNEL_KEYS]
TEXT = {"user_id", "stage", "source", "target"}  # all other columns hold numbers
MAY_BE_EMPTY = {"held_out_bound"}
# Words of a verdict (identifiability.verdict) that speak against the fit.
AGAINST = ("could be", "disagree", "collapsed", "not above", "not recovered", "axes are not")


class ReportError(ValueError):
    """A run folder that cannot be reported on: names the file, what is wrong with it, and the mend."""


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its files, and what it shows in words."""

    name: str
    figure: Figure
    alt: str


def write_report(run_folder: Path) -> Path:
    """Write ``report.html``, ``figures/*.png`` and ``figures/*.svg`` into a run folder; returns the page's path.

    Everything is made before anything is written, and each file appears whole or not at all.

    Raises
    ------
    ReportError
        If a file of the run folder is missing or malformed.
    """
    run = read_run(run_folder)
    pictures = [picture for make in PICTURES if (picture := make(run))]
    figures = {p.name: p.figure for p in pictures} | {"overview": plots.overview(run)}
    files = {
        f"figures/{name}.{kind}": plots.to_bytes(figure, kind)
        for name, figure in figures.items()
        for kind in ("png", "svg")
    }
    sources = {p.name: base64.b64encode(files[f"figures/{p.name}.svg"]).decode() for p in pictures}
    alts = {p.name: p.alt for p in pictures}
    try:
        page = _template().render(run, alts=alts, sources=sources, trust=trust, likely=LIKELY)
    except jinja2.UndefinedError as error:
        raise ReportError(f"{run_folder / 'report.json'}: {error.message}; {MEND}") from error
    (run_folder / "figures").mkdir(exist_ok=True)
    for name, content in {**files, "report.html": page.encode()}.items():
        partial = run_folder / f"{name}.partial"
        partial.write_bytes(content)
        os.replace(partial, run_folder / name)
    return run_folder / "report.html"


def trust(verdict: list[str]) -> tuple[str, str]:
    """What a channel's verdict comes to: a level (good, care or no), and whether to believe its factors."""
    if "only up to" in verdict[0]:
        return "no", "Read this channel as a whole; do not interpret its single factors."
    if any(words in sentence for words in AGAINST for sentence in verdict):
        return "no", "Do not rely on its factors: the evidence speaks against this fit."
    if "short of the full condition" in verdict[0]:
        return "care", "Interpret its factors with care: the full condition is not met."
    return "good", "Its factors can be believed."


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"label": lambda name: label(name, width=60), "number": _number}
    return environment.get_template("report.html.jinja")


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{float(value):,.{digits}f}".replace("-", "−")  # float: a value that is missing says its name


# --- Reading -------------------------------------------------------------------------------------------------


def read_run(folder: Path) -> Run:
    """The checked files of a run folder, by name; `factors` and `covariates` of the held-out users, in one order."""
    config = _json(folder / "config.json", CONFIG_KEYS)
    names = [f"{c}_{k + 1}" for c in CHANNELS for k in range(config[f"{c}_factors"])]
    report = _json(folder / "report.json", REPORT_KEYS + [f"factor_categories.{f}.raised" for f in names])
    posterior = [column for f in names for column in (f, f"{f}_sd")]
    factors = _table(folder / "factors.parquet", ["user_id", "held_out", *posterior])
    factors = factors[factors["held_out"].astype(bool)].reset_index(drop=True)
    covariates = _table(
        folder / "covariates.parquet",
        ["user_id", *config["exposure_covariates"], *config["preference_covariates"]],
    )
    row = pd.Index(covariates["user_id"]).get_indexer(factors["user_id"])
    if (row < 0).any():
        user = factors["user_id"][row < 0].iloc[0]
        raise ReportError(f"{folder / 'covariates.parquet'}: no user {user} of factors.parquet; {MEND}")
    graph = _table(folder / "graph.csv", ["source", "target", "weight", "sd", "probability"])
    if unknown := sorted({*graph["source"], *graph["target"]} - set(names)):
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
    }


def _json(path: Path, keys: list[str]) -> Any:
    """A JSON file that has these dotted keys."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    for key in keys:
        value = content
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise ReportError(f"{path}: no {key!r}; {MEND}")
            value = value[part]
    return content


def _table(path: Path, columns: list[str]) -> pd.DataFrame:
    """A table that has these columns, without gaps, with numbers in all but those of text."""
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    for column in columns:
        if column not in table:
            raise ReportError(f"{path}: no column {column!r}; {MEND}")
        if len(table) and column not in TEXT and not pd.api.types.is_numeric_dtype(table[column]):
            raise ReportError(f"{path}: column {column!r} must hold numbers; {MEND}")
        if column not in MAY_BE_EMPTY and (empty := table[column].isna()).any():
            raise ReportError(f"{path}: column {column!r} is empty in row {empty.argmax() + 1}; {MEND}")
    return table


def _unreadable(path: Path, error: Exception) -> ReportError:
    if not path.exists():
        return ReportError(f"{path}: not found; give a folder that fit has written, or {MEND}")
    return ReportError(f"{path}: cannot be read ({str(error).splitlines()[0]}); {MEND}")


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


PICTURES: tuple[Callable[[Run], Picture | None], ...] = (
    *(_factors, _graph, _modulation, _coefficients, _training),
)
