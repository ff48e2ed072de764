"""Several processes that fit together, as ``torchrun`` starts them; by itself, a process is the only one.

Every process goes through the whole fit with the same model and users of its own: a training step's batch is drawn
part by part, and :class:`torch.nn.parallel.DistributedDataParallel` averages the gradients; the users' scores are
divided likewise and added up.  The first process alone chooses, speaks and writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def together(device: str) -> Iterator[None]:
    """Join the others, if ``torchrun`` started this process.

    A process with a GPU takes the one that has its number on its machine.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or distributed.is_initialized():
        yield
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def place() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    alone = not distributed.is_initialized()
    return (0, 1) if alone else (distributed.get_rank(), distributed.get_world_size())


def first() -> bool:
    """Whether this process is the one that speaks and writes."""
    return place()[0] == 0


def wait() -> None:
    """Until all are here."""
    if distributed.is_initialized():
        distributed.barrier()


def every_nth(n: int) -> range:
    """Numbers below `n` of this process, every n-th of n processes; each belongs to one."""
    rank, size = place()
    return range(rank, n, size)


def draw_otherwise() -> None:
    """From here on, draw other random numbers than the first process."""
    if not first():
        torch.manual_seed(int(torch.randint(2**62, ())) + place()[0])


def of_first(values: Tensor) -> Tensor:
    """The first process's values."""
    return total(values if first() else torch.zeros_like(values))


def agreed(choice: int) -> int:
    """The first process's choice."""
    return int(of_first(torch.tensor(choice)))


def averaged(module: nn.Module) -> nn.Module:
    """The module, with gradients that are averaged over the processes.  Its buffers stay each process's own."""
    alone = not distributed.is_initialized()
    return module if alone else DistributedDataParallel(module, forward_sync_buffers=False)


def total(values: Tensor) -> Tensor:
    """The sum over the processes."""
    if not distributed.is_initialized():
        return values
    summed = values.to("cuda") if distributed.get_backend() == "nccl" else values.clone()
    distributed.all_reduce(summed)
    return summed.to(values.device)
