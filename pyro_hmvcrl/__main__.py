"""``pyro-hmvcrl``, also ``python -m pyro_hmvcrl``: the commands, from before they are imported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run a command; whatever is printed is printed on any terminal, and an interrupt at any time is one line."""
    try:
        signal.signal(signal.SIGINT, _stop)
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # it was closed: what is said is lost, and the work is done
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
            getattr(sys, name).reconfigure(errors="backslashreplace")
        from pyro_hmvcrl.cli import app

        app(prog_name="pyro-hmvcrl")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _stop(number: int, frame: FrameType | None) -> None:
    """Interrupt the work, but end at once while something is imported: there an interrupt may be lost or changed."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"stopped\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
