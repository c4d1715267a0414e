"""Whether sizes suit tensor units, which take numbers in groups of 16 bytes.

NVIDIA, "Matrix Multiplication Background User's Guide", section on dimension alignment: libraries
choose slower kernels for other sizes, such as BERT's vocabulary of 30,522 words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from energyest.estimators.pre.physics.kinds import MATMUL, kind_of
from energyest.records.workload import Operation, Workload

_GROUP_BYTES = 16


def tokens_of(operations: Sequence[Operation]) -> set[int]:
    """Numbers of rows in forward products: how many there are does not matter for alignment."""
    forward = [o for o in operations if kind_of(o) == MATMUL and o.phase == "forward"]
    return {o.rows for o in forward}


def alignment(operation: Operation, tokens: set[int], workload: Workload) -> tuple[bool, bool]:
    """Whether a size of a product does not fill groups of numbers, and whether it is odd.

    Args:
        operation: the product, or a convolution.
        tokens: as from `tokens_of`, for a product.
        workload: its workload.
    """
    sizes = [operation.columns, operation.depth]
    if kind_of(operation) == MATMUL and operation.phase == "backward":
        sizes.append(operation.rows)
    features = [size for size in sizes if size not in tokens]
    return not fills_groups(features, workload), any(n % 2 for n in features)


def fills_groups(sizes: Iterable[float], workload: Workload) -> bool:
    """Whether all sizes are multiples of the numbers in a group."""
    numbers = _GROUP_BYTES // number_bytes(workload)
    return all(size % numbers == 0 for size in sizes)


def is_half(workload: Workload) -> bool:
    """Whether the workload's precision has two bytes."""
    return workload.precision in ("bf16", "fp16")


def number_bytes(workload: Workload) -> int:
    """Bytes of a number in the workload's precision."""
    return 2 if is_half(workload) else 4
