"""Every test starts from the same state, with torch or without it (the ArviZ 1.x environment has none)."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from functools import partial

# Before NumPy and torch load.  A test per core is faster than a core per matrix product, and `implicit` warns of more.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
from hypothesis import settings

try:
    import pyro
except ImportError:
    pyro = None

settings.register_profile("project", deadline=None, derandomize=True)  # slow machines, repeatable failures
settings.load_profile("project")


@pytest.fixture(autouse=True)
def _fewer_draws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer's Monte Carlo is smaller, but for tests of what it comes to (``pytest.mark.all_draws``)."""
    if pyro is not None and "all_draws" not in request.keywords:
        monkeypatch.setattr("pyro_hmvcrl.queries.averages.USER_DRAWS", 2_000)


@pytest.fixture(autouse=True)
def _undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report's pictures are made, but drawn only in tests of what is seen (``pytest.mark.drawn``)."""
    if pyro is not None and "drawn" not in request.keywords:
        monkeypatch.setattr("pyro_hmvcrl.report.page.to_bytes", lambda figure, kind: b"")


@pytest.fixture(autouse=True, scope="session")
def _fewer_replications() -> Iterator[None]:
    """A fit's posterior predictive checks, which are most of a small fit, replicate its logs fewer times."""
    with pytest.MonkeyPatch.context() as patch:
        if pyro is not None:
            from pyro_hmvcrl.evidence.predictive import predictive_checks

            patch.setattr(
                "pyro_hmvcrl.run.run.predictive_checks", partial(predictive_checks, replications=20)
            )
        yield


@pytest.fixture(autouse=True)
def _same_state() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what libraries draw from
    if pyro is not None:
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
