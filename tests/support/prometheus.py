"""A real Prometheus server that reads a real exporter."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

#: Debian's package `prometheus` has it; None where it is missing.
PROGRAM = shutil.which("prometheus")
BOARD = json.loads((resources.files("energyest") / "data" / "grafana_dashboard.json").read_text())


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a Prometheus that reads the runs in `folder/runs` once a second."""
    exporter_port, port = _free_port(), _free_port()
    (folder / "prometheus.yml").write_text(
        "scrape_configs:\n- job_name: energyest\n  scrape_interval: 1s\n  static_configs:\n"
        f"  - targets: ['127.0.0.1:{exporter_port}']\n"
    )
    command = [sys.executable, "-m", "energyest", "metrics", str(folder / "runs")]
    exporter = subprocess.Popen([*command, "--listen", str(exporter_port)])
    database = subprocess.Popen(
        [
            *(str(PROGRAM), f"--config.file={folder}/prometheus.yml"),
            *(f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        for process in (database, exporter):
            process.terminate()
            process.wait(30)


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.loads(answer.read())


def query(address: str, expression: str) -> list[Any]:
    """Series with a `value`, now."""
    return _ask(f"{address}/api/v1/query", query=_of_all(expression))


def query_range(address: str, expression: str, start_s: float, end_s: float) -> list[Any]:
    """Series with `values`, one per second."""
    asked = {"query": _of_all(expression), "start": start_s, "end": end_s, "step": 1}
    return _ask(f"{address}/api/v1/query_range", **asked)


def answers(address: str, expression: str) -> bool:
    """Whether the server is up and has something for this."""
    try:
        return bool(query(address, expression))
    except (urllib.error.URLError, OSError):
        return False


def _ask(address: str, **asked: Any) -> list[Any]:
    found: list[Any] = get(f"{address}?{urllib.parse.urlencode(asked)}")["data"]["result"]
    return found


def _of_all(expression: str) -> str:
    """A query of the dashboard, for all values of its variables."""
    for variable in ("run", "node", "job_id"):
        expression = expression.replace(f"${variable}", ".*")
    return expression


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
