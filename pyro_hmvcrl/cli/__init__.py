"""The commands: ``pyro-hmvcrl``, also ``python -m pyro_hmvcrl``.

What takes seconds to import is imported where it is used: help is there at once, and an interrupt is one line.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pyro_hmvcrl import __version__
from pyro_hmvcrl.cli.kuaisar import app as of_kuaisar
from pyro_hmvcrl.cli.logs import app as of_logs
from pyro_hmvcrl.cli.questions import app as of_questions
from pyro_hmvcrl.cli.runs import app as of_runs
from pyro_hmvcrl.cli.terminal import say

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
for part in (of_runs, of_logs, of_questions, of_kuaisar):
    app.add_typer(part)


def _say_version(asked: bool) -> None:
    if asked:
        say(f"pyro_hmvcrl {__version__}")
        raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version, and end."),
    ] = False,
) -> None:
    """Separate what the platform exposed from what the user wanted, from search and recommendation logs."""
