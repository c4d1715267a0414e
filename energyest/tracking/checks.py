"""Checks of settings before training begins."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from energyest.checks import check_confidence, check_count, check_positive, short
from energyest.errors import ConfigurationError
from energyest.measure.sensors import check_components
from energyest.records.workload import Workload


def check_settings(
    confidence: float, interval_s: float, components: Sequence[str], batch_size: object
) -> None:
    """Refuse settings that cannot work, before a training begins."""
    if batch_size is not None and not callable(batch_size):
        raise ConfigurationError(
            f"batch_size={batch_size!r} must be a function that returns the samples in a batch"
        )
    check_components(components)
    check_positive(interval_s, "interval_s", ConfigurationError)
    check_confidence(confidence, ConfigurationError)


def check_folder(folder: str | Path | None) -> Path | None:
    """The folder of a trace; refuses addresses (as of a bucket), which would become local names.

    Also refuses a relative path if the working directory no longer exists.
    """
    if folder is None:
        return None
    if is_address(folder):
        raise ConfigurationError(f"folder={str(folder)!r} must be a local path, not an address")
    try:
        os.path.abspath(folder)
    except OSError as error:
        raise ConfigurationError(
            f"folder={str(folder)!r} must be absolute: the working directory is gone ({error})"
        ) from error
    return Path(folder)


def is_address(folder: str | Path) -> bool:
    """Whether it is the address of a remote file system, such as `s3://bucket`."""
    return "://" in str(folder)


def check_every_n_steps(every_n_steps: int | None) -> int | None:
    """Return a whole number of 1 or more, or None; raise an error for anything else."""
    if every_n_steps is None:
        return None
    return check_count(every_n_steps, "every_n_steps", ConfigurationError)


def check_workload(workload: Workload | None) -> Workload | None:
    """Return a workload or None; raise an error for anything else.

    Raises:
        ConfigurationError: the value is neither.
    """
    if workload is None or isinstance(workload, Workload):
        return workload
    raise ConfigurationError(
        f"workload is a {type(workload).__name__}: it must come from describe_workload()"
    )


def check_names(argument: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return a list of names as a tuple; raise an error for anything else, as a single name."""
    is_list = isinstance(names, Collection) and not isinstance(names, str)
    if not is_list or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"{argument}={short(names)} must be a list of names")
    return tuple(names)
