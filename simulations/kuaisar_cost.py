"""Cost of the import: rows per second of ``import-kuaisar`` as the data grow, up to KuaiSAR's full size.

Generated copies with more and more users (the last has KuaiSAR's own number), zipped as KuaiSAR is, each imported by
``pyro-hmvcrl import-kuaisar`` in a process of its own on all cores.  Writes ``simulations/kuaisar_cost/results.csv``:
users, rows of both logs and of the items' table, seconds (wall clock, whole process), rows per second, and peak memory
of the process in MiB.

Run  ``python simulations/kuaisar_cost.py`` (about six minutes and 8 GB of disk), or with numbers of users as arguments.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pyro_hmvcrl.kuaisar_copy import write_kuaisar_copy

from study import benchmark, measured

OUT = Path(__file__).parent / "kuaisar_cost"


def measure(users: int, folder: Path) -> dict[str, float]:
    """Generate, import in a child process, and read its clock and its peak memory."""
    write_kuaisar_copy(folder / "KuaiSAR", users)
    archive = shutil.make_archive(str(folder / "KuaiSAR"), "zip", folder, "KuaiSAR")
    shutil.rmtree(folder / "KuaiSAR")
    cost = measured(["import-kuaisar", archive, folder / "data"])
    files = json.loads((folder / "data" / "import.json").read_text())["files"]
    names = {"deliveries": "rec_inter.csv", "search_results": "src_inter.csv", "items": "item_features.csv"}
    rows = {name: files[file]["read"] for name, file in names.items()}
    speed = {"rows_per_second": round(sum(rows.values()) / cost["seconds"])}
    return {"users": users} | rows | {"seconds": cost["seconds"]} | speed | {"peak_mib": cost["peak_mib"]}


if __name__ == "__main__":
    benchmark(measure, [1_000, 5_000, 25_877], OUT)
