"""One small training, as each of the frameworks runs it that there is an adapter for."""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from energyest import EnergyCallback, EnergyMonitor, track
from simulation.trainers import quiet_trainer
from tests.support.loggers import read_csv
from tests.support.sensors import Constant

BATCH = 8
WATTS = 300.0
# A GPU that PRE knows.
KNOWN_GPU = "NVIDIA H100 80GB HBM3"


class Net(nn.Module):
    """A small net with everything that a careless monitor could disturb."""

    FORWARD_FLOPS = 2 * 8 * 16 + 2 * 16 + 2 * 16 * 2  # linear, batch norm, linear
    # Gradients of the weights of both linear layers, and of the input of the second.
    TRAINING_FLOPS = FORWARD_FLOPS + 2 * (8 * 16 + 2 * 16 * 2)

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2)
        )
        self.setting = setting
        self.losses: list[float] = []

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        setting = self.setting
        if self.training:
            time.sleep(setting.step_s)
            if setting.at_batch is not None:
                setting.at_batch(len(self.losses))
        else:
            time.sleep(setting.validation_s)
        logits = self.layers(x)
        loss = nn.functional.cross_entropy(logits, labels)
        if self.training:
            self.losses.append(loss.item())
        return {"loss": loss, "logits": logits}


class Data(Dataset[Any]):
    """Two classes; each look at a sample draws from the generators, as augmentations do."""

    def __init__(self, samples: int) -> None:
        self.x = torch.randn(samples, 8, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        noise = random.gauss(0, 0.1) + np.random.normal(0, 0.1)  # noqa: NPY002
        return {"x": self.x[i] + noise, "labels": (self.x[i, 0] > 0).long()}


@dataclass
class Setting:
    """A training, described independently of any framework.

    Attributes:
        folder: folder for the framework's own files.
        epochs: number of epochs.
        samples: samples in an epoch; the last batch of eight may be smaller.
        validates: whether to validate on two batches at the end of each epoch.
        accumulates: batches per optimizer step.
        max_steps: optimizer steps after which it ends; None for no limit.
        step_s, validation_s: the least duration of a batch.
        at_batch: called in each training batch with its number.
        patience: epochs without a better validation loss after which it ends; None for no limit.
        saves: whether a checkpoint is saved at the end.
        resumes: whether it resumes from that checkpoint.
        learning_rate: 0 for a training that does not improve.
    """

    folder: Path
    epochs: int = 3
    samples: int = 30
    validates: bool = False
    accumulates: int = 1
    max_steps: int | None = None
    step_s: float = 0.0
    validation_s: float = 0.0
    at_batch: Callable[[int], None] | None = None
    patience: int | None = None
    saves: bool = False
    resumes: bool = False
    learning_rate: float = 0.1
    net: Net = field(init=False)
    # What was logged, by name: one value for each time.
    logged: dict[str, list[float]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        torch.manual_seed(3)
        self.net = Net(self)

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=self.learning_rate, momentum=0.9)


class Adapter(Protocol):
    """Trains by one framework, under the monitor of the adapter for it.

    Attributes:
        name: of the framework.
        loss: the name of the column that the training loss becomes.
        has_trainer: whether the loop is the framework's, which knows its plan and logs.
    """

    name: str
    loss: str
    has_trainer: bool

    def monitor(self, folder: Path | None, *sensors: Any, **options: Any) -> Any:
        """The monitor, of devices whose power is known; short trainings need short intervals."""

    def train(self, monitor: Any | None, setting: Setting) -> None:
        """Train; without a monitor if there is none."""


class ByLightning:
    """`EnergyMonitor`."""

    name, loss, has_trainer = "lightning", "train_loss", True

    def monitor(self, folder: Path | None, *sensors: Any, **options: Any) -> Any:
        sensors = sensors or (Constant(WATTS),)
        return EnergyMonitor(folder, sensors=sensors, interval_s=0.01, **options)

    def train(self, monitor: Any | None, setting: Setting) -> None:
        pl = pytorch_lightning
        callbacks = [] if monitor is None else [monitor]
        if setting.patience is not None:
            callbacks.append(pl.callbacks.EarlyStopping("val_loss", patience=setting.patience))
        logger = pl.loggers.CSVLogger(setting.folder)
        trainer: Any = quiet_trainer(
            pl,
            setting.folder,
            *callbacks,
            logger=logger,
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            max_epochs=setting.epochs,
            max_steps=setting.max_steps or -1,
            accumulate_grad_batches=setting.accumulates,
        )
        checkpoint = setting.folder / "checkpoint.ckpt"
        trainer.fit(
            _Module(setting),
            DataLoader(Data(setting.samples), BATCH, shuffle=True),
            DataLoader(Data(2 * BATCH), BATCH) if setting.validates else None,
            ckpt_path=checkpoint if setting.resumes else None,
        )
        if setting.saves:
            trainer.save_checkpoint(checkpoint)
        for name, values in read_csv(logger.log_dir).items():
            setting.logged[name] = list(values.values())


class _Module(pytorch_lightning.LightningModule):
    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.net, self._setting = setting.net, setting

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.net(**batch)["loss"]
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.net(**batch)["loss"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._setting.optimizer()


class ByHuggingFace:
    """`EnergyCallback`."""

    name, loss, has_trainer = "huggingface", "loss", True

    def monitor(self, folder: Path | None, *sensors: Any, **options: Any) -> Any:
        sensors = sensors or (Constant(WATTS),)
        return EnergyCallback(folder, sensors=sensors, interval_s=0.01, **options)

    def train(self, monitor: Any | None, setting: Setting) -> None:
        from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments

        callbacks = [] if monitor is None else [monitor]
        if setting.patience is not None:
            callbacks.append(EarlyStoppingCallback(setting.patience))
        arguments = TrainingArguments(
            str(setting.folder / "out"),
            num_train_epochs=setting.epochs,
            max_steps=setting.max_steps or -1,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=setting.accumulates,
            eval_strategy="epoch" if setting.validates else "no",
            logging_strategy="epoch",
            save_strategy="epoch" if setting.saves else "no",
            metric_for_best_model="loss" if setting.patience else None,
            use_cpu=True,
            disable_tqdm=True,
            report_to=[],
            remove_unused_columns=False,
        )
        trainer = Trainer(
            setting.net,
            arguments,
            train_dataset=Data(setting.samples),
            eval_dataset=Data(2 * BATCH) if setting.validates else None,
            callbacks=callbacks,
            optimizers=(setting.optimizer(), None),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=setting.resumes or None)
        for entry in trainer.state.log_history:
            for name, value in entry.items():
                setting.logged.setdefault(name, []).append(value)


class ByTrack:
    """`track()` as a context: the user's own loop reports what happens."""

    name, loss, has_trainer = "track", "loss", False

    def monitor(
        self,
        folder: Path | None,
        *sensors: Any,
        every_n_steps: int | None = None,
        **options: Any,
    ) -> Any:
        sensors = sensors or (Constant(WATTS),)
        run = track(folder, sensors=sensors, interval_s=0.01, **options)
        run.every_n_steps = every_n_steps  # type: ignore[attr-defined]
        return run

    def train(self, monitor: Any | None, setting: Setting) -> None:
        every = getattr(monitor, "every_n_steps", None)
        net, optimizer = setting.net, setting.optimizer()
        loader = DataLoader(Data(setting.samples), BATCH, shuffle=True)
        checkpoint = setting.folder / "checkpoint.pt"

        def step(number: int, batch: dict[str, Tensor]) -> float:
            loss = net(**batch)["loss"]
            (loss / setting.accumulates).backward()
            if number % setting.accumulates == 0 or number == len(loader):
                optimizer.step()
                optimizer.zero_grad()
            return float(loss)

        def before(run: Any) -> None:
            if monitor is not None:
                batch = {"x": torch.zeros(BATCH, 8), "labels": torch.zeros(BATCH, dtype=torch.long)}
                run.count_flops(net, batch)
            if setting.resumes:
                state = torch.load(checkpoint, weights_only=False)
                net.load_state_dict(state["net"])
                optimizer.load_state_dict(state["optimizer"])
                run.load_state_dict(state["run"])

        def loop(run: Any) -> None:
            if every is not None:
                stream = (batch for _ in range(setting.epochs) for batch in loader)
                steps = setting.epochs * len(loader)
                for number in run.steps(steps, every_n_steps=every):
                    run.log(loss=step(number + 1, next(stream)))
            else:
                for _ in run.epochs(setting.epochs):
                    self._train_epoch(run, setting, loader, step)
            if setting.saves:
                state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**state, "run": run.state_dict()}, checkpoint)

        self._measure(track(sensors=[]) if monitor is None else monitor, before, loop)

    def _measure(
        self, run: Any, before: Callable[[Any], None], loop: Callable[[Any], None]
    ) -> None:
        before(run)
        with run:
            loop(run)

    @staticmethod
    def _train_epoch(run: Any, setting: Setting, loader: Any, step: Any) -> None:
        net, steps, samples, losses = setting.net, 0, 0, []
        for number, batch in enumerate(loader, 1):
            losses.append(step(number, batch))
            steps, samples = steps + 1, samples + len(batch["x"])
            run.log(steps=steps, samples=samples)
        run.log(loss=float(np.mean(losses)))
        if setting.validates:
            net.eval()
            with run.validation(), torch.no_grad():
                for batch in DataLoader(Data(2 * BATCH), BATCH):
                    net(**batch)
            net.train()


