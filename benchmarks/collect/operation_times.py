"""The time that a GPU takes for each operation of a training step, by torch's profiler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

from energyest.profiling.execution import AS_THE_WORKLOAD, Execution
from energyest.profiling.operations import OperationLog

_MARK = "operation "
# The values of an `Operation`, and the mean seconds of one.
Timed = list[Any]


class MarkedOperations(OperationLog):
    """Marks each operation in the profiler's record, so that its kernels can be told apart.

    Attributes:
        sizes: phase, name and sizes of each operation, in order; None for a view.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[Any, ...] | None] = []
        self._current = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, marked and recorded."""
        kwargs = kwargs or {}
        index = len(self.sizes)
        self.sizes.append(None)
        with record_function(f"{_MARK}{index}"):
            out = func(*args, **kwargs)
        self._current = index
        self.record(func, args, kwargs, out)
        return out

    def add(
        self,
        name: str,
        flops: float,
        moved: float,
        product: Sequence[int] = (0, 0, 0, 1, 1),
        by_fvcore: float | None = None,
        execution: Execution = AS_THE_WORKLOAD,
    ) -> None:
        """Note the sizes of the operation that has just run."""
        super().add(name, flops, moved, product, by_fvcore, execution)
        self.sizes[self._current] = (self.phase, name, flops, moved, *product, *execution)


def operation_times(
    loss_of_step: Callable[[], Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Time the operations of one training step on the GPU.

    The caller has run some steps before, so that algorithms are chosen and the clocks are up.

    Args:
        loss_of_step: computes the loss of a batch that is on the GPU already.
        optimizer: the optimizer of the model's parameters.

    Returns:
        `operations`, the times by size of operation; `optimizer_s`, the time of the optimizer's
        kernels; and `gpu_s`, the time of all kernels of the step.
    """
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        with MarkedOperations() as log:
            loss_of_step().backward()
        with record_function("the optimizer"):
            optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
    seconds: dict[int, float] = {}
    optimizer_s = all_s = 0.0
    for event in profiler.events():
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue
        all_s += 1e-6 * sum(kernel.duration for kernel in event.kernels)
        if event.name.startswith(_MARK):
            seconds[int(event.name.removeprefix(_MARK))] = 1e-6 * event.device_time_total
        elif event.name == "the optimizer":
            optimizer_s += 1e-6 * event.device_time_total
    return {
        "operations": _by_size(log.sizes, seconds),
        "optimizer_s": optimizer_s,
        "gpu_s": all_s,
    }


def _by_size(sizes: list[tuple[Any, ...] | None], seconds: dict[int, float]) -> list[Timed]:
    found: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for index, size in enumerate(sizes):
        if size is not None:
            found[size].append(seconds.get(index, 0.0))
    return [
        [*size[:2], len(times), *size[2:], float(f"{sum(times) / len(times):.4g}")]
        for size, times in found.items()
    ]
