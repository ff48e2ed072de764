"""The posterior over a further outcome's coefficients, after a fit: in two steps, of which the first stays as it was.

A user's factors are not known but have a posterior, given all that the fit has read.  The likelihood of what a user
says is the mean over that posterior (particles of the expansion guide, weighted by importance), not the likelihood at
its mean: factors that are known with error would make their loadings too small.  The mode is found by L-BFGS.  About
it the covariance is a sandwich, as that of the fit (:mod:`~pyro_hmvcrl.inference.laplace`)::

    H^-1 (J + prior) H^-1        H = curvature + prior

with J the outer products of the users' scores and the curvature the same of outcomes that the model makes.  What is not
known of the fit's own parameters goes in as well: each draw of the outcome's coefficients is the mode that goes with
the fit's draw of the same number, to first order, so that a factor whose unit is another in a draw has loadings to
match (Murphy & Topel 1985).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, repeat
from typing import NamedTuple

import pyro
import torch
from pyro import poutine
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.func import grad, vmap

from pyro_hmvcrl.guide.guide import Guide
from pyro_hmvcrl.inference.ambient import few_threads, own_state
from pyro_hmvcrl.inference.laplace import ParameterPosterior
from pyro_hmvcrl.inference.scores import Values, flat, unflat
from pyro_hmvcrl.story.logs import Cohort, Logs
from pyro_hmvcrl.story.outcomes import OutcomeStory
from pyro_hmvcrl.story.programs import at, log_joint, log_prob, observe

PARTICLES = 32  #: of a user's noise, in antithetic pairs
NUMBERS_AT_ONCE = 1 << 20  #: users times particles times categories, which bounds the memory
MADE_A_COEFFICIENT = 50  #: users whose outcomes the model makes, for the curvature
CARRIED = 500  #: users, at most, by whom it is found what a draw of the fit's parameters does to the mode
STEPS = 60  #: of L-BFGS, at most
MOST_COEFFICIENTS = 6_000  #: of an outcome, whose covariance is a matrix
SAME = 1e-5  #: change of the log posterior a user, below which a step has found the mode


class Known(NamedTuple):
    """Some users, what they say, and what is known of them after the fit."""

    logs: Logs
    said: Tensor  #: events shown of which the outcome holds, as `logs.exposure`
    factors: Tensor  #: particles ``(P, B, K)``
    readiness: Tensor  #: ``(P, B)``
    log_weights: Tensor  #: ``(P, B)``, of which the weights add up to 1


class Asked:
    """All users, of whom no more than what is known of their factors is held: events are taken some users at a time."""

    def __init__(self, guide: Guide, values: Values, users: Cohort, said: csr_matrix) -> None:
        self.users, self.said = users, said
        at_once = max(NUMBERS_AT_ONCE // (PARTICLES * len(values["b"])), 1)
        self.rows = torch.arange(users.n_users).split(at_once)
        self.particles = []
        for rows in self.rows:
            logs, _ = self.at(rows)
            self.particles.append(_particles(guide, values, logs, *_noise(guide, logs)))

    def at(self, rows: Tensor) -> tuple[Logs, Tensor]:
        """Some users, and what they say."""
        logs = self.users.batch(rows.to(self.users.rows.device)).to("cpu").numbered().given_past()
        return logs, torch.from_numpy(self.said[rows.numpy()].toarray()).float().view(logs.exposure.shape)

    def __iter__(self) -> Iterator[Known]:
        for rows, own in zip(self.rows, self.particles, strict=True):
            yield Known(*self.at(rows), *own)


def outcomes_posterior(
    guide: Guide, posterior: ParameterPosterior, users: Cohort, said: Mapping[str, csr_matrix], seed: int
) -> ParameterPosterior:
    """Posterior over the coefficients of several outcomes by name, as :func:`outcome_posterior` of each."""
    found = ParameterPosterior.nothing()
    for name, of in said.items():
        one = outcome_posterior(guide, posterior, users, of, name, seed)
        found = replace(found.with_outcomes(one), information=found.information | one.information)
    return found


@own_state()
def outcome_posterior(
    guide: Guide, posterior: ParameterPosterior, users: Cohort, said: csr_matrix, name: str, seed: int
) -> ParameterPosterior:
    """Posterior over the coefficients of an outcome, by name of their sites (``liked.a``), on the CPU.

    Its draws go with those of the fit's `posterior`, one by one.  Its `information` has the outcome for its one block.

    Parameters
    ----------
    users
        Whose logs were fitted.
    said
        Events shown of which the outcome holds, ``(N, T C)``, a row a user.

    Raises
    ------
    FloatingPointError
        If the users' scores are not finite.
    """
    guide = copy.deepcopy(guide).to("cpu")  # where the posterior is
    story = OutcomeStory(name, guide.model)
    torch.manual_seed(seed)
    with few_threads(NUMBERS_AT_ONCE):
        asked = Asked(guide, posterior.mean, users, said)
        values = _mode(story, asked, _start(story, asked))
        prior = flat({site: torch.full_like(t, _sd(story, site) ** -2) for site, t in values.items()})
        gradient, scatter, pulls = _pulled(story, values, asked, posterior.n_draws)
        curvature = _curvature(story, values, asked)
        moved = _carried(guide, story, values, posterior, asked)
    if not (gradient.isfinite().all() and curvature.isfinite().all()):
        raise FloatingPointError(f"the scores of outcome {name} are not finite; look for extreme covariates")
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(curvature + torch.diag(prior)))
    mode = flat(values) + inverse @ (gradient - prior * flat(values))  # what is left of the way there
    of_prior = torch.randn(pulls.shape, dtype=torch.double) * prior.sqrt()
    around = (moved + pulls + of_prior) @ inverse
    variance = (inverse @ (scatter + torch.diag(prior)) @ inverse).diagonal()
    sd = (variance + (moved @ inverse).square().mean(0)).sqrt()
    told = curvature.diagonal() > prior
    ratio = (scatter.diagonal() / curvature.diagonal())[told].median() if told.any() else torch.ones(())
    return ParameterPosterior(
        unflat(mode, values), unflat(sd, values), unflat(mode + around, values), {}, {name: ratio.float()}
    )


def log_likelihood(story: OutcomeStory, values: Values, known: Known) -> Tensor:
    """Log likelihood ``(B,)`` of what users say, given all that the fit has read of them."""
    given = pyro.condition(story, data=values | {story.name: known.said})
    trace = poutine.trace(given).get_trace(known.factors, known.readiness, known.logs)
    return (known.log_weights + log_prob(trace, story.name)).logsumexp(0)


@torch.no_grad()
def user_scores(story: OutcomeStory, values: Values, known: Known) -> Tensor:
    """Gradients ``(B, coefficients)`` of each user's log likelihood."""
    logs = known.logs.numbered()
    more = [name for name in ("suggested", "shown_cells") if getattr(logs, name) is not None]
    data = (*logs[2:7], *(getattr(logs, name) for name in more))

    def of_user(
        values: Values, factors: Tensor, readiness: Tensor, weights: Tensor, said: Tensor, *own: Tensor
    ) -> Tensor:
        user = Logs(torch.zeros(1, dtype=torch.long), 1, *(t[None] for t in own[:5]))
        user = user._replace(**{name: t[None] for name, t in zip(more, own[5:], strict=True)})
        one = Known(user, said[None], factors[:, None], readiness[:, None], weights[:, None])
        return log_likelihood(story, values, one)[0]

    each_user = vmap(grad(of_user), in_dims=(None, 1, 1, 1, 0, *(0 for _ in data)))
    with pyro.validation_enabled(False):  # its checks look at values, which vmap hides
        scores = each_user(values, known.factors, known.readiness, known.log_weights, known.said, *data)
    return torch.cat([t.flatten(1) for t in scores.values()], 1)


