"""EnergyTrace: building, checking, saving and loading."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from energyest import EnergyestError, EnergyTrace, load_trace
from energyest.errors import TraceError
from energyest.records.trace import EPOCH_COLUMNS, POWER_COLUMNS


def power_trace() -> EnergyTrace:
    time = np.arange(0, 30.1, 0.5)
    return EnergyTrace.from_power(
        time, 100 + time, [10, 20, 30], utilization=np.full(61, 0.5), meta={"run_id": "abc"}
    )


# ---------------------------------------------------------------------- building


def test_from_epochs() -> None:
    trace = EnergyTrace.from_epochs(energy_J=[10, 20], duration_s=[1, 4], val_acc=[0.5, math.nan])
    assert tuple(trace.epochs.columns) == (*EPOCH_COLUMNS, "val_acc")
    assert list(trace.epochs["epoch"]) == [0, 1]
    assert list(trace.column("end_s")) == [1, 5]
    assert list(trace.column("mean_power_W")) == [10, 5]
    assert np.isnan(trace.column("gpu_energy_J")).all()  # not measured is NaN, not 0
    assert trace.metrics == ["val_acc"]
    assert trace.total_J == 30
    assert len(trace) == 2


def test_from_power_integrates_each_epoch() -> None:
    trace = power_trace()
    # The integral of 100 + t.
    assert trace.column("energy_J") == pytest.approx([1050, 1150, 1250])
    assert trace.column("gpu_energy_J") == pytest.approx([1050, 1150, 1250])
    assert trace.total_J == pytest.approx(3450)
    assert tuple(trace.power.columns) == POWER_COLUMNS
    assert set(trace.power["device"]) == {"gpu:0"}


def test_from_power_takes_lists_frames_and_single_precision() -> None:
    frame = pd.DataFrame({"t": [0, 1, 2, 3], "p": [5, 5, 5, 5]}, dtype="float32")
    assert EnergyTrace.from_power(frame["t"], frame["p"], [1.5, 3]).column(
        "energy_J"
    ) == pytest.approx([7.5, 7.5])


def test_last_end_may_lie_before_the_reading_that_would_have_come_next() -> None:
    time = np.arange(0, 4) * 0.1
    trace = EnergyTrace.from_power(time, np.full(4, 300.0), [0.1, 0.39])
    assert trace.column("energy_J") == pytest.approx([30, 87])


def test_an_epoch_that_ended_after_the_last_total_counts_with_what_it_cost_in_all(
    tmp_path: Path,
) -> None:
    meta = {"format": 1, "run_id": "a", "status": "running"}
    latest = {
        **meta,
        "total_J": 130.0,
        "components": {"gpu_energy_J": 120.0, "cpu_energy_J": None},
        "interrupted_epoch": {"epoch": 1, "start_s": 2.0, "energy_J": 30.0, "gpu_energy_J": 28.0},
    }
    rows = [
        {"epoch": 0, "start_s": 0.0, "end_s": 2.0, "energy_J": 100.0, "gpu_energy_J": 92.0},
        {"epoch": 1, "start_s": 2.0, "end_s": 4.0, "energy_J": 50.0, "gpu_energy_J": 47.0},
    ]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "latest.json").write_text(json.dumps(latest))
    (tmp_path / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trace = load_trace(tmp_path)
    assert trace.total_J == 130.0 - 30.0 + 50.0
    assert trace.meta["components"] == {"gpu_energy_J": 120.0 - 28.0 + 47.0, "cpu_energy_J": None}
    assert "interrupted_epoch" not in trace.meta


def test_total_of_a_run_that_was_killed() -> None:
    # Ten epochs of 1 s with 0.5 s between them, and readings 2 s before and after.
    time = np.arange(0, 19.01, 0.1)
    starts = 2 + 1.5 * np.arange(10)
    columns = {
        "epoch": np.arange(10.0),
        "start_s": starts,
        "end_s": starts + 1,
        "energy_J": np.full(10, 300.0),
    }
    readings = {"time_s": time, "device": np.full(191, "gpu:0"), "power_W": np.full(191, 300.0)}
    trace = EnergyTrace(columns, readings)
    assert trace.total_J == pytest.approx(300 * 19)
    # Cut within the last epoch's last interval between readings: never less than the epochs.
    assert trace.head(5).total_J >= trace.head(5).column("energy_J").sum() * (1 - 1e-12)
    assert EnergyTrace(columns).total_J == pytest.approx(3000)
    with pytest.raises(TraceError, match="need the columns"):
        EnergyTrace(columns, {"time_s": time, "power_W": time})


def test_frames_are_copies_and_columns_are_read_only() -> None:
    trace = power_trace()
    frame = trace.epochs
    frame.loc[0, "energy_J"] = -1
    assert trace.epochs.loc[0, "energy_J"] == pytest.approx(1050)
    with pytest.raises(ValueError, match="read-only"):
        trace.column("energy_J")[0] = -1


def test_head() -> None:
    head = power_trace().head(2)
    assert len(head) == 2
    assert head.power["time_s"].max() <= 20
    assert len(power_trace().head(99)) == 3
    assert len(power_trace().head(0)) == 0
    with pytest.raises(TraceError, match="0 or more"):
        power_trace().head(-1)


def test_head_knows_nothing_of_the_end() -> None:
    device = {"device": "gpu:0", "name": "A40", "energy_J": 9.0, "missing_s": 1.0}
    meta = {"total_J": 9.0, "status": "finished", "batch_size": 4, "devices": [device]}
    head = EnergyTrace.from_epochs(energy_J=[3, 3, 3], meta=meta).head(2)
    assert head.meta == {"batch_size": 4, "devices": [{"device": "gpu:0", "name": "A40"}]}
    assert head.total_J == 6


def test_unknown_column() -> None:
    with pytest.raises(TraceError, match="no column 'val_loss'"):
        power_trace().column("val_loss")


def test_empty_trace() -> None:
    trace = EnergyTrace.from_epochs(energy_J=[])
    assert len(trace) == 0
    assert trace.epochs.empty
    assert trace.power.empty
    assert "0 epochs" in repr(trace)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"energy_J": [1], "duration_s": [math.nan]},
            r"duration_s\[0\] is nan: duration_s must be",
        ),
        ({"energy_J": [1], "duration_s": [-1]}, "duration_s must not be negative"),
        ({"energy_J": [1, -2]}, r"energy_J\[1\] is -2: energy_J must not be negative"),
        ({"energy_J": [1, math.inf]}, "must be finite"),
        ({"energy_J": [1, 2], "duration_s": [1]}, "energy_J has 2 and duration_s has 1"),
        ({"energy_J": [1, 2], "val_acc": [1, 2, 3]}, "energy_J has 2 and val_acc has 3"),
        ({"energy_J": [[1, 2]]}, "one dimension"),
        ({"energy_J": ["a"]}, "must hold numbers"),
        ({"energy_J": ["1", "2"]}, "must hold numbers"),
        ({"energy_J": [1 + 2j]}, "must hold numbers"),
        ({"energy_J": pd.Series(pd.to_timedelta([1, 2], unit="s"))}, "must hold numbers"),
        ({"energy_J": np.ma.masked_array([1.0, 2.0], [False, True])}, "masked"),
    ],
)
def test_bad_epochs(arguments: dict, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        EnergyTrace.from_epochs(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_s": [0, math.nan, 1]}, r"time_s\[1\] is nan: time_s must be finite"),
        ({"epoch_end_s": [1, math.nan]}, "epoch_end_s must be finite"),
        ({"power_W": [1, -1, 1]}, r"power_W\[1\] is -1: power_W must not be negative"),
        ({"power_W": [1, math.inf, 1]}, "must be finite"),
        ({"time_s": [0, 2, 1]}, r"time_s\[2\] is 1: time_s must not go backwards"),
        ({"time_s": [0, 1]}, "time_s has 2 and power_W has 3"),
        ({"time_s": [0], "power_W": [1], "epoch_end_s": []}, "needs at least 2"),
        ({"time_s": [], "power_W": [], "epoch_end_s": []}, "needs at least 2"),
        ({"epoch_end_s": [1, 3]}, "after the last reading at 2 s"),
        ({"time_s": pd.date_range("2024", periods=3, freq="1s")}, "seconds since some start"),
        ({"utilization": [50, 60, 70]}, "a share from 0 to 1"),
        ({"device": "gpu:0,a"}, "must start with"),
        ({"epoch_end_s": [1, 1]}, "must increase"),
        ({"epoch_end_s": [0, 1]}, "must increase"),
        ({"utilization": [1]}, "utilization has 1"),
        ({"device": "tpu:0"}, "must start with gpu, cpu, ram, module, system"),
    ],
)
def test_bad_readings(arguments: dict, message: str) -> None:
    good = {"time_s": [0, 1, 2], "power_W": [1, 1, 1], "epoch_end_s": [1, 2]}
    with pytest.raises(TraceError, match=message):
        EnergyTrace.from_power(**{**good, **arguments})


def test_errors_are_the_packages_own_and_value_errors() -> None:
    with pytest.raises(EnergyestError):
        EnergyTrace.from_epochs(energy_J=[-1])
    with pytest.raises(ValueError, match="negative"):
        EnergyTrace.from_epochs(energy_J=[-1])


def test_what_a_file_says_does_not_steer_the_terminal() -> None:
    meta = {"devices": [{"device": "gpu:0", "kind": "gpu", "name": "\x1b]0;owned\x07\u202e"}]}
    assert repr(EnergyTrace.from_epochs([1.0], meta=meta)).endswith("?]0;owned??)")


# ---------------------------------------------------------------------- files


def saved(tmp_path: Path) -> Path:
    return power_trace().save(tmp_path / "trace")


def test_save_and_load(tmp_path: Path) -> None:
    trace = power_trace()
    again = load_trace(trace.save(tmp_path / "deep" / "trace"))
    pd.testing.assert_frame_equal(again.epochs, trace.epochs)
    # Readings are stored with six decimals.
    pd.testing.assert_frame_equal(again.power, trace.power, atol=1e-6)
    assert again.meta == trace.meta


def test_save_does_not_overwrite(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    with pytest.raises(TraceError, match="already holds a trace"):
        power_trace().save(folder)


def test_save_to_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="cannot write"):
        power_trace().save(tmp_path / "file" / "trace")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such folder"):
        load_trace(tmp_path / "nothing")
    with pytest.raises(TraceError, match="not a trace folder"):
        load_trace(tmp_path)


def test_newer_format(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "meta.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(TraceError, match=r"format 2; this version .* reads up to 1: upgrade"):
        load_trace(folder)


@pytest.mark.parametrize("meta", ["", "[]", "{}", '{"format": "1"}', '{"format": true}', "{", "\0"])
def test_damaged_meta(tmp_path: Path, meta: str) -> None:
    folder = saved(tmp_path)
    (folder / "meta.json").write_text(meta)
    with pytest.raises(TraceError, match="damaged"):
        load_trace(folder)


@pytest.mark.parametrize("name", ["epochs.jsonl", "power.csv"])
def test_every_cut_of_the_last_line_loads_without_it(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path)
    whole = (folder / name).read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        (folder / name).write_bytes(whole[:cut])
        trace = load_trace(folder)
        if name == "epochs.jsonl":
            assert list(trace.column("epoch")) == [0, 1]
        else:
            assert len(trace.power) == 60


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("epochs.jsonl", "{"),
        ("epochs.jsonl", "[1]"),
        ("epochs.jsonl", '{"energy_J": 1}'),
        ("epochs.jsonl", '{"epoch": 0, "energy_J": "much"}'),
        ("epochs.jsonl", '{"epoch": 0, "energy_J": Infinity}'),
        ("epochs.jsonl", '{"epoch": 0, "energy_J": 1e999}'),
        ("epochs.jsonl", '{"epoch": 0, "energy_J": true}'),
        ("epochs.jsonl", '{"amends_row": 9, "val_acc": 1}'),
        ("epochs.jsonl", '{"amends_row": -1, "val_acc": 1}'),
        ("power.csv", "0,gpu:0,much,,,,"),
        ("power.csv", "0,gpu\x1b[31m,1,,,,"),
        ("power.csv", "0,gpu:0,1,,,,,,,,,"),
    ],
)
def test_damage_before_the_last_line_is_named(tmp_path: Path, name: str, line: str) -> None:
    folder = saved(tmp_path)
    lines = (folder / name).read_text().splitlines()
    lines.insert(1, line)
    (folder / name).write_text("\n".join(lines) + "\n")
    with pytest.raises(TraceError, match=name.replace(".", r"\.")):
        load_trace(folder)


def test_a_header_that_names_a_column_twice(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    text = (folder / "power.csv").read_text()
    (folder / "power.csv").write_text(text.replace("utilization", "power_W", 1))
    with pytest.raises(TraceError, match=r"power\.csv, line 1, .* each once"):
        load_trace(folder)


@pytest.mark.parametrize("run_id", ["abc", "of another", None])
def test_what_was_known_last_is_that_of_the_same_run(tmp_path: Path, run_id: str | None) -> None:
    folder = saved(tmp_path)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "status": "running"}))
    latest = {"format": 1, "run_id": run_id, "total_J": 7000.0}
    (folder / "latest.json").write_text(json.dumps(latest))
    assert load_trace(folder).meta.get("total_J") == (7000.0 if run_id == "abc" else None)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (
            "epochs.jsonl",
            '{"epoch": 3, "energy_J": -5}',
            "energy_J of the epochs must be finite and not negative",
        ),
        ("power.csv", "31,gpu:0,-5,,,,", "power_W of the readings"),
        ("power.csv", "0,gpu:0,5,,,,", "time_s of gpu:0 must not go backwards"),
        ("power.csv", ",gpu:0,5,,,,", "time_s of gpu:0 must be finite"),
    ],
)
def test_values_that_cannot_be(tmp_path: Path, name: str, line: str, message: str) -> None:
    folder = saved(tmp_path)
    with open(folder / name, "a") as file:
        file.write(line + "\n")
    with pytest.raises(TraceError, match=message):
        load_trace(folder)


def test_epochs_of_one_number_stay_apart(tmp_path: Path) -> None:
    trace = EnergyTrace.from_epochs(energy_J=[1, 2, 3], epoch=[0, 0, 1])
    assert list(load_trace(trace.save(tmp_path / "t")).column("energy_J")) == [1, 2, 3]


def test_meta_of_numpy_values(tmp_path: Path) -> None:
    meta = {"a": np.int64(5), "b": np.float32(0.5), "c": np.arange(2), "format": 7}
    trace = EnergyTrace.from_epochs(energy_J=[1], meta=meta)
    assert load_trace(trace.save(tmp_path / "t")).meta == {"a": 5, "b": 0.5, "c": [0, 1]}
    with pytest.raises(TraceError, match="plain JSON"):
        EnergyTrace.from_epochs(energy_J=[1], meta={(1, 2): 3}).save(tmp_path / "u")
    assert not (tmp_path / "u").exists()
    with pytest.raises(TraceError, match="meta must be a mapping"):
        EnergyTrace.from_epochs(energy_J=[1], meta="text")


def test_binary_rubbish(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "power.csv").write_bytes(b"\xff\xfe\x00\n" * 3)
    with pytest.raises(TraceError):
        load_trace(folder)


def test_a_later_line_adds_to_an_epoch(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    with open(folder / "epochs.jsonl", "a") as file:
        file.write('{"amends_row": 2, "val_acc": 0.9}\n')
    trace = load_trace(folder)
    assert len(trace) == 3
    assert trace.column("val_acc")[2] == 0.9
    assert trace.column("energy_J")[2] == pytest.approx(1250)


def test_a_run_without_epochs_yet(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "epochs.jsonl").unlink()
    (folder / "power.csv").unlink()
    assert len(load_trace(folder)) == 0


def test_nan_is_null_on_disk(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    first = json.loads((folder / "epochs.jsonl").read_text().splitlines()[0])
    assert first["cpu_energy_J"] is None
