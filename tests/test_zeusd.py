"""Processors and memory through Zeus's daemon, simulated at its socket."""

from __future__ import annotations

import contextlib
import json
import math
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from energyest import detect, track
from energyest.measure.sensors.external import zeusd
from energyest.measure.sensors.external.zeusd import ZeusdSensor


class Daemon:
    """Answers as `zeusd` does.

    Attributes:
        zones: number of a zone -> its energies.
        status: of the answer.
        said: the body, if not that.
        wait: an answer waits until this is set.
        asked: the paths that were asked for.
    """

    def __init__(self) -> None:
        self.zones: dict[str, Any] = {
            "0": {"cpu_energy_uj": 10_000_000, "dram_energy_uj": 2_000_000},
            "1": {"cpu_energy_uj": 30_000_000, "dram_energy_uj": 3_000_000},
        }
        self.status = 200
        self.said: bytes | None = None
        self.wait = threading.Event()
        self.wait.set()
        self.asked: list[str] = []

    def answer(self, path: str) -> bytes:
        self.asked.append(path)
        self.wait.wait(600)
        return json.dumps(self.zones).encode() if self.said is None else self.said


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not wait is no news."""


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    made = Daemon()

    class Handler(BaseHTTPRequestHandler):
        def address_string(self) -> str:
            return "unix"

        def do_GET(self) -> None:
            said = made.answer(self.path)
            self.send_response(made.status)
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with Server("zeusd.sock", Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        monkeypatch.setenv("ZEUSD_SOCK_PATH", "zeusd.sock")
        yield made
        made.wait.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("kind", "energy_J"), [("cpu", 40.0), ("ram", 5.0)])
def test_all_packages_are_added_up(daemon: Daemon, kind: str, energy_J: float) -> None:
    sensor = ZeusdSensor(kind)
    assert sensor.ask().energy_J == pytest.approx(energy_J)
    assert daemon.asked[0] == "/cpu/get_cumulative_energy?cpu=true&dram=true"
    meta = sensor.device.as_meta()
    assert (meta["device"], meta["source"]) == (f"{kind}:0", "measured")
    assert meta["method"] == "RAPL through zeusd, 2 package(s) of this machine"
    assert "power_limit_W" not in meta


def test_zones_that_are_no_packages_are_left_out(daemon: Daemon, tmp_path: Path) -> None:
    """The daemon numbers `psys` as well, which contains the packages."""
    root = tmp_path / "powercap"
    for number, name in enumerate(("package-0", "psys")):
        (root / f"intel-rapl:{number}").mkdir(parents=True)
        (root / f"intel-rapl:{number}" / "name").write_text(f"{name}\n")
    assert ZeusdSensor("cpu", root=root).ask().energy_J == pytest.approx(10)
    del daemon.zones["0"]
    with pytest.raises(ValueError, match="nothing of package 0"):
        ZeusdSensor("cpu", root=root)


FAULTS: dict[str, tuple[int, bytes | None, str]] = {
    "older": (404, b"", "404 Not Found"),
    "no permission": (401, b"", "401 Unauthorized"),
    "error": (500, b"", "500 Internal"),
    "no JSON": (200, b"<html>", "Expecting value"),
    "a list": (200, b"[1]", "answers with list"),
    "nothing": (200, b"{}", "nothing of package"),
    "no energies": (200, b'{"0": 5}', "no energies of a package"),
    "text": (200, b'{"0": {"cpu_energy_uj": "7"}}', "cpu_energy_uj='7'"),
    "negative": (200, b'{"0": {"cpu_energy_uj": -7}}', "cpu_energy_uj=-7"),
    "NaN": (200, b'{"0": {"cpu_energy_uj": NaN}}', "cpu_energy_uj=nan"),
    "null": (200, b'{"0": {"cpu_energy_uj": null}}', "no cpu_energy_uj of each package"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_answer_that_is_no_energy(daemon: Daemon, fault: str) -> None:
    sensor = ZeusdSensor("cpu")
    daemon.status, daemon.said, why = FAULTS[fault]
    with pytest.raises((OSError, ValueError), match=why):
        sensor.ask()
    found = detect(components=("cpu",))
    assert [s.device.source for s in found] == ["modelled"]
    if fault != "null":
        assert why in found.notes[0]


def test_a_daemon_that_hangs_or_is_gone(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sensor = ZeusdSensor("cpu")
    monkeypatch.setattr(zeusd, "_TIMEOUT_S", 0.05)
    daemon.wait.clear()
    with pytest.raises(OSError, match=r"zeusd\.sock does not answer: timed out"):
        sensor.ask()
    (tmp_path / "zeusd.sock").unlink()
    with pytest.raises(OSError, match="No such file"):
        sensor.ask()
    (tmp_path / "zeusd.sock").touch()
    with pytest.raises(OSError, match="does not answer"):
        sensor.ask()


def test_detect_asks_the_daemon_that_the_environment_names(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = detect(components=("cpu", "ram"))
    assert [s.device.source for s in found] == ["measured", "measured"]
    assert found.notes == ()
    for zone in daemon.zones.values():
        zone["dram_energy_uj"] = None
    found = detect(components=("cpu", "ram"))
    assert [s.device.source for s in found] == ["measured", "modelled"]
    monkeypatch.delenv("ZEUSD_SOCK_PATH")
    asked = len(daemon.asked)
    found = detect(components=("cpu", "ram"))
    assert [s.device.source for s in found] == ["modelled", "modelled"]
    assert len(daemon.asked) == asked


def test_a_run_beside_the_daemon(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its counters run at 50 W and 5 W, by the real clock."""
    began_s = time.monotonic()

    def answer(path: str) -> bytes:
        spent_uJ = (time.monotonic() - began_s) * 1e6
        zone = {"cpu_energy_uj": 50 * spent_uJ, "dram_energy_uj": 5 * spent_uJ}
        return json.dumps({"0": zone}).encode()

    monkeypatch.setattr(daemon, "answer", answer)
    monkeypatch.setattr(zeusd, "_EVERY_S", 0.05)
    with track(sensors=detect(components=("cpu", "ram"))) as run:
        for _ in run.epochs(2):
            time.sleep(0.4)
    seconds = run.trace.column("duration_s")
    # A busy machine may read late, by a part of an epoch.
    assert run.trace.column("cpu_energy_J").sum() == pytest.approx(50 * seconds.sum(), rel=0.3)
    assert run.trace.column("ram_energy_J").sum() == pytest.approx(5 * seconds.sum(), rel=0.3)


def test_a_counter_that_restarts_has_no_power(daemon: Daemon) -> None:
    sensor = ZeusdSensor("cpu")
    sensor.every_s = 0.01
    with contextlib.closing(sensor):
        assert sensor.has_news()
        assert sensor.read(1.0).energy_J == pytest.approx(40)
        daemon.zones["0"]["cpu_energy_uj"] = 1
        deadline_s = time.monotonic() + 60
        while not sensor.has_news() and time.monotonic() < deadline_s:
            time.sleep(0.001)
        reading = sensor.read(2.0)
    assert reading.energy_J == pytest.approx(30, abs=0.01)
    assert math.isnan(reading.power_W)
