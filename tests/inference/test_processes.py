"""Two processes of ``torchrun`` fit what one does.

As a script this is what each of them runs: it fits the dataset of a folder, and leaves there what it saw.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.evidence.measures import mcc
from pyro_hmvcrl.guide.experts import factor_posterior
from pyro_hmvcrl.inference import processes, scores, stage
from pyro_hmvcrl.inference.processes import agreed, first, together
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import fit
from pyro_hmvcrl.run.fitting import parameter_posterior
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

from worlds import logs_of

DESIGN = Design(users=300, preference_factors=2, categories=6)
SETTINGS = Settings(2, 2, restarts=1, steps=60, encoder_steps=30, batch_size=200, device="cpu", periods=2)


def main(folder: Path) -> None:
    trained_on: list[list[int]] = []
    scored: list[int] = []
    batch, every_nth = stage._batch, processes.every_nth

    def seen(*step: int) -> torch.Tensor:
        trained_on.append(batch(*step).tolist())
        return batch(*step)

    stage._batch = seen
    scores.every_nth = lambda n: scored.extend(every_nth(n)) or every_nth(n)
    kept: list[str] = []
    save = stage.save_checkpoint
    stage.save_checkpoint = lambda path, *content: kept.append(path.stem) or save(path, *content)
    scores.SCORES_AT_ONCE //= 8  # so that there are many batches
    with together("cpu"):
        dataset = read_dataset(folder / "data")
        found = fit(dataset, SETTINGS, folder / "checkpoints")
        posterior = parameter_posterior(found, dataset, seed=0)
        weights = torch.cat([t.flatten() for t in found.guide.state_dict().values()])
        mean, _ = factor_posterior(*found.guide.posterior(logs_of(simulate(DESIGN, 0))))
        left = {
            "trained_on": trained_on,
            "scored": scored,
            "kept": kept,
            "weights": weights.tolist(),
            "bound": found.bound,
            "factors": mean.tolist(),
            "sd": torch.cat([t.flatten() for t in posterior.sd.values()]).tolist(),
        }
        (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(left))


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    """The folder, what two processes left, and the fit of one."""
    folder = tmp_path_factory.mktemp("processes")
    write_simulation(simulate(DESIGN, 0), folder / "data", seed=0, truth=False)
    (folder / "checkpoints").mkdir()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    helpers = {"PYTHONPATH": os.pathsep.join(sys.path)}  # of the tests, which this file imports
    command = [*torchrun, __file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | helpers)
    assert done.returncode == 0, done.stderr
    dataset = read_dataset(folder / "data")
    alone = fit(dataset, SETTINGS)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)], alone, dataset


def test_each_has_users_of_its_own_and_both_end_with_one_model(fits):
    _, (one, two), _, _ = fits
    assert len(one["trained_on"]) == len(two["trained_on"]) == SETTINGS.steps + SETTINGS.encoder_steps
    assert {len(batch) for batch in one["trained_on"] + two["trained_on"]} == {100, 64}
    mine, others = (set().union(*found["trained_on"]) for found in (one, two))
    assert not mine & others
    assert mine | others == set(range(270))
    assert not set(one["scored"]) & set(two["scored"])
    assert len(one["scored"]) + len(two["scored"]) >= 4
    assert one["weights"] == two["weights"]
    assert one["sd"] == two["sd"]


def test_they_find_what_one_finds(fits):
    _, (one, _), alone, dataset = fits
    assert one["bound"][0] == pytest.approx(alone.bound[0], abs=0.3 * alone.bound[1])
    mean, _ = factor_posterior(*alone.guide.posterior(logs_of(simulate(DESIGN, 0))))
    for block in (slice(0, 2), slice(2, 4)):
        assert mcc(np.array(one["factors"])[:, block], mean[:, block], n_bootstrap=0).value > 0.98
    sd = torch.cat([t.flatten() for t in parameter_posterior(alone, dataset, seed=0).sd.values()])
    assert np.median(np.array(one["sd"]) / sd.numpy()) == pytest.approx(1, abs=0.1)


def test_the_first_alone_keeps_the_checkpoints(fits):
    folder, (one, two), _, _ = fits
    assert one["kept"] == ["restart 1 of 1", "encoders"]
    assert not two["kept"]
    checkpoints = (folder / "checkpoints").iterdir()
    assert {p.name for p in checkpoints} == {
        "restart 1 of 1.safetensors",
        "encoders.safetensors",
    }


def test_one_process_has_everything():
    assert [*processes.every_nth(5)] == [0, 1, 2, 3, 4]
    assert first()
    with together("cpu"):
        assert agreed(3) == 3


if __name__ == "__main__":
    main(Path(sys.argv[1]))
