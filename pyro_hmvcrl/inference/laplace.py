"""The posterior over the model's parameters: its mode, and a Gaussian there that holds where the model is wrong, too.

SVI fits the structural coefficients with independent Normals, which leave out what the coefficients owe to one
another and to the decoders: their standard deviations are about half of what the errors are.  Here the covariance is a
sandwich (Huber 1967; White 1982)::

    H^-1 (J + prior) H^-1        H = curvature + prior

J, the **scatter**, is the sum over users of outer products of their scores: how much the users' own logs pull the
parameters this way and that.  The **curvature** is the information that the model expects of these users: the same sum
over logs that the model makes.  Where the model is right the two are one, and the covariance is the inverse of H, the
prior's share and all.  Where users differ more than the model lets them, J is larger, and so is the covariance, when
the inverse of J alone would shrink.  What J is to the curvature, block by block, tells which part of the model is too
sure: White's information-matrix test (:func:`information_ratios`).

A user's score is the gradient of the log likelihood of that user's events: by Fisher's identity an expectation over the
user's posterior, taken by importance sampling from the expansion guide.  Structural coefficients and decoder weights
are taken together, so that an edge's uncertainty has in it that of the decoders, which say what a factor's unit is.
The decoders' hidden features (``inner``, ``shift``) stay as fitted: what they could do, ``outer`` can.

The same scores bring the fit to the mode (:func:`score_to_the_mode`): it starts near, and ends within a fraction of
a standard deviation, where without it the bound's slack, which no number of users mends, would bias the effects.

Both sums are of finitely many users: of n to whom k parameters were fitted, what they pull by is too small by
(n - k) / n, as residuals are; of m that the model made, the inverse of the curvature is too large by m / (m - k), the
mean of an inverse Wishart matrix.  Both are made up for.  A model with too many parameters for as many made users takes
J for its curvature.

The same pass gives a **placebo**.  A copy of the exposure covariates, dealt out anew among the users, stands beside
the real ones, and its coefficients, truly zero, are estimated too, by one scoring step.  The effect that a policy
shift of the copy seems to have is what this fit makes of nothing.
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

from pyro_hmvcrl.guide.guide import Guide
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
NEAR = 0.05  #: steps end at this squared distance from the mode a parameter, in its standard deviations
FAR_FROM_MODE = (
    0.5  #: standard deviations of the posterior, a parameter: a fit that scoring leaves there is stuck
)
MOST_PARAMETERS = 15_000  #: a matrix of their size takes 1.7 GiB, and there are four
USERS_A_PARAMETER = 2  #: with fewer, the log posterior is no parabola as far as a step goes
MADE_A_PARAMETER = 12  #: users whose logs the model makes for its curvature
MOST_MADE = 12_000  #: of them; where more would be needed, the users' own scatter serves
MOST_COPIES = 8  #: of each user, which do where users are few
FEWEST_LEFT = 0.25  #: the least that finite sums are made up for by
#: Parts of the model of which the information-matrix test asks, and their parameters.
BLOCKS = {
    "search": {"f_search", "influence"},
    "suggested searches": {"f_suggested", "echo"},
    "exposure": {"f_exposure", "learning", "personalisation", "personalisation_bend"},
    "engagement": {"a", "b", "alpha", "delta", "delta_bend", "readiness_log_scale", "familiarity"},
    "mechanisms": {
        "platform_location",
        "platform_bend",
        "platform_log_scale",
        "preference_location",
        "preference_bend",
        "preference_log_scale",
        "edges",
    },
}
#: Coefficients with a row for each exposure covariate.
OF_EXPOSURE_COVARIATES = (
    *("platform_location", "platform_bend", "platform_log_scale", "delta", "delta_bend"),
    *("personalisation", "personalisation_bend"),
)
Values = dict[str, Tensor]


@dataclass(frozen=True)
class ParameterPosterior:
    """Structural coefficients and decoder weights by name: their mean, standard deviation and draws ``(D, ...)``.

    `placebo` has draws of the coefficients of the dealt-out copy of the exposure covariates, `information` by block how
    much more the users' scores vary than the model expects (:func:`information_ratios`).
    """

    mean: Values
    sd: Values
    draws: Values
    placebo: Values
    information: Values

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
        return ParameterPosterior(self.mean | mean, self.sd, self.draws | both, {}, self.information)

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
    """What the users say of the parameters, with the prior, and what the model expects them to say."""

    scatter: Tensor  #: (parameters, parameters), of these users' scores
    cholesky: Tensor  #: of the curvature with the prior's precision
    gradient: Tensor  #: (parameters,), of the log posterior
    prior: Tensor  #: (parameters,), precision
    n_users: int
    n_made: int  #: users whose logs the model made, for the curvature

    @property
    def step(self) -> Tensor:
        """From here to the mode, were the log posterior a parabola."""
        return self.shortened * torch.cholesky_solve(self.gradient[:, None], self.cholesky)[:, 0]

    @property
    def determined(self) -> float:
        """The number k of parameters that the users determine rather than the prior."""
        inverse = torch.cholesky_inverse(self.cholesky)
        return float(len(self.prior) - inverse.diagonal() @ self.prior)

    @property
    def shortened(self) -> float:
        """``1 - k / m``, by which the inverse of the curvature of m made users is to be multiplied."""
        return max(1 - self.determined / self.n_made, FEWEST_LEFT)

    def root(self) -> Tensor:
        """A matrix ``(parameters, parameters)`` whose product with its transpose is the covariance at the mode."""
        left = max(1 - self.determined / self.n_users, FEWEST_LEFT)  # of what the users would pull by
        pull = self.scatter / left
        pull.diagonal().add_(self.prior)
        return self.shortened**1.5 * torch.cholesky_solve(torch.linalg.cholesky(pull), self.cholesky)


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
    known: Information | None = None
    while len(distances) < SCORING_STEPS:
        values = fitted_values(guide)
        known = information(guide, values, users, users.exposure_covariates, seed, known, progress)
        determined = known.determined
        if users.n_users < USERS_A_PARAMETER * determined:
            break
        step = known.step
        distances.append(float(known.gradient @ step) / determined)
        away = len(distances) > 1 and distances[-1] > distances[-2]
        here = _flat(values)  # a copy, as the step changes the values in place
        stepped = before if away else here + step
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

    Cost: the scores, a gradient for each user and each made one, and a Cholesky factor of the size of the parameters.
    """
    generator = torch.Generator().manual_seed(seed)
    fitted = fitted_values(guide)
    real = users.exposure_covariates
    dealt = torch.randperm(users.n_users, generator=generator).to(real.device)
    beside, n_copies = torch.cat([real, real[dealt]], 1), real.shape[1]
    start = fitted | {n: _with_rows(fitted[n], n_copies) for n in OF_EXPOSURE_COVARIATES if n in fitted}

    known = information(guide, start, users, beside, seed)
    root = known.root()
    standard = torch.randn(len(root), draws, dtype=torch.double, generator=generator)
    around, sd = (root @ standard).T, root.square().sum(1).sqrt()

    spread, of_copy = (_unflat(flat, start) for flat in (around, known.step + around))
    drawn = {n: fitted[n].cpu() + spread[n][:, : len(fitted[n])] for n in fitted}
    placebo = {n: of_copy[n][:, -n_copies:] for n in OF_EXPOSURE_COVARIATES if n_copies and n in fitted}
    kept = {n: t[: len(fitted[n])] for n, t in _unflat(sd, start).items()}
    mean = {n: t.cpu() for n, t in fitted.items()}
    return ParameterPosterior(mean, kept, drawn, placebo, information_ratios(known, start))


