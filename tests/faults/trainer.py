"""Lightning: exceptions in its hooks, signals, workers, and several runs."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from energyest import load_trace
from energyest.measure.sensors import detect
from simulation.scene import Scene
from simulation.trainers import quiet_trainer
from tests.faults import (
    Outcome,
    all_epochs_recorded,
    case,
    fact,
    goes_on,
    nothing_missing,
    quiet,
    relative,
    status,
    within,
)
from tests.faults.training import WATTS, draw_exactly, exit_status_of, in_a_fork, of_trace

if TYPE_CHECKING:
    from energyest import EnergyMonitor

BATCHES = 4
RIGHT = within(1)
HOOKS = (
    "setup",
    "on_fit_start",
    "on_sanity_check_start",
    "on_sanity_check_end",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_save_checkpoint",
    "on_train_end",
    "on_fit_end",
    "teardown",
)


# Of the LightningModule itself.
MODULE_HOOKS = (
    "setup",
    "configure_optimizers",
    "on_fit_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "training_step",
    "backward",
    "optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "validation_step",
    "on_validation_epoch_end",
    "on_train_epoch_end",
    "on_save_checkpoint",
    "on_train_end",
    "on_fit_end",
    "teardown",
)


class AccidentError(Exception):
    """Something in the user's code."""


def accident(*_: Any, **__: Any) -> None:
    """Happens in a hook."""
    raise AccidentError


def monitor(scene: Scene, folder: Path) -> EnergyMonitor:
    """A monitor of GPU 0, which draws so much all the time."""
    from energyest import EnergyMonitor

    draw_exactly(scene)
    return EnergyMonitor(folder, sensors=detect([0], components=["gpu"]), count_flops=False)


def fit(
    folder: Path,
    callbacks: Sequence[Any],
    *,
    epochs: int = 3,
    step_s: float = 0.0,
    act: Callable[[Any], object] = id,
    failing: str | None = None,
    **loading: Any,
) -> Any:
    """Train a small net; returns its Trainer.

    Args:
        folder: for checkpoints.
        callbacks: of the Trainer.
        epochs: how many.
        step_s: how long a step takes, or more.
        act: called at each step with the model.
        failing: hook of the model that fails.
        **loading: options of the DataLoader.
    """
    import pytorch_lightning as pl
    import torch

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            time.sleep(step_s)
            act(self)
            return self.layer(batch[0]).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.layer(batch[0])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.set_num_threads(1)
    data = torch.utils.data.TensorDataset(torch.ones(2 * BATCHES, 4))
    loader = torch.utils.data.DataLoader(data, batch_size=2, **loading)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = quiet_trainer(
            pl, folder, *callbacks, max_epochs=epochs, enable_checkpointing=True
        )
        net = Net()
        if failing is not None:
            setattr(net, failing, accident)
        trainer.fit(net, loader, loader)
    return trainer


def threads() -> int:
    """How many threads of the monitor there are."""
    return sum(thread.name.startswith("energyest") for thread in threading.enumerate())


def judged(folder: Path, epochs: int, planned: int) -> Outcome:
    """What the trace in a folder says, next to the constant power that it should show."""
    trace = load_trace(folder)
    outcome = of_trace(trace)
    outcome.epochs, outcome.planned = epochs, planned
    outcome.error_percent = relative(trace.total_J, WATTS * trace.meta["duration_s"])
    powers = zip(trace.column("energy_J"), trace.column("duration_s"), strict=True)
    outcome.epoch_errors = [relative(float(J), WATTS * float(s)) for J, s in powers]
    return outcome


def raising(hook: str) -> Any:
    """A callback that fails in one hook."""
    import pytorch_lightning as pl

    return type("Raising", (pl.Callback,), {hook: accident})()


def expected_ends(hook: str, place: str) -> tuple[str | None, ...]:
    """What a trace may say of a fit whose hook has failed; None is no trace."""
    if hook == "teardown" or (hook == "on_fit_end" and place != "before"):
        return ("finished",)
    if hook == "setup" or (hook == "on_fit_start" and place == "before"):
        return (None,)  # the run begins with the monitor's own
    if hook == "configure_optimizers":  # before or after that, by the version of Lightning
        return (None, "interrupted by AccidentError")
    return ("interrupted by AccidentError",)


