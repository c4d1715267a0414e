"""Logs of other tools: read to the right energy, or refused or marked with the line."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
import warnings
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from energyest import EnergyTrace, estimate_step
from energyest.cli import main
from energyest.errors import EnergyestError, TraceError
from energyest.readers import (
    read_carbontracker,
    read_codecarbon,
    read_dcgm,
    read_log,
    read_mlflow,
    read_mlperf_power,
    read_nvidia_smi,
    read_table,
    read_tensorboard,
    read_trackio,
    read_wandb,
    read_zeus,
    tool_of,
)

LOGS = Path(__file__).parent / "data" / "logs"
START = datetime(2026, 3, 1, 23, 59, 40)  # over midnight
UNIX_S = START.replace(tzinfo=timezone.utc).timestamp()
ENDS_S = [20, 40, 60]
# What two GPUs drew, a reading a second.
POWER_W = {"gpu:0": 300.0 + 10 * np.sin(np.arange(61)), "gpu:1": 200.0 + np.arange(61) / 10}


def quietly(read: Any, *arguments: Any, **options: Any) -> EnergyTrace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read(*arguments, **options)


def at(second: float) -> str:
    time = START + timedelta(seconds=float(second))
    return time.strftime("%Y/%m/%d %H:%M:%S.") + f"{time.microsecond // 1000:03d}"


def write(folder: Path, text: str, name: str = "log.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_text(text, encoding=encoding, newline="")
    return path


def smi(
    power_W: dict[str, Any], *, header: bool = True, units: bool = True, index: bool = True
) -> str:
    """What nvidia-smi writes of some GPUs."""
    lines = ["timestamp, index, power.draw [W], utilization.gpu [%]"] if header else []
    if not index:
        lines = [line.replace(" index,", "") for line in lines]
    for second in range(len(next(iter(power_W.values())))):
        for n, watts in enumerate(power_W.values()):
            fields = [at(second + 0.004 * n), str(n)][: 1 + index]
            fields += [f"{watts[second]:.2f}" + " W" * units, "97" + " %" * units]
            lines.append(", ".join(fields))
    return "\n".join(lines) + "\n"


def true_J(power_W: dict[str, Any]) -> Any:
    """By the trapezoid rule, of each epoch."""
    means_W = [(np.asarray(w)[1:] + np.asarray(w)[:-1]) / 2 for w in power_W.values()]
    return np.sum(means_W, axis=0).reshape(3, 20).sum(axis=1)


# ---------------------------------------------------------------------- every format


def as_dmon(power_W: dict[str, Any]) -> str:
    lines = [
        "#Date       Time        gpu    pwr     sm ",
        "#YYYYMMDD   HH:MM:SS    Idx      W      % ",
    ]
    for s in range(61):
        time = (START + timedelta(seconds=s)).strftime(" %Y%m%d   %H:%M:%S ")
        lines += [f"{time} {n}  {watts[s]:.3f}  97" for n, watts in enumerate(power_W.values())]
    return "\n".join(lines) + "\n"


def as_dcgm(power_W: dict[str, Any]) -> str:
    head = ["#Entity   POWER       TOTEC      GPUTL ", "ID        W           mJ               "]
    lines = []
    for s in range(61):
        lines += head if s % 25 == 0 else []
        lines += [
            f"GPU {n}     {w[s]:.3f}     12345     97" for n, w in enumerate(power_W.values())
        ]
    return "\n".join(lines) + "\n"


def as_zeus(power_W: dict[str, Any]) -> str:
    lines = ["time," + ",".join(f"gpu{n}" for n in range(len(power_W)))]
    for s in range(61):
        lines.append(f"{UNIX_S + s}," + ",".join(str(w[s]) for w in power_W.values()))
    return "\n".join(lines) + "\n"


def as_wandb(power_W: dict[str, Any]) -> str:
    names = [f"system.gpu.{n}.powerWatts" for n in range(len(power_W))]
    lines = [",".join(["", "system.cpu", *names, "_runtime", "_timestamp"])]
    for s in range(61):
        watts = ",".join(str(w[s]) for w in power_W.values())
        lines.append(f"{s},5.0,{watts},{s + 3.1},{UNIX_S + s}")
    return "\n".join(lines) + "\n"


def as_wandb_lines(power_W: dict[str, Any]) -> str:
    rows = [
        {f"system.gpu.{n}.powerWatts": w[s] for n, w in enumerate(power_W.values())}
        | {"_timestamp": UNIX_S + s, "_wandb": True}
        for s in range(61)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_table(power_W: dict[str, Any]) -> str:
    lines = ["time_ms;" + ";".join(f"gpu{n}_power_mW" for n in range(len(power_W)))]
    lines += [
        f"{1000 * s};" + ";".join(str(1e3 * w[s]) for w in power_W.values()) for s in range(61)
    ]
    return "\n".join(lines) + "\n"


def as_long_table(power_W: dict[str, Any]) -> str:
    lines = ["timestamp\tdevice\tPower (W)"]
    lines += [f"{at(s)}\t{of}\t{w[s]}" for s in range(61) for of, w in power_W.items()]
    return "\n".join(lines) + "\n"


FORMATS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "smi": ("nvidia-smi", smi, {}),
    "smi noheader": ("nvidia-smi", lambda p: smi(p, header=False), {}),
    "smi nounits": ("nvidia-smi", lambda p: smi(p, header=False, units=False), {}),
    "smi dmon": ("nvidia-smi", as_dmon, {}),
    "dcgm": ("dcgm", as_dcgm, {"interval_s": 1.0}),
    "zeus": ("zeus", as_zeus, {}),
    "wandb": ("wandb", as_wandb, {}),
    "wandb lines": ("wandb", as_wandb_lines, {}),
    "table": ("table", as_table, {}),
    "long table": ("table", as_long_table, {}),
}


@pytest.mark.parametrize("name", FORMATS)
@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.floats(20, 700), min_size=61, max_size=61), st.floats(20, 700))
def test_power_that_is_written_out_is_read_back(
    name: str, tmp_path: Path, first: list[float], second: float
) -> None:
    tool, form, options = FORMATS[name]
    power_W = {"gpu:0": np.array(first), "gpu:1": np.full(61, second)}
    path = write(tmp_path, form(power_W), "log")
    assert tool_of(path) == tool
    trace = quietly(read_log, path, epoch_end_s=ENDS_S, **options)
    # nvidia-smi reads its second GPU 4 ms later, and rounds to 10 mW.
    assert trace.column("energy_J") == pytest.approx(true_J(power_W), rel=2e-3)
    assert trace.column("gpu_energy_J") == pytest.approx(trace.column("energy_J"))
    assert [device["device"] for device in trace.devices] == ["gpu:0", "gpu:1"]
    assert trace.meta["log"]["file"] == "log"
    one = quietly(read_log, path, epoch_end_s=ENDS_S, gpu=1, **options)
    assert one.column("energy_J") == pytest.approx([20 * second] * 3, rel=1e-3)


def test_encodings_blank_lines_and_windows_line_ends(tmp_path: Path) -> None:
    text = smi(POWER_W).replace("\n", "\r\n\r\n")
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"):
        trace = quietly(read_log, write(tmp_path, text, encoding=encoding), epoch_end_s=ENDS_S)
        assert trace.column("energy_J") == pytest.approx(true_J(POWER_W), rel=1e-3)


# ---------------------------------------------------------------------- ends of epochs


@pytest.mark.parametrize(
    "ends",
    [
        ENDS_S,
        np.array(ENDS_S),
        [START + timedelta(seconds=s) for s in ENDS_S],
        [at(s) for s in ENDS_S],
        pd.Series(pd.to_datetime([at(s) for s in ENDS_S])),
        lambda readings: readings["time_s"].max() // 20 * np.array([1 / 3, 2 / 3, 1]) * 20,
    ],
    ids=["list", "array", "datetime", "text", "pandas", "function"],
)
def test_ends_of_epochs(tmp_path: Path, ends: Any) -> None:
    trace = quietly(read_nvidia_smi, write(tmp_path, smi(POWER_W)), epoch_end_s=ends)
    assert trace.column("end_s") == pytest.approx(ENDS_S)


@pytest.mark.parametrize(
    "text",
    [
        "# ends\n20\n40\n60\n",
        "epoch_end_s\n20\n40\n60\n",
        "epoch,epoch_end_s\n1,20\n2,40\n3,60\n",
        "\n".join(at(s) for s in ENDS_S),
    ],
)
def test_ends_of_epochs_from_a_file(tmp_path: Path, text: str) -> None:
    log, ends = write(tmp_path, smi(POWER_W)), write(tmp_path, text, "ends.txt")
    trace = quietly(read_nvidia_smi, log, epoch_end_s=ends)
    assert trace.column("end_s") == pytest.approx(ENDS_S)


def test_ends_of_epochs_from_marks(tmp_path: Path) -> None:
    lines = smi(POWER_W).splitlines()
    for second in (60, 40, 20):
        lines.insert(1 + 2 * second + 2, f"epoch {second} done")
    log = write(tmp_path, "\n".join(lines) + "\n")
    trace = quietly(read_nvidia_smi, log, epoch_marks=r"^epoch \d+ done")
    assert trace.column("end_s")[:2] == pytest.approx([20.5, 40.5], abs=0.6)
    with pytest.raises(TraceError, match="no mark in the log matches"):
        read_nvidia_smi(log, epoch_marks="validation")
    training = "".join(f"INFO {at(s)} epoch ended, loss 0.3\nstep\n" for s in ENDS_S)
    trace = quietly(
        read_nvidia_smi, log, epoch_end_s=write(tmp_path, training, "t.log"), epoch_marks="ended"
    )
    assert trace.column("end_s") == pytest.approx(ENDS_S)


def test_instants_of_the_world_need_the_time_zone_of_local_times(tmp_path: Path) -> None:
    log = write(tmp_path, smi(POWER_W))
    unix_s = [UNIX_S - 3600 + s for s in ENDS_S]
    with pytest.raises(TraceError, match="give the log's time zone"):
        quietly(read_nvidia_smi, log, epoch_end_s=unix_s)
    trace = quietly(read_nvidia_smi, log, epoch_end_s=unix_s, timezone="Europe/Berlin")
    assert trace.column("end_s") == pytest.approx(ENDS_S)
    assert trace.meta["start_time"] == "2026-03-01T22:59:40+00:00"


def test_the_end_of_summer_time(tmp_path: Path) -> None:
    zone_s = datetime(2026, 10, 25, 0, 59, 30, tzinfo=timezone.utc)
    lines = ["timestamp, power.draw [W]"]
    for s in range(61):
        local = zone_s + timedelta(seconds=s, hours=2 if s < 30 else 1)
        lines.append(f"{local:%Y/%m/%d %H:%M:%S}.000, 300.00 W")
    log = write(tmp_path, "\n".join(lines) + "\n")
    with pytest.raises(TraceError, match=r"line 32: .*back by 3599 s.*summer time: .*timezone="):
        read_nvidia_smi(log, epoch_end_s=ENDS_S)
    trace = read_nvidia_smi(log, epoch_end_s=ENDS_S, timezone="Europe/Berlin")
    assert trace.column("energy_J") == pytest.approx([6000] * 3)


def test_without_ends_a_log_has_a_total_and_no_epochs(tmp_path: Path) -> None:
    trace = quietly(read_nvidia_smi, write(tmp_path, smi(POWER_W)))
    assert len(trace) == 0
    assert trace.total_J == pytest.approx(true_J(POWER_W).sum(), rel=1e-3)


# ---------------------------------------------------------------------- nvidia-smi


def test_failed_readings_restarts_and_a_last_line_that_is_cut_short(tmp_path: Path) -> None:
    text = smi(POWER_W)
    lines = text.splitlines()
    for number, word in ((20, "[N/A]"), (41, "[Unknown Error]"), (60, "[Not Supported]")):
        time, index, _, busy = lines[number].split(", ")
        lines[number] = ", ".join([time, index, word, busy])
    lines.insert(70, lines[0])
    path = write(tmp_path, "\n".join(lines) + f"\n{at(61)}, 0, 29")
    with pytest.warns(UserWarning, match=r"line 21: the first of 3 failed power reading\(s\)"):
        trace = read_nvidia_smi(path, epoch_end_s=ENDS_S)
    assert trace.column("energy_J") == pytest.approx(true_J(POWER_W), rel=5e-3)
    assert any("line 125: the last line was cut short" in note for note in trace.meta["notes"])
    # A number that was cut short looks like a smaller one.
    bare = smi({"gpu:0": POWER_W["gpu:0"]}, index=False).replace(", utilization.gpu [%]", "")
    bare = bare.replace(", 97 %", "") + f"{at(61)}, 29"
    trace = quietly(read_nvidia_smi, write(tmp_path, bare), epoch_end_s=ENDS_S)
    assert trace.power["power_W"].min() > 280


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (smi(POWER_W, index=False), {}, r"line 3: the readings come 2 at a time.*index or uuid"),
        (smi(POWER_W, header=False, units=False, index=False), {}, "2 at a time"),
        (
            smi(POWER_W).replace("300.00 W", "300.00 VA"),
            {},
            "line 2: power in 'VA': must be in W, mW or kW",
        ),
        ("power.draw [W]\n300.00 W\n301.00 W\n", {}, r"no times .*interval_s="),
        (f"{at(0)}, 300, 97\n{at(1)}, 301, 97\n", {}, "no column looks like power.*columns="),
        (f"{at(0)}, 300.00, 350.00\n{at(1)}, 301.00, 350.00\n", {}, "2 columns may be power"),
        (smi(POWER_W) + "what, is, this\n", {}, "line 124: 3 fields instead of 4"),
        (smi(POWER_W) + smi(POWER_W), {}, "line 125: the time of gpu:0 goes back by 60 s"),
        (smi({"gpu:0": [3e5] * 61}), {}, "line 2: .*must be watts, .*milliwatts"),
        (smi(POWER_W), {"gpu": 7}, "gpu=7 is not one of its devices: gpu:0, gpu:1"),
        (
            f"timestamp, power.draw [W]\n{at(0)}, [N/A]\n{at(1)}, [N/A]\n",
            {},
            "line 2: no reading of gpu:0 holds its power",
        ),
        (
            "# gpu   pid  type   sm\n# Idx   #   C/G    %\n 0  123  C  97\n",
            {},
            "pmon does not report power",
        ),
        ("# gpu    pwr\n# Idx      W\n    0     71\n", {}, "no times .dmon -o DT.: .*interval_s="),
    ],
)
def test_what_nvidia_smi_did_not_say_for_sure_is_refused(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        quietly(read_nvidia_smi, write(tmp_path, text), epoch_end_s=ENDS_S, **options)


def test_columns_that_nobody_can_tell_are_named(tmp_path: Path) -> None:
    text = "".join(f"{at(s)}, {w}.00, 350.00\n" for s, w in enumerate([300] * 61))
    columns = ["timestamp", "power.draw", "power.limit"]
    trace = read_nvidia_smi(write(tmp_path, text), columns=columns, epoch_end_s=ENDS_S)
    assert trace.column("energy_J") == pytest.approx([6000] * 3)
    assert trace.devices[0]["power_limit_W"] == 350


@pytest.mark.parametrize(
    ("name", "limit", "limit_W"),
    [
        ("power.limit [mW]", "350000", 350),
        ("power.limit", "0.35 kW", 350),
        ("power.limit [BTU]", "9", None),
    ],
)
def test_a_limit_has_a_unit(name: str, limit: str, limit_W: float | None, tmp_path: Path) -> None:
    header = f"timestamp, power.draw [W], {name}\n"
    rows = "".join(f"{at(s)}, 300.00, {limit}\n" for s in range(61))
    trace = read_nvidia_smi(write(tmp_path, header + rows), epoch_end_s=ENDS_S)
    assert trace.devices[0].get("power_limit_W") == limit_W


def test_instant_power_comes_before_the_average_of_a_second(tmp_path: Path) -> None:
    for instant, used in (("310.00 W", 310), ("[N/A]", 300)):
        rows = "".join(f"{at(s)}, 300.00 W, {instant}\n" for s in range(61))
        text = "timestamp, power.draw [W], power.draw.instant [W]\n" + rows
        trace = quietly(read_nvidia_smi, write(tmp_path, text), epoch_end_s=ENDS_S)
        assert trace.column("mean_power_W") == pytest.approx([used] * 3)


# ---------------------------------------------------------------------- other tools


def test_dcgm_needs_an_interval_or_times(tmp_path: Path) -> None:
    path = write(tmp_path, as_dcgm(POWER_W))
    with pytest.raises(TraceError, match=r"line 3: .*interval_s=1.0 for -d 1000"):
        read_dcgm(path, epoch_end_s=ENDS_S)
    stamped = "".join(f"{at(n // 2)} GPU {n % 2}  300.0  N/A  97\n" for n in range(122))
    text = f"{at(0)} #Entity POWER TOTEC GPUTL\n{at(0)} ID  W  mJ\n" + stamped
    trace = quietly(read_dcgm, write(tmp_path, text), epoch_end_s=ENDS_S)
    assert trace.column("energy_J") == pytest.approx([12_000] * 3)
    with pytest.raises(TraceError, match=r"no column of power.*-e 155"):
        read_dcgm(write(tmp_path, "#Entity GPUTL\nID\nGPU 0  97\n"), interval_s=1.0)


def test_flushed_rows_of_codecarbon_are_differences() -> None:
    """Of the real CodeCarbon 3.3.2, with a PUE of 1.5, which it multiplies into its energy."""
    path = LOGS / "codecarbon_3.3.2_flush_pue.csv"
    raw = pd.read_csv(path)
    with pytest.warns(UserWarning, match=r"line 5: what stop\(\) adds.*is not an epoch"):
        trace = read_codecarbon(path)
    kWh = np.diff(raw["energy_consumed"], prepend=0)[:3]
    assert trace.column("energy_J") == pytest.approx(kWh * 3.6e6 / 1.5)
    assert trace.column("duration_s") == pytest.approx(np.diff(raw["duration"], prepend=0)[:3])
    assert trace.column("cpu_energy_J") + trace.column("ram_energy_J") == pytest.approx(
        trace.column("energy_J")
    )
    assert np.isnan(trace.column("gpu_energy_J")).all()  # there was none, and it is no 0
    assert trace.total_J == pytest.approx(raw["energy_consumed"].iloc[-1] * 3.6e6 / 1.5)
    assert any("PUE of 1.5" in note for note in trace.meta["notes"])


@pytest.mark.parametrize("name", ["trackers", "tasks"])
def test_a_tracker_or_a_task_an_epoch(name: str) -> None:
    path = LOGS / f"codecarbon_3.3.2_{name}.csv"
    trace = read_codecarbon(path)
    kWh = pd.read_csv(path)["energy_consumed"]
    assert trace.column("energy_J") == pytest.approx(kWh * 3.6e6)
    assert trace.meta["log"]["version"] == "3.3.2"


def test_several_runs_of_codecarbon_are_not_added_up(tmp_path: Path) -> None:
    text = (LOGS / "codecarbon_3.3.2_flush_pue.csv").read_text()
    header, *rows = text.splitlines()
    other = [row.replace("400beb5e", "500beb5e").replace("16:18", "17:18") for row in rows]
    path = write(tmp_path, "\n".join([header, *rows, *other]) + "\n")
    with pytest.raises(TraceError, match=r"line 6: another run begins: choose one with run_id="):
        read_codecarbon(path)
    assert len(quietly(read_codecarbon, path, run_id="500")) == 3
    falls = write(tmp_path, "\n".join([header, rows[1], rows[0]]) + "\n")
    with pytest.raises(TraceError, match="line 3: duration is less than in the previous row"):
        read_codecarbon(falls)
    trackers = (LOGS / "codecarbon_3.3.2_trackers.csv").read_text().splitlines()
    beside = trackers[2].replace("16:18:30", "16:18:29")
    with pytest.raises(TraceError, match=r"line 3: its tracker overlaps the row above by .* s"):
        read_codecarbon(write(tmp_path, "\n".join([*trackers[:2], beside]) + "\n"))


def test_carbontracker(tmp_path: Path) -> None:
    """Of the real carbontracker 2.4.7, which simulated a GPU of 100 W and a CPU of 50 W."""
    trace = read_carbontracker(LOGS / "carbontracker_2.4.7.log")
    assert trace.column("duration_s") == pytest.approx([2.02, 2.03, 2.00])
    assert trace.column("gpu_energy_J") == pytest.approx([202, 203, 200])
    assert trace.column("energy_J") == pytest.approx([303, 304.5, 300])
    with pytest.raises(TraceError, match="with a PUE but no epochs: read the file next to it"):
        read_carbontracker(LOGS / "carbontracker_2.4.7_output.log")
    text = (LOGS / "carbontracker_2.4.7.log").read_text()
    none = text.replace("gpu: 100.0", "gpu: None", 1)
    with pytest.warns(UserWarning, match="line 7: power of gpu was not read"):
        trace = read_carbontracker(write(tmp_path, none))
    assert trace.column("energy_J") == pytest.approx([math.nan, 304.5, 300], nan_ok=True)
    zero = read_carbontracker(write(tmp_path, text.replace("gpu: 100.0", "gpu: 0.0")))
    assert list(zero.column("gpu_energy_J")) == [0, 0, 0]  # measured, as odd as it is
    two = read_carbontracker(write(tmp_path, text.replace("gpu: 100.0", "gpu: [60. 40.]")))
    assert two.column("gpu_energy_J") == pytest.approx([202, 203, 200])
    with pytest.raises(TraceError, match="epoch 1 where epoch 2 is expected"):
        read_carbontracker(write(tmp_path, text.replace("Epoch 2", "Epoch 1")))


def test_windows_of_zeus(tmp_path: Path) -> None:
    rows = ["start_time,window_name,elapsed_time,gpu0_energy,gpu1_energy"]
    for n in range(3):
        start = UNIX_S + 20 * n
        rows += [f"{start + s},step,5.0,500.0,400.0" for s in (0, 5, 10)]
        rows.append(f"{start},epoch_{n},20.0,{6000 + n},4000.0")
    path = write(tmp_path, "\n".join(rows) + "\n")
    with pytest.warns(UserWarning, match="epochs are the windows 'epoch'; left out: step"):
        trace = read_zeus(path)
    assert trace.column("energy_J") == pytest.approx([10_000, 10_001, 10_002])
    assert quietly(read_zeus, path, gpu=1).column("energy_J") == pytest.approx([4000] * 3)
    renamed = write(tmp_path, path.read_text().replace("epoch_", "outer"), "renamed")
    with pytest.raises(TraceError, match="windows of several kinds: choose"):
        read_zeus(renamed)
    nested = write(tmp_path, path.read_text().replace("step", "epoch"), "nested")
    with pytest.raises(TraceError, match="overlapping windows must not be summed"):
        read_zeus(nested)
    old = "Time,Power\n" + "".join(f"{at(s).replace('/', '-')},300000\n" for s in range(61))
    trace = quietly(read_zeus, write(tmp_path, old), epoch_end_s=ENDS_S)
    assert trace.column("mean_power_W") == pytest.approx([300] * 3)  # zeus_monitor has mW


def test_metrics_of_mlflow(tmp_path: Path) -> None:
    folder = tmp_path / "mlruns" / "0" / "abc" / "metrics"
    (folder / "system").mkdir(parents=True)
    for n, watts in enumerate(POWER_W.values()):
        lines = [f"{1000 * (UNIX_S + s):.0f} {w} {s}" for s, w in enumerate(watts)]
        (folder / "system" / f"gpu_{n}_power_usage_watts").write_text("\n".join(lines) + "\n")
    losses = [f"{1000 * (UNIX_S + s):.0f} 0.5 {s}" for s in ENDS_S]
    (folder / "val_loss").write_text("\n".join(losses) + "\n")
    for path in (folder.parent, tmp_path / "mlruns"):
        assert tool_of(path) == "mlflow"
        trace = read_mlflow(path, epoch_marks="val_loss")
        assert trace.column("energy_J") == pytest.approx(true_J(POWER_W), rel=1e-6)
    # With a log of the training beside it, the pattern is of that log's lines.
    said = "".join(
        f"{UNIX_S + s:.1f} epoch is over\n{UNIX_S + s:.1f} val_loss 0.5\n" for s in ENDS_S
    )
    beside = write(tmp_path, said, "training.log")
    trace = read_mlflow(folder.parent, epoch_end_s=beside, epoch_marks="is over")
    assert trace.column("energy_J") == pytest.approx(true_J(POWER_W), rel=1e-6)
    single = read_mlflow(folder / "system" / "gpu_1_power_usage_watts", epoch_end_s=ENDS_S)
    assert single.column("mean_power_W") == pytest.approx([201, 203, 205], rel=1e-2)
    (folder / "system" / "gpu_1_power_usage_watts").write_text("yesterday 200 1\n1 2 3\n")
    with pytest.raises(TraceError, match="line 1: not a line of time, value and step"):
        read_mlflow(folder.parent, epoch_end_s=ENDS_S)


def test_metrics_of_trackio(tmp_path: Path) -> None:
    path = tmp_path / "project.db"
    with sqlite3.connect(path) as database:
        for table in ("system_metrics", "metrics"):
            database.execute(
                f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, run_id TEXT, timestamp TEXT, "
                "run_name TEXT, metrics TEXT)"
            )
        for s in range(61):
            metrics = {f"gpu/{n}/power": w[s] for n, w in enumerate(POWER_W.values())}
            time = (START + timedelta(seconds=s)).isoformat() + "+00:00"
            row = ("1", time, "run", json.dumps(metrics | {"gpu/total_power": 9.0}))
            insert = "(run_id, timestamp, run_name, metrics) VALUES (?, ?, ?, ?)"
            database.execute(f"INSERT INTO system_metrics {insert}", row)
            if s in ENDS_S:
                row = (*row[:3], json.dumps({"val_loss": 0.5}))
                database.execute(f"INSERT INTO metrics {insert}", row)
    assert tool_of(path) == "trackio"
    trace = read_trackio(path, epoch_marks="val_loss")
    assert trace.column("energy_J") == pytest.approx(true_J(POWER_W), rel=1e-6)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE system_metrics SET run_name = 'other' WHERE id > 30")
    with pytest.raises(TraceError, match=r"which run.*Choose one of 2 with run=: run, other"):
        read_trackio(path, epoch_end_s=ENDS_S)


def test_power_of_mlperf(tmp_path: Path) -> None:
    lines = [
        f"Time,{START + timedelta(seconds=s):%m-%d-%Y %H:%M:%S}.000,Watts,4000.5,Volts,230.1,"
        f"Amps,17.4,PF,0.99,Mark,epoch{min(s, 59) // 20}"
        for s in range(61)
    ]
    path = write(tmp_path, "\n".join(lines) + "\n", "spl.txt")
    trace = read_log(path, epoch_end_s=ENDS_S)
    assert trace.column("energy_J") == pytest.approx([20 * 4000.5] * 3)
    assert np.isnan(trace.column("gpu_energy_J")).all()  # of the whole node
    assert trace.meta["log"]["tool"] == "mlperf spl"
    assert list(read_mlperf_power(path, epoch_marks="epoch").column("end_s")) == [19, 39, 60]
    with pytest.raises(TraceError, match="line 2: not a reading of PTDaemon"):
        read_mlperf_power(write(tmp_path, lines[0] + "\nWatts\n" + lines[1] + "\n"))
    events = [
        {"time_ms": 1000 * (UNIX_S + s), "key": "power_reading", "value": 4e3} for s in range(61)
    ]
    events += [{"time_ms": 1000 * (UNIX_S + s), "key": "epoch_stop", "value": None} for s in ENDS_S]
    mllog = "".join(f":::MLLOG {json.dumps(event)}\n" for event in events)
    trace = read_log(write(tmp_path, mllog), epoch_marks="epoch_stop")
    assert trace.column("energy_J") == pytest.approx([80_000] * 3)


def test_scalars_of_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pytest.importorskip("torch")  # writes them
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        for s in range(61):
            for n, watts in enumerate(POWER_W.values()):
                writer.add_scalar(f"gpu{n}/power_W", watts[s], s, walltime=UNIX_S + s)
            if s in ENDS_S:
                writer.add_scalar("val_loss", 0.5, s, walltime=UNIX_S + s)
    assert tool_of(tmp_path) == "tensorboard"
    trace = read_tensorboard(tmp_path, epoch_marks="val_loss")
    assert trace.column("energy_J") == pytest.approx(true_J(POWER_W), rel=1e-5)
    with pytest.raises(TraceError, match="has no tag 'watts'"):
        read_tensorboard(tmp_path, power="watts")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("time_s,power\n0,300\n1,300\n", {}, r"power does not state its unit: .*\{'power': 'W'\}"),
        ("time,power_W\n0,300\n1,300\n", {}, "time does not state its unit"),
        ("time_s,power_W,board_power_W\n0,1,1\n1,1,1\n", {}, "which of .* is power"),
        ("time_s,power_W\n0,300\n1,lots\n", {}, "line 3: power_W is 'lots', not a number"),
        ("time_s,power_W\n0,300\n1\n2,3\n", {}, "line 3: it has 1 fields, but the header 2"),
        ("time_s,power_W\n0,300\n1,300\n", {"power": "watts"}, "no column 'watts'"),
        ("epoch,energy\n1,5000\n2,4000\n", {}, "energy does not state its unit"),
    ],
)
def test_tables_that_do_not_say_for_sure(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        read_table(write(tmp_path, text), epoch_end_s=[1], **options)


def test_a_table_of_epochs(tmp_path: Path) -> None:
    text = "epoch,duration_s,gpu_energy_kWh,cpu_energy_Wh\n" + "1,20,0.002,0.5\n" * 4
    trace = read_log(write(tmp_path, text))
    assert trace.column("energy_J") == pytest.approx([9000] * 4)
    assert trace.column("cpu_energy_J") == pytest.approx([1800] * 4)
    named = write(tmp_path, "t,P\n" + "".join(f"{s},300000\n" for s in range(61)))
    trace = read_table(named, time="t", power="P", units={"t": "s", "P": "mW"}, epoch_end_s=ENDS_S)
    assert trace.column("energy_J") == pytest.approx([6000] * 3)


def test_other_columns_of_a_table_of_epochs_are_metrics_or_named(tmp_path: Path) -> None:
    text = "epoch,energy_kWh,duration_s,val_acc,host,samples_per_s,lr\n"
    text += "".join(f"{n},0.002,20,0.{n + 5},node1,100,{'' if n else 0.1}\n" for n in range(4))
    with pytest.warns(UserWarning, match="column host was not used"):
        trace = read_table(write(tmp_path, text))
    assert trace.metrics == ["val_acc", "samples_per_s", "lr"]
    assert trace.column("val_acc").tolist() == [0.5, 0.6, 0.7, 0.8]
    assert trace.meta["notes"] == ["column host was not used"]
    with pytest.warns(UserWarning, match="columns val_acc, host, .* were not used"):
        read_table(
            write(tmp_path, text.replace("epoch,", "end_time,")), time="end_time",
            units={"end_time": "min"}, epoch_end_s=[30, 60],
        )  # fmt: skip


@pytest.mark.parametrize(("name", "unit"), [("seconds", "s"), ("minutes", "min"), ("time_s", "s")])
def test_a_column_that_may_be_the_duration_is_named(tmp_path: Path, name: str, unit: str) -> None:
    path = write(tmp_path, f"epoch,kWh,{name}\n" + "1,0.002,20\n" * 4)
    hint = rf"column {name} was not used: .* name it duration_{unit}, or pass duration='{name}'"
    with pytest.warns(UserWarning, match=hint):
        trace = read_table(path)
    assert not np.isfinite(trace.column("duration_s")).any()
    assert trace.metrics == []
    known = read_table(path, duration=name).column("duration_s")
    assert known.tolist() == [20 if unit == "s" else 1200] * 4


def test_units_with_one_meaning_are_read_in_any_case(tmp_path: Path) -> None:
    for name in ("kwh", "KWH", "energy_Kwh", "kWh"):
        trace = quietly(read_table, write(tmp_path, f"epoch,{name}\n" + "1,0.002\n" * 4))
        assert trace.column("energy_J") == pytest.approx([7200] * 4)
    for name in ("mwh", "MWH", "Mw", "mj"):
        with pytest.raises(TraceError, match="energy"):
            read_table(write(tmp_path, f"epoch,{name}\n1,0.002\n"))


def test_epochs_that_are_not_rows_are_cut_out_of_them(tmp_path: Path) -> None:
    rows = "".join(
        f"{at(20 * n)},20,{energy}\n" for n, energy in ((1, 4000), (2, ""), (3, 2000), (4, 2000))
    )
    path = write(tmp_path, "timestamp,duration_s,energy_J\n" + rows)
    with pytest.warns(UserWarning, match="cut at the ends given"):
        trace = read_table(path, epoch_end_s=[10, 20, 30, 50, 80])
    known = [2000, 2000, math.nan, math.nan, 3000]
    assert trace.column("energy_J") == pytest.approx(known, nan_ok=True)


# ---------------------------------------------------------------------- any file


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"\x00\x01\x02" * 100,
        b"timestamp, power.draw [W]\n\x00\x00\n",
        b"timestamp, power.draw [W]\n" + b"9" * 2_000_000 + b"\n",
        b"\xff\xfe\xd8\xdc\xd8",
        b"{" * 5000,
        b"[" * 5000,
        b'[{"power_W": 1, "time_s": "x"}]',
        b"PAR1junk",
        b"SQLite format 3\x00junk",
        b"#Entity POWER\n",
        b"start_time,window_name,elapsed_time,gpu0_energy\n",
        b"timestamp,duration,emissions,energy_consumed\nx,y,z,w\n",
        b"Time,99-99-2026 00:00:00,Watts,1,\n",
        b":::MLLOG {power_reading\n",
        b"gpu.0.powerWatts,_timestamp\n1,\n",
    ],
)
def test_hostile_files_give_the_package_s_own_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    readers = [read_log, read_nvidia_smi, read_dcgm, read_codecarbon, read_zeus, read_mlflow]
    readers += [read_carbontracker, read_wandb, read_mlperf_power, read_table, read_trackio]
    for read in readers:
        with pytest.raises(EnergyestError):
            quietly(read, path)
    path.write_bytes(b"a\n" + b"9" * 2_000_000)
    with pytest.raises(TraceError, match="line 2: it has 2000000 characters"):
        read_nvidia_smi(path)


def test_a_log_of_two_tools_is_refused_by_name(tmp_path: Path) -> None:
    text = smi(POWER_W) + "#Entity POWER\n"
    path = write(tmp_path, "#Entity POWER\n" + text)
    with pytest.raises(TraceError, match="may be a log of nvidia-smi or of dcgm: choose"):
        read_log(path)
    with pytest.raises(TraceError, match="whose reader has no option run_id"):
        read_log(write(tmp_path, smi(POWER_W)), run_id="a")
    with pytest.raises(TraceError, match=r"not a log of nvidia-smi, dcgm.*line 1: 'hello'"):
        read_log(write(tmp_path, "hello\nworld\n"))


def test_readers_need_neither_torch_nor_lightning(tmp_path: Path) -> None:
    path = write(tmp_path, smi(POWER_W))
    script = (
        "import sys\n"
        "for name in ('torch', 'pytorch_lightning', 'lightning', 'tensorboard', 'pyarrow'):\n"
        "    sys.modules[name] = None\n"
        "from energyest.readers import read_log, read_tensorboard\n"
        f"print(len(read_log({str(path)!r}, epoch_end_s=[20, 40, 60])))\n"
        "try:\n"
        f"    read_tensorboard({str(tmp_path)!r})\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("3\n")
    assert "pip install tensorboard" in done.stdout


def test_the_command_line_projects_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write(tmp_path, smi({"gpu:0": [300.0] * 61, "gpu:1": [200.0] * 61}))
    ends = write(tmp_path, "\n".join(map(str, range(10, 61, 10))) + "\n", "ends.txt")
    arguments = ["project", str(log), "--epochs", "100", "--epoch-ends", str(ends)]
    assert main(arguments) == 0
    assert "500 kJ" in capsys.readouterr().out
    assert main([*arguments, "--gpu", "1"]) == 0
    assert "200 kJ" in capsys.readouterr().out
    assert main(["project", str(log), "--epochs", "100"]) == 1
    assert "pass --epoch-ends FILE" in capsys.readouterr().err
    assert main(["show", str(log)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("0 epochs, 30 ")
    assert "from nvidia-smi; gpu:0, gpu:1" in out
    trace = read_nvidia_smi(log, epoch_end_s=ends)
    assert estimate_step(trace, 100).energy_J == pytest.approx(500_000, rel=1e-3)
