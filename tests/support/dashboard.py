"""A picture of the dashboard's panels, drawn from what a real Prometheus server answers.

Grafana itself is not needed for it. The picture in the documentation is made by

    python -m tests.support.dashboard
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from energyest import track
from energyest.display import format_energy, format_mass
from energyest.measure import Device, Reading
from tests.support.prometheus import BOARD, PROGRAM, answers, query, query_range, serving

PICTURE = Path(__file__).parents[2] / "docs/how_to/dashboard.svg"
# Grafana's grid has 24 columns.
_COLUMNS, _INCHES, _EMPTY = 24, 0.5, 3
_UNITS = {"joule": "J", "watt": "W", "masskg": "kg", "celsius": "°C", "percentunit": "%"}
_SAID = {"J": format_energy, "kg": format_mass}


def picture(address: str, start_s: float, end_s: float) -> Figure:
    """All panels, in the dashboard's own places.

    Args:
        address: the server.
        start_s: beginning of what is shown, in seconds since 1970.
        end_s: its end.
    """
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in BOARD["panels"])
    rows -= _EMPTY  # the table at the end has few rows
    figure = Figure(figsize=(_COLUMNS * _INCHES, rows * _INCHES))
    draw: dict[str, Callable[..., None]] = {
        "stat": _stat,
        "timeseries": _lines,
        "bargauge": _bars,
        "table": _table,
    }
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        left, bottom = (at["x"] + 1.4) / _COLUMNS, 1 - (at["y"] + at["h"] - 0.9) / rows
        bottom = max(bottom, 0.01)
        height = 1 - (at["y"] + 1.0) / rows - bottom
        axes = figure.add_axes((left, bottom, (at["w"] - 2) / _COLUMNS, height))
        axes.set_title(panel["title"], loc="left", fontsize=10, fontweight="bold")
        draw[panel["type"]](axes, panel, address, start_s, end_s)
    return figure


def _stat(axes: Axes, panel: Any, address: str, *_: float) -> None:
    (target,) = panel["targets"]
    (series,) = query(address, target["expr"])
    axes.axis("off")
    axes.text(0, 0.3, _said(float(series["value"][1]), _unit(panel)), fontsize=22)


def _lines(axes: Axes, panel: Any, address: str, start_s: float, end_s: float) -> None:
    scale = 100 if _unit(panel) == "%" else 1
    for target in panel["targets"]:
        for series in query_range(address, target["expr"], start_s, end_s):
            times_s, values = zip(*series["values"], strict=True)
            axes.plot(
                [at_s - start_s for at_s in times_s],
                [scale * float(value) for value in values],
                label=_label(target["legendFormat"], series["metric"]),
                linewidth=1.2,
            )
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, end_s - start_s)
    axes.tick_params(labelsize=8)
    axes.set_ylabel(_unit(panel), fontsize=8)
    axes.set_xlabel("s", fontsize=8, loc="right", labelpad=-8)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=7, loc="best", framealpha=0.8)


def _bars(axes: Axes, panel: Any, address: str, *_: float) -> None:
    (target,) = panel["targets"]
    found = query(address, target["expr"])
    names = [_label(target["legendFormat"], series["metric"]) for series in found]
    shares = [100 * float(series["value"][1]) for series in found]
    axes.barh(names, [100] * len(names), color="0.92")
    axes.barh(names, shares)
    for place, share in enumerate(shares):
        axes.text(101, place, f"{share:.0f} %", va="center", fontsize=8)
    axes.set_xlim(0, 110)
    axes.set_xticks([])
    axes.tick_params(labelsize=8)


def _table(axes: Axes, panel: Any, address: str, *_: float) -> None:
    (target,) = panel["targets"]
    columns = ("run", "model", "gpus", "user", "project", "status")
    cells = [
        [*(series["metric"].get(name, "") for name in columns), _said(float(value), _unit(panel))]
        for series in query(address, target["expr"])
        for _, value in [series["value"]]
    ]
    axes.axis("off")
    table = axes.table(
        cells, colLabels=[*columns, "energy"], loc="upper left", cellLoc="left", edges="horizontal"
    )
    table.auto_set_font_size(value=False)
    table.set_fontsize(8)
    table.scale(1, 1.4)


def _unit(panel: Any) -> str:
    return _UNITS.get(panel["fieldConfig"]["defaults"].get("unit", ""), "")


def _said(value: float, unit: str) -> str:
    return _SAID[unit](value) if unit in _SAID else f"{value:.3g} {unit}"


def _label(form: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), form)


class SimulatedGpu:
    """A GPU whose power, utilisation and temperature vary a little."""

    def __init__(self, index: int, watts: float) -> None:
        self.device = Device(f"gpu:{index}", "gpu", "simulated GPU", "measured", "simulated")
        self._watts, self._dice = watts, random.Random(index)

    def read(self, time_s: float) -> Reading:
        share = self._dice.uniform(0.95, 1.05)
        return Reading(
            time_s,
            self.device.device,
            power_W=share * self._watts,
            utilization=min(1.0, 0.9 * share),
            memory_bytes=6e10,
            temperature_C=40 + self._watts / 20 * share,
        )

    def close(self) -> None:
        pass


def main() -> int:
    if PROGRAM is None:
        print("dashboard: needs the program prometheus")
        return 2
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as address:
        began_s = time.time()
        runs = [
            track(
                Path(folder) / "runs" / name,
                sensors=[SimulatedGpu(index, watts)],
                quiet=True,
                epochs=epochs,
                budget_kWh=0.02,
                carbon_intensity=400,
            )
            for index, (name, watts, epochs) in enumerate(
                (("resnet50", 410.0, 60), ("vit_b_16", 560.0, 90))
            )
        ]
        for run, model in zip(runs, ("ResNet", "VisionTransformer"), strict=True):
            run.start()
            run.describe(model=model, project="images", user="ana", host="gpu-node-1")
        for number in range(40):
            for run in runs:
                run.start_epoch(number)
            time.sleep(1.0)
            for run in runs:
                run.end_epoch()
        if not answers(address, "energyest_budget_left"):
            print("dashboard: Prometheus has read nothing")
            return 1
        time.sleep(2.0)
        figure = picture(address, began_s, time.time())
        for run in runs:
            run.stop()
    with mpl.rc_context({"svg.hashsalt": "energyest"}):
        figure.savefig(PICTURE, metadata={"Date": None})
    print(f"{PICTURE.name}: {len(figure.axes)} panels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
