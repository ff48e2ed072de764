"""Tensors on disk, atomically and without pickle: checkpoints of a stage, and what a run keeps."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyro_hmvcrl.data.files import one_line
from pyro_hmvcrl.guide.guide import Guide
from pyro_hmvcrl.inference.writing import whole_file

MOST_TENSORS = 1_000  #: in a file; no guide has half as many
LONGEST_HEADER = 1 << 24  #: bytes; the bounds of half a million steps


class CheckpointError(ValueError):
    """A checkpoint that cannot be gone on from: the message names the file and the mend."""


def save_checkpoint(path: Path, guide: Guide, optimiser: torch.optim.Adam, bounds: list[float]) -> None:
    """Keep where a stage is: guide, optimiser, random state and the bounds so far."""
    tensors = {f"guide/{name}": value.clone() for name, value in guide.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{i}/{key}": value.clone() for key, value in state.items()}
    tensors["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    save_tensors(path, tensors, {"bounds": bounds, "digest": _digest(path, tensors, bounds)})


def load_checkpoint(path: Path, guide: Guide, optimiser: torch.optim.Adam) -> list[float]:
    """Go back to where :func:`save_checkpoint` was; returns the bounds up to there.

    Raises
    ------
    CheckpointError
        If the file is damaged, or of another fit than the folder is marked with.
    """
    try:
        tensors, metadata = load_tensors(path)
        bounds: list[float] = metadata["bounds"]
        if metadata["digest"] != _digest(path, tensors, bounds):
            raise ValueError("not as it was written, or of another fit")
        guide.load_state_dict(_under("guide/", tensors))
        state = optimiser.state_dict()
        for name, value in _under("optimiser/", tensors).items():
            i, key = name.split("/")
            state["state"].setdefault(int(i), {})[key] = value
        optimiser.load_state_dict(state)
        torch.set_rng_state(tensors["random"])
        if "random_cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random_cuda"])
    except Exception as error:  # whatever a damaged file makes a library say
        raise CheckpointError(
            f"{path}: a checkpoint that cannot be read ({one_line(error)[:200]}); "
            "remove this file, and its part of the fit starts anew"
        ) from error
    return bounds


def _digest(path: Path, tensors: dict[str, Tensor], bounds: list[float]) -> str:
    """Of a checkpoint's content, and of what its folder says is being fitted."""
    marker = path.with_name("fit.json")
    digest = hashlib.sha256(marker.read_bytes() if marker.exists() else b"")
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().numpy().tobytes())
    digest.update(json.dumps(bounds).encode())
    return digest.hexdigest()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and JSON metadata atomically as one safetensors file.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with whole_file(path) as file:
        try:
            save_file(contiguous, file, metadata={"json": json.dumps(metadata)})
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote.

    Raises
    ------
    ValueError
        If the file has more tensors, or says more of them, than any that is written.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length)) if length <= LONGEST_HEADER else None
    if not isinstance(header, dict) or len(header) > MOST_TENSORS:
        raise ValueError("its header is longer than that of any file of a fit")
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["json"])  # noqa: SIM118
