"""Every notebook: one section order, outputs that are fresh and clean, and code that runs (on reduced settings)."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
SECTIONS = [
    "Setup",
    "Question and assumptions",
    "Causal program",
    "Causal query",
    "Inference",
    "Results",
    "What could go wrong",
    "Exercises",
]
UNWANTED = r"Warning|Traceback|(?<![\w.:/])/(?:home|root|tmp|usr|var|work|opt|Users)/"

AFRESH = f"""%reset -f
import os
from functools import partial
import pyro_hmvcrl.run.run as run
from pyro_hmvcrl.evidence.predictive import predictive_checks
run.predictive_checks = partial(predictive_checks, replications=20)  # as in other tests
os.chdir({str(NOTEBOOKS[0].parent)!r})
del partial, predictive_checks, run, os"""

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=[p.stem for p in NOTEBOOKS])


def test_its_text_is_the_one_that_is_reviewed(path):
    as_text = jupytext.read(path.with_suffix(".py"))
    cells = [(c.cell_type, c.source) for c in nbformat.read(path, 4).cells]
    assert cells == [(c.cell_type, c.source) for c in as_text.cells]


def test_its_sections_are_those_of_all(path):
    text = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS
    assert len(re.findall(r"^# .*$", text, re.M)) == 1


def test_its_outputs_are_of_one_run_and_clean(path):
    code = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    outputs = [o for c in code for o in c.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    said = [o.get("text", "") + str(o.get("data", {}).get("text/plain", "")) for o in outputs]
    assert not re.findall(UNWANTED, "\n".join(said))


@pytest.fixture(scope="module")
def client():
    """One kernel for all, without names from one to the next: to load the libraries takes as long as to run one."""
    client = NotebookClient(nbformat.v4.new_notebook(), timeout=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HMVCRL_QUICK", "1")
        client.execute(cleanup_kc=False)
    yield client
    client._cleanup_kernel()


def test_it_runs(path, client):
    client.nb = notebook = nbformat.read(path, 4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(AFRESH))
    client.execute(cleanup_kc=False)
    code = [c for c in notebook.cells[1:] if c.cell_type == "code"]
    assert not [o for c in code for o in c.outputs if o.get("name") == "stderr"]
