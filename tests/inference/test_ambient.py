"""Claims about threads: small steps take one, and the number is left as it was."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.inference import stage
from pyro_hmvcrl.inference.ambient import MUCH, few_threads
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import fit
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate


@pytest.mark.usefixtures("two_threads")
def test_only_much_work_is_shared_among_threads():
    for size, threads in ((MUCH - 1, 1), (MUCH, 2)):
        with suppress(ValueError), few_threads(size):
            assert torch.get_num_threads() == threads
            raise ValueError
        assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_the_steps_of_a_fit_take_one_thread(tmp_path, monkeypatch):
    write_simulation(simulate(Design(users=80, categories=6), 0), tmp_path / "data", seed=0, truth=False)
    seen, set_rate = set(), stage._set_rate

    def at_a_step(*args):
        seen.add(torch.get_num_threads())
        set_rate(*args)

    monkeypatch.setattr(stage, "_set_rate", at_a_step)
    fit(
        read_dataset(tmp_path / "data", periods=2),
        Settings(2, 3, restarts=1, steps=2, encoder_steps=2, device="cpu"),
    )
    assert seen == {1}
    assert torch.get_num_threads() == 2
