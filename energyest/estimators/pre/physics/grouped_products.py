"""Grouped products, as of a mixture of experts: in one kernel, or one after another.

`_grouped_mm_cuda` in aten/src/ATen/native/cuda/GroupedBlas.cpp (torch 2.11): there is a kernel for
bf16 on compute capabilities 9.x and 10.x. In all other cases, the CPU waits for the sizes of the
groups, and then launches a product for each. Autocast does not cast for this operation, so weights
in single precision are multiplied that way.
"""

from __future__ import annotations

from dataclasses import replace

from energyest.gpus import Gpu
from energyest.records.workload import Operation, Workload

_WITH_A_KERNEL = (9, 10)


def is_grouped(operation: Operation) -> bool:
    """Whether an operation is a grouped product."""
    return "grouped_mm" in operation.name


def one_group(operation: Operation) -> Operation:
    """The product of one group, on average."""
    o = operation
    return replace(o, flops=o.flops / o.groups, bytes=o.bytes / o.groups, groups=1)


def groups_one_by_one(operation: Operation, workload: Workload, gpu: Gpu) -> int:
    """The number of groups that are multiplied one after another; 1 for any other operation.

    Args:
        operation: an operation.
        workload: its workload, in the precision in which the GPU computes it.
        gpu: the GPU.
    """
    if not is_grouped(operation) or "scaled" in operation.name:  # scaled ones have kernels
        return 1
    # A GPU of unknown capability counts as Hopper.
    major, _ = gpu.compute_capability or (9, 0)
    has_kernel = workload.precision == "bf16" and major in _WITH_A_KERNEL
    return 1 if has_kernel else operation.groups
