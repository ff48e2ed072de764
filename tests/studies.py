"""Studies as their command lines run them, but in this process: to start one of their own takes seconds."""

from __future__ import annotations

import importlib
import io
from contextlib import redirect_stdout

import matplotlib.pyplot as plt
import pytest


def run_quick(name: str, out: object, *words: object) -> str:
    """Run a study's quick form, and return what it prints."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setattr(
            "sys.argv", [f"{name}.py", "--quick", "--jobs", "1", "--out", str(out), *map(str, words)]
        )
        importlib.import_module(name).main()
    plt.close("all")
    return said.getvalue()
