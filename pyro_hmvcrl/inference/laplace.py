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

Scores are those of :mod:`~pyro_hmvcrl.inference.scores`; the inverse of H is a matrix of all parameters, or for many
categories blocks and directions (:mod:`~pyro_hmvcrl.inference.curvature`).  J is never a matrix: where scores go by,
random pulls add up that have it for their covariance, and H^-1 turns these into draws.

Structural coefficients and decoder weights are taken together, so that an edge's uncertainty has in it that of the
decoders, which say what a factor's unit is.  The decoders' hidden features (``inner``, ``shift``) stay as fitted: what
they could do, ``outer`` can.

The same scores bring the fit to the mode (:func:`score_to_the_mode`): it starts near, and ends within a fraction of
a standard deviation, where without it the bound's slack, which no number of users mends, would bias the effects.

Of n users to whom k parameters were fitted, the spread of what they pull by is taken to be too small by (n - k) / n,
as that of residuals is, and is made up for; k counts what categories share, but no category's own.

The same pass gives a **placebo**.  A copy of the exposure covariates, dealt out anew among the users, stands beside
the real ones, and its coefficients, truly zero, are estimated too, by one scoring step.  The effect that a policy
shift of the copy seems to have is what this fit makes of nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyro_hmvcrl.guide.guide import MANY, Guide
from pyro_hmvcrl.inference.ambient import own_state
from pyro_hmvcrl.inference.curvature import FEWEST_LEFT, Curvature, curvature
from pyro_hmvcrl.inference.processes import of_first, place, total
from pyro_hmvcrl.inference.scores import Values, flat, scores_of, unflat
from pyro_hmvcrl.story.emissions import DECODER_PRIOR
from pyro_hmvcrl.story.logs import Cohort
from pyro_hmvcrl.story.model import HMVCRL

DRAWS = 200
SCORING_STEPS = 5  #: at most
NEAR = 0.05  #: steps end at this squared distance from the mode a parameter, in its standard deviations
NEAR_OF_MANY = 0.01  #: the same of many categories, whose many parameters can be off together
SERVES = 0.1  #: of many categories, a curvature serves again from a place as near as this
FAR_FROM_MODE = (
    0.5  #: standard deviations of the posterior, a parameter: a fit that scoring leaves there is stuck
)
MOST_PARAMETERS = 500_000  #: about 11,000 categories
#: Users, at most, from whom the variances of many parameters are taken, and of noise; their errors are then about 1%.
VARIED = 4_096
USERS_A_PARAMETER = (
    2  #: of those that categories share; with fewer, the log posterior is no parabola as far as a step goes
)
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

    def with_outcomes(self, outcomes: ParameterPosterior) -> ParameterPosterior:
        """The posterior with further outcomes' coefficients among its parameters."""
        mean, sd, draws = self.mean | outcomes.mean, self.sd | outcomes.sd, self.draws | outcomes.draws
        return ParameterPosterior(mean, sd, draws, self.placebo, self.information)

    @classmethod
    def nothing(cls) -> ParameterPosterior:
        """That of no parameters."""
        return cls({}, {}, {}, {}, {})

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


@dataclass(frozen=True)
class Information:
    """What the users say of the parameters, with the prior, and what the model expects them to say.

    Of the scatter, which would be a matrix of all parameters, only its diagonal is kept, and what is to be multiplied
    with it: random pulls of which it is the covariance, and what variance they make.
    """

    curvature: Curvature
    gradient: Tensor  #: (parameters,), of the log posterior
    prior: Tensor  #: (parameters,), precision
    n_users: int
    scatter: Tensor  #: (parameters,), the diagonal
    pulls: Tensor  #: (parameters, draws)
    variance: Tensor  #: (parameters,) that the scatter makes at the mode; not worked out where no draws are asked for

    @property
    def step(self) -> Tensor:
        """From here to the mode, were the log posterior a parabola."""
        return self.curvature.solve(self.gradient)

    @property
    def left(self) -> float:
        """Of what the users would pull by, that is left at the mode of parameters that were fitted to them."""
        return max(1 - self.curvature.tied / self.n_users, FEWEST_LEFT)

    @property
    def sd(self) -> Tensor:
        """Standard deviations ``(parameters,)`` of the posterior."""
        return (self.variance / self.left + self.curvature.variance(self.prior)).sqrt()

    def draws(self, generator: torch.Generator) -> Tensor:
        """Of the posterior about its mode, ``(draws, parameters)``."""
        of_prior = torch.randn(self.pulls.shape, dtype=torch.double, generator=generator)
        return self.curvature.spread(self.pulls / self.left**0.5 + self.prior.sqrt()[:, None] * of_prior).T


