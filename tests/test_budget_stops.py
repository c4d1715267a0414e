"""How a budget ends a training in each framework's own way: where, and with which checkpoint."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from energyest import EnergyMonitor, load_trace, track
from energyest.cli import main
from energyest.display import format_both, format_duration, format_energy, format_Wh
from energyest.tracking.cost import watch
from simulation.trainers import quiet_trainer
from tests.support.adapters import ADAPTERS, Data, Setting, _Module, is_installed
from tests.support.sensors import Constant
from tests.support.trainers import lightning_warns

pytestmark = lightning_warns
TINY_KWH = 1e-9


@pytest.fixture(autouse=True)
def _at_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.0)


def fit(folder: Path, checkpoint: Any, monitor: EnergyMonitor, **options: Any) -> Any:
    trainer: Any = quiet_trainer(
        pl,
        folder,
        monitor,
        checkpoint,
        enable_checkpointing=True,
        num_sanity_val_steps=0,
        **{"max_epochs": 20, **options},
    )
    trainer.fit(_Module(Setting(folder, step_s=0.002)), DataLoader(Data(30), 8))
    return trainer


@pytest.mark.parametrize("every_n_epochs", [1, 7])
def test_lightning_ends_within_an_epoch_with_a_checkpoint(
    every_n_epochs: int, tmp_path: Path
) -> None:
    saves = pl.callbacks.ModelCheckpoint(
        tmp_path / "kept", every_n_epochs=every_n_epochs, save_top_k=-1
    )
    monitor = EnergyMonitor(
        tmp_path / "energy", sensors=[Constant(300.0)], budget_kWh=TINY_KWH, on_exceed="stop"
    )
    trainer = fit(tmp_path, saves, monitor)
    assert trainer.global_step == 1
    (kept,) = (tmp_path / "kept").iterdir()
    assert torch.load(kept, weights_only=False)["global_step"] == 1


def test_min_epochs_are_trained_all_the_same(tmp_path: Path) -> None:
    monitor = EnergyMonitor(
        tmp_path / "energy", sensors=[Constant(300.0)], budget_kWh=TINY_KWH, on_exceed="stop"
    )
    saves = pl.callbacks.ModelCheckpoint(tmp_path / "kept")
    trainer = fit(tmp_path, saves, monitor, min_epochs=3)
    assert trainer.current_epoch == 3
    assert trainer.global_step == 12


def test_hugging_face_ends_at_the_step_with_a_checkpoint(tmp_path: Path) -> None:
    adapter = ADAPTERS["huggingface"]
    if not is_installed(adapter):
        pytest.skip("transformers is not installed")
    monitor = adapter.monitor(tmp_path / "energy", budget_kWh=TINY_KWH, on_exceed="stop")
    setting = Setting(tmp_path, epochs=20)
    adapter.train(monitor, setting)
    assert len(setting.net.losses) == 1
    assert [folder.name for folder in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-1"]


def test_steps_end_with_the_step_and_a_loop_by_hand_is_told(tmp_path: Path) -> None:
    options: Any = {"sensors": [Constant(300.0)], "budget_kWh": TINY_KWH, "interval_s": 0.01}
    with track(tmp_path / "steps", on_exceed="stop", **options) as run:
        assert list(run.steps(100, every_n_steps=10)) == [0]
    assert list(load_trace(tmp_path / "steps").column("steps")) == [1]
    with track(**options) as run:
        run.start_epoch()
        assert "is spent" in run.exceeded
        run.end_epoch()
    with track(sensors=[Constant(300.0)]) as run:
        run.start_epoch()
        assert run.exceeded == ""


def test_show_says_why_and_its_exit_status_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: Any = {"sensors": [Constant(300.0)], "budget_kWh": TINY_KWH, "interval_s": 0.01}
    for name, action, status in (("a", "stop", 3), ("b", "warn", 0)):
        with track(tmp_path / name, on_exceed=action, **options) as run:
            for _ in run.epochs(3):
                pass
        assert main(["show", str(tmp_path / name)]) == status
        shown = capsys.readouterr()
        start = "ended early" if action == "stop" else "note"
        assert f"{start}: the budget of 1e-09 kWh is spent" in shown.out
        assert shown.out.count("is spent") == 1  # once is enough
        assert not shown.err
        assert main(["show", str(tmp_path / name), "--json"]) == status
        assert ("the training ended early" in capsys.readouterr().err) == (action == "stop")
        # One total, and how it splits.
        assert format_both(run.total_J) in shown.out


@pytest.mark.parametrize(
    ("energy_J", "text"),
    [
        (3.6e6 * 1.234, "1.23kWh"),
        (3600 * 12.34, "12.3Wh"),
        (3600 * 999.6, "1kWh"),
        (3.6, "1mWh"),
        (0.0, "0mWh"),
        (3.6e9 * 123.4, "123MWh"),
        (math.nan, "nanmWh"),
    ],
)
def test_a_short_value_for_the_progress_bar(energy_J: float, text: str) -> None:
    assert format_Wh(energy_J) == text
    assert len(text) <= 8


def test_energies_have_four_digits_everywhere() -> None:
    assert format_energy(169.6) == "169.6 J"
    assert format_both(171.1) == "171.1 J (47.53 mWh)"
    assert format_duration(62) == "1 min 02 s"


@pytest.mark.parametrize("processes", ["1", "2"])
def test_several_processes_are_only_warned(
    processes: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each would end at an epoch of its own, and the others would wait for it."""
    monkeypatch.setenv("WORLD_SIZE", processes)
    run = track(sensors=[Constant(100)], budget_hours=1e-9, on_exceed="stop")
    with run:
        for _ in run.epochs(4):
            time.sleep(0.001)
    assert len(run.trace) == (4 if processes == "2" else 1)
    assert "is spent" in run.exceeded
    assert ("only warns of a budget" in caplog.text) == (processes == "2")


def test_without_a_budget_no_batch_is_watched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Any] = []
    monkeypatch.setattr("energyest.adapters.monitor.BudgetWatch", lambda *a, **_: made.append(a))
    adapter = ADAPTERS["lightning"]
    adapter.train(adapter.monitor(tmp_path / "energy"), Setting(tmp_path, epochs=1))
    assert made == []
    adapter.train(adapter.monitor(tmp_path / "other", budget_hours=1), Setting(tmp_path, epochs=1))
    assert len(made) == 1
