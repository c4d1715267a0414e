"""Traces of format 1, as they were written by the first version that had it, load as they were.

`finished`, `intervals` (of two steps), `killed`, `resumed` and `two_ranks` are trainings of a few
epochs; checkpoint.json is the state of the monitor in the Lightning checkpoint that `resumed` went
on from. The numbers are those that the version that wrote them showed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from energyest import EnergyTrace, estimate_step, load_trace
from energyest.measure.checkpoint import RunCheckpoint
from energyest.measure.recorder import Recorder
from simulation.stepped import Clock, without_threads
from tests.support.golden import DATA, unpacked
from tests.support.sensors import Constant

# Name -> energy of the run, and of each epoch; rows of readings; status.
TRACES: dict[str, tuple[float, list[float], int, str]] = {
    "finished": (
        687.4479309388598,
        [
            *(116.90121142364461, 134.7221841858224, 133.79836806229275, 149.38486833894672),
            133.7980236710605,
        ],
        74,
        "finished",
    ),
    "intervals": (
        367.779759365319,
        [94.6603347837563, 59.6864759915361, 48.03356195167953, 47.90876304244148],
        158,
        "finished",
    ),
    "killed": (
        1021.3722357451203,
        [
            *(81.2604665136941, 78.18863689262014, 73.68220611106608, 79.2848037442144),
            *(86.36095694926826, 83.54973627376762, 89.98199576461104),
        ],
        102,
        "running",
    ),
    "resumed": (
        603.4711599564617,
        [144.70931315368034, 106.00844126966979, 135.36752612726443, 169.90170832422504],
        32,
        "finished",
    ),
    "two_ranks": (
        310.9810026776718,
        [77.75798449381304, 78.65012196311865, 72.58870325675358, 71.67997201841044],
        124,
        "finished",
    ),
}


@pytest.fixture(scope="module")
def stored() -> Iterator[Path]:
    with unpacked(DATA / "traces_of_format_1.tar.gz") as folder:
        yield folder


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a folder, read without the package."""
    lines = map(json.loads, (folder / "epochs.jsonl").read_text().splitlines())
    rows: list[dict[str, Any]] = []
    for line in lines:
        if "amends_row" in line:
            rows[line.pop("amends_row")].update(line)
        else:
            rows.append(line)
    return rows


def known(value: float | None) -> float:
    """NaN is null in JSON."""
    return math.nan if value is None else value


@pytest.mark.parametrize("name", TRACES)
def test_it_loads_with_the_numbers_it_had(stored: Path, name: str) -> None:
    total_J, energies_J, readings, status = TRACES[name]
    trace = load_trace(stored / name)
    assert trace.total_J == pytest.approx(total_J, rel=1e-12)
    assert trace.column("energy_J") == pytest.approx(energies_J, rel=1e-12)
    assert len(trace.power) == readings
    assert trace.meta["status"] == status
    assert json.loads((stored / name / "meta.json").read_text())["format"] == 1
    assert estimate_step(trace, 100).energy_J > trace.total_J


@pytest.mark.parametrize("name", [*(n for n in TRACES if n != "two_ranks"), "two_ranks/rank1"])
def test_every_column_is_what_the_files_say(stored: Path, name: str) -> None:
    trace, rows = load_trace(stored / name), lines_of(stored / name)
    assert len(trace) == len(rows)
    for column, values in trace.epoch_columns.items():
        np.testing.assert_array_equal(values, [known(row.get(column)) for row in rows], column)
    assert set().union(*rows) <= set(trace.epoch_columns)
    # Processors were not measured, or by the other process: unknown, and not 0.
    assert np.isnan(trace.column("cpu_energy_J")).all()
    meta = json.loads((stored / name / "meta.json").read_text())
    kept = ("run_id", "versions", "model", "hparams", "workload", "planned_epochs", "host")
    assert [trace.meta.get(key) for key in kept] == [meta.get(key) for key in kept]


