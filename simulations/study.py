"""What studies share: their command line, how replications are run and kept; and what benchmarks share."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed, parallel_config
from matplotlib.axes import Axes
from torch import Tensor, nn
from tqdm.auto import tqdm

import pyro_hmvcrl
from pyro_hmvcrl.data.dataset import Dataset
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.inference.recording import Recording
from pyro_hmvcrl.inference.writing import whole_file
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import Simulation

HERE = Path(__file__).parent

#: Of a fit or a peer, which a study counts before it goes on.
FAILURES = (FloatingPointError, torch.linalg.LinAlgError, np.linalg.LinAlgError)
Tables = dict[str, list[dict[str, Any]]]  #: what a replication finds: rows, by the name of their table
Replication = Callable[[Path], Tables]  #: it may use a folder of this path, and leaves none behind


@dataclass(frozen=True)
class Options:
    """How a study is run; `out` is where results go, `parts` its finished replications, `brought` a user's files."""

    quick: bool
    seeds: float
    only: frozenset[str]
    jobs: int
    scheduler: str
    out: Path
    parts: Path
    brought: Mapping[str, Path | None]


def options(doc: str, results: Path, brought: Mapping[str, str] | None = None) -> Options:
    """The study's command line; a quick run leaves the committed `results` alone.

    `brought` are names of what a user may bring, a file or a folder, and what to say of each.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small replication a design, for a check")
    parser.add_argument("--seeds", type=int, default=float("inf"), help="run no more data seeds than these")
    parser.add_argument("--only", nargs="+", default=[], help="run no replications but those of these names")
    parser.add_argument("--jobs", type=int, default=2, help="processes on this machine")
    parser.add_argument(
        "--scheduler", default="", help="address of a Dask scheduler, whose workers replicate instead"
    )
    parser.add_argument("--out", type=Path, default=None)
    for name, said in (brought or {}).items():
        parser.add_argument(f"--{name}", type=Path, dest=name, help=said)
    given = parser.parse_args()
    out = (given.out or (Path(tempfile.mkdtemp()) if given.quick else results)).resolve()
    parts = out / "replications"
    parts.mkdir(parents=True, exist_ok=True)
    seeds = 1 if given.quick else given.seeds
    theirs = {name: getattr(given, name) for name in brought or {}}
    only = frozenset(given.only)
    return Options(given.quick, seeds, only, given.jobs, given.scheduler, out, parts, theirs)


def run(replications: Mapping[str, Replication], o: Options) -> dict[str, pd.DataFrame]:
    """Run those of the replications that have not run yet; write, and return, the tables of all that have.

    A replication's name ends in its data seed, and stands in every row of its, beside the commit of the code that
    made it.  It is kept as soon as it is finished, so that a killed study goes on where it was, and as the tables hold
    all that it found, so does a clone of the project from the tables that came with it.  A replication whose fit fails
    is a row of the table ``failures``.  Dask's workers must see the folder of parts, and have ``simulations`` on their
    PYTHONPATH.
    """
    _restore(o)
    part_of = {name: o.parts / f"{name}.json" for name in replications}
    wanted = [n for n in replications if int(n.split("-")[-1]) < o.seeds and (not o.only or n in o.only)]
    missing = [n for n in wanted if not part_of[n].exists()]
    commit = code_commit()
    jobs = (delayed(_replicate)(replications[name], part_of[name], commit) for name in missing)
    with _workers(o):
        done = Parallel(batch_size=1, return_as="generator_unordered")(jobs)
        for _ in tqdm(done, "replications", len(missing), smoothing=0):
            pass
    tables: Tables = defaultdict(list)
    for name, part in part_of.items():
        for table_name, rows in (json.loads(part.read_text()) if part.exists() else {}).items():
            tables[table_name] += [{"replication": name} | row for row in rows]
    if "results" not in tables:
        raise SystemExit(f"{o.parts}: no replication has results yet")
    frames = {name: pd.DataFrame(rows) for name, rows in tables.items() if rows}
    for name, frame in frames.items():
        with whole_file(o.out / f"{name}.csv") as file:
            frame.to_csv(file, index=False)
    return {"failures": pd.DataFrame(columns=["replication", "commit", "failure"], dtype=str)} | frames


def run_worlds(
    doc: str,
    results: Path,
    number: int,
    replicate: Callable[[int, bool, Path], Tables],
    summarise: Callable[[dict[str, pd.DataFrame], Path], None],
) -> None:
    """A study of so many worlds, one a data seed: run what is missing, write tables and figures, print the summary."""
    o = options(doc, results)
    summarise(run({f"world-{seed}": partial(replicate, seed, o.quick) for seed in range(number)}, o), o.out)
    print((o.out / "summary.md").read_text())


@contextmanager
def _workers(o: Options) -> Iterator[None]:
    """What joblib's processes are: some of this machine, or those of a Dask cluster."""
    if not o.scheduler:
        with parallel_config(n_jobs=o.jobs):
            yield
        return
    from distributed import Client

    with Client(o.scheduler), parallel_config("dask"):
        yield


