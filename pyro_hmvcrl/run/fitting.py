"""From a dataset folder to a run folder, with a fit between them that can be killed and goes on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from pyro_hmvcrl import __version__
from pyro_hmvcrl.data.dataset import CHANNELS, Channel, Dataset
from pyro_hmvcrl.data.files import LOCK, clear_away, read_json, whole_folder
from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.inference.laplace import DRAWS, ParameterPosterior, laplace_posterior
from pyro_hmvcrl.inference.outcomes import MOST_COEFFICIENTS, outcomes_posterior
from pyro_hmvcrl.inference.processes import first, wait
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import Fit, Screening, fit, tensors_of
from pyro_hmvcrl.inference.writing import whole_file
from pyro_hmvcrl.run.files import RunError, check_new_folder
from pyro_hmvcrl.run.judge import Truth
from pyro_hmvcrl.run.run import Run
from pyro_hmvcrl.run.selecting import select_factors
from pyro_hmvcrl.run.write import run_config, write_run
from pyro_hmvcrl.story.logs import Cohort

log = logging.getLogger(__name__)
SELECTION = "selection.json"  #: what is known of numbers of factors, beside the checkpoints
FEWEST_HELD_OUT = 8  #: users, that a fit can be judged


@own_state()
def fit_folder(
    data: str | Path,
    out: str | Path,
    settings: Settings,
    progress: bool = False,
    free: Sequence[Channel] = (),
) -> Run:
    """Fit a dataset folder and write the run folder; a fit of the same that was killed goes on.

    Of several processes (:mod:`pyro_hmvcrl.inference.processes`) the first writes.  The run that is returned is on
    the CPU.

    Parameters
    ----------
    free
        Channels whose number of factors is selected first (:func:`~pyro_hmvcrl.run.selecting.select_factors`), from
        that of the settings on.

    Raises
    ------
    RunError
        If `out` exists, or an unfinished fit of something else stands beside it, or one that is at work.
    DatasetError
        If the dataset is bad; nothing is written then.
    """
    _make_way(Path(out))  # before a dataset is read in vain
    dataset = read_dataset(data, periods=settings.periods)
    truth = Truth.beside(data, dataset)
    return fit_dataset(dataset, out, settings, truth, progress, label=str(data), free=free)


@own_state()
def fit_dataset(
    dataset: Dataset,
    out: str | Path,
    settings: Settings,
    truth: Truth | None = None,
    progress: bool = False,
    label: str = "logs",
    free: Sequence[Channel] = (),
) -> Run:
    """As :func:`fit_folder`, of a dataset in memory, whose periods serve; errors call it by its `label`.

    Raises
    ------
    RunError
        As there, or if the settings ask for other periods than the dataset has.
    """
    out = Path(out)
    _make_way(out)
    checkpoints = checkpoints_of(out)
    if settings.periods not in (None, dataset.periods.number):
        raise RunError(
            f"{label}: cut into {dataset.periods}, and {settings.periods} were asked for; give the number where the "
            "logs are read"
        )
    if first():  # before the work, which may be in vain; warnings are seen where nobody has set up logging
        for remark in dataset.remarks:
            log.log(logging.WARNING if progress else logging.INFO, "Note: %s.", remark)
    if dataset.n_users >= 20 and round(settings.held_out * dataset.n_users) < FEWEST_HELD_OUT:
        needed = round(FEWEST_HELD_OUT / settings.held_out)
        raise RunError(f"{label}: {dataset.n_users} users are too few to judge a fit; give {needed} or more")
    mark = mark_of(dataset, settings, free)
    with _alone(checkpoints, mark) if first() else nullcontext():
        wait()  # until the first has looked at what was left
        start = time.monotonic()
        selection = None
        if free:
            selection = select_factors(dataset, settings, free, checkpoints / SELECTION, progress)
            settings = selection.of(settings)
            if first():
                log.log(logging.WARNING if progress else logging.INFO, "%s.", ". ".join(selection.sentences))
        _check_outcomes(dataset, settings)
        found = fit(dataset, settings, checkpoints, progress and first())
        posterior = parameter_posterior(found, dataset, settings.seed)
        outcomes = further_outcomes(found, posterior, dataset, settings.seed)
        seconds = time.monotonic() - start
        config = run_config(dataset, settings, found, seconds) | {
            "dataset": mark["dataset"],
            "selected": list(free),
        }
        of_fit = found.guide, posterior, found.standardisation, dataset.categories, config
        run = Run(*of_fit, outcomes=outcomes)
        wait()  # for those that still read checkpoints
        if first():
            with whole_folder(out) as folder:
                write_run(run, found, dataset, truth, folder, selection)
            shutil.rmtree(checkpoints)
    run.guide.to("cpu")
    return run


def is_run_of(
    out: str | Path, data: str | Path | Dataset, settings: Settings, free: Sequence[Channel] = ()
) -> bool:
    """Whether a run folder is that of this very fit, of a dataset folder or a dataset in memory.

    Of `free` channels the number of factors must have been selected, whatever it is.

    Raises
    ------
    DatasetError
        If the dataset is bad.
    """
    try:
        config = read_json(Path(out) / "config.json")
    except (OSError, ValueError):
        return False
    dataset = data if isinstance(data, Dataset) else read_dataset(data, periods=settings.periods)
    mark = mark_of(dataset, settings, free)
    if not isinstance(config, dict) or (free and config.get("selected") != list(free)):
        return False
    there = {key: config.get(key) for key in mark}
    if free and isinstance(there["settings"], dict):
        there["settings"] = there["settings"] | _of_free(free)
    return there == mark


@own_state()
def parameter_posterior(
    found: Fit | Screening, dataset: Dataset, seed: int, draws: int = DRAWS
) -> ParameterPosterior:
    """Posterior over the model's parameters, given the users that it was trained on."""
    return laplace_posterior(found.guide, _trained_on(found, dataset), seed, draws)


