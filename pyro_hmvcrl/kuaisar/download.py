"""KuaiSAR's archives from Zenodo: an interrupted download goes on where it stopped, and md5 has the last word.

What came so far waits as ``NAME.partial``; the archive appears under its own name whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import requests
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
        If the server cannot be reached or refuses, the folder cannot be written, or the md5 is wrong.
    """
    path = Path(folder) / archive.name
    partial = path.with_name(f"{archive.name}.partial")
    try:
        if path.exists():
            if (md5 := _md5(path)) != archive.md5:
                raise DownloadError(
                    f"{path}: exists and is not the archive (md5 {md5}, not {archive.md5}); "
                    "remove this file and try again"
                )
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not partial.exists() or _md5(partial) != archive.md5:
            _receive(archive, partial, progress)
            if (md5 := _md5(partial)) != archive.md5:
                # Of no use, whether the server has another file now or the first part was damaged here.
                partial.unlink()
                raise _failure(archive, f"what came has md5 {md5}, not {archive.md5}, and was removed")
        os.replace(partial, path)
        return path
    except requests.RequestException as error:  # an OSError too
        problem = f"no connection, or it broke ({type(error).__name__}); {partial} keeps what came so far"
        raise _failure(archive, problem) from error
    except OSError as error:
        where = error.filename or partial  # a full disk names no file
        raise DownloadError(f"{where}: {error.strerror}; mend that or choose another folder") from error


def _receive(archive: Archive, partial: Path, progress: bool) -> None:
    """Append to `partial` what it lacks; a connection that breaks is followed by another."""
    fruitless = 0
    with requests.Session() as session:
        while True:
            before = _size(partial)
            try:
                return _connect(session, archive, partial, progress)
            except requests.RequestException:
                fruitless = 0 if _size(partial) > before else fruitless + 1
                if fruitless == TRIES:
                    raise
                time.sleep(PAUSE * fruitless)


def _connect(session: requests.Session, archive: Archive, partial: Path, progress: bool) -> None:
    """One connection, to its end."""
    start = _size(partial)
    headers = HEADERS | ({"Range": f"bytes={start}-"} if start else {})
    with session.get(archive.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 416:  # nothing follows what is there: leave it to the md5
            return
        if response.status_code not in (200, 206):
            raise _failure(archive, f"the server says {response.status_code} {response.reason}")
        if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            start = 0  # a server may ignore the range and send everything
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            partial.open("ab" if start else "wb") as file,
            tqdm(
                desc=archive.name,
                initial=start,
                total=total,
                unit="B",
                unit_scale=True,
                disable=not progress,
                leave=False,
            ) as bar,
        ):
            for block in response.iter_content(BLOCK):
                file.write(block)
                bar.update(len(block))


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