@case(
    "an exception in any hook of the model, or of another callback before or after the monitor",
    "ends with that exception",
    'is closed, with no thread left; status "interrupted by" it, but "finished" where the training '
    "was over: after the monitor's `on_fit_end`, and in `teardown`",
    fact("other exceptions", []),
    fact("threads left", []),
    fact("traces with another end", []),
    fact("hooks", 2 * len(HOOKS) + len(MODULE_HOOKS)),
    quiet,
    with_others=True,
)
def exception_in_any_hook(scene: Scene, folder: Path) -> Outcome:
    outcome = Outcome()
    others, left, wrong_ends = [], [], []
    places = [(hook, place) for hook in HOOKS for place in ("before", "after")]
    places += [(hook, "model") for hook in MODULE_HOOKS]
    for hook, place in places:
        name = f"{hook}-{place}"
        ours = monitor(scene, folder / name / "energy")
        callbacks: list[Any] = [ours]
        if place != "model":
            callbacks.insert(0 if place == "before" else 1, raising(hook))
        try:
            fit(folder / name, callbacks, epochs=1, failing=hook if place == "model" else None)
            others.append(f"{name}: none")
        except AccidentError:
            pass
        except Exception as error:
            others.append(f"{name}: {error!r}")
        if threads():
            left.append(name)
        ended = None if ours.folder is None else load_trace(ours.folder).meta["status"]
        if ended not in expected_ends(hook, place):
            wrong_ends.append(f"{name}: {ended}")
    outcome.facts |= {
        "hooks": len(places),
        "other exceptions": others,
        "threads left": left,
        "traces with another end": wrong_ends,
    }
    return outcome


@case(
    "another callback fails in `on_exception`, so that the monitor is not told of the end",
    "ends with that exception; the next `fit` is trained and measured as any other",
    'is closed at the next `fit`, or when the process ends; status "interrupted"',
    goes_on,
    all_epochs_recorded,
    RIGHT,
    fact("status of the first", "interrupted"),
    fact("threads left", 0),
    quiet,
    with_others=True,
)
def exception_in_on_exception(scene: Scene, folder: Path) -> Outcome:
    ours = monitor(scene, folder / "energy")

    def accident(model: Any) -> None:
        raise AccidentError

    with contextlib.suppress(AccidentError):
        fit(folder, [raising("on_exception"), ours], act=accident)
    first = ours.folder
    assert first is not None
    ours._sensors = detect([0], components=["gpu"])  # those of the first are closed with it
    fit(folder, [ours], step_s=0.02)
    assert ours.folder is not None
    outcome = judged(ours.folder, 3, 3)
    outcome.facts["status of the first"] = load_trace(first).meta["status"]
    outcome.facts["threads left"] = threads()
    return outcome


@case(
    "SIGTERM, handled by Lightning",
    "ends as without the monitor",
    'is closed; status "interrupted by SIGTERMException"',
    fact("ends as without the monitor", True),
    all_epochs_recorded,
    RIGHT,
    status("interrupted by SIGTERMException"),
    quiet,
    with_others=True,
)
def sigterm_in_lightning(scene: Scene, folder: Path) -> Outcome:
    def terminate(model: Any) -> None:
        if model.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def exit_status(*callbacks: Any) -> int:
        return exit_status_of(in_a_fork(lambda: fit(folder, callbacks, act=terminate, step_s=0.05)))

    expected, ended = exit_status(), exit_status(monitor(scene, folder / "energy"))
    outcome = judged(folder / "energy", 1, 0)
    outcome.exit_status = ended
    outcome.facts["ends as without the monitor"] = ended == expected
    return outcome


@case(
    "data-loader workers by `os.fork`, two for each epoch and validation",
    "continues",
    "belongs to the parent alone",
    goes_on,
    all_epochs_recorded,
    RIGHT,
    nothing_missing,
    quiet,
    fact("threads left", 0),
    with_others=True,
)
def forked_workers(scene: Scene, folder: Path) -> Outcome:
    fit(
        folder,
        [monitor(scene, folder / "energy")],
        step_s=0.05,
        num_workers=2,
        multiprocessing_context="fork",
    )
    outcome = judged(folder / "energy", 3, 3)
    outcome.facts["threads left"] = threads()
    return outcome