class ByHand(ByTrack):
    """`track()` without `with`."""

    name = "track by hand"

    def _measure(
        self, run: Any, before: Callable[[Any], None], loop: Callable[[Any], None]
    ) -> None:
        before(run)
        run.start()
        try:
            loop(run)
        except BaseException as error:
            run.stop(f"interrupted by {type(error).__name__}")
            raise
        run.stop()


class ByDecorator(ByTrack):
    """`@track()`: the function that is measured gets a run of its own."""

    name = "track as a decorator"

    def monitor(
        self,
        folder: Path | None,
        *sensors: Any,
        every_n_steps: int | None = None,
        **options: Any,
    ) -> Any:
        return _Decorator(super().monitor(folder, *sensors, **options), every_n_steps)

    def _measure(
        self, run: Any, before: Callable[[Any], None], loop: Callable[[Any], None]
    ) -> None:
        decorator = run.decorator if isinstance(run, _Decorator) else run

        @decorator
        def train(run: Any) -> None:
            before(run)
            loop(run)

        if isinstance(run, _Decorator):
            run.function = train
        train()


class _Decorator:
    """Shows the run of the function that was decorated, as a user finds it."""

    def __init__(self, decorator: Any, every_n_steps: int | None) -> None:
        self.decorator, self.every_n_steps = decorator, every_n_steps
        self.function: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.function.run, name)


ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (ByLightning(), ByHuggingFace(), ByTrack(), ByHand(), ByDecorator())
}


def is_installed(adapter: Adapter) -> bool:
    """Whether the framework is there, which may be optional."""
    return adapter.name != "huggingface" or importlib.util.find_spec("transformers") is not None
