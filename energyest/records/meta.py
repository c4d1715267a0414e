"""The meta of a trace: all its keys, who writes and reads each, and functions to read one.

A meta comes from a file or from a caller and may hold anything. The functions here read a value
and return None, or an empty container, if it is missing or of the wrong type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from energyest.carbon.series import seconds_of
from energyest.checks import finite_or_none, is_count, positive_or_none
from energyest.errors import EstimateError


class TraceMeta(TypedDict, total=False):
    """The keys of `EnergyTrace.meta`; any may be missing, and users may add their own.

    `measure.recorder` writes the first group; `tracking` and the adapters of training loops write
    the second; `records.ranks` writes the third, on runs with several processes.
    """

    #: Identifies the run; the same in all its processes. Read by `storage`, `loading`,
    #: `distributed`, `adapters.processes`, `scores` and `tradeoff.collect`.
    run_id: str
    #: "running", "finished", or what interrupted the run. Read by `storage`, `ranks`,
    #: `tradeoff.collect` and the command line.
    status: str
    #: When the run began, in ISO 8601, UTC. Read by `measure.checkpoint`,
    #: `tradeoff.collect`.
    start_time: str
    #: Seconds between readings. For users only, like all keys below that name no reader.
    interval_s: float
    #: The devices measured, one object each; read through `records.devices`.
    devices: list[dict[str, Any]]
    #: Seconds of the whole run, without pauses. Read by `measure.checkpoint`, `tradeoff.collect`.
    duration_s: float
    #: Joules of the whole run; null if a part is unknown. Read by `EnergyTrace.total_J`.
    total_J: float | None
    #: The same for each kind of device, such as `gpu_energy_J`. Read by `measure.checkpoint`,
    #: `ranks`.
    components: dict[str, float | None]
    #: The cost so far of the epoch that the end of the run cut off. Read by `measure.checkpoint`,
    #: `ranks`, `storage` and the command line.
    interrupted_epoch: dict[str, float | None]
    #: For a resumed run: the number of rows that the earlier part measured, the energy of that part
    #: in all, and its share for the row that was under way. Read by `EnergyTrace.total_J`, `ranks`.
    earlier_rows: int
    earlier_total_J: float | None
    carried_J: float | None
    #: The parts of a resumed run, oldest first. Read by `measure.checkpoint`,
    #: `tradeoff.collect`.
    earlier_parts: list[dict[str, Any]]

    #: What is missing, and why. Read by `ranks` and the command line.
    notes: list[str]
    #: The other tool's log from which the trace was made: tool, file, columns and time zone.
    log: dict[str, Any]
    #: What was synchronised at the edges of epochs: "torch.cuda", "jax".
    synchronized: list[str]
    #: Versions of the libraries in use.
    versions: dict[str, str]
    #: Name of the machine. Read by `ranks`, `measure.checkpoint`, PRE's `training_data`,
    #: `tradeoff.collect`.
    host: str
    #: Who ran the training, unless a setting turns it off; what it belongs to; and the job:
    #: "scheduler" and "id". Read by `tradeoff.collect`.
    user: str
    project: str
    job: dict[str, str]
    #: Steps in an interval; without it, rows are epochs. Read by `EnergyTrace.unit`,
    #: `measure.checkpoint`.
    interval_steps: int
    #: The Trainer's number of the first epoch. Read by STEP's `validation`, `measure.checkpoint`.
    first_epoch: int
    #: The planned length of the run, in rows and in seconds. Read by STEP's `horizon`, PRE's
    #: `blend`, `scores` and the command line.
    planned_epochs: float | None
    planned_duration_s: float | None
    #: Changes that are planned, or that have happened. Read by STEP's `planned_changes`,
    #: `tracking.continuation`, `measure.checkpoint`.
    planned_changes: list[dict[str, Any]]
    #: The budget: limits by unit, "warn" or "stop", the verdict, and why the training was stopped,
    #: if it was. Read by the command line.
    budget: dict[str, Any]
    #: The carbon intensity and PUE that were set for the run; see `carbon.basis`.
    carbon: dict[str, Any]
    #: What the early-stopping callbacks watch, and the number of epochs before which they cannot
    #: stop. Read by `estimators.early_stopping` and the command line.
    early_stopping: list[dict[str, Any]]
    min_epochs: int
    #: Rows from one validation to the next, and the number of validation batches divided by a
    #: row's training batches. Read by STEP's `validation`.
    validation_every_n_rows: float | None
    validation_to_training_batches: float | None
    #: Samples in a whole epoch, and in a validation. Read by PRE's `from_trace`.
    train_samples: int
    validation_samples: int
    #: Samples in a batch; read by `tradeoff.collect`.
    batch_size: int | None
    #: The model's class and size, and its hyperparameters. Read by `run_labels`,
    #: `tradeoff.collect`, PRE's `training_data`.
    model: dict[str, Any]
    hparams: dict[str, Any]
    #: The precision of the computation, and Lightning's name for it. Read by `baselines`,
    #: `tradeoff.collect`.
    precision: str
    lightning_precision: str
    #: Batches per optimizer step, and the optimizer's name.
    accumulate_grad_batches: int
    optimizer: str
    #: FLOPs of the forward pass for one sample; why they are unknown, or how they were counted;
    #: training FLOPs divided by forward FLOPs; operations without a count. Read by `baselines`,
    #: `tradeoff.collect`.
    forward_flops_per_sample: float | None
    flops_note: str
    training_to_forward_flops: float | None
    flops_uncounted: dict[str, int]
    #: The training step as `Workload.to_dict` gives it, or why it is unknown. Read by PRE's
    #: `from_trace` and `training_data`, `run_labels`.
    workload: dict[str, Any]
    workload_note: str
    #: PRE's projection at the first batch, or why there is none. Read by PRE's `from_trace`.
    first_projection: dict[str, Any]
    first_projection_note: str

    #: Number of this process, and the number of processes. Read by `ranks`.
    rank: int
    world_size: int
    #: A summary of each rank's record, and the ranks that left none. Read by `ranks`,
    #: `EnergyTrace.total_J`, the command line.
    ranks: list[dict[str, Any]]
    missing_ranks: list[int]


# A count that no training reaches.
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


def part_begins(meta: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Of each part of a run, its first row, and when it began in seconds since 1970.

    Raises:
        EstimateError: a part does not say when it began.
    """
    found, first = [], 0
    for part in (*read_objects(meta, "earlier_parts"), meta):
        began = read_text(part, "start_time")
        if began is None:
            raise EstimateError(
                "the trace does not say when the run began: give its meta a start_time, such as "
                "'2026-03-01T10:30:00+00:00'"
            )
        found.append((first, seconds_of(began, "start_time")))
        first = max(first, read_count(part, "rows") or 0)
    return found


def read_text(meta: Mapping[str, Any], key: str) -> str | None:
    """Non-empty text."""
    value = meta.get(key)
    return value if isinstance(value, str) and value else None


def read_object(meta: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object (mapping); empty if there is none."""
    value = meta.get(key)
    return value if isinstance(value, Mapping) else {}


def read_list(meta: Mapping[str, Any], key: str) -> list[Any]:
    """A list; empty if there is none."""
    value = meta.get(key)
    return value if isinstance(value, list) else []


def read_objects(meta: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of objects; values that are not objects are left out."""
    return [one for one in read_list(meta, key) if isinstance(one, dict)]
