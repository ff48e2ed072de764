"""The report of a fitted run: report.html, self-contained, and its figures, from the files of the run folder alone.

``report.html.jinja`` holds the page's words and tables.  Another figure is a function in `PICTURES` and a call of
``picture`` in the template.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from pyro_hmvcrl.data.names import level_words, percent
from pyro_hmvcrl.evidence.predictive import MATTERS, verdict
from pyro_hmvcrl.inference.writing import alone_in, whole_file
from pyro_hmvcrl.queries.checks import LEAK_R2, NOISE_CHECKS, RARE
from pyro_hmvcrl.queries.overlap import EXTRAPOLATES
from pyro_hmvcrl.report.answer_figures import SHOWN_PATHS
from pyro_hmvcrl.report.pictures import MENDS, PICTURES, Picture
from pyro_hmvcrl.report.reading import of_run_file, read_run
from pyro_hmvcrl.report.run_figures import overview
from pyro_hmvcrl.report.style import (
    PROBABILITIES,
    SURFACES,
    VERDICTS,
    estimands_in,
    label,
    levels_in_words,
    named,
    to_bytes,
)
from pyro_hmvcrl.report.validation import TITLES
from pyro_hmvcrl.report.verdicts import (
    TOO_SURE,
    believe,
    checks_of,
    effect_text,
    interval_text,
    level_text,
    number_text,
    of_single_users,
    overall,
    passing,
    regression_sentences,
    scored,
    trust,
)
from pyro_hmvcrl.run.files import MEND
from pyro_hmvcrl.run.run import LIKELY, TRIFLE

ANSWERS = ("effects", "policies", "validation", "kuaisar")  #: of questions that were put to a run


def write_report(run_folder: str | Path) -> Path:
    """Write ``report.html``, ``figures/*.png`` and ``figures/*.svg`` into a run folder; returns the page's path.

    ``report.json`` gets the answers that the page tells of (``effects``, ``validation``, ``kuaisar``), so that it has
    every number in it; curves and densities are drawn from the tables beside it.  Everything is made before anything is
    written, and each file appears whole or not at all.

    Raises
    ------
    ReportError
        If a file of the run folder is missing or malformed.
    """
    run_folder = Path(run_folder)
    with of_run_file(run_folder / "config.json"):
        (run_folder / "config.json").stat()
    with alone_in(run_folder):  # what is drawn is what is there
        return _write_report(run_folder)


def _write_report(run_folder: Path) -> Path:
    run = read_run(run_folder)
    pictures: list[Picture] = []
    files: dict[str, bytes] = {}
    for make, source in PICTURES.items():
        with of_run_file(run_folder / source, MENDS.get(source, MEND)):
            if picture := make(run):
                pictures.append(picture)
                files |= _image_files(picture.name, picture.figure)
    with of_run_file(run_folder / "report.json"):
        files |= _image_files("overview", overview(run))
        sources = {p.name: base64.b64encode(files[f"figures/{p.name}.svg"]).decode() for p in pictures}
        alts = {p.name: p.alt for p in pictures}
        page = _template().render(run, alts=alts, sources=sources, **WORDS)
    answers = {name: run[name] for name in ("effects", "validation", "kuaisar") if run[name] is not None}
    if len(run["policies"]) > 1:
        parts = ("headline", "shift", "kind", "level", "outcomes")
        answers["policies"] = {name: {key: of[key] for key in parts} for name, of in run["policies"].items()}
    numbers = {key: value for key, value in run["report"].items() if key not in ANSWERS} | answers
    files |= {
        "report.json": json.dumps(numbers, indent=2).encode(),
        "report.html": page.encode(),
    }  # this last
    (run_folder / "figures").mkdir(exist_ok=True)
    for name, content in files.items():
        with whole_file(run_folder / name) as file:
            file.write_bytes(content)
    return run_folder / "report.html"


def _image_files(name: str, figure: Figure) -> dict[str, bytes]:
    png = to_bytes(figure, "png")
    figure.set_layout_engine("none")  # the svg stands as the png does; to lay out takes longer than to draw
    return {f"figures/{name}.png": png, f"figures/{name}.svg": to_bytes(figure, "svg")}


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"label": lambda name: label(name, width=60), "number": number_text}
    environment.filters |= {"effect": effect_text, "level": level_text, "interval": interval_text}
    environment.filters |= {"shares": lambda of: interval_text(of, 1, 100.0)}
    environment.filters["share"] = percent
    environment.tests["probability"] = PROBABILITIES.__contains__
    return environment.get_template("report.html.jinja")


WORDS = {
    "trust": trust,
    "checks_of": checks_of,
    "overall": overall,
    "likely": LIKELY,
    "trifle": TRIFLE,
    "estimands_in": estimands_in,
}
WORDS |= {"predictive_verdict": verdict, "matters": MATTERS}
WORDS |= {
    "verdicts": VERDICTS,
    "scored": scored,
    "of_single_users": of_single_users,
    "regression_sentences": regression_sentences,
}
WORDS |= {
    "passing": passing,
    "leak": LEAK_R2,
    "rare": RARE,
    "noise_checks": NOISE_CHECKS,
    "too_sure": TOO_SURE,
}
WORDS |= {
    "validation_titles": TITLES,
    "believe": believe,
    "levels_in_words": levels_in_words,
    "level_words": level_words,
    "surfaces": SURFACES,
    "named": named,
}
WORDS |= {"extrapolates": EXTRAPOLATES, "shown_paths": SHOWN_PATHS}
