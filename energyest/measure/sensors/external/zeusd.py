"""Processors and memory through Zeus's daemon, where RAPL is for root alone.

`zeusd` (ml.energy/zeus/zeusd) runs as root and answers over a Unix socket, whose path is in
`ZEUSD_SOCK_PATH`. `GET /cpu/get_cumulative_energy?cpu=true&dram=true` gives, by number of the RAPL
zone, `cpu_energy_uj` and `dram_energy_uj`, continued beyond wraps (zeusd/src/routes/cpu.rs and
devices/cpu/linux.rs). It also numbers zones that are no packages, such as `psys`, which would count
twice: only those are added up that the kernel names packages.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from energyest.measure.sensors.base import Device
from energyest.measure.sensors.cpu import processor_name
from energyest.measure.sensors.external.background import Answer, BackgroundSensor, gap_s
from energyest.measure.sensors.kernel.rapl import RAPL_ROOT, package_numbers

VARIABLE = "ZEUSD_SOCK_PATH"
_QUESTION = "/cpu/get_cumulative_energy?cpu=true&dram=true"
_EVERY_S, _TIMEOUT_S = 1.0, 0.5
# More than a machine with many packages answers with.
_MOST_BYTES = 2**18
# More than a package, or its memory, can draw.
_MOST_W = 2000.0


class ZeusdSensor(BackgroundSensor):
    """All processor packages of the machine, or the memory of all of them.

    Args:
        kind: "cpu" or "ram".
        path: path of the daemon's socket; by default the variable's.
        root: the folder of the kernel's power zones.

    Raises:
        FileNotFoundError: no daemon is named, or it does not tell this energy of all packages.
        OSError: the daemon does not answer.
        ValueError: its answer is no energy.
    """

    def __init__(self, kind: str, path: str | None = None, root: Path = RAPL_ROOT) -> None:
        self._path = path or os.environ.get(VARIABLE, "")
        if not self._path:
            raise FileNotFoundError(f"{VARIABLE} names no daemon")
        self._key = {"cpu": "cpu_energy_uj", "ram": "dram_energy_uj"}[kind]
        self._root = root
        packages = self._packages()
        described = Device(
            device=f"{kind}:0",
            kind="cpu" if kind == "cpu" else "ram",
            name=processor_name() if kind == "cpu" else "memory",
            source="measured",
            method=f"RAPL through zeusd, {len(packages)} package(s) of this machine",
            memory_bytes=math.nan if kind == "cpu" else float(psutil.virtual_memory().total),
            details={"threads": os.cpu_count()} if kind == "cpu" else {},
            rated_power_W=_MOST_W * len(packages) / 3,
            bridged_s=gap_s(_EVERY_S, _TIMEOUT_S),
        )
        super().__init__(described, _EVERY_S)

    def ask(self) -> Answer:
        """Ask the daemon.

        Raises:
            OSError: it does not answer.
            ValueError: its answer is no energy.
        """
        return Answer(energy_J=math.fsum(self._packages()) * 1e-6)

    def interrupt(self) -> None:
        """Nothing needs to be ended: a question takes half a second at most."""

    def _packages(self) -> list[float]:
        """Microjoules of each package."""
        answer = _ask(self._path)
        known = package_numbers(self._root)
        numbers = known or sorted(answer)
        missing = [number for number in numbers if number not in answer]
        if missing or not numbers:
            raise ValueError(f"zeusd tells nothing of package {', '.join(missing) or '0'}")
        energies = [_energy(answer[number], self._key) for number in numbers]
        if any(energy is None for energy in energies):
            raise FileNotFoundError(f"zeusd tells no {self._key} of each package")
        return [energy for energy in energies if energy is not None]


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("zeusd", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(path: str) -> Mapping[str, Any]:
    connection = _Connection(path)
    try:
        connection.request("GET", _QUESTION)
        response = connection.getresponse()
        said = response.read(_MOST_BYTES)
    except (http.client.HTTPException, OSError) as error:
        told = str(error) or type(error).__name__
        raise OSError(f"zeusd at {path} does not answer: {told}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        reason = f"{response.status} {response.reason}"
        raise OSError(f"zeusd at {path} answers {reason}: a release since 2026 is needed")
    answer = json.loads(said)
    if not isinstance(answer, dict):
        raise ValueError(f"zeusd at {path} answers with {type(answer).__name__}")
    return answer


def _energy(package: Any, key: str) -> float | None:
    """Microjoules; None if this package does not count them."""
    if not isinstance(package, dict):
        raise ValueError("zeusd tells no energies of a package")
    value = package.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"zeusd tells {key}={value!r}")
    return float(value)
