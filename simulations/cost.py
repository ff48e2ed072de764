"""Cost: what a fit with default settings takes, and how that grows with the number of users.

Worlds of the ``hard`` recovery design (3 + 3 factors, 30 categories) with more and more users, each fitted by
``pyro-hmvcrl fit`` in a process of its own on all cores.  Writes ``simulations/cost/results.csv``: users, events,
seconds (wall clock, whole process) and peak memory of the process in MiB.

Run  ``python simulations/cost.py`` (about eleven minutes on two cores), or with the numbers of users as arguments.
"""

from __future__ import annotations

from pathlib import Path

from recovery import HARD

from pyro_hmvcrl.simulate import Design, simulate, write_simulation

from study import benchmark, measured

OUT = Path(__file__).parent / "cost"


def measure(users: int, folder: Path) -> dict[str, float]:
    """Simulate, fit in a child process, and read its clock and its peak memory."""
    sim = simulate(Design.with_knobs(**(HARD | {"users": users})), 0)
    write_simulation(sim, folder / "data", seed=0)
    sizes = ["--platform-factors", 3, "--preference-factors", 3]
    cost = measured(["fit", folder / "data", "--out", folder / "run", *sizes])
    events = int(sim.search.sum() + sim.exposure.sum())
    return {"users": users, "events": events} | cost


if __name__ == "__main__":
    benchmark(measure, [1_500, 3_000, 6_000], OUT)
