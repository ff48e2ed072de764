"""``python -m pyro_hmvcrl``: the same commands as ``pyro-hmvcrl``."""

from __future__ import annotations

from pyro_hmvcrl.cli import app

if __name__ == "__main__":
    app(prog_name="pyro-hmvcrl")
