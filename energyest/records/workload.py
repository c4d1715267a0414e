"""`Workload`: what one training step demands of a GPU, as numbers, without the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from energyest.checks import is_count, is_number, short
from energyest.display import printable, unit_for
from energyest.errors import WorkloadError
from energyest.gpus.precision import PRECISIONS
from energyest.markup import as_html, facts

# Numbers that an optimizer keeps for each parameter, and numbers that it reads or writes for each
# in a step. The latter are those of torch's default implementation on GPUs, which passes over
# parameters, gradients and states again and again (`_multi_tensor_...` in torch/optim, 2.13),
# without weight decay except for AdamW. Lion and LAMB are not part of torch: their second numbers
# are estimates, and so is that of Adafactor, which depends on shapes.
_OPTIMIZERS = {
    "sgd": (0, 3),
    "sgd_momentum": (1, 8),
    "momentum": (1, 8),
    "nesterov": (1, 11),
    "rmsprop": (1, 13),
    "adagrad": (1, 13),
    "lion": (1, 15),
    "adafactor": (1, 19),
    "adam": (2, 18),
    "adamw": (2, 20),
    "nadam": (2, 22),
    "radam": (2, 22),
    "adamax": (2, 16),
    "adadelta": (2, 27),
    "lamb": (2, 20),
}
OPTIMIZERS = tuple(_OPTIMIZERS)
LOOPS = ("plain", "lightning")
LAYOUTS = ("contiguous", "channels_last")
_LATER = (
    *("layout", "compiled", "accumulate", "devices", "parameter_bytes"),
    "frozen_parameter_bytes",
)
_LATER_OF_OPERATIONS = {"layout": "", "bias": False, "precision": ""}
# Larger than any real value; products and sums of such numbers are still finite.
LARGEST = 1e30


@dataclass(frozen=True)
class Operation:
    """An operation of a training step, and how often it occurs with exactly this size.

    Attributes:
        phase: "forward" or "backward".
        name: torch's name of the operation, such as "convolution".
        count: how often it occurs.
        flops: floating-point operations of one occurrence; a multiply-add counts as two.
        bytes: the least that one occurrence reads and writes, in the precision of its tensors.
        rows: rows of the operation as a matrix product of `rows` × `depth` by `depth` × `columns`;
            0 if it is not a matrix product.
        columns: columns of that product.
        depth: inner dimension of that product, the length of the sums.
        groups: number of such products side by side (grouped convolutions, batched products); of a
            normalisation, the number of means that it computes, such as one per channel.
        steps: parts of one occurrence that must run one after another, as in a recurrent layer.
        layout: memory layout of the images that it reads, one of `LAYOUTS`; empty if it is that of
            the workload.
        bias: whether it is a convolution with a bias, for which a GPU has a kernel of its own.
        precision: the format in which it multiplies, one of `PRECISIONS`; empty if it multiplies
            nothing, or if it is that of the workload or as wide: TensorFloat-32 counts as wide as
            single precision.
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
    layout: str = ""
    bias: bool = False
    precision: str = ""


