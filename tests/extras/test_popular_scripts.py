"""The scripts in examples/popular, with the real libraries."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from energyest import EnergyTrace, load_trace
from tests.support.examples import load_script


@pytest.fixture(autouse=True)
def _by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of the net, nor written elsewhere."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def trace_of(name: str, folder: Path, caplog: pytest.LogCaptureFixture) -> EnergyTrace:
    """What a script has measured: two epochs with validation, in the right order."""
    with caplog.at_level(logging.WARNING, logger="energyest"):
        load_script(name).main(["--epochs", "2", "--output", str(folder)])
    said = [record.getMessage() for record in caplog.records if record.name == "energyest"]
    assert not [text for text in said if "epoch" in text]  # one that did not begin, or end
    trace = load_trace(folder / "energy")
    assert list(trace.column("epoch")) == [0, 1]
    assert (trace.column("energy_J") > 0).all()
    assert (trace.column("validation_s") > 0).all()
    assert (trace.column("validation_s") < trace.column("duration_s")).all()
    assert trace.meta["status"] == "finished"
    assert trace.meta["planned_epochs"] == 2
    return trace


def test_timm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("timm")
    trace = trace_of("timm_script", tmp_path, caplog)
    assert list(trace.column("samples")) == [576, 576]
    losses = trace.column("train_loss")
    assert losses[1] < losses[0]
    assert np.isfinite(trace.column("top1")).all()


def test_trl(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("trl")
    trace = trace_of("trl_sft", tmp_path, caplog)
    assert list(trace.column("samples")) == [64, 64]
    losses = trace.column("eval_loss")
    assert losses[1] < losses[0]
    assert (trace.column("flops") > 0).all()


def test_keras(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("keras")
    trace = trace_of("keras_loop", tmp_path, caplog)
    assert (trace.column("val_accuracy") > 0.5).all()
    losses = trace.column("loss")
    assert losses[1] < losses[0]


def test_ultralytics(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("ultralytics")
    trace = trace_of("ultralytics_callbacks", tmp_path, caplog)
    assert np.isfinite(trace.column("val/box_loss")).all()
    # The validation of the best checkpoint, after the last epoch, is no epoch.
    assert trace.meta["duration_s"] > trace.column("end_s")[-1]
