"""Cost: what a fit with default settings takes, and how that grows with the number of users.

Worlds of the ``hard`` recovery design (3 + 3 factors, 30 categories) with more and more users, each fitted by
``pyro-hmvcrl fit`` in a process of its own on all cores.  Writes ``simulations/cost/results.csv``: users, events,
seconds (wall clock, whole process) and peak memory of the process in MiB.

Run  ``python simulations/cost.py`` (about eleven minutes on two cores), or with the numbers of users as arguments.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from recovery import HARD

from pyro_hmvcrl.simulate import Design, simulate, write_simulation

OUT = Path(__file__).parent / "cost"


def measure(users: int, folder: Path) -> dict[str, float]:
    """Simulate, fit in a child process, and read its clock and its peak memory."""
    sim = simulate(Design.with_knobs(**(HARD | {"users": users})), 0)
    write_simulation(sim, folder / "data", seed=0)
    command = [sys.executable, "-m", "pyro_hmvcrl", "fit", str(folder / "data"), "--out", str(folder / "run")]
    command += ["--platform-factors", "3", "--preference-factors", "3"]
    start = time.monotonic()
    _, status, usage = os.wait4(os.posix_spawn(sys.executable, command, os.environ), 0)
    if status:
        raise RuntimeError(f"the fit of {users} users failed with status {status}")
    events = int(sim.search.sum() + sim.exposure.sum())
    return {
        "users": users,
        "events": events,
        "seconds": round(time.monotonic() - start, 1),
        "peak_mib": round(usage.ru_maxrss / 1024),
    }


def main() -> None:
    """Measure, and keep the table."""
    rows = []
    for users in [int(word) for word in sys.argv[1:]] or [1_500, 3_000, 6_000]:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(users, Path(folder)))
    table = pd.DataFrame(rows)
    OUT.mkdir(exist_ok=True)
    table.to_csv(OUT / "results.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
