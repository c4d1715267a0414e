"""`Workload`: what one training step of a model asks of a GPU, in numbers, without the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from energyest.checks import is_count, is_number, short
from energyest.display import unit_for
from energyest.errors import WorkloadError
from energyest.gpus.precision import PRECISIONS
from energyest.markup import as_html, facts

# Bytes read and written for each parameter by one step of an optimizer that keeps 32-bit state:
# the parameter and its gradient are read, the parameter is written, and each state is both.
_STATES = {
    "sgd": 0,
    "sgd_momentum": 1,
    "momentum": 1,
    "nesterov": 1,
    "rmsprop": 1,
    "adagrad": 1,
    "lion": 1,
    "adafactor": 1,
    "adam": 2,
    "adamw": 2,
    "nadam": 2,
    "radam": 2,
    "adamax": 2,
    "adadelta": 2,
    "lamb": 2,
}
OPTIMIZERS = tuple(_STATES)
LOOPS = ("plain", "lightning")
LAYOUTS = ("contiguous", "channels_last")
_LATER = ("layout", "compiled", "accumulate", "devices", "parameter_bytes")
# Beyond any machine; products and sums of such numbers are still finite.
LARGEST = 1e30


@dataclass(frozen=True)
class Operation:
    """A kind of operation of a training step, and how often it occurs in exactly this size.

    Attributes:
        phase: "forward" or "backward".
        name: torch's own name of the operation, such as "convolution".
        count: how often it occurs.
        flops: floating-point operations of one occurrence, a multiply and an add as two.
        bytes: what one occurrence reads and writes, at least, in the precision of its tensors.
        rows: as a matrix product of `rows` × `depth` by `depth` × `columns`, the rows; 0 where the
            operation is none.
        columns: likewise.
        depth: likewise, the length of the sums.
        groups: number of such products side by side (grouped convolutions, batched products).
        steps: parts of one occurrence that have to run one after another, as in a recurrent layer.
    """

    phase: str
    name: str
    count: int
    flops: float
    bytes: float
    rows: int = 0
    columns: int = 0
    depth: int = 0
    groups: int = 1
    steps: int = 1


@dataclass(frozen=True)
class Workload:
    """One training step of a model, as numbers that need neither the model nor a GPU.

    A step is a batch on one GPU: forward, backward, and the optimizer's share of it.

    Attributes:
        model: name of the model.
        batch_size: samples in a step.
        precision: "fp32", "tf32", "bf16" or "fp16"; the last two with automatic mixed precision.
        optimizer: one of `OPTIMIZERS`.
        parameters: number of parameters.
        trainable_parameters: how many of them the optimizer changes.
        parameter_tensors: number of tensors that the optimizer changes.
        forward_flops_per_sample: FLOPs of the forward pass for one sample.
        operations: what a step does on the GPU, without the optimizer.
        forward_calls: operations that the forward pass starts, views of tensors among them.
        backward_calls: likewise, the backward pass.
        module_calls: how often a module's forward is called.
        saved_bytes: what the forward pass keeps for the backward pass.
        input_bytes: size of a batch.
        loop: who runs the step: "lightning" or "plain".
        layout: of the inputs and weights of convolutions in memory: "contiguous" (NCHW) or
            "channels_last" (NHWC).
        compiled: whether the model is run by `torch.compile`.
        accumulate: batches for each step of the optimizer.
        devices: GPUs of one host, each of which takes batches of its own of that size; with each
            step of the optimizer they add up their gradients (data parallel).
        parameter_bytes: of a parameter, its gradient, and each number that the optimizer keeps for
            it: 4, or 2 where the weights themselves are in half precision.
        notes: what could not be counted, one sentence each.

    Examples:
        >>> from energyest.profiling import Workload
        >>> Workload.from_dict(workload.to_dict()) == workload
        True
    """

    model: str
    batch_size: int
    precision: str
    optimizer: str
    parameters: int
    trainable_parameters: int
    parameter_tensors: int
    forward_flops_per_sample: float
    operations: tuple[Operation, ...]
    forward_calls: int
    backward_calls: int
    module_calls: int
    saved_bytes: float
    input_bytes: float
    loop: str = "plain"
    layout: str = "contiguous"
    compiled: bool = False
    accumulate: int = 1
    devices: int = 1
    parameter_bytes: int = 4
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    @property
    def flops_per_step(self) -> float:
        """FLOPs of forward and backward for a batch."""
        return sum(operation.flops * operation.count for operation in self.operations)

    @property
    def bytes_per_step(self) -> float:
        """What forward and backward read and write for a batch, at least, in bytes."""
        return sum(operation.bytes * operation.count for operation in self.operations)

    @property
    def kernels(self) -> int:
        """Operations of forward and backward that run on the GPU."""
        return sum(operation.count for operation in self.operations)

    @property
    def optimizer_states(self) -> int:
        """Numbers that the optimizer keeps for each parameter."""
        return _STATES[self.optimizer]

    @property
    def optimizer_bytes(self) -> float:
        """What the optimizer reads and writes in a step, in bytes."""
        moved = 3 + 2 * self.optimizer_states
        return float(self.trainable_parameters * self.parameter_bytes * moved)

    @property
    def gradient_bytes(self) -> float:
        """Size of all gradients."""
        return float(self.trainable_parameters * self.parameter_bytes)

    @property
    def memory_bytes(self) -> float:
        """GPU memory that training needs, at least: weights, gradients, states, activations."""
        states = self.trainable_parameters * (1 + self.optimizer_states)
        kept = self.parameter_bytes * (self.parameters + states)
        return kept + self.saved_bytes + self.input_bytes

    def _repr_html_(self) -> str:
        per_step = {
            "batch size": self.batch_size,
            "precision": self.precision,
            "optimizer": self.optimizer,
            "parameters": f"{self.parameters:,} ({self.trainable_parameters:,} trainable)",
            "FLOPs of a step": _with_prefix(self.flops_per_step, "FLOP"),
            "memory traffic of a step": _with_prefix(self.bytes_per_step, "B"),
            "operations of a step": f"{self.kernels:,}",
            "GPU memory, at least": _with_prefix(self.memory_bytes, "B"),
            "GPUs": self.devices if self.devices > 1 else None,
        }
        return as_html(f"One training step of {self.model}", [facts(per_step)], self.notes)

    def to_dict(self) -> dict[str, Any]:
        """Numbers and text alone, for JSON; `from_dict` reads them."""
        content = asdict(self)
        names = [field.name for field in fields(Operation)]
        content["operations"] = {
            name: [getattr(operation, name) for operation in self.operations] for name in names
        }
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Workload:
        """A workload from what `to_dict` gave.

        Raises:
            WorkloadError: something is missing, or is not what it should be.
        """
        try:
            table = dict(content["operations"])
            rows = zip(*(table[field.name] for field in fields(Operation)), strict=True)
            names = [f.name for f in fields(cls) if f.name != "operations"]
            # Workloads that were stored before there were these fields lack them.
            others = {n: content[n] for n in names if n in content or n not in _LATER}
            if not isinstance(others["notes"], list | tuple):
                raise TypeError("notes must be a list")
            others["notes"] = tuple(others["notes"])
            return cls(operations=tuple(Operation(*row) for row in rows), **others)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise WorkloadError(
                f"not a stored workload: {type(error).__name__}: {error}"
            ) from error


def _with_prefix(number: float, unit: str) -> str:
    size, name = unit_for(number, unit)
    return f"{number / size:.4g} {name}"


def check_precision_name(precision: str) -> str:
    """Refuse what is no precision."""
    if precision not in PRECISIONS:
        raise WorkloadError(f"precision={precision!r} must be one of {', '.join(PRECISIONS)}")
    return precision


def check_optimizer_name(optimizer: str) -> str:
    """Refuse an optimizer that nothing is known of; capitals do not matter."""
    name = str(optimizer).lower()
    if name not in _STATES:
        raise WorkloadError(
            f"optimizer={optimizer!r} must be one of {', '.join(OPTIMIZERS)}: choose one that "
            "keeps as many numbers for each parameter"
        )
    return name


def _check(workload: Workload) -> None:
    check_precision_name(workload.precision)
    if check_optimizer_name(workload.optimizer) != workload.optimizer:
        raise WorkloadError(f"optimizer={workload.optimizer!r} must be in small letters")
    if workload.loop not in LOOPS:
        raise WorkloadError(f"loop={workload.loop!r} must be one of {', '.join(LOOPS)}")
    if workload.layout not in LAYOUTS:
        raise WorkloadError(f"layout={workload.layout!r} must be one of {', '.join(LAYOUTS)}")
    if not isinstance(workload.compiled, bool):
        raise WorkloadError(f"compiled={workload.compiled!r} must be True or False")
    if not all(isinstance(text, str) for text in (workload.model, *workload.notes)):
        raise WorkloadError("the model's name and the notes must be text")
    for field in fields(workload):
        least = 1 if field.name in ("batch_size", *_LATER) else 0
        _check_number(field.name, field.type, getattr(workload, field.name), least)
    if workload.trainable_parameters > workload.parameters:
        raise WorkloadError(
            f"trainable_parameters={workload.trainable_parameters} is more than all "
            f"{workload.parameters} parameters"
        )
    for operation in workload.operations:
        if operation.phase not in ("forward", "backward") or not isinstance(operation.name, str):
            raise WorkloadError(f"{operation} is no operation of forward or backward")
        for field in fields(operation):
            least = 1 if field.name in ("count", "groups", "steps") else 0
            name = f"{operation.name}.{field.name}"
            _check_number(name, field.type, getattr(operation, field.name), least)


def _check_number(name: str, kind: object, value: Any, least: int) -> None:
    """Refuse what a field of that kind, by its annotation, cannot hold."""
    if kind not in ("int", "float"):
        return
    word = "whole number" if kind == "int" else "number"
    # The comparisons are also what NaN fails.
    fits = is_count(value) if kind == "int" else is_number(value)
    if not (fits and least <= value <= LARGEST):
        text = f"a {word} of {least} or more, up to {LARGEST:.0e}"
        raise WorkloadError(f"{name}={short(value)} must be {text}")