@case(
    "two monitors at once",
    "continues",
    "each is complete, in a folder of its own",
    goes_on,
    all_epochs_recorded,
    RIGHT,
    nothing_missing,
    quiet,
    fact("rows of the second", 3),
    with_others=True,
)
def two_monitors(scene: Scene, folder: Path) -> Outcome:
    ours = [monitor(scene, folder / "energy") for _ in range(2)]
    fit(folder, ours, step_s=0.05)
    outcome = judged(folder / "energy", 3, 3)
    outcome.facts["rows of the second"] = len(load_trace(folder / "energy-2"))
    return outcome


@case(
    "`fit` twice, then `fit`, `validate`, `fit`, with one monitor",
    "continues",
    "each `fit` has its own; the validation in between is in none",
    goes_on,
    all_epochs_recorded,
    RIGHT,
    nothing_missing,
    quiet,
    fact("rows of each", [3, 3, 3, 3]),
    fact("threads left", 0),
    with_others=True,
)
def fit_again(scene: Scene, folder: Path) -> Outcome:
    ours = monitor(scene, folder / "energy")
    folders = []
    for number in range(4):
        ours._sensors = detect([0], components=["gpu"])
        trainer = fit(folder, [ours], step_s=0.05)
        assert ours.folder is not None
        folders.append(ours.folder)
        if number == 2:
            trainer.validate(trainer.lightning_module, trainer.val_dataloaders, verbose=False)
    outcome = judged(folders[-1], 3, 3)
    outcome.facts["rows of each"] = [len(load_trace(one)) for one in folders]
    outcome.facts["threads left"] = threads()
    return outcome


@contextlib.contextmanager
def timer_calls(handler: Callable[..., object], every_s: float) -> Iterator[None]:
    """A signal comes at an interval, wherever the training's thread is, but in its own handler."""
    is_handling = False

    def once(*arguments: Any) -> None:
        nonlocal is_handling
        if not is_handling:
            is_handling = True
            try:
                handler(*arguments)
            finally:
                is_handling = False

    before = signal.signal(signal.SIGALRM, once)
    signal.setitimer(signal.ITIMER_REAL, every_s, every_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@case(
    "a signal handler saves checkpoints and asks for totals, as Lightning's own does on Slurm",
    "continues",
    "nothing is missing; each checkpoint contains whole epochs",
    goes_on,
    all_epochs_recorded,
    RIGHT,
    nothing_missing,
    fact("checkpoints with half an epoch", 0),
    quiet,
)
def handler_saves_checkpoints(scene: Scene, folder: Path) -> Outcome:
    ours, saved = monitor(scene, folder / "energy"), []

    def save(*_: Any) -> None:
        checkpoint: dict[str, Any] = {}
        if trainers:
            ours.on_save_checkpoint(trainers[0], trainers[0].lightning_module, checkpoint)
            _ = ours.total_J, ours.projection
        saved.extend(entry["run"] for entry in checkpoint.get("energyest", {}).values())

    trainers: list[Any] = []
    with timer_calls(save, 0.005):
        fit(
            folder,
            [ours],
            step_s=0.05,
            act=lambda model: trainers or trainers.append(model.trainer),
        )
    outcome = judged(folder / "energy", 3, 3)
    steps = [set(run["columns"].get("steps", [])) - {BATCHES} for run in saved]
    outcome.facts["checkpoints with half an epoch"] = sum(map(bool, steps))
    assert len(saved) > 10
    return outcome


@case(
    "a signal handler raises an error, as for a time limit of the user's own",
    "ends with that error",
    'is closed, with no thread left; status "interrupted by" it',
    fact("ends with that error", True),
    fact("threads left", 0),
    status("interrupted by AccidentError"),
    quiet,
)
def handler_raises(scene: Scene, folder: Path) -> Outcome:
    ours, before = monitor(scene, folder / "energy"), threads()
    ended = False

    def raise_it(*_: Any) -> None:
        if ours._session is not None and ours._session.in_row:  # however long it takes to begin
            accident()

    try:
        with timer_calls(raise_it, 0.4):
            # Slow steps: it comes before there are enough epochs to warn of a changed projection.
            fit(folder, [ours], epochs=1000, step_s=0.1)
    except AccidentError:
        ended = True
    outcome = judged(folder / "energy", 0, 0)
    outcome.facts["ends with that error"] = ended
    outcome.facts["threads left"] = threads() - before
    return outcome
