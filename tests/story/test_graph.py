"""Claims about the structural graph."""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_hmvcrl.story.graph import StructuralGraph


def test_only_edges_between_channels_are_allowed():
    graph = StructuralGraph(2, 3)
    assert graph.names == ["platform_1", "platform_2", "preference_1", "preference_2", "preference_3"]
    allowed = {(graph.names[j], graph.names[k]) for j, k in graph.allowed.nonzero().tolist()}
    assert len(allowed) == 12
    assert all(j.split("_")[0] != k.split("_")[0] for j, k in allowed)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10_000))
def test_orientation_is_acyclic_complete_and_ordered(n_platform, n_preference, seed):
    graph = StructuralGraph(n_platform, n_preference)
    weights = torch.tensor(np.random.default_rng(seed).normal(size=graph.allowed.shape))
    graph.orient(weights)
    n = len(graph.names)
    assert not torch.linalg.matrix_power(graph.allowed, n).any()
    assert graph.allowed.sum() == n_platform * n_preference
    place = {factor: position for position, factor in enumerate(graph.order.tolist())}
    assert all(place[j] < place[k] for j, k in graph.allowed.nonzero().tolist())


def test_the_stronger_direction_of_a_pair_survives():
    graph, weights = StructuralGraph(2, 2), torch.zeros(4, 4)
    weights[0, 2], weights[2, 0], weights[3, 1], weights[1, 3] = -0.8, 0.1, 0.6, 0.5
    graph.orient(weights)
    assert graph.allowed[0, 2] == graph.allowed[3, 1] == 1
    assert graph.allowed[2, 0] == graph.allowed[1, 3] == 0


@pytest.mark.parametrize("oriented", [False, True])
def test_factors_solve_the_structural_equations(oriented):
    graph, edges, drive = StructuralGraph(2, 3), 0.4 * torch.randn(5, 5), torch.randn(7, 5)
    if oriented:
        graph.orient(edges)
    with pyro.plate("users", 7):
        z = graph.factors(edges, drive)
    weights = edges * graph.allowed
    assert torch.allclose(z, z @ weights + drive, atol=1e-5)
    assert torch.allclose(z, drive @ graph.inverse(edges).mT, atol=1e-5)
