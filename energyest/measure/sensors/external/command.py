"""`CommandSensor`: a command of the user's own that prints watts or joules."""

from __future__ import annotations

import math
import re
import shlex
import shutil
from collections.abc import Sequence

from energyest.checks import check_positive, short
from energyest.errors import ConfigurationError
from energyest.measure.sensors.base import KINDS, Device, Kind, of_this_machine
from energyest.measure.sensors.external.background import Answer, BackgroundSensor, gap_s
from energyest.measure.sensors.external.program import Program

_WATTS = {"mW": 1e-3, "W": 1.0, "kW": 1e3}
_JOULES = {
    **{"mJ": 1e-3, "J": 1.0, "kJ": 1e3, "MJ": 1e6},
    **{"mWh": 3.6, "Wh": 3.6e3, "kWh": 3.6e6},
}
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)")
# A counter's steps can be a minute apart: 1 Wh at 60 W.
_COUNTER_GAP_S = 90.0


class CommandSensor(BackgroundSensor):
    """A smart plug, a PDU, or anything else that a command can read.

    The command prints one number, if desired with its unit. It is run beside the sampler, without a
    shell. If it takes too long it is killed, and its reading is missing, as it is if it fails or
    prints anything else. It never delays the training.

    Args:
        command: the program and its arguments, as a list or as one line; a pipe needs a shell:
            `["sh", "-c", "... | ..."]`.
        unit: unit of the number: mW, W or kW for power, or mJ, J, kJ, MJ, mWh, Wh or kWh for a
            counter of energy that only grows.
        name: name of the product, for the trace.
        device: name of the device in the readings; the part before the colon is its kind: gpu, cpu,
            ram, module or system. Devices of one name in several processes on a machine are one
            device, which the sum over processes counts once.
        contains: see `Device.contains`; by default a system contains everything else on this
            machine, so that each joule counts once.
        every_s: seconds from one run of the command to the next.
        timeout_s: how long the command may take.
        power_limit_W: the most that the device draws; readings above three times of it are missing,
            such as milliwatts where watts were expected.

    Raises:
        ConfigurationError: an argument is invalid, or there is no such program.

    Examples:
        >>> from energyest import detect, track
        >>> from energyest.measure import CommandSensor
        >>> plug = CommandSensor("echo 412.5 W", name="smart plug", power_limit_W=1000)
        >>> with track("runs/energy", sensors=detect() + [plug], quiet=True) as run:
        ...     for epoch in run.epochs(2):
        ...         run.log(loss=0.5)
        >>> run.trace.devices[-1]["name"]
        'smart plug'
    """

    def __init__(
        self,
        command: str | Sequence[str],
        *,
        unit: str = "W",
        name: str = "command",
        device: str = "system:0",
        contains: Sequence[str] | None = None,
        every_s: float = 1.0,
        timeout_s: float = 5.0,
        power_limit_W: float = math.nan,
    ) -> None:
        parts = _parts(command)
        if unit not in (*_WATTS, *_JOULES):
            known = ", ".join((*_WATTS, *_JOULES))
            raise ConfigurationError(f"unit={short(unit)}: must be one of {known}")
        every_s = check_positive(every_s, "every_s", ConfigurationError)
        timeout_s = check_positive(timeout_s, "timeout_s", ConfigurationError)
        if not math.isnan(power_limit_W):
            power_limit_W = check_positive(power_limit_W, "power_limit_W", ConfigurationError)
        if shutil.which(parts[0]) is None:
            raise ConfigurationError(f"command={short(command)}: there is no program {parts[0]!r}")
        bridged_s = gap_s(every_s, timeout_s)
        described = Device(
            device=device,
            kind=_kind(device),
            name=name,
            source="measured",
            method=f"command {parts[0]} in {unit}, every {every_s:g} s",
            power_limit_W=power_limit_W,
            contains=None if contains is None else _names(contains),
            details=of_this_machine(device),
            bridged_s=bridged_s if unit in _WATTS else max(bridged_s, _COUNTER_GAP_S),
        )
        super().__init__(described, every_s)
        self._unit = unit
        self._program = Program(parts, timeout_s)

    def ask(self) -> Answer:
        """Run the command.

        Raises:
            OSError: it failed.
            ValueError: it printed no number, or one in another unit.
        """
        said = self._program.output().strip()
        number = _NUMBER.fullmatch(said)
        if number is None:
            raise ValueError(f"{self._program.command[0]} printed {short(said)}: not a number")
        if number[2] and number[2] != self._unit:
            raise ValueError(f"{self._program.command[0]} printed {number[2]}, not {self._unit}")
        value = float(number[1])
        if self._unit in _WATTS:
            return Answer(power_W=value * _WATTS[self._unit])
        return Answer(energy_J=value * _JOULES[self._unit])

    def interrupt(self) -> None:
        """Kill the command if it is running."""
        self._program.close()


def _parts(command: str | Sequence[str]) -> list[str]:
    try:
        parts = shlex.split(command) if isinstance(command, str) else list(command)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"command={short(command)}: {error}") from error
    if not parts or not all(isinstance(part, str) for part in parts) or not parts[0]:
        raise ConfigurationError(f"command={short(command)} must be a program and its arguments")
    return parts


def _kind(device: str) -> Kind:
    prefix = device.partition(":")[0] if isinstance(device, str) else ""
    for kind in KINDS:
        if prefix == kind:
            return kind
    raise ConfigurationError(
        f"device={short(device)}: must begin with {', '.join(KINDS)}, as in 'system:0'"
    )


def _names(contains: Sequence[str]) -> tuple[str, ...]:
    if isinstance(contains, str) or not all(isinstance(name, str) for name in contains):
        raise ConfigurationError(
            f"contains={short(contains)} must be a list of kinds or devices, such as ['gpu']"
        )
    return tuple(contains)
