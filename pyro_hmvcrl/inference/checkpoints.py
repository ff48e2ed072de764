"""Tensors on disk, atomically and without pickle: checkpoints of a stage, and what a run keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyro_hmvcrl.guide.guide import Guide
from pyro_hmvcrl.inference.writing import whole_file


def save_checkpoint(path: Path, guide: Guide, optimiser: torch.optim.Adam, bounds: list[float]) -> None:
    """Keep where a stage is: guide, optimiser, random state and the bounds so far."""
    tensors = {f"guide/{name}": value.clone() for name, value in guide.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{i}/{key}": value.clone() for key, value in state.items()}
    tensors["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    save_tensors(path, tensors, {"bounds": bounds})


def load_checkpoint(path: Path, guide: Guide, optimiser: torch.optim.Adam) -> list[float]:
    """Go back to where :func:`save_checkpoint` was; returns the bounds up to there."""
    tensors, metadata = load_tensors(path)
    guide.load_state_dict(_under("guide/", tensors))
    state = optimiser.state_dict()
    for name, value in _under("optimiser/", tensors).items():
        i, key = name.split("/")
        state["state"].setdefault(int(i), {})[key] = value
    optimiser.load_state_dict(state)
    torch.set_rng_state(tensors["random"])
    if "random_cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random_cuda"])
    return list(metadata["bounds"])


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
    """Read what :func:`save_tensors` wrote."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["json"])  # noqa: SIM118
