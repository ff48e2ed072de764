"""Claims about the package as a guest: of a Python session whose state it leaves, of a shell, and of any machine."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.queries.answer import effects, write_effects
from pyro_hmvcrl.queries.interventions import add
from pyro_hmvcrl.queries.population import Population
from pyro_hmvcrl.report.page import write_report
from pyro_hmvcrl.report.reading import read_run
from pyro_hmvcrl.run.fitting import fit_folder, is_run_of
from pyro_hmvcrl.run.judge import Truth
from pyro_hmvcrl.run.load import load_run
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

SETTINGS = Settings(2, 3, restarts=1, steps=10, encoder_steps=10, batch_size=64, device="cpu", periods=2)
SHIFT = [add("platform_1", 0.1)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a dataset and its run."""
    base = tmp_path_factory.mktemp("guests")
    write_simulation(simulate(Design(users=80, categories=6), 0), base / "data", seed=0)
    fit_folder(base / "data", base / "run", SETTINGS)
    return base


def numbers(base: Path, tmp: Path) -> list[object]:
    """What each of the public calls gives."""
    run = load_run(base / "run")
    data = read_dataset(base / "data", run.categories, run.periods)
    again = fit_folder(base / "data", tmp / "run", SETTINGS)
    answer = effects(base / "run", SHIFT, extrapolate=True)
    parts = run.encode(data), run.edges(again.encode(data)), run.evidence(data), again.posterior.mean["b"]
    return [*parts, answer, run.to_arviz()["posterior"]["b"].to_numpy()]


def same(one: object, other: object) -> bool:
    if isinstance(one, pd.DataFrame):
        return one.equals(other)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, tuple):
        return all(map(same, one, other))
    return bool(np.all(one == other))


@contextmanager
def torch_set(put: Callable[[Any], None], value: Any, back: Any) -> Iterator[None]:
    put(value)
    try:
        yield
    finally:
        put(back)


def test_the_caller_s_state_changes_nothing_and_stays(base, tmp_path):
    random = torch.get_rng_state()
    plain = numbers(base, tmp_path / "plain")
    states = {
        "float64": torch_set(torch.set_default_dtype, torch.float64, torch.float32),
        "no_grad": torch_set(torch.set_grad_enabled, False, True),
        "inference_mode": torch.inference_mode(),
        "device": torch.device("meta"),
        "errors": np.errstate(all="raise"),
    }
    for name, state in states.items():
        with state:
            found = numbers(base, tmp_path / name)
            assert torch.get_default_dtype() == (torch.float64 if name == "float64" else torch.float32)
            assert torch.is_grad_enabled() == (name not in ("no_grad", "inference_mode"))
            assert torch.get_default_device().type == ("meta" if name == "device" else "cpu")
        assert all(map(same, found, plain)), name
    assert torch.equal(torch.get_rng_state(), random)


def test_no_state_of_torch_changes_what_is_encoded(base):
    """Of states that a training loop of one's own may be in."""
    run = load_run(base / "run")
    data = read_dataset(base / "data", run.categories, run.periods)
    plain, noise = run.encode(data), run.noise(run.logs(data))
    states = {
        "autocast": torch.autocast("cpu", dtype=torch.bfloat16),
        "precision": torch_set(torch.set_float32_matmul_precision, "medium", "highest"),
        "deterministic": torch_set(torch.use_deterministic_algorithms, True, False),
        "anomaly": torch.autograd.set_detect_anomaly(True),
        "device": torch.device("meta"),
        "warnings": warnings.catch_warnings(action="error"),
    }
    for name, state in states.items():
        with state:
            found = load_run(base / "run")
            assert found.encode(data).equals(plain), name
            assert torch.equal(found.noise(found.logs(data)), noise), name
            assert torch.get_float32_matmul_precision() == ("medium" if name == "precision" else "highest")


