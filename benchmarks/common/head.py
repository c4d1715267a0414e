"""The first lines of a benchmark's output: command, device, versions and date.

An output worth keeping goes into `benchmarks/results` unchanged.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import energyest
from benchmarks.common.data_folder import REPOSITORY


def print_head(script: str, *packages: str, device: str | None = None) -> None:
    """Print command, device, versions and date, and a blank line.

    Args:
        script: the script's `__file__`.
        packages: distributions whose versions matter, by their names in pip.
        device: the device it runs on; by default this machine's CPU.
    """
    module = ".".join(Path(script).resolve().relative_to(REPOSITORY).with_suffix("").parts)
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    versions = [f"energyest {energyest.__version__}", *map(_versioned, packages)]
    versions.append(f"Python {platform.python_version()}")
    print(f"command   {command}")
    print(f"device    {device or f'{platform.machine()}, {os.cpu_count()} cores'}")
    print(f"versions  {', '.join(versions)}")
    print(f"date      {datetime.now(timezone.utc):%Y-%m-%d}\n", flush=True)


def _versioned(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"


def gpu_name() -> str:
    """GPU and driver that torch uses, for the head of a benchmark that needs one."""
    import pynvml
    import torch

    pynvml.nvmlInit()
    driver, count = pynvml.nvmlSystemGetDriverVersion(), torch.cuda.device_count()
    return f"{count} x {torch.cuda.get_device_name()}, driver {driver}, CUDA {torch.version.cuda}"
