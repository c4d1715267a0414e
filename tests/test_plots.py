"""Pictures: that they hold what they should, without looking."""

from __future__ import annotations

import io
import math
import sys

import numpy as np
import pytest

from energyest import EnergyTrace
from energyest.errors import EstimateError, MissingDependencyError, TraceError
from energyest.estimators import EstimatorScores, score_estimators
from energyest.plots import plot_comparison, plot_trace, style
from energyest.plots.axes import is_wide, make_log, name_axis, show_durations
from energyest.plots.thinning import MOST_ROWS, thin

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
        "projected (STEP): 4.2 kJ\n(0.001167 kWh)",
        "90 % interval",
    ]
    dashed = next(line for line in projection.lines if line.get_linestyle() == "--")
    low, high = projection.get_ylim()
    assert low == 0
    assert high > dashed.get_ydata()[-1]  # the projection's end is inside
    expected = ENERGY[:20].sum() + 20 * ENERGY[1:20].mean()
    assert list(dashed.get_xdata()[[0, -1]]) == [20, 40]
    assert list(dashed.get_ydata()[[0, -1]]) == pytest.approx(
        [ENERGY[:20].sum(), expected], rel=1e-4
    )
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch", "epochs"]
    assert [a.get_ylabel() for a in figure.axes] == ["energy (J)", "cumulative energy (kJ)"]
    assert [a.yaxis.get_major_formatter()(2500) for a in figure.axes] == ["2500", "2.5"]
    figure.savefig(io.BytesIO())


def test_readings_bring_a_panel_of_power() -> None:
    trace = EnergyTrace.from_power(np.arange(0, 41.0), np.full(41, 50.0), np.arange(4, 41, 4.0))
    figure = plot_trace(trace)
    assert len(figure.axes) == 3
    assert figure.axes[0].get_xlabel() == "time (s)"
    assert figure.axes[0].get_ylabel() == "power (W)"
    assert figure.axes[0].yaxis.get_major_formatter()(50) == "50"


def test_not_stable_says_so_inside() -> None:
    projection = plot_trace(finished(), observed=1).axes[-1]
    assert any("not stable yet" in text.get_text() for text in projection.texts)
    assert labels(projection) == ["measured", "measured later"]


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
    with pytest.raises(MissingDependencyError, match="pip install matplotlib"):
        plot_trace(finished())


# ---------------------------------------------------------------------- long traces


