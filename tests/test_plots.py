"""Pictures: that they hold what they should, without looking."""

from __future__ import annotations

import io
import math
import sys

import numpy as np
import pytest

from energyest import (
    EnergyTrace,
    EstimateError,
    MissingDependencyError,
    TraceError,
    compare_estimators,
)
from energyest.estimators.comparison import EstimatorComparison
from energyest.plots import plot_comparison, plot_trace, style

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
    monkeypatch.delitem(sys.modules, "energyest.plots.picture", raising=False)
    with pytest.raises(MissingDependencyError, match=r"energyest\[plot\]"):
        plot_trace(finished())


# ---------------------------------------------------------------------- estimators on many runs


def comparison(spread: float = 3.0) -> EstimatorComparison:
    a40 = {"device": "gpu:0", "kind": "gpu", "name": "NVIDIA A40", "power_limit_W": 300}
    return compare_estimators(
        {
            "small": EnergyTrace.from_epochs(ENERGY, np.ones(40), meta={"model": "net"}),
            "large": EnergyTrace.from_epochs(
                spread * ENERGY, np.ones(40), meta={"model": "wide", "devices": [a40]}
            ),
        }
    )


def test_one_panel_for_each_estimator_that_answers() -> None:
    compared = comparison()
    figure = plot_comparison(compared)
    titles = [axes.get_title() for axes in figure.axes]
    answering = compared.summary.index[compared.summary["runs"] > 0]
    assert [title.split("\n")[0] for title in titles] == list(answering)
    assert "PRE" not in answering
    for axes, method in zip(figure.axes, answering, strict=True):
        points = next(line for line in axes.lines if line.get_label() == method)
        rows = compared.runs.query("method == @method and energy_J.notna()")
        assert list(points.get_xdata()) == pytest.approx(list(rows["measured_J"] / 1e3))
        assert list(points.get_ydata()) == pytest.approx(list(rows["energy_J"] / 1e3))
        assert axes.get_xlim() == axes.get_ylim()
    refused = next(line for line in figure.axes[-1].lines if line.get_label() == "refused")
    assert titles[-1].startswith("MLCO2")
    assert "1 of 2 runs" in titles[-1]
    assert list(refused.get_xdata()) == pytest.approx([ENERGY.sum() / 1e3])
    assert figure.axes[0].get_ylabel() == "estimated energy (kJ)"
    assert figure.axes[-1].get_xlabel() == "measured energy (kJ)"
    figure.savefig(io.BytesIO())


@pytest.mark.parametrize(("spread", "scale"), [(3.0, "linear"), (300.0, "log")])
def test_axes_are_logarithmic_where_runs_are_far_apart(spread: float, scale: str) -> None:
    axes = plot_comparison(comparison(spread)).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == (scale, scale)


def test_runs_are_told_apart_by_colour_and_marker() -> None:
    axes, *_ = plot_comparison(comparison(), by="model").axes
    looks = {
        line.get_label(): (line.get_color(), line.get_marker())
        for line in axes.lines
        if line.get_label() in ("net", "wide")
    }
    assert len(looks) == 2
    for of_one, of_other in zip(*looks.values(), strict=True):
        assert of_one != of_other


def test_what_is_no_comparison() -> None:
    with pytest.raises(EstimateError, match="is a DataFrame"):
        plot_comparison(comparison().runs)
    with pytest.raises(EstimateError, match="by='lr' is not known"):
        plot_comparison(comparison(), by="lr")
    silent = comparison()
    with pytest.raises(EstimateError, match="nothing to plot"):
        plot_comparison(
            EstimatorComparison(silent.runs[silent.runs["method"] == "PRE"], silent.confidence)
        )


# ---------------------------------------------------------------------- style


@pytest.mark.parametrize(
    ("energy_J", "unit"),
    [
        ([3.0, math.nan], (1.0, "J")),
        ([5e3, 6e3, 1.0], (1e3, "kJ")),
        ([2e9], (1e9, "GJ")),
        ([], (1, "J")),
    ],
)
def test_unit_of_energies(energy_J: list[float], unit: tuple[float, str]) -> None:
    assert style.energy_unit(energy_J) == unit


def test_series_differ_in_more_than_colour() -> None:
    assert len(set(zip(style.COLOURS * 8, style.MARKERS * 7, strict=True))) == 56
    assert not style.is_wide([0.0, 1e9])
    assert not style.is_wide([])
