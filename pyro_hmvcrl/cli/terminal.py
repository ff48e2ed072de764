"""How commands speak: lines that any terminal can print, and errors of one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from pyro_hmvcrl.data.files import one_line
from pyro_hmvcrl.inference.writing import printable


@contextmanager
def plain_errors() -> Iterator[None]:
    """What the library logs is said; bad input and bad choices end in one line, not in a traceback."""
    said = _Said(logging.WARNING)
    logging.getLogger("pyro_hmvcrl").addHandler(said)
    try:
        yield
    except BrokenPipeError:  # who reads has seen enough
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        sys.exit(1)
    except (ValueError, FloatingPointError, OverflowError, MemoryError, OSError) as error:
        for problem in getattr(error, "problems", [error]):  # of one's own logs, all at once
            say(f"error: {one_line(problem)}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        say(
            "\nstopped; what was there before is as it was, and the same command goes on or starts anew",
            err=True,
        )
        sys.exit(130)
    finally:
        logging.getLogger("pyro_hmvcrl").removeHandler(said)


class _Said(logging.Handler):
    """Records as lines of the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), err=True)


def say(text: str, err: bool = False) -> None:
    """Print text, in which names may be anything."""
    typer.echo(printable(text), err=err)


def print_notes(notes: list[str]) -> None:
    """What is to be known before the figures are used, where a pipe does not swallow it."""
    for note in notes:
        say(f"Note: {note}.", err=True)


def once(pairs: list[tuple[str, str, str]], option: str) -> list[tuple[str, str, str]]:
    """Names with values, none of which may be given twice: it would not be known which is meant."""
    names = [name for name, _, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{option} {twice}: given {names.count(twice)} times; give it once")
    return pairs
