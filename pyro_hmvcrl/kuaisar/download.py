"""KuaiSAR's archives from Zenodo: an interrupted download goes on where it stopped, and md5 has the last word.

What came so far waits as ``NAME.partial``, until there is more or better; the archive appears under its own name whole
or not at all.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from pyro_hmvcrl import __version__

RECORD = "https://zenodo.org/records/8181109"
HEADERS = {
    "User-Agent": f"pyro_hmvcrl/{__version__}",  # Zenodo answers 403 to the one of requests
    "Accept-Encoding": "identity",  # so that a position in the file is one in what is sent
}
TIMEOUT = (10, 60)  #: seconds to wait for a connection, and for the next bytes
TRIES = 3  #: connections in a row that bring nothing
PAUSE = 1.0  #: seconds to wait after the first of them; more after the next
BLOCK = 2**16  #: bytes to take at a time; a connection that breaks loses fewer than that
SLOWEST = (
    1_000  #: bytes a second; a connection that brings fewer, for as long as one waits for bytes, is given up
)
LONGEST = 24 * 3_600.0  #: seconds of a whole download


class DownloadError(ValueError):
    """An archive that cannot be had: the message names URL or file, and the mend."""


@dataclass(frozen=True)
class Archive:
    """A file of a Zenodo record, as the record's page lists it."""

    name: str
    megabytes: float
    md5: str
    record: str = RECORD
    licence: str = "CC BY-NC-SA 4.0"

    @property
    def url(self) -> str:
        return f"{self.record}/files/{self.name}?download=1"

    @property
    def most_bytes(self) -> int:
        """More than it has, in whatever way its megabytes are counted."""
        return int(1.01 * self.megabytes * 2**20)

    @property
    def terms(self) -> str:
        """What a user should read before the download."""
        return (
            f"{self.name}: {self.megabytes} MB from {self.record}, licence {self.licence} "
            "(name its authors, no commercial use, share alike)"
        )


SMALL = Archive("KuaiSAR.zip", 488.1, "daea8cbf605db6bd5841740f0e4a12d9")
FULL = Archive("KuaiSAR_v2.zip", 845.1, "ed630f47fb013c5b31bb020c483ef262")


