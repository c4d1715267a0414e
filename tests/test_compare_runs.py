"""Estimators on many finished runs: the figures, refusals, and PRE next to the others."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_percentage_error, r2_score, root_mean_squared_error

from energyest import EnergyTrace, PlannedChange, compare_estimators, estimate_pre, estimate_step
from energyest.errors import EstimateError
from energyest.estimators import EstimatorScores, score_estimators
from energyest.estimators.pre.blend import beside_gpu
from energyest.profiling import Workload

DATA = Path(__file__).parents[1] / "benchmarks" / "data"
METHODS = 9
A40 = {"device": "gpu:0", "kind": "gpu", "name": "NVIDIA A40", "power_limit_W": 300}


def real_runs() -> dict[str, EnergyTrace]:
    """Trainings on an H100 that were measured for the benchmarks."""
    facts = pd.read_csv(DATA / "long_runs.csv").set_index("run_id")
    epochs = pd.read_csv(DATA / "long_runs_epochs.csv")
    return {
        str(run): EnergyTrace.from_epochs(
            rows["gpu_energy_J"],
            rows["duration_s"],
            gpu_energy_J=rows["gpu_energy_J"],
            validation_energy_J=rows["validation_energy_J"],
            meta={
                "model": {"name": facts.loc[run, "model"]},
                "devices": [{"device": "gpu:0", "kind": "gpu", "name": facts.loc[run, "gpu"]}],
            },
        )
        for run, rows in epochs.groupby("run_id", sort=False)
    }


def flat(epoch_J: float, epochs: int = 40, **facts: Any) -> EnergyTrace:
    meta = facts.pop("meta", {})
    return EnergyTrace.from_epochs(np.full(epochs, epoch_J), np.ones(epochs), meta=meta, **facts)


def row(comparison: EstimatorScores, run: str, method: str) -> pd.Series:
    table = comparison.runs
    return table[(table["run"] == run) & (table["method"] == method)].iloc[0]


# ---------------------------------------------------------------------- figures


def test_real_runs_give_the_figures_of_scikit_learn() -> None:
    runs = real_runs()
    comparison = score_estimators(runs, observed=16)
    assert len(comparison.runs) == METHODS * len(runs)
    checked = 0
    for name, scores in comparison.summary.iterrows():
        rows = comparison.runs[comparison.runs["method"] == name].dropna(subset="energy_J")
        assert scores["runs"] == len(rows)
        assert scores["runs"] + scores["refused"] == len(runs)
        if rows.empty:
            assert scores[["RMSE_J", "MAPE", "median_error", "bias", "R2"]].isna().all()
            continue
        true_J, said_J = rows["measured_J"], rows["energy_J"]
        assert scores["RMSE_J"] == pytest.approx(root_mean_squared_error(true_J, said_J))
        off = mean_absolute_percentage_error(true_J, said_J)
        assert scores["MAPE"] == pytest.approx(off)
        assert scores["R2"] == pytest.approx(r2_score(true_J, said_J))
        checked += 1
    assert checked >= 5


def test_each_run_has_the_rows_of_its_own_comparison() -> None:
    runs = real_runs()
    comparison = score_estimators(runs, observed=16)
    for name, trace in list(runs.items())[:2]:
        alone = compare_estimators(trace, len(trace), observed=16)
        mine = comparison.runs[comparison.runs["run"] == name].set_index("method")
        pd.testing.assert_frame_equal(mine[alone.columns], pd.DataFrame(alone))
        assert set(mine["measured_J"]) == {float(trace.column("energy_J").sum())}
        assert set(mine["model"]) == {trace.meta["model"]["name"]}
        assert set(mine["gpu"]) == {"NVIDIA H100 80GB HBM3"}


def table_of(measured_J: list[float], estimates: dict[str, list[float]]) -> EstimatorScores:
    """A comparison with the numbers that `summary` and `shared` look at."""
    rows = [
        {
            "run": str(i),
            "observed": 1,
            "method": method,
            "measured_J": true_J,
            "energy_J": said_J,
            "energy_lower_J": 0.9 * said_J,
            "energy_upper_J": 1.1 * said_J,
            "error_J": said_J - true_J,
            "error": said_J / true_J - 1,
            "note": "" if said_J == said_J else "no idea",
        }
        for method, said in estimates.items()
        for i, (true_J, said_J) in enumerate(zip(measured_J, said, strict=True))
    ]
    return EstimatorScores(pd.DataFrame(rows), 0.9)


ENERGIES = st.floats(1.0, 1e9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(ENERGIES, ENERGIES), min_size=2, max_size=12))
def test_summary_of_any_numbers(pairs: list[tuple[float, float]]) -> None:
    true_J, said_J = (list(values) for values in zip(*pairs, strict=True))
    scores = table_of(true_J, {"a": said_J}).summary.loc["a"]
    errors = np.array(said_J) / true_J - 1
    assert scores["RMSE_J"] == pytest.approx(root_mean_squared_error(true_J, said_J))
    assert scores["median_error"] == pytest.approx(np.median(np.abs(errors)))
    assert scores["bias"] == pytest.approx(errors.mean())
    if len(set(true_J)) > 1:
        assert scores["R2"] == pytest.approx(r2_score(true_J, said_J), rel=1e-6)
    else:
        assert math.isnan(scores["R2"])
    covered = [0.9 * said <= true <= 1.1 * said for true, said in pairs]
    assert scores["coverage"] == pytest.approx(np.mean(covered))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(ENERGIES, ENERGIES, st.booleans()), min_size=1, max_size=12))
def test_refusing_does_not_help_over_shared_runs(
    triples: list[tuple[float, float, bool]],
) -> None:
    true_J, said_J, answers = (list(values) for values in zip(*triples, strict=True))
    picky = [said if yes else math.nan for said, yes in zip(said_J, answers, strict=True)]
    comparison = table_of(
        true_J, {"all": said_J, "picky": picky, "silent": [math.nan] * len(picky)}
    )
    assert list(comparison.summary["refused"]) == [0, len(picky) - sum(answers), len(picky)]
    if not any(answers):
        assert list(comparison.shared().summary.index) == ["all"]
        with pytest.raises(EstimateError, match="no run was answered by all"):
            comparison.shared("all", "picky")
        return
    shared = comparison.shared().summary.drop(columns="refused")
    assert list(shared.index) == ["all", "picky"]
    pd.testing.assert_series_equal(shared.loc["all"], shared.loc["picky"], check_names=False)


def test_r2_needs_runs_that_differ() -> None:
    alike = score_estimators([flat(10), flat(10)]).summary
    assert alike["R2"].isna().all()
    assert alike.loc["STEP", "RMSE_J"] == pytest.approx(0, abs=1e-9)
    assert math.isnan(score_estimators([flat(10)]).summary.loc["STEP", "R2"])
    differ = score_estimators([flat(10), flat(20)]).summary
    assert differ.loc["STEP", "R2"] == pytest.approx(1)


def test_intervals_are_counted_where_there_are_any() -> None:
    summary = score_estimators(real_runs(), observed=16).summary
    assert 0 <= summary.loc["STEP", "coverage"] <= 1
    assert math.isnan(summary.loc["MLCO2", "coverage"])


# ---------------------------------------------------------------------- what is compared


def test_half_of_short_runs_is_observed_by_default() -> None:
    comparison = score_estimators({"long": flat(1), "short": flat(1, 21), "two": flat(1, 2)})
    observed = comparison.runs.groupby("run")["observed"].first()
    assert observed.to_dict() == {"long": 15, "short": 10, "two": 1}
    short = row(comparison, "short", "STEP, paper (start 10, window 5)")
    assert math.isnan(short["energy_J"])
    assert short["note"] == "it needs the first 15 epochs: 5 more are needed"
    assert comparison.summary.loc["STEP, paper (start 10, window 5)", "refused"] == 2


def test_epochs_cut_all_runs_alike() -> None:
    comparison = score_estimators({"a": flat(1), "b": flat(2, 30)}, 20, observed=5)
    assert set(comparison.runs["epochs"]) == {20}
    assert row(comparison, "b", "first epoch")["measured_J"] == 40


def test_a_last_epoch_that_was_planned_to_break_off() -> None:
    energy_J = np.array([*[10.0] * 20, 5.0])
    trace = EnergyTrace.from_epochs(energy_J, energy_J / 10, meta={"planned_epochs": 20.5})
    first = row(score_estimators([trace]), "0", "first epoch")
    assert first["epochs"] == 20.5
    assert first["error_J"] == pytest.approx(0)


def test_names_come_from_the_runs() -> None:
    named = flat(1, meta={"run_id": "lr-3", "model": "net", "devices": [A40, A40]})
    comparison = score_estimators([flat(1), named])
    assert list(dict.fromkeys(comparison.runs["run"])) == ["0", "lr-3"]
    assert row(comparison, "lr-3", "STEP")["gpu"] == "2 x NVIDIA A40"
    assert row(comparison, "lr-3", "STEP")["model"] == "net"


def test_measured_duration_is_passed_on() -> None:
    duration_s = np.array([*[1.0] * 20, *[3.0] * 20])
    trace = EnergyTrace.from_epochs(np.full(40, 300.0), duration_s, meta={"devices": [A40]})
    assert row(score_estimators([trace]), "0", "MLCO2")["energy_J"] == 300 * 40
    known = row(score_estimators([trace], measured_duration=True), "0", "MLCO2")
    assert known["energy_J"] == 300 * duration_s.sum()
    alone = compare_estimators(trace, 40, observed=15, measured_duration=True)
    assert alone.loc["MLCO2", "energy_J"] == 300 * duration_s.sum()
    with pytest.raises(EstimateError, match="durations of all 80"):
        compare_estimators(trace, 80, measured_duration=True)


def test_planned_changes_and_steps_are_passed_on() -> None:
    energy_J = np.array([*[10.0] * 20, *[30.0] * 20])
    trace = EnergyTrace.from_epochs(energy_J, np.ones(40), steps=np.full(40, 7.0))
    changes = (PlannedChange(20, energy_ratio=3.0) for _ in range(1))
    comparison = score_estimators({"a": trace, "b": trace}, planned=changes)
    for name in "ab":
        assert row(comparison, name, "STEP")["error"] == pytest.approx(0, abs=1e-3)
    by_steps = compare_estimators(trace.head(15), steps=7 * 40)
    assert by_steps.loc["STEP", "energy_J"] == estimate_step(trace.head(15), 40).energy_J
    with pytest.raises(EstimateError, match="must be a list"):
        compare_estimators(trace, 40, planned="all")


def test_one_training_may_be_as_long_as_it_was_planned() -> None:
    table = compare_estimators(flat(2, 10, meta={"planned_epochs": 40}))
    assert table.loc["first epoch", "energy_J"] == 80
    with pytest.raises(EstimateError, match="planned in time"):
        compare_estimators(flat(2, 10, meta={"planned_duration_s": 99}))


UNREAD = EnergyTrace({"epoch": np.arange(40.0), "energy_J": np.array([*[1.0] * 39, math.nan])})


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        ([], {}, "no run"),
        ({}, {}, "no run"),
        ({"bad": UNREAD, "good": flat(1)}, {}, r"^run 'bad': the energy was not measured in all"),
        ({"none": flat(0), "good": flat(1)}, {}, r"^run 'none': the energy"),
        ({f"r{i}": UNREAD for i in range(9)}, {}, r"'r4' and 4 more"),
        ({"short": flat(1, 5), "good": flat(1)}, {"epochs": 9}, r"^run 'short': the energy"),
        ({"short": flat(1, 5), "good": flat(1)}, {"observed": 5}, r"^run 'short': no epoch is"),
        ([flat(1, meta={"run_id": "x"})] * 2, {}, r"^run 'x': several runs"),
        ({1: flat(1)}, {}, "must be text"),
        ([flat(1), flat(1).epochs], {}, "run '1' is a DataFrame"),
        ([UNREAD.head(39)], {"measured_duration": True}, r"^run '0': measured_duration=True"),
        ([flat(1)], {"epochs": math.nan}, "epochs=nan"),
        ([flat(1)], {"observed": -1}, "observed=-1"),
        ([flat(1)], {"confidence": 2}, "confidence=2"),
        (flat(1), {"epochs": 40}, "traces is a EnergyTrace: it must be a list"),
        ("runs", {}, "traces is a str"),
    ],
)
def test_what_cannot_be_scored_is_named(runs: Any, options: dict, message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        score_estimators(runs, **options)


def test_one_training_is_compared_and_many_are_scored() -> None:
    with pytest.raises(EstimateError, match="trace is a list"):
        compare_estimators([flat(1)], 40)  # type: ignore[arg-type]
    with pytest.raises(EstimateError, match="not both"):
        compare_estimators(flat(1), 40, duration_s=4.0, measured_duration=True)
    with pytest.raises(EstimateError, match="duration_s='measured'"):
        compare_estimators(flat(1), 40, duration_s="measured")  # type: ignore[arg-type]


def test_unknown_method() -> None:
    with pytest.raises(EstimateError, match="'STOP' is not a method"):
        score_estimators([flat(1)]).shared("STOP")


def test_texts_show_the_summary_and_the_shared_runs() -> None:
    comparison = score_estimators({"a": flat(1e3), "b": flat(2e3, 20)})
    text = str(comparison)
    assert text.startswith("2 runs, estimated after 10 to 15 epochs, intervals of 90 %:")
    assert "Scores over the 1 run that all of these methods answered:" in text
    assert repr(comparison) == text
    page = comparison._repr_html_()
    assert page.count("<table") == 2
    assert "Green Algorithms" in page
    alone = str(score_estimators([flat(1e3)]).shared("STEP", "first epoch"))
    assert "that all" not in alone
    apart = table_of([1.0, 2.0], {"a": [1.0, math.nan], "b": [math.nan, 2.0]})
    assert "no run was answered by all of a, b" in str(apart)
    assert apart._repr_html_().count("<table") == 1


# ---------------------------------------------------------------------- PRE


@pytest.fixture(scope="module")
def measured_step() -> dict[str, Any]:
    """A step of a real training on an H100."""
    with gzip.open(DATA / "sweep.jsonl.gz", "rt") as lines:
        step: dict[str, Any] = json.loads(next(lines))
    return step


def trained(step: dict[str, Any], cpu_W: float = 0.0, **meta: Any) -> EnergyTrace:
    """Twenty epochs of 50 such steps."""
    duration_s = np.full(20, 50 * step["step_s"])
    gpu_J, cpu_J = duration_s * step["power_W"], duration_s * cpu_W
    devices = [{"device": "gpu:0", "kind": "gpu", "name": step["gpu"]}]
    if cpu_W:
        devices.append({"device": "cpu:0", "kind": "cpu", "name": "a processor"})
    return EnergyTrace.from_epochs(
        gpu_J + cpu_J,
        duration_s,
        gpu_energy_J=gpu_J,
        cpu_energy_J=cpu_J if cpu_W else np.full(20, math.nan),
        steps=np.full(20, 50.0),
        meta={"devices": devices, "workload": step["workload"], **meta},
    )


def predicted(step: dict[str, Any], validation_samples: int = 0) -> Any:
    workload = Workload.from_dict(step["workload"])
    return estimate_pre(
        workload,
        step["gpu"],
        epochs=20,
        train_samples=50 * workload.batch_size,
        validation_samples=validation_samples,
    )


def test_pre_is_held_against_a_real_training(measured_step: dict[str, Any]) -> None:
    pre = row(score_estimators([trained(measured_step)]), "0", "PRE")
    expected = predicted(measured_step)
    assert pre["energy_J"] == pytest.approx(expected.energy_J)
    assert (pre["energy_lower_J"], pre["energy_upper_J"]) == pytest.approx(
        (expected.lower_J, expected.upper_J)
    )
    assert abs(pre["error"]) < 0.3  # the packaged model has learnt from this training
    assert pre["note"] == ""


def test_pre_takes_other_devices_from_the_observed_epochs(measured_step: dict[str, Any]) -> None:
    pre = row(score_estimators([trained(measured_step, cpu_W=120.0)]), "0", "PRE")
    expected = beside_gpu(predicted(measured_step), 120.0)
    assert pre["energy_J"] == pytest.approx(expected.energy_J)
    assert pre["energy_upper_J"] == pytest.approx(expected.upper_J)
    samples = 50 * measured_step["batch_size"]
    trace = trained(measured_step, cpu_W=120.0, train_samples=samples)
    table = compare_estimators(trace, 20, observed=0)
    assert "separates the GPU's energy" in table.loc["PRE", "note"]
    alone = compare_estimators(trained(measured_step, train_samples=samples), 20, observed=0)
    assert alone.loc["PRE", "energy_J"] == pytest.approx(predicted(measured_step).energy_J)


def test_pre_is_of_what_was_planned_at_the_start(measured_step: dict[str, Any]) -> None:
    change = {"epoch": 10, "energy_ratio": 2.0, "known_since": 0}
    trace = trained(measured_step, planned_changes=[change, {**change, "known_since": 3}])
    pre = compare_estimators(trace, 20, observed=5).loc["PRE"]
    assert pre["energy_J"] == pytest.approx(1.5 * predicted(measured_step).energy_J)


def test_pre_counts_the_samples_that_the_trace_counts(measured_step: dict[str, Any]) -> None:
    batch = measured_step["batch_size"]
    known = {"train_samples": 50 * batch, "validation_samples": 10 * batch}
    recorded = compare_estimators(trained(measured_step, first_projection=known), 20).loc["PRE"]
    assert recorded["energy_J"] == pytest.approx(predicted(measured_step, 10 * batch).energy_J)
    trace = trained(measured_step)
    validates = EnergyTrace(
        {**trace.epoch_columns, "validation_energy_J": np.full(20, 1.0)}, {}, trace.meta
    )
    assert "validation samples" in compare_estimators(validates, 20).loc["PRE", "note"]
    counted = EnergyTrace(
        validates.epoch_columns, {}, {**trace.meta, "validation_samples": 10 * batch}
    )
    pre = compare_estimators(counted, 20).loc["PRE"]
    assert pre["energy_J"] == pytest.approx(predicted(measured_step, 10 * batch).energy_J)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"workload": None}, "holds no workload"),
        ({"workload": {"model": "net"}}, "not a stored workload"),
        ({"devices": [A40, A40]}, "the trace has 2"),
        ({"devices": []}, "the trace has 0"),
        ({"devices": [{**A40, "name": "Abacus 9"}]}, "unknown GPU 'Abacus 9'"),
    ],
)
def test_why_there_is_no_pre(measured_step: dict[str, Any], meta: dict, message: str) -> None:
    table = compare_estimators(trained(measured_step, **meta), 20)
    assert math.isnan(table.loc["PRE", "energy_J"])
    assert message in table.loc["PRE", "note"]


def test_pre_needs_samples_and_the_share_of_the_gpu(measured_step: dict[str, Any]) -> None:
    trace = trained(measured_step, cpu_W=10.0)
    columns = dict(trace.epoch_columns)
    without = {name: column for name, column in columns.items() if name != "steps"}
    note = compare_estimators(EnergyTrace(without, {}, trace.meta), 20).loc["PRE", "note"]
    assert "number of samples per epoch" in note
    absurd = EnergyTrace({**columns, "steps": np.full(20, 1e290)}, {}, trace.meta)
    assert "overflows" in compare_estimators(absurd, 1e100).loc["PRE", "note"]
    without = {name: c for name, c in columns.items() if name != "gpu_energy_J"}
    note = compare_estimators(EnergyTrace(without, {}, trace.meta), 20).loc["PRE", "note"]
    assert "separates the GPU's energy" in note
    without = {name: c for name, c in columns.items() if name != "duration_s"}
    note = compare_estimators(EnergyTrace(without, {}, trace.meta), 20).loc["PRE", "note"]
    assert "does not hold the durations of its epochs" in note
