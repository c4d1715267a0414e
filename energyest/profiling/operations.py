"""The operations of the forward and backward pass as torch dispatches them: FLOPs and bytes."""

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from energyest.display import in_a_line
from energyest.profiling.execution import AS_THE_WORKLOAD, Execution, execution_of
from energyest.profiling.flop_rules import (
    arithmetic,
    base_name,
    flops_by_fvcore,
    has_rule,
    is_norm,
    is_unknown,
    plain_name,
    product_of,
)
from energyest.profiling.sparse_tensors import (
    bytes_of_sparse,
    is_sparse,
    is_uncounted_product,
    sparse_product,
)
from energyest.records.workload import Operation, Workload

# These allocate memory, read an attribute or put a sparse tensor together from its parts: no work
# for a GPU, and hardly any for the CPU.
_NO_WORK = {
    *("device", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("_indices", "_values", "_sparse_coo_tensor_with_dims_and_tensors"),
}
_NO_PRODUCT = (0, 0, 0, 1, 1)
# These read some entries of their first input, a table: those that they return, or, of the others,
# as many as they have indices.
_LOOKUPS = {"embedding", "gather", "index", "index_select", "take"}
_LOOKUPS_BY_INDEX = {"_embedding_bag", "embedding_renorm_"}
_NO_CALL = {"device", "layout", "detach"}
# Namespaces of communication between processes.
_NO_ARITHMETIC = {"c10d", "_c10d_functional", "c10d_functional", "profiler"}
# Used if the backward pass cannot be counted: it computes gradients of inputs and of weights, each
# about as costly as the forward pass. Kaplan et al., "Scaling laws for neural language models"
# (arXiv 2001.08361), section 2.1.
TRAINING_TO_FORWARD = 3.0


@dataclass(frozen=True)
class FlopCount:
    """The arithmetic of one forward pass.

    Counted as by fvcore, with two per multiply-add, and normalisation as in inference.

    Attributes:
        per_sample: floating-point operations for one sample; None if they could not be counted.
        note: why there is no count, or what was left out.
        uncounted: operations that may do arithmetic but have no rule, and how often they occur.
        training_to_forward: FLOPs of forward and backward divided by those of forward;
            `TRAINING_TO_FORWARD` if the backward pass was not counted.
    """

    per_sample: float | None
    note: str = ""
    uncounted: Mapping[str, int] = field(default_factory=dict)
    training_to_forward: float = TRAINING_TO_FORWARD

    def training_flops(self, samples: float) -> float:
        """FLOPs of forward and backward for this many samples; NaN if not counted."""
        if self.per_sample is None:
            return math.nan
        return self.training_to_forward * self.per_sample * samples

    def as_meta(self) -> dict[str, Any]:
        """The entries for a trace's meta."""
        return {
            "forward_flops_per_sample": self.per_sample,
            "flops_note": self.note or "2 per multiply-add",
            "training_to_forward_flops": self.training_to_forward,
            "flops_uncounted": dict(self.uncounted),
        }

    @staticmethod
    def of_workload(workload: Workload) -> FlopCount:
        """The count of a described workload."""
        forward = workload.forward_flops_per_sample * workload.batch_size
        backward = sum(o.flops * o.count for o in workload.operations if o.phase == "backward")
        return FlopCount(
            workload.forward_flops_per_sample,
            training_to_forward=1 + backward / forward if forward else 1.0,
        )


@dataclass(frozen=True)
class WatchedStep:
    """The computation of a watched step.

    Attributes:
        forward_flops, backward_flops: FLOPs as counted by fvcore, with two per multiply-add.
        uncounted: operations without a rule, and how often they occurred.
        operations: all operations except those of optimizers.
        forward_calls, backward_calls: number of calls of operations, including views.
        module_calls: number of calls of modules.
        saved_bytes: bytes that the forward pass kept for the backward pass.
        gradients: the `GradientCosts`, if they were tracked.
        sparse_parameters: number of trainable parameters whose gradients are sparse.
        problem: why the step was not seen completely; empty if it was.
    """

    forward_flops: float
    backward_flops: float
    uncounted: Mapping[str, int] = field(default_factory=dict)
    operations: tuple[Operation, ...] = ()
    forward_calls: int = 0
    backward_calls: int = 0
    module_calls: int = 0
    saved_bytes: float = 0.0
    gradients: Any = None
    sparse_parameters: int = 0
    problem: str = ""

    @property
    def flops(self) -> float:
        """FLOPs of the forward and backward pass."""
        return self.forward_flops + self.backward_flops

    def flop_count(self, samples: int) -> FlopCount:
        """The FLOPs per sample, for a step with this many samples."""
        if not self.forward_flops:
            return FlopCount(None, "no operation to count was found", self.uncounted)
        return FlopCount(
            self.forward_flops / samples,
            "",
            self.uncounted,
            training_to_forward=self.flops / self.forward_flops,
        )


class Seen(NamedTuple):
    """An operation that has run.

    Attributes:
        name: name of the operation.
        func: the dispatched operation.
        args: its positional arguments.
        inputs: the tensors among all arguments.
        outputs: the tensors in its result.
        made: the outputs that share no memory with an input.
        flops: FLOPs of a product; 0 for anything else.
    """

    name: str
    func: Any
    args: Any
    inputs: list[Tensor]
    outputs: list[Tensor]
    made: list[Tensor]
    flops: float = 0.0


class OperationLog(TorchDispatchMode):
    """Records dispatched operations while it is active, without affecting them.

    Args:
        describes: record every operation, not only those with FLOPs.

    Attributes:
        calls: phase, "forward" or "backward" -> number of calls, including views.
        flops: phase -> FLOPs as counted by fvcore, with two per multiply-add.
        uncounted: operations whose arithmetic is not counted, and how often they occur.
        failure: the first error while recording an operation, which is then missing.
    """

    # Functions that are compiled on their first call are compiled as without this mode, and
    # operators that take functions as arguments run in it.
    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Do not look into compiled functions."""
        return True

    def __init__(self, *, describes: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.describes = describes
        self.calls: Counter[str] = Counter()
        self.flops: defaultdict[str, float] = defaultdict(float)
        self.uncounted: Counter[str] = Counter()
        self.failure: Exception | None = None
        self._sizes: Counter[tuple[Any, ...]] = Counter()

    @property
    def phase(self) -> str:
        """The current phase: "forward" or "backward"."""
        is_backward = torch._C._current_graph_task_id() != -1
        return "backward" if is_backward else "forward"

    def as_step(self, module_calls: int, saved_bytes: float) -> WatchedStep:
        """The record as one step, with operations in order of first occurrence."""
        return WatchedStep(
            forward_flops=self.flops["forward"],
            backward_flops=self.flops["backward"],
            uncounted=dict(self.uncounted),
            operations=tuple(
                Operation(phase, name, count, *sizes)
                for (phase, name, *sizes), count in self._sizes.items()
            ),
            forward_calls=self.calls["forward"],
            backward_calls=self.calls["backward"],
            module_calls=module_calls,
            saved_bytes=saved_bytes,
            problem="" if self.failure is None else in_a_line(self.failure),
        )

    def add(
        self,
        name: str,
        flops: float,
        moved: float,
        product: Sequence[int] = _NO_PRODUCT,
        by_fvcore: float | None = None,
        execution: Execution = AS_THE_WORKLOAD,
    ) -> None:
        """Record an operation.

        Args:
            name: name of the operation.
            flops: FLOPs computed by a GPU's matrix units.
            moved: bytes read and written.
            product: rows, columns, depth, groups and steps.
            by_fvcore: FLOPs as counted by fvcore, if different.
            execution: how it is run.
        """
        phase = self.phase
        self.calls[phase] += 1
        self.flops[phase] += flops if by_fvcore is None else by_fvcore
        sizes = (phase, name, float(flops), float(moved), *product, *execution)
        self._sizes[sizes] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and record it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        try:
            self.record(func, args, kwargs, out)
        except Exception as error:  # an error in a rule must not affect the training
            self.failure = self.failure or error
        return out

    def record(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Record an operation that has run."""
        kind = _kind_of(func)
        if kind.is_silent or not (self.describes or kind.has_rule or kind.is_unknown):
            return
        inputs, outputs = tensors_of(args), tensors_of(out)
        if kwargs:
            inputs += tensors_of(kwargs)
        if not (inputs or outputs):  # such as a profiler's mark
            return
        made = _made(func, inputs, outputs)
        if not kind.is_work or (outputs and not made and not kind.writes):  # a view
            self.calls[self.phase] += 1
            self.notice(Seen(kind.name, func, args, inputs, outputs, made))
            return
        name, flops, by_fvcore, product = work_of(func, args, kwargs, out)
        if kind.is_unknown and not kind.has_rule:
            self.uncounted[name] += 1
        elif any(map(is_sparse, inputs)) and is_uncounted_product(name, inputs):
            self.uncounted[f"{name} of sparse matrices"] += 1
        # Norms are not products.
        seen = Seen(name, func, args, inputs, outputs, made, by_fvcore if flops else 0.0)
        self.notice(seen)
        moved = _moved_bytes(name, inputs, outputs)
        execution = execution_of(
            name, args, inputs, multiplies=flops > 0, is_gradient_first=kind.is_gradient_first
        )
        self.add(name, flops, moved, product, by_fvcore, execution)

    def notice(self, seen: Seen) -> None:
        """Called for each operation that has run; for subclasses."""


class _Kind(NamedTuple):
    """The properties of an operation that do not depend on its arguments."""

    name: str
    is_silent: bool
    is_work: bool
    has_rule: bool
    is_norm: bool
    is_unknown: bool
    writes: bool
    is_gradient_first: bool


@functools.cache
def _kind_of(func: Any) -> _Kind:
    name = base_name(func)
    has_schema = hasattr(func, "_schema")
    return _Kind(
        name=name,
        is_silent=name in _NO_CALL or getattr(func, "namespace", "") in _NO_ARITHMETIC,
        is_work=name not in _NO_WORK,
        has_rule=has_rule(func),
        is_norm=is_norm(func),
        is_unknown=is_unknown(func, name),
        is_gradient_first=not str(getattr(func, "__name__", "")).startswith(("cudnn", "miopen")),
        writes=not has_schema or bool(func._schema.is_mutable),
    )


def work_of(func: Any, args: Any, kwargs: Any, out: Any) -> tuple[str, float, float, Any]:
    """The name of an operation, its FLOPs, those as counted by fvcore, and its product."""
    kind = _kind_of(func)
    if any(map(is_sparse, inputs := tensors_of(args))):
        sparse = sparse_product(kind.name, inputs)
        flops = sparse.flops if sparse else 0.0
        return kind.name, flops, flops, sparse.sizes if sparse else _NO_PRODUCT
    if kind.has_rule:
        name, product = plain_name(func, args), product_of(func, args, out)
        flops = arithmetic(name, func, args, kwargs, out, product)
        return name, flops, flops_by_fvcore(func, args, kwargs, out, flops), product
    # The gradient of a normalisation has no rule, but sizes.
    return kind.name, 0.0, 0.0, product_of(func, args, out) if kind.is_norm else _NO_PRODUCT


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors among the arguments of an operation, or in its result."""
    if isinstance(value, Tensor):
        return [value]
    found: list[Tensor] = []
    items = value.values() if isinstance(value, dict) else value
    if isinstance(items, list | tuple) or items is not value:
        for item in items:
            if isinstance(item, Tensor):
                found.append(item)
            elif isinstance(item, list | tuple | dict):
                found += tensors_of(item)
    return found


def _moved_bytes(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    """Bytes that an operation reads and writes; of a table, only the entries that it looks up."""
    read, written = [bytes_of(t) for t in inputs], [bytes_of(t) for t in outputs]
    if len(inputs) < 2 or not outputs:
        return sum(read) + sum(written)
    sparse = sparse_product(name, inputs) if any(map(is_sparse, inputs)) else None
    if sparse is not None:
        at = next(i for i, tensor in enumerate(inputs) if tensor is sparse.dense)
        read[at] = sparse.read_bytes
    number = inputs[0].element_size()
    entry = math.prod(inputs[0].shape[1:]) * number
    if name in _LOOKUPS:
        read[0] = min(read[0], outputs[0].numel() * number)
    elif name in _LOOKUPS_BY_INDEX:
        read[0] = min(read[0], inputs[1].numel() * entry)
    if name == "embedding_renorm_":
        written[0] = read[0]
    elif name == "_embedding_bag_backward" and outputs[0].layout == torch.sparse_coo:
        # Without values, its number of entries is unknown, but there is one for each index.
        written[0] = inputs[1].numel() * (entry + torch.int64.itemsize)
    return sum(read) + sum(written)


def bytes_of(tensor: Tensor) -> int:
    """Bytes to read or write for a tensor; an expanded one counts only its storage."""
    if is_sparse(tensor):
        return bytes_of_sparse(tensor)
    size = tensor.numel() * tensor.element_size()
    try:
        return min(size, tensor.untyped_storage().nbytes())
    except (NotImplementedError, RuntimeError):  # tensors without a storage
        return size


def _made(func: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of an operation that share no memory with its inputs."""
    try:
        places = {tensor.untyped_storage()._cdata for tensor in inputs}
        return [tensor for tensor in outputs if tensor.untyped_storage()._cdata not in places]
    except (NotImplementedError, RuntimeError):  # as of sparse tensors
        returned = func._schema.returns if hasattr(func, "_schema") else ()
        return [] if any(item.alias_info is not None for item in returned) else list(outputs)
