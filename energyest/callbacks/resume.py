"""A Lightning training that goes on from a checkpoint: what the monitor keeps in it.

Under a key of its own in the checkpoint, and not as a callback's state: that would have to be told
apart from the state of a second monitor, and a training that goes on without one would be warned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from energyest.callbacks import plan
from energyest.measure.earlier import Earlier

if TYPE_CHECKING:
    from pytorch_lightning import Callback, Trainer

    from energyest.callbacks.run import Run

_KEY = "energyest"


@dataclass(frozen=True)
class Resumption:
    """Where a training stood when the checkpoint was made.

    Attributes:
        run: what it had cost; as `Run.state_dict` gives it.
        epoch: the Trainer's epoch.
        batches: training batches of it that were done.
    """

    run: Mapping[str, Any]
    epoch: int
    batches: int

    @property
    def earlier(self) -> Earlier:
        """What it had cost.

        Raises:
            TraceError: the checkpoint holds something else.
        """
        return Earlier.from_state_dict(self.run)

    def epoch_begins_anew(self, trainer: Trainer) -> bool:
        """Whether the epoch that was under way is trained from its beginning again."""
        again = self.epoch == trainer.current_epoch and self.batches > 0
        return again and plan.batches_seen(trainer) == 0


def save(trainer: Trainer, monitor: Callback, run: Run, checkpoint: dict[str, Any]) -> None:
    """Put into a checkpoint what is needed to go on from it: plain numbers, text, lists."""
    checkpoint.setdefault(_KEY, {})[_number(trainer, monitor)] = {
        "run": run.state_dict(),
        "epoch": trainer.current_epoch,
        "batches": plan.batches_seen(trainer),
    }


def load(trainer: Trainer, monitor: Callback, checkpoint: Mapping[str, Any]) -> Resumption | None:
    """What `save` put into a checkpoint; None if there is nothing."""
    state = checkpoint.get(_KEY, {}).get(_number(trainer, monitor))
    return None if state is None else Resumption(**state)


def earlier_changes(earlier: Earlier, run: Run, world_size: int) -> list[dict[str, Any]]:
    """What has changed the energy of an epoch up to now, for the trace's `planned_changes`.

    That is what came before the checkpoint, and other GPUs since.

    Args:
        earlier: the part before the checkpoint.
        run: of this process.
        world_size: number of processes.
    """
    changes = earlier.meta.get("planned_changes")
    rows = len(earlier)
    past = [c for c in changes if _is_before(c, rows)] if isinstance(changes, list) else []
    # Of the other processes it is not known yet what they measure; it is taken to be the same.
    before, now = _gpus(earlier.devices), _gpus(run.trace.devices) * world_size
    if before and now and before != now:
        # An epoch that began on the one and ended on the other belongs to neither.
        row = rows + 0.5 if earlier.open_row else float(rows)
        names = ", ".join(f"{now.count(name)} x {name}" for name in dict.fromkeys(now))
        past.append({"epoch": row, "reason": f"resumed on {names}", "known_since": rows})
    return past


def _is_before(change: object, rows: int) -> bool:
    """Whether a change of a trace's meta, which may hold anything, came before that row."""
    epoch = change.get("epoch") if isinstance(change, dict) else None
    return isinstance(epoch, int | float) and epoch < rows


def _gpus(devices: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(str(d.get("name")) for d in devices if d.get("kind") == "gpu")


def _number(trainer: Trainer, monitor: Callback) -> str:
    """Which of the Trainer's monitors it is."""
    alike = [c for c in trainer.callbacks if type(c) is type(monitor)]  # type: ignore[attr-defined]
    return str(next((i for i, callback in enumerate(alike) if callback is monitor), 0))
