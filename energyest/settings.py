"""Persistent settings: `ENERGYEST_...` variables, or `[tool.energyest]` in pyproject.toml.

An argument takes precedence, then the environment, then the nearest `pyproject.toml` from the
working directory upwards, then the default. An invalid argument is an error. An invalid setting
from the environment or a file is ignored, with a warning that names its place: a training must not
fail because of a file in some directory above it.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from energyest.carbon import CarbonSeries, Intensity
from energyest.carbon.basis import EmissionBasis
from energyest.carbon.emissions import check_pue, constant_g_per_kWh
from energyest.checks import is_number, short
from energyest.errors import ConfigurationError, EnergyestError, EstimateError

log = logging.getLogger("energyest")

_PREFIX = "ENERGYEST_"
_FILE = "pyproject.toml"
# A larger file is not read.
_MOST_BYTES = 2**20
# Of the name of a project.
_MOST_CHARACTERS = 200
_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("", "0", "false", "no", "off"), False),
}


@dataclass(frozen=True)
class Settings:
    """All settings with their defaults.

    Attributes:
        folder: where traces are written; None for the monitor's default.
        carbon_intensity: g CO2e per kWh of electricity, a country, or a series over time; None if
            not known.
        pue: power usage effectiveness of the data centre. It applies to CO2e only, never to
            energies.
        quiet: whether to omit the summary at the end of a run.
        project: what a run belongs to; None for the account that Slurm charges, if there is one.
        record_user: whether traces contain the name of the user who ran the training.
    """

    folder: str | Path | None = None
    carbon_intensity: Intensity | None = None
    pue: float = 1.0
    quiet: bool = False
    project: str | None = None
    record_user: bool = True

    @property
    def basis(self) -> EmissionBasis:
        """What turns energy into emissions."""
        return EmissionBasis(self.carbon_intensity, self.pue)


def settings(**arguments: Any) -> Settings:
    """The settings that apply to a monitor created now.

    Args:
        **arguments: values by the names in `Settings`; None means not given.

    Raises:
        ConfigurationError: an argument is invalid.
    """
    found = Settings()
    for _, name, value in _from_outside():
        found = replace(found, **{name: value})
    given = {name: value for name, value in arguments.items() if value is not None}
    return replace(found, **{name: _CHECKS[name](name, given[name]) for name in given})


def emission_basis(
    meta: Mapping[str, Any], *, intensity: Intensity | None = None, pue: float | None = None
) -> EmissionBasis:
    """What turns the energy of a run into emissions: as given, as recorded, or as set.

    Args:
        meta: the meta of the run's trace.
        intensity: carbon intensity of the electricity; None if not given.
        pue: power usage effectiveness of the data centre; None if not given.

    Raises:
        EnergyestError: an argument is invalid.
    """
    chosen, recorded = settings(carbon_intensity=intensity, pue=pue), EmissionBasis.recorded(meta)
    takes_recorded = intensity is None and recorded.intensity is not None
    return EmissionBasis(
        recorded.intensity if takes_recorded else chosen.carbon_intensity,
        # The two were recorded together.
        recorded.pue if takes_recorded and pue is None else chosen.pue,
    )


def setting(name: str) -> Any:
    """One setting from outside, or its default.

    It is silent on settings that are invalid: `settings`, which every monitor calls, warns of them.

    Args:
        name: as in `Settings`.
    """
    found = [value for _, _, value in _from_outside(name)]
    return found[-1] if found else getattr(Settings(), name)


def origins() -> dict[str, str]:
    """The source of each setting from the environment or a `pyproject.toml`, by name."""
    return {name: where for where, name, _ in _from_outside()}


# ---------------------------------------------------------------------- sources


def _from_outside(only: str | None = None) -> Iterator[tuple[str, str, Any]]:
    """Source, name and value of each setting; later ones take precedence.

    Args:
        only: the one setting to look for, without a warning if it is invalid; None for all.
    """
    for where, values in (_from_file(), _from_environment()):
        for name, value in values.items():
            if only not in (None, name):
                continue
            try:
                yield where, name, _CHECKS[name](name, value)
            except KeyError:
                known = f"the settings are {', '.join(_CHECKS)}"
                log.warning("energyest: %s: unknown setting %s: %s", where, short(name), known)
            except EnergyestError as error:
                if only is None:
                    log.warning("energyest: %s: %s: the setting is ignored", where, error)


def _from_environment() -> tuple[str, dict[str, Any]]:
    values = {
        name.removeprefix(_PREFIX).lower(): value
        for name, value in os.environ.items()
        if name.startswith(_PREFIX)
    }
    return f"the environment ({_PREFIX}...)", values


def _from_file() -> tuple[str, Mapping[str, Any]]:
    try:
        here = Path.cwd()
    except OSError:  # the working directory no longer exists
        return _FILE, {}
    try:
        file = next((f for d in (here, *here.parents) if (f := d / _FILE).is_file()), None)
        if file is None:
            return _FILE, {}
        where, table = f"{file} [tool.energyest]", _table(file)
    except (OSError, ValueError) as error:  # unreadable, or not TOML
        log.warning("energyest: the settings in %s are ignored: %s", _FILE, error)
        return _FILE, {}
    for name in ("folder", "carbon_intensity"):
        path = table.get(name)
        is_path = name == "folder" or str(path).lower().endswith(".csv")
        if isinstance(path, str) and is_path and "://" not in path:
            table = {**table, name: str(file.parent / path)}  # paths are relative to the file
    return where, table


def _table(file: Path) -> Mapping[str, Any]:
    """The table `[tool.energyest]` of a file; empty if there is none."""
    with file.open("rb") as opened:
        data = opened.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{file} is larger than 1 MiB")
    text = data.decode()
    if "energyest" not in text:
        return {}
    table = _toml().loads(text).get("tool", {}).get("energyest", {})
    if not isinstance(table, Mapping):
        raise ValueError(f"tool.energyest={short(table)} in {file} must be a table")
    return table


def _toml() -> Any:
    """A module that reads TOML: `tomllib` (Python 3.11 and later), or else `tomli`."""
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ValueError("reading it needs Python 3.11 or the package tomli")


# ---------------------------------------------------------------------- checks


def _check_folder(name: str, value: Any) -> str | Path:
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise ConfigurationError(f"{name}={short(value)} must be a path")
    if "://" in str(value):
        raise ConfigurationError(f"{name}={str(value)!r} must be a local path, not an address")
    return value if isinstance(value, str) else Path(value)


def _check_intensity(name: str, value: Any) -> Intensity:
    known: Intensity = _number_of(value)
    try:
        if isinstance(known, str) and known.lower().endswith(".csv"):
            return CarbonSeries.from_csv(known)
        if not isinstance(known, CarbonSeries):
            constant_g_per_kWh(known)
    except EstimateError as error:
        raise type(error)(f"{name}={short(value)}: {error}") from error
    return known


def _check_pue(name: str, value: Any) -> float:
    number = _number_of(value)
    if not is_number(number):
        raise ConfigurationError(f"{name}={short(value)} must be a number of 1 or more")
    try:
        check_pue(number)
    except EstimateError as error:
        raise ConfigurationError(str(error)) from error
    return float(number)


def _check_flag(name: str, value: Any) -> bool:
    word = _WORDS.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(word, bool):
        raise ConfigurationError(f"{name}={short(value)} must be true or false")
    return word


def _check_project(name: str, value: Any) -> str:
    text = value.strip() if isinstance(value, str) else ""
    if not text or len(text) > _MOST_CHARACTERS or not text.isprintable():
        raise ConfigurationError(
            f"{name}={short(value)} must be a name of at most {_MOST_CHARACTERS} characters"
        )
    return text


def _number_of(value: Any) -> Any:
    """The number in a text from the environment; any other value unchanged."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "folder": _check_folder,
    "carbon_intensity": _check_intensity,
    "pue": _check_pue,
    "quiet": _check_flag,
    "project": _check_project,
    "record_user": _check_flag,
}
