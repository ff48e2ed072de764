"""Claims about where commands write: never over what they read, and not after the work that it cannot be written."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from pyro_hmvcrl.cli import app
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.writing import alone_in
from pyro_hmvcrl.queries import answer
from pyro_hmvcrl.report import page
from pyro_hmvcrl.run import fitting
from pyro_hmvcrl.run.fitting import fit_folder
from pyro_hmvcrl.run.run import Run
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

FIT = ["--platform-factors", "2", "--preference-factors", "3", "--restarts", "1", "--encoder-steps", "20"]
FIT += ["--steps", "20", "--device", "cpu", "--periods", "2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a dataset and its run."""
    base = tmp_path_factory.mktemp("outputs")
    write_simulation(simulate(Design(users=80, categories=6), 0), base / "data", seed=0)
    settings = Settings(2, 3, restarts=1, steps=20, encoder_steps=20, device="cpu", periods=2)
    fit_folder(base / "data", base / "run", settings)
    return base


def run(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words])


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def no_work(monkeypatch):
    """What takes time must not be done before the output is refused."""

    def worked(*args, **options):
        pytest.fail("refused after the work")

    monkeypatch.setattr(Run, "encode", worked)
    monkeypatch.setattr(answer, "effects_of_each", worked)
    monkeypatch.setattr(fitting, "fit", worked)
    monkeypatch.setattr(fitting, "read_dataset", worked)
    for name in ("read_kuaisar", "write_kuaisar_copy", "simulate"):
        for module in ("kuaisar.reading", "kuaisar.copy.folder", "synthetic.simulation"):
            monkeypatch.setattr(f"pyro_hmvcrl.{module}.{name}", worked, raising=False)


ENCODED = [
    "data/users.parquet",
    "data/search_events.parquet",
    "data/recommendation_events.csv",
    "data/new.csv",
]
ENCODED += ["run/factors.parquet", "run/covariates.parquet", "run/graph.csv", "run/training.csv", "run/x.csv"]
ENCODED += ["run/figures/overview.csv"]
ANSWERS = [
    "data/dataset.json",
    "data/truth.json",
    "run/model.safetensors",
    "run/config.json",
    "run/report.html",
]
ANSWERS += ["other/effects.json", "link.json", "run/figures/overview.svg"]


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("out", ENCODED + ANSWERS)
def test_no_output_takes_the_place_of_an_input(base, tmp_path, out):
    for name in ("data", "run"):
        (tmp_path / name / "figures").mkdir(parents=True)
        for file in filter(Path.is_file, (base / name).iterdir()):
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").touch()
    (tmp_path / "link.json").symlink_to(tmp_path / "data" / "dataset.json")
    before = content(tmp_path)
    of_encode = ["encode", tmp_path / "run", tmp_path / "data"]
    of_effects = ["effects", tmp_path / "run", "--shift", "exposure_1=+0.1", "--extrapolate"]
    said = run(*(of_encode if out in ENCODED else of_effects), "--out", tmp_path / out)
    assert said.exit_code == 1, said.output
    assert "where only its own files stand; give a file elsewhere" in said.stderr
    assert content(tmp_path) == before


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["x" * 250 + ".csv", "x" * 252 + ".csv", "nowhere/x.csv", "dangling.csv"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(base, tmp_path, name):
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "nothing")
    words = ["encode", base / "run", base / "data", "--out", tmp_path / name]
    if len(name) == 254:  # which the system takes
        with pytest.raises(pytest.fail.Exception, match="refused after the work"):
            CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
        return
    said = run(*words)
    assert said.exit_code == 1
    assert said.stderr.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["dangling.csv"]


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("out", ["x" * 230, "dangling", "file/x", "data"])
@pytest.mark.parametrize("command", ["fit", "simulate", "copy", "import-kuaisar"])
def test_a_folder_that_cannot_be_made_is_refused_before_the_work(base, tmp_path, command, out):
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").touch()
    (tmp_path / "data").mkdir()
    words = {
        "fit": ["fit", base / "data", "--out", tmp_path / out, *FIT],
        "simulate": ["simulate", tmp_path / out],
        "copy": ["simulate", tmp_path / out, "--format", "kuaisar"],
        "import-kuaisar": ["import-kuaisar", base, tmp_path / out],
    }
    said = run(*words[command])
    assert said.exit_code == 1
    assert said.stderr.startswith(f"error: {tmp_path / out}: ")
    assert said.stderr.count("\n") == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_no_checkpoint_is_written_or_removed_where_a_link_leads(base, tmp_path):
    shutil.copytree(base / "run", tmp_path / "other")
    before = content(tmp_path)
    (tmp_path / ".run.unfinished").symlink_to(tmp_path / "other")
    assert ".run.unfinished: a link" in run("fit", base / "data", "--out", tmp_path / "run", *FIT).stderr
    assert {k: v for k, v in content(tmp_path).items() if not k.startswith(".")} == before


def test_a_mark_that_is_no_text_is_of_another_fit(base, tmp_path):
    (tmp_path / ".run.unfinished").mkdir()
    (tmp_path / ".run.unfinished" / "fit.json").write_bytes(b"\xff\xfe\x00")
    said = run("fit", base / "data", "--out", tmp_path / "run", *FIT).stderr
    assert ".run.unfinished: an unfinished fit of another dataset, version or settings; remove it" in said


