"""The whole node by IPMI: a management controller simulated at the command line of its tools."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from energyest import detect, track
from energyest.cli import main
from energyest.cli.exits import Exit
from energyest.measure.sensors.external import detect as detect_module
from energyest.measure.sensors.external.ipmi import IpmiSensor
from tests.support.sensors import Constant

# As ipmitool 1.8 prints it (lib/ipmi_dcmi.c).
READING = """
    Instantaneous power reading:                   {watts} Watts
    Minimum during sampling period:                 15 Watts
    Maximum during sampling period:                999 Watts
    Average power reading over sample period:      398 Watts
    IPMI timestamp:                           Sat Nov 28 10:00:00 2026
    Sampling period:                          00000001 Seconds.
    Power reading state is:                   {state}

"""
# As ipmi-dcmi of FreeIPMI 1.6 prints it.
STATISTICS = """\
Current Power                        : 377 Watts
Minimum Power over sampling duration : 2 watts
Maximum Power over sampling duration : 571 watts
Average Power over sampling duration : 380 watts
Time Stamp                           : 11/28/2026 - 10:00:00
Statistics reporting time period     : 1000 milliseconds
Power Measurement                    : {state}
"""
NO_DEVICE = (
    "Could not open device at /dev/ipmi0 or /dev/ipmi/0 or /dev/ipmidev/0: "
    "No such file or directory"
)

Tool = Callable[[str, str], Path]


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Makes a program of a script; no other is found but those of the shell."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat", "sleep", "echo", "rm"):
        program = shutil.which(name)
        assert program is not None
        (folder / name).symlink_to(program)
    monkeypatch.setenv("PATH", str(folder))

    def make(name: str, script: str) -> Path:
        file = folder / name
        file.write_text(f"#!{folder}/sh\n{script}\n")
        file.chmod(0o755)
        return file

    return make


def says(text: str) -> str:
    return f"cat <<'END'\n{text}\nEND"


def reading(watts: int = 412, state: str = "activated") -> str:
    return says(READING.format(watts=f"{watts:8d}".strip(), state=state))


def test_the_instantaneous_power_is_read(tool: Tool) -> None:
    tool("ipmitool", f'[ "$*" = "dcmi power reading" ] || exit 9\n{reading()}')
    sensor = IpmiSensor()
    with contextlib.closing(sensor):
        assert sensor.ask().power_W == 412
        assert sensor.has_news()
        assert sensor.read(0.0).power_W == 412
    meta = sensor.device.as_meta()
    assert (meta["device"], meta["kind"], meta["source"]) == ("system:0", "system", "measured")
    assert meta["method"] == "IPMI (ipmitool), every 2 s"


def test_freeipmi_stands_in_where_ipmitool_is_not_there_or_fails(tool: Tool) -> None:
    tool("ipmi-dcmi", says(STATISTICS.format(state="Active")))
    for _ in range(2):
        sensor = IpmiSensor()
        assert sensor.ask().power_W == 377
        assert sensor.device.method.startswith("IPMI (ipmi-dcmi)")
        tool("ipmitool", f"echo '{NO_DEVICE}' >&2; exit 1")


FAULTS = {
    "no tool": ("", "", "neither ipmitool nor ipmi-dcmi"),
    "no device, or no permission": ("ipmitool", f"echo '{NO_DEVICE}' >&2; exit 1", "/dev/ipmi0"),
    "no such command": (
        "ipmitool",
        "echo 'DCMI request failed because: Invalid command (c1)' >&2; exit 1",
        "Invalid command",
    ),
    "no value": ("ipmitool", reading(0), "tells 0 W"),
    "deactivated": ("ipmitool", reading(412, "deactivated"), "does not measure power"),
    "another output": ("ipmitool", "echo Chassis Power is on", "told no power"),
    "FreeIPMI without a value": (
        "ipmi-dcmi",
        says(STATISTICS.format(state="Not Available")),
        "does not measure power",
    ),
    "hangs": ("ipmitool", "sleep 600", "has not answered within"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_node_that_is_asked_for_and_cannot_be_read_is_unknown(
    tool: Tool, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, script, why = FAULTS[fault]
    if name:
        tool(name, script)
    if fault == "hangs":
        monkeypatch.setattr(detect_module, "PATIENCE_S", 0.05)
    found = detect(components=("ram", "system"))
    assert [sensor.device.device for sensor in found] == ["ram:0"]
    assert found.unknown == ["system:0"]
    (note,) = (note for note in found.notes if "system:0" in note)
    assert why in note
    assert found.losses == (note,)
    with track(sensors=found) as run:
        for _ in run.epochs(1):
            pass
    assert math.isnan(run.trace.total_J)
    assert math.isfinite(run.trace.column("ram_energy_J")[0])


def test_a_run_counts_the_node_and_shows_its_parts(tool: Tool) -> None:
    tool("ipmitool", reading(412))
    found = detect(components=("system",))
    with track(sensors=[Constant(300, "gpu:0"), *found]) as run:
        for _ in run.epochs(2):
            time.sleep(0.05)
    trace = run.trace
    assert trace.column("energy_J") == pytest.approx(412 * trace.column("duration_s"))
    assert trace.column("gpu_energy_J") == pytest.approx(300 * trace.column("duration_s"))


def test_a_controller_that_fails_later_is_missing(tool: Tool) -> None:
    file = tool("ipmitool", reading(412))
    sensor = IpmiSensor()
    tool("ipmitool", "exit 1")
    with pytest.raises(OSError, match="exit status 1"):
        sensor.ask()
    file.unlink()
    with pytest.raises(OSError, match="cannot be run"):
        sensor.ask()


def test_nobody_else_pays_for_it() -> None:
    script = (
        "import sys, energyest; energyest.detect().close(); print(sorted("
        "name for name in sys.modules if 'sensors.external' in name or name == 'subprocess'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "energyest" not in done.stdout


@pytest.mark.parametrize("is_there", [True, False])
def test_doctor_says_whether_the_node_can_be_measured(
    tool: Tool, is_there: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    tool("ipmitool", reading(412) if is_there else f"echo '{NO_DEVICE}' >&2; exit 1")
    assert main(["doctor", "--json"]) == Exit.NO_GPU
    found = json.loads(capsys.readouterr().out)
    (seen,) = (one for one in found["findings"] if one["topic"] == "whole node")
    assert seen["state"] == ("ok" if is_there else "note")
    assert (
        "--components gpu,cpu,ram,system" in seen["remedy"] if is_there else "ipmi" in seen["text"]
    )
    assert not any(device["kind"] == "system" for device in found["devices"])


def test_devices_shows_the_node_on_request(tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    tool("ipmitool", reading(412))
    assert main(["devices"]) == 0
    assert "system:0" not in capsys.readouterr().out
    assert main(["devices", "--all"]) == 0
    assert "system:0" in capsys.readouterr().out
