"""Files that appear whole or not at all, under names that nobody can foresee, and one writer at a time in a run."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from pyro_hmvcrl.data.files import LOCK, clear_away

OF_ONE_WRITER = ".lock"  #: in a run folder, while something is written into it


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write, which becomes `path` if all goes well, and nothing otherwise.

    It stands in a hidden folder of a random name beside `path`, where nobody else writes.  What a killed process left
    of one is cleared away by the next.

    Raises
    ------
    OSError
        If it cannot be written; the error names `path`.
    """
    start = f".{path.name[:80]}."
    for left in path.parent.glob(f"{glob.escape(start)}*.partial"):
        clear_away(left)
    try:
        with _own_folder(path.parent, start) as folder:
            file = folder / path.name
            file.touch()
            mode = file.stat().st_mode  # some writers make the file anew, for its owner alone
            yield file
            file.chmod(mode)
            os.replace(file, path)
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


@contextmanager
def _own_folder(parent: Path, start: str) -> Iterator[Path]:
    """A new hidden folder, locked as long as its process lives, and removed in the end."""
    while True:
        folder = Path(tempfile.mkdtemp(".partial", start, parent))
        try:
            lock = FileLock(folder / LOCK)
            lock.acquire()
            break
        except FileNotFoundError:  # another took it for one that was left, before it was locked
            continue
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Write into a run folder while no other process does; a process may ask for it again inside."""
    lock = FileLock(folder / OF_ONE_WRITER, is_singleton=True)
    with lock:
        try:
            yield
        finally:
            if lock.lock_counter == 1:
                (folder / OF_ONE_WRITER).unlink(missing_ok=True)


def printable(text: str) -> str:
    """Text for terminals and pictures: what is no letter or sign in it, but for line breaks, is written out."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
