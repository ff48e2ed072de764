"""Claims about restarts that run side by side: the same numbers, and no process outlives who started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.guide.guide import ExpansionGuide
from pyro_hmvcrl.inference import restarts
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import screen
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

QUICK = Settings(2, 3, restarts=2, steps=12, batch_size=32, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "data"
    write_simulation(simulate(Design(users=120, categories=6), 0), folder, seed=0, truth=False)
    return folder


@pytest.mark.usefixtures("two_threads")
def test_restarts_side_by_side_come_to_the_same_numbers(folder, monkeypatch, capfd):
    dataset = read_dataset(folder)
    one_by_one = screen(dataset, QUICK)  # too small to be worth processes
    monkeypatch.setattr(restarts, "WORTH", 1)
    at_once = screen(dataset, QUICK, progress=True)
    assert "2 restarts at once" in capfd.readouterr().err
    for one, other in zip(one_by_one.restarts, at_once.restarts, strict=True):
        assert (one.bound, one.bounds) == (other.bound, other.bounds)
        assert one.guide.state_dict().keys() == other.guide.state_dict().keys()
        for name, value in one.guide.state_dict().items():
            assert torch.equal(value, other.guide.state_dict()[name]), name


@pytest.mark.usefixtures("two_threads")
def test_processes_are_for_restarts_that_are_worth_them(folder, monkeypatch):
    train = screen(read_dataset(folder), replace(QUICK, restarts=1, steps=1)).train
    assert restarts._processes(train, QUICK) == 1
    monkeypatch.setattr(restarts, "WORTH", 1)
    assert restarts._processes(train, QUICK) == 2
    assert restarts._processes(train, replace(QUICK, restarts=1)) == 1
    with monkeypatch.context() as patch:  # a worker of a pool
        patch.setitem(multiprocessing.current_process()._config, "daemon", True)
        assert restarts._processes(train, QUICK) == 1
    torch.set_num_threads(1)
    assert restarts._processes(train, QUICK) == 1


@pytest.mark.usefixtures("two_threads")
def test_without_shared_memory_they_run_one_after_the_other(folder, monkeypatch):
    def none(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(restarts, "WORTH", 1)
    monkeypatch.setattr(restarts, "ProcessPoolExecutor", none)
    assert len(screen(read_dataset(folder), QUICK).restarts) == 2


@pytest.mark.usefixtures("two_threads")
def test_a_process_that_the_system_ends_is_said(folder, monkeypatch):
    monkeypatch.setattr(restarts, "WORTH", 1)
    with pytest.raises(MemoryError, match="OMP_NUM_THREADS=1"):
        screen(read_dataset(folder), QUICK, build=lambda *of: os.kill(os.getpid(), signal.SIGKILL))


QUIET = """
import sys, torch
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.inference import restarts
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import screen

torch.set_num_threads(2)
restarts.WORTH = 1
screen(read_dataset(sys.argv[1]), Settings(2, 3, restarts=2, steps=2, batch_size=32, device="cpu"))
"""


def test_processes_leave_nothing_behind_that_is_complained_of(folder):
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(folder)], check=True, capture_output=True, text=True
    )
    assert not done.stderr


@pytest.mark.usefixtures("two_threads")
def test_a_restart_that_fails_ends_the_others(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(restarts, "WORTH", 1)

    def build(model, n_users):
        if not (mark := tmp_path / "first").exists():
            mark.touch()
            return ExpansionGuide(model, n_users)
        raise FloatingPointError("the bound is nan")

    with pytest.raises(FloatingPointError, match="the bound is nan"):
        screen(read_dataset(folder), replace(QUICK, steps=1_000_000), build=build)


KILLED = """
import os, sys, torch
from pathlib import Path
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.guide.guide import ExpansionGuide
from pyro_hmvcrl.inference import restarts
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import screen

def build(model, n_users):
    Path(sys.argv[2], str(os.getpid())).touch()
    return ExpansionGuide(model, n_users)

torch.set_num_threads(2)
restarts.WORTH = 1
settings = Settings(2, 3, restarts=2, steps=1_000_000, batch_size=32, device="cpu")
screen(read_dataset(sys.argv[1]), settings, build=lambda *of: build(*of))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")
def test_no_restart_outlives_who_started_it(folder, tmp_path):
    ends = time.monotonic() + 120
    with subprocess.Popen([sys.executable, "-c", KILLED, str(folder), str(tmp_path)]) as parent:
        while len(children := list(tmp_path.iterdir())) < 2 and parent.poll() is None:
            assert time.monotonic() < ends
            time.sleep(0.1)
        parent.send_signal(signal.SIGKILL)
    assert len(children) == 2
    assert str(parent.pid) not in {child.name for child in children}
    while any(runs(int(child.name)) for child in children):
        assert time.monotonic() < ends
        time.sleep(0.1)


def runs(process: int) -> bool:
    """Whether a process is there, and not as a zombie that nobody has asked for."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