def download(archive: Archive, folder: str | Path, progress: bool = False) -> Path:
    """Download an archive, or what is missing of it; one that is there already is only checked.

    Parameters
    ----------
    archive
        `SMALL` or `FULL`.
    folder
        Made if need be.
    progress
        Show a progress bar.

    Returns
    -------
    path
        Of the archive in `folder`.

    Raises
    ------
    DownloadError
        If the server cannot be reached, refuses, or sends something else, the folder cannot be written, another
        download is at work in it, or the md5 is wrong.
    """
    path = Path(folder) / archive.name
    partial = path.with_name(f"{archive.name}.partial")
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(partial):
                if not path.exists():  # another process may have brought it meanwhile
                    _bring(archive, partial, progress)
                    os.replace(partial, path)
                    return path
        if (md5 := _md5(path)) != archive.md5:
            raise DownloadError(
                f"{path}: exists and is not the archive (md5 {md5}, not {archive.md5}); "
                "remove this file and try again"
            )
        return path
    except requests.RequestException as error:  # an OSError too
        kept = f"; {partial} keeps what came so far" if _size(partial) else ""
        problem = f"no connection, or it broke ({type(error).__name__}){kept}"
        raise _failure(archive, problem) from error
    except OSError as error:
        where = error.filename or partial  # a full disk names no file
        raise DownloadError(f"{where}: {error.strerror}; mend that or choose another folder") from error


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Let no other download write there; what is empty in the end is removed."""
    lock = FileLock(partial)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DownloadError(f"{partial}: another download is at work there; wait for it to end") from None
    try:
        yield
    finally:
        if partial.exists() and not _size(partial):
            partial.unlink()
        lock.release()


def _bring(archive: Archive, partial: Path, progress: bool) -> None:
    """Make `partial` the whole archive."""
    if not _size(partial) or _md5(partial) != archive.md5:
        _receive(archive, partial, progress)
        if (md5 := _md5(partial)) != archive.md5:
            # Of no use, whether the server has another file now or the first part was damaged here.
            partial.unlink()
            raise _failure(archive, f"what came has md5 {md5}, not {archive.md5}, and was removed")


def _receive(archive: Archive, partial: Path, progress: bool) -> None:
    """Append to `partial` what it lacks; a connection that breaks is followed by another."""
    fruitless, deadline = 0, time.monotonic() + LONGEST
    with requests.Session() as session:
        while True:
            before = _size(partial)
            try:
                return _connect(session, archive, partial, deadline, progress)
            except requests.RequestException:
                fruitless = 0 if _size(partial) > before else fruitless + 1
                if fruitless == TRIES or time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE * fruitless)


def _connect(
    session: requests.Session, archive: Archive, partial: Path, deadline: float, progress: bool
) -> None:
    """One connection, to its end."""
    start = _size(partial)
    headers = HEADERS | ({"Range": f"bytes={start}-"} if start else {})
    with session.get(archive.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # nothing follows what is there: leave it to the md5
            return
        if response.status_code not in (200, 206):
            raise _failure(archive, f"the server says {response.status_code} {response.reason}")
        goes_on = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if response.status_code == 206 and not goes_on:
            raise _failure(archive, "the server sends another part than was asked for")
        if goes_on or not start:
            _take(response, archive, partial, start, deadline, progress)
        else:  # a server may ignore the range and send everything
            _take_anew(response, archive, partial, deadline, progress)


def _take_anew(
    response: requests.Response, archive: Archive, partial: Path, deadline: float, progress: bool
) -> None:
    """Take the whole into another file, which becomes `partial` if it is better."""
    anew = partial.with_name(f"{partial.name}.new")
    anew.unlink(missing_ok=True)
    try:
        try:
            _take(response, archive, anew, 0, deadline, progress)
        except requests.RequestException:
            if _size(anew) > _size(partial):
                os.replace(anew, partial)
            raise
        if _md5(anew) != archive.md5:
            problem = (
                f"the server sent {_size(anew):,} bytes of something else; {partial} keeps what came before"
            )
            raise _failure(archive, problem)
        os.replace(anew, partial)
    finally:
        anew.unlink(missing_ok=True)


def _take(
    response: requests.Response, archive: Archive, file: Path, start: int, deadline: float, progress: bool
) -> None:
    """Write what comes into a file from `start` on, block by block."""
    length = response.headers.get("Content-Length", "")
    total = start + int(length) if length.isdigit() else None
    bar = tqdm(
        desc=archive.name,
        initial=start,
        total=total,
        unit="B",
        unit_scale=True,
        disable=not progress,
        leave=False,
    )
    at = total if total and total > archive.most_bytes else start
    with file.open("ab") as handle, bar:
        for block in _blocks(response, deadline):
            at += len(block)
            if at > archive.most_bytes:
                handle.truncate(start)
                problem = (
                    f"the server sends more than the archive's {archive.megabytes} MB, which is not kept"
                )
                raise _failure(archive, problem)
            handle.write(block)
            bar.update(len(block))


def _blocks(response: requests.Response, deadline: float) -> Iterator[bytes]:
    """What comes, in blocks; a connection that all but stands still breaks."""
    block, since, came = bytearray(), time.monotonic(), 0
    try:
        while part := response.raw.read1(BLOCK - len(block)):
            block += part
            came += len(part)
            if len(block) == BLOCK:
                yield bytes(block)
                block.clear()
            now = time.monotonic()
            if now > deadline:
                raise requests.Timeout("it takes too long")
            if now - since > TIMEOUT[1]:
                if came < SLOWEST * (now - since):
                    raise requests.Timeout("it is too slow")
                since, came = now, 0
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(str(error)) from error
    yield bytes(block)


def _failure(archive: Archive, problem: str) -> DownloadError:
    return DownloadError(
        f"{archive.url}: {problem}; try again, or download {archive.name} by hand from {archive.record} "
        "and give it to import-kuaisar"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
