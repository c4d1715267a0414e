"""The dashboard's queries, asked of a real Prometheus server that reads a real exporter."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest

from energyest import track
from energyest.measure import Reading
from tests.support.sensors import Constant

PROMETHEUS = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="the program prometheus is missing")

pytest.importorskip("prometheus_client")
BOARD = json.loads((resources.files("energyest") / "data" / "grafana_dashboard.json").read_text())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that has read a training that is going on."""
    folder = tmp_path_factory.mktemp("prometheus")
    exporter_port, port = free_port(), free_port()
    (folder / "prometheus.yml").write_text(
        "scrape_configs:\n- job_name: energyest\n  scrape_interval: 1s\n  static_configs:\n"
        f"  - targets: ['127.0.0.1:{exporter_port}']\n"
    )
    command = [sys.executable, "-m", "energyest", "metrics", str(folder / "runs")]
    exporter = subprocess.Popen([*command, "--listen", str(exporter_port)])
    database = subprocess.Popen(
        [
            *(str(PROMETHEUS), f"--config.file={folder}/prometheus.yml"),
            *(f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"),
        ],
        stderr=subprocess.DEVNULL,
    )
    run = track(
        folder / "runs" / "mine",
        sensors=[HalfBusy(100.0)],
        quiet=True,
        epochs=40,
        budget_kWh=1.0,
        carbon_intensity=400,
    )
    try:
        with run:
            for number, _ in enumerate(run.epochs(40)):
                time.sleep(0.5)
                if number > 6 and answers(f"http://127.0.0.1:{port}"):
                    break
            yield f"http://127.0.0.1:{port}"
    finally:
        for process in (database, exporter):
            process.terminate()
            process.wait(30)


def answers(address: str) -> bool:
    try:
        return bool(query(address, "energyest_budget_left"))
    except (urllib.error.URLError, OSError):
        return False


def query(address: str, text: str) -> list[Any]:
    found: list[Any] = get(f"{address}/api/v1/query?query={urllib.parse.quote(text)}")["data"][
        "result"
    ]
    return found


class HalfBusy(Constant):
    """A device that tells its utilisation."""

    def read(self, time_s: float) -> Reading:
        return super().read(time_s)._replace(utilization=0.5)


EXPRESSIONS = [t["expr"] for panel in BOARD["panels"] for t in panel["targets"]]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_each_panel_shows_something(server: str, expression: str) -> None:
    for variable in ("run", "node", "job_id"):
        expression = expression.replace(f"${variable}", ".*")
    found = query(server, expression)
    if "temperature" in expression:  # which this device does not tell
        assert found == []
    else:
        assert found
        assert all(float(series["value"][1]) >= 0 for series in found)


def test_variables_list_what_there_is(server: str) -> None:
    names = get(f"{server}/api/v1/label/run/values")["data"]
    assert names == ["mine"]
    for variable in BOARD["templating"]["list"][1:]:
        text = variable["query"]["query"]
        assert text == f"label_values(energyest_run_info, {variable['name']})"


def test_the_counter_grows_as_the_power_says(server: str) -> None:
    (power,) = query(server, 'energyest_device_power_watts{device="gpu:0"}')
    assert float(power["value"][1]) == 100
    (energy,) = query(server, "energyest_run_energy_joules_total")
    (duration,) = query(server, "energyest_run_duration_seconds_total")
    joules, seconds = float(energy["value"][1]), float(duration["value"][1])
    assert joules == pytest.approx(100 * seconds, rel=0.05)
