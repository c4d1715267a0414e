"""The first projection of a training, by PRE, available from the first batch.

Nothing here may make a training fail: what cannot be described or predicted is noted in the trace.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from energyest.errors import WorkloadError
from energyest.estimate import Estimate
from energyest.estimators.pre.blend import beside_gpu
from energyest.estimators.pre.estimate import estimate_pre
from energyest.gpus import resolve_gpu
from energyest.profiling.describe import workload_of
from energyest.profiling.execution import OF_CUDNN, single_precision
from energyest.profiling.operations import WatchedStep
from energyest.records.devices import Device, counted_devices, gpus_of, kind_of
from energyest.records.trace import EnergyTrace
from energyest.records.workload import OPTIMIZERS, Operation, Workload, check_precision_name
from energyest.tracking.plan import Length, TrainingPlan
from energyest.tracking.session import Session

log = logging.getLogger("energyest")

_PRECISIONS = {"16": "fp16", "bf16": "bf16", "64": "fp64", "transformer-engine": "fp8"}
# The optimizer to assume for one of an unknown name. Its cost depends on how many numbers it keeps
# for each parameter.
_USUAL_OPTIMIZER = "adamw"
# Current power is the mean of the readings over this many seconds.
_NOW_S = 1.0


class FirstProjection:
    """Describes a training after its first batch and predicts its energy on one known GPU.

    Create it before the first batch: the processors are then as busy as during training.

    Args:
        session: session that measures the training.
        plan: knows the precision, the optimizer and the planned length of the training.
        workload: description of a step, if it was made before the training.
    """

    def __init__(
        self, session: Session, plan: TrainingPlan, workload: Workload | None = None
    ) -> None:
        self._session = session
        self._plan = plan
        trace = session.trace
        self._gpus = gpus_of(trace.devices)
        self._host_W = power_beside_gpus(trace)
        # PRE only covers training on one GPU.
        self._pending = len(self._gpus) == 1 and plan.world_size == 1
        if not self._pending:
            count = max(len(self._gpus), plan.world_size) if self._gpus else 0
            why = f"PRE needs a training on one GPU, and this one uses {count or 'none'}"
            session.describe(first_projection_note=why)
        self._length = Length()
        self._row_samples: tuple[int | None, int] = (None, 0)
        self._workload: Workload | None = None
        if workload is not None and self._pending:
            self._keep(workload)

    @property
    def is_pending(self) -> bool:
        """Whether a first projection is still possible."""
        return self._pending

    def look_ahead(self, batch_size: int | None) -> None:
        """Read the planned length of the training; call it between rows, when it is best known.

        Args:
            batch_size: samples per batch; None if unknown.
        """
        plan, samples = self._plan, batch_size or 1
        self._length = Length(plan.rows_at_start(), plan.duration_s(0.0, math.nan))
        self._row_samples = plan.row_samples(samples), plan.row_validation_samples(samples)

    def describe(
        self, module: nn.Module, batch: Any, samples: int | None, step: WatchedStep
    ) -> None:
        """Describe a step of the training in the trace's meta; only the first call counts.

        Args:
            module: the model being trained.
            batch: the batch of the step.
            samples: samples in the batch; None if unknown.
            step: the observed step.
        """
        if self._pending and self._workload is None:
            with self._noted("workload_note"), self._session.pause():
                self._keep(_describe(self._plan, module, batch, samples, step))

    def estimate(self) -> None:
        """Set the run's first projection, once the length of an epoch is known."""
        if self._workload is None or not self._pending:
            return
        with self._noted("first_projection_note"), self._session.pause():
            self._estimate(self._workload)

    # ------------------------------------------------------------------ inside

    def _keep(self, workload: Workload) -> None:
        self._workload = workload
        self._session.describe(
            workload=workload.to_dict(),
            precision=workload.precision,
            optimizer=workload.optimizer,
        )

    def _estimate(self, workload: Workload) -> None:
        samples, validation = self._row_samples
        if samples is None:
            return  # a loader without a length: the number is known after the first epoch
        self._pending = False
        gpu = resolve_gpu(str(self._gpus[0].get("name")))
        rows, end_s = self._session.length
        rows = self._length.rows if rows is None else rows
        end_s = self._length.duration_s if end_s is None else end_s

        def of_rows(count: float) -> Estimate:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the training will show whether it fits in memory
                return estimate_pre(
                    workload,
                    gpu,
                    epochs=count,
                    train_samples=samples,
                    validation_samples=validation,
                    confidence=self._session.confidence,
                )

        row_s = of_rows(1.0).duration_s
        bounds = [] if rows is None else [rows]
        if end_s is not None and row_s:
            bounds.append(end_s / row_s)
        pre = of_rows(min(bounds, default=1.0))
        if self._host_W > 0:
            pre = beside_gpu(pre, self._host_W)
        pre = replace(pre, unit=self._session.trace.unit)
        self._session.length = Length(rows, end_s)
        self._session.describe(first_projection=_as_meta(pre, samples, validation, self._host_W))
        self._session.expect(pre)

    def _noted(self, name: str) -> _Noted:
        return _Noted(self._session, name)


