"""Inference: stochastic variational inference (SVI) in two stages, with restarts.

1. **Restarts.**  Model and coefficient posterior are fitted several times from random starts, with the expansion
   guide, by the importance-weighted bound (Burda et al. 2016).  The graph is unoriented for the first half of the
   steps, and then oriented for good.  The restart with the best bound is kept: that on the users it was trained on,
   as all restarts are of one model, with the same freedom to overfit, and the few held-out users tell them apart less
   well.  Fisher scoring with all users at once brings it to the mode of the parameters' posterior, where there are
   users enough: the bound's slack would bias effects by about a percent, at any number of users.
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

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from pyro_hmvcrl.data.dataset import Dataset, Standardisation
from pyro_hmvcrl.guide.experts import PrecisionNormal, Prior
from pyro_hmvcrl.guide.guide import STEPS_FROM_AFAR, USERS_AT_ONCE, ExpansionGuide
from pyro_hmvcrl.guide.transformers import TransformerGuide
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.inference.bound import UserELBO, user_bounds
from pyro_hmvcrl.inference.laplace import check_size, is_stuck, score_to_the_mode
from pyro_hmvcrl.inference.processes import agreed
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.stage import Stage, optimise
from pyro_hmvcrl.story.logs import Cohort, SparseLogs
from pyro_hmvcrl.story.model import HMVCRL

PARTICLES = 8  #: of the restarts' bound; with 4 and many factors, axes rotate as training goes on
JUDGED_USERS = 16_384  #: at most, of those that a restart was trained on


@dataclass(frozen=True)
class Restart:
    """One random start.  Its bounds are in nats a user; these and its factors are as its own training left them."""

    bound: float  #: at users that it was trained on, at most `JUDGED_USERS` of them
    held_out_bound: float
    factors: NDArray[np.float64]  #: (N_held_out, K)
    guide: ExpansionGuide


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


Build = Callable[
    [HMVCRL, int], ExpansionGuide
]  #: a restart's guide, from its new model and the number of users


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
    logs = tensors_of(dataset, standardisation).to(device)
    train, held = (logs.only(torch.as_tensor(np.flatnonzero(rows))) for rows in (~held_out, held_out))
    with torch.random.fork_rng():
        starts, history = [], []
        for r in range(settings.restarts):
            restart, bounds = _run_restart(r, train, held, settings, checkpoints, progress, build)
            starts.append(restart)
            history.append(_history("screening", r, bounds, restart.held_out_bound))
        selected, scoring = _brought_to_the_mode(starts, train, settings, progress)
    return Screening(standardisation, held_out, train, held, starts, selected, scoring, history)


def _brought_to_the_mode(
    starts: list[Restart], train: Cohort, settings: Settings, progress: bool
) -> tuple[int, list[float]]:
    """The restart that is kept, and what scoring saw: the best by its bound, unless it alone is stuck."""
    by_bound = [agreed(int(r)) for r in np.argsort([-s.bound for s in starts], kind="stable")]
    seen: dict[int, list[float]] = {}
    for r in by_bound:
        seen[r] = score_to_the_mode(starts[r].guide, train, _seed(settings, settings.restarts + 1), progress)
        if not agreed(int(is_stuck(seen[r]))):
            return r, seen[r]
    return by_bound[0], seen[by_bound[0]]


def _run_restart(
    r: int,
    train: Cohort,
    held: Cohort,
    settings: Settings,
    checkpoints: str | Path | None,
    progress: bool,
    build: Build = ExpansionGuide,
) -> tuple[Restart, list[float]]:
    torch.manual_seed(_seed(settings, r))
    guide = build(_new_model(train, settings), train.n_users).to(train.rows.device)
    if train.n_users > settings.batch_size:
        guide.scoring_steps = STEPS_FROM_AFAR
    check_size(guide)
    _start_intercepts(guide.model, train)

    def orient_half_way(step: int) -> bool:
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
    bounds = optimise(
        stage,
        guide,
        list(guide.parameters()),
        train,
        _seed(settings, r),
        checkpoints,
        orient_half_way,
        progress,
    )
    some = train.logs.only(train.rows[:: -(-train.n_users // JUDGED_USERS)])
    own, others = (float(user_bounds(guide.expansion(u.n_users), u).mean()) for u in (some, held))
    if not math.isfinite(own + others):
        raise FloatingPointError(f"{stage.name}: a bound is not finite; look for extreme covariates in users")
    of_held = held.batch(torch.arange(held.n_users, device=held.rows.device))
    factors, _ = factor_posterior(*guide.expansion(held.n_users).posterior(of_held))
    return Restart(own, others, factors, guide), bounds


def _amortise(
    start: ExpansionGuide, train: Cohort, settings: Settings, checkpoints: str | Path | None, progress: bool
) -> tuple[TransformerGuide, list[float]]:
    seed = _seed(settings, settings.restarts)
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


def _new_model(train: Cohort, settings: Settings) -> HMVCRL:
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
    batches = [
        (u.search.sum(0), u.exposure.sum(0)) for u in (b.by_category for b in train.batches(USERS_AT_ONCE))
    ]
    for decoder, counts in zip((model.f_search, model.f_exposure), zip(*batches, strict=True), strict=True):
        share = (torch.stack(counts).sum(0) + 1).log()
        decoder.intercept.copy_(share - share.mean())


@torch.no_grad()
def factor_posterior(prior: Prior, noise: PrecisionNormal) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Posterior means and standard deviations ``(N, K)`` of the factors; readiness is left out."""
    mean = prior.base + (prior.turn @ noise.mean.unsqueeze(-1)).squeeze(-1)
    root = torch.linalg.solve_triangular(noise.precision_cholesky, prior.turn.mT, upper=False)
    sd = (root**2).sum(-2).sqrt()
    return mean[..., :-1].double().cpu().numpy(), sd[..., :-1].double().cpu().numpy()


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


def _seed(settings: Settings, stream: int) -> int:
    return 1_000 * settings.seed + stream


def _history(stage: str, restart: int, bounds: list[float], held_out: float) -> pd.DataFrame:
    frame = pd.DataFrame(
        {"stage": stage, "restart": restart, "step": range(1, len(bounds) + 1), "bound": bounds}
    )
    frame["held_out_bound"] = np.where(frame["step"] == len(bounds), held_out, np.nan)
    return frame
