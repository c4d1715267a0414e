"""The power of a whole node as its management controller (BMC) tells it, by IPMI.

`ipmitool dcmi power reading` asks for DCMI's "Get Power Reading" (DCMI specification 1.5, section
6.6.1), whose answer the tool prints in lines such as these (ipmitool, lib/ipmi_dcmi.c):

    Instantaneous power reading:                   412 Watts
    Average power reading over sample period:      398 Watts
    Power reading state is:                   activated

FreeIPMI's `ipmi-dcmi --get-system-power-statistics` prints "Current Power", "Average Power over
sampling duration" and "Power Measurement" for the same. Both ask through /dev/ipmi0, which root
alone may open by default.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from typing import NamedTuple

from energyest.measure.sensors.base import Device, of_this_machine
from energyest.measure.sensors.external.background import Answer, BackgroundSensor, gap_s
from energyest.measure.sensors.external.program import Program, ProgramError

# A controller renews its value about once a second, and each question keeps a processor busy for
# milliseconds.
_EVERY_S = 2.0
_TIMEOUT_S = 5.0


class _Tool(NamedTuple):
    command: tuple[str, ...]
    power: re.Pattern[str]
    is_off: re.Pattern[str]  # the controller does not measure


_TOOLS = (
    _Tool(
        ("ipmitool", "dcmi", "power", "reading"),
        re.compile(r"^\s*Instantaneous power reading\s*:\s*(\d+) Watts", re.MULTILINE),
        re.compile(r"^\s*Power reading state is\s*:\s*deactivated", re.MULTILINE),
    ),
    _Tool(
        ("ipmi-dcmi", "--get-system-power-statistics"),
        re.compile(r"^\s*Current Power\s*:\s*(\d+) Watts", re.MULTILINE),
        re.compile(r"^\s*Power Measurement\s*:\s*Not Available", re.MULTILINE),
    ),
)


class IpmiSensor(BackgroundSensor):
    """The whole node, read by `ipmitool` or FreeIPMI's `ipmi-dcmi`.

    It contains GPUs, processors and memory: the total counts each joule once.

    Raises:
        OSError: neither tool is there, or neither has an answer.
        ValueError: what a tool prints is no power.
    """

    def __init__(self) -> None:
        tools = [tool for tool in _TOOLS if shutil.which(tool.command[0])]
        if not tools:
            raise FileNotFoundError("neither ipmitool nor ipmi-dcmi (FreeIPMI) is installed")
        self._program, self._tool, power_W = _first_answer(tools)
        device = Device(
            device="system:0",
            kind="system",
            name="whole node",
            source="measured",
            method=f"IPMI ({self._tool.command[0]}), every {_EVERY_S:g} s",
            bridged_s=gap_s(_EVERY_S, _TIMEOUT_S),
            details=of_this_machine("system:0"),
        )
        super().__init__(device, _EVERY_S, Answer(power_W))

    def ask(self) -> Answer:
        """Ask the controller.

        Raises:
            OSError: the tool failed.
            ValueError: it printed no power.
        """
        return Answer(_power_W(self._tool, self._program.output()))

    def interrupt(self) -> None:
        """Kill the tool if it is running."""
        self._program.close()


def _first_answer(tools: Sequence[_Tool]) -> tuple[Program, _Tool, float]:
    """The first tool that has an answer; else the error of the first one."""
    failure: Exception | None = None
    for tool in tools:
        # Their words depend on the language.
        program = Program(tool.command, _TIMEOUT_S, {"LC_ALL": "C"})
        try:
            return program, tool, _power_W(tool, program.output())
        except (ProgramError, ValueError) as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _power_W(tool: _Tool, said: str) -> float:
    found = tool.power.search(said)
    name = tool.command[0]
    if tool.is_off.search(said):
        raise ValueError(f"{name}: the controller does not measure power (it is deactivated)")
    if found is None:
        raise ValueError(f"{name} told no power")
    power_W = float(found[1])
    # A controller without a sensor answers 0; a node that asks draws power.
    if not power_W > 0:
        raise ValueError(f"{name}: the controller tells 0 W")
    return power_W
