"""Who ran a training and in which job: what the meta of a run says, and what a setting hides."""

from __future__ import annotations

import getpass
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import trapezoid

from energyest import load_trace, track
from energyest.estimators.baselines import mean_utilization
from energyest.measure.meter import MeanShare
from energyest.provenance import job_of, provenance
from simulation.stepped import Run, sensors, without_threads
from tests.support.sensors import Constant

SCHEDULED = ("SLURM_", "PBS_", "LSB_", "KUBERNETES_", "POD_", "ENERGYEST_")


@pytest.fixture(autouse=True)
def _unscheduled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(SCHEDULED)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, {}),
        ({"SLURM_JOB_ID": "17"}, {"scheduler": "slurm", "id": "17"}),
        (
            {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "15", "SLURM_ARRAY_TASK_ID": "3"},
            {"scheduler": "slurm", "id": "15_3"},
        ),
        ({"PBS_JOBID": "4711[2].server"}, {"scheduler": "pbs", "id": "4711[2].server"}),
        ({"LSB_JOBID": "9", "LSB_JOBINDEX": "0"}, {"scheduler": "lsf", "id": "9"}),
        ({"LSB_JOBID": "9", "LSB_JOBINDEX": "4"}, {"scheduler": "lsf", "id": "9_4"}),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOSTNAME": "bert-0-x7"},
            {"scheduler": "kubernetes", "id": "bert-0-x7"},
        ),
        ({"HOSTNAME": "laptop"}, {}),
        ({"SLURM_JOB_ID": "\x1b[31m"}, {}),
        ({"SLURM_JOB_ID": "9" * 300}, {}),
    ],
)
def test_the_job_that_the_environment_names(environment: dict[str, str], job: Any) -> None:
    assert job_of(environment) == job


def test_what_the_meta_of_a_run_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_JOB_ACCOUNT", "vision")
    with track(tmp_path / "energy", sensors=[Constant(100.0)], quiet=True) as run:
        run.start_epoch()
        run.end_epoch()
    meta = load_trace(tmp_path / "energy").meta
    assert meta["user"] == "ada"
    assert meta["host"] == platform.node()
    assert meta["project"] == "vision"
    assert meta["job"] == {"scheduler": "slurm", "id": "17"}


def test_settings_turn_the_user_off_and_name_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance()["user"] == "ada"
    monkeypatch.setenv("ENERGYEST_RECORD_USER", "no")
    monkeypatch.setenv("ENERGYEST_PROJECT", "speech")
    monkeypatch.setenv("SLURM_JOB_ACCOUNT", "vision")
    monkeypatch.setenv("SLURM_JOB_USER", "ada")
    found = provenance()
    assert "user" not in found
    assert found["project"] == "speech"
    assert "ada" not in str(found.values())


def test_a_pyproject_turns_the_user_off(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.energyest]\nrecord_user = false\n")
    assert "user" not in provenance()


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert "user" not in provenance()


def test_the_mean_over_uneven_times_is_the_trapezoid_rule() -> None:
    rng = np.random.default_rng(0)
    time_s, share = np.cumsum(rng.random(50)), rng.random(50)
    mean = MeanShare()
    for at, value in zip(time_s, share, strict=True):
        mean.add(at, value)
        mean.add(at, np.nan)
    assert mean.mean == pytest.approx(trapezoid(share, time_s) / np.ptp(time_s))
    assert np.isnan(MeanShare().mean)


def test_the_recorded_utilization_is_that_of_the_readings(tmp_path: Path) -> None:
    with without_threads():
        run = Run(sensors(1), tmp_path / "energy", hz=10, epoch_s=7.3)
        run.go_on(60.0)
        run.recorder.stop("finished")
    trace = load_trace(tmp_path / "energy")
    gpu, processor, _ = trace.devices
    of_gpu = trace.power_columns["device"] == "gpu:0"
    time_s, busy = (trace.power_columns[n][of_gpu] for n in ("time_s", "utilization"))
    by_hand = trapezoid(busy, time_s) / np.ptp(time_s)
    assert len(busy) > 100
    assert np.ptp(busy) > 0.01  # otherwise any weights would do
    assert gpu["utilization"] == pytest.approx(by_hand, rel=1e-4)
    assert mean_utilization(trace) == gpu["utilization"]
    assert processor["utilization"] is None  # not read, which is not 0
