"""Every test starts from the same state, with torch or without it (the ArviZ 1.x environment has none)."""

from __future__ import annotations

import os
import random

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy loads; `implicit` warns of a BLAS with more

import numpy as np
import pytest
from hypothesis import settings

try:
    import pyro
    import torch
except ImportError:
    pyro = torch = None

settings.register_profile("project", deadline=None, derandomize=True)  # slow machines, repeatable failures
settings.load_profile("project")

if torch is not None:
    torch.set_num_threads(1)  # a test per core is faster than a core per matrix product


@pytest.fixture(autouse=True)
def _same_state() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - what libraries draw from
    if pyro is not None:
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
