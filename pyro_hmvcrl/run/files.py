"""Files of a run folder, and outputs that must not take their place: errors name the file and the mend."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pyro_hmvcrl.data.files import one_line
from pyro_hmvcrl.inference.checkpoints import load_tensors

SIGNS = {"dataset.json": "dataset folder", "model.safetensors": "run folder", "study.json": "study's folder"}
SIGNS |= {"fit.json": "folder of an unfinished fit", "rec_inter.csv": "folder of KuaiSAR's files"}
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


def check_out(out: Path, own: Path | None = None) -> None:
    """Say before the work, not after it, that a file cannot be written there, or would stand among a folder's own.

    Parameters
    ----------
    own
        The one file of a run folder that it may be.

    Raises
    ------
    RunError
        If a dataset or a run would be spoilt, or the file cannot be written.
    """
    try:
        if out.is_symlink() and not out.exists():
            raise RunError(f"{out}: a link to nothing; remove it, or give another file")
        target = out.resolve()
        kind = _kind_of(target.parent) or (target.parent.name == "figures" and _kind_of(target.parent.parent))
        if kind and (own is None or target != own.resolve()):
            raise RunError(
                f"{out}: {target.parent} is a {kind}, where only its own files stand; give a file elsewhere"
            )
        if out.is_dir():
            raise IsADirectoryError("it is a folder")
        with tempfile.TemporaryDirectory(dir=out.parent) as beside:
            (Path(beside) / out.name).touch()
    except OSError as error:
        reason = error.strerror or error
        raise RunError(
            f"{out}: no file can be written there ({reason}); give a file in another folder"
        ) from error


def check_new_folder(out: Path) -> None:
    """Say before the work that a folder is there already, or cannot be made.

    Raises
    ------
    RunError
        If it is, or cannot.
    """
    try:
        if out.exists() or out.is_symlink():
            raise RunError(f"{out}: exists already; choose another folder or remove this one")
        near = next(parent for parent in out.absolute().parents if parent.exists())
        with tempfile.TemporaryDirectory(dir=near) as beside:
            (Path(beside) / f".{out.name}.{'x' * 32}.partial").mkdir()  # the longest that it is called
    except OSError as error:
        reason = error.strerror or error
        raise RunError(
            f"{out}: no folder can be made there ({reason}); give another, with a shorter name if it is that"
        ) from error


def named_after(path: Path, ending: str) -> Path:
    """A path beside another, of its name and an ending."""
    named = path if path.name not in ("", "..") else path.resolve()
    return named.with_name(f"{named.name}{ending}")


def _kind_of(folder: Path) -> str | None:
    """What a folder is that takes no other files."""
    return next((kind for name, kind in SIGNS.items() if (folder / name).exists()), None)
