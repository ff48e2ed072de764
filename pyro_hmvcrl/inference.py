"""Inference: stochastic variational inference (SVI) in two stages, with restarts.

1. **Restarts.**  Model and coefficient posterior are fitted several times from random starts, with the expansion
   guide, by the importance-weighted bound (Burda et al. 2016).  The graph is unoriented for the first half of the
   steps, and then oriented for good.  The restart with the best bound is kept: that on the users it was trained on,
   as all restarts are of one model, with the same freedom to overfit, and the few held-out users tell them apart less
   well.  Fisher scoring with all users at once brings it to the mode of the parameters' posterior, where there are
   users enough: the bound's slack would bias effects by about a percent, at any number of users.
2. **Amortisation.**  The two Transformer encoders learn that model's posterior by the ELBO, with the path-derivative
   gradient (Roeder et al. 2017), whose noise vanishes as the guide nears the posterior.  The model stays as it is:
   training on with the encoders' bound moved it no nearer to the truth.

Encoders cost far more than the rest, and a model that is fitted together with them waits for them; with this
order a restart takes seconds, and the model never sees the encoders' approximation error.

Every stage is one call of :func:`optimise`, which checkpoints itself: a killed run of one process goes on where it
was, to the same numbers on a CPU.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.infer import ELBO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_hmvcrl.dataset import Dataset, Standardisation, whole_file
from pyro_hmvcrl.guide import (
    STEPS_FROM_AFAR,
    USERS_AT_ONCE,
    ExpansionGuide,
    Guide,
    PrecisionNormal,
    Prior,
    TransformerGuide,
)
from pyro_hmvcrl.laplace import check_size, score_to_the_mode
from pyro_hmvcrl.model import HMVCRL, Cohort, Logs, log_joint, log_prob, observe
from pyro_hmvcrl.processes import agreed, averaged, draw_otherwise, every_nth, first, place
from pyro_hmvcrl.recording import Recording

CHECKPOINT_EVERY = 200  #: steps
PARTICLES = 8  #: of the restarts' bound; with 4 and many factors, axes rotate as training goes on
EVALUATION_PARTICLES = 64
EVALUATED_AT_ONCE = 256  #: users, which bounds the memory
JUDGED_USERS = 16_384  #: at most, of those that a restart was trained on
LOOK_EVERY = 20  #: steps between looks at the bound on a GPU, each of which waits for it


@dataclass(frozen=True)
class Settings:
    """Settings of a fit.

    Attributes
    ----------
    platform_factors, preference_factors
        K_P and K_Q.
    restarts, steps, batch_size
        Random starts of the first stage, its steps, and its users a step.
    encoder_steps, encoder_batch_size
        The same of the second stage, which has no restarts.
    device
        ``"auto"`` (a GPU where there is one), ``"cpu"`` or ``"cuda"``.
    seed
        Of everything random; on a CPU it fixes every digit of the result.
    held_out
        Share of the users that are kept from training, to judge the fit.
    """

    platform_factors: int
    preference_factors: int
    restarts: int = 3
    steps: int = 1_000
    batch_size: int = 1_024
    encoder_steps: int = 2_500
    encoder_batch_size: int = 128
    device: str = "auto"
    seed: int = 0
    held_out: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and field.name != "seed" and value < 1:
                raise ValueError(f"{field.name} is {value}: it must be at least 1")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}: choose auto, cpu or cuda")


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


# --- The bound -----------------------------------------------------------------------------------------------


class UserELBO(ELBO):
    """The evidence lower bound a user, importance-weighted user by user, with the log prior of the decoders' weights.

    ``pyro.infer.RenyiELBO`` weighs whole batches against each other, which for independent users is loose; here
    each user has weights of its own.  `particles` come in antithetic pairs.  Without importance weighting the
    gradient is the path derivative.
    """

    def __init__(self, particles: int, importance_weighted: bool) -> None:
        super().__init__(num_particles=particles)
        self.importance_weighted = importance_weighted

    def differentiable_loss(self, model: HMVCRL, guide: Guide, logs: Logs) -> Tensor:
        """Minus the bound, nats a user, as a mean over the batch."""
        model_trace, guide_trace = self._get_trace(model, guide, (logs,), {})
        log_weights = self.log_weights(model_trace, guide_trace)
        bound = _log_mean(log_weights) if self.importance_weighted else log_weights.mean(0)
        names = guide.coefficients.loc.keys()
        coefficients = torch.stack([log_prob(model_trace, n) - log_prob(guide_trace, n) for n in names])
        decoders = model.f_search.log_prior() + model.f_exposure.log_prior()
        return -(bound.mean() + (coefficients.sum() + decoders) / logs.n_users)

    def _get_trace(
        self, model: HMVCRL, guide: Guide, args: tuple[Logs], kwargs: dict[str, Any]
    ) -> tuple[poutine.Trace, poutine.Trace]:
        """One draw of the coefficients, and `particles` of the noise under it."""
        guide_trace = poutine.trace(guide).get_trace(*args)
        posterior: PrecisionNormal = guide_trace.nodes["noise"]["fn"]
        noise = posterior.antithetic(self.num_particles)
        held = poutine.condition(observe(model, *args), data={"noise": noise})
        return poutine.trace(poutine.replay(held, guide_trace)).get_trace(*args), guide_trace

    def log_weights(self, model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Tensor:
        """Log importance weights ``(particles, B)`` of the users."""
        posterior: PrecisionNormal = guide_trace.nodes["noise"]["fn"]
        scored_under = posterior if self.importance_weighted else posterior.detach()
        return log_joint(model_trace) - scored_under.log_prob(model_trace.nodes["noise"]["value"])


def _log_mean(log_weights: Tensor) -> Tensor:
    return log_weights.logsumexp(0) - math.log(len(log_weights))


@torch.no_grad()
def user_bounds(guide: Guide, logs: Logs | Cohort) -> Tensor:
    """Importance-weighted bound ``(N,)`` of each user's log evidence, nats, at the coefficients' means."""
    bounds = []
    for users in logs.batches(EVALUATED_AT_ONCE):
        posterior = guide.posterior(users)[1]
        noise = posterior.antithetic(EVALUATION_PARTICLES)
        held = poutine.condition(observe(guide.model, users), guide.coefficients.means() | {"noise": noise})
        joint = log_joint(poutine.trace(held).get_trace(users))
        bounds.append(_log_mean(joint - posterior.log_prob(noise)))
    return torch.cat(bounds)


# --- One stage -----------------------------------------------------------------------------------------------


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
    checkpoints: Path | None = None,
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
    path = checkpoints / f"{stage.name}.safetensors" if checkpoints else None
    torch.manual_seed(seed)
    bounds = _load_checkpoint(path, guide, optimiser) if path and path.exists() else []
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
    with pyro.validation_enabled(False):  # slow, and on a GPU it waits; what is not finite is seen below
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
                _save_checkpoint(path, guide, optimiser, bounds)
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


def _save_checkpoint(path: Path, guide: Guide, optimiser: torch.optim.Adam, bounds: list[float]) -> None:
    tensors = {f"guide/{name}": value.clone() for name, value in guide.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{i}/{key}": value.clone() for key, value in state.items()}
    tensors["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    save_tensors(path, tensors, {"bounds": bounds})


def _load_checkpoint(path: Path, guide: Guide, optimiser: torch.optim.Adam) -> list[float]:
    tensors, metadata = load_tensors(path)
    guide.load_state_dict(_under("guide/", tensors))
    state = optimiser.state_dict()
    for name, value in _under("optimiser/", tensors).items():
        i, key = name.split("/")
        state["state"].setdefault(int(i), {})[key] = value
    optimiser.load_state_dict(state)
    torch.set_rng_state(tensors["random"])
    if "random_cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random_cuda"])
    return list(metadata["bounds"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and JSON metadata atomically as one safetensors file.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with whole_file(path) as file:
        try:
            save_file(contiguous, file, metadata={"json": json.dumps(metadata)})
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["json"])  # noqa: SIM118


# --- The whole fit -------------------------------------------------------------------------------------------


Build = Callable[
    [HMVCRL, int], ExpansionGuide
]  #: a restart's guide, from its new model and the number of users


def fit(dataset: Dataset, settings: Settings, checkpoints: Path | None = None, progress: bool = False) -> Fit:
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


def screen(
    dataset: Dataset,
    settings: Settings,
    checkpoints: Path | None = None,
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
        selected = agreed(int(np.argmax([s.bound for s in starts])))
        scoring_seed = _seed(settings, settings.restarts + 1)
        scoring = score_to_the_mode(starts[selected].guide, train, scoring_seed, progress)
    return Screening(standardisation, held_out, train, held, starts, selected, scoring, history)


def _run_restart(
    r: int,
    train: Cohort,
    held: Cohort,
    settings: Settings,
    checkpoints: Path | None,
    progress: bool,
    build: Build = ExpansionGuide,
) -> tuple[Restart, list[float]]:
    torch.manual_seed(_seed(settings, r))
    guide = build(_new_model(train.logs, settings), train.n_users).to(train.rows.device)
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
    start: ExpansionGuide, train: Cohort, settings: Settings, checkpoints: Path | None, progress: bool
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


def _new_model(logs: Logs, settings: Settings) -> HMVCRL:
    return HMVCRL(
        settings.platform_factors,
        settings.preference_factors,
        logs.exposure_covariates.shape[1],
        logs.preference_covariates.shape[1],
        logs.search.shape[1],
    )


@torch.no_grad()
def _start_intercepts(model: HMVCRL, train: Cohort) -> None:
    """Start each decoder at the surface's overall shares."""
    batches = [(users.search.sum(0), users.exposure.sum(0)) for users in train.batches(USERS_AT_ONCE)]
    for decoder, counts in zip((model.f_search, model.f_exposure), zip(*batches, strict=True), strict=True):
        share = (torch.stack(counts).sum(0) + 1).log()
        decoder.intercept.copy_(share - share.mean())


@torch.no_grad()
def factor_posterior(prior: Prior, noise: PrecisionNormal) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Posterior means and standard deviations ``(N, K)`` of the factors."""
    mean = prior.base + (prior.turn @ noise.mean.unsqueeze(-1)).squeeze(-1)
    root = torch.linalg.solve_triangular(noise.precision_cholesky, prior.turn.mT, upper=False)
    sd = (root**2).sum(-2).sqrt()
    return mean.double().cpu().numpy(), sd.double().cpu().numpy()


def tensors_of(dataset: Dataset, standardisation: Standardisation) -> Logs:
    """A dataset as the model reads it."""
    exposure, preference = standardisation.apply(dataset)
    return Logs.of(exposure, preference, dataset.search, dataset.exposure, dataset.engagement)


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
