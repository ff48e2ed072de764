"""Cost of the import: rows per second of ``import-kuaisar`` as the data grow, up to KuaiSAR's full size.

Generated copies with more and more users (the last has KuaiSAR's own number), zipped as KuaiSAR is, each imported by
``pyro-hmvcrl import-kuaisar`` in a process of its own on all cores.  Writes ``simulations/kuaisar_cost/results.csv``:
users, rows of both logs and of the items' table, seconds (wall clock, whole process), rows per second, and peak memory
of the process in MiB.

Run  ``python simulations/kuaisar_cost.py`` (about six minutes and 8 GB of disk), or with numbers of users as arguments.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from pyro_hmvcrl.kuaisar_copy import write_kuaisar_copy

OUT = Path(__file__).parent / "kuaisar_cost"


def measure(users: int, folder: Path) -> dict[str, float]:
    """Generate, import in a child process, and read its clock and its peak memory."""
    write_kuaisar_copy(folder / "KuaiSAR", users)
    archive = shutil.make_archive(str(folder / "KuaiSAR"), "zip", folder, "KuaiSAR")
    shutil.rmtree(folder / "KuaiSAR")
    command = [sys.executable, "-m", "pyro_hmvcrl", "import-kuaisar", archive, str(folder / "data")]
    start = time.monotonic()
    _, status, usage = os.wait4(os.posix_spawn(sys.executable, command, os.environ), 0)
    seconds = time.monotonic() - start
    if status:
        raise RuntimeError(f"the import of {users} users failed with status {status}")
    files = json.loads((folder / "data" / "import.json").read_text())["files"]
    names = {"deliveries": "rec_inter.csv", "search_results": "src_inter.csv", "items": "item_features.csv"}
    rows = {name: files[file]["read"] for name, file in names.items()}
    cost = {"seconds": round(seconds, 1), "rows_per_second": round(sum(rows.values()) / seconds)}
    return {"users": users} | rows | cost | {"peak_mib": round(usage.ru_maxrss / 1024)}


def main() -> None:
    """Measure, and keep the table."""
    rows = []
    for users in [int(word) for word in sys.argv[1:]] or [1_000, 5_000, 25_877]:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(users, Path(folder)))
    table = pd.DataFrame(rows)
    OUT.mkdir(exist_ok=True)
    table.to_csv(OUT / "results.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