def _sd(story: OutcomeStory, site: str) -> float:
    """Of a coefficient's prior."""
    return float(story.priors[site.removeprefix(f"{story.name}.")][1])


@torch.no_grad()
def _noise(guide: Guide, logs: Logs) -> tuple[Tensor, Tensor]:
    """Draws of the users' noise given all that the fit has read, and their log probability where they come from."""
    proposal = guide.proposal(logs)
    noise = proposal.antithetic(PARTICLES)
    return noise, proposal.log_prob(noise)


@torch.no_grad()
def _particles(
    guide: Guide, values: Values, logs: Logs, noise: Tensor, log_proposal: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Factors and readiness of these draws of noise, and their log weights, at values of the fit's parameters."""
    held = pyro.condition(observe(at(guide.model, values), logs), data={"noise": noise})
    trace = poutine.trace(held).get_trace(logs)
    log_weights = log_joint(trace) - log_proposal
    factors, readiness = (trace.nodes[site]["value"] for site in ("_RETURN", "readiness"))
    return factors, readiness, log_weights - log_weights.logsumexp(0)


def _start(story: OutcomeStory, asked: Asked) -> Values:
    """Each category's own rate, and nothing else."""
    said, shown = torch.zeros(2, *story.priors["b"][2])
    for some in asked:
        said += some.said.flatten(0, -2).sum(0)
        shown += some.logs.exposure.flatten(0, -2).sum(0)
    least = 0.5 / (shown.sum() + 1)  # of what none of these users says, but perhaps another
    usual = (said.sum() / shown.sum()).clamp(least, 1 - least)
    rate = (said + usual) / (shown + 1)  # of a category that is not shown, the usual one
    values = {story.site(part): torch.zeros(shape) for part, (_, _, shape) in story.priors.items()}
    return values | {story.site("b"): rate.logit()}


def _mode(story: OutcomeStory, asked: Asked, start: Values) -> Values:
    """Where the log posterior of the coefficients is highest."""
    values = {name: value.clone().requires_grad_() for name, value in start.items()}
    n_users = asked.users.n_users
    search = torch.optim.LBFGS(
        list(values.values()), max_iter=STEPS, tolerance_change=SAME, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        search.zero_grad()
        of_prior = torch.stack([(v / _sd(story, name)).square().sum() for name, v in values.items()]).sum()
        loss = of_prior / (2 * n_users)
        loss.backward()
        total = loss.detach()
        for some in asked:
            of_users = -log_likelihood(story, values, some).sum() / n_users
            of_users.backward()
            total = total + of_users.detach()
        return total

    search.step(closure)
    return {name: value.detach() for name, value in values.items()}


@torch.no_grad()
def _pulled(story: OutcomeStory, values: Values, asked: Asked, draws: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of the users' scores the sum, the sum of outer products, and random pulls that have these for covariance."""
    n = sum(t.numel() for t in values.values())
    gradient, scatter, pulls = (
        torch.zeros(shape, dtype=torch.double) for shape in ((n,), (n, n), (draws, n))
    )
    for some in asked:
        scores = user_scores(story, values, some).double()
        gradient += scores.sum(0)
        scatter += scores.T @ scores
        pulls += torch.randn(draws, len(scores), dtype=torch.double) @ scores
    return gradient, scatter, pulls


@torch.no_grad()
def _curvature(story: OutcomeStory, values: Values, asked: Asked) -> Tensor:
    """Outer products of scores of outcomes that the model makes, as many users as there are."""
    n_coefficients = sum(t.numel() for t in values.values())
    rounds = -(-MADE_A_COEFFICIENT * n_coefficients // asked.users.n_users)
    total = torch.zeros(n_coefficients, n_coefficients, dtype=torch.double)
    for some in chain.from_iterable(repeat(asked, rounds)):
        scores = user_scores(story, values, some._replace(said=_made(story, values, some))).double()
        total += scores.T @ scores
    return total / rounds


def _made(story: OutcomeStory, values: Values, known: Known) -> Tensor:
    """What these users would say, by the model: each is one of the particles."""
    users = torch.arange(len(known.logs.index))
    one = torch.distributions.Categorical(logits=known.log_weights.T).sample()
    coefficients = {part: values[story.site(part)] for part in story.priors}
    of = story.events(coefficients, known.factors[one, users], known.readiness[one, users], known.logs)
    return torch.binomial(known.logs.exposure, of.probability)


def _carried(
    guide: Guide, story: OutcomeStory, values: Values, posterior: ParameterPosterior, asked: Asked
) -> Tensor:
    """By how much each draw of the fit's parameters moves the sum of scores ``(draws, coefficients)``.

    Of some users, for all, with the same noise in all draws.
    """
    rows = torch.randperm(asked.users.n_users)[:CARRIED]
    logs, said = asked.at(rows)
    drawn = _noise(guide, logs)

    def pull(of_fit: Values) -> Tensor:
        leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
        particles = _particles(guide, of_fit, logs, *drawn)
        total = log_likelihood(story, leaves, Known(logs, said, *particles)).sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(leaves.values()))]).double()

    here = pull(posterior.mean)
    moved = [pull(posterior.draw(i)) - here for i in range(posterior.n_draws)]
    return torch.stack(moved) * (asked.users.n_users / len(rows))
