"""Claims about many categories: like ones are grouped, and each gets weights that fit its own events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.metrics import adjusted_rand_score

from pyro_hmvcrl.data.folder import read_dataset
from pyro_hmvcrl.evidence.measures import mcc
from pyro_hmvcrl.guide import guide as guides
from pyro_hmvcrl.guide.experts import factor_posterior
from pyro_hmvcrl.guide.guide import ExpansionGuide
from pyro_hmvcrl.inference import groups as grouping
from pyro_hmvcrl.inference.groups import groups_of, in_groups, regress
from pyro_hmvcrl.inference.laplace import fitted_values
from pyro_hmvcrl.inference.settings import Settings
from pyro_hmvcrl.inference.svi import screen
from pyro_hmvcrl.story.logs import SparseLogs
from pyro_hmvcrl.synthetic.design import Design
from pyro_hmvcrl.synthetic.folder import write_simulation
from pyro_hmvcrl.synthetic.simulation import simulate

from worlds import TWO_AND_TWO, everyone, logs_of, true_expansion


@pytest.fixture
def few_are_many(monkeypatch):
    """Worlds small enough for a test."""
    monkeypatch.setattr(grouping, "MANY", 10)
    monkeypatch.setattr(grouping, "GROUPS", 6)


def sparse(logs):
    """As a dataset's logs are kept."""
    names = ("search", "exposure", "engagement", "suggested")
    counts = {n: csr_matrix(c.flatten(1).numpy()) for n in names if (c := getattr(logs, n)) is not None}
    return SparseLogs(logs.exposure_covariates, logs.preference_covariates, counts, *logs.search.shape[1:])


def of_kinds(n_periods=2):
    """2,000 users and 30 categories of six kinds, each category as often chosen as it happens to be."""
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.arange(30) % 6)
    counts = {}
    for name in ("search", "exposure"):
        logits = rng.normal(size=(2_000, 2)) @ rng.normal(size=(2, 6))[:, kind] + rng.normal(size=30)
        share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        counts[name] = csr_matrix(
            np.hstack([rng.multinomial(20, share) for _ in range(n_periods)]).astype(np.float32)
        )
    nothing = torch.zeros(2_000, 0)
    return kind, SparseLogs(nothing, nothing, counts, n_periods, 30)


def test_categories_that_users_treat_alike_are_one_group(few_are_many):
    kind, logs = of_kinds()
    found = groups_of(logs, np.arange(2_000), 0)
    assert adjusted_rand_score(kind, found) == 1
    assert torch.equal(found, groups_of(logs, np.arange(2_000), 0))


def test_groups_are_those_of_the_users_that_are_given(few_are_many, monkeypatch):
    kind, logs = of_kinds()
    upside_down = logs._replace(counts={n: csr_matrix(c.toarray()[:, ::-1]) for n, c in logs.counts.items()})
    both = logs._replace(
        counts={
            n: csr_matrix(np.vstack([c.toarray(), upside_down.counts[n].toarray()]))
            for n, c in logs.counts.items()
        }
    )
    assert adjusted_rand_score(kind[::-1], groups_of(both, np.arange(2_000, 4_000), 0)) == 1
    monkeypatch.setattr(grouping, "GROUPED_BY", 500)
    assert adjusted_rand_score(kind, groups_of(logs, np.arange(2_000), 0)) > 0.9


def test_a_category_without_events_has_a_group(few_are_many):
    _, logs = of_kinds(n_periods=1)
    counts = {n: csr_matrix(c.toarray() * (np.arange(30) != 4)) for n, c in logs.counts.items()}
    found = groups_of(logs._replace(counts=counts), np.arange(2_000), 0)
    assert sorted(found.unique().tolist()) == list(range(6))
    nothing = {n: csr_matrix(c.shape, dtype=np.float32) for n, c in counts.items()}
    one = groups_of(logs._replace(counts=counts | {"search": nothing["search"]}), np.arange(2_000), 0)
    assert len(one.unique()) == 6
    few = {n: csr_matrix(c.toarray() * (np.arange(30) < 3)) for n, c in counts.items()}
    assert len(groups_of(logs._replace(counts=few), np.arange(2_000), 0).unique()) == 3


def test_few_categories_are_not_grouped():
    assert groups_of(of_kinds()[1], np.arange(2_000), 0) is None


def test_events_by_group_are_sums():
    sim = simulate(replace(TWO_AND_TWO, users=40, periods=3, learning=0.5), 0)
    logs = sparse(logs_of(sim))
    groups = torch.tensor([0, 2, 1, 0, 2, 2] + [1] * (logs.n_categories - 6))
    found = in_groups(logs, groups).all()
    assert found.exposure.shape == (40, 3, 3)
    for group in range(3):
        whole = logs.all().exposure[..., groups == group].sum(-1)
        assert torch.equal(found.exposure[..., group], whole)


