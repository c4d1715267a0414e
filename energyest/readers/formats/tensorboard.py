"""Scalars of TensorBoard, from an event file or its folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from energyest.checks import short
from energyest.errors import MissingDependencyError, TraceError
from energyest.readers.clock import clock_of_unix
from energyest.readers.columns import device_of, factor_of, meaning_of
from energyest.readers.formats.metric_series import Series, readings_of_series, series_of
from energyest.readers.readings import trace_of_readings
from energyest.readers.windows import Windows, trace_of_windows
from energyest.records.trace import EnergyTrace

_FILES = "events.out.tfevents.*"


def is_tensorboard(path: Path, head: str) -> bool:
    """Whether a path is an event file of TensorBoard, or a folder of them."""
    if path.is_dir():
        return any(path.glob(_FILES))
    return "tfevents" in path.name


def read_tensorboard(
    path: str | Path,
    *,
    power: str | None = None,
    energy: str | None = None,
    unit: str | None = None,
    epoch_end_s: Any = None,
    epoch_marks: str | None = None,
    gpu: Any = None,
    timezone: str | None = None,
    max_gap_s: float | None = None,
) -> EnergyTrace:
    """Read a trace from scalars of TensorBoard: power over time, or the energy of each epoch.

    Tags are found by their names if these state the unit, such as `gpu0/power_W` or
    `energy/epoch_J`.

    Args:
        path: an event file, or its folder.
        power: tag of power.
        energy: tag of the energy of each epoch, instead of power.
        unit: unit of a tag whose name states none, such as "mW" or "kWh".
        epoch_end_s: when epochs ended, as in `read_nvidia_smi`; for power.
        epoch_marks: regular expression of the tag that is logged at the end of each epoch, such as
            "val_loss", or, if `epoch_end_s` is a file, of lines in it.
        gpu: device to count, or a list of them; by default, all are summed.
        timezone: the time zone of epoch ends that state none.
        max_gap_s: as in `EnergyTrace.from_power`.

    Raises:
        MissingDependencyError: tensorboard is not installed.
        TraceError: there is no such file; there is no tag of power or energy, or several.

    Examples:
        >>> from energyest.readers import read_tensorboard
        >>> trace = read_tensorboard('events', epoch_marks='val_loss')
        >>> trace.column('energy_J').tolist()
        [6000.0, 6000.0, 6000.0]
    """
    path = Path(path)
    scalars = _scalars(path)
    if power is None and energy is None:
        power, energy = _tag(path, scalars)
    if energy is not None:
        series = _named(path, scalars, energy)
        return trace_of_windows(_windows(path, energy, series, unit))
    names = [power] if power is not None else _those(scalars, "power")
    readings, epochs = readings_of_series(
        path,
        "tensorboard",
        _powers(path, names, scalars, unit),
        scalars,
        epoch_end_s=epoch_end_s,
        epoch_marks=epoch_marks,
        timezone=timezone,
        facts={"power_column": ", ".join(names)},
    )
    return trace_of_readings(readings, **epochs, gpu=gpu, max_gap_s=max_gap_s)


def _scalars(path: Path) -> dict[str, Series]:
    """All scalars, by tag."""
    try:
        from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]  # noqa: PLC0415
            event_accumulator,
            tag_types,
        )
        from tensorboard.util import tensor_util  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            "event files of TensorBoard are read by its own package: pip install tensorboard"
        ) from error
    if not path.exists():
        raise TraceError(f"no log at {path}")
    everything = {tag_types.SCALARS: 0, tag_types.TENSORS: 0}
    loud = logging.getLogger("tensorboard")
    level = loud.level
    loud.setLevel(logging.ERROR)
    try:
        events = event_accumulator.EventAccumulator(str(path), size_guidance=everything)
        events.Reload()
        tags = events.Tags()
        found = {
            str(tag): [(event.wall_time, event.value, 0) for event in events.Scalars(tag)]
            for tag in tags["scalars"]
        }
        for tag in tags["tensors"]:  # scalars of TensorFlow 2
            values = [
                (e.wall_time, tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)
            ]
            if all(value.size == 1 and value.dtype.kind in "fiu" for _, value in values):
                found[str(tag)] = [(time, float(value), 0) for time, value in values]
    except Exception as error:  # tensorboard's own errors
        raise TraceError(f"{path} cannot be read by tensorboard: {error}") from error
    finally:
        loud.setLevel(level)
    if not found:
        raise TraceError(f"{path} holds no scalars of TensorBoard")
    return {tag: series_of(points) for tag, points in found.items()}


def _those(scalars: dict[str, Series], quantity: str) -> list[str]:
    return [
        tag
        for tag in scalars
        if (known := meaning_of(tag)) and known.quantity == quantity and known.unit
    ]


def _tag(path: Path, scalars: dict[str, Series]) -> tuple[str | None, str | None]:
    """The tags of power and of epoch energy to read; both None to read all tags of power.

    `energy/epoch_J`, which energyest and others log, is the energy of an epoch; totals are ignored.
    """
    energies = [tag for tag in _those(scalars, "energy") if "epoch" in tag and "total" not in tag]
    if len(energies) == 1:
        return None, energies[0]
    if _those(scalars, "power"):
        return None, None
    raise TraceError(
        f"{path}: name the tag of power in power=, or that of epoch energy in energy=; there are "
        f"{', '.join(sorted(scalars)[:30])}"
    )


def _named(path: Path, scalars: dict[str, Series], tag: str) -> Series:
    if tag not in scalars:
        raise TraceError(
            f"{path} has no tag {short(tag)}; it has {', '.join(sorted(scalars)[:30])}"
        )
    return scalars[tag]


def _factor(path: Path, tag: str, quantity: str, unit: str | None) -> float:
    known = meaning_of(tag)
    stated = unit or (known.unit if known is not None and known.quantity == quantity else "")
    try:
        return factor_of(quantity, stated)
    except KeyError:
        raise TraceError(
            f"{path}: {tag} does not state the unit of {quantity}: give it in unit=, as in "
            f"unit={'W' if quantity == 'power' else 'J'!r}"
        ) from None


def _powers(
    path: Path, names: list[str], scalars: dict[str, Series], unit: str | None
) -> dict[str, Series]:
    found: dict[str, Series] = {}
    for tag in names:
        series = _named(path, scalars, tag)
        device = device_of(tag) or "gpu:0"
        if device in found:
            raise TraceError(
                f"{path}: which of {', '.join(names)} is the power of {device}? Name it in power="
            )
        found[device] = series._replace(value=series.value * _factor(path, tag, "power", unit))
    return found


def _windows(path: Path, tag: str, series: Series, unit: str | None) -> Windows:
    """Epochs whose energy was logged, each at its end."""
    end_s, clock = clock_of_unix(series.unix_s)
    energy_J = series.value * _factor(path, tag, "energy", unit)
    return Windows(
        path,
        "tensorboard",
        energy_J,
        None,  # the duration of the first epoch is not logged
        {},
        list(range(1, len(energy_J) + 1)),
        end_s=np.asarray(end_s),
        clock=clock,
        facts={"energy_column": tag},
    )
