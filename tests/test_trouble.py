"""The machine's troubles: no room on the disk, a folder that takes no files, Ctrl-C.  One sentence, nothing lost."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pyro_hmvcrl import cli
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.run.fitting import fit_folder
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

SAMPLE = Path(__file__).parents[1] / "data" / "kuaisar-generated"
FIT = ["--platform-factors", "2", "--preference-factors", "3", "--restarts", "1", "--encoder-steps", "20"]
FIT += ["--periods", "2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a dataset and its run."""
    base = tmp_path_factory.mktemp("trouble")
    write_simulation(simulate(Design(users=80, categories=6), 0), base / "data", seed=0)
    settings = Settings(2, 3, restarts=1, steps=20, encoder_steps=20, device="cpu", periods=2)
    fit_folder(base / "data", base / "run", settings)
    return base


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "pyro_hmvcrl", *map(str, words)]


def words_of(name: str, base: Path, out: Path) -> list[object]:
    return {
        "import-kuaisar": ["import-kuaisar", SAMPLE, out],
        "fit": ["fit", base / "data", "--out", out, *FIT, "--steps", "20"],
        "effects": ["effects", base / "run", "--shift", "exposure_1=+1", "--out", out.with_suffix(".json")],
    }[name]


@pytest.mark.parametrize("name", ["import-kuaisar", "fit"])
def test_a_disk_without_room(base, tmp_path, name):
    """Files cannot grow past a kilobyte, as on a disk that has no more than that."""
    before = content(base)
    done = subprocess.run(
        command(*words_of(name, base, tmp_path / "out")),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_024, 1_024)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "too large" in done.stderr
    assert content(base) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["import-kuaisar", "fit", "effects"])
def test_a_folder_that_takes_no_files(base, name, capsys, monkeypatch):
    """Not even root's; and no effect is computed before that is said."""
    monkeypatch.setattr(
        "pyro_hmvcrl.queries.answer.effects_of_each", lambda *args, **options: pytest.fail("asked too early")
    )
    with pytest.raises(SystemExit, match="1"):
        cli.app(list(map(str, words_of(name, base, Path("/proc/out")))))
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert "/proc" in said


def test_ctrl_c_stops_a_fit_that_goes_on_when_called_again(base, tmp_path):
    out = tmp_path / "run"
    words = command("fit", base / "data", "--out", out, *FIT, "--steps", "100000")
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".run.unfinished/*.safetensors")):
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("stopped; ")
    assert "Traceback" not in said
    assert not out.exists()
    assert list(tmp_path.glob(".run.unfinished/*.safetensors"))
