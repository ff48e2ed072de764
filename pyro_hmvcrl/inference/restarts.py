"""Restarts: the model is fitted from several random starts, with the expansion guide, at once where there are cores.

A restart takes one thread, and owes nothing to the others.  So on a machine with cores they run side by side, each in a
process of its own, to the same numbers as one after the other.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import RLock

import numpy as np
import torch
from loky import ProcessPoolExecutor, wait
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from pyro_hmvcrl.guide.experts import factor_posterior
from pyro_hmvcrl.guide.guide import STEPS_FROM_AFAR, USERS_AT_ONCE, ExpansionGuide
from pyro_hmvcrl.inference.ambient import MUCH, few_threads
from pyro_hmvcrl.inference.bound import UserELBO, user_bounds
from pyro_hmvcrl.inference.processes import place
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.stage import Stage, optimise
from pyro_hmvcrl.story.logs import Cohort
from pyro_hmvcrl.story.model import HMVCRL

PARTICLES = 8  #: of the bound; with 4 and many factors, axes rotate as training goes on
JUDGED_USERS = 16_384  #: at most, of those that a restart was trained on
#: Numbers that a restart goes through, from which on it is worth a process of its own, which takes seconds to start.
WORTH = 1 << 26
MOST_COPIED = 100_000  #: users; of more, a copy for every process takes more memory than a fit
LOOK_EVERY = 0.2  #: seconds between looks at how far the processes are


@dataclass(frozen=True)
class Restart:
    """One random start.  Its bounds are in nats a user; these and its factors are as its own training left them."""

    bound: float  #: at users that it was trained on, at most `JUDGED_USERS` of them
    held_out_bound: float
    factors: NDArray[np.float64]  #: (N_held_out, K)
    guide: ExpansionGuide
    bounds: list[float]  #: of every step, at the step's own users


#: A restart's guide, from its new model and the number of users.
Build = Callable[[HMVCRL, int], ExpansionGuide]
#: Told of every step before it is taken.
Told = Callable[[int], None]


def run_restarts(
    train: Cohort,
    held: Cohort,
    settings: Settings,
    checkpoints: str | Path | None = None,
    progress: bool = False,
    build: Build = ExpansionGuide,
) -> list[Restart]:
    """All restarts, in their order.

    Raises
    ------
    FloatingPointError
        If a bound is not finite.
    MemoryError
        If the system ends a process.
    """
    one = partial(
        run_restart, train=train, held=held, settings=settings, checkpoints=checkpoints, build=build
    )
    processes = _processes(train, settings)
    pool = _pool(processes) if processes > 1 else None
    if pool is None:
        return [one(r, progress=progress) for r in range(settings.restarts)]
    return _at_once(one, settings, pool, progress)


def _processes(train: Cohort, settings: Settings) -> int:
    """How many restarts run side by side: no more than torch has threads, where a restart takes one of them."""
    _, together = place()
    size = _size(train, settings)
    alone = together > 1 or train.rows.is_cuda or train.n_users > MOST_COPIED
    alone |= multiprocessing.current_process().daemon  # as of a multiprocessing.Pool, which can start none
    if alone or size >= MUCH or settings.steps * size < WORTH:
        return 1
    return min(settings.restarts, torch.get_num_threads())


def _size(train: Cohort, settings: Settings) -> int:
    """Numbers that a step goes through at a time."""
    some = train.batch(torch.arange(1, device=train.rows.device))
    return min(settings.batch_size, train.n_users) * PARTICLES * some.search[0].numel()


def _pool(processes: int) -> ProcessPoolExecutor | None:
    """So many processes, if this system has the shared memory that they wait for one another by."""
    try:
        return ProcessPoolExecutor(processes)
    except OSError:
        return None


def _at_once(
    one: Callable[..., Restart], settings: Settings, pool: ProcessPoolExecutor, progress: bool
) -> list[Restart]:
    """The restarts side by side, with one bar for all; an interrupt ends them at once."""
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(
            desc=f"{settings.restarts} restarts at once",
            total=settings.restarts * settings.steps,
            disable=not progress,
            leave=False,
        ) as bar,
    ):
        path = Path(folder) / "steps"
        steps = np.memmap(path, np.int64, "w+", shape=(settings.restarts,))
        try:
            running = [
                pool.submit(_in_a_process, one, r, path, os.getpid()) for r in range(settings.restarts)
            ]
            while wait(running, LOOK_EVERY, "FIRST_EXCEPTION").not_done:
                bar.update(int(steps.sum()) - bar.n)
                for done in filter(Future.done, running):
                    done.result()  # a restart that has failed ends the others
            found = [done.result() for done in running]
        except BrokenProcessPool:
            raise MemoryError(
                "the system has ended the process of a restart, as it does where memory is short; with "
                "OMP_NUM_THREADS=1 restarts run one after the other"
            ) from None
        finally:
            pool.shutdown(kill_workers=True)
    return found


def _in_a_process(one: Callable[..., Restart], r: int, steps: Path, parent: int) -> Restart:
    """Restart `r` in a process that says how far it is, and that ends when its `parent` does."""
    seen = np.memmap(steps, np.int64, "r+")

    def told(step: int) -> None:
        seen[r] = step
        if os.getppid() != parent:
            os._exit(1)

    tqdm.set_lock(RLock())  # its own is one of processes, which a process that is ended leaves behind
    torch.set_num_threads(1)
    return one(r, told=told)


def run_restart(
    r: int,
    train: Cohort,
    held: Cohort,
    settings: Settings,
    checkpoints: str | Path | None = None,
    progress: bool = False,
    build: Build = ExpansionGuide,
    told: Told = lambda step: None,
) -> Restart:
    """Fit the model from random start `r`."""
    torch.manual_seed(seed_of(settings, r))
    guide = build(new_model(train, settings), train.n_users).to(train.rows.device)
    if train.n_users > settings.batch_size:
        guide.scoring_steps = STEPS_FROM_AFAR
    _start_intercepts(guide.model, train)

    def orient_half_way(step: int) -> bool:
        told(step)
        half_way = step == settings.steps // 2
        if half_way:
            guide.model.graph.orient(guide.coefficients.loc["edges"])
        return half_way

    stage = Stage(
        f"restart {r + 1} of {settings.restarts}",
        settings.steps,
        settings.batch_size,
        0.03,
        UserELBO(PARTICLES, True),
    )
    some = train.logs.only(train.rows[:: -(-train.n_users // JUDGED_USERS)])
    with few_threads(_size(train, settings)):  # for its bounds, too: the same numbers in a process of its own
        bounds = optimise(
            stage,
            guide,
            list(guide.parameters()),
            train,
            seed_of(settings, r),
            checkpoints,
            orient_half_way,
            progress,
        )
        own, others = (float(user_bounds(guide.expansion(u.n_users), u).mean()) for u in (some, held))
        if not math.isfinite(own + others):
            raise FloatingPointError(
                f"{stage.name}: a bound is not finite; look for extreme covariates in users"
            )
        of_held = held.batch(torch.arange(held.n_users, device=held.rows.device))
        factors, _ = factor_posterior(*guide.expansion(held.n_users).posterior(of_held))
    return Restart(own, others, factors, guide, bounds)


def new_model(train: Cohort, settings: Settings) -> HMVCRL:
    """A model for these users' logs, at a random start."""
    some = train.batch(torch.arange(1, device=train.rows.device))
    engaged, shown = (
        sum(float(getattr(users, name).sum()) for users in train.batches(USERS_AT_ONCE))
        for name in ("engagement", "exposure")
    )
    return HMVCRL(
        settings.platform_factors,
        settings.preference_factors,
        some.exposure_covariates.shape[1],
        some.preference_covariates.shape[1],
        some.search.shape[-1],
        past=some.n_periods > 1,
        suggested=some.suggested is not None,
        usual_engagement=engaged / max(shown, 1.0),
        curved_exposure=_curved(train.exposure_covariates),
        curved_preference=_curved(train.preference_covariates),
    )


