"""`EnergyMonitor`: the hooks of a Lightning Trainer, translated into `track()`'s run."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import Callback
from torch.nn.parameter import is_lazy

from energyest.callbacks.loop import Run, check_settings, track
from energyest.callbacks.shield import shielded
from energyest.estimators.estimate import Estimate
from energyest.measure.flops import batch_size
from energyest.measure.sensors import Kind, Sensor
from energyest.trace import EPOCH_COLUMNS, EnergyTrace

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

# A projection is logged for each of the first epochs; later, if making it took less than this share
# of the time since the last one.
_PROJECTION_SHARE = 0.01
_ALWAYS_PROJECTED = 100

log = logging.getLogger("energyest")

_PRECISIONS = {"16": "fp16", "bf16": "bf16", "64": "fp64", "transformer-engine": "fp8"}


class EnergyMonitor(Callback):
    """Measures the energy of `Trainer.fit`, epoch by epoch, and projects the whole training.

        monitor = EnergyMonitor()
        trainer = pl.Trainer(max_epochs=100, callbacks=[monitor])
        trainer.fit(model)
        monitor.trace.epochs

    Works in the Trainers of `pytorch_lightning` and of `lightning.pytorch`. The trace grows in
    `<log_dir>/energy` while training runs; `energyest.load_trace` reads it. To every logger go
    `energy/epoch_J`, `energy/total_J`, `energy/mean_power_W` and, once the training is stable,
    `energy/projected_J` with `energy/projected_lower_J` and `energy/projected_upper_J`.

    An epoch lasts from the end of the one before to its own end, validation included: what lies
    between two epochs, such as saving a checkpoint, belongs to the later one. The metrics that you
    log become columns of the trace, but for those that bear the name of a column it has anyway.

    Args:
        folder: where to write the trace; by default `energy` in the Trainer's `log_dir`. A folder
            that holds a trace already is not overwritten: a free name next to it is taken.
        components: what to measure: the GPUs that the Trainer uses, the machine's processors, its
            memory.
        count_flops: count the FLOPs of the model once, on a copy, with fvcore.
        sensors: sensors to use instead of those of this machine; they are closed when `fit` ends.
        interval_s: seconds between readings; GPUs renew theirs every 0.1 s.
        confidence: probability for the interval of the projection.

    Raises:
        ConfigurationError: an argument is out of its range. Once training runs, nothing is raised.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        components: Sequence[Kind] = ("gpu", "cpu", "ram"),
        count_flops: bool = True,
        sensors: Sequence[Sensor] | None = None,
        interval_s: float = 0.1,
        confidence: float = 0.9,
    ) -> None:
        check_settings(confidence, interval_s, components)
        self._folder = folder
        self._components = tuple(components)
        self._count_flops = count_flops
        self._sensors = sensors
        self._interval_s = interval_s
        self._confidence = confidence
        self._run: Run | None = None
        self._running = False
        self._in_epoch = False
        self._steps = 0
        self._samples = 0
        self._validation_samples = 0
        self._first_epoch: int | None = None
        self._flops_counted = False
        self._seen_metrics: dict[str, Any] = {}
        self._projected_at_s = -math.inf
        self._projection_cost_s = 0.0
        self._projections = 0

    # ------------------------------------------------------------------ results

    @property
    def trace(self) -> EnergyTrace:
        """What was measured so far, of the newest `fit`; also while training runs."""
        return EnergyTrace({}) if self._run is None else self._run.trace

    @property
    def projection(self) -> Estimate | None:
        """Newest estimate of the whole training; None before the training is stable."""
        return None if self._run is None else self._run.projection

    @property
    def total_J(self) -> float:
        """Energy in joules since `fit` began; NaN before."""
        return math.nan if self._run is None else self._run.total_J

    @property
    def folder(self) -> Path | None:
        """Where the trace is written; None before `fit` or if it is in memory only."""
        return None if self._run is None else self._run.folder

    # ------------------------------------------------------------------ hooks

    @shielded
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure."""
        self._finish("interrupted")  # a fit before this one that never came to its end
        # log_dir is a collective call: it has to be made on every rank.
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "energy"
        if self._folder is not None:
            folder = Path(self._folder)
        if trainer.global_rank > 0:
            folder = folder.with_name(f"{folder.name}-rank{trainer.global_rank}")
        elif trainer.world_size > 1:
            log.warning(
                "energyest: each of the %d processes records its own GPU, in a folder of its own; "
                "this trace and its projection are those of rank 0",
                trainer.world_size,
            )
        on_gpu = trainer.strategy.root_device.type == "cuda"
        # Processors and memory are the machine's: one process on it counts them.
        kinds = [k for k in self._components if k == "gpu" or trainer.local_rank == 0]
        self._run = track(
            None if trainer.fast_dev_run else folder,  # type: ignore[attr-defined]
            gpus=[_uuid(trainer.strategy.root_device)] if on_gpu else [],
            components=kinds,
            sensors=self._sensors,
            interval_s=self._interval_s,
            confidence=self._confidence,
        )
        self._flops_counted = not self._count_flops
        self._validation_samples = 0
        self._first_epoch = None
        self._seen_metrics = dict(trainer.callback_metrics)
        self._run.describe(
            model=_describe_model(pl_module),
            precision=_precision(str(trainer.precision)),
            lightning_precision=str(trainer.precision),
            accumulate_grad_batches=trainer.accumulate_grad_batches,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        self._in_epoch = False
        self._running = True  # before the start: if Ctrl-C comes during it, the end must come too
        self._run.start()

    @shielded
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch begins."""
        self._log_late_metrics(trainer)
        self._start_epoch(trainer)

    @shielded
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The first batch shows what the model's input looks like."""
        if not self._in_epoch:
            # Resumed from a checkpoint within an epoch: Lightning does not announce its rest.
            self._start_epoch(trainer)
        if self._run is None or self._flops_counted:
            return
        self._flops_counted = True
        self._run.describe(batch_size=batch_size(batch))
        self._run.count_flops(pl_module, batch)

    @shielded
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count steps and samples."""
        self._steps += 1
        self._samples += batch_size(batch) or 0

    @shielded
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation begins, unless it is the sanity check or one outside of `fit`."""
        if self._run is not None and self._running and not trainer.sanity_checking:
            self._run.start_validation()

    @shielded
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count samples."""
        self._validation_samples += batch_size(batch) or 0

    @shielded
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation ends."""
        if self._run is not None and self._running and not trainer.sanity_checking:
            self._run.end_validation()
            self._run.describe(validation_samples=self._validation_samples)
        self._validation_samples = 0

    @shielded
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch ends: record it, project, and log both."""
        if self._run is None or not self._in_epoch:
            return
        self._in_epoch = False
        # Known only now: how many steps an epoch makes shows at its end.
        self._run.planned_epochs = _planned_epochs(trainer, self._first_epoch)
        metrics = self._fresh_metrics(trainer) or {}
        row = self._run.end_epoch(steps=self._steps, samples=self._samples or math.nan, **metrics)
        self._run.describe(train_samples=self._samples, planned_epochs=self._run.planned_epochs)
        self._log(trainer, pl_module, row)

    @shielded
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last epoch is over."""
        # Not later: the Trainer then moves all metrics to the CPU, which makes them look fresh.
        self._log_late_metrics(trainer)

    @shielded
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training is over."""
        self._finish("finished")

    @shielded
    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """The training was broken off: by an error, by Ctrl-C or by a signal."""
        # Metrics of several processes are computed together, and the others may not come.
        if trainer.world_size == 1:
            self._log_late_metrics(trainer)
        if self._run is not None and self._in_epoch:
            self._run.log(steps=self._steps, samples=self._samples)
        self._finish(f"interrupted by {type(exception).__name__}")

    @shielded
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Whatever happened before: the thread ends here."""
        self._finish("finished")

    # ------------------------------------------------------------------ inside

    def _start_epoch(self, trainer: Trainer) -> None:
        if self._run is None or not self._running:
            return
        self._in_epoch = True
        self._steps = self._samples = 0
        if self._first_epoch is None:
            self._first_epoch = trainer.current_epoch
        self._run.start_epoch(trainer.current_epoch, continues=True)

    def _finish(self, status: str) -> None:
        if self._run is not None and self._running:
            self._running = self._in_epoch = False
            self._run.stop(status)

    def _log_late_metrics(self, trainer: Trainer) -> None:
        """Give the epoch that has ended the metrics that were logged after this callback's turn."""
        if self._run is not None and self._running:
            metrics = self._fresh_metrics(trainer) or {}
            if self._first_epoch is not None:
                self._run.log(**metrics)

    @shielded  # by itself: a metric that cannot be computed must not cost the epoch its row
    def _fresh_metrics(self, trainer: Trainer) -> dict[str, float]:
        """Metrics that were logged since the last call, those named like a column left out.

        Lightning keeps the value of a metric that was not logged again, such as one of a
        validation five epochs ago; the tensor is then the same object.
        """
        current = dict(trainer.callback_metrics)
        fresh = {
            name: value
            for name, value in current.items()
            if value is not self._seen_metrics.get(name)
            and name not in EPOCH_COLUMNS
            and not name.startswith("energy/")
        }
        self._seen_metrics = current
        return {name: float(value) for name, value in fresh.items() if _is_scalar(value)}

    def _log(self, trainer: Trainer, pl_module: LightningModule, row: dict[str, float]) -> None:
        assert self._run is not None
        if trainer.barebones:
            return  # a Trainer without any logging, which would warn about ours
        values = {
            "energy/epoch_J": row.get("energy_J"),
            "energy/total_J": self._run.total_J,
            "energy/mean_power_W": row.get("mean_power_W"),
        }
        projection = self._projection_if_cheap()
        if projection is not None:
            values["energy/projected_J"] = projection.energy_J
            values["energy/projected_lower_J"] = projection.lower_J
            values["energy/projected_upper_J"] = projection.upper_J
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                pl_module.log(
                    name,
                    value,
                    prog_bar=name == "energy/projected_J",
                    logger=bool(trainer.loggers),
                    on_step=False,
                    on_epoch=True,
                    batch_size=1,
                    rank_zero_only=True,
                )

    def _projection_if_cheap(self) -> Estimate | None:
        """The projection; not for every epoch where epochs are so short that it would show."""
        assert self._run is not None
        began_s = time.monotonic()
        since_s = began_s - self._projected_at_s
        self._projections += 1
        if self._projections > _ALWAYS_PROJECTED and (
            self._projection_cost_s > _PROJECTION_SHARE * since_s
        ):
            return None
        projection = self._run.projection
        self._projected_at_s = time.monotonic()
        self._projection_cost_s = self._projected_at_s - began_s
        return projection

    def __getstate__(self) -> dict[str, Any]:
        # A run holds a thread and open files, which cannot go to another process.
        return {**self.__dict__, "_run": None, "_running": False, "_in_epoch": False}