def _replicate(replication: Replication, part: Path, commit: str) -> None:
    """Keep what a replication finds, whole or not at all; of one that was killed, what other code has left goes."""
    scratch = part.with_suffix("")
    made_by = part.with_suffix(".commit")
    if not (made_by.exists() and made_by.read_text() == commit):
        shutil.rmtree(scratch, ignore_errors=True)
        made_by.write_text(commit)
    try:
        found = replication(scratch)
    except FAILURES as error:
        found = {"failures": [{"failure": str(error)}]}
        shutil.rmtree(scratch, ignore_errors=True)
    made_by.unlink()
    _keep(part, {name: [{"commit": commit} | row for row in rows] for name, rows in found.items()})


def _keep(part: Path, found: Tables) -> None:
    with whole_file(part) as file:
        file.write_text(json.dumps(found))


def _restore(o: Options) -> None:
    """Take the parts that are not there from the tables."""
    found: dict[str, Tables] = defaultdict(lambda: defaultdict(list))
    for path in o.out.glob("*.csv"):
        frame = pd.read_csv(path, dtype={"replication": str, "commit": str})
        if "commit" in frame:  # none where git could not say
            frame["commit"] = frame["commit"].fillna("")
        if "replication" not in frame:
            raise SystemExit(f"{path} does not name its replications: delete it, to run the study anew")
        for row in frame.to_dict("records"):
            found[row.pop("replication")][path.stem].append(row)
    for name, tables in found.items():
        part = o.parts / f"{name}.json"
        if not part.exists():
            _keep(part, tables)
        elif _commits(json.loads(part.read_text())) != _commits(tables):
            raise SystemExit(f"{part} is of other code than the study's tables: delete the one that is older")


def _commits(tables: Tables) -> set[str]:
    return {str(row["commit"]) for rows in tables.values() for row in rows}


def code_commit() -> str:
    """The last commit that changed the package or a study, with a + if they are changed since; "" if git cannot say."""
    code = [pyro_hmvcrl.__path__[0], str(HERE / "*.py")]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", HERE, *words, "--", *code], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("log", "-1", "--format=%h") + "+" * bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return ""


def simulated_dataset(sim: Simulation, scratch: Path, seed: int, periods: int | None = 1) -> Dataset:
    """The simulation's logs as a dataset, by way of a folder that is gone afterwards."""
    shutil.rmtree(scratch, ignore_errors=True)
    write_simulation(sim, scratch, seed, truth=False)
    dataset = read_dataset(scratch, periods=periods)
    shutil.rmtree(scratch)
    return dataset


