"""The monitor is a callback of `pytorch_lightning` and `lightning.pytorch`, wherever one asks."""

from __future__ import annotations

import copy
import importlib
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from energyest import EnergyMonitor, load_trace
from simulation.trainers import quiet_trainer
from tests.support.source import ROOT
from tests.support.trainers import NETS, both_namespaces, lightning_warns, loader, monitor_of

pytestmark = lightning_warns


class Mine(EnergyMonitor):
    """A user's own."""


@both_namespaces
@pytest.mark.parametrize("kind", [EnergyMonitor, Mine])
def test_one_callback_without_a_list(
    pl: ModuleType, kind: type[EnergyMonitor], tmp_path: Path
) -> None:
    monitor = kind(tmp_path / "energy", components=("cpu",), count_flops=False)
    assert isinstance(monitor, pl.Callback)
    trainer = quiet_trainer(pl, tmp_path, callbacks=monitor, max_epochs=2)
    trainer.fit(NETS[pl](), loader())
    assert len(monitor.trace) == 2


@both_namespaces
def test_copies_are_of_both(pl: ModuleType) -> None:
    monitor = monitor_of(count_flops=False, every_n_steps=3)
    for other in (copy.copy(monitor), copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))):
        assert isinstance(other, pl.Callback)


@both_namespaces
def test_configure_callbacks_of_a_module(pl: ModuleType, tmp_path: Path) -> None:
    monitor = monitor_of(tmp_path / "energy", count_flops=False)

    class Net(NETS[pl]):  # type: ignore[misc]
        def configure_callbacks(self) -> Any:
            return monitor

    trainer = quiet_trainer(pl, tmp_path, max_epochs=1)
    trainer.fit(Net(), loader())
    assert len(monitor.trace) == 1


@pytest.mark.long
def test_without_the_other_namespace() -> None:
    """`lightning` need not be there, or may be broken."""
    script = textwrap.dedent("""
        import sys
        class Broken:
            def find_spec(self, name, *_):
                if name.split(".")[0] == "lightning" and name != "lightning":
                    raise RuntimeError("broken")
        sys.meta_path.insert(0, Broken())
        import pytorch_lightning
        from energyest import EnergyMonitor
        assert isinstance(EnergyMonitor(), pytorch_lightning.Callback)
    """)
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=600)


@both_namespaces
@pytest.mark.parametrize("as_list", [False, True])
def test_lightning_cli_from_yaml(pl: ModuleType, as_list: bool, tmp_path: Path) -> None:
    pytest.importorskip("jsonargparse")
    cli = importlib.import_module(f"{pl.__name__}.cli")
    boring = importlib.import_module(f"{pl.__name__}.demos.boring_classes")
    config = tmp_path / "mine.yaml"
    dash = "- " if as_list else "  "
    config.write_text(
        f"""
trainer:
  max_epochs: 2
  accelerator: cpu
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  limit_train_batches: 3
  limit_val_batches: 1
  default_root_dir: {tmp_path}
  callbacks:
    {dash}class_path: energyest.EnergyMonitor
      init_args:
        folder: {tmp_path / "energy"}
        components: [cpu]
        every_n_steps: 2
        count_flops: false
        interval_s: 0.05
        confidence: 0.8
"""
    )
    made = cli.LightningCLI(
        boring.BoringModel,
        boring.BoringDataModule,
        args=["fit", f"--config={config}"],
    )
    (monitor,) = [c for c in made.trainer.callbacks if isinstance(c, EnergyMonitor)]
    assert monitor.trace.meta["interval_steps"] == 2
    assert len(load_trace(tmp_path / "energy")) == len(monitor.trace) == 3
    # And what Lightning keeps of the configuration names it again.
    assert "energyest.EnergyMonitor" in (tmp_path / "config.yaml").read_text()


@both_namespaces
def test_lightning_cli_from_the_command_line(pl: ModuleType) -> None:
    pytest.importorskip("jsonargparse")
    cli = importlib.import_module(f"{pl.__name__}.cli")
    boring = importlib.import_module(f"{pl.__name__}.demos.boring_classes")
    made = cli.LightningCLI(
        boring.DemoModel,
        boring.BoringDataModule,
        run=False,
        save_config_callback=None,
        args=[
            "--trainer.callbacks+=energyest.EnergyMonitor",
            "--trainer.callbacks.components=[cpu]",
            "--trainer.accelerator=cpu",
            "--trainer.logger=false",
        ],
    )
    assert [c._components for c in made.trainer.callbacks if isinstance(c, EnergyMonitor)] == [
        ("cpu",)
    ]