def test_folders_may_be_text(base, tmp_path, monkeypatch):
    monkeypatch.chdir(base)
    fit_folder("data", str(tmp_path / "run"), SETTINGS)
    data = read_dataset("data", load_run("run").categories)
    assert is_run_of("run", "data", SETTINGS)
    assert Truth.beside("data", data) is not None
    assert len(Population.of("run").covariates) == 80
    write_effects(effects("run", SHIFT, extrapolate=True), "run/effects.json")
    assert read_run("run")["effects"]["shift"] == ["platform_1=+0.1"]
    assert write_report("run") == Path("run/report.html")


def seconds_of(*code: str) -> float:
    """Processor seconds that Python takes for it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("code", "most"),
    [(("-c", "import pyro_hmvcrl"), 0.3), (("-m", "pyro_hmvcrl", "--help"), 1)],
)
def test_help_and_import_are_there_at_once(code, most):
    assert min(seconds_of(*code) for _ in range(2)) < most


def test_nothing_that_commands_do_not_need_is_imported():
    code = "import sys, pyro_hmvcrl.cli; print(*sorted({n.partition('.')[0] for n in sys.modules}))"
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "pyro", "arviz", "matplotlib", "sklearn", "scipy", "pandas"} & {*there}


def test_commands_import_no_arviz():
    """0.23 writes into the home folder, which may not be writable."""
    rooms = "cli, queries.answer, run.load, report.page, kuaisar.published"
    code = f"import sys; from importlib import import_module as i; [i('pyro_hmvcrl.'+r) for r in '{rooms}'.split(', ')]"
    code += "; print('arviz' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False"]


def test_a_home_that_cannot_be_written(base, tmp_path):
    home = {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none", "MPLCONFIGDIR": str(tmp_path)}
    words = ["report", base / "run"]
    said = command(words, home)
    assert (said.returncode, said.stderr) == (0, "")


def command(words: list[object], variables: dict[str, str]) -> subprocess.CompletedProcess:
    full = [sys.executable, "-m", "pyro_hmvcrl", *map(str, words)]
    return subprocess.run(full, capture_output=True, text=True, env=os.environ | variables, errors="replace")


@pytest.mark.parametrize("encoding", ["cp1252", "cp1252:strict"])
def test_any_name_is_printed_on_any_terminal(base, tmp_path, encoding):
    """Whatever there is to say of a column."""
    name = "空\x1b[2J"
    said = command(["effects", base / "run", "--shift", f"{name}=+1"], {"PYTHONIOENCODING": encoding})
    assert said.returncode == 1
    assert said.stderr.startswith("error: no exposure covariate or factor \\u7a7a\\x1b[2J: choose of ")
    assert "platform_1" in said.stderr
    assert (
        command(
            ["fit", name, "--out", tmp_path / name, "--steps", "x"], {"PYTHONIOENCODING": encoding}
        ).returncode
        == 2
    )


def encode_words(base, out):
    """The command in a process of its own."""
    return [sys.executable, "-m", "pyro_hmvcrl", "encode", base / "run", base / "data", "--out", out]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "| true"])
def test_the_work_is_done_where_nobody_listens(base, tmp_path, closed):
    line = " ".join(f"'{word}'" for word in encode_words(base, tmp_path / "x.csv"))
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line} {closed}"], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Errno" not in done.stderr
    assert done.returncode == 0 or closed == "| true"
    assert (tmp_path / "x.csv").exists()


@pytest.mark.parametrize("after", [0.1, 0.3, 0.8, 1.5, 2.5])
def test_an_interrupt_while_it_is_being_loaded_is_one_line(base, tmp_path, after):
    words = encode_words(base, tmp_path / "x.csv")
    process = subprocess.Popen(
        list(map(str, words)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].strip()
    assert "Traceback" not in said
    assert said.count("\n") == 0
    assert process.returncode in (0, 130, -signal.SIGINT)
    assert process.returncode == 0 or not (tmp_path / "x.csv").exists()