class _Noted:
    """Suppresses errors and notes them in the meta of the run's trace."""

    def __init__(self, session: Session, name: str) -> None:
        self._session, self._name = session, name

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False  # no error, or Ctrl-C
        text = str(error) or type(error).__name__
        self._session.describe(**{self._name: text.splitlines()[0][:500]})
        log.debug("energyest: no first projection", exc_info=error)
        return True


def precision_of(stated: str, operations: Sequence[Operation] = ()) -> str:
    """The number format in which a trainer computes its model.

    Args:
        stated: the trainer's name for it, such as "bf16-mixed".
        operations: operations of a step of the model on a GPU. torch has one setting for
            TensorFloat-32 in convolutions, on by default, and another for matrix products. The
            kind with more FLOPs decides.
    """
    for prefix, name in _PRECISIONS.items():
        if stated.startswith(prefix):
            return name
    cudnn, products = 0.0, 0.0
    for operation in operations:
        flops = operation.flops * operation.count
        if operation.name.startswith(OF_CUDNN):
            cudnn += flops
        else:
            products += flops
    return single_precision(is_of_cudnn=cudnn > products)


def optimizer_of(optimizers: Sequence[Any]) -> str:
    """Name of the first optimizer, as in `OPTIMIZERS` of a workload; "adamw" if unknown."""
    if not optimizers:
        return "sgd"
    optimizer = getattr(optimizers[0], "optimizer", optimizers[0])
    name = type(optimizer).__name__.lower()
    if name == "sgd":
        settings = getattr(optimizer, "defaults", {})
        if not settings.get("momentum"):
            return "sgd"
        return "nesterov" if settings.get("nesterov") else "sgd_momentum"
    return name if name in OPTIMIZERS else _USUAL_OPTIMIZER


def power_beside_gpus(trace: EnergyTrace) -> float:
    """What the total adds to the power of the GPUs now, in watts; NaN if unknown."""
    counted = counted_devices(trace.devices)
    others = [device for device in counted if kind_of(device) != "gpu"]
    contained = [gpu for gpu in gpus_of(trace.devices) if gpu not in counted]
    return _power_now(trace, others) - _power_now(trace, contained)


def _power_now(trace: EnergyTrace, devices: Sequence[Device]) -> float:
    """Total mean power of these devices in the last second; NaN if unknown."""
    columns = trace.power_columns
    total_W = 0.0
    for device in devices:
        mine = (columns["device"] == str(device["device"])) & np.isfinite(columns["power_W"])
        if not mine.any():
            return math.nan
        time_s, power_W = columns["time_s"][mine], columns["power_W"][mine]
        total_W += float(power_W[time_s >= time_s[-1] - _NOW_S].mean())
    return total_W


def _describe(
    plan: TrainingPlan, module: nn.Module, batch: Any, samples: int | None, step: WatchedStep
) -> Workload:
    if not samples:
        raise WorkloadError("the batch does not show how many samples it holds")
    if step.problem:
        raise WorkloadError(step.problem)
    stated = plan.precision
    precision = precision_of(stated)
    check_precision_name(precision)
    workload = workload_of(
        step,
        module,
        batch,
        samples,
        "fp32" if precision == "tf32" else precision,
        optimizer_of(plan.optimizers),
    )
    if workload.precision == "fp32" and plan.is_on_gpu:
        # The operations are the same in both formats.
        workload = replace(workload, precision=precision_of(stated, workload.operations))
    notes = list(workload.notes)
    if stated in ("16-true", "bf16-true") and workload.parameter_bytes == 4:
        notes.append("half-precision weights are treated as mixed precision")
    accumulate = max(int(plan.accumulate_grad_batches), 1)
    return replace(workload, accumulate=accumulate, notes=tuple(notes))


def _as_meta(pre: Estimate, samples: int, validation: int, host_W: float) -> Mapping[str, Any]:
    return {
        "energy_J": pre.energy_J,
        "lower_J": pre.lower_J,
        "upper_J": pre.upper_J,
        "confidence": pre.confidence,
        "duration_s": pre.duration_s,
        "epochs": pre.epochs,
        "train_samples": samples,
        "validation_samples": validation,
        "host_power_W": host_W if math.isfinite(host_W) else None,
        "method": pre.method,
    }
