"""Files of a run folder that may be missing, damaged or of another run: one error that names the file and the mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pyro_hmvcrl.data.files import one_line
from pyro_hmvcrl.inference.checkpoints import load_tensors

MEND = "restore it from a copy of the run, or fit again into a new folder"


class RunError(ValueError):
    """A run folder that cannot be used or made: the message names it and the mend."""


@contextmanager
def of_file(path: Path, mend: str = MEND, kind: type[ValueError] = RunError) -> Iterator[None]:
    """Whatever goes wrong with a file here, and whichever library says so, is one error of a `kind` that names it.

    No check foresees all that a file may say.
    """
    try:
        yield
    except kind:
        raise
    except Exception as error:
        if not path.exists():
            raise kind(f"{path}: not found; give a folder that fit has written, or {mend}") from None
        said = f"no {one_line(error)}" if isinstance(error, KeyError) else one_line(error)
        raise kind(f"{path}: cannot be read ({said[:300]}); {mend}") from error


def finite_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, if all their numbers are finite.

    Raises
    ------
    ValueError
        If one is not.
    """
    tensors, _ = load_tensors(path)
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")
    return tensors
