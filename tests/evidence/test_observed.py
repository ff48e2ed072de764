"""Claims about what logs have without a model."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_hmvcrl.evidence.observed import figures, observed_figures
from pyro_hmvcrl.evidence.predictive import Counts


def logs(rng: np.random.Generator, users: int = 80) -> Counts:
    """Users who differ, so that errors by event would be far too small."""
    shares = rng.dirichlet([0.5, 1.0, 2.0], users)
    search, exposure = rng.multinomial(rng.integers(5, 40, users), shares), rng.multinomial(30, shares)
    engagement = rng.binomial(exposure, rng.beta(1, 2, (users, 1)))
    return Counts(*(of.astype(float) for of in (search, exposure, engagement)))


def test_standard_errors_are_those_of_users_drawn_anew():
    rng = np.random.default_rng(0)
    drawn = [observed_figures(logs(rng)) for _ in range(400)]
    for name in ("shown", "searched", "engagement", "alignment"):
        spread = np.std([of[name].value for of in drawn], axis=0)
        stated = np.mean([of[name].se for of in drawn], axis=0)
        assert stated == pytest.approx(spread, rel=0.1), name


def test_figures_are_shares_of_events_and_means_over_users():
    search, exposure = np.array([[2.0, 2], [0, 0], [1, 0]]), np.array([[1.0, 3], [4, 0], [2, 2]])
    engagement = np.array([[1.0, 1], [1, 0], [0, 0]])
    found = figures(Counts(search, exposure, engagement))
    assert found["shown"].tolist() == pytest.approx([7 / 12, 5 / 12])
    assert found["searched"].tolist() == pytest.approx([3 / 5, 2 / 5])
    assert found["engagement"].tolist() == pytest.approx([(2 / 4 + 1 / 4 + 0) / 3])
    assert found["alignment"].tolist() == pytest.approx([(8 / 16 + 2 / 4) / 2])  # of users with both
    assert "alignment" not in figures(Counts(search * [[1], [1], [0]], exposure, engagement))
