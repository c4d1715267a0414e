"""What holds for every picture: nothing is cut off, hidden or overlapping, and no gap is filled."""

from __future__ import annotations

import math
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text

from energyest import EnergyTrace, Estimate, estimate_step, plots
from energyest.errors import EstimateError, MissingDependencyError
from energyest.estimators.step.estimate import project_path
from energyest.estimators.step.regimes import find_regimes
from energyest.plots.style import wrapped
from tests.support.pictures import CHANGES, FOLDER, LONG, PICTURES, STORED, store, training
from tests.support.pictures import drawn as draw


@pytest.fixture(scope="module")
def pictures() -> dict[str, Figure]:
    return {name: draw(name) for name in PICTURES}


def inside(axes: Axes) -> tuple[tuple[float, float], tuple[float, float]]:
    (left, right), (bottom, top) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    return (left - 1e-9, right + 1e-9), (bottom - 1e-9, top + 1e-9)


def drawn(axes: Axes) -> np.ndarray:
    """All points of lines and bands of a panel that are in its own coordinates."""
    points = [line.get_xydata() for line in axes.lines if line.get_transform() == axes.transData]
    for band in axes.collections:
        if axes.transData in band.get_transform()._iter_break_from_left_to_right():
            continue
        points += [path.vertices for path in band.get_paths()]
    found = np.concatenate(
        [np.asarray(p, float).reshape(-1, 2) for p in points] or [np.zeros((0, 2))]
    )
    return found[np.isfinite(found).all(axis=1)]


@pytest.mark.parametrize("name", [name for name in PICTURES if name != "front"])
def test_limits_hold_all_that_is_drawn(pictures: dict[str, Figure], name: str) -> None:
    for axes in pictures[name].axes:
        (left, right), (bottom, top) = inside(axes)
        for x, y in drawn(axes):
            assert left <= x <= right
            assert bottom <= y <= top


@pytest.mark.parametrize("name", PICTURES)
def test_no_panel_collapses_and_no_text_leaves_the_picture(
    pictures: dict[str, Figure], name: str
) -> None:
    figure = pictures[name]
    width, height = figure.bbox.size
    for axes in figure.axes:
        panel = axes.get_window_extent()
        assert panel.width > 0.1 * width or axes.get_label() == "<colorbar>"
        assert panel.height > 0.1 * height
    for text in shown_texts(figure):
        box = text.get_window_extent()
        assert box.x0 > -1
        assert box.x1 < width + 1
        assert box.y0 > -1
        assert box.y1 < height + 1


@pytest.mark.parametrize("name", PICTURES)
def test_no_two_texts_overlap(pictures: dict[str, Figure], name: str) -> None:
    texts = [text for text in shown_texts(pictures[name]) if text.get_rotation() in (0, 90)]
    boxes = [(text.get_text(), text.get_window_extent().extents) for text in texts]
    for (one, a), (other, b) in combinations(boxes, 2):
        shared = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        assert shared.min() < 2, (one, other)


