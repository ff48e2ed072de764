"""Users' scores: gradients of their log likelihoods, of their own logs or of logs that the model makes.

A user's score is the gradient of the log likelihood of that user's events: by Fisher's identity an expectation over the
user's posterior, taken by importance sampling from the expansion guide.  Scores of many users are never held at once:
:func:`scores_of` gives them a few users at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.func import grad, jacrev, vmap
from tqdm.auto import tqdm

from pyro_hmvcrl.guide.guide import MANY, Guide
from pyro_hmvcrl.inference.processes import every_nth, place
from pyro_hmvcrl.story.logs import Cohort, Logs
from pyro_hmvcrl.story.model import HMVCRL
from pyro_hmvcrl.story.programs import at, log_joint, observe

PARTICLES = 128  #: of a user's noise, in antithetic pairs
PARTICLES_OF_MANY = 8  #: which at 700 are as good: the same distance from the mode as with 128, to 2%
SCORES_AT_ONCE = 1 << 20  #: users times particles times categories, which bounds the memory
DERIVATIVES = 16  #: what a user's unknowns cost at most, in a particle's scores
CHOSEN = ("search", "suggested", "exposure")  #: sites where one category is chosen of all
Values = dict[str, Tensor]


def flat(values: Values) -> Tensor:
    """All parameters ``(parameters,)``, in double precision on the CPU."""
    return torch.cat([t.flatten() for t in values.values()]).double().cpu()


def unflat(flattened: Tensor, like: Values) -> Values:
    """``(..., parameters)`` by name, in single precision."""
    parts = flattened.float().split([t.numel() for t in like.values()], -1)
    return {n: part.unflatten(-1, t.shape) for part, (n, t) in zip(parts, like.items(), strict=True)}


def scores_of(
    guide: Guide,
    values: Values,
    users: Cohort,
    exposure_covariates: Tensor,
    rows: Tensor,
    seed: int,
    made: bool,
    progress: bool = False,
) -> Iterator[Tensor]:
    """Scores ``(some, parameters)`` of the users at `rows`, on the CPU: this process's share.

    Of their own logs, or of logs that the model has `made` for them.
    """
    at_once = max(SCORES_AT_ONCE // (_particles(values) * len(values["b"])), 1)
    batches = rows.to(users.rows.device).split(at_once)
    with torch.random.fork_rng():
        torch.manual_seed(seed + place()[0])
        for i in tqdm(every_nth(len(batches)), "scoring", disable=not progress, leave=False):
            logs, covariates = users.batch(batches[i]), exposure_covariates[batches[i]]
            if made:
                logs = made_logs(guide.model, values, logs, covariates)
            yield user_scores(guide, values, logs, covariates).cpu()


@torch.no_grad()
def user_scores(guide: Guide, values: Values, logs: Logs, exposure_covariates: Tensor) -> Tensor:
    """Gradients ``(N, parameters)`` of each user's log likelihood at `values`, which may have more covariates.

    The gradient of the importance-weighted bound with its particles held still is the self-normalised estimate of
    the posterior expectation in Fisher's identity.
    """
    logs = logs.numbered().given_past()
    proposal = guide.proposal(logs)
    particles = _particles(values)
    noise = proposal.antithetic(particles)
    data, traced = _by_user(guide.model, logs, exposure_covariates)

    def log_likelihood(parameters: Values, noise: Tensor, log_proposal: Tensor, *data: Tensor) -> Tensor:
        joint = log_joint(traced(parameters, noise[:, None], *data))[:, 0]
        return (joint - log_proposal).logsumexp(0) - math.log(particles)

    each_user = vmap(grad(log_likelihood), in_dims=(None, 1, 1, *(0 for _ in data)))
    with pyro.validation_enabled(False):  # its checks look at values, which vmap hides
        scores = each_user(values, noise, proposal.log_prob(noise), *data)
    return torch.cat([t.flatten(1) for t in scores.values()], 1)


def _particles(values: Values) -> int:
    return PARTICLES if len(values["b"]) <= MANY else PARTICLES_OF_MANY


def unknowns_of(
    guide: Guide, values: Values, users: Cohort, exposure_covariates: Tensor, rows: Tensor, seed: int
) -> Iterator[Tensor]:
    """What keeps the users at `rows` from telling of each parameter by itself, ``(some, unknowns, parameters)``.

    See :func:`user_unknowns`.  The same in every process.
    """
    at_once = max(SCORES_AT_ONCE // (DERIVATIVES * len(values["b"]) * users.batch(rows[:1]).n_periods), 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for some in rows.to(users.rows.device).split(at_once):
            yield user_unknowns(guide, values, users.batch(some), exposure_covariates[some]).cpu()


@torch.no_grad()
def user_unknowns(guide: Guide, values: Values, logs: Logs, exposure_covariates: Tensor) -> Tensor:
    """Vectors ``(N, unknowns, parameters)`` whose outer products the users' information lacks.

    Given a user's noise, what the events say of a category's parameters would concern this category alone, but for
    three things, which tie categories.  The noise is not known: by Louis (1982) that takes away the variance, over the
    user's posterior, of the complete data's score, which is its derivative by the noise times a root of the noise's
    covariance.  Shares add up to one: that takes away the outer product of their normaliser's gradient.  And what moves
    engagement in every category alike (alpha, delta, readiness) can be told from each category's own only as far as
    users' numbers of engaged events move otherwise.

    Drawn at noise from the prior, with as many events of each kind as the model expects there.  So they change
    smoothly from user to user, and few users do to see in which directions they lie; scores have the events' chance
    in them.
    """
    logs, noise = expected_logs(guide.model, values, logs, exposure_covariates)
    logs = logs.given_past()
    root = guide.proposal(logs).root
    data, traced = _by_user(guide.model, logs, exposure_covariates)

    def pulls(parameters: Values, noise: Tensor, root: Tensor, *data: Tensor) -> Tensor:
        def joint(noise: Tensor) -> tuple[Tensor, Tensor]:
            trace = traced(parameters, noise[None], *data)
            ties = [_normaliser(trace.nodes[name]) for name in CHOSEN if name in trace.nodes]
            return log_joint(trace)[0], torch.stack([*ties, _engaged(trace.nodes["engagement"])])

        by_noise, ties = grad(joint, has_aux=True)(noise)
        return torch.cat([root @ by_noise, ties])

    each_user = vmap(jacrev(pulls), in_dims=(None, 0, 1, *(0 for _ in data)))
    with pyro.validation_enabled(False):
        found = each_user(values, noise, root, *data)
    return torch.cat([t.flatten(2) for t in found.values()], 2)


def _normaliser(site: dict[str, Any]) -> Tensor:
    """The log normaliser of a user's events, such that its gradient's outer product is what it takes away."""
    events, of = site["value"].sum(-1), getattr(site["fn"], "base_dist", site["fn"])
    return (events * of.log_normaliser).sum() / events.sum().clamp_min(1).sqrt()


def _engaged(site: dict[str, Any]) -> Tensor:
    """How many events of a user are expected to be engaged, in units of the root of their number."""
    of = getattr(site["fn"], "base_dist", site["fn"])  # where the plate of users has expanded it
    shown = of.total
    return (shown * of.probability).sum() / shown.sum().clamp_min(1).sqrt()


def _by_user(
    model: HMVCRL, logs: Logs, exposure_covariates: Tensor
) -> tuple[tuple[Tensor, ...], Callable[..., poutine.Trace]]:
    """The users' data, each with users first, and the trace of one user: at parameters, noise and that user's data."""
    more = [name for name in ("suggested", "shown_cells") if getattr(logs, name) is not None]

    def traced(parameters: Values, noise: Tensor, *data: Tensor) -> poutine.Trace:
        user = Logs(data[0][None], 1, *(t[None] for t in data[1:6]))
        user = user._replace(**{name: t[None] for name, t in zip(more, data[6:], strict=True)})
        held = pyro.condition(observe(at(model, parameters), user), data={"noise": noise})
        return poutine.trace(held).get_trace(user)

    return (logs.index, exposure_covariates, *logs[3:7], *(getattr(logs, name) for name in more)), traced


def made_logs(model: HMVCRL, values: Values, logs: Logs, exposure_covariates: Tensor) -> Logs:
    """Logs that the model makes of these users, with their numbers of events."""
    return _of_sites(logs, _drawn(model, values, logs, exposure_covariates), lambda site: site["value"])


def expected_logs(
    model: HMVCRL, values: Values, logs: Logs, exposure_covariates: Tensor
) -> tuple[Logs, Tensor]:
    """The same with each period's expected events, after a past that the model makes; and the noise of these users."""
    sites = _drawn(model, values, logs, exposure_covariates)
    shares = _of_sites(logs, sites, lambda site: site["fn"].probability)
    events = {name: total.unsqueeze(-1) * getattr(shares, name) for name, total in logs.totals().items()}
    engaged = shares.engagement * events["exposure"]
    return logs._replace(**events, engagement=engaged), sites["noise"]["value"]


def _drawn(model: HMVCRL, values: Values, logs: Logs, exposure_covariates: Tensor) -> dict[str, Any]:
    """Sites of the story, played for these users."""
    asked = logs._replace(shown_cells=None, exposure_covariates=exposure_covariates)
    sites: dict[str, Any] = poutine.trace(at(model, values)).get_trace(asked).nodes
    return sites


def _of_sites(logs: Logs, sites: dict[str, Any], events: Callable[[dict[str, Any]], Tensor]) -> Logs:
    """The logs with what `events` takes from the sites of each surface."""
    periods = [f"_{t + 1}" for t in range(logs.n_periods)] if logs.n_periods > 1 else [""]
    surfaces = ["search", "exposure", "engagement", *(["suggested"] if logs.suggested is not None else [])]
    taken = {name: torch.stack([events(sites[f"{name}{t}"]) for t in periods], -2) for name in surfaces}
    return logs._replace(**{name: of if logs.n_periods > 1 else of.squeeze(-2) for name, of in taken.items()})
