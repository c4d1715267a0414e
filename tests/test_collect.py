"""`collect_runs`: traces on disk as a table of runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from energyest import EnergyTrace
from energyest.errors import RunsError, TraceError
from energyest.tradeoff import collect_runs, pareto_front


def trace(energy_J: float = 100.0, **meta: Any) -> EnergyTrace:
    facts = {
        "run_id": f"{energy_J}",
        "status": "finished",
        "start_time": f"2026-01-01T00:00:{energy_J % 60:02.0f}+00:00",
        "devices": [
            {"device": "gpu:0", "kind": "gpu", "name": "NVIDIA A40", "power_limit_W": 300.0},
            {"device": "cpu:0", "kind": "cpu", "name": "EPYC"},
        ],
        "model": {"name": "LitNet", "parameters": 10},
        "hparams": {"arch": "resnet18", "lr": 0.1, "epochs": 99},
        "batch_size": 32,
        "precision": "bf16",
        "forward_flops_per_sample": 2e9,
        "total_J": 4 * energy_J,
        "duration_s": 40.0,
    }
    return EnergyTrace.from_epochs(
        energy_J=[energy_J] * 3,
        duration_s=[10.0] * 3,
        gpu_energy_J=[0.6 * energy_J] * 3,
        samples=[640.0] * 3,
        val_acc=[0.5, 0.9, 0.8],
        val_loss=[0.7, 0.3, math.nan],
        meta=facts | meta,
    )


def test_a_row(tmp_path: Path) -> None:
    trace().save(tmp_path / "version_0" / "energy")
    runs = collect_runs(tmp_path)
    assert len(runs) == 1
    row = runs.iloc[0].to_dict()
    assert row["run"] == str(Path("version_0") / "energy")
    assert {k: row[k] for k in ("model", "gpu", "gpus", "batch_size", "precision", "epochs")} == {
        "model": "LitNet",
        "gpu": "NVIDIA A40",
        "gpus": 1,
        "batch_size": 32,
        "precision": "bf16",
        "epochs": 3,
    }
    assert row["energy_J"] == 400
    assert row["gpu_energy_J"] == pytest.approx(180)
    assert row["duration_s"] == 40
    assert row["mean_power_W"] == 10
    assert row["gpu_power_W"] == pytest.approx(6)
    assert row["power_limit_W"] == 300
    assert row["samples"] == 1920
    assert row["energy_per_sample_J"] == pytest.approx(300 / 1920)
    assert row["flops_per_sample"] == 2e9
    assert row["parameters"] == 10
    assert math.isnan(row["utilization"])
    assert (row["val_acc"], row["val_loss"]) == (0.8, 0.3)
    assert (row["arch"], row["lr"]) == ("resnet18", 0.1)
    assert row["status"] == "finished"


def test_metrics_of_the_best_epoch_and_models_by_hyperparameter() -> None:
    traces = {"one": trace(), "two": trace(50.0, hparams={"arch": "vgg11"})}
    runs = collect_runs(traces, model="arch", monitor="val_acc").set_index("run")
    assert list(runs["model"].sort_index()) == ["resnet18", "vgg11"]
    assert list(runs["val_acc"]) == [0.9, 0.9]
    assert list(runs["val_loss"]) == [0.3, 0.3]
    worst = collect_runs(traces, monitor="val_acc", mode="min")
    assert list(worst["val_acc"]) == [0.5, 0.5]
    assert list(collect_runs(traces, monitor="val_loss")["val_acc"]) == [0.9, 0.9]
    with pytest.raises(RunsError, match="no run has the metric 'val_f1'; available: arch, lr"):
        collect_runs(traces, monitor="val_f1")
    for column in ("net", "batch_size", "val_acc"):
        with pytest.raises(RunsError, match=f"no run has the hyperparameter '{column}'"):
            collect_runs(traces, model=column)
    with pytest.raises(RunsError, match="no run has the metric 'energy_J'"):
        collect_runs(traces, monitor="energy_J")


def test_a_hyperparameter_does_not_take_a_column() -> None:
    hparams = {"run": "mine", "energy_J": 3, "val_acc": 7}
    runs = collect_runs({"one": trace(hparams=hparams), "two": trace(20.0, hparams=hparams)})
    assert sorted(runs["run"]) == ["one", "two"]
    assert sorted(runs["energy_J"]) == [80, 400]
    assert list(runs["val_acc"]) == [0.8, 0.8]


def test_traces_of_any_source(tmp_path: Path) -> None:
    folders = [trace(e).save(tmp_path / name / "energy") for e, name in ((30, "b"), (20, "a"))]
    runs = collect_runs(tmp_path)
    assert list(runs["run"]) == [str(Path("a") / "energy"), str(Path("b") / "energy")]
    assert list(collect_runs(folders)["energy_J"]) == [80, 120]
    assert list(collect_runs([trace(1.0), folders[0]])["run"]) == ["0", str(folders[0])]
    assert list(collect_runs(folders[0])["run"]) == ["energy"]
    assert len(pareto_front(runs, by=["model", "gpu"])) == 1


def test_what_has_not_finished(tmp_path: Path) -> None:
    trace(30.0).save(tmp_path / "done")
    trace(20.0, status="KeyboardInterrupt").save(tmp_path / "stopped")
    with pytest.warns(UserWarning, match=r"unfinished .*: stopped \(KeyboardInterrupt\)"):
        runs = collect_runs(tmp_path)
    assert list(runs["run"]) == ["done"]
    assert len(collect_runs(tmp_path, unfinished=True)) == 2
    with (
        pytest.warns(UserWarning, match="unfinished"),
        pytest.raises(RunsError, match="none of the 1 traces is a finished run"),
    ):
        collect_runs([tmp_path / "stopped"])


def test_a_copy_of_a_run_is_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        trace(20.0).save(tmp_path / name)
    with pytest.warns(UserWarning, match=r"b \(a copy of a\)"):
        assert list(collect_runs(tmp_path)["run"]) == ["a"]


def test_a_resumed_run_counts_once(tmp_path: Path) -> None:
    trace(20.0, status="SIGTERM").save(tmp_path / "energy")
    trace(50.0, earlier_parts=[{"run_id": "20.0"}]).save(tmp_path / "energy-2")
    runs = collect_runs(tmp_path, unfinished=True)
    assert list(runs["run"]) == ["energy-2"]


def test_other_ranks_are_not_separate_runs(tmp_path: Path) -> None:
    trace(20.0).save(tmp_path / "energy")
    trace(20.0).save(tmp_path / "energy" / "rank1")
    assert list(collect_runs(tmp_path)["run"]) == ["energy"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    trace(20.0).save(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "meta.json").write_text("{")
    with pytest.warns(UserWarning, match=r"cannot be read: .*bad"):
        assert list(collect_runs(tmp_path)["run"]) == ["good"]
    with pytest.raises(TraceError):
        collect_runs([tmp_path / "bad"])


def test_one_name_for_many_models_is_warned_of() -> None:
    other = trace(5.0, model={"name": "LitNet", "parameters": 99})
    with pytest.warns(UserWarning, match=r"'LitNet' have 2 different .* \(available: arch, lr"):
        collect_runs([trace(), other])
    assert len(collect_runs([trace(), other], model="arch")) == 2


def test_several_gpus_and_none() -> None:
    gpu = {"kind": "gpu", "name": "A40", "power_limit_W": 300.0}
    two = [{**gpu, "device": "gpu:0"}, {**gpu, "device": "gpu:1"}]
    runs = collect_runs({"two": trace(devices=two), "none": trace(5.0, devices=[])})
    runs = runs.set_index("run")
    assert list(runs.loc["two", ["gpu", "gpus", "power_limit_W"]]) == ["2 x A40", 2, 600]
    assert pd.isna(runs.loc["none", "gpu"])
    assert math.isnan(runs.loc["none", "power_limit_W"])
    cpu = [{"device": "cpu:0", "kind": "cpu", "name": "EPYC"}]
    assert list(collect_runs([trace(devices=cpu)])["gpu"]) == ["EPYC"]


def test_a_trace_that_says_nothing() -> None:
    bare = EnergyTrace.from_epochs(energy_J=[1.0, 2.0])
    row = collect_runs([bare]).iloc[0]
    assert row["energy_J"] == 3
    assert np.isnan([row["duration_s"], row["samples"], row["mean_power_W"]]).all()
    odd = EnergyTrace.from_epochs(
        energy_J=[1.0],
        meta={
            "model": "net",
            "hparams": [1],
            "batch_size": "many",
            "earlier_parts": [3, {"run_id": [1]}],
            "run_id": [2],
            "precision": ["bf16"],
            "duration_s": 10**400,
        },
    )
    row = collect_runs([odd]).iloc[0]
    assert row["model"] == "net"
    assert np.isnan([row["batch_size"], row["duration_s"]]).all()
    assert row["precision"] is None


@pytest.mark.parametrize("source", [3, None, trace(), [3], {"a": 3}])
def test_what_is_not_a_source(source: object) -> None:
    with pytest.raises(RunsError, match="must be a"):
        collect_runs(source)  # type: ignore[arg-type]


def test_empty_sources(tmp_path: Path) -> None:
    with pytest.raises(RunsError, match="there is no trace in"):
        collect_runs(tmp_path)
    with pytest.raises(RunsError, match="there is no folder"):
        collect_runs(tmp_path / "nothing")
