"""What users name as MODULE:NAME: models, batches, and workloads that were stored."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from energyest.checks import check_installed
from energyest.errors import ConfigurationError, WorkloadError

if TYPE_CHECKING:
    from types import ModuleType

    from energyest.records.trace import EnergyTrace
    from energyest.records.workload import Workload

# 32x3x224x224, x=8x512:int64: a name, sizes, and a type.
_SHAPE = re.compile(r"(?:(?P<name>\w+)=)?(?P<sizes>\d+(?:x\d+)*)(?::(?P<type>\w+))?")
_MOST_BYTES = 64 * 2**20


class How(NamedTuple):
    """The options that say how a model is described; None where one is not given.

    Attributes:
        batch: shapes of a batch.
        batch_from: MODULE:NAME of a batch.
        samples: samples in the batch.
        precision: of the training.
        optimizer: of the training.
    """

    batch: str | None = None
    batch_from: str | None = None
    samples: int | None = None
    precision: str | None = None
    optimizer: str | None = None


class Described(NamedTuple):
    """A workload, and the trace that it was taken from, if any."""

    workload: Workload
    trace: EnergyTrace | None


def workload_of(target: str, how: How) -> Described:
    """The workload of a model, of a stored workload, or of a trace.

    Args:
        target: MODULE:NAME or FILE.py:NAME of a model; a file; or the folder of a trace.
        how: of a model, how it is described.

    Raises:
        EnergyestError: it cannot be found, built or walked through; or an option that belongs to
            models is given for something else.
    """
    path = Path(target)
    if path.exists():
        if path.suffix == ".py":
            raise ConfigurationError(
                f"{target} is a file of Python: name the model in it, such as {target}:Net"
            )
        for name, value in how._asdict().items():
            if value is not None:
                option = f"--{name.replace('_', '-')}"
                raise ConfigurationError(
                    f"{option} is for a model: {target} holds a workload itself"
                )
        return _of_trace(target) if path.is_dir() else Described(_stored(path), None)
    if ":" not in target:
        raise ConfigurationError(
            f"{target} is no file or folder: a model is named MODULE:NAME, such as "
            "torchvision.models:resnet50 or train.py:Net"
        )
    if (how.batch is None) == (how.batch_from is None):
        raise ConfigurationError(
            f"a batch for {target} is needed: --batch with its shape, such as 32x3x224x224, or "
            "--batch-from MODULE:NAME"
        )
    check_installed(f"{target}, unlike a workload stored with --save-workload,", "torch", "fvcore")
    return Described(_described(target, how), None)


def _batch_from(target: str) -> Any:
    found = find(target)
    is_made = callable(found) and not hasattr(found, "shape")
    return _called(target, found, "batch") if is_made else found


def _described(target: str, how: How) -> Workload:
    from torch import nn

    from energyest.profiling import describe_workload

    is_shape = how.batch is not None
    batch = batch_of_shape(str(how.batch)) if is_shape else _batch_from(str(how.batch_from))
    model = find(target)
    if not isinstance(model, nn.Module):
        if not callable(model):
            raise ConfigurationError(
                f"{target} is a {type(model).__name__}: it must be a model, or a class or function "
                "without arguments that makes one"
            )
        model = _called(target, model, "model")
    return describe_workload(
        model,
        batch,
        precision=how.precision or "fp32",
        optimizer=how.optimizer or "sgd",
        samples=how.samples,
    )


def _called(target: str, make: Any, what: str) -> Any:
    try:
        return make()
    except TypeError as error:
        raise ConfigurationError(
            f"{target}() cannot be called without arguments ({error}): write a function without "
            f"arguments that returns the {what}, and name that"
        ) from error
    except Exception as error:  # it is the user's code
        raise ConfigurationError(f"{target}(): {type(error).__name__}: {error}") from error


def find(target: str) -> Any:
    """What is named MODULE:NAME or FILE.py:NAME; the working directory is searched too.

    Raises:
        ConfigurationError: there is none.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise ConfigurationError(f"{target} must be MODULE:NAME, or FILE.py:NAME")
    found: Any = _module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            import difflib

            alike = difflib.get_close_matches(part, dir(found), n=3)
            meant = f": did you mean {', '.join(alike)}?" if alike else ""
            raise ConfigurationError(f"{place} has no {name}{meant}")
        found = getattr(found, part)
    return found


def _module(place: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it, and an installed script has not
        sys.path.insert(0, here)
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        return _module_of_file(Path(place).absolute())
    except (Exception, SystemExit) as error:  # it is the user's code
        raise ConfigurationError(
            f"{place} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _module_of_file(file: Path) -> ModuleType:
    """A file as a module, which is run once, and finds what lies beside it."""
    known = sys.modules.get(file.stem)
    if getattr(known, "__file__", None) == str(file):
        return cast("ModuleType", known)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def batch_of_shape(text: str) -> Any:
    """A batch of zeros, from text such as `32x3x224x224` or `ids=8x512:int64,labels=8:int64`.

    Returns:
        A tensor, a tuple of tensors, or tensors by name.

    Raises:
        ConfigurationError: it is no shape.
    """
    import torch

    parts: list[tuple[str | None, Any]] = []
    for one in text.split(","):
        shape = _SHAPE.fullmatch(one.strip())
        kind = None if shape is None else getattr(torch, shape["type"] or "float32", None)
        if shape is None or not isinstance(kind, torch.dtype):
            raise ConfigurationError(
                f"--batch {one.strip()!r} is no shape: write 32x3x224x224, or 8x512:int64 for "
                "whole numbers, or name=8x512:int64"
            )
        sizes = [int(size) for size in shape["sizes"].split("x")]
        try:
            # One zero, seen as many: no memory is taken.
            parts.append((shape["name"], torch.zeros(1, dtype=kind).expand(sizes)))
        except RuntimeError as error:
            raise ConfigurationError(f"--batch {one.strip()!r}: {error}") from error
    names = [name for name, _ in parts if name is not None]
    if names and len(set(names)) != len(parts):
        raise ConfigurationError(f"--batch {text!r}: either all inputs have names, or none")
    if names:
        return {str(name): tensor for name, tensor in parts}
    tensors = tuple(tensor for _, tensor in parts)
    return tensors if len(tensors) > 1 else tensors[0]


def _stored(path: Path) -> Workload:
    from energyest.records.workload import Workload

    if path.stat().st_size > _MOST_BYTES:
        raise WorkloadError(f"{path} is larger than {_MOST_BYTES} bytes: it is no stored workload")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Workload.from_dict(content)
    except (ValueError, RecursionError) as error:  # WorkloadError is one
        raise WorkloadError(f"{path} is no stored workload: {error}") from error


def _of_trace(folder: str) -> Described:
    from energyest.cli.traces import open_trace
    from energyest.records.meta import read_object, read_text
    from energyest.records.workload import Workload

    trace = open_trace(folder)
    stored = read_object(trace.meta, "workload")
    if not stored:
        why = read_text(trace.meta, "workload_note")
        raise WorkloadError(f"the trace in {folder} holds no workload{f': {why}' if why else ''}")
    return Described(Workload.from_dict(stored), trace)
