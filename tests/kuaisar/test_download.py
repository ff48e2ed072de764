"""Claims about the download of KuaiSAR, against a server on this machine that misbehaves on demand."""

from __future__ import annotations

import contextlib
import hashlib
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pyro_hmvcrl import __version__
from pyro_hmvcrl.kuaisar.download import BLOCK, FULL, SMALL, Archive, DownloadError, download

CONTENT = random.Random(0).randbytes(4 * BLOCK + 1000)
HALF = 2 * BLOCK


@dataclass
class Zenodo:
    """What the server does, and what it was asked; positions are bytes of the file."""

    address: str = ""
    content: bytes = CONTENT
    status: int = 200
    ranges: bool = True  # else a range is ignored and everything is sent, as HTTP allows
    drop_every: int | None = None  # bytes after which a connection breaks
    stall: threading.Event | None = None  # awaited in the middle of the file
    endless: bool = False  # after the file comes more and more
    drip: float | None = None  # seconds between bytes
    headers: list[Message] = field(default_factory=list)  # of each request
    sent: list[int] = field(default_factory=list)  # bytes in answer to each

    @property
    def asked(self) -> list[str | None]:
        return [headers["Range"] for headers in self.headers]

    @property
    def archive(self) -> Archive:
        return replace(SMALL, md5=hashlib.md5(CONTENT).hexdigest(), record=self.address)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers["Range"]
        self.headers.append(request.headers)
        self.sent.append(0)
        number = len(self.sent) - 1
        assert request.path == "/files/KuaiSAR.zip?download=1"
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        ranged = bool(asked) and self.ranges
        if self.status != 200:
            request.send_response(self.status)
        elif start >= len(self.content):
            request.send_response(416)
        else:
            request.send_response(206 if ranged else 200)
        if ranged:
            last = len(self.content) - 1
            request.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        body = self.content[start:] if self.status == 200 else b"no"
        if not self.endless:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        while self.endless:
            request.wfile.write(CONTENT)
            self.sent[number] += len(CONTENT)
        for byte in body if self.drip else b"":
            request.wfile.write(bytes([byte]))
            time.sleep(self.drip or 0)
        middle = max(HALF - start, 0)
        for piece in (body[:middle], body[middle:]) if self.stall else (body[: self.drop_every],):
            self.sent[number] += len(piece)  # before the client can have it
            request.wfile.write(piece)
            if self.stall and piece:
                self.stall.wait(20)


@pytest.fixture
def zenodo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zenodo]:
    behaviour = Zenodo()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # the client was killed
                behaviour.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pyro_hmvcrl.kuaisar.download.PAUSE", 0.0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False  # so that none outlives its test
        behaviour.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield behaviour
        server.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def failure(zenodo: Zenodo, folder: Path) -> str:
    """The one line that a failed download says; it names the file's address and the way by hand."""
    with pytest.raises(DownloadError) as caught:
        download(zenodo.archive, folder)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(f"{zenodo.archive.url}: ")
    assert said.endswith(f"download KuaiSAR.zip by hand from {zenodo.address} and give it to import-kuaisar")
    return said


def test_the_archives_are_those_of_the_record() -> None:
    assert SMALL.url == "https://zenodo.org/records/8181109/files/KuaiSAR.zip?download=1"
    assert FULL.url == "https://zenodo.org/records/8181109/files/KuaiSAR_v2.zip?download=1"
    assert (SMALL.md5, FULL.md5) == ("daea8cbf605db6bd5841740f0e4a12d9", "ed630f47fb013c5b31bb020c483ef262")
    for archive, size in ((SMALL, "488.1 MB"), (FULL, "845.1 MB")):
        assert all(part in archive.terms for part in (archive.name, size, archive.record, "CC BY-NC-SA 4.0"))