def _uuid(device: torch.device) -> str:
    """UUID of the GPU behind a CUDA device, as NVML writes it; its index on an older torch."""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    if uuid is None:
        return str(device.index or 0)
    return str(uuid) if str(uuid).startswith("GPU-") else f"GPU-{uuid}"


def _describe_model(model: torch.nn.Module) -> dict[str, Any]:
    parameters = [p for p in model.parameters() if not is_lazy(p)]
    return {
        "name": type(model).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
    }


def _precision(lightning_precision: str) -> str:
    for prefix, name in _PRECISIONS.items():
        if lightning_precision.startswith(prefix):
            return name
    return "fp32" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _planned_epochs(trainer: Trainer, first_epoch: int | None) -> int | None:
    """How many epochs this `fit` will have, seen from an epoch's end; None if nothing bounds it."""
    before = first_epoch or 0  # epochs of an earlier run that this one resumes
    bounds = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        bounds.append(trainer.max_epochs)
    if trainer.max_steps > 0 and trainer.global_step > 0:
        # A batch may make any number of optimizer steps: the epochs so far show how many.
        epochs_so_far = trainer.current_epoch + 1
        bounds.append(-(-trainer.max_steps * epochs_so_far // trainer.global_step))
    return max(1, min(bounds) - before) if bounds else None


def _is_scalar(value: Any) -> bool:
    return not isinstance(value, torch.Tensor) or value.numel() == 1
