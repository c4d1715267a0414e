"""Recognise the tool that wrote a log by its content."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from energyest.checks import short
from energyest.errors import TraceError
from energyest.readers.formats.carbontracker import is_carbontracker, read_carbontracker
from energyest.readers.formats.codecarbon import is_codecarbon, read_codecarbon
from energyest.readers.formats.dcgm import is_dcgm, read_dcgm
from energyest.readers.formats.mlflow import is_mlflow, read_mlflow
from energyest.readers.formats.mlperf_power import is_mlperf_power, read_mlperf_power
from energyest.readers.formats.nvidia_smi import is_nvidia_smi, read_nvidia_smi
from energyest.readers.formats.table import is_table, read_table
from energyest.readers.formats.tensorboard import is_tensorboard, read_tensorboard
from energyest.readers.formats.trackio import is_trackio, read_trackio
from energyest.readers.formats.wandb import is_wandb, read_wandb
from energyest.readers.formats.zeus import is_zeus, read_zeus
from energyest.readers.text import head_of
from energyest.records import storage
from energyest.records.trace import EnergyTrace


class Tool(NamedTuple):
    """A tool's reader, and a test of whether a log is its own, by path and beginning."""

    is_own: Callable[[Path, str], bool]
    read: Callable[..., EnergyTrace]


TOOLS = {
    "nvidia-smi": Tool(is_nvidia_smi, read_nvidia_smi),
    "dcgm": Tool(is_dcgm, read_dcgm),
    "codecarbon": Tool(is_codecarbon, read_codecarbon),
    "zeus": Tool(is_zeus, read_zeus),
    "carbontracker": Tool(is_carbontracker, read_carbontracker),
    "wandb": Tool(is_wandb, read_wandb),
    "mlflow": Tool(is_mlflow, read_mlflow),
    "trackio": Tool(is_trackio, read_trackio),
    "mlperf": Tool(is_mlperf_power, read_mlperf_power),
    "tensorboard": Tool(is_tensorboard, read_tensorboard),
}
# A user's own table, tried if no tool's log is recognised.
_TABLE = Tool(is_table, read_table)


def read_log(path: str | Path, *, tool: str | None = None, **options: Any) -> EnergyTrace:
    """Read a trace from the log of any supported tool.

    Args:
        path: the log.
        tool: the tool that wrote it: "nvidia-smi", "dcgm", "codecarbon", "zeus", "carbontracker",
            "wandb", "mlflow", "trackio", "mlperf", "tensorboard" or "table"; by default, recognised
            by the log's content.
        **options: options of that tool's reader, such as `epoch_end_s` or `gpu`; None omits one.

    Raises:
        TraceError: the log fits no known tool, or several; the reader has no such option; or the
            reader refuses the log.

    Examples:
        >>> from energyest.readers import read_log
        >>> read_log('gpus.csv', epoch_end_s='epoch_ends.txt')
        EnergyTrace(3 epochs, 18.52 kJ, gpu:0)
    """
    path = Path(path)
    name = tool if tool is not None else tool_of(path)
    known = {**TOOLS, "table": _TABLE}
    if name not in known:
        raise TraceError(f"tool={short(name)} is not one of {', '.join(known)}")
    given = {option: value for option, value in options.items() if value is not None}
    takes = inspect.signature(known[name].read).parameters
    unknown = [option for option in given if option not in takes]
    if unknown:
        own = ", ".join(option for option in takes if option != "path")
        raise TraceError(
            f"{path} is a log of {name}, whose reader has no option {unknown[0]}; it has {own}"
        )
    return known[name].read(path, **given)


def is_log(path: Path) -> bool:
    """Whether a path is a file, or a folder that another tool wrote and that is not a trace."""
    if not path.is_dir():
        return path.is_file()
    is_trace = any((path / name).exists() for name in storage.FILES)
    return not is_trace and any(tool.is_own(path, "") for tool in TOOLS.values())


def tool_of(path: Path) -> str:
    """The name of the tool that wrote a log.

    Raises:
        TraceError: the log fits no known tool, or several.

    Examples:
        >>> from pathlib import Path
        >>> from energyest.readers import tool_of
        >>> tool_of(Path('gpus.csv'))
        'nvidia-smi'
    """
    if not path.exists():
        raise TraceError(f"no log at {path}")
    head = "" if path.is_dir() else head_of(path)
    own = [name for name, tool in TOOLS.items() if tool.is_own(path, head)]
    if len(own) > 1:
        raise TraceError(f"{path} may be a log of {' or of '.join(own)}: choose with tool=")
    if own:
        return own[0]
    if not path.is_dir() and _TABLE.is_own(path, head):
        return "table"
    if not head.strip() and not path.is_dir():
        raise TraceError(f"{path} is empty")
    first = "" if path.is_dir() else f"; line 1: {short(head.partition(chr(10))[0])}"
    raise TraceError(
        f"{path} is not a trace, not a log of {', '.join(TOOLS)}, and not a table with columns "
        f"of power or energy{first}"
    )
