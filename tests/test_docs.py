"""Claims about the documentation: it builds, leaves nothing public out, and what it shows works as it stands."""

from __future__ import annotations

import ast
import doctest
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import zlib
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import typer
from browser import BROWSER, look
from company import write_company
from filelock import FileLock

import pyro_hmvcrl
from pyro_hmvcrl import cli, door
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.run import fitting
from pyro_hmvcrl.run.fitting import parameter_posterior

from worlds import make_few_logs

ROOT = Path(__file__).parents[1]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
GUIDES = sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))
BLOCKS = {
    name: FENCED.findall((ROOT / name).read_text()) for name in ("README.md", "data/README.md", *GUIDES)
}
PYTHON = {name: [text for kind, text in blocks if kind == "python"] for name, blocks in BLOCKS.items()}
READ = [
    "index",
    "gallery",
    "studies",
    "commands",
    "notebooks/06_your_own_logs",
]  # by a browser, at two widths
PROGRAM = "docs/how_it_works.md"  # whose lines print what stands below them
SHELL = [text for blocks in BLOCKS.values() for kind, text in blocks if kind != "python"]
COMMANDS = [
    line for text in SHELL for line in text.splitlines() if "pyro-hmvcrl" in line or "-m pyro_" in line
]
WORDS = {  # from a class's "Attributes", a comment beside a field, an option's help, an example
    "data.html": "One row per user in the order of the file",
    "story.html": "(B,) positions among the n_users",
    "commands.html": "Number of preference factors.",
    "queries.html": "popularity=-0.5sd",
    "index.html": "Does a change of your recommender",
    "notebooks/07_the_loop.html": "NIE_loop",
    "simulations/README.html": "Every replication",
}


def public_names() -> Iterator[str]:
    for file in (ROOT / "pyro_hmvcrl").rglob("[!_]*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        yield from _public(ast.parse(file.read_text()).body, module)


def _public(body: list[ast.stmt], place: str) -> Iterator[str]:
    yield place
    for statement in body:
        found = {statement.name} if isinstance(statement, ast.FunctionDef | ast.ClassDef) else set()
        for target in getattr(statement, "targets", [getattr(statement, "target", statement)]):
            if isinstance(statement, ast.Assign | ast.AnnAssign):
                found |= {part.id for part in ast.walk(target) if isinstance(part, ast.Name)}
        for name in found:
            if not name.startswith("_"):
                inside = statement.body if isinstance(statement, ast.ClassDef) else []
                yield from _public(inside, f"{place}.{name}")


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """The documentation as HTML, built without a warning, by one of the processes that test."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    base = tmp_path_factory.getbasetemp()
    place = base.parent / f"docs-{run}" if run else base / "docs"
    with FileLock(f"{place}.lock"):
        if not place.exists():
            build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-t", "quick"]
            build += ["-d", place / "cache", ROOT / "docs", place / "html"]
            made = subprocess.run(build, capture_output=True, text=True, check=False)
            assert made.returncode == 0, made.stderr
            assert not made.stderr
    return place / "html"


def test_it_has_every_public_name(pages):
    inventory = zlib.decompress((pages / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    names = {line.split()[0] for line in inventory.splitlines() if line.split()[1].startswith("py:")}
    missing = sorted(set(public_names()) - names)
    assert not missing
    assert not [name for name in names if "._" in name]
    for page, words in WORDS.items():
        assert words in (pages / page).read_text(), page


@pytest.mark.skipif(BROWSER is None, reason="no headless browser here")
def test_pages_fit_a_desk_and_a_phone(pages, tmp_path):
    """Nothing sticks out on the right, every picture is drawn, and the headline is in sight."""
    places = [pages / f"{name}.html" for name in READ]
    for width in (1280, 390):
        for place, seen in zip(places, look(places, width, tmp_path / str(width))[0], strict=True):
            assert (seen["excess"], seen["broken"], seen["narrow"]) == (0, 0, True), (place.name, width)
            assert seen["headline"] < 800, (place.name, width)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 1_200


def run_blocks(page: str, names: dict) -> None:
    for block in PYTHON[page]:
        exec(compile(block, page, "exec"), names)


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict:
    """Names after the lines of README.md, as they stand, on a company's files; the fit is short."""
    quick = {"restarts": 1, "steps": 10, "encoder_steps": 5, "batch_size": 64}
    place = write_company(tmp_path_factory.mktemp("readme") / "files", users=160)
    names: dict = {"__file__": str(place / "README.md")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("pyro_hmvcrl.queries.averages.USER_DRAWS", 2_000)
        patch.setattr(door, "Settings", partial(Settings, **quick))
        patch.setattr(fitting, "parameter_posterior", partial(parameter_posterior, draws=6))
        make_few_logs(patch)
        run_blocks("README.md", names)
    return names


def test_the_readme_s_lines_give_an_answer_and_a_report(told):
    assert all(word in repr(told["answer"]) for word in ("autoplay", "engagement", "alignment"))
    assert (told["run"].folder.name, told["logs"].n_users) == ("run", 160)


@pytest.mark.parametrize("page", [page for page in GUIDES if PYTHON[page] and page != PROGRAM])
def test_python_of_a_guide_goes_on_from_there(page, told, monkeypatch):
    monkeypatch.chdir(Path(told["__file__"]).parent)
    run_blocks(page, told.copy())


def test_a_program_that_is_asked_says_what_is_shown(tmp_path, monkeypatch, capsys):
    """As it stands; a sum in another order ends in slightly other digits."""
    monkeypatch.chdir(tmp_path)
    run_blocks(PROGRAM, {"hm": pyro_hmvcrl})
    at = next(i for i, (kind, _) in enumerate(BLOCKS[PROGRAM]) if kind == "python")
    said, shown = (ast.literal_eval(text) for text in (capsys.readouterr().out, BLOCKS[PROGRAM][at + 1][1]))
    assert said == pytest.approx(shown, abs=0.03)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_line_of_the_readme_s_is_one(line):
    commands = typer.main.get_command(cli.app).commands
    words = shlex.split(line, comments=True)
    before = words.index(
        "pyro-hmvcrl" if "pyro-hmvcrl" in words else "pyro_hmvcrl"
    )  # torchrun stands in front
    name, *words = words[before + 1 :]
    assert name in commands
    commands[name].make_context(name, words)  # refuses an option or an argument that there is not


def test_examples_in_docstrings_say_what_happens():
    modules = [import_module(m.name) for m in pkgutil.walk_packages(pyro_hmvcrl.__path__, "pyro_hmvcrl.")]
    tried = {m.__name__: doctest.testmod(m) for m in modules if not m.__name__.endswith("__main__")}
    assert not [name for name, result in tried.items() if result.failed]
    assert sum(result.attempted for result in tried.values()) > 15
