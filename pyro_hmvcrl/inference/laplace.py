"""The posterior over the model's parameters: its mode, and a Gaussian there (Laplace), from the users' scores.

SVI fits the structural coefficients with independent Normals, which leave out what the coefficients owe to one
another and to the decoders: their standard deviations are about half of what the errors are.  Here the precision is
the prior's plus the sum over users of outer products of their scores (Berndt, Hall, Hall & Hausman 1974).  A user's
score is the gradient of the log likelihood of that user's events: by Fisher's identity an expectation over the
user's posterior, taken by importance sampling from the expansion guide.  Structural coefficients and decoder weights
are taken together, so that an edge's uncertainty has in it that of the decoders, which say what a factor's unit is.
The decoders' hidden features (``inner``, ``shift``) stay as fitted: what they could do, ``outer`` can.

The same scores bring the fit to the mode (:func:`score_to_the_mode`): it starts near, and ends within a fraction of
a standard deviation, where without it the bound's slack, which no number of users mends, would bias the effects.

The sum over users is noisy where users are few for the parameters: where n users determine k of them its inverse is
too large by n / (n - k), the mean of an inverse Wishart matrix.  Steps are shortened by that.  The posterior is not, as
it leaves out what is not known of the hidden features: its intervals would cover too seldom then.

The same pass gives a **placebo**.  A copy of the exposure covariates, dealt out anew among the users, stands beside
the real ones, and its coefficients, truly zero, are estimated too, by one scoring step.  The effect that a policy
shift of the copy seems to have is what this fit makes of nothing.  Its spread is shortened with the step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.functional import pad
from tqdm.auto import tqdm

from pyro_hmvcrl.guide.guide import TAILS, Guide
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.inference.processes import every_nth, place, total
from pyro_hmvcrl.story.emissions import DECODER_PRIOR
from pyro_hmvcrl.story.logs import Cohort, Logs
from pyro_hmvcrl.story.model import HMVCRL
from pyro_hmvcrl.story.programs import at, log_joint, observe

DRAWS = 200
PARTICLES = 128  #: of a user's noise, in antithetic pairs
SCORES_AT_ONCE = 1 << 20  #: users times particles times categories, which bounds the memory
SCORING_STEPS = 5  #: at most
NEAR = 0.01  #: steps end at this squared distance from the mode a parameter, in its standard deviations
FAR_FROM_MODE = (
    0.5  #: standard deviations of the posterior, a parameter: a fit that scoring leaves there is stuck
)
MOST_PARAMETERS = 15_000  #: their precision takes 1.7 GiB, three times over
USERS_A_PARAMETER = 5  #: with fewer, the sum over users is too noisy a curvature to step by
#: Coefficients with a row for each exposure covariate.
OF_EXPOSURE_COVARIATES = ("platform_location", "platform_log_scale", "delta", "personalisation", "bend")
Values = dict[str, Tensor]


@dataclass(frozen=True)
class ParameterPosterior:
    """Structural coefficients and decoder weights by name: their mean, standard deviation and draws ``(D, ...)``.

    `placebo` has draws of the coefficients of the dealt-out copy of the exposure covariates.
    """

    mean: Values
    sd: Values
    draws: Values
    placebo: Values

    @property
    def n_draws(self) -> int:
        return len(self.draws["b"])

    def draw(self, i: int | Tensor) -> Values:
        """The i-th draw of everything, or several of them."""
        return {name: values[i] for name, values in self.draws.items()}

    def with_placebo(self) -> ParameterPosterior:
        """The posterior of a model that has the copy's coefficients below those of the exposure covariates."""
        both = {name: torch.cat([self.draws[name], self.placebo[name]], 1) for name in self.placebo}
        mean = {name: torch.cat([self.mean[name], self.placebo[name].mean(0)]) for name in self.placebo}
        return ParameterPosterior(self.mean | mean, self.sd, self.draws | both, {})

    def to_tensors(self) -> Values:
        """All of it as one flat mapping, for a file."""
        parts = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {f"{part}/{name}": t for part, values in parts for name, t in values.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ParameterPosterior:
        """What :meth:`to_tensors` gave."""
        parts: dict[str, Values] = {f.name: {} for f in fields(cls)}
        for key, value in tensors.items():
            part, name = key.split("/")
            parts[part][name] = value
        return cls(**parts)


class Information(NamedTuple):
    """What the users say of the parameters, with the prior."""

    outer: Tensor  #: (parameters, parameters), the sum of the scores' outer products
    cholesky: Tensor  #: of the precision, which is that sum and the prior's
    gradient: Tensor  #: (parameters,), of the log posterior

    @property
    def step(self) -> Tensor:
        """From here to the mode, were the log posterior a parabola."""
        return torch.cholesky_solve(self.gradient[:, None], self.cholesky)[:, 0]

    @property
    def determined(self) -> float:
        """The number k of parameters that the users determine rather than the prior."""
        return float(torch.cholesky_solve(self.outer, self.cholesky).trace())

    def shortened(self, n_users: int) -> float:
        """``1 - k / n``, by which the inverse of the precision, too large by ``n / (n - k)``, is to be multiplied."""
        return 1 - self.determined / n_users


def score_to_the_mode(guide: Guide, users: Cohort, seed: int, progress: bool = False) -> list[float]:
    """Move the parameters to the mode of their posterior, in place, by Fisher scoring with all of these users.

    Returns what each step saw: the squared distance from the mode in standard deviations of the posterior, a
    parameter that the users determine; nothing, and nothing is moved, where the users are too few
    (`USERS_A_PARAMETER`).  A step that led away from the mode is taken back.  The Laplace prior of the edges is taken
    as a Normal of its variance.
    """
    own = dict(guide.model.named_parameters()) | guide.coefficients.means()
    distances: list[float] = []
    before = _flat(fitted_values(guide))  # the last step
    while len(distances) < SCORING_STEPS:
        values = fitted_values(guide)
        known = information(guide, values, users, users.exposure_covariates, seed, progress)
        step, determined = known.step, known.determined
        if users.n_users < USERS_A_PARAMETER * determined:
            break
        distances.append(float(known.gradient @ step) / determined)
        away = len(distances) > 1 and distances[-1] > distances[-2]
        here = _flat(values)  # a copy, as the step changes the values in place
        stepped = before if away else here + known.shortened(users.n_users) * step
        for name, value in _unflat(stepped, values).items():
            own[name].data.copy_(value)
        if away or distances[-1] < NEAR:
            break
        before = here
    return distances


def is_stuck(distances: list[float]) -> bool:
    """Whether steps that saw these distances (:func:`score_to_the_mode`) have ended far from any mode."""
    return bool(distances) and max(min(distances), 0) ** 0.5 > FAR_FROM_MODE


def check_size(guide: Guide) -> None:
    """Refuse a model whose posterior would not fit into memory.

    Raises
    ------
    ValueError
        If it has more than `MOST_PARAMETERS`.
    """
    values = fitted_values(guide)
    if (n := sum(t.numel() for t in values.values())) > MOST_PARAMETERS:
        raise ValueError(
            f"{n:,} parameters, of which the posterior can hold {MOST_PARAMETERS:,}: merge rare ones of the "
            f"{len(values['b']):,} categories, or take fewer factors"
        )


@own_state()
def laplace_posterior(guide: Guide, users: Cohort, seed: int, draws: int = DRAWS) -> ParameterPosterior:
    """The posterior at the fitted values, given these users; on the CPU, in double precision.

    Cost: the scores, a gradient for each user, and a Cholesky factor of the size of the parameters.
    """
    generator = torch.Generator().manual_seed(seed)
    fitted = fitted_values(guide)
    real = users.exposure_covariates
    dealt = torch.randperm(users.n_users, generator=generator).to(real.device)
    beside, n_copies = torch.cat([real, real[dealt]], 1), real.shape[1]
    start = fitted | {n: _with_rows(fitted[n], n_copies) for n in OF_EXPOSURE_COVARIATES if n in fitted}

    known = information(guide, start, users, beside, seed)
    cholesky, short = known.cholesky, known.shortened(users.n_users)
    standard = torch.randn(len(cholesky), draws, dtype=torch.double, generator=generator)
    around = torch.linalg.solve_triangular(cholesky.T, standard, upper=True).T
    sd = torch.cholesky_inverse(cholesky).diagonal().sqrt()

    spread, of_copy = (_unflat(flat, start) for flat in (around, short * known.step + short**0.5 * around))
    drawn = {n: fitted[n].cpu() + spread[n][:, : len(fitted[n])] for n in fitted}
    placebo = {n: of_copy[n][:, -n_copies:] for n in OF_EXPOSURE_COVARIATES if n_copies and n in fitted}
    kept = {n: t[: len(fitted[n])] for n, t in _unflat(sd, start).items()}
    return ParameterPosterior({n: t.cpu() for n, t in fitted.items()}, kept, drawn, placebo)


@torch.no_grad()
def information(
    guide: Guide,
    values: Values,
    users: Cohort,
    exposure_covariates: Tensor,
    seed: int,
    progress: bool = False,
) -> Information:
    """From the scores at `values`, with the prior's part; on the CPU, in double precision.

    Raises
    ------
    FloatingPointError
        If the scores are not finite.
    """
    prior = _flat(_prior_precision(guide.model, values))
    outer, gradient = (torch.zeros(*[len(prior)] * n, dtype=torch.double) for n in (2, 1))
    at_once = max(SCORES_AT_ONCE // (PARTICLES * len(values["b"])), 1)
    batches = torch.arange(users.n_users, device=users.rows.device).split(at_once)
    with torch.random.fork_rng():
        torch.manual_seed(seed + place()[0])
        for i in tqdm(every_nth(len(batches)), "scoring", disable=not progress, leave=False):
            rows = batches[i]
            scores = user_scores(guide, values, users.batch(rows), exposure_covariates[rows]).double().cpu()
            outer += scores.T @ scores
            gradient += scores.sum(0)
    outer, gradient = total(outer), total(gradient) - prior * _flat(values)
    precision = outer.clone()
    precision.diagonal().add_(prior)
    cholesky, failed = torch.linalg.cholesky_ex(precision)
    if failed or not gradient.isfinite().all():
        raise FloatingPointError("the users' scores are not finite; look for extreme covariates in users")
    return Information(outer, cholesky, gradient)


@torch.no_grad()
def user_scores(guide: Guide, values: Values, logs: Logs, exposure_covariates: Tensor) -> Tensor:
    """Gradients ``(N, parameters)`` of each user's log likelihood at `values`, which may have more covariates.

    The gradient of the importance-weighted bound with its particles held still is the self-normalised estimate of
    the posterior expectation in Fisher's identity.
    """
    index = torch.arange(len(logs.index), device=logs.index.device)
    logs = logs._replace(index=index).given_past()
    _, expansion = guide.expansion(len(index)).posterior(logs)
    proposal = expansion.wider(TAILS)
    noise = proposal.antithetic(PARTICLES)

    def log_likelihood(parameters: Values, noise: Tensor, log_proposal: Tensor, *data: Tensor) -> Tensor:
        user = Logs(data[0][None], 1, *(t[None] for t in data[1:6]))
        user = user._replace(**{name: t[None] for name, t in zip(more, data[6:], strict=True)})
        held = pyro.condition(observe(at(guide.model, parameters), user), data={"noise": noise[:, None]})
        joint = log_joint(poutine.trace(held).get_trace(user))[:, 0]
        return (joint - log_proposal).logsumexp(0) - math.log(PARTICLES)

    more = [name for name in ("suggested", "shown_cells") if getattr(logs, name) is not None]
    data = (logs.index, exposure_covariates, *logs[3:7], *(getattr(logs, name) for name in more))
    each_user = vmap(grad(log_likelihood), in_dims=(None, 1, 1, *(0 for _ in data)))
    with pyro.validation_enabled(False):  # its checks look at values, which vmap hides
        scores = each_user(values, noise, proposal.log_prob(noise), *data)
    return torch.cat([t.flatten(1) for t in scores.values()], 1)


def fitted_values(guide: Guide) -> Values:
    """What is given a posterior: the structural coefficients, and the decoders' weights but for `inner` and `shift`."""
    weights = {n: w for n, w in guide.model.named_parameters() if n.rpartition(".")[2] in DECODER_PRIOR}
    return {n: t.detach() for n, t in (guide.coefficients.means() | weights).items()}


def _prior_precision(model: HMVCRL, values: Values) -> Values:
    """The priors' precisions (of the Laplace prior, that of its variance)."""
    sd = {n: scale * (2**0.5 if n == "edges" else 1) for n, (_, scale, _) in model.priors.items()}
    sd |= {n: DECODER_PRIOR[n.rpartition(".")[2]] for n in values if n not in model.priors}
    return {n: torch.full_like(t, sd[n] ** -2) for n, t in values.items()}


def _with_rows(rows: Tensor, more: int) -> Tensor:
    return pad(rows, (0,) * (2 * rows.dim() - 1) + (more,))


def _flat(values: Values) -> Tensor:
    return torch.cat([t.flatten() for t in values.values()]).double().cpu()


def _unflat(flat: Tensor, like: Values) -> Values:
    """``(..., parameters)`` by name, in single precision."""
    parts = flat.float().split([t.numel() for t in like.values()], -1)
    return {n: part.unflatten(-1, t.shape) for part, (n, t) in zip(parts, like.items(), strict=True)}
