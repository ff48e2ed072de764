"""Folders that appear whole or not at all, and text and JSON that can be trusted to be written again."""

from __future__ import annotations

import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

LOCK = "lock"  #: in a folder that is being filled
FEWEST_COPIED = 20  #: users of a generated copy


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not JSON, says a thing twice, nests too deep, or is not text that can be written again.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    check_text(content)
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which a key that stands there twice has no meaning."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice[:60]!r} stands there twice")
    return content


def check_text(content: Any) -> None:
    """Raise ValueError unless all text in it can be written: JSON can hold half of a character."""
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it nests too deep") from None


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def clear_away(left: Path) -> None:
    """Remove a folder that a killed process left, unless another is at work there, which holds its lock.

    A link is of somebody else, and left alone with what it leads to.
    """
    if left.is_symlink():
        return
    with suppress(Timeout, OSError), FileLock(left / LOCK, timeout=0):
        shutil.rmtree(left)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `folder` if all goes well, and nothing otherwise.

    It stands beside its target, on the same file system.  What a killed process left of one is cleared away by the
    next: the system lets go of its lock.
    """
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        clear_away(left)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
    temporary.mkdir(parents=True)
    try:
        with FileLock(temporary / LOCK):
            yield temporary
            (temporary / LOCK).unlink(missing_ok=True)
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_copy(out: Path, users: int) -> None:
    """Refuse to generate a copy of somebody's files where something is, or of fewer than `FEWEST_COPIED` users.

    Raises
    ------
    ValueError
        Which says so.
    """
    if out.exists():
        raise ValueError(f"{out}: exists already; choose another folder or remove this one")
    if users < FEWEST_COPIED:
        raise ValueError(f"users is {users}: it must be at least {FEWEST_COPIED}")