@own_state()
def further_outcomes(
    found: Fit, posterior: ParameterPosterior, dataset: Dataset, seed: int
) -> ParameterPosterior:
    """Posterior over the coefficients of the dataset's further outcomes, given the users of the fit."""
    if not dataset.outcomes:
        return ParameterPosterior.nothing()
    said = {name: of[np.flatnonzero(~found.held_out)] for name, of in dataset.outcomes.items()}
    return outcomes_posterior(found.guide, posterior, _trained_on(found, dataset), said, seed)


def _check_outcomes(dataset: Dataset, settings: Settings) -> None:
    """Say before the work that further outcomes have too many coefficients."""
    n = len(dataset.categories) * (settings.preference_factors + 1)
    if dataset.outcomes and n > MOST_COEFFICIENTS:
        raise RunError(
            f"{dataset.name}: {n:,} coefficients of each further outcome, of which {MOST_COEFFICIENTS:,} can be held: "
            f"merge rare ones of the {len(dataset.categories):,} categories, or leave out {', '.join(dataset.outcomes)}"
        )


def _trained_on(found: Fit | Screening, dataset: Dataset) -> Cohort:
    logs = tensors_of(dataset, found.standardisation).to(found.guide.model.zero.device)
    return logs.only(torch.as_tensor(np.flatnonzero(~found.held_out)))


def _make_way(out: Path) -> None:
    """Say before the work that a folder is there already, or cannot be made."""
    if os.path.isdir(out):  # of a fit that was killed when its run was there already
        clear_away(checkpoints_of(out))
    check_new_folder(out)


def checkpoints_of(out: Path) -> Path:
    """The hidden folder of an unfinished fit."""
    return out.with_name(f".{out.name}.unfinished")


def _of_free(free: Sequence[Channel]) -> dict[str, None]:
    """Settings that are not known before the selection."""
    return dict.fromkeys(f"{channel}_factors" for channel in free)


def mark_of(dataset: Dataset, settings: Settings, free: Sequence[Channel] = ()) -> dict[str, Any]:
    """What is being fitted; that of another fit is never the same."""
    digest = hashlib.sha256()
    names = [dataset.exposure_covariates, dataset.preference_covariates, dataset.categories]
    digest.update(json.dumps([names, dataset.periods.to_dict(), list(dataset.counts)]).encode())
    digest.update("\n".join(map(str, dataset.user_id)).encode("utf-8", "surrogatepass"))
    if dataset.outcomes:
        digest.update(json.dumps(list(dataset.outcomes)).encode())
    counts = *dataset.counts.values(), *dataset.outcomes.values()
    kept = [part for of in counts for part in (of.indptr, of.indices, of.data)]
    for part in (*kept, *map(dataset.covariates, CHANNELS)):
        digest.update(np.ascontiguousarray(part).data)
    return {
        "version": __version__,
        "settings": asdict(settings) | _of_free(free),
        "dataset": digest.hexdigest(),
    }


@contextmanager
def _alone(checkpoints: Path, mark: dict[str, Any]) -> Iterator[None]:
    """Make the folder this fit's own, and keep others out; the system lets go of the lock of one that was killed.

    A fit that ends before its first checkpoint leaves no folder.
    """
    if checkpoints.is_symlink():
        raise RunError(
            f"{checkpoints}: a link, and what a fit keeps would be written where it leads; remove it"
        )
    checkpoints.mkdir(parents=True, exist_ok=True)
    lock = FileLock(checkpoints / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"{checkpoints}: another fit is at work there; wait for it, or choose another folder"
        ) from None
    try:
        _claim(checkpoints, mark)
        try:
            yield
        finally:
            if not _left(checkpoints):
                shutil.rmtree(checkpoints, ignore_errors=True)
    finally:
        lock.release()


def _left(checkpoints: Path) -> list[Path]:
    """What an unfinished fit goes on from."""
    return [*checkpoints.glob("*.safetensors"), *checkpoints.glob(SELECTION)]


def _claim(checkpoints: Path, mark: dict[str, Any]) -> None:
    """Mark the folder with what is being fitted.  What has no mark may be of anything, and is removed."""
    marker, text = checkpoints / "fit.json", json.dumps(mark, sort_keys=True)
    if not marker.exists():
        for left in _left(checkpoints):
            left.unlink()
    elif marker.read_bytes() != text.encode():
        raise RunError(
            f"{checkpoints}: an unfinished fit of another dataset, version or settings; remove it to start anew"
        )
    with whole_file(marker) as file:
        file.write_text(text)