STORIES = {
    "one period": {},
    "periods": {"periods": 3, "learning": 0.5, "influence": 0.5, "familiarity": 0.2},
    "suggested": {"suggestion": 0.3},
}


@pytest.mark.parametrize("knobs", STORIES.values(), ids=STORIES)
def test_weights_of_each_category_are_brought_to_their_mode(knobs):
    """From the truth, with every category's weights moved at random."""
    sim = simulate(replace(TWO_AND_TWO, users=1_500, categories=8, **knobs), 0)
    guide, users = true_expansion(sim), everyone(logs_of(sim))
    guide.scoring_steps = 15
    start = fitted_values(guide)
    last = ("a", "b", "linear", "outer", "intercept")
    own = {n: t for n, t in start.items() if n.rpartition(".")[2] in last}
    kept = {n: t.clone() for n, t in own.items()}
    generator = torch.Generator().manual_seed(0)
    for value in own.values():
        value.add_(0.3 * torch.randn(value.shape, generator=generator))
    moves = [regress(guide, users, 0) for _ in range(6)]
    assert sorted(moves, reverse=True) == moves
    assert moves[-1] < 0.005 * moves[0]
    for name in ("a", "f_search.linear", "f_exposure.linear"):
        assert (own[name] - kept[name]).abs().median() < 0.12, (
            name
        )  # it was 0.2; of rare categories not much is told


def test_a_fit_of_many_categories_finds_what_one_of_few_does(monkeypatch, tmp_path):
    """Restarts see eight groups of 24 categories; the model that is kept has all of them."""
    sim = simulate(Design(users=1_200, periods=1), 0)
    write_simulation(sim, tmp_path / "data", 0, truth=False)
    dataset = read_dataset(tmp_path / "data", periods=1)
    settings = Settings(2, 3, restarts=2, steps=250, batch_size=512, device="cpu")
    monkeypatch.setattr(grouping, "MANY", 10)
    monkeypatch.setattr(grouping, "GROUPS", 8)
    found = screen(dataset, settings)
    of_all = everyone(logs_of(sim))
    assert found.guide.model.f_search.linear.shape == (3, 24)
    assert found.train.batch(torch.arange(2)).search.shape == (2, 24)
    others = found.restarts[1 - found.selected]
    assert others.guide.model.f_search.linear.shape == (3, 8)
    assert all(r.factors.shape == (120, 5) for r in found.restarts)
    factors, _ = factor_posterior(*found.guide.expansion(1_200).posterior(of_all.batch(torch.arange(1_200))))
    held = found.held_out
    in_groups = found.restarts[found.selected].factors
    for channel, truth, own in (
        ("platform", sim.platform, slice(0, 2)),
        ("preference", sim.preference, slice(2, 5)),
    ):
        whole, of_groups = (
            mcc(truth[held], z[:, own], n_bootstrap=0).value for z in (factors[held], in_groups)
        )
        assert whole > 0.9, channel
        assert whole > of_groups, channel


def test_of_many_categories_steps_end_at_the_mode(monkeypatch):
    sim = simulate(replace(TWO_AND_TWO, users=200, categories=8), 0)
    guide, logs = true_expansion(sim), logs_of(sim)
    taken = []
    expand = ExpansionGuide.expand
    monkeypatch.setattr(ExpansionGuide, "expand", lambda *a: taken.append(1) or expand(*a))
    _, all_steps = guide.expansion(200).posterior(logs)
    monkeypatch.setattr(guides, "MANY", 7)
    _, fewer = guide.expansion(200).posterior(logs)
    assert 15 < len(taken) < 30  # 15 of them for the first
    assert torch.allclose(all_steps.mean, fewer.mean, atol=0.05)


def test_a_group_s_suggested_searches_are_shared_out_too():
    sim = simulate(replace(TWO_AND_TWO, users=300, categories=12, suggestion=0.4), 0)
    logs = logs_of(sim)
    groups, settings = torch.arange(12) % 3, Settings(2, 2, restarts=1, device="cpu")
    in_three = true_expansion(simulate(replace(TWO_AND_TWO, users=300, categories=3, suggestion=0.4), 0))
    with torch.no_grad():
        for decoder in in_three.model.decoders:
            for weights in decoder.parameters():
                weights.zero_()
        in_three.coefficients.loc["echo"].fill_(0.5)
    guide = grouping._spread(in_three, groups, everyone(logs), settings, ExpansionGuide)
    model, echo = guide.model, guide.coefficients.means()["echo"]
    share = (echo * model.f_search.intercept + model.f_suggested.intercept).softmax(-1)
    events = logs.suggested.sum(0) + 1
    for group in range(3):
        own = groups == group
        torch.testing.assert_close(share[own] / share[own].sum(), events[own] / events[own].sum())