def score_to_the_mode(guide: Guide, users: Cohort, seed: int, progress: bool = False) -> list[float]:
    """Move the parameters to the mode of their posterior, in place, by Fisher scoring with all of these users.

    Returns what each step saw: the squared distance from the mode in standard deviations of the posterior, a
    parameter that the users determine; nothing, and nothing is moved but factors' units, where the users are too few
    (`USERS_A_PARAMETER`).  Of a step that led away from the mode, half is taken.  The Laplace prior of the edges is
    taken as a Normal of its variance.

    With many categories a step's curvature is taken anew until the mode is near, and before every step each factor is
    measured in its unit (:func:`standardise_noise`).
    """
    own = dict(guide.model.named_parameters()) | guide.coefficients.means()
    features = {n: t for n, t in guide.model.named_parameters() if n.endswith(".inner")}
    distances: list[float] = []
    before = step = torch.empty(0)  # the nearest place so far, and what leads on from there
    of_before: Values = {}  # its decoders' hidden features
    length = 1.0
    known: Information | None = None
    many = len(guide.coefficients.means()["b"]) > MANY
    while len(distances) < SCORING_STEPS:
        if many:
            standardise_noise(guide, users)
        values = fitted_values(guide)
        serves = known if not many or min(distances, default=torch.inf) < SERVES else None
        known = information(guide, values, users, users.exposure_covariates, seed, serves, progress)
        if users.n_users < USERS_A_PARAMETER * known.curvature.tied:
            break
        nearest = min(distances, default=torch.inf)
        distances.append(float(known.gradient @ known.step) / known.curvature.determined)
        if away := distances[-1] > nearest:
            length /= 2
            for name, of in features.items():
                of.data.copy_(of_before[name])
        else:
            before, step = flat(values), known.step  # a copy, as the step changes the values in place
            of_before = {name: of.detach().clone() for name, of in features.items()}
        stay = away and len(distances) == SCORING_STEPS
        for name, value in unflat(before if stay else before + length * step, values).items():
            own[name].data.copy_(value)
        if distances[-1] < (NEAR_OF_MANY if many else NEAR):
            break
    if many:
        standardise_noise(guide, users)
    return distances


