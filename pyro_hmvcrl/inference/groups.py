"""Many categories: restarts see them in groups of like ones, and then each gets weights of its own.

A restart's step goes through all categories, but the users' factors, which it is to find, are few, and moderately many
groups tell of them nearly as well.  So with more than `MANY` categories

1. like ones are **grouped**: by correspondence analysis of each surface's counts (Benzecri 1973; Greenacre 2017), whose
   leading axes are what moves users' shares, and k-means in these;
2. restarts are fitted to the groups' counts, at a cost that no longer grows with the categories;
3. from the one that is kept, every category takes its group's weights, and a few steps of EM give it **its own**: given
   draws of the users' factors, each category's weights are a regression by itself
   (:mod:`~pyro_hmvcrl.inference.regressions`).

Fisher scoring with all parameters then goes on from there, as from any restart.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, identity, kron
from sklearn.cluster import KMeans
from sklearn.utils.extmath import randomized_svd
from torch import Tensor
from tqdm.auto import tqdm

from pyro_hmvcrl.guide.guide import MANY, STEPS_FROM_AFAR, ExpansionGuide
from pyro_hmvcrl.inference.processes import every_nth, of_first, place, total
from pyro_hmvcrl.inference.regressions import DRAWS, batches_of, regressions
from pyro_hmvcrl.inference.restarts import Build, events_by_category, new_model, seed_of
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.story.emissions import DECODER_PRIOR
from pyro_hmvcrl.story.logs import Cohort, SparseLogs

GROUPS = 64
AXES = 8  #: of each surface
INITS = 4  #: of k-means
GROUPED_BY = 50_000  #: users, at most
FEW_EVENTS = 4  #: of a category, whose place on the axes is half chance
STEPS = 8  #: of EM, at most
NEAR = 0.1  #: EM ends where the squared moves, in standard deviations, are less on average, on every surface


# --- Groups --------------------------------------------------------------------------------------------------


def groups_of(logs: SparseLogs, rows: NDArray[np.int64], seed: int) -> Tensor | None:
    """Which group each category is in ``(C,)``, by the counts of the users at `rows`; None where they are not many.

    The same in every process.
    """
    if logs.n_categories <= MANY:
        return None
    some = rows[:: -(-len(rows) // GROUPED_BY)]
    periods = kron(np.ones((logs.n_periods, 1)), identity(logs.n_categories), format="csr")
    counts = [csr_matrix(logs.counts[name][some].astype(float) @ periods) for name in ("search", "exposure")]
    weight = sum(np.asarray(x.sum(0)).ravel() for x in counts)
    places = np.concatenate([_places(x, seed) for x in counts], axis=1)
    n_groups = min(GROUPS, len(np.unique(places[weight > 0], axis=0)))
    found = KMeans(n_groups, n_init=INITS, random_state=seed).fit_predict(places, sample_weight=weight)
    _, numbered = np.unique(found, return_inverse=True)
    groups = torch.from_numpy(numbered)
    return of_first(groups)


def _places(counts: csr_matrix, seed: int) -> NDArray[np.float64]:
    """Where the categories lie ``(C, AXES)`` on the leading axes of the correspondence analysis of counts ``(N, C)``.

    In log odds a standard deviation of what moves users; a category of few events is drawn in towards the middle.
    """
    events, of_user = (np.asarray(counts.sum(axis)).ravel() for axis in (0, 1))
    root_share = np.sqrt(events / max(events.sum(), 1))
    scaled = counts.multiply(_inverse(np.sqrt(of_user))[:, None]).multiply(_inverse(root_share)).tocsr()
    _, size, vectors = randomized_svd(scaled, min(AXES + 1, *counts.shape), random_state=seed)
    axes = size[1:, None] * vectors[1:]  # the first is that of the shares of all users together
    return np.asarray(axes.T * np.sqrt(events)[:, None] / (events + FEW_EVENTS)[:, None])


def _inverse(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(1, values, out=np.zeros_like(values), where=values > 0)


def in_groups(logs: SparseLogs, groups: Tensor) -> SparseLogs:
    """The same events by group."""
    n, n_groups = len(groups), int(groups.max()) + 1
    belongs = csr_matrix((np.ones(n, np.float32), (np.arange(n), groups.numpy())), shape=(n, n_groups))
    of_all = kron(identity(logs.n_periods, np.float32), belongs, format="csr")
    counts = {name: csr_matrix(of @ of_all) for name, of in logs.counts.items()}
    return logs._replace(counts=counts, n_categories=n_groups)


# --- Weights of each category's own -----------------------------------------------------------------------------


def of_each_category(
    start: ExpansionGuide, groups: Tensor, users: Cohort, settings: Settings, build: Build, progress: bool
) -> ExpansionGuide:
    """A guide of all categories, from that of their `groups`: its weights, and then each category's own by EM."""
    guide = _spread(start, groups, users, settings, build)
    for _ in tqdm(range(STEPS), "categories", disable=not progress, leave=False):
        if regress(guide, users, seed_of(settings, 0)) < NEAR:
            break
    return guide