@pytest.mark.usefixtures("no_work")
def test_an_unknown_format_is_refused_before_the_work(tmp_path):
    assert (
        "'xlsx' is none of parquet, csv, kuaisar, finn, yambda"
        in run("simulate", tmp_path / "x", "--format", "xlsx").stderr
    )


@pytest.mark.parametrize(
    ("user", "runs"), [("=1+1", True), ("@SUM(1)", True), ("-x", True), ("-5", False), ("\uff1d1+1", True)]
)
def test_a_table_of_text_holds_nothing_that_a_spreadsheet_would_run(base, tmp_path, user, runs):
    (tmp_path / "data").mkdir()
    for file in (base / "data").iterdir():
        if file.suffix == ".parquet":
            frame = pd.read_parquet(file)
            frame["user_id"] = frame["user_id"].replace("u000003", user)
            frame.to_csv(tmp_path / "data" / f"{file.stem}.csv", index=False)
    (tmp_path / "data" / "dataset.json").write_text((base / "data" / "dataset.json").read_text())
    said = run("encode", base / "run", tmp_path / "data", "--out", tmp_path / "x.csv")
    assert said.exit_code == runs, said.output
    if runs:
        assert "for a formula; write a .parquet file instead" in said.stderr
    assert run("encode", base / "run", tmp_path / "data", "--out", tmp_path / "x.parquet").exit_code == 0


def test_what_is_written_has_a_name_by_itself_and_takes_no_other_s_place(base, tmp_path, monkeypatch):
    """Of a dataset that is named by its path, or by points."""
    shutil.copytree(base / "data", tmp_path / "logs")
    fitted: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "fit_folder", lambda data, out, *_, **__: fitted.append(out))
        for place, name in ((tmp_path, "logs"), (tmp_path / "logs", ".")):
            patch.chdir(place)
            run("fit", name, *FIT)
    assert fitted == [Path("logs-run"), tmp_path / "logs-run"]
    shutil.copytree(base / "run", tmp_path / "logs-run")
    (tmp_path / "logs-run" / "report.html").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = content(tmp_path)
    assert "logs-run: exists already" in run("fit", "../logs", *FIT).stderr
    encode = ["encode", "../logs-run", "../logs/"]
    assert run(*encode).exit_code == 0
    assert "logs-factors.parquet: exists already; remove it" in run(*encode).stderr
    monkeypatch.chdir(tmp_path / "logs")
    assert "where only its own files stand" in run("encode", "../logs-run", ".").stderr
    assert {*content(tmp_path)} - {*before} == {"here/logs-factors.parquet"}


def test_nothing_is_named_twice(base, tmp_path):
    """Of two values of one name the last would be taken, and the other go without a word."""
    knobs = ["--knob", "scale=0", "--knob", "scale=1"]
    assert "--knob scale: given 2 times" in run("simulate", tmp_path / "x", *knobs).stderr
    tables = [
        base / "data" / f"{stem}.parquet" for stem in ("users", "search_events", "recommendation_events")
    ]
    blocks = ["--exposure", "exposure_1", "--preference", "taste_1"]
    maps = ["--map", "a=category", "--map", "a=user_id"]
    assert "--map a: given 2 times" in run("import", *tables, tmp_path / "x", *blocks, *maps).stderr
    assert (
        "rename platform_1: given 2 times"
        in run("rename", base / "run", "platform_1=a", "platform_1=b").stderr
    )
    before = content(base)
    for names in (["platform_1=a", "platform_2=a"], ["platform_1=platform_2"]):
        assert "; give another" in run("rename", base / "run", *names).stderr
    assert content(base) == before


def test_an_answer_needs_no_file_of_its_own(base):
    said = run("effects", base / "run", "--shift", "exposure_1=+0.1", "--extrapolate")
    assert said.exit_code == 0, said.output
    assert (base / "run" / "effects.json").exists()


def test_an_answer_and_its_report_are_of_one_command(base):
    """While another command writes into the run, neither is written."""
    drawn = base / "run" / "report.html"
    drawn.write_text("of another command")
    command = threading.Thread(target=run, args=("report", base / "run"))
    with alone_in(base / "run"):
        command.start()
        time.sleep(1)
        assert drawn.read_text() == "of another command"
    command.join()
    assert drawn.read_text() != "of another command"
    assert not (base / "run" / ".lock").exists()


def test_a_fit_that_was_stopped_while_its_report_was_drawn_goes_on(base, tmp_path, monkeypatch):
    words = ["fit", base / "data", "--out", tmp_path / "run", *FIT]

    def stopped(figure, kind):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(page, "to_bytes", stopped)
        said = run(*words)
    assert said.exit_code == 130
    assert "the same command goes on" in said.stderr
    fitted = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns

    other = ["fit", base / "data", "--out", tmp_path / "run", *FIT, "--seed", "1"]
    assert "exists already" in run(*other).stderr
    assert run(*words).exit_code == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == fitted
    assert "exists already" in run(*words).stderr
    assert os.listdir(tmp_path) == ["run"]
