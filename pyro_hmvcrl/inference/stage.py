"""One stage of SVI: a loop of stochastic gradient steps that checkpoints itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_hmvcrl.guide.guide import Guide
from pyro_hmvcrl.inference.ambient import few_threads
from pyro_hmvcrl.inference.bound import UserELBO
from pyro_hmvcrl.inference.checkpoints import load_checkpoint, save_checkpoint
from pyro_hmvcrl.inference.processes import averaged, draw_otherwise, every_nth, first, place
from pyro_hmvcrl.inference.recording import Recording
from pyro_hmvcrl.story.logs import Cohort

CHECKPOINT_EVERY = 200  #: steps
LOOK_EVERY = 20  #: steps between looks at the bound on a GPU, each of which waits for it


@dataclass(frozen=True)
class Stage:
    """A loop of stochastic gradient steps: Adam, a short warm-up and a cosine to zero, clipped gradients."""

    name: str  #: also the checkpoint's
    steps: int
    batch_size: int
    learning_rate: float
    elbo: UserELBO
    warm_up: int = 20
    clip: float = 5.0

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * min(1.0, (step + 1) / self.warm_up) * max(cosine, 0.02)


def optimise(
    stage: Stage,
    guide: Guide,
    parameters: list[nn.Parameter],
    users: Cohort,
    seed: int,
    checkpoints: str | Path | None = None,
    before_step: Callable[[int], bool] = lambda step: False,
    progress: bool = False,
) -> list[float]:
    """Run one stage in place; returns the bound (nats a user) at every step.

    With a folder for `checkpoints`, a stage that was killed goes on from its last one, and a finished stage is
    only loaded.  `before_step` says whether a step is another computation from there on.

    Raises
    ------
    FloatingPointError
        If a bound or a gradient is not finite.
    """
    on_gpu = users.rows.is_cuda
    rate = torch.zeros((), device="cuda") if on_gpu else 0.0
    # fused: one call for the many small tensors
    optimiser = torch.optim.Adam(parameters, rate, betas=(0.9, 0.99), fused=True, capturable=on_gpu)
    path = Path(checkpoints) / f"{stage.name}.safetensors" if checkpoints else None
    torch.manual_seed(seed)
    bounds = load_checkpoint(path, guide, optimiser) if path and path.exists() else []
    draw_otherwise()
    elbo = averaged(stage.elbo(guide.model, guide))

    def gradient_step(rows: Tensor) -> Tensor:
        """Bound, and size of its gradient."""
        loss = elbo(users.batch(rows.to(users.rows.device, non_blocking=True)))
        optimiser.zero_grad()
        loss.backward()
        size = nn.utils.clip_grad_norm_(parameters, stage.clip)
        optimiser.step()
        return torch.stack([-loss.detach(), size])

    recorded = on_gpu and place()[1] == 1  # several processes average their gradients by other means
    take_step = Recording(gradient_step) if recorded else gradient_step
    steps, seen = range(len(bounds), stage.steps), []
    bar = tqdm(steps, stage.name, initial=len(bounds), total=stage.steps, disable=not progress, leave=False)
    some = users.batch(torch.arange(1, device=users.rows.device))
    size = stage.batch_size * stage.elbo.num_particles * some.search[0].numel()
    # Validation is slow, and on a GPU it waits; what is not finite is seen below.
    with pyro.validation_enabled(False), few_threads(size):
        for step in bar:
            if before_step(step) and recorded:
                take_step = Recording(gradient_step)
            _set_rate(optimiser, stage.rate(step))
            seen.append(take_step(_batch(users.n_users, stage.batch_size, seed, step)))
            keep = (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == stage.steps
            if keep or not on_gpu or len(seen) == LOOK_EVERY:
                bounds += _finite(stage, len(bounds), torch.stack(seen))
                seen.clear()
            if keep and path and first():
                save_checkpoint(path, guide, optimiser, bounds)
    return bounds


def _set_rate(optimiser: torch.optim.Adam, rate: float) -> None:
    group = optimiser.param_groups[0]
    if isinstance(group["lr"], Tensor):  # which a recorded step reads
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _batch(n_users: int, size: int, seed: int, step: int) -> Tensor:
    """Positions of a step's users, of which each process has its own; the same for the same seed and step."""
    rank, n_processes = place()
    own = every_nth(n_users)
    rng = np.random.default_rng([seed, step, rank])
    chosen = rng.choice(len(own), min(-(-size // n_processes), len(own)), replace=False)
    return torch.from_numpy(own.start + own.step * chosen)


def _finite(stage: Stage, before: int, seen: Tensor) -> list[float]:
    """The bounds of steps of which bound and gradient were `seen` ``(steps, 2)``, if all of it is finite."""
    for step, values in enumerate(seen.tolist(), before):
        for what, value in zip(("bound", "gradient"), values, strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{stage.name}: the {what} is {value} at step {step}; look for extreme covariates in users"
                )
    bounds: list[float] = seen[:, 0].tolist()
    return bounds
