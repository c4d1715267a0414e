"""Runs for Prometheus and OpenTelemetry: which, with what numbers, at what cost."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest

from energyest import EnergyTrace, track
from energyest.cli import main
from energyest.errors import ConfigurationError, EnergyestError, MissingDependencyError
from energyest.exporters import LiveRuns, RunView, metrics_of
from energyest.exporters.live_runs import _SEARCH_S
from energyest.records.load_many import load_traces
from tests.support.sensors import Constant
from tests.support.traces import trace_of

prometheus_client = pytest.importorskip("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

from energyest.exporters import PrometheusExporter, observe_runs  # noqa: E402

META = {
    "run_id": "abc",
    "host": "node7",
    "job": {"scheduler": "slurm", "id": "4711_3"},
    "user": "ada",
    "status": "running",
    "planned_epochs": 10,
    "budget": {"limits": {"kWh": 1.0, "hours": 0.5, "kg CO2e": 2.0}},
    "carbon": {"g_per_kWh": 500.0, "pue": 1.0},
    "total_J": 3.6e5,
    "duration_s": 360.0,
    "devices": [
        {"device": "gpu0", "kind": "gpu", "name": "A40", "source": "measured", "energy_J": 3e5},
        {"device": "cpu", "kind": "cpu", "name": "Xeon", "source": "modelled", "energy_J": None},
    ],
}


def numbers(views: dict[str, RunView]) -> dict[tuple[str, str], float]:
    """Values by metric and by what distinguishes its samples within a run."""
    found = {}
    for metric in metrics_of(views):
        for sample in metric.samples:
            key = sample.labels.get("device", sample.labels.get("unit", ""))
            found[metric.name, key] = sample.value
    return found


def running(**more: object) -> RunView:
    trace = EnergyTrace(
        trace_of([6e4] * 5, 60.0).epoch_columns,
        {
            "time_s": [1.0, 2.0, 1.0],
            "device": ["gpu0", "gpu0", "cpu"],
            "power_W": [200.0, 250.0, math.nan],
            "energy_J": [math.nan] * 3,
            "utilization": [0.9, 0.8, math.nan],
            "memory_bytes": [1e9, 2e9, math.nan],
            "temperature_C": [50.0, math.nan, math.nan],
        },
        {**META, **more},
    )
    return RunView.of(trace)


def test_the_numbers_of_a_run() -> None:
    found = numbers({"mine": running()})
    assert found["run_info", ""] == 1
    assert found["run_energy_joules", ""] == 3.6e5
    assert found["run_duration_seconds", ""] == 360
    assert found["run_co2e_kilograms", ""] == pytest.approx(0.05)
    assert found["device_energy_joules", "gpu0"] == 3e5
    assert found["device_power_watts", "gpu0"] == 250
    assert found["device_utilization_ratio", "gpu0"] == 0.8
    assert found["device_memory_bytes", "gpu0"] == 2e9
    assert found["device_temperature_celsius", "gpu0"] == 50  # the last that was read
    assert found["epochs_done", "epoch"] == 5
    assert found["epochs_planned", "epoch"] == 10
    assert found["epoch_energy_joules", "epoch"] == 6e4
    assert found["projected_energy_joules", ""] == pytest.approx(6e5)
    lower, upper = (found[f"projected_energy_{end}_joules", ""] for end in ("lower", "upper"))
    assert lower < 6e5 < upper
    assert found["projected_duration_seconds", ""] == pytest.approx(600)
    assert found["projection_is_stable", ""] == 1
    assert found["budget_left", "kWh"] == pytest.approx(0.9)
    assert found["budget_left", "hours"] == pytest.approx(0.4)
    assert found["budget_left", "kg CO2e"] == pytest.approx(1.95)


def test_what_was_not_measured_has_no_sample() -> None:
    found = numbers({"mine": running(total_J=None, carbon=None)})
    for name in ("run_energy_joules", "run_co2e_kilograms"):
        assert (name, "") not in found
    assert ("budget_left", "kWh") not in found
    assert ("device_energy_joules", "cpu") not in found
    assert ("device_power_watts", "cpu") not in found
    assert all(math.isfinite(value) for value in found.values())
    young = numbers({"a": RunView.of(trace_of([100.0, math.nan]))})
    assert ("epoch_energy_joules", "epoch") not in young
    assert ("projected_energy_joules", "") not in young


def test_a_run_that_has_ended_draws_nothing_any_more() -> None:
    found = numbers({"mine": running(status="finished")})
    assert found["device_energy_joules", "gpu0"] == 3e5
    assert not [name for name, _ in found if name.endswith(("watts", "_ratio", "celsius"))]


def test_labels() -> None:
    metrics = {m.name: m.samples for m in metrics_of({"mine": running(), "other": running()})}
    base = {"run": "mine", "run_id": "abc", "node": "node7", "job_id": "4711_3"}
    assert metrics["run_energy_joules"][0].labels == base
    assert [s.labels["run"] for s in metrics["run_energy_joules"]] == ["mine", "other"]
    device = metrics["device_energy_joules"][0].labels
    assert device["source"] == "measured"
    assert metrics["run_info"][0].labels.items() >= {"user": "ada", "status": "running"}.items()


# ---------------------------------------------------------------------- which runs


def stored(folder: Path, trace: EnergyTrace, *, age_s: float = 0.0) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    trace.save(folder)
    for file in folder.iterdir():
        at = time.time() - age_s
        os.utime(file, (at, at))
    return folder


def test_runs_that_go_on_or_have_just_ended(tmp_path: Path) -> None:
    stored(tmp_path / "a" / "energy", running().trace)
    stored(tmp_path / "a" / "energy" / "ranks" / "1", running().trace)  # a part of it
    stored(tmp_path / "old", running().trace, age_s=1000)
    runs = LiveRuns(tmp_path, keep_s=500)
    assert list(runs.views()) == ["a/energy"]
    assert list(LiveRuns(tmp_path / "a" / "energy").views()) == ["energy"]
    assert list(LiveRuns(tmp_path, keep_s=5000).views()) == ["a/energy", "old"]
    assert LiveRuns(tmp_path / "absent").views() == {}


def test_the_runs_are_those_of_load_traces(tmp_path: Path) -> None:
    """Ranks are a part of their run, and so is what lies in it, unless it cannot be read."""
    whole, broken = (stored(tmp_path / name, running().trace) for name in ("whole", "broken"))
    for outer in (whole, broken):
        stored(outer / "rank1", running().trace)
        stored(outer / "inner", running().trace)
    stored(tmp_path / "b-side" / "rank1", running().trace)  # of a run that is elsewhere
    (broken / "meta.json").write_text("{")
    with pytest.warns(UserWarning, match="cannot be read: broken"):
        traces = load_traces(tmp_path)
    shown = ["b-side/rank1", "broken/inner", "whole"]
    assert list(traces) == shown
    assert list(LiveRuns(tmp_path).views()) == shown


def test_a_run_is_read_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    load = RunView.load

    def counted(folder: Path, epochs: float | None = None) -> RunView:
        reads.append(folder)
        return load(folder, epochs)

    monkeypatch.setattr(RunView, "load", counted)
    monkeypatch.setattr("energyest.exporters.live_runs._MOST_SHARE", math.inf)
    folder = stored(tmp_path / "a", trace_of([1.0, 2.0]))
    runs = LiveRuns(tmp_path)
    first, second = runs.views(), runs.views()
    assert first["a"] is second["a"]
    assert len(reads) == 1
    stored(folder, trace_of([1.0, 2.0, 3.0]))
    assert len(runs.views()["a"].trace) == 3
    assert len(reads) == 2


def test_reading_takes_a_small_part_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that takes two seconds to read is read every twenty seconds.

    The first reading is left out: it may have imported what it needs.
    """
    now = [1000.0]
    monkeypatch.setattr("energyest.exporters.live_runs.time.monotonic", lambda: now[0])
    reads = []

    def slow(folder: Path, epochs: float | None = None) -> RunView:
        reads.append(now[0])
        now[0] += 2.0
        return running()

    monkeypatch.setattr(RunView, "load", slow)
    folder = tmp_path / "a"
    runs = LiveRuns(tmp_path)
    for number in range(60):
        stored(folder, trace_of([1.0, float(number + 1)]))
        runs.views()
        now[0] += 1.0
    assert 4 <= len(reads) <= 60 / 20 + 3
    assert reads[1] - reads[0] == 3
    assert all(later - earlier >= 20 for earlier, later in pairwise(reads[1:]))


