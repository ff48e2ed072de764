"""The package's rooms: one way through them, no circle, no room too large to take in, and faces that hand on names."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import pyro_hmvcrl

PACKAGE = Path(pyro_hmvcrl.__path__[0])
ROOT = Path(__file__).parents[1]
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST, MOST_NAMES = 600, 16
FACES = sorted(PACKAGE.rglob("__init__.pyi"))


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


@cache
def imported(module: str) -> frozenset[str]:
    """Modules of this package that one imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset((found & MODULES.keys()) - {"pyro_hmvcrl"})


def reached(module: str) -> set[str]:
    seen: set[str] = set()
    ahead = set(imported(module))
    while ahead:
        seen |= ahead
        ahead = set().union(*map(imported, ahead)) - seen
    return seen


def test_no_room_imports_one_after_it():
    floor = {f"pyro_hmvcrl.{room}": n for n, room in enumerate(pyro_hmvcrl.ROOMS)}

    def number(module: str) -> int:  # the commands stand above all rooms
        return floor.get(".".join(module.split(".")[:2]), len(floor))

    rooms = {f"pyro_hmvcrl.{p.name}" for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
    assert rooms == {*floor, "pyro_hmvcrl.cli"}
    assert not [(m, other) for m in MODULES for other in imported(m) if number(other) > number(m)]


def test_there_is_no_circle():
    assert not [module for module in MODULES if module in reached(module)]


def test_nothing_is_too_large_to_take_in():
    assert not [(f.name, n) for f in FILES if (n := len(f.read_text().splitlines())) > LONGEST]
    names = [p.name for p in PACKAGE.iterdir() if not p.name.startswith((".", "__pycache__"))]
    assert len(names) <= MOST_NAMES, names


@pytest.mark.parametrize("face", FACES, ids=[str(f.parent.relative_to(PACKAGE)) for f in FACES])
def test_a_room_says_what_it_is_for_and_hands_on_what_it_names(face):
    room = import_module(module_of(face.with_suffix(".py")))
    said = (room.__doc__ or "").strip().splitlines()
    assert 3 <= len(said) <= 6
    for node in ast.parse(face.read_text()).body:
        if isinstance(node, ast.AnnAssign) and room is pyro_hmvcrl:  # its version, and the order of the rooms
            assert hasattr(room, node.target.id)
            continue
        assert isinstance(node, ast.ImportFrom)
        if node.module is None:
            assert {alias.name for alias in node.names} <= {*pyro_hmvcrl.ROOMS}
            continue
        for alias in node.names:
            assert getattr(room, alias.name) is getattr(
                import_module(f"{room.__name__}.{node.module}"), alias.name
            )


def third_party(*folders: Path) -> set[str]:
    """Distributions that the Python files of these folders import."""
    names = set()
    for file in (f for folder in folders for f in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").partition(".")[0])
    names -= sys.stdlib_module_names
    owners = packages_distributions()
    return {d.lower() for name in names for d in owners.get(name, [])}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    """And what must not be older than it is says so."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def declared(lines: list[str]) -> dict[str, str]:
        return {re.match(r"[\w-]+", line)[0].lower(): line for line in lines}

    needed, extras = declared(project["dependencies"]), project["optional-dependencies"]
    of_engine = {"h5py"}  # of h5netcdf, which ArviZ is told of by name
    own = {"pyro_hmvcrl"}
    imported = third_party(PACKAGE) - own
    assert imported <= {*needed}
    assert {*needed} - imported <= of_engine | {"h5netcdf"}
    assert all(">=" in needed[n] for n in ("torch", "pandas", "pyarrow", "scipy", "typer", "safetensors"))
    elsewhere = third_party(*(ROOT / name for name in ("tests", "docs", "simulations"))) - own
    assert elsewhere <= {*needed, *declared(extras["test"])}
    runs = {
        "jupytext",
        "furo",
        "myst-nb",
        "sphinx-design",
        "sphinxcontrib-typer",
        "build",
        "twine",
        "setuptools",
        "pytest-xdist",
        "mypy",
        "ruff",
        "ipykernel",
        "graphviz",
        "statsmodels",
    }
    assert {*declared(extras["test"])} - elsewhere <= runs
    pinned = declared((ROOT / "constraints.txt").read_text().splitlines()[1:])
    assert {*needed, *declared(extras["test"])} <= {*pinned}
