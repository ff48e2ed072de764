"""Claims about what is handed out: a source distribution, a wheel made of it, and a container's recipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("pyproject.toml", "README.md", "LICENSE")


def python(*words: object, **options) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with both, the wheel built of the source distribution."""
    source, out = (tmp_path_factory.mktemp(name) for name in ("source", "dist"))
    for name in COPIED:
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "pyro_hmvcrl", source / "pyro_hmvcrl", ignore=shutil.ignore_patterns("__pycache__")
    )
    python("-m", "build", "--no-isolation", "--outdir", out, source)
    return out


def test_both_have_every_file_of_the_package(built):
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "pyro_hmvcrl").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= {*zipfile.ZipFile(wheel).namelist()}
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert files | {*COPIED} <= packed


def test_their_metadata_are_as_an_index_wants_them(built):
    said = python("-m", "twine", "check", "--strict", *built.iterdir())
    assert said.count("PASSED") == 2


def test_what_is_installed_of_the_wheel_is_what_was_built(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", tmp_path, wheel)
    alone = os.environ | {"PYTHONPATH": str(tmp_path)}
    where = python("-c", "import pyro_hmvcrl; print(pyro_hmvcrl.__file__)", env=alone, cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path)
    said = python("-m", "pyro_hmvcrl", "--version", env=alone, cwd=tmp_path)
    assert said == f"pyro_hmvcrl {version('pyro_hmvcrl')}\n"


def test_the_container_runs_the_demo_and_is_given_what_the_package_is_made_of():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    (run,) = (json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD "))
    assert run[:2] == ["pyro-hmvcrl", "demo"]
    given = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert {*COPIED, "pyro_hmvcrl"} <= given
    assert given <= {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
