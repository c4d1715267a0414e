"""What the meta of a trace says: all its keys, who writes and who reads them, and how to read one.

A meta comes from a file or from a caller, and may hold anything: whoever needs a value asks for it
by one of the functions here, which give None, or nothing, for what is not of its kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from energyest.checks import finite_or_none, is_count, positive_or_none


class TraceMeta(TypedDict, total=False):
    """The keys of `EnergyTrace.meta`; all may be missing, and a user's own may be there too.

    `measure.recorder` writes what comes first, until the sensors; `tracking` and the adapters of
    training loops the rest; `records.ranks` what concerns several processes.
    """

    #: What tells this run from others; the same in all its processes. Read by `storage`, `loading`,
    #: `distributed`, `adapters.processes`, `scores` and `tradeoff.collect`.
    run_id: str
    #: "running", "finished" or what interrupted the run. Read by `storage`, `ranks`,
    #: `tradeoff.collect` and the command line.
    status: str
    #: When the run began, in ISO 8601, UTC. Read by `measure.checkpoint`,
    #: `tradeoff.collect`.
    start_time: str
    #: Seconds between readings. For users, as all below that name no reader.
    interval_s: float
    #: What was measured, one object a device; read through `records.devices`.
    devices: list[dict[str, Any]]
    #: Seconds of the whole run, pauses left out. Read by `measure.checkpoint`, `tradeoff.collect`.
    duration_s: float
    #: Joules of the whole run; null if a part is not known. Read by `EnergyTrace.total_J`.
    total_J: float | None
    #: The same by kind of device, as `gpu_energy_J`. Read by `measure.checkpoint`, `ranks`.
    components: dict[str, float | None]
    #: What the epoch had cost that the end of the run cut off. Read by `measure.checkpoint`,
    #: `ranks`, `storage` and the command line.
    interrupted_epoch: dict[str, float | None]
    #: Rows at the beginning that an earlier part of the run had measured, what that part had cost
    #: in all, and what of it on the row that it had begun. Read by `EnergyTrace.total_J`, `ranks`.
    earlier_rows: int
    earlier_total_J: float | None
    carried_J: float | None
    #: The parts of a run that was resumed, the oldest first. Read by `measure.checkpoint`,
    #: `tradeoff.collect`.
    earlier_parts: list[dict[str, Any]]

    #: What is missing, and why. Read by `ranks` and the command line.
    notes: list[str]
    #: The log of another tool that the trace was made of: its tool, file, columns and time zone.
    log: dict[str, Any]
    #: What was let finish its work at the edges of epochs: "torch.cuda", "jax".
    synchronized: list[str]
    #: Versions of the libraries that were in use.
    versions: dict[str, str]
    #: Name of the machine. Read by `ranks`, `measure.checkpoint`, PRE's `training_data`.
    host: str
    #: Steps of an interval; without it, rows are epochs. Read by `EnergyTrace.unit`,
    #: `measure.checkpoint`.
    interval_steps: int
    #: The Trainer's number of the first epoch. Read by STEP's `validation`, `measure.checkpoint`.
    first_epoch: int
    #: How long the run is to be, in rows and in seconds. Read by STEP's `horizon`, PRE's `blend`,
    #: `scores` and the command line.
    planned_epochs: float | None
    planned_duration_s: float | None
    #: Changes that are known ahead, or that came. Read by STEP's `planned_changes`,
    #: `tracking.continuation`, `measure.checkpoint`.
    planned_changes: list[dict[str, Any]]
    #: What the training may cost: the limits by unit, "warn" or "stop", what was found of them, and
    #: why the training was stopped, if it was. Read by the command line.
    budget: dict[str, Any]
    #: What the callbacks watch that may end the training early, and the epochs before which they do
    #: not. Read by `estimators.early_stopping` and the command line.
    early_stopping: list[dict[str, Any]]
    min_epochs: int
    #: Rows from one validation to the next, and its batches for each of a row's training batches.
    #: Read by STEP's `validation`.
    validation_every_n_rows: float | None
    validation_to_training_batches: float | None
    #: Samples of a whole epoch, and of a validation. Read by PRE's `from_trace`.
    train_samples: int
    validation_samples: int
    #: Samples of a batch; read by `tradeoff.collect`.
    batch_size: int | None
    #: The model's class and size, and its hyperparameters. Read by `run_labels`,
    #: `tradeoff.collect`, PRE's `training_data`.
    model: dict[str, Any]
    hparams: dict[str, Any]
    #: What the model is computed in, and Lightning's word for it. Read by `baselines`,
    #: `tradeoff.collect`.
    precision: str
    lightning_precision: str
    #: Batches to an optimizer step, and the optimizer's name.
    accumulate_grad_batches: int
    optimizer: str
    #: FLOPs of the forward pass for one sample; why they are not known, or how they count; those of
    #: training ÷ those of forward; operations without a count. Read by `baselines`,
    #: `tradeoff.collect`.
    forward_flops_per_sample: float | None
    flops_note: str
    training_to_forward_flops: float | None
    flops_uncounted: dict[str, int]
    #: What a training step does, as `Workload.to_dict` gives it, or why it is not known. Read by
    #: PRE's `from_trace` and `training_data`, `run_labels`.
    workload: dict[str, Any]
    workload_note: str
    #: PRE's projection at the first batch, or why there is none. Read by PRE's `from_trace`.
    first_projection: dict[str, Any]
    first_projection_note: str

    #: Number of this process, and of all. Read by `ranks`.
    rank: int
    world_size: int
    #: What each rank recorded, and which of them have left no record. Read by `ranks`,
    #: `EnergyTrace.total_J`, the command line.
    ranks: list[dict[str, Any]]
    missing_ranks: list[int]


# More of something that is counted than any training has.
_MOST = 10**9


def read_number(meta: Mapping[str, Any], key: str) -> float | None:
    """A finite number."""
    return finite_or_none(meta.get(key))


def read_positive(meta: Mapping[str, Any], key: str) -> float | None:
    """A finite number above 0."""
    return positive_or_none(meta.get(key))


def read_count(meta: Mapping[str, Any], key: str, most: int = _MOST) -> int | None:
    """A whole number from 0 to `most`."""
    value = meta.get(key)
    return int(value) if is_count(value) and value <= most else None


def read_text(meta: Mapping[str, Any], key: str) -> str | None:
    """Text that is not empty."""
    value = meta.get(key)
    return value if isinstance(value, str) and value else None


def read_object(meta: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What has names for its values; empty where there is nothing."""
    value = meta.get(key)
    return value if isinstance(value, Mapping) else {}


def read_list(meta: Mapping[str, Any], key: str) -> list[Any]:
    """A list; empty where there is none."""
    value = meta.get(key)
    return value if isinstance(value, list) else []


def read_objects(meta: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects; what is no object is left out."""
    return [one for one in read_list(meta, key) if isinstance(one, dict)]