def measured(words: Sequence[object], processes: int = 0) -> dict[str, float]:
    """Run a command of the package in a process of its own: seconds (wall clock) and peak memory in MiB.

    ``peak_mib`` is all of its memory, ``kept_mib`` what the system cannot take back (on Linux, looked at every 50 ms).
    With `processes`, ``torchrun`` runs so many together, of one thread each, and only the seconds are measured.
    """
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(together if processes else []), "-m", "pyro_hmvcrl", *map(str, words)]
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if processes else {})
    start, seen, ended = time.monotonic(), {"VmHWM": 0, "RssAnon": 0}, (0, 0)
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(sys.executable, command, environment, file_actions=silent)
    while not ended[0]:
        time.sleep(0.05)
        with suppress(OSError):
            # ru_maxrss would hold this process's own peak, too
            memory = Path(f"/proc/{pid}/status").read_text()
            for name, kib in re.findall(r"(VmHWM|RssAnon):\s*(\d+) kB", memory):
                seen[name] = max(seen[name], int(kib))
        ended = os.waitpid(pid, os.WNOHANG)
    seconds = {"seconds": round(time.monotonic() - start, 1)}
    if ended[1]:
        raise RuntimeError(f"{' '.join(command)} failed with status {ended[1]}")
    peak, kept = (round(kib / 1024) for kib in seen.values())
    return seconds if processes else seconds | {"peak_mib": peak, "kept_mib": kept}


def step_timer(guide: nn.Module, loss: Callable[[], Tensor], record: bool = True) -> Callable[[int], float]:
    """Of a gradient step by this loss: seconds, as a mean over so many.  A GPU's is recorded first, as in a fit."""
    parameters = [p for p in guide.parameters() if p.requires_grad]
    on_gpu = parameters[0].is_cuda
    # at a rate that leaves them as they are
    optimiser = torch.optim.Adam(parameters, lr=1e-6, fused=True, capturable=on_gpu)

    def step(rows: Tensor) -> Tensor:
        optimiser.zero_grad()
        found = loss()
        found.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        return found.detach()

    take_step = Recording(step) if on_gpu and record else step
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    no_rows = torch.zeros(0, dtype=torch.long)

    def seconds(steps: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(steps):
            take_step(no_rows)
        wait()
        return (time.perf_counter() - start) / steps

    return seconds


def benchmark(measure: Callable[[int, Path], dict[str, float]], sizes: list[int], out: Path) -> None:
    """Measure at sizes (or at those that the command line gives), and keep the table."""
    rows = []
    for size in [int(word) for word in sys.argv[1:]] or sizes:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(size, Path(folder)))
    table = pd.DataFrame(rows)
    out.mkdir(exist_ok=True)
    table.to_csv(out / "results.csv", index=False)
    print(table.to_string(index=False))


def account(tables: Mapping[str, pd.DataFrame]) -> str:
    """How many replications there are, by which code they were made, and which fits failed."""
    made = pd.concat([frame[["replication", "commit"]] for frame in tables.values()]).drop_duplicates()
    by = ", ".join(f"{commit} ({n})" for commit, n in made["commit"].value_counts(sort=False).items())
    failures = tables["failures"]
    failed = [f" {r}: {why}." for r, why in zip(failures["replication"], failures["failure"], strict=True)]
    return f"Replications: {len(made)}, made by {by}. Fits that failed: {len(failed)}.{''.join(failed)}"


def with_error(values: pd.Series, digits: int = 3) -> str:
    """Mean with its Monte Carlo standard error."""
    values = values.astype(float)  # a share of yes is a mean too
    return f"{values.mean():.{digits}f} ± {values.sem():.{digits}f}"


def table(frame: pd.DataFrame) -> str:
    """A frame in Markdown, with three digits after the point."""
    cells = frame.map(lambda v: f"{v:.3f}" if isinstance(v, float) else str(v))
    lines = ["| " + " | ".join(c.replace("_", " ") for c in frame) + " |", "|---" * len(frame.columns) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in cells.to_numpy()])


def legend(ax: Axes, **look: Any) -> None:
    """A legend that names each thing once; the frame is open at the top and on the right."""
    ax.spines[["top", "right"]].set_visible(False)
    handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    ax.legend(handles.values(), handles.keys(), fontsize=7, **look)