def test_intervals_are_intervals(stored: Path) -> None:
    trace = load_trace(stored / "intervals")
    assert trace.meta["interval_steps"] == 2
    assert list(trace.column("steps")) == 4 * [2]
    assert list(trace.column("epoch")) == 4 * [0]


def test_a_killed_run_has_the_total_that_was_written_last(stored: Path) -> None:
    trace = load_trace(stored / "killed")
    latest = json.loads((stored / "killed" / "latest.json").read_text())
    assert "total_J" not in json.loads((stored / "killed" / "meta.json").read_text())
    assert trace.total_J == latest["total_J"]
    assert trace.meta["interrupted_epoch"] == latest["interrupted_epoch"]
    assert [device["energy_J"] for device in trace.devices] == [
        948.5337328891216,
        72.83850285599874,
    ]


def test_two_ranks_add_up(stored: Path) -> None:
    whole = load_trace(stored / "two_ranks")
    own = [load_trace(stored / "two_ranks", ranks=[0]), load_trace(stored / "two_ranks/rank1")]
    assert whole.total_J == sum(trace.total_J for trace in own)
    assert [trace.total_J for trace in own] == [242.27081331291075, 68.71018936476109]
    for name in ("energy_J", "gpu_energy_J", "samples"):
        both = sum(trace.column(name) for trace in own)
        assert whole.column(name) == pytest.approx(both, rel=1e-12)
    # Processors and memory are the machine's: rank 0 counts them.
    np.testing.assert_array_equal(whole.column("cpu_energy_J"), own[0].column("cpu_energy_J"))
    assert whole.meta["missing_ranks"] == []


def continued(checkpoint: RunCheckpoint, folder: Path) -> EnergyTrace:
    """A run that continues for two epochs of 4 s at 100 W."""
    clock = Clock()
    with without_threads():
        recorder = Recorder([Constant(100)], folder=folder, clock=clock)
        recorder.continue_from(checkpoint)
        recorder.start()
        for epoch in (2, 3):
            recorder.start_epoch(epoch, continues=epoch > 2)
            clock.now_s += 4
            recorder.end_epoch({"steps": 8.0})
        recorder.stop()
    return recorder.trace()


def test_a_run_goes_on_from_the_state_in_a_checkpoint(stored: Path, tmp_path: Path) -> None:
    state = json.loads((stored / "checkpoint.json").read_text())["0"]
    checkpoint = RunCheckpoint.from_state_dict(state["run"])
    assert (state["epoch"], state["batches"]) == (checkpoint.next_epoch, 8)
    assert (len(checkpoint), checkpoint.steps, checkpoint.open_row) == (2, 16, {})
    assert checkpoint.gpus == {"NVIDIA H100 80GB HBM3": 1}
    assert math.isnan(checkpoint.total["cpu_energy_J"])
    again = RunCheckpoint.from_state_dict(json.loads(json.dumps(checkpoint.state_dict())))
    assert repr(again) == repr(checkpoint)

    columns = state["run"]["columns"]
    in_memory = continued(checkpoint, tmp_path / "energy")
    for trace in (in_memory, load_trace(tmp_path / "energy")):
        assert list(trace.column("epoch")) == [0, 1, 2, 3]
        for name in ("energy_J", "cpu_energy_J", "validation_s", "steps", "val_acc"):
            np.testing.assert_array_equal(trace.column(name)[:2], columns[name])
        assert trace.column("energy_J")[2:] == pytest.approx([400, 400], rel=1e-2)
        spent_J = 100 * (trace.meta["duration_s"] - state["run"]["total"]["duration_s"])
        assert trace.total_J == pytest.approx(277.42212925577337 + spent_J)
        assert spent_J >= 800

    # The run that did go on has the same two epochs.
    resumed = load_trace(stored / "resumed")
    np.testing.assert_array_equal(resumed.column("energy_J")[:2], columns["energy_J"])
    assert resumed.meta["earlier_total_J"] == state["run"]["total"]["energy_J"]
    assert resumed.meta["earlier_parts"] == state["run"]["meta"]["earlier_parts"]
