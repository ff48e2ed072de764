"""The package's rooms: one way through them, no circle, no room too large to take in, and faces that hand on names."""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import pyro_hmvcrl

PACKAGE = Path(pyro_hmvcrl.__path__[0])
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST, MOST_NAMES = 600, 14
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

    assert {f"pyro_hmvcrl.{p.name}" for p in PACKAGE.iterdir() if (p / "__init__.py").exists()} == set(floor)
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
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert getattr(room, alias.name) is getattr(
                import_module(f"{room.__name__}.{node.module}"), alias.name
            )
