"""Claims about rules that all users keep: whoever breaks one is outside the data, and its columns are named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pyro_hmvcrl.queries.overlap import new_users, overlap
from pyro_hmvcrl.queries.rules import breaks_a_rule

N = 400
RNG = np.random.default_rng(0)
X, Y, COIN = RNG.normal(size=N), RNG.normal(size=N), RNG.integers(0, 2, N).astype(float)
EVEN = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]], float)[RNG.integers(0, 4, N)].T
LEVEL = RNG.integers(0, 3, N)

#: Columns, and what of them is shifted to what breaks their rule, for at least this share of the users.
RULES = {
    "a logarithm": ({"x": np.abs(X), "y": np.log1p(np.abs(X))}, {"x": np.abs(X) + 0.5}, 0.9),
    "a falling copy": ({"x": X, "y": -np.exp(X)}, {"y": -np.exp(X) - 1}, 0.9),
    "a falling copy that ends at 0": ({"x": X, "y": X.max() - X}, {"y": X.max() - X + 1}, 0.9),
    "a rounded copy": ({"x": X, "y": X.round(1)}, {"x": X + 0.5}, 0.9),
    "a copy far from 0": ({"x": X + 1e9, "y": X + 1e9}, {"x": X + 1e9 + 0.5}, 0.9),
    "a square": ({"x": X, "y": X**2}, {"x": X + 1}, 0.9),
    "a product": ({"x": COIN, "y": Y, "xy": COIN * Y}, {"x": np.ones(N)}, 0.4),
    "levels": ({f"l{k}": (k == LEVEL) * 1.0 for k in (1, 2)}, {"l1": np.ones(N), "l2": np.ones(N)}, 1.0),
    "a third column": (dict(zip("abc", EVEN, strict=True)), dict.fromkeys("abc", np.ones(N)), 1.0),
}


@pytest.mark.parametrize("name", RULES)
def test_who_breaks_a_rule_is_outside_and_its_columns_are_named(name):
    columns, shifted, share = RULES[name]
    observed = pd.DataFrame(columns).assign(other=RNG.normal(size=N))
    found = overlap(observed, pd.DataFrame(shifted))
    assert found.outside >= share
    assert set(found.tied) == set(columns)
    outside = new_users(observed, observed.assign(**shifted)).outside
    assert outside.mean() >= share
    assert not new_users(observed, observed).outside.any()


def test_who_keeps_the_rules_is_not():
    moved = X + 0.1
    for of in ({"y": np.exp}, {"y": np.square}, {"y": lambda x: 3 - x}, {"y": lambda x: x.round(1)}):
        observed, then = (
            pd.DataFrame({"x": x}).assign(**{n: f(x) for n, f in of.items()}) for x in (X, moved)
        )
        assert breaks_a_rule(observed, then)[0].mean() < 0.01


@pytest.mark.parametrize("columns", [2, 8])
def test_there_is_no_rule_where_there_is_none(columns):
    observed = pd.DataFrame(RNG.normal(size=(N, columns))).assign(coin=COIN, level=LEVEL * 1.0)
    then = observed.assign(coin=1.0).assign(level=2.0)
    broken, tied = breaks_a_rule(observed, then)
    assert not broken.any()
    assert tied == ()


def test_new_users_in_another_unit_are_asked_about():
    observed = pd.DataFrame({"x": X, "coin": COIN})
    said = new_users(observed, observed * [1e-4, 0.0]).sentences
    assert len(said) == 1
    assert said[0].startswith("column 'x' varies 0.0001 times as much as among the users of the fit")
    assert new_users(observed, observed.head(5) * [1e-4, 1.0]).sentences == []


def test_what_all_but_copies_another_is_named_where_a_shift_is_refused():
    observed = pd.DataFrame({"x": X, "y": X + 1e-3 * Y, "z": Y})
    found = overlap(observed, observed[["x"]] + 0.5)
    assert not found.supported
    assert "x and y" in found.mend


def test_a_rule_of_columns_that_stay_is_kept():
    """One of them falls to exactly 0."""
    observed = pd.DataFrame({"knob": X, "male": COIN, "female": 1 - COIN, "days": Y.max() - Y, "joined": Y})
    found = overlap(observed, observed.assign(knob=X + 0.1))
    assert found.outside < 0.1
    assert found.tied == ()
