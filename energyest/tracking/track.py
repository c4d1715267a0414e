"""`track()`: energy of any training loop; and the sensors that a training needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from energyest.checks import check_count
from energyest.errors import ConfigurationError
from energyest.measure.sensors import Detection, Kind, Sensor, detect
from energyest.measure.sensors.detection import lost, warn_of
from energyest.tracking.checks import check_folder, check_settings
from energyest.tracking.plan import Length
from energyest.tracking.progress import BatchSize
from energyest.tracking.run import Run
from energyest.tracking.session import Session


def track(
    folder: str | Path | None = None,
    *,
    epochs: int | None = None,
    gpus: Sequence[int | str] | None = None,
    components: Sequence[Kind] = ("gpu", "cpu", "ram"),
    sensors: Sequence[Sensor] | None = None,
    interval_s: float = 0.1,
    confidence: float = 0.9,
    batch_size: BatchSize | None = None,
) -> Run:
    """Measure any training loop.

        with track("runs/energy") as run:
            for epoch in run.epochs(100):
                train_one_epoch()
                with run.validation():
                    accuracy = validate()
                run.log(val_acc=accuracy)
                print(run.projection)

    or, where the loop is not yours to write, `run.start_epoch()` and `run.end_epoch(val_acc=0.9)`.
    A training without epochs: `for step in run.steps(10_000, every_n_steps=200)`.

    As a decorator, each call of the function is a run; a parameter `run` gets it, and so does the
    attribute `run` of the function:

        @track("runs/energy")
        def train(run):
            for epoch in run.epochs(100):
                train_one_epoch()

        train()
        print(train.run.total_J)

    By hand, `run = track()`, `run.start()` and `run.stop()`. A run measures once.

    Args:
        folder: where to write the trace while it grows; None to keep it in memory. If the folder
            holds a trace already, or a file that has the name of one of a trace's, a free name
            next to it is taken.
        epochs: number of epochs planned, for `run.projection`; `run.epochs(n)` sets it as well.
        gpus: the GPUs to measure: numbers as nvidia-smi shows them, UUIDs, MIG identifiers or PCI
            bus ids; by default those that CUDA shows to this process.
        components: what to measure: GPUs, the machine's processors, its memory.
        sensors: sensors to use instead of what `detect()` finds.
        interval_s: seconds between readings; GPUs renew theirs every 0.1 s.
        confidence: probability for the interval of `run.projection`.
        batch_size: a function that tells `run.count_flops` how many samples are in a batch, where
            its build does not show it.

    Raises:
        ConfigurationError: an argument is out of its range. Nothing is raised once the run goes.
    """
    if epochs is not None:
        check_count(epochs, "epochs", ConfigurationError)
    check_settings(confidence, interval_s, components, batch_size)
    place = check_folder(folder)

    def session() -> Session:
        made = Session(
            find_sensors(gpus, components, sensors),
            folder=place,
            interval_s=interval_s,
            confidence=confidence,
            batch_size=batch_size,
        )
        if epochs is not None:
            made.length = Length(epochs)
        return made

    return Run(session)


def find_sensors(
    gpus: Sequence[int | str] | None,
    components: Sequence[Kind],
    sensors: Sequence[Sensor] | None,
    *,
    others: Sequence[str] = (),
) -> Detection:
    """The sensors given, or those that this machine has; see `track`.

    Args:
        gpus: see `track`.
        components: see `track`.
        sensors: see `track`.
        others: accelerators in use that nothing here can read.
    """
    if sensors is None:
        found = detect(gpus, components=components)
        for name in others if "gpu" in components else ():
            loss = f"{name} is not measured: only GPUs of NVIDIA are"
            device = lost("gpu", f"gpu:{name.replace(':', '')}", name, "no GPU of NVIDIA")
            found += Detection((), (loss,), (device,), (loss,))
    else:
        found = sensors if isinstance(sensors, Detection) else Detection(tuple(sensors))
    warn_of(found.losses, ". What the training does not use can be left out by `components`")
    return found
