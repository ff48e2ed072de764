"""Claims about each category's regression: its information is the curvature of its own likelihood."""

from __future__ import annotations

from dataclasses import replace

import pyro
import pytest
import torch
from pyro import poutine
from torch.autograd.functional import hessian

from pyro_hmvcrl.guide.experts import PrecisionNormal
from pyro_hmvcrl.guide.guide import ExpansionGuide
from pyro_hmvcrl.inference.laplace import fitted_values
from pyro_hmvcrl.inference.regressions import information_by_category, places
from pyro_hmvcrl.inference.scores import CHOSEN, flat, unflat
from pyro_hmvcrl.story.programs import at, observe
from pyro_hmvcrl.synthetic.simulation import simulate

from worlds import TWO_AND_TWO, everyone, logs_of, true_expansion

STORIES = {
    "one period": {},
    "periods": {"periods": 3, "learning": 0.5, "influence": 0.5, "familiarity": 0.2},
    "suggested": {"suggestion": 0.3},
}


def certain(monkeypatch):
    """Let users' factors be known: their posteriors have no spread about the mode."""
    posterior = ExpansionGuide.posterior

    def known(guide, logs):
        prior, noise = posterior(guide, logs)
        return prior, PrecisionNormal(noise.mean, 1e6 * noise.precision_cholesky)

    monkeypatch.setattr(ExpansionGuide, "posterior", known)


@pytest.mark.parametrize("knobs", STORIES.values(), ids=STORIES)
def test_information_is_the_curvature_with_the_normaliser_held(knobs, monkeypatch):
    sim = simulate(replace(TWO_AND_TWO, users=40, categories=3, **knobs), 0)
    guide, users = true_expansion(sim), everyone(logs_of(sim))
    certain(monkeypatch)
    values = fitted_values(guide)
    logs = users.batch(torch.arange(40)).numbered()
    noise = guide.expansion(40).posterior(logs)[1].mean

    def surprise(parameters):
        program = observe(at(guide.model, unflat(parameters, values)), logs.given_past())
        sites = poutine.trace(pyro.condition(program, {"noise": noise})).get_trace(logs.given_past()).nodes
        found = -sites["engagement"]["fn"].log_prob(sites["engagement"]["value"]).sum()
        for name in CHOSEN:
            if name in sites:
                of, events = sites[name]["fn"], sites[name]["value"].sum(-1, keepdim=True)
                of = getattr(of, "base_dist", of)
                grown = (of.log_normaliser - of.log_normaliser.detach()).exp().unsqueeze(-1)
                found = found + (events * of.probability * grown).sum()
        return found

    whole = hessian(surprise, flat(values))
    _, of_categories, _ = places(values)
    expected = torch.stack([whole[rows][:, rows] for rows in of_categories]).float()
    found = information_by_category(guide, values, users, 0).float()
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-2)
