"""A user's own names of metrics and devices are kept in a trace, or left out of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from energyest import EnergyTrace, load_trace, track
from energyest.errors import ConfigurationError, TraceError
from energyest.lightning.metrics import FreshMetrics
from energyest.records.trace import EPOCH_COLUMNS
from tests.support.sensors import Constant

ODD = (
    *("a,b", 'a"b', '"', "'", "a\nb", "a\r\nb", "\n", "a\tb", "\x00", "\x1b[31m", "", " ", "a b"),
    *("epoch ", "amends_row ", "Amends_Row", "null", "NaN", "{}", "[", "a:b", '":', "\\", "\\n"),
    *("日本", "é", "e\u0301", "\u202e", "\U0001f600", "\ufeff", "__proto__", "x" * 200),
)
REFUSED = ("amends_row", "\ud800", "a\udfff", "x" * 201)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_odd_names_of_metrics_survive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with track(tmp_path / "energy", sensors=[Constant(1)]) as run:
        for epoch in run.epochs(3):
            run.log(**{name: epoch + i / 7 for i, name in enumerate(ODD)})
        run.log(**dict.fromkeys(ODD[:3], 9.0))  # a line with amends_row, or not
    assert messages(caplog) == []
    saved = run.trace.save(tmp_path / "saved")
    for trace in (run.trace, load_trace(tmp_path / "energy"), load_trace(saved)):
        assert set(trace.metrics) == set(ODD)
        for i, name in enumerate(ODD):
            last = 9.0 if i < 3 else 2 + i / 7
            assert list(trace.column(name)) == [i / 7, 1 + i / 7, last]
    # One line each, whatever the names hold.
    lines = (tmp_path / "energy/epochs.jsonl").read_bytes().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("name", [*REFUSED, "epoch", "energy_J", "start_s"])
def test_names_that_are_left_out(
    tmp_path: Path, name: str, late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with track(tmp_path / "energy", sensors=[Constant(1)]) as run:
        for _ in range(3):
            run.start_epoch()
            if late:
                run.end_epoch()
                run.log(fine=1.0, **{name: 0.0})
            else:
                run.end_epoch(fine=1.0, **{name: 0.0})
    trace = load_trace(tmp_path / "energy")
    assert list(trace.column("epoch")) == [0, 1, 2]
    assert list(trace.column("fine")) == [1, 1, 1]
    assert (trace.column("energy_J") >= 0).all()
    assert trace.metrics == ["fine"]
    assert len(messages(caplog)) == 1
    assert len(messages(caplog)[0]) < 300


def test_a_name_for_every_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with track(tmp_path / "energy", sensors=[Constant(1)]) as run:
        for epoch in run.epochs(3):
            run.log(**{f"loss_{epoch}_{step}": 1.0 for step in range(1500)}, last=float(epoch))
    trace = load_trace(tmp_path / "energy")
    assert len(trace) == 3
    assert len(trace.metrics) == 2000
    assert list(trace.column("last")) == [0, 1, 2]
    assert messages(caplog) == [
        "energyest: 2000 metric names are in use: further ones are left out"
    ]


class Failing:
    def __float__(self) -> float:
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    "value", ["text", None, 10**400, Failing(), torch.ones(2), torch.tensor(1j), 1j, [1.0]]
)
def test_a_value_that_fails_does_not_lose_the_others(
    value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with track(sensors=[Constant(1)]) as run:
        run.start_epoch()
        run.end_epoch(before=1.0, bad=value, after=2.0)
    assert sorted(run.trace.metrics) == ["after", "before"]
    assert messages(caplog) == ["energyest: the value of 'bad' is not a number and is left out"]


def test_metrics_of_a_trainer(caplog: pytest.LogCaptureFixture) -> None:
    class Trainer:
        callback_metrics: dict[str, Any]
        world_size = 1

    trainer: Any = Trainer()
    fresh = FreshMetrics()
    for value in (1.0, 2.0):
        names = ("val_acc", "energy_J", "steps", "energy/total_J", "energy/mine", "a,b")
        trainer.callback_metrics = {name: torch.tensor(value) for name in names}
        trainer.callback_metrics["energy/total_J"]._is_of_energyest = True
        trainer.callback_metrics |= {"bad": torch.tensor(1j), "many": torch.ones(2)}
        assert fresh.take(trainer) == dict.fromkeys(("val_acc", "energy/mine", "a,b"), value)
    assert [message.split(": ", 1)[1] for message in messages(caplog)] == [
        "metric 'energy_J' is left out of the trace: it has the name of a column of the trace",
        "metric 'steps' is left out of the trace: it has the name of a column of the trace",
        "metric 'bad' is left out of the trace: it is not a number (RuntimeError)",
    ]


@pytest.mark.parametrize("name", ["amends_row", "\ud800"])
def test_a_trace_that_could_not_be_read_back(name: str) -> None:
    with pytest.raises(TraceError, match="the name"):
        EnergyTrace.from_epochs([1.0, 2.0], **{name: [0.0, 1.0]})


def test_every_column_of_a_trace_has_a_name_that_can_be_stored() -> None:
    EnergyTrace({name: np.zeros(1) for name in (*EPOCH_COLUMNS, *ODD)})


# ---------------------------------------------------------------------- devices


DEVICES = ("gpu,0", 'gpu"0"', '"', ",", "gpu:0, the 'second'", "a;b", "日本", " x ", "nan", "=1")


def test_odd_names_of_devices_survive(tmp_path: Path) -> None:
    sensors = [Constant(i + 1, name) for i, name in enumerate(DEVICES)]
    with track(tmp_path / "energy", sensors=sensors, interval_s=0.02) as run:
        run.start_epoch()
        run.end_epoch()
    saved = run.trace.save(tmp_path / "saved")
    for trace in (load_trace(tmp_path / "energy"), load_trace(saved)):
        power = trace.power_columns
        assert set(power["device"]) == set(DEVICES)
        for i, name in enumerate(DEVICES):
            assert set(power["power_W"][power["device"] == name]) == {i + 1}
        assert [device["device"] for device in trace.devices] == list(DEVICES)
        assert math.isfinite(trace.total_J)


@pytest.mark.parametrize("name", ["", "a\nb", "a\rb", "\x00", "\x1b[31m", "x" * 201])
def test_names_of_devices_that_no_file_can_hold(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="a name must be text"):
        track(sensors=[Constant(1), Constant(1, name)])


# ---------------------------------------------------------------------- errors of the user's code


@pytest.mark.parametrize(
    ("text", "noted"),
    [
        ("OSError: no /home/me/data.csv here", "OSError: no ... here"),
        ("no file 'data/a/b.csv'", "no file ..."),
        ("see https://me:pw@host/x?token=abc, please", "see ... please"),
        ("C:\\Users\\me is gone, ask me@example.com", "... is gone, ask ..."),
        ("key sk-abcdefghijklmnop1234567890 is bad", "key ... is bad"),
        *[
            (text, text)
            for text in (
                "mat1 and mat2 shapes cannot be multiplied (4x10 and 3x2)",
                "fvcore could not trace the model (RuntimeError: x); and/or 2 per multiply-add",
                "training is taken as 3 times the forward pass: 3 J/s",
            )
        ],
    ],
)
def test_notes_quote_no_places_and_keys(text: str, noted: str) -> None:
    with track(sensors=[Constant(1)]) as run:
        run.describe(flops_note=text, my_note=text)
    assert run.trace.meta["flops_note"] == noted
    assert run.trace.meta["my_note"] == text
