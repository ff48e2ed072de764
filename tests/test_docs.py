"""Claims about the documentation: it builds, leaves nothing public out, and what it shows works as it stands."""

from __future__ import annotations

import ast
import doctest
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
from typer.testing import CliRunner

import pyro_hmvcrl
from pyro_hmvcrl import cli
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.run import fitting
from pyro_hmvcrl.run.fitting import parameter_posterior

ROOT = Path(__file__).parents[1]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
BLOCKS = {name: FENCED.findall((ROOT / name).read_text()) for name in ("README.md", "data/README.md")}
SHELL = [text for blocks in BLOCKS.values() for kind, text in blocks if kind != "python"]
COMMANDS = [line for text in SHELL for line in text.splitlines() if line.startswith("pyro-hmvcrl")]
WORDS = {  # from a class's "Attributes", a comment beside a field, an option's help, an example
    "data.html": "One row per user in the order of the file",
    "story.html": "(B,) positions among the n_users",
    "report.html": "Number of preference factors.",
    "queries.html": "popularity=-0.5sd",
    "index.html": "From two surfaces of logs",
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


def test_it_builds_without_a_warning_and_has_every_public_name(tmp_path):
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "cache"]
    made = subprocess.run([*build, ROOT / "docs", tmp_path], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert not made.stderr
    inventory = zlib.decompress((tmp_path / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    names = {line.split()[0] for line in inventory.splitlines() if line.split()[1].startswith("py:")}
    missing = sorted(set(public_names()) - names)
    assert not missing
    assert not [name for name in names if "._" in name]
    for page, words in WORDS.items():
        assert words in (tmp_path / page).read_text(), page


def test_the_readme_s_lines_of_python_give_what_it_shows(tmp_path, monkeypatch, capsys):
    """As they stand; a sum in another order ends in slightly other digits."""
    at = next(i for i, (kind, _) in enumerate(BLOCKS["README.md"]) if kind == "python")
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS["README.md"][at][1], "README.md, first python block", "exec"), {})
    said, shown = (
        ast.literal_eval(text) for text in (capsys.readouterr().out, BLOCKS["README.md"][at + 1][1])
    )
    assert said == pytest.approx(shown, abs=0.03)


def test_the_readme_s_python_runs_after_the_demo(tmp_path, monkeypatch):
    small = {"users": 150, "categories": 6}
    quick = {"restarts": 1, "steps": 40, "encoder_steps": 10, "batch_size": 64}
    monkeypatch.setattr(cli, "SUBSTITUTION", cli.SUBSTITUTION | small)
    monkeypatch.setattr(cli, "Settings", partial(Settings, **quick))
    monkeypatch.setattr(fitting, "parameter_posterior", partial(parameter_posterior, draws=6))
    monkeypatch.chdir(tmp_path)
    demo = CliRunner().invoke(cli.app, ["demo"])
    assert demo.exit_code == 0, demo.output
    names: dict = {}
    for block in [text for kind, text in BLOCKS["README.md"] if kind == "python"][1:]:
        exec(compile(block, "README.md", "exec"), names)
    assert "reach" in names["answer"]["outcomes"]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_line_of_the_readme_s_is_one(line):
    commands = typer.main.get_command(cli.app).commands
    _, name, *words = shlex.split(line, comments=True)
    assert name in commands
    commands[name].make_context(name, words)  # refuses an option or an argument that there is not


def test_examples_in_docstrings_say_what_happens():
    modules = [import_module(m.name) for m in pkgutil.walk_packages(pyro_hmvcrl.__path__, "pyro_hmvcrl.")]
    tried = {m.__name__: doctest.testmod(m) for m in modules if not m.__name__.endswith("__main__")}
    assert not [name for name, result in tried.items() if result.failed]
    assert sum(result.attempted for result in tried.values()) > 15
