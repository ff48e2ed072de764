"""Kill -9 at a random moment: what is there then is whole, and the same command again ends as if nothing had happened.

``HMVCRL_KILLS`` is how often each is killed, once if it is not set; what takes minutes is left out then.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pyro_hmvcrl.cli import app
from pyro_hmvcrl.data.files import whole_folder
from pyro_hmvcrl.evidence.predictive import predictive_checks
from pyro_hmvcrl.inference import stage
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.queries.answer import effects, write_effects
from pyro_hmvcrl.queries.interventions import add
from pyro_hmvcrl.run import run
from pyro_hmvcrl.run.fitting import fit_folder
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

SAMPLE = Path(__file__).parents[1] / "data" / "kuaisar-generated"
KILLS = int(os.environ.get("HMVCRL_KILLS", "1"))
SETTINGS = Settings(2, 3, restarts=2, steps=30, encoder_steps=30, batch_size=64, device="cpu", periods=3)

PROCESSES = multiprocessing.get_context("forkserver")  # which imports what it takes once, for all
PROCESSES.set_forkserver_preload(["test_killed"])


def fit_to(out: Path) -> None:
    """Fit the dataset beside it, with checkpoints so often that kills fall between them, and with few checks."""
    stage.CHECKPOINT_EVERY = 4
    run.predictive_checks = partial(predictive_checks, replications=20)
    fit_folder(out.parent / "data", out, SETTINGS)


def ask_to(out: Path) -> None:
    write_effects(effects(out.parent / "whole", [add("platform_1", 1.0)]), out)


def import_to(out: Path) -> None:
    app(["import-kuaisar", str(SAMPLE), str(out)], standalone_mode=False)


def start(work: Callable[[Path], None], out: Path) -> multiprocessing.Process:
    process = PROCESSES.Process(target=partial(quietly, work), args=(out,))
    process.start()
    return process


def quietly(work: Callable[[Path], None], out: Path) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        work(out)


def finish(work: Callable[[Path], None], out: Path) -> float:
    """Seconds that the work took."""
    begun = time.monotonic()
    process = start(work, out)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - begun


def killed_and_again(work: Callable[[Path], None], out: Path, seconds: float) -> None:
    """Kill the work at a random moment, look that nothing is half there, and do it again."""
    process = start(work, out)
    process.join(timeout=seconds * np.random.default_rng().random())
    process.kill()
    process.join()
    faster, again = out.exists(), start(work, out)
    again.join()
    assert again.exitcode == 0 or faster  # then it is refused, as the result is there
    assert not list(out.parent.glob(f".{out.name}*"))


def content(folder: Path) -> dict[str, object]:
    """Every file's bytes by its name; but for what the clock wrote."""
    files: dict[str, object] = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
    if "config.json" in files:
        files["config.json"] = json.loads(files["config.json"]) | {"seconds": 0}
    return files


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with a dataset and its run, and the seconds of the fit."""
    base = tmp_path_factory.mktemp("killed")
    write_simulation(simulate(Design(users=80, categories=6), 0), base / "data", seed=0)
    return base, finish(fit_to, base / "whole")


def test_a_killed_fit_ends_in_the_same_run(fitted):
    base, seconds = fitted
    for _ in range(KILLS):
        killed_and_again(fit_to, base / "run", seconds)
        assert content(base / "run") == content(base / "whole")
        shutil.rmtree(base / "run")


def fill(out: Path) -> None:
    """Half of a folder, and then no end."""
    with whole_folder(out) as folder:
        (folder / "half").touch()
        time.sleep(60)


def test_what_was_half_filled_is_cleared_away_by_the_next_and_not_while_it_is_being_filled(tmp_path):
    killed, alive = (start(fill, tmp_path / "out") for _ in range(2))
    while len(filling := list(tmp_path.glob(".out.*/half"))) < 2:
        time.sleep(0.05)
    assert not (tmp_path / "out").exists()
    killed.kill()
    killed.join()
    with whole_folder(tmp_path / "out") as folder:
        (folder / "whole").touch()
    assert sum(half.exists() for half in filling) == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["whole"]
    alive.kill()
    alive.join()


def test_a_killed_import_leaves_no_half_dataset(tmp_path):
    seconds = finish(import_to, tmp_path / "whole")
    for _ in range(KILLS):
        killed_and_again(import_to, tmp_path / "data", seconds)
        assert content(tmp_path / "data") == content(tmp_path / "whole")
        shutil.rmtree(tmp_path / "data")


@pytest.mark.skipif("HMVCRL_KILLS" not in os.environ, reason="takes minutes: set HMVCRL_KILLS to ask for it")
def test_a_killed_question_leaves_no_half_answer(fitted):
    base, _ = fitted
    seconds = finish(ask_to, base / "whole.json")
    for _ in range(KILLS):
        killed_and_again(ask_to, base / "answer.json", seconds)
        assert (base / "answer.json").read_bytes() == (base / "whole.json").read_bytes()
        (base / "answer.json").unlink()