@torch.no_grad()
def information(
    guide: Guide,
    values: Values,
    users: Cohort,
    exposure_covariates: Tensor,
    seed: int,
    before: Information | None = None,
    progress: bool = False,
) -> Information:
    """From the scores at `values`, with the prior's part; on the CPU, in double precision.

    Of an information `before`, at values near these, the curvature serves again.

    Raises
    ------
    FloatingPointError
        If the scores are not finite.
    """
    prior = _flat(_prior_precision(guide.model, values))
    question = guide, values, users, exposure_covariates, seed
    scatter, gradient = _scores_together(*question, made=0, progress=progress)
    gradient -= prior * _flat(values)
    if before is not None:
        return before._replace(scatter=scatter, gradient=gradient)
    copies = _copies(len(prior), users.n_users)
    curvature = (
        _scores_together(*question, made=copies, progress=progress)[0] / copies if copies else scatter.clone()
    )
    curvature.diagonal().add_(prior)
    cholesky, failed = torch.linalg.cholesky_ex(curvature)
    if failed or not gradient.isfinite().all():
        raise FloatingPointError("the users' scores are not finite; look for extreme covariates in users")
    return Information(scatter, cholesky, gradient, prior, users.n_users, max(copies, 1) * users.n_users)


def _copies(n_parameters: int, n_users: int) -> int:
    """How often the model makes the users' logs, for its curvature; 0: they would be too many."""
    needed = MADE_A_PARAMETER * n_parameters
    return min(math.ceil(needed / n_users), MOST_COPIES) if needed <= MOST_MADE else int(needed <= n_users)


