"""Power limits: what a lower one does to time and energy, computed and from probes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from energyest import estimate_pre
from energyest.cli import main
from energyest.errors import EstimateError
from energyest.estimators import power_limits
from energyest.estimators.pre.limits import clock_at, drawn_at
from energyest.estimators.pre.power_limits import Point, Response
from energyest.gpus import resolve_gpu
from energyest.records.probe import Probe
from energyest.records.workload import Workload
from tests.support.roofline_runs import COPY, LARGE
from tests.support.roofline_runs import workload as workload_of

LENGTH = {"epochs": 2, "train_samples": 10_000}


@pytest.fixture(scope="module")
def workload() -> Workload:
    """Long enough, and busy enough, for a limit to hold it back."""
    return workload_of(LARGE, replace(LARGE, phase="backward", count=2), COPY)


def test_a_limit_above_the_draw_changes_nothing() -> None:
    assert drawn_at(300, 200, 50, share=0.95) == 200
    assert clock_at(200, 200, 50) == 1
    assert clock_at(40, 40, 50) == 1  # a training that draws less than such a GPU at rest


def test_power_above_rest_is_the_cube_of_the_clock() -> None:
    assert clock_at(50 + 150 / 8, 200, 50) == pytest.approx(0.5)
    assert drawn_at(100, 200, 50, share=0.95) == pytest.approx(95)
    assert drawn_at(30, 200, 50, share=0.95) == 50


def test_the_same_as_estimate_pre(workload: Workload) -> None:
    limits_W = [400.0, 300.0, 150.0]
    table = power_limits(workload, "A100", limits_W, **LENGTH)
    for limit_W, row in zip(limits_W, table.itertuples(), strict=True):
        estimate = estimate_pre(workload, "A100", power_limit_W=limit_W, **LENGTH)
        assert row.power_limit_W == limit_W
        assert row.energy_J == pytest.approx(estimate.energy_J)
        assert row.duration_s == pytest.approx(estimate.duration_s)
        assert row.mean_power_W == pytest.approx(estimate.energy_J / estimate.duration_s)
    free = estimate_pre(workload, "A100", **LENGTH)
    assert list(table.slowdown) == pytest.approx(list(table.duration_s / free.duration_s - 1))
    assert list(table.saving) == pytest.approx(list(1 - table.energy_J / free.energy_J))
    assert table.slowdown.iloc[-1] > 0
    assert table.saving.iloc[-1] > 0


def test_limits_are_those_of_the_board_by_default(workload: Workload) -> None:
    table = power_limits(workload, "A100", **LENGTH)
    assert table.power_limit_W.iloc[0] == resolve_gpu("A100").tdp_W
    assert table.power_limit_W.is_monotonic_decreasing
    assert table.duration_s.is_monotonic_increasing
    several = power_limits(workload, "A100", devices=4, **LENGTH)
    assert several.mean_power_W.iloc[0] == pytest.approx(table.mean_power_W.iloc[0], rel=0.5)


# ---------------------------------------------------------------------- from measurements


def steps_of(rest_W: float, free_W: float, limits_W: list[float], drawn: float) -> list[Point]:
    """Steps of a GPU that follows the law."""
    found = []
    for limit_W in limits_W:
        power_W = float(drawn_at(limit_W, free_W, rest_W, share=drawn))
        step_s = 1 / float(clock_at(power_W, free_W, rest_W))
        found.append(Point(limit_W, step_s, power_W))
    return found


@given(
    rest_W=st.floats(20, 80),
    free_W=st.floats(250, 400),
    drawn=st.floats(0.85, 1.0),
    low_W=st.floats(120, 180),
)
def test_two_measurements_tell_the_others(rest_W, free_W, drawn, low_W) -> None:
    limits_W = [low_W, 200.0, 220.0, 450.0]
    points = steps_of(rest_W, free_W, limits_W, drawn)
    response = Response.fitted([points[0], points[-1]], 100.0)
    assert response.rest_W == pytest.approx(rest_W, abs=0.5)
    time, power = response.at(np.array(limits_W))
    free = points[-1]
    assert time == pytest.approx([p.step_s / free.step_s for p in points], rel=1e-3)
    assert power == pytest.approx([p.power_W / free.power_W for p in points], rel=1e-3)


@given(
    times=st.lists(st.floats(1.0, 3.0), min_size=3, max_size=3),
    powers=st.lists(st.floats(50, 300), min_size=3, max_size=3),
)
def test_at_the_measured_limits_it_is_as_measured(times, powers) -> None:
    points = [Point(w, t, p) for w, t, p in zip([100.0, 200.0, 300.0], times, powers, strict=True)]
    time, power = Response.fitted(points, 40.0).at(np.array([100.0, 200.0, 300.0]))
    assert time == pytest.approx([t / times[-1] for t in times])
    assert power == pytest.approx([p / powers[-1] for p in powers])


def test_a_probe_above_the_data_sheet_and_limits_below_rest(workload: Workload) -> None:
    gpu = resolve_gpu("A100")
    high = Probe(workload, gpu, 30, 0.010, 412.0)
    limited = estimate_pre(workload, "A100", probe=high, power_limit_W=250, **LENGTH)
    assert limited.duration_s is not None
    assert limited.energy_J / limited.duration_s == pytest.approx(250)
    low = replace(high, step_s=0.016, power_W=190.0)
    with pytest.raises(EstimateError, match=r"limits_W holds 10, .* W that it draws at rest"):
        power_limits(workload, limits_W=[400, 10], measured={400.0: high, 200.0: low}, **LENGTH)
    with pytest.raises(EstimateError, match="limits_W=300 must be a list"):
        power_limits(workload, "A100", 300, **LENGTH)  # type: ignore[arg-type]
    with pytest.raises(EstimateError, match="limits_W is empty"):
        power_limits(workload, "A100", [], **LENGTH)


@pytest.mark.parametrize("rate", [400.0, 5_000.0])
def test_a_limit_and_a_loader(workload: Workload, rate: float) -> None:
    """The same as `estimate_pre`, in which a GPU that waits for data is held back less."""
    options = {**LENGTH, "loader_samples_per_s": rate}
    table = power_limits(workload, "A100", [400, 150], **options)
    for row in table.itertuples():
        found = estimate_pre(workload, "A100", power_limit_W=row.power_limit_W, **options)
        assert (row.energy_J, row.duration_s) == (found.energy_J, found.duration_s)


def test_with_probes(workload: Workload) -> None:
    gpu = resolve_gpu("A100")
    probes = {
        400.0: Probe(workload, gpu, 30, 0.010, 320.0),
        200.0: Probe(workload, gpu, 30, 0.013, 190.0),
    }
    table = power_limits(workload, limits_W=[400, 200], measured=probes, **LENGTH)
    assert list(table.slowdown) == pytest.approx([0, 0.3])
    assert list(table.saving) == pytest.approx([0, 1 - 0.013 * 190 / (0.010 * 320)])
    whole = estimate_pre(workload, probe=probes[400.0], **LENGTH)
    assert table.energy_J[0] == pytest.approx(whole.energy_J)
    assert table.duration_s[1] == pytest.approx(1.3 * whole.duration_s)
    default = power_limits(workload, measured=probes, **LENGTH)
    assert default.power_limit_W[0] == 400  # the highest limit of a probe


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"limits_W": [0]}, "limits_W"),
        ({"limits_W": [100, -5]}, "limits_W"),
        ({"power_limit_W": 100}, "no power_limit_W"),
        ({"probe": None}, "no probe"),
        ({"measured": {300.0: 1.0}}, "must map a limit to a Probe"),
        ({"gpu": "no such GPU"}, "unknown GPU"),
    ],
)
def test_what_is_refused(workload: Workload, more: dict, said: str) -> None:
    with pytest.raises(EstimateError, match=said):
        power_limits(workload, **{"gpu": "A100", **LENGTH, **more})


def test_probes_that_do_not_fit(workload: Workload) -> None:
    one = Probe(workload, resolve_gpu("A100"), 30, 0.01, 300.0)
    other = replace(one, gpu=resolve_gpu("H100"))
    with pytest.raises(EstimateError, match="two or more limits"):
        power_limits(workload, "A100", measured={300.0: one}, **LENGTH)
    with pytest.raises(EstimateError, match="probes must be of"):
        power_limits(workload, "A100", measured={300.0: one, 200.0: other}, **LENGTH)
    with pytest.raises(EstimateError, match="limit in measured"):
        power_limits(workload, "A100", measured={300.0: one, -1.0: one}, **LENGTH)


def test_the_command_shows_them(
    workload: Workload, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.json").write_text(json.dumps(workload.to_dict()))
    arguments = ["pre", str(tmp_path / "net.json"), "--gpu", "A100", "--epochs", "2"]
    assert main([*arguments, "--train-samples", "10000", "--power-limits"]) == 0
    out = capsys.readouterr().out
    assert "power limit" in out
    assert "160 W" in out
    assert main([*arguments, "--train-samples", "10000", "--power-limits", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["power_limits"]
    assert found[0]["power_limit_W"] == 400
    assert found[-1]["slowdown"] > 0
