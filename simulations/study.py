"""What every study shares: its command line, its folders, and how a replication is kept."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from pyro_hmvcrl.dataset import Dataset, read_dataset, whole_file
from pyro_hmvcrl.simulate import Simulation, write_simulation


@dataclass(frozen=True)
class Options:
    """How a study is run; `out` is where its results go, `parts` its finished replications."""

    quick: bool
    jobs: int
    out: Path
    parts: Path


def options(doc: str, results: Path) -> Options:
    """The study's command line; a quick run leaves the committed `results` alone."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small replication a design, for a check")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    out = given.out or (Path(tempfile.mkdtemp()) if given.quick else results)
    parts = out / "replications"
    parts.mkdir(parents=True, exist_ok=True)
    return Options(given.quick, given.jobs, out, parts)


def simulated_dataset(sim: Simulation, scratch: Path, seed: int) -> Dataset:
    """The simulation's logs as a dataset, by way of a folder that is gone afterwards."""
    shutil.rmtree(scratch, ignore_errors=True)
    write_simulation(sim, scratch, seed, truth=False)
    dataset = read_dataset(scratch)
    shutil.rmtree(scratch)
    return dataset


def keep(part: Path, found: Any) -> None:
    """Keep what a replication found, whole or not at all."""
    with whole_file(part) as file:
        file.write_text(json.dumps(found))


def legend(ax: Axes, **look: Any) -> None:
    """A legend that names each thing once; the frame is open at the top and on the right."""
    ax.spines[["top", "right"]].set_visible(False)
    handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    ax.legend(handles.values(), handles.keys(), fontsize=7, **look)
