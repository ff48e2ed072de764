"""What torch and NumPy were set to by whoever calls: it changes no result, and is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch


@contextmanager
def own_state() -> Iterator[None]:
    """Inside, torch and NumPy are as they start: single precision, on the CPU, with gradients; random state is forked.

    As a decorator it guards what users call: ``@own_state()``.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with (
        torch.random.fork_rng(),
        torch.inference_mode(False),
        torch.enable_grad(),
        np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
        nullcontext() if device.type == "cpu" else torch.device("cpu"),  # which slows every call down
    ):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
