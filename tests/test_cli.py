"""Claims about the commands, as a user types them."""

from __future__ import annotations

import json
from importlib.metadata import version
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pyro_hmvcrl.cli import app, kuaisar, logs, questions, runs
from pyro_hmvcrl.data.finn.importing import import_finn
from pyro_hmvcrl.data.yambda.importing import import_yambda
from pyro_hmvcrl.kuaisar.download import DownloadError
from pyro_hmvcrl.kuaisar.folder import write_kuaisar
from pyro_hmvcrl.kuaisar.published import study
from pyro_hmvcrl.queries.answer import effects

SAMPLE = Path(__file__).parents[1] / "data" / "kuaisar-generated"

FIT = ["--platform-factors", "2", "--preference-factors", "3", "--restarts", "1", "--steps", "20"]
FIT += ["--encoder-steps", "10", "--batch-size", "64", "--periods", "2"]


def run(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words])


def test_it_says_its_version_and_completes_what_is_begun():
    assert run("--version").output == f"pyro_hmvcrl {version('pyro_hmvcrl')}\n"
    begun = {"_PYRO_HMVCRL_COMPLETE": "complete_bash", "COMP_WORDS": "pyro-hmvcrl eff", "COMP_CWORD": "1"}
    offered = CliRunner().invoke(app, [], prog_name="pyro-hmvcrl", env=begun).output
    assert offered.split() == ["effects"]


REGISTERED = [c for part in (runs, logs, questions, kuaisar) for c in part.app.registered_commands]


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
    assert factors.shape == (120, 12)
    assert not factors["outside"].any()  # the very users of the fit


def test_encode_gives_the_encoders_own_answer_too(folder):
    """Of encoders of so few steps it is far from what the scoring steps make of it."""
    raw, polished = folder / "raw.csv", folder / "polished.csv"
    assert run("encode", folder / "run", folder / "data", "--out", raw, "--raw").exit_code == 0
    assert run("encode", folder / "run", folder / "data", "--out", polished).exit_code == 0
    asked, kept = (pd.read_csv(path).iloc[:, 1:11].to_numpy(float) for path in (raw, polished))
    fitted = pd.read_parquet(folder / "run" / "factors.parquet").iloc[:, 1:11].to_numpy(float)
    assert kept == pytest.approx(fitted, abs=1e-3)
    assert np.abs(asked - kept).mean() > 0.05


@pytest.mark.drawn
def test_report_is_written_anew(folder):
    page = folder / "run" / "report.html"
    page.unlink()
    assert run("report", folder / "run").exit_code == 0
    assert "preference" in page.read_text()


def test_the_generated_sample_is_imported_and_accounted_for(tmp_path):
    said = run("import-kuaisar", SAMPLE, tmp_path / "data", "--min-events", 1)
    assert said.exit_code == 0, said.output
    for words in ("rec_inter.csv: ", "duration_ms is negative", "keyword is not a list", "in 24 categories"):
        assert words in said.output
    account = json.loads((tmp_path / "data" / "import.json").read_text())
    for file, of in account["files"].items():
        assert of["read"] == of["kept"] + sum(of["dropped"].values()), file
    assert account["generated"]


def test_the_generated_sample_is_what_its_command_writes(tmp_path):
    made = run(
        "simulate", tmp_path / "copy", "--format", "kuaisar", "--users", 60, "--events", 0.2, "--seed", 0
    )
    assert made.exit_code == 0, made.output
    for path in SAMPLE.iterdir():
        if path.suffix == ".csv":
            assert (tmp_path / "copy" / path.name).read_bytes() == path.read_bytes(), path.name
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 2_000_000


def test_a_window_and_a_level_can_be_chosen(tmp_path):
    words = ["--since", "2023-06-01", "--until", "2023-06-08", "--level", "second", "--min-events", "1"]
    assert run("import-kuaisar", SAMPLE, tmp_path / "week", *words).exit_code == 0
    account = json.loads((tmp_path / "week" / "import.json").read_text())
    assert "2023-06-01" <= account["window"][0] < account["window"][1] < "2023-06-08"
    assert account["categories"] > 24


def test_a_download_states_its_terms_before_it_starts(tmp_path, monkeypatch):
    def download(archive, folder, progress):
        raise DownloadError(f"{archive.name} cannot be had")

    monkeypatch.setattr("pyro_hmvcrl.kuaisar.download.download", download)
    said = run("download-kuaisar", tmp_path, "--full")
    assert said.exit_code == 1
    assert "845.1 MB" in said.stdout
    assert "CC BY-NC-SA 4.0" in said.stdout
    assert said.stderr == "error: KuaiSAR_v2.zip cannot be had\n"


def test_bad_input_is_one_line_and_writes_nothing(folder):
    before = sorted(folder.rglob("*"))
    for words, message in (
        (["fit", folder / "nothing", "--out", folder / "run2", *FIT], "dataset.json"),
        (["fit", folder / "data", "--out", folder / "run", *FIT], "exists already"),
        (["encode", folder / "run", folder / "data", "--out", folder / "x.xls"], ".parquet or .csv"),
        (["report", folder / "data"], "config.json"),
        (["simulate", folder / "new", "--knob", "colour=1"], "unknown knob colour"),
        (["simulate", folder / "new", "--knob", "scale=0", "--format", "finn"], "leave --knob out"),
        (["simulate", folder / "new", "--events", 0.5], "--events is for --format kuaisar alone"),
        (["frontier", folder / "run", "--out", folder / "f.csv", "--level", 90], "level is 90.0"),
        (["frontier", folder / "run", "--out", folder / "f.csv", "--points", 0], "points is 0"),
        (["import-kuaisar", folder / "data", folder / "new"], "user_features.csv is not there"),
        (["import-kuaisar", SAMPLE, folder / "data"], "exists already"),
        (["import-kuaisar", SAMPLE, folder / "new", "--level", "fifth"], "level is 'fifth'"),
        (["import-kuaisar", SAMPLE, folder / "new", "--since", "soon"], "'soon' is not a time"),
        (["kuaisar", folder / "nothing", "--out", folder / "new"], "no such file or folder"),
        (["fit", folder / "data", "--out", folder / "run3", *FIT, "--restarts", "0"], "restarts is 0"),
    ):
        said = run(*words)
        assert said.exit_code == 1, words
        assert said.stderr.startswith("error: ")
        assert message in said.stderr
        assert said.stderr.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_every_command_explains_itself():
    for command in REGISTERED:
        said = run(command.name or command.callback.__name__, "--help")
        assert said.exit_code == 0
        assert "<class" not in said.output


def test_defaults_of_commands_are_those_of_what_they_call():
    """They stand in words, as to import them takes seconds."""
    said = {c.name or c.callback.__name__: signature(c.callback).parameters for c in REGISTERED}
    assert said["effects"]["level"].default == signature(effects).parameters["level"].default
    assert said["kuaisar"]["shift"].default == signature(study).parameters["shift"].default
    share = "covariates_share"
    assert said["kuaisar"][share].default == signature(study).parameters[share].default
    assert said["import-kuaisar"][share].default == signature(write_kuaisar).parameters[share].default
    for command, call in (("import-finn", import_finn), ("import-yambda", import_yambda)):
        assert _defaults(said[command]) == _defaults(signature(call).parameters)


def _defaults(parameters):
    return {name: of.default for name, of in parameters.items()}
