"""Inference: stochastic variational inference (SVI) in two stages, with restarts.

1. **Restarts** (:mod:`~pyro_hmvcrl.inference.restarts`).  Model and coefficient posterior are fitted several times
   from random starts, with the expansion guide, by the importance-weighted bound (Burda et al. 2016).  The graph is
   unoriented for the first half of the steps, and then oriented for good.  The restart with the best bound is kept:
   that on the users it was trained on, as all restarts are of one model, with the same freedom to overfit, and the few
   held-out users tell them apart less well.  Fisher scoring with all users at once brings it to the mode of the
   parameters' posterior, where there are users enough: the bound's slack would bias effects by about a percent, at any
   number of users.  Of many categories restarts see groups (:mod:`~pyro_hmvcrl.inference.groups`).
2. **Amortisation.**  The two Transformer encoders learn that model's posterior by the ELBO, with the path-derivative
   gradient (Roeder et al. 2017), whose noise vanishes as the guide nears the posterior.  The model stays as it is:
   training on with the encoders' bound moved it no nearer to the truth.  Encoders need not be perfect: where a
   posterior is asked for, scoring steps go on from their answer.

Encoders cost far more than the rest, and a model that is fitted together with them waits for them; with this
order a restart takes seconds, and the model never sees the encoders' approximation error.

Every stage is one call of :func:`optimise`, which checkpoints itself: a killed run of one process goes on where it
was, to the same numbers on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from pyro_hmvcrl.data.dataset import Dataset, Standardisation
from pyro_hmvcrl.guide.guide import ExpansionGuide
from pyro_hmvcrl.guide.transformers import TransformerGuide
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.inference.bound import UserELBO, user_bounds
from pyro_hmvcrl.inference.groups import groups_of, in_groups, of_each_category
from pyro_hmvcrl.inference.laplace import check_size, is_stuck, score_to_the_mode
from pyro_hmvcrl.inference.processes import agreed
from pyro_hmvcrl.inference.restarts import Build, Restart, new_model, run_restarts, seed_of
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.stage import Stage, optimise
from pyro_hmvcrl.story.logs import Cohort, Logs, SparseLogs
from pyro_hmvcrl.story.model import HMVCRL


@dataclass(frozen=True)
class Screening:
    """What the first stage found."""

    standardisation: Standardisation
    held_out: NDArray[np.bool_]  #: (N,)
    train: Cohort
    held: Cohort
    restarts: list[Restart]
    selected: int
    scoring: list[float]  #: what :func:`score_to_the_mode` saw
    history: list[pd.DataFrame]

    @property
    def guide(self) -> ExpansionGuide:
        """The one that is kept, with its model."""
        return self.restarts[self.selected].guide


@dataclass(frozen=True)
class Fit:
    """What inference found."""

    guide: TransformerGuide
    standardisation: Standardisation
    held_out: NDArray[np.bool_]  #: (N,)
    restarts: list[Restart]
    selected: int
    scoring: list[float]  #: what :func:`score_to_the_mode` saw
    history: pd.DataFrame
    bound: tuple[float, float]  #: of the guide at the held-out users: mean and standard error, nats a user


@own_state()
def fit(
    dataset: Dataset,
    settings: Settings,
    checkpoints: str | Path | None = None,
    progress: bool = False,
) -> Fit:
    """Fit the model and its guide to a dataset.

    Parameters
    ----------
    dataset
        At least 20 users.
    checkpoints
        Folder for checkpoints; a run of the same dataset and settings that was killed goes on from them.
    progress
        Show progress bars.

    Raises
    ------
    ValueError
        If there are too few users, or the device is not there.
    FloatingPointError
        If the bound is not finite.
    """
    s = screen(dataset, settings, checkpoints, progress)
    with torch.random.fork_rng():
        guide, bounds = _amortise(s.guide, s.train, settings, checkpoints, progress)
        per_user = user_bounds(guide, s.held)
    mean, error = float(per_user.mean()), float(per_user.std() / len(per_user) ** 0.5)
    history = pd.concat([*s.history, _history("amortisation", -1, bounds, mean)])
    found = guide, s.standardisation, s.held_out, s.restarts, s.selected, s.scoring
    return Fit(*found, history, (mean, error))


@own_state()
def screen(
    dataset: Dataset,
    settings: Settings,
    checkpoints: str | Path | None = None,
    progress: bool = False,
    build: Build = ExpansionGuide,
) -> Screening:
    """The first stage of :func:`fit` alone: the model, without encoders.

    A study that takes a part of the model away does it in `build`.
    """
    device = choose_device(settings.device)
    held_out = _held_out_users(dataset.n_users, settings)
    standardisation = Standardisation.from_dataset(dataset)
    logs = tensors_of(dataset, standardisation)
    parts = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    groups = groups_of(logs, parts[0], seed_of(settings, 0))
    train, held = _of_users(logs.to(device), parts)
    with torch.random.fork_rng():
        check_size(ExpansionGuide(new_model(train, settings), 0))
        seen = logs if groups is None else in_groups(logs, groups)
        starts = run_restarts(*_of_users(seen.to(device), parts), settings, checkpoints, progress, build)
        history = [
            _history("screening", r, start.bounds, start.held_out_bound) for r, start in enumerate(starts)
        ]
        selected, scoring = _brought_to_the_mode(starts, train, groups, settings, build, progress)
    return Screening(standardisation, held_out, train, held, starts, selected, scoring, history)


def _of_users(logs: Logs | SparseLogs, parts: tuple[NDArray[np.int64], ...]) -> tuple[Cohort, Cohort]:
    train, held = (logs.only(torch.as_tensor(rows)) for rows in parts)
    return train, held


def _brought_to_the_mode(
    starts: list[Restart],
    train: Cohort,
    groups: Tensor | None,
    settings: Settings,
    build: Build,
    progress: bool,
) -> tuple[int, list[float]]:
    """The restart that is kept, and what scoring saw: the best by its bound, unless it alone is stuck.

    Where they saw categories in `groups`, those that are tried get weights for all of them, in place.
    """
    by_bound = [agreed(int(r)) for r in np.argsort([-s.bound for s in starts], kind="stable")]
    seen: dict[int, list[float]] = {}
    for r in by_bound:
        if groups is not None:
            whole = of_each_category(starts[r].guide, groups, train, settings, build, progress)
            starts[r] = replace(starts[r], guide=whole)
        seen[r] = score_to_the_mode(
            starts[r].guide, train, seed_of(settings, settings.restarts + 1), progress
        )
        if not agreed(int(is_stuck(seen[r]))):
            return r, seen[r]
    return by_bound[0], seen[by_bound[0]]


def _amortise(
    start: ExpansionGuide, train: Cohort, settings: Settings, checkpoints: str | Path | None, progress: bool
) -> tuple[TransformerGuide, list[float]]:
    seed = seed_of(settings, settings.restarts)
    torch.manual_seed(seed)
    guide = TransformerGuide(start.model).to(train.rows.device)
    guide.coefficients = start.coefficients
    fitted = set(start.parameters())
    for parameter in fitted:
        parameter.requires_grad_(False)
    encoders = [p for p in guide.parameters() if p not in fitted]
    stage = Stage(
        "encoders", settings.encoder_steps, settings.encoder_batch_size, 0.01, UserELBO(2, False), warm_up=50
    )
    with guide.knowing_longest(train):
        return guide, optimise(stage, guide, encoders, train, seed, checkpoints, progress=progress)


def tensors_of(dataset: Dataset, standardisation: Standardisation, model: HMVCRL | None = None) -> SparseLogs:
    """A dataset as the model reads it: a fitted one that knows of no suggested searches reads none, and so on."""
    exposure, preference = map(torch.as_tensor, standardisation.apply(dataset))
    counts = dict(dataset.counts)
    if model is not None and "echo" in model.priors:
        counts.setdefault("suggested", csr_matrix(counts["search"].shape, dtype=np.float32))
    elif model is not None:
        counts.pop("suggested", None)
    return SparseLogs(exposure, preference, counts, dataset.periods.number, len(dataset.categories))


def _held_out_users(n_users: int, settings: Settings) -> NDArray[np.bool_]:
    n_held = round(settings.held_out * n_users)
    if n_users < 20 or not 1 < n_held < n_users:
        raise ValueError(
            f"{n_users} users, {n_held} of them held out: too few; a fit needs at least 20 users"
        )
    chosen = np.random.default_rng(settings.seed).permutation(n_users)[:n_held]
    return np.isin(np.arange(n_users), chosen)


def choose_device(name: str) -> torch.device:
    """``auto`` is a GPU where there is one.

    Raises
    ------
    ValueError
        If `name` is ``cuda`` and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but there is no GPU here: choose auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _history(stage: str, restart: int, bounds: list[float], held_out: float) -> pd.DataFrame:
    frame = pd.DataFrame(
        {"stage": stage, "restart": restart, "step": range(1, len(bounds) + 1), "bound": bounds}
    )
    frame["held_out_bound"] = np.where(frame["step"] == len(bounds), held_out, np.nan)
    return frame
