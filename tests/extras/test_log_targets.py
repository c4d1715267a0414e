"""What is logged reaches the tools that a Trainer reports to, Hugging Face's or Lightning's."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.loggers import MLFlowLogger, WandbLogger

from energyest import EnergyTrace
from simulation.trainers import quiet_trainer
from tests.support.huggingface import callback_of, causal_lm, make_trainer, samples
from tests.support.trainers import PlNet, lightning_warns, loader, monitor_of

pytest.importorskip("transformers")
pytestmark = lightning_warns

# By name: one (step, value) for each time it was logged.
Logged = dict[str, list[tuple[int, float]]]


def train(folder: Path, tool: str, monkeypatch: pytest.MonkeyPatch) -> EnergyTrace:
    """Two epochs of four steps that report to a tool, which keeps all it gets in a folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{folder / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(folder / "trackio"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip(tool)  # now: some read where to write as they are imported
    callback = callback_of(folder / "energy")
    trainer = make_trainer(
        causal_lm(),
        folder / "out",
        callback,
        train_dataset=samples(labels="text"),
        eval_dataset=samples(labels="text"),
        label_names=["labels"],
        eval_strategy="epoch",
        report_to=[tool],
    )
    trainer.train()
    return callback.trace


def assert_is(logged: Logged, trace: EnergyTrace, prefix: str = "train/energy/") -> None:
    """Each row's values are there once, at the step at which the row ended."""
    found = {name.removeprefix(prefix): v for name, v in logged.items() if name.startswith(prefix)}
    for name, column in (("epoch_J", "energy_J"), ("mean_power_W", "mean_power_W")):
        steps, values = zip(*found[name], strict=True)
        assert steps == (4, 8)
        assert values == pytest.approx(trace.column(column), rel=1e-6)
    assert [step for step, _ in found["total_J"]] == [4, 8]
    assert found["total_J"][0][1] < found["total_J"][1][1] <= trace.total_J
    ((step, projected),) = found["projected_J"]  # of the last row: the others are too few
    assert step == 8
    assert projected == pytest.approx(trace.column("energy_J").sum(), rel=1e-6)
    assert not any("energy" in name for name in logged.keys() - {prefix + n for n in found})
    assert_has_outcome(logged, trace, prefix)


def assert_has_outcome(logged: Logged, trace: EnergyTrace, prefix: str) -> None:
    """What the run has cost is there once, at its last step."""
    ((step, energy_kWh),) = logged[f"{prefix}run_kWh"]
    assert step in (7, 8)  # Lightning counts from 0
    assert energy_kWh == pytest.approx(trace.total_J / 3.6e6, rel=1e-6)
    ((_, mean_W),) = logged[f"{prefix}run_mean_power_W"]
    assert mean_W == pytest.approx(trace.total_J / trace.meta["duration_s"], rel=1e-6)


def test_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = train(tmp_path, "tensorboard", monkeypatch)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = tmp_path.glob("out/**/events.*")
    events = EventAccumulator(str(file)).Reload()
    logged = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    assert_is(logged, trace)


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = train(tmp_path, "mlflow", monkeypatch)
    assert_is(_of_mlflow(tmp_path), trace, "energy/")  # here, the Trainer adds no prefix


def test_mlflow_by_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    pytest.importorskip("mlflow")
    logger = MLFlowLogger(tracking_uri=f"file:{tmp_path / 'mlruns'}")
    trace = fit(tmp_path, logger)
    assert_has_outcome(_of_mlflow(tmp_path), trace, "energy/")


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = train(tmp_path, "trackio", monkeypatch)
    (file,) = tmp_path.glob("trackio/*.db")
    with sqlite3.connect(file) as database:
        rows = [json.loads(text) for (text,) in database.execute("SELECT metrics FROM metrics")]
    assert_is(_by_name(rows), trace)


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = train(tmp_path, "wandb", monkeypatch)
    import wandb

    summary = dict(wandb.run.summary)
    wandb.finish()  # which else waits for the end of the process
    wandb.teardown()  # its own process writes the file
    assert_is(_by_name(_of_wandb(tmp_path)), trace)
    assert summary["train/energy/run_kWh"] == pytest.approx(trace.total_J / 3.6e6)


def test_wandb_by_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = pytest.importorskip("wandb")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    trace = fit(tmp_path, logger)
    summary = dict(logger.experiment.summary)
    wandb.finish()
    wandb.teardown()
    logged = _by_name(_of_wandb(tmp_path), "trainer/global_step")
    assert_has_outcome(logged, trace, "energy/")
    assert summary["energy/run_kWh"] == pytest.approx(trace.total_J / 3.6e6, rel=1e-6)


def fit(folder: Path, logger: Any) -> EnergyTrace:
    """Two epochs of four steps by Lightning's Trainer."""
    monitor = monitor_of(folder / "energy", count_flops=False)
    trainer = quiet_trainer(pl, folder, monitor, max_epochs=2, logger=logger)
    trainer.fit(PlNet(), loader())
    trace: EnergyTrace = monitor.trace
    return trace


def _of_mlflow(folder: Path) -> Logged:
    (metrics,) = folder.glob("mlruns/*/*/metrics")  # of a single run
    logged: Logged = {}
    for file in (path for path in metrics.rglob("*") if path.is_file()):
        lines = [line.split() for line in file.read_text().splitlines()]  # time, value, step
        logged[str(file.relative_to(metrics))] = [(int(s), float(v)) for _, v, s, *_ in lines]
    return logged


def _of_wandb(folder: Path) -> list[dict[str, Any]]:
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    rows = []
    for data in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if items := record.history.item:
            rows.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def _by_name(rows: list[dict[str, Any]], step: str = "train/global_step") -> Logged:
    """From rows with the Trainer's own count of steps in them."""
    logged: Logged = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float | int):
                logged.setdefault(name, []).append((row[step], value))
    return logged


def _records(data: bytes) -> Iterator[bytes]:
    """Those of a log in LevelDB's format, as W&B keeps it: chunks in blocks of 32 KiB."""
    first, last, head, block = {1, 2}, {1, 4}, 7, 32768  # kinds of chunks; 1 is a whole record
    at, record = head, b""  # W&B's own head comes first
    while at + head <= len(data):
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if kind in first:
            record = b""
        at += head
        record += data[at : at + length]
        at += length
        if kind in last:
            yield record
        if block - at % block < head:  # the rest of a block is filled up
            at += block - at % block
