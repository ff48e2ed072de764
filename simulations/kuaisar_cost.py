"""Cost of the import: rows per second of ``import-kuaisar`` as the data grow, up to KuaiSAR's full size.

Generated copies with more and more users (the last has KuaiSAR's own number), zipped as KuaiSAR is, each imported by
``pyro-hmvcrl import-kuaisar`` in a process of its own on all cores.  Writes ``simulations/kuaisar_cost/results.csv``:
users, rows of both logs and of the items' table, seconds (wall clock, whole process), rows per second, and peak memory
of the process in MiB.  Then seconds of an epoch of each stage of the fit over the users that came out, at the default
batch sizes, on the device that a fit would choose.

Run  ``python simulations/kuaisar_cost.py`` (five minutes on two cores and 8 GB of disk), or with numbers of users as
arguments.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pyro_hmvcrl.data.dataset import Dataset, Standardisation
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.guide.guide import STEPS_FROM_AFAR, ExpansionGuide
from pyro_hmvcrl.guide.transformers import TransformerGuide
from pyro_hmvcrl.inference.bound import UserELBO
from pyro_hmvcrl.inference.restarts import PARTICLES, new_model
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.stage import Stage, optimise
from pyro_hmvcrl.inference.svi import choose_device, tensors_of
from pyro_hmvcrl.kuaisar.copy.folder import write_kuaisar_copy

from study import benchmark, measured

OUT = Path(__file__).parent / "kuaisar_cost"


def measure(users: int, folder: Path) -> dict[str, float]:
    """Generate, import in a child process, and read its clock and its peak memory."""
    write_kuaisar_copy(folder / "KuaiSAR", users)
    archive = shutil.make_archive(str(folder / "KuaiSAR"), "zip", folder, "KuaiSAR")
    shutil.rmtree(folder / "KuaiSAR")
    cost = measured(["import-kuaisar", archive, folder / "data"])
    epochs = epoch_seconds(read_dataset(folder / "data"))
    files = json.loads((folder / "data" / "import.json").read_text())["files"]
    names = {"deliveries": "rec_inter.csv", "search_results": "src_inter.csv", "items": "item_features.csv"}
    rows = {name: files[file]["read"] for name, file in names.items()}
    speed = {"rows_per_second": round(sum(rows.values()) / cost["seconds"])}
    return (
        {"users": users}
        | rows
        | {"seconds": cost["seconds"]}
        | speed
        | {"peak_mib": cost["peak_mib"]}
        | epochs
    )


def epoch_seconds(dataset: Dataset) -> dict[str, Any]:
    """Of the restarts and of the encoders, with 3 + 3 factors."""
    device, settings, found = choose_device("auto"), Settings(3, 3), {}
    logs = tensors_of(dataset, Standardisation.from_dataset(dataset)).to(device)
    users = logs.only(logs.index)
    model = new_model(users, settings).to(device)
    model.graph.orient(torch.randn(6, 6))
    restarts = Stage("restarts", settings.steps, settings.batch_size, 0.03, UserELBO(PARTICLES, True))
    encoders = Stage(
        "encoders", settings.encoder_steps, settings.encoder_batch_size, 0.01, UserELBO(2, False)
    )
    guides = ExpansionGuide(model, dataset.n_users, STEPS_FROM_AFAR), TransformerGuide(model)
    screening, amortising = (guide.to(device) for guide in guides)
    for stage, guide in ((restarts, screening), (encoders, amortising)):
        if guide is amortising:  # its encoders learn alone
            for part in (guide.model, guide.coefficients):
                part.requires_grad_(False)
        epoch = replace(stage, steps=-(-dataset.n_users // stage.batch_size))
        start = time.perf_counter()
        with amortising.knowing_longest(users):
            optimise(epoch, guide, [p for p in guide.parameters() if p.requires_grad], users, 0)
        found[f"{stage.name}_epoch"] = round(time.perf_counter() - start, 1)
    return found | {"device": device.type}


if __name__ == "__main__":
    benchmark(measure, [1_000, 5_000, 25_877], OUT)