def long_trace(rows: int) -> EnergyTrace:
    """Epochs of 100 J at 100 W, with a spike, a dip, and an unknown tenth.

    Every tenth is validated, and two GPUs are read once an epoch.
    """
    values = np.full(rows, 100.0)
    values[rows // 2], values[rows // 4] = 900.0, 7.0
    values[6 * rows // 10 : 7 * rows // 10] = math.nan
    epoch = np.arange(float(rows))
    columns = {"epoch": epoch, "start_s": epoch, "end_s": epoch + 1, "energy_J": values}
    power = {
        "time_s": np.repeat(epoch, 2),
        "device": np.array(["gpu:0", "gpu:1"] * rows, dtype=object),
        "power_W": np.repeat(values, 2),
    }
    return EnergyTrace({**columns, "validation_energy_J": np.where(epoch % 10 == 9, 5.0, 0)}, power)


def drawn_points(axes) -> int:
    return sum(len(line.get_xdata()) for line in axes.lines)


@pytest.mark.parametrize("rows", [30, MOST_ROWS])
def test_few_epochs_have_a_bar_each(rows: int) -> None:
    trace = long_trace(rows)
    power, epochs, projection = plot_trace(trace).axes
    *bars, hatched = epochs.patches
    assert len(bars) == rows + rows // 10
    begin, end = hatched.get_x(), hatched.get_x() + hatched.get_width()
    assert (begin, end) == (6 * rows // 10 - 0.5, 7 * rows // 10 - 0.5)
    assert labels(epochs) == ["epochs not measured", "stable level", "training", "validation"]
    assert [len(line.get_xdata()) for line in projection.lines[:2]] == [rows, rows]
    for line in power.lines[::2]:  # those between are markers
        np.testing.assert_array_equal(line.get_ydata(), trace.power_columns["power_W"][::2])


@pytest.mark.parametrize("rows", [MOST_ROWS + 1, 5_000, 251_650])
def test_many_epochs_are_drawn_together(rows: int) -> None:
    power, epochs, projection = plot_trace(long_trace(rows)).axes
    training, validation, spread, hatched = epochs.patches
    assert hatched.get_width() == pytest.approx(rows / 10, abs=2 * rows / MOST_ROWS)
    assert {"training, mean", "validation, mean", "stable level"} < set(labels(epochs))
    values, edges, lowest = spread.get_data()
    assert (edges[0], edges[-1]) == (-0.5, rows - 0.5)
    assert (np.nanmin(lowest), np.nanmax(values)) == (7, 900)
    assert edges[np.nanargmax(values)] <= rows // 2 <= edges[np.nanargmax(values) + 1]
    # What is not known is a gap in all of them: no height, and a tenth of the width.
    for patch in (training, validation, spread):
        unknown = np.isnan(patch.get_data().values)
        assert np.diff(edges)[unknown].sum() == pytest.approx(rows / 10, abs=rows / MOST_ROWS)
        assert np.nanmin(patch.get_data().values) > 0
    # The means are of all rows that are known.
    means, widths = validation.get_data().values, np.diff(edges)
    known = ~np.isnan(means)
    assert (means * widths)[known].sum() == pytest.approx(100 * 0.9 * rows + 800 - 93, rel=2e-3)
    assert len(values) < MOST_ROWS + 3
    assert drawn_points(power) < 2 * (2 * (MOST_ROWS + 3) + 11)
    assert drawn_points(projection) < 3 * (MOST_ROWS + 3) + 4
    for line in power.lines[::2]:
        assert (np.nanmin(line.get_ydata()), np.nanmax(line.get_ydata())) == (7, 900)
        assert np.isnan(line.get_ydata()).any()


def test_projection_of_many_epochs_begins_and_ends_at_rows() -> None:
    projection = plot_trace(long_trace(10_000), observed=3333).axes[-1]
    whole, measured, later, *_ = projection.lines
    assert (measured.get_xdata()[0], measured.get_xdata()[-1]) == (1, 3333)
    assert later.get_xdata()[-1] == whole.get_xdata()[-1] == 10_000
    # Epochs that were not measured count as those around them, not as 0.
    assert whole.get_ydata()[-1] == pytest.approx(100 * 10_000 + 800 - 93)


def test_a_long_trace_of_which_nothing_is_known() -> None:
    unknown = np.full(3000, math.nan)
    columns = {"epoch": np.arange(3000.0), "energy_J": unknown}
    figure = plot_trace(EnergyTrace(columns))
    *drawn, hatched = figure.axes[0].patches
    assert all(np.isnan(patch.get_data().values).all() for patch in drawn)
    assert hatched.get_extents().width > 0
    assert "epochs not measured" in labels(figure.axes[0])
    assert "no epoch was measured" in figure.axes[1].texts[0].get_text()
    figure.savefig(io.BytesIO())


def test_few_rows_are_not_thinned() -> None:
    values = np.array([3.0, math.nan, 1.0, math.nan])
    thinned = thin(np.arange(4.0), values)
    assert list(thinned.first) == [0, 1, 2, 3]
    for of_groups in thinned[1:]:
        np.testing.assert_array_equal(of_groups, values)


def test_a_gap_in_time_stays_one_however_few_rows_it_has() -> None:
    """As if a machine slept and the first reading afterwards failed."""
    time_s = np.concatenate([np.arange(2000.0), 50_000 + np.arange(2000.0)])
    power_W = np.full(4000, 100.0)
    power_W[2000] = math.nan
    thinned = thin(time_s, power_W)
    assert list(thinned.first[np.isnan(thinned.mean)]) == [2000]
    # A gap narrower than a column of the picture is not shown, and lowers no mean.
    power_W[500] = math.nan
    thinned = thin(time_s, power_W)
    assert np.isnan(thinned.mean).sum() == 1
    assert np.nanmin(thinned.mean) == np.nanmax(thinned.mean) == 100


# ---------------------------------------------------------------------- estimators on many runs


def comparison(spread: float = 3.0) -> EstimatorScores:
    a40 = {"device": "gpu:0", "kind": "gpu", "name": "NVIDIA A40", "power_limit_W": 300}
    return score_estimators(
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
        assert list(points.get_xdata()) == pytest.approx(list(rows["measured_J"]))
        assert list(points.get_ydata()) == pytest.approx(list(rows["energy_J"]))
        assert axes.get_xlim() == axes.get_ylim()
    refused = next(line for line in figure.axes[-1].lines if line.get_label() == "refused")
    assert titles[-1].startswith("MLCO2")
    assert "1 of 2 runs" in titles[-1]
    assert list(refused.get_xdata()) == pytest.approx([ENERGY.sum()])
    assert figure.axes[0].get_ylabel() == "estimated energy (kJ)"
    assert figure.axes[-1].get_xlabel() == "measured energy (kJ)"
    for axis in (figure.axes[0].yaxis, figure.axes[-1].xaxis):
        assert axis.get_major_formatter()(3000) == "3"
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


def test_what_is_not_a_comparison() -> None:
    with pytest.raises(EstimateError, match="is a DataFrame"):
        plot_comparison(comparison().runs)
    with pytest.raises(EstimateError, match="by='lr' is unknown"):
        plot_comparison(comparison(), by="lr")
    silent = comparison()
    with pytest.raises(EstimateError, match="nothing to plot"):
        plot_comparison(
            EstimatorScores(silent.runs[silent.runs["method"] == "PRE"], silent.confidence)
        )


# ---------------------------------------------------------------------- axes and style


@pytest.mark.parametrize(
    ("column", "name", "value", "tick"),
    [
        ("energy_J", "energy", 2500.0, "2.5 kJ"),
        ("energy_per_sample_J", "energy per sample", 0.03, "30 mJ"),
        ("energy_Wh", "energy", 2e6, "2 MWh"),
        ("power_W", "power", 700.0, "700 W"),
        ("memory_bytes", "memory", 80e9, "80 GB"),
        # Prefixes would make nonsense of these.
        ("energy_kWh", "energy (kWh)", 2000.0, "2000"),
        ("duration_s", "duration (s)", 7200.0, "7200"),
        ("co2e_kg", "co2e (kg)", 2000.0, "2000"),
        # No units.
        ("val_acc", "val_acc", 0.5, "0.5"),
        ("J", "J", 0.5, "0.5"),
    ],
)
def test_names_and_units_of_axes(column: str, name: str, value: float, tick: str) -> None:
    panel = style.new_figure(4, 3).subplots()
    make_log(panel, "y")
    name_axis(panel.yaxis, column, what="median {}")
    assert panel.get_ylabel() == f"median {name}"
    assert panel.yaxis.get_major_formatter()(value) == tick


def test_ticks_of_durations() -> None:
    panel = style.new_figure(4, 3).subplots()
    panel.plot([20.0, 100_000.0], [1, 2])
    make_log(panel, "x")
    show_durations(panel.xaxis)
    shown = [tick.get_text() for tick in panel.get_xticklabels()]
    low, high = panel.get_xlim()
    inside = [text for text, s in zip(shown, panel.get_xticks(), strict=True) if low <= s <= high]
    assert inside == ["30 s", "1 min", "3 min", "10 min", "30 min", "1 h", "3 h", "10 h", "1 d"]
    assert panel.get_xticks()[shown.index("3 h")] == 10800


def test_series_differ_in_more_than_colour() -> None:
    assert len({style.series_style(i)[:2] for i in range(56)}) == 56
    assert len(set(map(style.series_style, range(5)))) == 5
    assert not is_wide([0.0, 1e9])
    assert not is_wide([])
    assert is_wide([1.0, math.nan, 30.0])