@dataclass(frozen=True)
class Workload:
    """One training step of a model, as numbers that need neither the model nor a GPU.

    A step processes one batch on one GPU: forward, backward, and a share of the optimizer step.

    Attributes:
        model: name of the model.
        batch_size: samples in a step.
        precision: "fp32", "tf32", "bf16" or "fp16"; the last two use automatic mixed precision.
        optimizer: one of `OPTIMIZERS`.
        parameters: number of parameters.
        trainable_parameters: number of parameters that the optimizer changes in each step, without
            tables with sparse gradients, of which it changes a few entries.
        parameter_tensors: number of tensors that the optimizer changes.
        forward_flops_per_sample: FLOPs of the forward pass for one sample.
        operations: operations of a step on the GPU, without the optimizer.
        forward_calls: operations that the forward pass starts, including views of tensors.
        backward_calls: the same for the backward pass.
        module_calls: how often the forward method of a module is called.
        saved_bytes: bytes that the forward pass keeps for the backward pass.
        input_bytes: bytes of a batch.
        loop: the training loop that runs the step: "lightning" or "plain".
        layout: memory layout of the inputs and weights of convolutions: "contiguous" (NCHW) or
            "channels_last" (NHWC).
        compiled: whether the model runs under `torch.compile`.
        accumulate: batches per optimizer step.
        devices: number of GPUs in one host. Each processes its own batches of `batch_size`; their
            gradients are summed at each optimizer step (data parallel).
        parameter_bytes: bytes of a trainable parameter, of its gradient, and of each number that
            the optimizer keeps for it: 4, or 2 if the weights themselves are in half precision.
        frozen_parameter_bytes: bytes of any other parameter, on average; None if they are the same.
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
    frozen_parameter_bytes: float | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    @property
    def flops_per_step(self) -> float:
        """FLOPs of the forward and backward pass for a batch."""
        return sum(operation.flops * operation.count for operation in self.operations)

    @property
    def bytes_per_step(self) -> float:
        """The least that the forward and backward pass read and write for a batch, in bytes."""
        return sum(operation.bytes * operation.count for operation in self.operations)

    @property
    def kernels(self) -> int:
        """Number of operations of the forward and backward pass that run on the GPU."""
        return sum(operation.count for operation in self.operations)

    @property
    def optimizer_states(self) -> int:
        """How many numbers the optimizer keeps for each parameter."""
        return _OPTIMIZERS[self.optimizer][0]

    @property
    def optimizer_bytes(self) -> float:
        """Bytes that the optimizer reads and writes in a step, in all of its passes over them."""
        moved = _OPTIMIZERS[self.optimizer][1]
        return float(self.trainable_parameters * self.parameter_bytes * moved)

    @property
    def gradient_bytes(self) -> float:
        """Size of all gradients in bytes."""
        return float(self.trainable_parameters * self.parameter_bytes)

    @property
    def memory_bytes(self) -> float:
        """A lower bound of the GPU memory for training, in bytes.

        It covers weights, gradients, optimizer states and activations, but not the states of
        tables with sparse gradients.
        """
        trained = self.trainable_parameters * (2 + self.optimizer_states)
        frozen = self.parameters - self.trainable_parameters
        frozen_each = self.frozen_parameter_bytes
        if frozen_each is None:
            frozen_each = self.parameter_bytes
        kept = self.parameter_bytes * trained + frozen_each * frozen
        return kept + self.saved_bytes + self.input_bytes

    def __str__(self) -> str:
        shown = (f"  {name}: {value}" for name, value in self._facts().items() if value is not None)
        notes = (f"  note: {note}" for note in self.notes)
        return printable("\n".join([f"One training step of {self.model}", *shown, *notes]))

    def _repr_html_(self) -> str:
        heading = f"One training step of {self.model}"
        return as_html(heading, [facts(self._facts())], self.notes)

    def _facts(self) -> dict[str, object]:
        """What a person wants to know of the step, in words; None for what does not apply."""
        return {
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

    def to_dict(self) -> dict[str, Any]:
        """The workload as numbers and text, for JSON; `from_dict` reads it."""
        content = asdict(self)
        names = [field.name for field in fields(Operation)]
        content["operations"] = {
            name: [getattr(operation, name) for operation in self.operations] for name in names
        }
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Workload:
        """Rebuild a workload from the result of `to_dict`.

        Raises:
            WorkloadError: a field is missing or invalid.
        """
        try:
            table = dict(content["operations"])
            # Those stored by earlier versions lack some.
            for name, value in _LATER_OF_OPERATIONS.items():
                table.setdefault(name, [value] * len(table["name"]))
            rows = zip(*(table[field.name] for field in fields(Operation)), strict=True)
            names = [f.name for f in fields(cls) if f.name != "operations"]
            # Workloads stored by earlier versions lack the fields in `_LATER`.
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
    """Refuse an unknown precision."""
    if precision not in PRECISIONS:
        raise WorkloadError(f"precision={precision!r} must be one of {', '.join(PRECISIONS)}")
    return precision


def check_optimizer_name(optimizer: str) -> str:
    """Refuse an unknown optimizer; case does not matter."""
    name = optimizer.lower() if isinstance(optimizer, str) else ""
    if name not in _OPTIMIZERS:
        kind = type(optimizer).__name__
        given = f"={short(optimizer)}" if isinstance(optimizer, str) else f" is a {kind}: it"
        raise WorkloadError(
            f"optimizer{given} must be one of {', '.join(OPTIMIZERS)}: choose one that "
            "keeps the same amount of state for each parameter"
        )
    return name


def _check(workload: Workload) -> None:
    check_precision_name(workload.precision)
    if check_optimizer_name(workload.optimizer) != workload.optimizer:
        raise WorkloadError(f"optimizer={workload.optimizer!r} must be in lower case")
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
        value = getattr(workload, field.name)
        if field.type == "float | None" and value is not None:
            _check_number(field.name, "float", value, 0)
        _check_number(field.name, field.type, value, least)
    if workload.trainable_parameters > workload.parameters:
        raise WorkloadError(
            f"trainable_parameters={workload.trainable_parameters} is more than all "
            f"{workload.parameters} parameters"
        )
    for operation in workload.operations:
        _check_operation(operation)


def _check_operation(operation: Operation) -> None:
    if operation.phase not in ("forward", "backward") or not isinstance(operation.name, str):
        raise WorkloadError(f"{operation} is not an operation of forward or backward")
    if operation.layout not in ("", *LAYOUTS):
        raise WorkloadError(
            f"{operation.name}.layout={operation.layout!r} must be one of "
            f"{', '.join(LAYOUTS)}, or empty"
        )
    if operation.precision not in ("", *PRECISIONS):
        raise WorkloadError(
            f"{operation.name}.precision={operation.precision!r} must be one of "
            f"{', '.join(PRECISIONS)}, or empty"
        )
    if not isinstance(operation.bias, bool):
        raise WorkloadError(f"{operation.name}.bias={operation.bias!r} must be True or False")
    for field in fields(operation):
        least = 1 if field.name in ("count", "groups", "steps") else 0
        name = f"{operation.name}.{field.name}"
        _check_number(name, field.type, getattr(operation, field.name), least)


def _check_number(name: str, kind: object, value: Any, least: int) -> None:
    """Refuse a value that does not fit the field's annotation or range."""
    if kind not in ("int", "float"):
        return
    word = "whole number" if kind == "int" else "number"
    # NaN fails these comparisons too.
    fits = is_count(value) if kind == "int" else is_number(value)
    if not (fits and least <= value <= LARGEST):
        text = f"a {word} of {least} or more, up to {LARGEST:.0e}"
        raise WorkloadError(f"{name}={short(value)} must be {text}")