def test_an_archive_comes_whole_without_a_word(
    zenodo: Zenodo, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = download(zenodo.archive, tmp_path / "deep" / "data")
    assert path == tmp_path / "deep" / "data" / "KuaiSAR.zip"
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["KuaiSAR.zip"]
    assert capfd.readouterr() == ("", "")
    (headers,) = zenodo.headers
    assert headers["User-Agent"] == f"pyro_hmvcrl/{__version__}"  # Zenodo answers 403 to the one of requests
    assert headers["Accept-Encoding"] == "identity"


def test_progress_counts_from_what_was_there(
    zenodo: Zenodo, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "KuaiSAR.zip.partial").write_bytes(CONTENT[:HALF])
    download(zenodo.archive, tmp_path, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.strip().startswith("KuaiSAR.zip:  50%")


def test_an_archive_that_is_there_is_not_asked_for(zenodo: Zenodo, tmp_path: Path) -> None:
    (tmp_path / "KuaiSAR.zip").write_bytes(CONTENT)
    assert download(zenodo.archive, tmp_path).read_bytes() == CONTENT
    assert zenodo.asked == []


def test_another_file_of_that_name_is_left_alone(zenodo: Zenodo, tmp_path: Path) -> None:
    (tmp_path / "KuaiSAR.zip").write_bytes(CONTENT[:-1])
    with pytest.raises(DownloadError, match=r"KuaiSAR\.zip: exists and is not the .* remove this file"):
        download(zenodo.archive, tmp_path)
    assert (tmp_path / "KuaiSAR.zip").read_bytes() == CONTENT[:-1]
    assert zenodo.asked == []


def test_a_killed_download_goes_on_in_another_process(zenodo: Zenodo, tmp_path: Path) -> None:
    zenodo.stall = threading.Event()
    code = f"from pyro_hmvcrl.kuaisar.download import *; download({zenodo.archive!r}, {str(tmp_path)!r})"
    partial = tmp_path / "KuaiSAR.zip.partial"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        deadline = time.monotonic() + 20
        while not (partial.exists() and partial.stat().st_size == HALF) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert names(tmp_path) == ["KuaiSAR.zip.partial"]
    zenodo.stall.set()
    zenodo.stall = None

    assert download(zenodo.archive, tmp_path).read_bytes() == CONTENT
    assert zenodo.asked == [None, f"bytes={HALF}-"]
    assert zenodo.sent[1] == len(CONTENT) - HALF
    assert names(tmp_path) == ["KuaiSAR.zip"]


def test_killed_between_the_last_byte_and_the_name(zenodo: Zenodo, tmp_path: Path) -> None:
    (tmp_path / "KuaiSAR.zip.partial").write_bytes(CONTENT)
    assert download(zenodo.archive, tmp_path).read_bytes() == CONTENT
    assert zenodo.asked == []
    assert names(tmp_path) == ["KuaiSAR.zip"]


def test_a_connection_that_breaks_is_followed_by_another(zenodo: Zenodo, tmp_path: Path) -> None:
    zenodo.drop_every = BLOCK + 100
    assert download(zenodo.archive, tmp_path).read_bytes() == CONTENT
    assert zenodo.asked == [None, *(f"bytes={n * BLOCK}-" for n in range(1, 5))]
    assert sum(zenodo.sent) == len(CONTENT) + 4 * 100  # nothing twice but the last bit of each


def test_a_connection_that_falls_silent_is_given_up(
    zenodo: Zenodo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyro_hmvcrl.kuaisar.download.TIMEOUT", (1.0, 0.2))
    zenodo.stall = threading.Event()
    assert download(zenodo.archive, tmp_path).read_bytes() == CONTENT
    assert zenodo.asked == [None, f"bytes={HALF}-"]
    zenodo.stall.set()


def test_connections_that_bring_nothing_end_it_and_what_came_is_kept(zenodo: Zenodo, tmp_path: Path) -> None:
    (tmp_path / "KuaiSAR.zip.partial").write_bytes(CONTENT[:HALF])
    zenodo.drop_every = 0
    said = failure(zenodo, tmp_path)
    assert "no connection, or it broke" in said
    assert f"{tmp_path / 'KuaiSAR.zip.partial'} keeps what came" in said
    assert zenodo.asked == [f"bytes={HALF}-"] * 3
    assert (tmp_path / "KuaiSAR.zip.partial").read_bytes() == CONTENT[:HALF]
    assert names(tmp_path) == ["KuaiSAR.zip.partial"]


def test_a_server_that_ignores_the_range_sends_everything(zenodo: Zenodo, tmp_path: Path) -> None:
    (tmp_path / "KuaiSAR.zip.partial").write_bytes(CONTENT[:HALF])
    zenodo.ranges = False
    assert download(zenodo.archive, tmp_path).read_bytes() == CONTENT
    assert zenodo.sent == [len(CONTENT)]


OTHER = CONTENT[:-1] + b"?"


@pytest.mark.parametrize(
    ("there", "served"),
    [
        pytest.param(b"", OTHER, id="another file on the server"),
        pytest.param(CONTENT[:HALF], OTHER, id="another file on the server since then"),
        pytest.param(b"x" * HALF, CONTENT, id="a damaged part"),
        pytest.param(CONTENT + b"x", CONTENT, id="too long a part"),
    ],
)
def test_a_wrong_md5_leaves_nothing(there: bytes, served: bytes, zenodo: Zenodo, tmp_path: Path) -> None:
    (tmp_path / "KuaiSAR.zip.partial").write_bytes(there)
    zenodo.content = served
    said = failure(zenodo, tmp_path)
    assert f"not {zenodo.archive.md5}, and was removed; try again" in said
    assert names(tmp_path) == []

    zenodo.content = CONTENT
    assert download(zenodo.archive, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "says"), [(404, "404 Not Found"), (403, "403 Forbidden"), (503, "503")])
def test_a_refusal_is_said_at_once_and_not_taken_for_the_archive(
    status: int, says: str, zenodo: Zenodo, tmp_path: Path
) -> None:
    (tmp_path / "KuaiSAR.zip.partial").write_bytes(CONTENT[:HALF])
    zenodo.status = status
    assert f"the server says {says}" in failure(zenodo, tmp_path)
    assert len(zenodo.asked) == 1
    assert (tmp_path / "KuaiSAR.zip.partial").read_bytes() == CONTENT[:HALF]


def test_no_server(zenodo: Zenodo, tmp_path: Path) -> None:
    zenodo.address = "http://127.0.0.1:1"
    assert "no connection, or it broke (ConnectionError)" in failure(zenodo, tmp_path)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(zenodo: Zenodo, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DownloadError, match=r"/data: .*; mend that or choose another folder$"):
        download(zenodo.archive, tmp_path / "data")
    assert zenodo.asked == []


def test_a_full_disk_keeps_what_came(zenodo: Zenodo, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, limits[1]))
    try:
        with pytest.raises(DownloadError, match=r"KuaiSAR\.zip\.partial: File too large; mend that"):
            download(zenodo.archive, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["KuaiSAR.zip.partial"]
    assert download(zenodo.archive, tmp_path).read_bytes() == CONTENT
    assert zenodo.asked == [None, f"bytes={HALF}-"]


MOST = CONTENT[: 4 * BLOCK - 5]  #: all but a little


def test_a_page_in_its_place_does_not_cost_what_came(zenodo: Zenodo, tmp_path: Path) -> None:
    (tmp_path / "KuaiSAR.zip.partial").write_bytes(MOST)
    zenodo.content, zenodo.ranges = b"<html>come back later</html>", False
    said = failure(zenodo, tmp_path)
    assert f"28 bytes of something else; {tmp_path / 'KuaiSAR.zip.partial'} keeps what came before" in said
    assert (tmp_path / "KuaiSAR.zip.partial").read_bytes() == MOST
    zenodo.content, zenodo.ranges = CONTENT, True
    assert download(zenodo.archive, tmp_path).read_bytes() == CONTENT
    assert names(tmp_path) == ["KuaiSAR.zip"]


def test_a_server_that_ignores_the_range_and_breaks_does_not_cost_what_came(
    zenodo: Zenodo, tmp_path: Path
) -> None:
    (tmp_path / "KuaiSAR.zip.partial").write_bytes(MOST)
    zenodo.ranges, zenodo.drop_every = False, HALF
    assert "keeps what came so far" in failure(zenodo, tmp_path)
    assert (tmp_path / "KuaiSAR.zip.partial").read_bytes() == MOST
    assert names(tmp_path) == ["KuaiSAR.zip.partial"]


def test_what_comes_anew_takes_the_place_of_less(zenodo: Zenodo, tmp_path: Path) -> None:
    (tmp_path / "KuaiSAR.zip.partial").write_bytes(CONTENT[:BLOCK])
    zenodo.ranges, zenodo.drop_every = False, HALF
    failure(zenodo, tmp_path)
    assert (tmp_path / "KuaiSAR.zip.partial").read_bytes() == CONTENT[:HALF]


def test_another_part_than_asked_for_is_not_appended(
    zenodo: Zenodo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "KuaiSAR.zip.partial").write_bytes(CONTENT[:HALF])
    monkeypatch.setattr("pyro_hmvcrl.kuaisar.download._size", lambda path: HALF + 1)
    send = BaseHTTPRequestHandler.send_header

    def shifted(self: BaseHTTPRequestHandler, name: str, value: str) -> None:
        send(self, name, value.replace(str(HALF + 1), "7") if name == "Content-Range" else value)

    monkeypatch.setattr(BaseHTTPRequestHandler, "send_header", shifted)
    assert "another part than was asked for" in failure(zenodo, tmp_path)
    assert (tmp_path / "KuaiSAR.zip.partial").read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_body_without_end_has_one(zenodo: Zenodo, tmp_path: Path, ranges: bool) -> None:
    there = tmp_path / "KuaiSAR.zip.partial"
    there.write_bytes(CONTENT[:HALF])
    zenodo.endless, zenodo.ranges = True, ranges
    small = replace(zenodo.archive, megabytes=1.0)
    with pytest.raises(DownloadError, match=r"more than the archive's 1\.0 MB, which is not kept"):
        download(small, tmp_path)
    assert there.read_bytes() == CONTENT[:HALF]
    assert names(tmp_path) == ["KuaiSAR.zip.partial"]


def test_a_file_that_says_that_it_is_too_long_is_not_taken(zenodo: Zenodo, tmp_path: Path) -> None:
    small = replace(zenodo.archive, megabytes=0.1)
    with pytest.raises(DownloadError, match=r"more than the archive's 0\.1 MB"):
        download(small, tmp_path)
    assert names(tmp_path) == []


def test_a_byte_now_and_then_has_an_end(
    zenodo: Zenodo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyro_hmvcrl.kuaisar.download.TIMEOUT", (1.0, 0.3))
    zenodo.drip = 0.05
    begun = time.monotonic()
    assert "it broke (Timeout)" in failure(zenodo, tmp_path)
    assert time.monotonic() - begun < 10
    assert names(tmp_path) == []


def test_a_download_has_an_end_however_it_goes(
    zenodo: Zenodo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyro_hmvcrl.kuaisar.download.LONGEST", -1.0)
    zenodo.drop_every = BLOCK
    assert "it broke (Timeout)" in failure(zenodo, tmp_path)
    assert len(zenodo.asked) == 1


def test_a_second_download_into_the_folder_is_refused_and_the_first_is_whole(
    zenodo: Zenodo, tmp_path: Path
) -> None:
    zenodo.stall = threading.Event()
    done: list[Path] = []
    first = threading.Thread(target=lambda: done.append(download(zenodo.archive, tmp_path)))
    first.start()
    while not zenodo.asked:
        time.sleep(0.01)
    with pytest.raises(
        DownloadError, match=r"KuaiSAR\.zip\.partial: another download is at work there; wait"
    ):
        download(zenodo.archive, tmp_path)
    zenodo.stall.set()
    first.join()
    assert done[0].read_bytes() == CONTENT
    assert len(zenodo.asked) == 1
    assert names(tmp_path) == ["KuaiSAR.zip"]
