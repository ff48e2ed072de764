"""Claims about tensors on disk: what is damaged, endless or of another fit is named, and never gone on from."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.inference import checkpoints
from pyro_hmvcrl.inference.checkpoints import CheckpointError, load_tensors, save_tensors
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import fit
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

from worlds import kill_a_fit

SETTINGS = Settings(2, 3, restarts=1, steps=10, encoder_steps=10, batch_size=64, device="cpu")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A dataset, and the checkpoint of a fit of it that was killed."""
    base = tmp_path_factory.mktemp("killed")
    write_simulation(simulate(Design(users=80, categories=6), 0), base / "data", seed=0, truth=False)
    dataset = read_dataset(base / "data", periods=2)
    kill_a_fit(dataset, SETTINGS, base, "encoders", 3)
    [path] = base.glob("*.safetensors")
    return dataset, path


def without_a_key(content: bytes) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    header = content[8 : 8 + length].replace(b"optimiser/0/exp_avg_sq", b"optimiser/0/exp_avg_xx")
    return content[:8] + header + content[8 + length :]


def without_bounds(content: bytes) -> bytes:
    return content.replace(b"bounds", b"sdnuob", 1)


def another_value(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: bytes(len(content)),
        lambda content: b"x" * 100,
        without_a_key,
        without_bounds,
        another_value,
    ],
    ids=["cut", "empty", "zeros", "text", "no key", "no bounds", "one bit"],
)
def test_a_damaged_checkpoint_is_named_and_without_it_the_fit_ends_as_it_would_have(killed, tmp_path, damage):
    dataset, path = killed
    copy = tmp_path / path.name
    copy.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        with pytest.raises(CheckpointError) as caught:
            fit(dataset, SETTINGS, tmp_path)
        said = str(caught.value)
        assert said.startswith(f"{copy}: a checkpoint that cannot be read (")
        assert said.endswith("; remove this file, and its part of the fit starts anew")
        assert "\n" not in said


def test_a_checkpoint_goes_on_where_it_was(killed, tmp_path):
    dataset, path = killed
    (tmp_path / path.name).write_bytes(path.read_bytes())
    again, whole = fit(dataset, SETTINGS, tmp_path), fit(dataset, SETTINGS)
    assert again.bound == whole.bound
    np.testing.assert_array_equal(again.history["bound"], whole.history["bound"])


def test_a_checkpoint_of_another_fit_is_not_used(killed, tmp_path):
    """Of the same sizes: its folder says that something else is being fitted."""
    dataset, path = killed
    (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "fit.json").write_text("of other data")
    with pytest.raises(CheckpointError, match="of another fit"):
        fit(dataset, SETTINGS, tmp_path)


@pytest.mark.parametrize("length", [1 << 25, 1 << 62])
def test_a_header_without_end_is_not_read(tmp_path, length):
    (tmp_path / "t.safetensors").write_bytes(struct.pack("<Q", length) + b"{" * 100)
    with pytest.raises(ValueError, match="its header is longer"):
        load_tensors(tmp_path / "t.safetensors")


def test_a_crowd_of_empty_tensors_is_refused_at_once(tmp_path, monkeypatch):
    """Before the library looks at each of them."""
    monkeypatch.setattr(checkpoints, "safe_open", None)
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({str(i): entry for i in range(200_000)}).encode()
    (tmp_path / "t.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ValueError, match="its header is longer"):
        load_tensors(tmp_path / "t.safetensors")


def test_what_was_written_is_read(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.zeros(())}
    save_tensors(tmp_path / "t", tensors, {"x": [1]})
    found, metadata = load_tensors(tmp_path / "t")
    assert torch.equal(found["a"], tensors["a"])
    assert found["b"].shape == ()
    assert metadata == {"x": [1]}
    save_file(tensors | {"a": torch.zeros(1)}, tmp_path / "foreign")
    with pytest.raises(TypeError):
        load_tensors(tmp_path / "foreign")
