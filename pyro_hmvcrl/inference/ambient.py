"""What torch and NumPy were set to by whoever calls: it changes no result, and is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

MUCH = 1 << 22  #: numbers at a time, from which on threads are worth their waiting


@contextmanager
def own_state() -> Iterator[None]:
    """Inside, torch and NumPy are as they start: single precision, on the CPU, with gradients.  Random state is forked.

    As a decorator it guards what users call: ``@own_state()``.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    precision = torch.get_float32_matmul_precision()
    with (
        torch.random.fork_rng(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
        np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
        nullcontext() if device.type == "cpu" else torch.device("cpu"),  # which slows every call down
    ):
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_float32_matmul_precision(precision)


@contextmanager
def few_threads(size: int) -> Iterator[None]:
    """One thread of torch's for work on `size` numbers at a time, if that is not much; else as many as there are.

    Threads wait for one another at every small step, and on a busy machine for those that do not run: measured with
    two on two busy cores, a step took 8 to 15 times as long as with one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if size < MUCH else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
