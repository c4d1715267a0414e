"""The how-to's command for Redfish, against a controller that answers as the schema documents."""

from __future__ import annotations

import base64
import json
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from energyest import track
from energyest.measure import CommandSensor
from energyest.measure.sensors.external.program import ProgramError
from tests.support.sensors import Constant

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

PAGE = Path(__file__).parents[1] / "docs/how_to/measure_a_node.md"
POWER, NEWER = "Chassis/1/Power", "Chassis/1/EnvironmentMetrics"
READER, PASSWORD = "reader", "not a secret"


def power(watts: float | None) -> dict[str, Any]:
    """The resource Power: of its properties, those that DSP2046 shows for a rack server."""
    control = {
        "@odata.id": f"/redfish/v1/{POWER}#/PowerControl/0",
        **{"MemberId": "0", "Name": "Server Power Control", "PowerConsumedWatts": watts},
        **{"PowerCapacityWatts": 1600, "PowerAllocatedWatts": 1600},
        "PowerMetrics": {"IntervalInMin": 30, "AverageConsumedWatts": 319},
        "Status": {"State": "Enabled", "Health": "OK"},
    }
    return {
        **{"@odata.type": "#Power.v1_7_1.Power", "@odata.id": f"/redfish/v1/{POWER}"},
        **{"Id": "Power", "Name": "Power", "PowerControl": [control], "Voltages": []},
    }


def metrics(watts: float | None) -> dict[str, Any]:
    """The resource EnvironmentMetrics."""
    return {
        "@odata.type": "#EnvironmentMetrics.v1_3_0.EnvironmentMetrics",
        **{"Id": "EnvironmentMetrics", "Name": "Chassis"},
        "PowerWatts": {"Reading": watts, "DataSourceUri": "/redfish/v1/Chassis/1/Sensors/Power"},
    }


class Controller(BaseHTTPRequestHandler):
    """A management controller that asks for a name and a password."""

    answers: ClassVar[dict[str, Any]] = {}

    def do_GET(self) -> None:
        known = base64.b64encode(f"{READER}:{PASSWORD}".encode()).decode()
        answer = self.answers.get(self.path.removeprefix("/redfish/v1/"))
        allowed = self.headers["Authorization"] == f"Basic {known}"
        self.send_response(401 if not allowed else 404 if answer is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(answer if allowed else {"error": {}}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address; the reader's password is in a file."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Controller) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("HOME", str(tmp_path))
        told = f'machine 127.0.0.1 login {READER} password "{PASSWORD}"'
        (tmp_path / ".bmc").write_text(told)
        monkeypatch.setattr(Controller, "answers", {POWER: power(344), NEWER: metrics(345.5)})
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def of_the_page(address: str, *changes: tuple[str, str]) -> CommandSensor:
    """The sensor that the page makes, for another controller."""
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(redfish = .*?^\)\n)", text, re.DOTALL | re.MULTILINE)
    for old, new in (("https://bmc1", address), *changes):
        assert old in code
        code = code.replace(old, new)
    names: dict[str, Any] = {"CommandSensor": CommandSensor}
    exec(code, names)  # of this repository's own page
    sensor: CommandSensor = names["redfish"]
    return sensor


def test_the_power_that_the_controller_tells(controller: str) -> None:
    sensor = of_the_page(controller)
    assert sensor.ask().power_W == 344
    assert PASSWORD not in json.dumps(sensor.device.as_meta())
    newer = of_the_page(
        controller,
        (POWER, NEWER),
        ('["PowerControl"][0]["PowerConsumedWatts"]', '["PowerWatts"]["Reading"]'),
    )
    assert newer.ask().power_W == 345.5


def test_a_run_counts_the_node_once(controller: str) -> None:
    with track(sensors=[Constant(60, "gpu:0"), of_the_page(controller, ("=2", "=0.05"))]) as run:
        for _ in run.epochs(2):
            pass
    trace = run.trace
    assert trace.total_J == pytest.approx(344 * trace.meta["duration_s"])
    assert trace.column("gpu_energy_J") == pytest.approx(60 * trace.column("duration_s"))


def test_what_is_no_answer_says_why(
    controller: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Controller, "answers", {POWER: power(None)})
    sensor = of_the_page(controller)
    with pytest.raises(ValueError, match="printed 'None': not a number"):
        sensor.ask()
    with pytest.raises(ProgramError, match=r"curl: .* error: 404"):
        of_the_page(controller, (POWER, "Chassis/2/Power")).ask()
    with pytest.raises(ProgramError, match=r"curl: .*onnect"):
        of_the_page("http://127.0.0.1:1").ask()
    (tmp_path / ".bmc").write_text("machine 127.0.0.1 login reader password wrong")
    with pytest.raises(ProgramError, match=r"curl: .* error: 401"):
        sensor.ask()
