"""Claims about the curvature: blocks and directions are as good as the matrix of all parameters, and take less."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from pyro_hmvcrl.inference import curvature as curving
from pyro_hmvcrl.inference import scores as scoring
from pyro_hmvcrl.inference.curvature import Blocks, Dense
from pyro_hmvcrl.inference.laplace import fitted_values, information, laplace_posterior
from pyro_hmvcrl.inference.regressions import places
from pyro_hmvcrl.synthetic.simulation import simulate

from worlds import TWO_AND_TWO, everyone, logs_of, true_expansion

#: The story without a past and with one, and with suggested searches.
DESIGNS = {
    "one period": replace(TWO_AND_TWO, users=600, categories=6),
    "periods": replace(TWO_AND_TWO, users=300, categories=4, periods=2, learning=0.5, suggestion=0.3),
}


@pytest.fixture(scope="module", params=DESIGNS)
def world(request):
    sim = simulate(DESIGNS[request.param], 0)
    return true_expansion(sim), everyone(logs_of(sim))


@torch.no_grad()
def of(world, **more):
    guide, users = world
    return information(guide, fitted_values(guide), users, users.exposure_covariates, 0, **more)


def matrix(found, n):
    """The inverse, whole."""
    return found.solve(torch.eye(n, dtype=torch.double))


# --- Algebra -------------------------------------------------------------------------------------------------


@pytest.fixture
def blocks():
    """Three categories of two parameters, among three structural coefficients, and one direction; and its matrix H."""
    generator = torch.Generator().manual_seed(0)

    def positive(*shape):
        root = torch.randn(*shape, shape[-1], dtype=torch.double, generator=generator)
        return root @ root.mT + torch.eye(shape[-1])

    at, structural = torch.tensor([[0, 5], [7, 2], [3, 8]]), torch.tensor([1, 4, 6])
    of_categories, within = positive(3, 2), positive(4)
    whole = torch.zeros(9, 9, dtype=torch.double)
    for rows, block in zip(at, of_categories, strict=True):
        whole[rows[:, None], rows] = block
    z = torch.zeros(9, 4, dtype=torch.double)
    z[structural, torch.arange(3)] = 1
    direction = torch.randn(9, dtype=torch.double, generator=generator)
    direction[structural] = 0
    z[:, 3] = direction / (direction @ whole @ direction).sqrt()
    of_basis = whole @ z
    of_basis[structural, torch.arange(3)] = 1
    alone = torch.diag(torch.tensor([0.0, 0, 0, 1]).double())
    whole = whole + of_basis @ (within - alone) @ of_basis.T
    inverses = torch.linalg.inv(of_categories)
    return Blocks(whole.diagonal(), 9.0, 4.0, 1.0, at, inverses, z, torch.linalg.inv(within)), whole


def test_blocks_are_the_inverse_of_their_matrix(blocks):
    found, whole = blocks
    inverse = torch.linalg.inv(whole)
    assert torch.allclose(matrix(found, 9), inverse)
    assert torch.allclose(found.solve(inverse[0]), inverse @ inverse[0])
    assert torch.allclose(found.inverse_diagonal(), inverse.diagonal())


@pytest.mark.parametrize("left", [1.0, 0.6])
def test_variances_are_those_of_pulls(blocks, left):
    of_pull = torch.arange(1.0, 10).double()
    found = replace(blocks[0], left=left)
    for of in (
        found,
        Dense(*[getattr(found, f.name) for f in fields(curving.Curvature)], matrix(blocks[0], 9)),
    ):
        spread = of.spread(torch.diag(of_pull.sqrt()))
        assert torch.allclose(of.variance(of_pull), spread.square().sum(1))


# --- Of a model ----------------------------------------------------------------------------------------------


def test_every_parameter_is_structural_or_of_one_category(world):
    guide, _ = world
    values = fitted_values(guide)
    numbers = torch.arange(sum(v.numel() for v in values.values()))
    structural, at, _ = places(values)
    assert torch.cat([structural, at.flatten()]).sort().values.equal(numbers)
    names = [name for name, v in values.items() for _ in range(v.numel())]
    assert {names[i] for i in structural}.isdisjoint({names[i] for i in at.flatten()})
    named = scoring.unflat(numbers.float(), values)
    for c, of_category in enumerate(at.tolist()):
        assert set(named["a"][c].tolist()) | {named["b"][c].item()} <= set(of_category)
        assert set(named["f_search.outer"][:, c].tolist()) <= set(of_category)


def test_blocks_agree_with_the_matrix_of_all_parameters(world, monkeypatch):
    """So much that without the directions they do not."""
    monkeypatch.setattr(scoring, "PARTICLES", 32)
    monkeypatch.setattr(curving, "MOST_MADE", 10**6)
    dense = of(world)
    assert isinstance(dense.curvature, Dense)
    monkeypatch.setattr(curving, "MOST_MADE", 0)
    sds = {}
    for directions in (100, 1):
        monkeypatch.setattr(curving, "DIRECTIONS", directions)
        found = of(world).curvature
        assert isinstance(found, Blocks)
        sds[directions] = matrix(found, len(dense.prior)).diagonal().sqrt()
        assert found.tied < found.determined
    expected = matrix(dense.curvature, len(dense.prior)).diagonal().sqrt()
    off = {n: (sd / expected).log().abs() for n, sd in sds.items()}
    assert off[100].median() < 0.03
    assert off[100].quantile(0.95) < 0.15
    assert off[1].quantile(0.95) > 0.2
    assert (found.diagonal / dense.curvature.diagonal).median() == pytest.approx(1, abs=0.02)


def test_a_posterior_of_many_categories_holds_no_matrix(monkeypatch):
    for name, little in {"MADE_A_DIRECTION": 2, "TIED": 8, "DIRECTIONS": 5}.items():
        monkeypatch.setattr(curving, name, little)
    monkeypatch.setattr(scoring, "PARTICLES", 4)
    sim = simulate(replace(TWO_AND_TWO, users=60, categories=120), 0)
    guide, users = true_expansion(sim), everyone(logs_of(sim))
    known = of((guide, users))
    held = sum(t.numel() for t in vars(known.curvature).values() if isinstance(t, torch.Tensor))
    assert held < 250 * len(known.prior) < len(known.prior) ** 2 / 15
    posterior = laplace_posterior(guide, users, seed=0, draws=3)
    assert all(sd.isfinite().all() and (sd > 0).all() for sd in posterior.sd.values())
