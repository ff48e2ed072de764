"""A training step of a GPU, recorded once as a CUDA graph and then replayed.

A step is about a thousand kernels, each of a few microseconds, and launching them from Python one by one takes ten
times as long as they do.  A replay launches them all at once, and computes the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PLAIN_CALLS = 3  #: that libraries need to set themselves up, which cannot be recorded


class Recording:
    """A step that is replayed from its fourth call on.

    What a step reads may change from call to call, but not where it stands: the same tensors, of the same shapes.
    Nothing in it may wait for the GPU, and Python runs no more.

    Parameters
    ----------
    step
        Of users' positions ``(B,)`` to a tensor on the GPU.
    """

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        self._step, self._plain_calls = step, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream()  # the default one cannot be recorded

    def __call__(self, rows: Tensor) -> Tensor:
        """What the step gives for users at `rows`, on any device."""
        before = torch.cuda.current_stream()
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            found = self._run(rows)
        before.wait_stream(self._stream)
        return found

    def _run(self, rows: Tensor) -> Tensor:
        if self._plain_calls < PLAIN_CALLS:
            self._plain_calls += 1
            return self._step(rows)
        if self._graph is None:
            self._rows, self._graph = rows.to("cuda"), torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._found = self._step(self._rows)
        self._rows.copy_(rows, non_blocking=True)
        self._graph.replay()
        return self._found.clone()  # the next replay writes over it
