"""From a dataset folder to a run folder, with a fit between them that can be killed and goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from pyro_hmvcrl import __version__
from pyro_hmvcrl.data.dataset import CHANNELS, Dataset
from pyro_hmvcrl.data.files import LOCK, clear_away, whole_file, whole_folder
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.inference.laplace import DRAWS, ParameterPosterior, laplace_posterior
from pyro_hmvcrl.inference.processes import first, wait
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import Fit, Screening, fit, tensors_of
from pyro_hmvcrl.run.files import RunError
from pyro_hmvcrl.run.judge import Truth
from pyro_hmvcrl.run.run import Run
from pyro_hmvcrl.run.write import run_config, write_run

FEWEST_HELD_OUT = 8  #: users, that a fit can be judged


def fit_folder(data: Path, out: Path, settings: Settings, progress: bool = False) -> Run:
    """Fit a dataset folder and write the run folder; a fit of the same that was killed goes on.

    Of several processes (:mod:`pyro_hmvcrl.inference.processes`) the first writes.  The run that is returned is on
    the CPU.

    Raises
    ------
    RunError
        If `out` exists, or an unfinished fit of something else stands beside it, or one that is at work.
    DatasetError
        If the dataset is bad; nothing is written then.
    """
    if out.exists():
        if (left := _beside(out)).exists():  # of a fit that was killed when its run was there already
            clear_away(left)
        raise RunError(f"{out}: exists already; choose another folder or remove this one")
    dataset = read_dataset(data, periods=settings.periods)
    if progress and first():  # before the work, which may be in vain
        for remark in dataset.remarks:
            print(f"Note: {remark}.", file=sys.stderr)
    if dataset.n_users >= 20 and round(settings.held_out * dataset.n_users) < FEWEST_HELD_OUT:
        needed = round(FEWEST_HELD_OUT / settings.held_out)
        raise RunError(f"{data}: {dataset.n_users} users are too few to judge a fit; give {needed} or more")
    truth = Truth.beside(data, dataset)
    checkpoints = _checkpoint_folder(out, dataset, settings)
    with _alone(checkpoints) if first() else nullcontext():
        start = time.monotonic()
        found = fit(dataset, settings, checkpoints, progress and first())
        posterior = parameter_posterior(found, dataset, settings.seed)
        seconds = time.monotonic() - start
        config = run_config(dataset, settings, found, seconds)
        run = Run(found.guide, posterior, found.standardisation, dataset.categories, config)
        wait()  # for those that still read checkpoints
        if first():
            with whole_folder(out) as folder:
                write_run(run, found, dataset, truth, folder)
            shutil.rmtree(checkpoints)
    run.guide.to("cpu")
    return run


def parameter_posterior(
    found: Fit | Screening, dataset: Dataset, seed: int, draws: int = DRAWS
) -> ParameterPosterior:
    """Posterior over the model's parameters, given the users that it was trained on."""
    logs = tensors_of(dataset, found.standardisation).to(found.guide.model.zero.device)
    users = logs.only(torch.as_tensor(np.flatnonzero(~found.held_out)))
    return laplace_posterior(found.guide, users, seed, draws)


def _checkpoint_folder(out: Path, dataset: Dataset, settings: Settings) -> Path:
    """The hidden folder of an unfinished fit, which the first process marks with what is being fitted."""
    folder = _beside(out)
    if first():
        _mark(folder, dataset, settings)
    wait()
    return folder


def _beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.unfinished")


def _mark(folder: Path, dataset: Dataset, settings: Settings) -> None:
    """Make the folder, unless it stands there for another fit."""
    digest = hashlib.sha256()
    kept = [part for of in dataset.counts.values() for part in (of.indptr, of.indices, of.data)]
    for part in (*kept, *map(dataset.covariates, CHANNELS)):
        digest.update(np.ascontiguousarray(part).data)
    mark = json.dumps(
        {"version": __version__, "settings": asdict(settings), "dataset": digest.hexdigest()}, sort_keys=True
    )
    marker = folder / "fit.json"
    if marker.exists() and marker.read_text() != mark:
        raise RunError(
            f"{folder}: an unfinished fit of another dataset, version or settings; remove it to start anew"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(marker) as file:
        file.write_text(mark)


@contextmanager
def _alone(checkpoints: Path) -> Iterator[None]:
    """Keep other fits out of the folder; the system lets go of the lock of one that was killed."""
    lock = FileLock(checkpoints / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{checkpoints}: another fit is at work there; wait for it, or choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()
