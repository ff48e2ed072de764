"""Claims about files that appear whole: nobody can foresee where they are made, and writers do not mix."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from pyro_hmvcrl.data.files import LOCK, whole_folder
from pyro_hmvcrl.inference.checkpoints import save_tensors
from pyro_hmvcrl.inference.writing import alone_in, printable, whole_file


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_link_that_was_laid_in_the_way_is_not_followed(tmp_path):
    """Under the name that the temporary file once had, and under one that is cleared away."""
    victim, elsewhere = tmp_path / "victim", tmp_path / "elsewhere"
    victim.write_text("mine")
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (tmp_path / ".page.partial").symlink_to(victim)
    (tmp_path / ".page.x.partial").symlink_to(elsewhere)
    with whole_file(tmp_path / "page") as file:
        file.write_text("page")
    assert victim.read_text() == "mine"
    assert names(elsewhere) == ["kept"]
    assert (tmp_path / "page").read_text() == "page"
    assert not (tmp_path / "page").is_symlink()
    (tmp_path / ".set.x.partial").symlink_to(elsewhere)
    with whole_folder(tmp_path / "set"):
        assert names(elsewhere) == ["kept"]
    assert names(elsewhere) == ["kept"]


def test_two_writers_of_one_file_do_not_mix(tmp_path):
    with whole_file(tmp_path / "out") as first, whole_file(tmp_path / "out") as second:
        first.write_text("first, and longer")
        second.write_text("second")
    assert (tmp_path / "out").read_text() == "first, and longer"  # who ends last
    assert names(tmp_path) == ["out"]


def test_what_a_killed_writer_left_is_cleared_away_and_what_is_being_written_is_not(tmp_path):
    left, alive = tmp_path / ".out.a.partial", tmp_path / ".out.b.partial"
    for folder in (left, alive):
        folder.mkdir()
    with FileLock(alive / LOCK), whole_file(tmp_path / "out") as file:
        file.touch()
        assert not left.exists()
        assert alive.exists()


def test_every_file_has_the_mode_of_a_new_one(tmp_path):
    """Tensors too, whose library makes them for their owner alone."""
    (tmp_path / "plain").touch()
    save_tensors(tmp_path / "tensors", {}, {})
    assert (tmp_path / "tensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["x" * 255, "y" * 200])
def test_a_name_may_be_as_long_as_the_system_allows(tmp_path, name):
    with whole_file(tmp_path / name) as file:
        file.touch()
    assert names(tmp_path) == [name]


def test_an_error_names_the_file(tmp_path):
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left on device: '.*/out'"), whole_file(tmp_path / "out"):
        full(...)
    there = whole_file(tmp_path / "nowhere" / "out")
    with pytest.raises(OSError, match=r"No such file or directory: '.*/nowhere/out'"), there:
        pass
    assert names(tmp_path) == []


def test_one_at_a_time_writes_into_a_run(tmp_path):
    seen, inside = [], threading.Event()

    def other() -> None:
        inside.wait()
        with alone_in(tmp_path):
            seen.append("second")

    thread = threading.Thread(target=other)
    thread.start()
    with alone_in(tmp_path):
        inside.set()
        thread.join(timeout=0.3)
        with alone_in(tmp_path):  # again, as a report is drawn inside an answer
            seen.append("first")
        assert seen == ["first"]
    thread.join()
    assert seen == ["first", "second"]
    assert names(tmp_path) == []


def test_control_characters_are_written_out():
    assert printable("a\x1b[2J\u202e\ud800\n空") == "a\\x1b[2J\\u202e\\ud800\n空"