@torch.no_grad()
def _spread(
    start: ExpansionGuide, groups: Tensor, users: Cohort, settings: Settings, build: Build
) -> ExpansionGuide:
    """Every category with the weights of its group, and with its share of it."""
    guide = build(new_model(users, settings), users.n_users).to(users.rows.device)
    guide.scoring_steps = STEPS_FROM_AFAR
    groups = groups.to(users.rows.device)
    state = guide.state_dict()
    for name, value in start.state_dict().items():
        grouped = [i for i, n in enumerate(value.shape) if n != state[name].shape[i]]
        state[name] = value.index_select(grouped[0], groups) if grouped else value
    guide.load_state_dict(state)
    model = guide.model
    *surfaces, suggested = (_share_of_group(events, groups) for events in events_by_category(users))
    for decoder, share in zip((model.f_search, model.f_exposure), surfaces, strict=True):
        decoder.intercept += share.log()
    if "echo" in model.priors:  # a part comes by way of search
        model.f_suggested.intercept += (
            suggested.log() - guide.coefficients.means()["echo"] * surfaces[0].log()
        )
    return guide


def _share_of_group(events: Tensor, groups: Tensor) -> Tensor:
    """Each category's share of its group's events ``(C,)``."""
    of_group = torch.zeros(int(groups.max()) + 1, device=groups.device).index_add_(0, groups, events + 1)
    return (events + 1) / of_group[groups]


@torch.no_grad()
def regress(guide: ExpansionGuide, users: Cohort, seed: int) -> float:
    """One step of EM, in place: a step of Fisher scoring of each category's weights, the rest held where it is.

    With the same `seed` steps have the same draws, and come to rest.
    Returns the largest over surfaces of the mean squared move, in standard deviations.
    """
    batches, weights, sums = batches_of(users), _weights(guide), {}
    for name, (parts, _) in weights.items():
        n, q = parts[0].shape[-1], sum(map(len, parts))
        sums[name] = parts[0].new_zeros(n, q), parts[0].new_zeros(n, q, q)
    with torch.random.fork_rng():
        torch.manual_seed(seed + place()[0])
        for i in every_nth(len(batches)):
            for name, of in regressions(guide, users.batch(batches[i])):
                features = of.features.flatten(0, 1)
                outer = (features.unsqueeze(-1) * features.unsqueeze(-2)).flatten(1)
                pull, information = sums[name]
                pull += of.surplus.flatten(0, 1).mT @ features / DRAWS
                information += (of.spread.flatten(0, 1).mT @ outer / DRAWS).view_as(information)
    return max(_moved(*of, *map(total, sums[name])) for name, of in weights.items())


def _moved(parts: list[Tensor], sds: list[float], pull: Tensor, information: Tensor) -> float:
    """Take the step, of no more than 1 in each weight."""
    precision = torch.cat([torch.full((len(t),), sd**-2.0) for t, sd in zip(parts, sds, strict=True)]).to(
        pull
    )
    gradient = (pull - precision * torch.cat(parts).mT).double()
    step = torch.linalg.solve(information.double() + precision.double().diag(), gradient)
    for part, by in zip(parts, step.clamp(-1, 1).float().mT.split([len(t) for t in parts]), strict=True):
        part += by
    return float((gradient * step).mean())


def _weights(guide: ExpansionGuide) -> dict[str, tuple[list[Tensor], list[float]]]:
    """By surface, each category's weights as rows ``(some, C)`` that can be written to, and their priors' scales."""
    model, names = guide.model, ("intercept", "linear", "outer")
    decoders = dict(zip(("search", "exposure", "suggested"), model.decoders, strict=False))
    found = {
        surface: (
            [getattr(decoder, name).detach().view(-1, decoder.intercept.shape[0]) for name in names],
            [DECODER_PRIOR[name] for name in names],
        )
        for surface, decoder in decoders.items()
    }
    coefficients = guide.coefficients.means()
    of_engagement = [coefficients["b"].detach().unsqueeze(0), coefficients["a"].detach().mT]
    return found | {"engagement": (of_engagement, [model.priors[name][1] for name in ("b", "a")])}