def _curved(covariates: Tensor) -> Tensor:
    """1 for the covariates ``(N, D)`` that have more than two values, 0 for the others."""
    more = [len(values.unique()) > 2 for values in covariates.T]
    return torch.tensor(more, dtype=torch.float32, device=covariates.device)


@torch.no_grad()
def _start_intercepts(model: HMVCRL, train: Cohort) -> None:
    """Start each decoder at the surface's overall shares."""
    search, exposure, _ = events_by_category(train)
    for decoder, events in ((model.f_search, search), (model.f_exposure, exposure)):
        share = (events + 1).log()
        decoder.intercept.copy_(share - share.mean())


def events_by_category(users: Cohort) -> tuple[Tensor, Tensor, Tensor]:
    """Searches, exposures and suggested searches of all these users, each ``(C,)``."""
    found = [
        torch.stack(
            [
                u.search.sum(0),
                u.exposure.sum(0),
                (0 * u.search if u.suggested is None else u.suggested).sum(0),
            ]
        )
        for u in (b.by_category for b in users.batches(USERS_AT_ONCE))
    ]
    search, exposure, suggested = torch.stack(found).sum(0)
    return search, exposure, suggested


def seed_of(settings: Settings, stream: int) -> int:
    """Of a part of the fit that is random by itself."""
    return 1_000 * settings.seed + stream
