"""Pictures: that they hold what they should, without looking."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from energyest import EnergyTrace, EstimateError, MissingDependencyError, TraceError
from energyest.plots import plot_trace

ENERGY = np.concatenate([[300.0], np.tile([100.0, 102, 98], 13)])


def finished() -> EnergyTrace:
    return EnergyTrace.from_epochs(
        energy_J=ENERGY, duration_s=np.ones(40), validation_energy_J=np.full(40, 10.0)
    )


def labels(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_finished_run_projected_from_half() -> None:
    figure = plot_trace(finished(), observed=20)
    epochs, projection = figure.axes
    assert len(epochs.patches) == 80  # training and validation of 40 epochs
    assert labels(projection) == [
        "measured",
        "measured later",
        "projected (STEP)",
        "90 % interval",
    ]
    dashed = next(line for line in projection.lines if line.get_linestyle() == "--")
    expected = ENERGY[:20].sum() + 20 * ENERGY[1:20].mean()
    assert list(dashed.get_xdata()) == [20, 40]
    assert list(dashed.get_ydata()) == pytest.approx([ENERGY[:20].sum(), expected], rel=1e-4)
    assert all(axes.get_xlabel() and "(J)" in axes.get_ylabel() for axes in figure.axes)
    figure.savefig(io.BytesIO())


def test_readings_bring_a_panel_of_power() -> None:
    trace = EnergyTrace.from_power(np.arange(0, 41.0), np.full(41, 50.0), np.arange(4, 41, 4.0))
    figure = plot_trace(trace)
    assert len(figure.axes) == 3
    assert figure.axes[0].get_ylabel() == "power (W)"


def test_not_stable_says_so_inside() -> None:
    projection = plot_trace(finished(), observed=1).axes[-1]
    assert any("not stable yet" in text.get_text() for text in projection.texts)
    assert "projected (STEP)" not in labels(projection)


@pytest.mark.parametrize("arguments", [{"observed": 0}, {"epochs": 0}, {"epochs": 39}])
def test_bad_arguments(arguments: dict) -> None:
    with pytest.raises(EstimateError):
        plot_trace(finished(), **arguments)


def test_more_observed_than_measured_is_all() -> None:
    assert "40 of 80" in plot_trace(finished(), epochs=80, observed=60).axes[-1].get_title()


def test_nothing_to_plot() -> None:
    with pytest.raises(TraceError, match="no epoch"):
        plot_trace(EnergyTrace.from_epochs(energy_J=[]))


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"energyest\[plot\]"):
        plot_trace(finished())
