"""The pictures that tests look at; `python -m tests.support.pictures` stores some of them anew.

Releases of matplotlib with the same two first numbers draw alike; others set text in other widths,
so pictures of each are stored. Look at each before you commit it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from energyest import EnergyTrace, estimate_step, plots
from energyest.estimators import score_estimators
from energyest.tradeoff import interaction, match_gpu, savings

FOLDER = Path(__file__).parents[1] / "data" / "pictures" / ".".join(mpl.__version__.split(".")[:2])
# Pictures that are stored, and the names of their files.
STORED = {
    "planned changes": "planned_changes.png",
    "gap": "gap.png",
    "eight GPUs": "eight_gpus.png",
    "estimate": "estimate.png",
    "savings": "savings.png",
}
# Small files; what is drawn still shows.
_DPI = 45
LONG = "an-organisation-with-a-long-name/a-model-whose-name-is-long-"
assert len(LONG) == 60


def training(
    epochs: int = 20, gpus: int = 1, *, name: str = "", gap: bool = False, **meta: object
) -> EnergyTrace:
    """Epochs of a minute, the first of which is cold; every other one is validated.

    With a gap, the eleventh epoch is missing.
    """
    rng = np.random.default_rng(0)
    energy_J = 4e5 * (1 + rng.normal(0, 0.01, epochs))
    energy_J[0] *= 1.4
    time_s = np.arange(0, 60.0 * epochs, 2)
    if gap:
        energy_J[10] = math.nan
        time_s = time_s[(time_s < 600) | (time_s >= 660)]
    devices = [*(f"gpu:{i}{name}" for i in range(gpus)), "cpu:0", "ram"]
    power = {
        "time_s": np.tile(time_s, len(devices)),
        "device": np.repeat(np.array(devices, dtype=object), len(time_s)),
        "power_W": np.repeat([*(300.0 - 10 * i for i in range(gpus)), 60, 12], len(time_s)),
    }
    start_s = 60.0 * np.arange(epochs)
    columns = {
        "epoch": np.arange(float(epochs)),
        "start_s": start_s,
        "end_s": start_s + 60,
        "duration_s": np.full(epochs, 60.0),
        "energy_J": energy_J,
        "validation_energy_J": np.where(np.arange(epochs) % 2, 0.1 * energy_J, 0.0),
    }
    return EnergyTrace(columns, power, meta)


CHANGES = [
    {"epoch": 7, "reason": "larger images", "energy_ratio": 1.0},
    {"epoch": 30, "reason": "the backbone is unfrozen", "energy_ratio": 3.0},
]


def runs() -> pd.DataFrame:
    """Three models with names of 60 characters on two such GPUs."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "run": f"{model}{gpu}{i}",
            "model": f"{model}{LONG}"[:60],
            "gpu": f"{gpu}{LONG}"[:60],
            "energy_J": rng.lognormal(13 + k, 0.1),
            "val_acc": rng.normal(0.7 + 0.05 * k, 0.01),
            "flops_per_sample": 10.0 ** (8 + k),
            "samples": 1000,
        }
        for k, model in enumerate("abc")
        for gpu in ("X ", "Y ")
        for i in range(6)
    )


def scores() -> Figure:
    energy_J = np.concatenate([[300.0], np.tile([100.0, 102, 98], 6)])
    traces = {
        model: EnergyTrace.from_epochs(
            k * energy_J, np.ones(len(energy_J)), meta={"model": f"{model}{LONG}"}
        )
        for k, model in enumerate("abc", start=1)
    }
    return plots.plot_comparison(score_estimators(traces), by="model")


PICTURES: dict[str, Callable[[], Figure]] = {
    "one epoch": lambda: plots.plot_trace(training(1)),
    "three epochs": lambda: plots.plot_trace(training(3), epochs=10),
    "eight GPUs": lambda: plots.plot_trace(training(gpus=8), epochs=60),
    "planned changes": lambda: plots.plot_trace(training(planned_changes=CHANGES), epochs=60),
    "finished": lambda: plots.plot_trace(training(), observed=15),
    "intervals": lambda: plots.plot_trace(training(interval_steps=50, planned_epochs=70.5)),
    "gap": lambda: plots.plot_trace(training(gap=True), epochs=60),
    "nothing measured": lambda: plots.plot_trace(EnergyTrace.from_epochs([math.nan] * 5)),
    "long names": lambda: plots.plot_trace(training(gpus=2, name=LONG), epochs=60),
    "estimate": lambda: plots.plot_estimate(estimate_step(training(), 60)),
    "savings": lambda: plots.plot_savings(savings(runs()), most=5),
    "front": lambda: plots.plot_front(runs(), by=["model", "gpu"]),
    "groups": lambda: plots.plot_groups(runs()),
    "interaction": lambda: plots.plot_interaction(interaction(runs())),
    "match": lambda: plots.plot_match(match_gpu(runs())),
    "comparison": scores,
}


def drawn(name: str) -> Figure:
    """A picture whose layout is settled, as it is only once it was drawn."""
    figure = PICTURES[name]()
    FigureCanvasAgg(figure).draw()
    return figure


def store(figure: Figure, path: Path) -> None:
    """Write a picture in matplotlib's own style and font, whatever the machine is set to."""
    with mpl.rc_context():
        mpl.rcdefaults()
        figure.savefig(path, dpi=_DPI)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, file in STORED.items():
        store(drawn(name), FOLDER / file)