def _scores_together(
    guide: Guide,
    values: Values,
    users: Cohort,
    exposure_covariates: Tensor,
    seed: int,
    made: int,
    progress: bool,
) -> tuple[Tensor, Tensor]:
    """Sum of the scores' outer products, and of the scores: of the users' own logs, or of so many `made` for them."""
    n = sum(t.numel() for t in values.values())
    outer, total_score = (torch.zeros(*[n] * d, dtype=torch.double) for d in (2, 1))
    at_once = max(SCORES_AT_ONCE // (PARTICLES * len(values["b"])), 1)
    batches = torch.arange(users.n_users, device=users.rows.device).repeat(max(made, 1)).split(at_once)
    with torch.random.fork_rng():
        torch.manual_seed(seed + place()[0])
        for i in tqdm(every_nth(len(batches)), "scoring", disable=not progress, leave=False):
            logs, covariates = users.batch(batches[i]), exposure_covariates[batches[i]]
            if made:
                logs = _made(guide.model, values, logs, covariates)
            scores = user_scores(guide, values, logs, covariates).double().cpu()
            outer += scores.T @ scores
            total_score += scores.sum(0)
    return total(outer), total(total_score)


def _made(model: HMVCRL, values: Values, logs: Logs, exposure_covariates: Tensor) -> Logs:
    """Logs that the model makes of these users, with their numbers of events."""
    asked = logs._replace(shown_cells=None, exposure_covariates=exposure_covariates)
    sites = poutine.trace(at(model, values)).get_trace(asked).nodes
    periods = [f"_{t + 1}" for t in range(logs.n_periods)] if logs.n_periods > 1 else [""]
    drawn = {
        name: torch.stack([sites[f"{name}{t}"]["value"] for t in periods], -2)
        for name in (
            "search",
            "exposure",
            "engagement",
            *(["suggested"] if logs.suggested is not None else []),
        )
    }
    return logs._replace(**{name: of if logs.n_periods > 1 else of.squeeze(-2) for name, of in drawn.items()})


def information_ratios(known: Information, values: Values) -> dict[str, Tensor]:
    """By block, how much more the users' scores vary than those of the users that the model makes (White 1982).

    The median of the block's parameters of which the users tell more than the prior; 1 where the model is right.
    """
    expected = (known.cholesky**2).sum(1) - known.prior  # the curvature's diagonal
    told = expected > known.prior
    blocks = [name.partition(".")[0] for name, t in values.items() for _ in range(t.numel())]
    ratio, found = known.scatter.diagonal() / expected, {}
    for block, names in BLOCKS.items():
        inside = told & torch.tensor([name in names for name in blocks])
        if inside.any():
            found[block] = ratio[inside].median().float()
    return found


@torch.no_grad()
def user_scores(guide: Guide, values: Values, logs: Logs, exposure_covariates: Tensor) -> Tensor:
    """Gradients ``(N, parameters)`` of each user's log likelihood at `values`, which may have more covariates.

    The gradient of the importance-weighted bound with its particles held still is the self-normalised estimate of
    the posterior expectation in Fisher's identity.
    """
    index = torch.arange(len(logs.index), device=logs.index.device)
    logs = logs._replace(index=index).given_past()
    proposal = guide.proposal(logs)
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
