"""Claims about the commands, as a user types them."""

from __future__ import annotations

import pandas as pd
import pytest
from typer.testing import CliRunner

from pyro_hmvcrl.cli import app

FIT = ["--platform-factors", "2", "--preference-factors", "3", "--restarts", "1", "--steps", "20"]
FIT += ["--encoder-steps", "10", "--batch-size", "64"]


def run(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("cli")
    made = run(
        "simulate", base / "data", "--users", 120, "--seed", 3, "--knob", "categories=6", "--format", "csv"
    )
    assert made.exit_code == 0, made.output
    assert "120 users" in made.output
    fitted = run("fit", base / "data", "--out", base / "run", *FIT)
    assert fitted.exit_code == 0, fitted.output
    assert "Verdict" in fitted.output
    assert "random rotation" in fitted.output
    return base


def test_fit_writes_the_run_folder(folder):
    names = {"config.json", "model.safetensors", "training.csv", "factors.parquet", "graph.csv"}
    assert names | {"report.json", "report.html"} <= {p.name for p in (folder / "run").iterdir()}


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_encode_writes_factors_of_new_logs(folder, suffix):
    out = folder / f"new{suffix}"
    assert run("encode", folder / "run", folder / "data", "--out", out).exit_code == 0
    factors = pd.read_parquet(out) if suffix == ".parquet" else pd.read_csv(out)
    assert factors.shape == (120, 11)


def test_report_is_written_anew(folder):
    page = folder / "run" / "report.html"
    page.unlink()
    assert run("report", folder / "run").exit_code == 0
    assert "preference" in page.read_text()


def test_bad_input_is_one_line_and_writes_nothing(folder):
    before = sorted(folder.rglob("*"))
    for words, message in (
        (["fit", folder / "nothing", "--out", folder / "run2", *FIT], "dataset.json"),
        (["fit", folder / "data", "--out", folder / "run", *FIT], "exists already"),
        (["encode", folder / "run", folder / "data", "--out", folder / "x.xls"], ".parquet or .csv"),
        (["report", folder / "data"], "config.json"),
        (["simulate", folder / "new", "--knob", "colour=1"], "unknown knob colour"),
        (["fit", folder / "data", "--out", folder / "run3", *FIT, "--restarts", "0"], "restarts is 0"),
    ):
        said = run(*words)
        assert said.exit_code == 1, words
        assert said.stderr.startswith("error: ")
        assert message in said.stderr
        assert said.stderr.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_every_command_explains_itself():
    for command in ("demo", "simulate", "fit", "encode", "report"):
        assert run(command, "--help").exit_code == 0