@torch.no_grad()
def standardise_noise(guide: Guide, users: Cohort) -> None:
    """Measure each factor in the unit that makes its noise standard over the users, in place.

    Factors that grow while weights shrink leave every likelihood as it is, but for the noise, whose standard normal
    prior sets the unit.  With many categories the weights' priors outweigh it, and steps of the weights alone go that
    way slowly, if at all, as the decoders' hidden features stay where they are.  So the noise's variance is taken for a
    parameter, found, and made 1 (parameter expansion: Liu, Rubin & Wu 1998).
    """
    some = torch.arange(0, users.n_users, math.ceil(users.n_users / VARIED), device=users.rows.device)
    _, noise = guide.expansion(len(some)).posterior(users.batch(some).numbered())
    unit = of_first((noise.mean.square() + noise.root.square().sum(0)).mean(0)[:-1].sqrt())
    model, coefficients = guide.model, guide.coefficients.means()
    platform, preference = model.channels(unit)
    for channel, of_channel in (("platform", platform), ("preference", preference)):
        for part in ("location", "bend"):
            coefficients[f"{channel}_{part}"].div_(of_channel)
    coefficients["edges"].mul_(unit.unsqueeze(1) / unit)
    coefficients["a"].mul_(preference)
    coefficients["alpha"].mul_(platform)
    for decoder, of_channel in zip(model.decoders, (preference, platform, platform), strict=False):
        for weights in (decoder.linear, decoder.inner):
            weights.mul_(of_channel.unsqueeze(1))


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

    Cost: the scores, a gradient for each user and each made one, and memory as :func:`curvature` takes it.
    """
    generator = torch.Generator().manual_seed(seed)
    fitted = fitted_values(guide)
    real = users.exposure_covariates
    dealt = torch.randperm(users.n_users, generator=generator).to(real.device)
    beside, n_copies = torch.cat([real, real[dealt]], 1), real.shape[1]
    start = fitted | {n: _with_rows(fitted[n], n_copies) for n in OF_EXPOSURE_COVARIATES if n in fitted}

    known = information(guide, start, users, beside, seed, draws=draws)
    around, sd = known.draws(generator), known.sd

    spread, of_copy = (unflat(flat, start) for flat in (around, known.step + around))
    drawn = {n: fitted[n].cpu() + spread[n][:, : len(fitted[n])] for n in fitted}
    placebo = {n: of_copy[n][:, -n_copies:] for n in OF_EXPOSURE_COVARIATES if n_copies and n in fitted}
    kept = {n: t[: len(fitted[n])] for n, t in unflat(sd, start).items()}
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
    draws: int = 0,
) -> Information:
    """From the scores at `values`, with the prior's part; on the CPU, in double precision.

    Of an information `before`, at values near these, the curvature serves again.

    Raises
    ------
    FloatingPointError
        If the scores are not finite.
    """
    prior = flat(prior_precision(guide.model, values))
    question = guide, values, users, exposure_covariates
    of = before.curvature if before else curvature(*question, prior, seed, progress)
    generator = torch.Generator().manual_seed(seed + place()[0])
    gradient, scatter, variance = torch.zeros(3, len(prior), dtype=torch.double)
    pulls = torch.zeros(len(prior), draws, dtype=torch.double)
    varied = 0
    rows = torch.arange(users.n_users)
    many = len(values["b"]) > MANY
    if many:  # those that come first are any
        rows = rows[torch.randperm(users.n_users, generator=torch.Generator().manual_seed(seed))]
    for scores in scores_of(*question, rows, seed, made=False, progress=progress):
        own = scores.double().T
        gradient += own.sum(1)
        scatter += own.square().sum(1)
        if draws:
            pulls += own @ torch.randn(own.shape[1], draws, dtype=torch.double, generator=generator)
            if not many or varied < VARIED:
                variance += of.spread(own).square().sum(1)
                varied += own.shape[1]
    gradient, scatter, pulls, variance = map(total, (gradient, scatter, pulls, variance))
    variance *= users.n_users / max(float(total(torch.tensor(float(varied)))), 1.0)
    gradient -= prior * flat(values)
    if not gradient.isfinite().all():
        raise FloatingPointError("the users' scores are not finite; look for extreme covariates in users")
    return Information(of, gradient, prior, users.n_users, scatter, pulls, variance)


def information_ratios(known: Information, values: Values) -> dict[str, Tensor]:
    """By block, how much more the users' scores vary than those of the users that the model makes (White 1982).

    The median of the block's parameters of which the users tell more than the prior; 1 where the model is right.
    """
    expected = known.curvature.diagonal - known.prior
    told = expected > known.prior
    blocks = [name.partition(".")[0] for name, t in values.items() for _ in range(t.numel())]
    ratio, found = known.scatter / expected, {}
    for block, names in BLOCKS.items():
        inside = told & torch.tensor([name in names for name in blocks])
        if inside.any():
            found[block] = ratio[inside].median().float()
    return found


def fitted_values(guide: Guide) -> Values:
    """What is given a posterior: the structural coefficients, and the decoders' weights but for `inner` and `shift`."""
    weights = {n: w for n, w in guide.model.named_parameters() if n.rpartition(".")[2] in DECODER_PRIOR}
    return {n: t.detach() for n, t in (guide.coefficients.means() | weights).items()}


def prior_precision(model: HMVCRL, values: Values) -> Values:
    """The priors' precisions (of the Laplace prior, that of its variance)."""
    sd = {n: scale * (2**0.5 if n == "edges" else 1) for n, (_, scale, _) in model.priors.items()}
    sd |= {n: DECODER_PRIOR[n.rpartition(".")[2]] for n in values if n not in model.priors}
    return {n: torch.full_like(t, sd[n] ** -2) for n, t in values.items()}


def _with_rows(rows: Tensor, more: int) -> Tensor:
    return pad(rows, (0,) * (2 * rows.dim() - 1) + (more,))
