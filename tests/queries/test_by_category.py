"""Claims about answers by category: many outcomes asked at once are what they are one by one."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyro_hmvcrl.inference.laplace import ParameterPosterior, fitted_values
from pyro_hmvcrl.queries import by_category
from pyro_hmvcrl.queries.averages import Users, average_effects
from pyro_hmvcrl.queries.by_category import SURFACES, shares_by_category, shown
from pyro_hmvcrl.queries.mediation import Mediators
from pyro_hmvcrl.synthetic import Design, simulate

from worlds import logs_of, true_expansion


@pytest.fixture(scope="module", params=[1, 3])
def asked(request):
    """A world of one or several periods, a posterior around its truth, and how to ask it."""
    design = Design(users=120, categories=5, periods=request.param, learning=float(request.param > 1))
    sim = simulate(design, 1)
    guide, logs = true_expansion(sim), logs_of(sim)
    mean = fitted_values(guide)
    torch.manual_seed(0)
    draws = {name: value + 0.05 * torch.randn(4, *value.shape) for name, value in mean.items()}
    posterior = ParameterPosterior(mean, mean, draws, {}, {})
    shifted = {"exposure_covariates": logs.exposure_covariates + torch.eye(5)[0]}
    asks = partial(average_effects, guide, posterior, Users(logs), shifted, Mediators({}))

    def ask(outcomes, part=1.0):
        return asks(outcomes, share=0.05 * part)

    run = SimpleNamespace(model=guide.model, posterior=posterior, categories=list("abcde"))
    return ask, (run, Users(logs), shifted)


def test_a_vector_is_averaged_as_each_of_its_entries_is(asked):
    ask, _ = asked
    at_once = ask(SURFACES)
    one_by_one = ask(
        {"engagement": lambda world: shown(world)[3], "alignment": lambda world: shown(world)[1]}
    )
    for c, outcome in ((3, "engagement"), (1, "alignment")):
        of = one_by_one.contrasts[outcome]["TE"]
        assert at_once.contrasts["shown"]["TE"][:, c] == pytest.approx(of, abs=1e-12)
        assert of.std() > 1e-4  # the draws differ
    for surface in SURFACES:
        assert at_once.levels[surface]["after"].shape == (4, 5)
        for world in ("before", "after"):
            assert at_once.levels[surface][world].sum(1) == pytest.approx(np.ones(4), abs=1e-5)


def test_shares_are_told_before_and_after(asked):
    ask, of = asked
    found = shares_by_category(ask, *of, 0.9)
    assert list(found) == list("abcde")
    for surface in SURFACES:
        shares = [each[surface] for each in found.values()]
        assert sum(of["after"]["mean"] for of in shares) == pytest.approx(1, abs=1e-5)
        for of in shares:
            moved = of["after"]["mean"] - of["before"]["mean"]
            assert of["change"]["mean"] == pytest.approx(moved, abs=1e-6)
            assert of["change"]["lower"] <= of["change"]["mean"] <= of["change"]["upper"]
    assert max(abs(of["shown"]["change"]["mean"]) for of in found.values()) > 0.005


def test_of_many_categories_those_that_move_most_are_told(asked, monkeypatch):
    ask, of = asked
    found = shares_by_category(ask, *of, 0.9)
    size = {c: max(abs(by[s]["change"]["mean"]) for s in SURFACES) for c, by in found.items()}
    monkeypatch.setattr(by_category, "MOST_CATEGORIES", 4)
    fewer = shares_by_category(ask, *of, 0.9)
    assert set(found) - set(fewer) == {min(size, key=size.__getitem__)}
    for c in fewer:
        assert fewer[c]["shown"]["change"]["mean"] == pytest.approx(found[c]["shown"]["change"]["mean"])