def shown_texts(figure: Figure) -> list[Text]:
    """All texts that are seen; ticks beyond the limits are not drawn."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            room = 1e-6 * (high - low)
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low - room <= tick.get_loc() <= high + room:
                    hidden |= {tick.label1, tick.label2}
    return [
        text
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and text not in hidden
    ]


@pytest.mark.parametrize("name", ["one epoch", "three epochs", "finished", "intervals", "gap"])
def test_epochs_are_whole_numbers(pictures: dict[str, Figure], name: str) -> None:
    for axes in pictures[name].axes[-2:]:
        numbers = [text.get_text() for text in axes.get_xticklabels()]
        assert len(set(numbers)) == len(numbers) > 2
        assert all(number.lstrip("-").isdigit() for number in numbers)


def test_one_axis_has_one_unit(pictures: dict[str, Figure]) -> None:
    power, epochs, total = pictures["planned changes"].axes
    assert power.get_ylabel() == "power (W)"
    assert power.get_xlabel() == "time (min)"
    assert epochs.get_ylabel() == "energy (kJ)"
    assert total.get_ylabel() == "cumulative energy (MJ)"
    for axes in (power, epochs, total):
        assert all(float(text.get_text()) >= 0 for text in axes.get_yticklabels())


# ---------------------------------------------------------------------- as they were stored

# Root mean square over the pixels, of 255.
_SAME = 1.0
needs_stored = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason=f"`python -m tests.support.pictures` has not stored those of matplotlib {FOLDER.name}",
)


@needs_stored
@pytest.mark.parametrize("name", STORED)
def test_pictures_look_as_they_did(pictures: dict[str, Figure], name: str, tmp_path: Path) -> None:
    store(pictures[name], tmp_path / STORED[name])
    # It returns what differs.
    assert not compare_images(FOLDER / STORED[name], tmp_path / STORED[name], tol=_SAME)


@needs_stored
@pytest.mark.parametrize("part", ["band", "levels", "legend"])
def test_a_part_that_is_missing_is_seen(part: str, tmp_path: Path) -> None:
    figure = PICTURES["planned changes"]()
    if part == "band":
        figure.axes[-1].collections[0].remove()
    elif part == "levels":
        for line in [ln for ln in figure.axes[1].lines if ln.get_label() == "stable level"]:
            line.remove()
    else:
        figure.axes[-1].get_legend().remove()
    store(figure, tmp_path / "it.png")
    assert compare_images(FOLDER / STORED["planned changes"], tmp_path / "it.png", tol=_SAME)


# ---------------------------------------------------------------------- what a trace's shows


def test_eight_gpus_differ_in_colour_and_marker(pictures: dict[str, Figure]) -> None:
    legend = pictures["eight GPUs"].axes[0].get_legend()
    looks = [(line.get_color(), line.get_marker()) for line in legend.get_lines()]
    assert len(looks) == len(set(looks)) == 10
    assert len({marker for _, marker in looks[:8]}) == 8


def test_legends_hide_nothing(pictures: dict[str, Figure]) -> None:
    for name in ("eight GPUs", "planned changes", "long names", "estimate"):
        for axes in pictures[name].axes:
            assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1


def test_what_was_not_measured_is_a_gap(pictures: dict[str, Figure]) -> None:
    power, epochs, total = pictures["gap"].axes
    time_min, power_W = power.lines[0].get_data()
    assert np.isnan(power_W[(time_min > 10) & (time_min < 10.9)]).all()
    assert "epochs not measured" in [t.get_text() for t in epochs.get_legend().get_texts()]
    whole, _, filled, *_ = total.lines
    assert np.isnan(whole.get_ydata()[10])
    assert filled.get_linestyle() == ":"
    # It counts as the epochs around it, and not as 0.
    steps_J = np.diff(filled.get_ydata())
    assert steps_J[9] == pytest.approx(4e5, rel=0.03)
    assert steps_J[10] == pytest.approx(4e5, rel=0.03)


def test_the_projection_goes_on_where_the_measured_line_ends(
    pictures: dict[str, Figure],
) -> None:
    for name in ("gap", "planned changes"):
        lines = pictures[name].axes[-1].lines
        dashed = next(line for line in lines if line.get_linestyle() == "--")
        assert dashed.get_ydata()[0] == pytest.approx(lines[0].get_ydata()[-1], rel=1e-2)


def test_the_band_bends_where_a_change_is_planned(pictures: dict[str, Figure]) -> None:
    total = pictures["planned changes"].axes[-1]
    x, y = next(line for line in total.lines if line.get_linestyle() == "--").get_data()
    assert 30 in x
    before, after = (np.diff(y) / np.diff(x))[[0, -1]]
    assert after / before == pytest.approx(3, rel=0.05)  # validation stays as it is
    marked = [line for line in total.lines if line.get_linestyle() == ":" and len(line.get_xdata())]
    assert [line.get_xdata()[0] for line in marked] == [7, 30]
    assert "planned: larger images (7);\nthe backbone is unfrozen\n(30)" in [
        text.get_text() for text in total.get_legend().get_texts()
    ]
    band = total.collections[0].get_paths()[0].vertices
    widths = {x: np.ptp(band[band[:, 0] == x, 1]) for x in (30, 60)}
    assert widths[30] < widths[60] / 5


def test_the_band_ends_at_the_estimate() -> None:
    trace = training(planned_changes=CHANGES)
    *_, last = project_path(trace, [20, 40, 60])
    assert last == estimate_step(trace, 60)


def test_a_finished_run_is_not_projected() -> None:
    assert plots.plot_trace(training()).axes[-1].get_title() == "Cumulative energy"


def test_planned_epochs_are_projected_to() -> None:
    title = plots.plot_trace(training(planned_epochs=50)).axes[-1].get_title()
    assert title == "Cumulative energy, and its projection after 20 of 50 epochs"


def test_stable_levels_are_drawn() -> None:
    energy_J = [900.0, *[300.0] * 10, *[500.0] * 10]
    axes = plots.plot_trace(EnergyTrace.from_epochs(energy_J)).axes[0]
    levels = [line for line in axes.lines if line.get_label() == "stable level"]
    assert [list(line.get_xdata()) for line in levels] == [[0.5, 10.5], [10.5, 20.5]]
    assert [line.get_ydata()[0] for line in levels] == pytest.approx([300, 500])


def test_regimes_leave_out_what_was_not_measured() -> None:
    energy_J = np.array([900.0, *[300.0] * 10, *[500.0] * 10])
    energy_J[[5, 20]] = math.nan
    first, second = find_regimes(EnergyTrace.from_epochs(energy_J))
    assert (first.start, first.stop, second.start, second.stop) == (1, 11, 11, 20)
    assert (first.mean_J, second.mean_J) == (300, 500)
    assert find_regimes(EnergyTrace.from_epochs([1.0, 1.0])) == []
    assert find_regimes(EnergyTrace.from_epochs([math.nan] * 4)) == []


# ---------------------------------------------------------------------- estimates


def test_estimate() -> None:
    estimate = Estimate(4e6, 3e6, 6e6, 0.9, epochs=50, measured_J=1e6)
    figure = plots.plot_estimate(estimate)
    (axes,) = figure.axes
    assert axes.get_title() == "4 MJ (1.111 kWh) for 50 epochs"
    measured, rest = axes.patches
    assert (measured.get_width(), rest.get_x(), rest.get_width()) == (1e6, 1e6, 3e6)
    assert axes.get_xlim()[1] > 6e6
    with pytest.raises(EstimateError, match="is a float"):
        plots.plot_estimate(4e6)
    only = plots.plot_estimate(Estimate(4e6)).axes[0]
    assert [text.get_text() for text in only.get_legend().get_texts()] == ["estimated: 4 MJ"]


def test_results_plot_themselves() -> None:
    trace = training()
    assert len(trace.plot(epochs=60, observed=10).axes) == 3
    assert "of 60" in trace.plot(epochs=60).axes[-1].get_title()
    assert estimate_step(trace, 60).plot().axes[0].get_title().endswith("for 60 epochs")


@pytest.mark.parametrize("result", [training(), Estimate(4e6)])
def test_without_matplotlib_it_says_what_to_install(
    result: EnergyTrace | Estimate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "energyest.plots.picture", raising=False)
    with pytest.raises(MissingDependencyError, match="pip install matplotlib"):
        result.plot()


def test_names_are_wrapped_and_cannot_steer() -> None:
    assert wrapped("NVIDIA A40") == "NVIDIA A40"
    assert max(map(len, wrapped(LONG).split("\n"))) <= 28
    assert wrapped("a\x1b[31m\u202eb\ud800\nc") == "a?[31m?b? c"
    assert len(wrapped("x " * 5000)) < 250
    assert len(wrapped("x" * 5000)) < 250
    assert wrapped("x" * 5000).startswith("x" * 28)