@pytest.mark.parametrize("behind_s", [7200.0, -7200.0])
def test_the_clock_of_another_machine_hides_no_run_and_keeps_none(
    behind_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run on a machine whose clock is two hours behind or ahead, and its end."""
    now = [1000.0]
    monkeypatch.setattr("energyest.exporters.live_runs.time.monotonic", lambda: now[0])
    folder = stored(tmp_path / "a", running().trace, age_s=behind_s)
    runs = LiveRuns(tmp_path, keep_s=300)
    runs.views()  # whether it goes on shows from now on
    for number in range(3):
        now[0] += 15.0
        stored(folder, running(total_J=3.7e5 + number).trace, age_s=behind_s - 15 * number)
        assert runs.views()["a"].trace.total_J == 3.7e5 + number
    now[0] += 290.0
    assert list(runs.views()) == ["a"]
    now[0] += 20.0
    assert runs.views() == {}


def test_folders_that_cannot_be_read_or_vanish(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = stored(tmp_path / "good", trace_of([1.0, 2.0]))
    bad = stored(tmp_path / "bad", trace_of([1.0, 2.0]))
    (bad / "meta.json").write_text("{")
    runs = LiveRuns(tmp_path)
    monkeypatch.setattr("energyest.exporters.live_runs._MOST_SHARE", math.inf)
    for _ in range(3):
        assert list(runs.views()) == ["good"]
    assert sum("a run is left out" in r.message for r in caplog.records) == 1
    shutil.rmtree(good)
    assert runs.views() == {}
    new = stored(tmp_path / "new", trace_of([1.0]))
    runs._searched_s -= 2 * _SEARCH_S
    assert list(runs.views()) == [new.name]
    with pytest.raises(ConfigurationError, match="keep_s"):
        LiveRuns(tmp_path, keep_s=0)


def test_a_folder_that_vanishes_while_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("gone", "there"):
        stored(tmp_path / name, trace_of([1.0, 2.0]))
    load = RunView.load

    def vanish(folder: Path, epochs: float | None = None) -> RunView:
        if folder.name == "gone":
            shutil.rmtree(folder)
        return load(folder, epochs)

    monkeypatch.setattr(RunView, "load", vanish)
    runs = LiveRuns(tmp_path)
    for _ in range(2):
        assert list(runs.views()) == ["there"]
    (message,) = [r.getMessage() for r in caplog.records]
    assert message.startswith(f"energyest: a run is left out: no trace at {tmp_path / 'gone'}: ")


def test_a_look_between_two_writes_keeps_the_total(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("energyest.exporters.live_runs._MOST_SHARE", math.inf)
    runs = LiveRuns(tmp_path)
    stored(tmp_path / "a", running().trace)
    known = runs.views()["a"]
    stored(tmp_path / "a", running(total_J=None).trace)
    assert runs.views()["a"] is known
    stored(tmp_path / "a", running(total_J=3.7e5).trace)
    assert runs.views()["a"].trace.total_J == 3.7e5
    stored(tmp_path / "a", running(total_J=None).trace)
    monkeypatch.setattr("energyest.exporters.live_runs._LAG_S", 0.0)
    assert math.isnan(runs.views()["a"].trace.total_J)  # it stays unknown


def test_a_real_run_while_it_goes_on(tmp_path: Path) -> None:
    with track(tmp_path / "energy", sensors=[Constant(100.0)], quiet=True, epochs=5) as run:
        for _ in run.epochs(5):
            time.sleep(0.01)
        until_s = time.monotonic() + 30
        while time.monotonic() < until_s:
            views = LiveRuns(tmp_path).views()
            if ("run_energy_joules", "") in numbers(views) and len(views["energy"].trace) == 5:
                break
            time.sleep(0.1)
        found = numbers(views)
        assert views["energy"].status == "running"
        assert found["epochs_done", "epoch"] == 5
        assert found["run_energy_joules", ""] > 0
    ended = LiveRuns(tmp_path).views()["energy"]
    assert ended.status == "finished"
    assert numbers({"energy": ended})["run_energy_joules", ""] == pytest.approx(run.trace.total_J)


# ---------------------------------------------------------------------- Prometheus


@pytest.fixture
def exporter(tmp_path: Path) -> PrometheusExporter:
    stored(tmp_path / "runs" / 'odd "name"\\\n', running().trace)
    return PrometheusExporter(LiveRuns(tmp_path / "runs"))


def values_in(text: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("device", "gpu0") == "gpu0"
    }


def test_the_text_is_read_back(exporter: PrometheusExporter) -> None:
    families = {f.name: f for f in text_string_to_metric_families(exporter.text())}
    assert families["energyest_run_energy_joules"].type == "counter"
    assert families["energyest_device_power_watts"].type == "gauge"
    info = families["energyest_run_info"].samples[0]
    assert info.labels["run"] == 'odd "name"\\\n'
    found = values_in(exporter.text())
    assert found["energyest_run_energy_joules_total"] == 3.6e5
    assert found["energyest_device_power_watts"] == 250
    assert all(family.documentation.endswith(".") for family in families.values())


def test_it_serves_and_says_if_the_port_is_taken(exporter: PrometheusExporter) -> None:
    server = exporter.serve(0)
    try:
        address = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(address, timeout=30) as answer:
            found = values_in(answer.read().decode())
        assert found["energyest_run_energy_joules_total"] == 3.6e5
        with pytest.raises(ConfigurationError, match="Another exporter may use the port"):
            exporter.serve(server.server_port)
    finally:
        server.shutdown()
        server.server_close()


def test_a_push_replaces_the_last(exporter: PrometheusExporter) -> None:
    taken: list[tuple[str, str, bytes]] = []

    class Gateway(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.command, self.path, body))
            self.send_response(500 if len(taken) > 1 else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    gateway = f"127.0.0.1:{server.server_port}"
    try:
        exporter.push(gateway)
        with pytest.raises(EnergyestError, match="500"):
            exporter.push(gateway)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    method, path, body = taken[0]
    assert (method, path) == ("PUT", "/metrics/job/energyest")
    assert values_in(body.decode())["energyest_run_energy_joules_total"] == 3.6e5
    with pytest.raises(EnergyestError, match=f"the Pushgateway {gateway} cannot be used"):
        exporter.push(gateway)


def test_a_textfile(exporter: PrometheusExporter, tmp_path: Path) -> None:
    exporter.write(tmp_path / "energyest.prom")
    text = (tmp_path / "energyest.prom").read_text()
    assert values_in(text)["energyest_run_energy_joules_total"] == 3.6e5
    assert list(tmp_path.glob("*.prom*")) == [tmp_path / "energyest.prom"]
    with pytest.raises(ConfigurationError, match=r"end in \.prom"):
        exporter.write(tmp_path / "energyest.txt")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        exporter.write(tmp_path / "absent" / "energyest.prom")


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry", None)
    with pytest.raises(MissingDependencyError, match=r"energyest\[prometheus\]"):
        PrometheusExporter(LiveRuns(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"energyest\[opentelemetry\]"):
        observe_runs(LiveRuns(tmp_path))


# ---------------------------------------------------------------------- OpenTelemetry


def test_opentelemetry_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.metrics")
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    stored(tmp_path / "mine", running().trace)
    runs = LiveRuns(tmp_path)
    looks = []
    views = runs.views
    monkeypatch.setattr(runs, "views", lambda: looks.append(0) or views())
    reader = export.InMemoryMetricReader()
    provider = sdk.MeterProvider([reader])
    observe_runs(runs, provider.get_meter("test"))
    data = json.loads(reader.get_metrics_data().to_json())
    metrics = data["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    points = {m["name"]: (m["unit"], m["data"]["data_points"]) for m in metrics}
    unit, (energy,) = points["energyest.run_energy_joules"]
    assert (unit, energy["value"]) == ("J", 3.6e5)
    assert energy["attributes"]["run"] == "mine"
    assert points["energyest.device_power_watts"][1][0]["value"] == 250
    assert len(looks) == 1  # all instruments share one
    expected = {f"energyest.{m.name}" for m in metrics_of(views()) if m.samples}
    assert points.keys() >= expected
    provider.shutdown()


# ---------------------------------------------------------------------- the command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(tmp_path / "mine", running().trace)
    assert main(["metrics", str(tmp_path), "--once"]) == 0
    assert values_in(capsys.readouterr().out)["energyest_run_energy_joules_total"] == 3.6e5
    file = tmp_path / "energyest.prom"
    assert main(["metrics", str(tmp_path), "--once", "--textfile", str(file)]) == 0
    assert values_in(file.read_text())["energyest_device_power_watts"] == 250
    assert main(["metrics", "--dashboard", str(tmp_path / "board.json")]) == 0
    assert json.loads((tmp_path / "board.json").read_text())["panels"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["runs"], 2, "pass --listen, --push, --textfile or --once"),
        ([], 2, "FOLDER is missing"),
        (["runs", "--once", "--every", "0"], 1, "--every 0 must be above 0"),
        (["runs", "--listen", "here"], 1, "--listen here must be a port"),
        (["runs", "--listen", "99999"], 1, "must be a port"),
        (["runs", "--once", "--textfile", "a.txt"], 1, "end in .prom"),
        (["runs", "--once", "--keep", "-1"], 1, "keep_s"),
        (["--dashboard", "absent/board.json"], 1, "there is no folder"),
    ],
)
def test_what_the_command_refuses(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["metrics", *arguments]) == status
    assert said in capsys.readouterr().err


def test_a_port_in_use_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["metrics", str(tmp_path), "--listen", str(port)]) == 1
    told = capsys.readouterr().err
    assert f"cannot be served on 127.0.0.1:{port}" in told
    assert "Another exporter may use the port; pass another one" in told


def test_the_dashboard_asks_for_what_there_is() -> None:
    file = resources.files("energyest") / "data" / "grafana_dashboard.json"
    board = json.loads(file.read_text())
    known = {m.name: m for m in metrics_of({})}
    for panel in board["panels"]:
        for target in panel["targets"]:
            names = [w for w in target["expr"].replace("{", " ").split() if "energyest_" in w]
            assert names, panel["title"]
            for name in names:
                bare = name.rpartition("(")[2].removeprefix("energyest_")
                metric = known[bare.removesuffix("_total")]
                assert bare.endswith("_total") == (metric.kind == "counter"), name
    places = [tuple(p["gridPos"][k] for k in "xywh") for p in board["panels"]]
    cells = [(i, j) for x, y, w, h in places for i in range(x, x + w) for j in range(y, y + h)]
    assert len(cells) == len(set(cells))
    assert max(i for i, _ in cells) < 24
