"""The dashboard's queries, asked of a real Prometheus server that reads a real exporter."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from energyest import track
from energyest.measure import Reading
from tests.support.dashboard import picture
from tests.support.prometheus import BOARD, PROGRAM, answers, get, query, serving
from tests.support.sensors import Constant

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="the program prometheus is missing")

pytest.importorskip("prometheus_client")
EPOCHS, EPOCH_S = 120, 0.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus that has read a training that is going on."""
    folder = tmp_path_factory.mktemp("prometheus")
    run = track(
        folder / "runs" / "mine",
        sensors=[HalfBusy(100.0)],
        quiet=True,
        epochs=EPOCHS,
        budget_kWh=1.0,
        carbon_intensity=400,
    )
    with serving(folder) as address, run:
        for number, _ in enumerate(run.epochs(EPOCHS)):
            time.sleep(EPOCH_S)
            if number > 6 and answers(address, "energyest_budget_left"):
                break
        yield address


class HalfBusy(Constant):
    """A device that tells its utilisation."""

    def read(self, time_s: float) -> Reading:
        return super().read(time_s)._replace(utilization=0.5)


EXPRESSIONS = [t["expr"] for panel in BOARD["panels"] for t in panel["targets"]]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_each_panel_shows_something(server: str, expression: str) -> None:
    found = query(server, expression)
    if "temperature" in expression:  # which this device does not tell
        assert found == []
    else:
        assert found
        assert all(float(series["value"][1]) >= 0 for series in found)


def test_each_panel_is_drawn(server: str) -> None:
    """As for the picture in the documentation, which `python -m tests.support.dashboard` makes."""
    panels = picture(server, time.time() - 5, time.time()).axes
    assert [axes.get_title(loc="left") for axes in panels] == [p["title"] for p in BOARD["panels"]]
    for axes in panels:
        has_content = axes.lines or axes.patches or axes.texts or axes.tables
        assert has_content or "Temperature" in axes.get_title(loc="left")
    (table,) = panels[-1].tables
    assert table[1, 0].get_text().get_text() == "mine"
    assert table[1, 6].get_text().get_text().endswith((" J", " kJ"))


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
