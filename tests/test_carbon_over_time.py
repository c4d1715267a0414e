"""A carbon intensity that changes with time: series, hours, starts; and what a run records."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from energyest import EnergyTrace, Estimate, load_trace, track
from energyest.carbon import (
    CarbonIntensity,
    CarbonSeries,
    co2e_by_hour,
    co2e_kg,
    start_times,
    water_L,
)
from energyest.carbon.basis import EmissionBasis
from energyest.cli import main
from energyest.errors import ConfigurationError, EstimateError
from energyest.gpus import Embodied, embodied_kg, known_embodied, resolve_gpu
from energyest.settings import emission_basis
from energyest.summary import summary_of
from energyest.tracking.cost.budget import Budget

HOUR, KWH = 3600.0, 3.6e6
NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
NOON_S = NOON.timestamp()
# 100 g/kWh from noon on, then 200, 300, 400.
STAIRS = CarbonSeries(NOON_S + HOUR * np.arange(4), [100, 200, 300, 400], "stairs")


def run(energy_J, seconds, *, begins=NOON, **meta) -> EnergyTrace:
    meta = {"start_time": begins.isoformat(), **meta}
    return EnergyTrace.from_epochs(energy_J, seconds, meta=meta)


# ---------------------------------------------------------------------- the series


def test_a_value_counts_until_the_next() -> None:
    at = [STAIRS.at(NOON_S + s) for s in (-1, 0, 3599, 3600, 4 * HOUR - 1)]
    assert math.isnan(at[0])
    assert at[1:] == [100, 100, 200, 400]
    assert math.isnan(STAIRS.at(NOON_S + 5 * HOUR))  # long after the last
    assert STAIRS.begin_s == NOON_S
    assert STAIRS.end_s == NOON_S + 4 * HOUR
    assert str(STAIRS) == "stairs: 2026-03-01 12:00 UTC to 2026-03-01 16:00 UTC"


def test_a_gap_is_not_filled() -> None:
    gap = CarbonSeries(HOUR * np.array([0, 1, 2, 10, 11]), [1, 2, 3, 4, 5])
    assert gap.at(3.4 * HOUR) == 3
    assert math.isnan(gap.at(5 * HOUR))
    unknown = CarbonSeries(HOUR * np.arange(3), [1, math.nan, 3])
    assert math.isnan(unknown.at(1.5 * HOUR))


@pytest.mark.parametrize(
    ("times", "values", "what"),
    [
        ([0], [1], "two or more"),
        ([0, 1], [1], "two or more"),
        ([0, 0], [1, 2], "each after the last"),
        ([1, 0], [1, 2], "each after the last"),
        ([0, math.inf], [1, 2], "finite"),
        ([0, 1], [1, -2], "0 or more"),
        ([0, 1], [1, math.inf], "0 or more"),
    ],
)
def test_what_is_no_series(times: list[float], values: list[float], what: str) -> None:
    with pytest.raises(EstimateError, match=what):
        CarbonSeries(times, values)


def test_a_function_is_asked_for_each_hour() -> None:
    asked = []

    def grid(moment: datetime) -> float:
        asked.append(moment)
        return 100.0 * (moment.hour - 11)

    series = CarbonSeries.from_function(grid, NOON, NOON + timedelta(hours=4))
    assert asked == [NOON + timedelta(hours=h) for h in range(4)]
    assert list(np.asarray(series.g_per_kWh)) == [100, 200, 300, 400]
    assert "grid" in str(series)
    with pytest.raises(EstimateError, match=r"start=.* names no time zone"):
        CarbonSeries.from_function(grid, NOON.replace(tzinfo=None), NOON)
    with pytest.raises(EstimateError, match="0 steps"):
        CarbonSeries.from_function(grid, NOON, NOON)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("t,g\n2026-03-01T12:00:00+00:00,100\n2026-03-01T13:00:00Z,200\n", {}),
        ("t,g\n2026-03-01T13:00:00+01:00,100\n2026-03-01T14:00:00+01:00,200\n", {}),
        ("Datetime (UTC),zone,g\n2026-03-01 12:00:00,DE,100\n2026-03-01 13:00:00,DE,200\n", {}),
        ("t,g\n2026-03-01 13:00,100\n2026-03-01 14:00,200\n", {"tz": "Europe/Berlin"}),
        (f"t,g\n{NOON_S},100\n{NOON_S + HOUR},200\n", {}),
        (f"t,a,g\n{NOON_S},1,100\n{NOON_S + HOUR},1,200\n", {"value": "g"}),
        (f"a,t,g\n1,{NOON_S},100\n1,{NOON_S + HOUR},200\n", {"time": "t", "value": "g"}),
        (f"t,g\n{NOON_S + HOUR},200\n{NOON_S},100\n", {}),  # the newest first
    ],
)
def test_a_csv_file(text: str, options: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "grid.csv"
    file.write_text(text)
    series = CarbonSeries.from_csv(file, **options)
    assert (series.at(NOON_S), series.at(NOON_S + HOUR)) == (100, 200)


@pytest.mark.parametrize(
    ("text", "options", "what"),
    [
        ("", {}, "no series of carbon intensities"),
        ("t,g\n2026-03-01 13:00,100\n2026-03-01 14:00,200\n", {}, "name no zone: pass tz="),
        ("t,g\nyesterday,100\ntoday,200\n", {}, "no times in ISO 8601"),
        ("t,a,b\n1,1,1\n2,2,2\n", {}, r"2 columns of numbers \(a, b\): name the one"),
        ("t,a\n1,x\n2,y\n", {}, "0 columns of numbers"),
        ("t,a\n1,1\n2,2\n", {"value": "g"}, "has no column 'g', but t, a"),
        ("t,a\n1,1\n2,2\n", {"time": "g"}, "has no column 'g'"),
        ("t,g\n2026-03-01 13:00,1\n2026-03-01 14:00,2\n", {"tz": "Mars/North"}, "Mars/North"),
    ],
)
def test_what_is_no_csv_file(text: str, options: dict[str, str], what: str, tmp_path: Path) -> None:
    file = tmp_path / "grid.csv"
    file.write_text(text)
    with pytest.raises(EstimateError, match=what):
        CarbonSeries.from_csv(file, **options)
    with pytest.raises(EstimateError, match=r"absent\.csv"):
        CarbonSeries.from_csv(tmp_path / "absent.csv")


# ---------------------------------------------------------------------- a run


def test_each_hour_at_its_intensity() -> None:
    trace = run([KWH] * 4, [HOUR] * 4, total_J=4 * KWH, duration_s=4 * HOUR)
    assert trace.co2e_kg(STAIRS) == pytest.approx(0.1 + 0.2 + 0.3 + 0.4)
    assert trace.co2e_kg(STAIRS, pue=1.5) == pytest.approx(1.5)
    table = co2e_by_hour(trace, STAIRS)
    assert list(table.energy_J) == pytest.approx([KWH] * 4)
    assert list(table.co2e_kg) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert list(table.g_per_kWh) == pytest.approx([100, 200, 300, 400])
    assert list(table.hour) == [NOON + timedelta(hours=h) for h in range(4)]


def test_an_epoch_across_hours_is_divided() -> None:
    trace = run([3 * KWH], [2 * HOUR], begins=NOON + timedelta(minutes=30))
    assert trace.co2e_kg(STAIRS) == pytest.approx(3 * (0.25 * 0.1 + 0.5 * 0.2 + 0.25 * 0.3))
    assert list(co2e_by_hour(trace, STAIRS).energy_J) == pytest.approx(
        [0.75 * KWH, 1.5 * KWH, 0.75 * KWH]
    )


def test_energy_outside_of_epochs_lies_outside_of_them() -> None:
    """Half an hour of start-up before an epoch of an hour."""
    trace = EnergyTrace.from_epochs(
        [KWH],
        [HOUR],
        start_s=[1800.0],
        end_s=[1800.0 + HOUR],
        meta={"start_time": NOON.isoformat(), "total_J": 1.5 * KWH, "duration_s": 1.5 * HOUR},
    )
    time_s, energy_J = trace.energy_over_time()
    at = np.interp(NOON_S + np.array([0, 1800, 1800 + HOUR]), time_s, energy_J)
    assert list(at) == pytest.approx([0, 0.5 * KWH, 1.5 * KWH])
    assert trace.co2e_kg(STAIRS) == pytest.approx(0.5 * 0.1 + 0.5 * 0.1 + 0.5 * 0.2)


def test_a_resumed_run_counts_the_pause_as_nothing() -> None:
    """An epoch from noon on, and another two hours later, on whatever clock the trace has."""
    trace = EnergyTrace.from_epochs(
        [KWH, KWH],
        [HOUR, HOUR],
        start_s=[-HOUR, 0.0],
        end_s=[0.0, HOUR],
        meta={
            "start_time": (NOON + timedelta(hours=3)).isoformat(),
            "earlier_parts": [{"start_time": NOON.isoformat(), "rows": 1}],
            "total_J": 2 * KWH,
            "duration_s": HOUR,
        },
    )
    assert trace.co2e_kg(STAIRS) == pytest.approx(0.1 + 0.4)
    table = co2e_by_hour(trace, STAIRS)
    assert list(table.energy_J) == pytest.approx([KWH, 0, 0, KWH])


def test_what_a_run_lacks() -> None:
    with pytest.raises(EstimateError, match="does not say when the run began"):
        EnergyTrace.from_epochs([KWH]).co2e_kg(STAIRS)
    late = run([KWH], [HOUR], begins=NOON + timedelta(hours=4))
    with pytest.raises(EstimateError, match=r"no value at 2026-03-01 16:30 UTC, when energy"):
        late.co2e_kg(STAIRS)
    assert math.isnan(co2e_by_hour(late, STAIRS).co2e_kg.sum(skipna=False))
    assert "CO2e not known: the series" in summary_of(late, intensity=STAIRS)
    unread = run([KWH, math.nan], [HOUR, HOUR])
    assert math.isnan(unread.co2e_kg(STAIRS))
    with pytest.raises(EstimateError, match="needs to know when the energy was used"):
        co2e_kg(KWH, STAIRS)
    with pytest.raises(ConfigurationError, match="budget_kg=1 needs one carbon intensity"):
        Budget.of(kWh=None, kg=1, hours=None, on_exceed="warn", intensity=STAIRS, pue=1)


@given(
    energies=st.lists(st.floats(0, 1e9), min_size=1, max_size=20),
    durations=st.lists(st.floats(1, 1e5), min_size=20, max_size=20),
    outside=st.floats(0, 1e8),
    late_s=st.floats(0, 1e5),
)
def test_a_constant_series_is_a_number(energies, durations, outside, late_s) -> None:
    durations = durations[: len(energies)]
    trace = run(
        energies,
        durations,
        begins=NOON + timedelta(seconds=late_s),
        total_J=sum(energies) + outside,
        duration_s=sum(durations) + 60,
    )
    span_s = late_s + sum(durations) + 100
    flat = CarbonSeries(NOON_S + np.array([0, span_s / 2, span_s]), [321.0] * 3)
    expected = trace.co2e_kg(321.0)
    assert trace.co2e_kg(flat) == pytest.approx(expected, abs=1e-12)
    for intensity in (flat, 321.0):
        table = co2e_by_hour(trace, intensity)
        assert table.co2e_kg.sum() == pytest.approx(expected, abs=1e-12)
        assert table.energy_J.sum() == pytest.approx(trace.total_J)


def test_an_estimate_needs_a_start() -> None:
    estimate = Estimate(2 * KWH, duration_s=2 * HOUR)
    assert estimate.co2e_kg(STAIRS, start=NOON) == pytest.approx(0.3)
    later = estimate.co2e_kg(STAIRS, start="2026-03-01T13:30:00+00:00", pue=2)
    assert later == pytest.approx(2 * 2 * (0.25 * 0.2 + 0.5 * 0.3 + 0.25 * 0.4))
    with pytest.raises(EstimateError, match="no value"):
        estimate.co2e_kg(STAIRS)  # now
    with pytest.raises(EstimateError, match="duration"):
        Estimate(KWH).co2e_kg(STAIRS, start=NOON)


# ---------------------------------------------------------------------- when to start


def test_the_cleanest_start() -> None:
    series = CarbonSeries(NOON_S + HOUR * np.arange(5), [300, 100, 200, 400, 400])
    table = start_times(series, KWH, HOUR)
    best = table.iloc[0]
    assert best.start == NOON + timedelta(hours=1)
    assert best.co2e_kg == pytest.approx(0.1)
    assert best.saving == pytest.approx(2 / 3)
    assert list(table.co2e_kg) == sorted(table.co2e_kg)
    limited = start_times(series, KWH, HOUR, earliest=NOON + timedelta(hours=1.5), pue=2)
    assert limited.iloc[0].start == NOON + timedelta(hours=1.5)
    assert limited.iloc[0].co2e_kg == pytest.approx(2 * 0.15)
    ends = start_times(series, KWH, HOUR, latest_end=NOON + timedelta(hours=1.5))
    assert ends.start.max() == NOON + timedelta(minutes=30)
    with pytest.raises(EstimateError, match="does not fit into the 18000 s"):
        start_times(series, KWH, 6 * HOUR)
    with pytest.raises(EstimateError, match="does not cover the time"):
        start_times(series, KWH, HOUR, latest_end=NOON + timedelta(hours=9))
    gap = CarbonSeries(NOON_S + HOUR * np.arange(4), [300, math.nan, 200, 400])
    with pytest.raises(EstimateError, match="lacks values"):
        start_times(gap, KWH, HOUR)


@given(
    values=st.lists(st.floats(0, 1000), min_size=3, max_size=12),
    duration_h=st.floats(0.1, 2),
    share=st.floats(0, 1),
)
def test_no_other_start_is_better(values, duration_h, share) -> None:
    series = CarbonSeries(NOON_S + HOUR * np.arange(len(values)), values)
    table = start_times(series, KWH, duration_h * HOUR)
    start_s = NOON_S + share * (series.end_s - NOON_S - duration_h * HOUR)
    start = datetime.fromtimestamp(start_s, timezone.utc)
    other = Estimate(KWH, duration_s=duration_h * HOUR).co2e_kg(series, start=start)
    assert table.co2e_kg.min() <= other * (1 + 1e-6) + 1e-9
    first = table.sort_values("start").iloc[0]
    assert first.saving == 0
    told = Estimate(KWH, duration_s=duration_h * HOUR).co2e_kg(
        series, start=table.start[0].to_pydatetime()
    )
    assert table.co2e_kg[0] == pytest.approx(told, rel=1e-6, abs=1e-9)


# ---------------------------------------------------------------------- recorded, and set


@pytest.mark.parametrize(
    ("intensity", "pue"),
    [(45.0, 1.0), (CarbonIntensity(50.5, "our own roof", 2025, "the meter"), 1.3), (0, 1.2)],
)
def test_what_is_recorded_comes_back(intensity, pue) -> None:
    basis = EmissionBasis(intensity, pue)
    meta = json.loads(json.dumps(basis.as_meta()))
    assert EmissionBasis.recorded(meta) == basis


def test_what_is_not_recorded() -> None:
    assert EmissionBasis().as_meta() == {}
    assert EmissionBasis.recorded({}) == EmissionBasis()
    assert EmissionBasis("DE").as_meta()["carbon"]["country"] == "Germany"
    assert "stairs" in EmissionBasis(STAIRS).as_meta()["carbon"]["series"]
    assert EmissionBasis.recorded(EmissionBasis(STAIRS, 1.1).as_meta()).intensity is None
    for hostile in ("DE", {"g_per_kWh": -1}, {"g_per_kWh": "x"}, {"g_per_kWh": math.nan}, [1]):
        assert EmissionBasis.recorded({"carbon": hostile}).intensity is None
    odd = {"g_per_kWh": 10, "pue": 0.2, "country": 3, "year": "x"}
    assert EmissionBasis.recorded({"carbon": odd}) == EmissionBasis(10.0, 1.0)


def test_an_option_then_the_record_then_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = EmissionBasis(45.0, 1.3).as_meta()
    monkeypatch.setenv("ENERGYEST_CARBON_INTENSITY", "500")
    monkeypatch.setenv("ENERGYEST_PUE", "1.9")
    assert emission_basis({}) == EmissionBasis(500.0, 1.9)
    assert emission_basis(recorded) == EmissionBasis(45.0, 1.3)
    assert emission_basis(recorded, pue=1.1) == EmissionBasis(45.0, 1.1)
    assert emission_basis(recorded, intensity=10.0) == EmissionBasis(10.0, 1.9)


def test_a_run_records_what_was_set(tmp_path: Path) -> None:
    with track(tmp_path / "a", sensors=[], quiet=True, carbon_intensity="DE", pue=1.2) as one:
        list(one.epochs(1))
    with track(tmp_path / "b", sensors=[], quiet=True) as other:
        list(other.epochs(1))
    basis = EmissionBasis.recorded(load_trace(tmp_path / "a").meta)
    assert isinstance(basis.intensity, CarbonIntensity)
    assert (basis.intensity.country, basis.pue) == ("Germany", 1.2)
    assert "carbon" not in load_trace(tmp_path / "b").meta


def test_a_file_as_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "grid.csv").write_text(f"t,g\n{NOON_S},100\n{NOON_S + HOUR},200\n")
    (tmp_path / "pyproject.toml").write_text('[tool.energyest]\ncarbon_intensity = "grid.csv"\n')
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    intensity = emission_basis({}).intensity
    if intensity is None:
        pytest.importorskip("tomllib", reason="reading pyproject.toml needs Python 3.11 or tomli")
    assert isinstance(intensity, CarbonSeries)
    assert intensity.at(NOON_S) == 100
    monkeypatch.setenv("ENERGYEST_CARBON_INTENSITY", str(tmp_path / "absent.csv"))
    assert isinstance(emission_basis({}).intensity, CarbonSeries)  # the file's, with a warning


# ---------------------------------------------------------------------- making the hardware


def test_the_embodied_emissions_of_bloom() -> None:
    """Luccioni et al. 2023: 3.64 t for GPUs and 7.57 t for servers, of 1.08 million GPU hours."""
    bloom = next(row for row in known_embodied() if row.gpu == "A100-SXM4-80GB")
    hours = 1_082_990
    assert embodied_kg(bloom, hours) == pytest.approx(11_200, rel=0.005)
    only = Embodied("A100", bloom.gpu_kg, 0.0, "")
    assert embodied_kg(only, hours) == pytest.approx(3640, rel=0.01)


def test_embodied_emissions_of_others() -> None:
    for row in known_embodied():
        assert resolve_gpu(row.gpu).name == row.gpu  # a name of the table of GPUs
        assert row.source
        assert 50 < row.gpu_kg < 1000
    own = Embodied("mine", 100.0, 50.0, "a data sheet")
    assert embodied_kg(own, 876, lifetime_years=1, use=1) == pytest.approx(15)
    assert embodied_kg("A100", 0) == 0
    with pytest.raises(EstimateError, match="no published figure for making a Tesla T4"):
        embodied_kg("T4", 1)
    with pytest.raises(EstimateError, match="unknown GPU"):
        embodied_kg("Z9", 1)
    for wrong in ({"gpu_hours": -1}, {"lifetime_years": 0}, {"use": 0}, {"use": 1.1}):
        with pytest.raises(EstimateError, match=next(iter(wrong))):
            embodied_kg("A100", **{"gpu_hours": 1, **wrong})


def test_water_is_counted_where_the_data_centre_states_it() -> None:
    assert water_L(2 * KWH, 1.5) == pytest.approx(3)
    assert water_L(KWH, 0) == 0
    assert math.isnan(water_L(math.nan, 1.5))
    for energy_J, wue in ((-1, 1), (KWH, -1), (KWH, math.nan), ("1", 1)):
        with pytest.raises(EstimateError, match=r"energy_J|wue_L_per_kWh"):
            water_L(energy_J, wue)


def test_a_table_of_runs_counts_each_as_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = {"status": "finished"}
    clean = EmissionBasis(50.0, 1.2).as_meta()
    for name, meta in (("clean", {**done, **clean}), ("unknown", done)):
        EnergyTrace.from_epochs([KWH], meta=meta).save(tmp_path / name)
    monkeypatch.setenv("ENERGYEST_CARBON_INTENSITY", "400")

    def emitted(*options: str) -> dict[str, float]:
        assert main(["runs", str(tmp_path), "--json", *options]) == 0
        rows = json.loads(capsys.readouterr().out)["runs"]
        return {row["run"]: row["co2e_kg"] for row in rows}

    assert emitted() == pytest.approx({"clean": 0.05 * 1.2, "unknown": 0.4})
    assert emitted("--intensity", "100") == pytest.approx({"clean": 0.1, "unknown": 0.1})
    assert emitted("--pue", "2") == pytest.approx({"clean": 0.1, "unknown": 0.8})
