"""``pyro-hmvcrl``, also ``python -m pyro_hmvcrl``: the commands, from before they are imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Run a command; whatever is printed is printed on any terminal, and an interrupt at any time is one line."""
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        from pyro_hmvcrl.cli import app

        app(prog_name="pyro-hmvcrl")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
