"""Processes that train together in plain torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.overhead.work import device

# The longest that ranks wait for others, which may measure in the meantime.
_TIMEOUT = timedelta(seconds=300)


@dataclass
class Group:
    """The first ranks of all, or each rank by itself, as far as this process is concerned.

    Attributes:
        ranks: their number; with 1, every rank is a group of its own.
        gradients: the group over which gradients are reduced; None for one rank.
        control: the same ranks, meeting on the CPU, so that no GPU works while it waits; None for
            one rank.
    """

    ranks: int
    gradients: Any
    control: Any

    @property
    def is_member(self) -> bool:
        return self.ranks == 1 or dist.get_rank() < self.ranks

    def agree(self, number: int) -> int:
        """The number that rank 0 has."""
        if self.control is None:
            return number
        told = torch.tensor([int(number)])
        dist.broadcast(told, 0, group=self.control)
        return int(told)

    def meet(self) -> None:
        """Wait for the other ranks of the group."""
        if self.control is not None:
            dist.barrier(group=self.control)

    def wrap(self, model: nn.Module) -> nn.Module:
        """`DistributedDataParallel` over the group; one rank trains without it."""
        if self.ranks == 1:
            return model
        place = device()
        ids = [torch.cuda.current_device()] if place.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids, process_group=self.gradients)


def join(counts: list[int]) -> list[Group]:
    """Meet the other processes, on the GPU of this process's `LOCAL_RANK`.

    Args:
        counts: sizes of the groups, the same on every rank.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    # Every rank has to make every group, also those that it is no member of.
    return [
        Group(
            count,
            dist.new_group(list(range(count)), _TIMEOUT, backend) if count > 1 else None,
            dist.new_group(list(range(count)), _TIMEOUT, "gloo") if count > 1 else None,
        )
        for count in counts
    ]


def leave() -> None:
    """Leave the others."""
    dist.destroy_process_group()
