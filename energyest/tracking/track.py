"""`track()`: energy of any training loop; and the sensors that a training needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from energyest.carbon import Intensity
from energyest.checks import check_count
from energyest.errors import ConfigurationError
from energyest.measure.sensors import Detection, Kind, Sensor, detect
from energyest.measure.sensors.base import check_device_names
from energyest.measure.sensors.detection import lost, warn_of
from energyest.settings import settings
from energyest.tracking.checks import check_folder, check_settings
from energyest.tracking.cost.budget import Budget, OnExceed
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
    budget_kWh: float | None = None,
    budget_kg: float | None = None,
    budget_hours: float | None = None,
    on_exceed: OnExceed = "warn",
    carbon_intensity: Intensity | None = None,
    pue: float | None = None,
    quiet: bool | None = None,
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
        budget_kWh: energy that the run may use; see docs/how_to/stop_at_a_budget.md.
        budget_kg: CO2e that it may emit, which needs a carbon intensity.
        budget_hours: how long it may take.
        on_exceed: "warn" that a budget is exceeded or will be; or "stop" to end `run.epochs` after
            the epoch, and `run.steps` after the step. A loop of your own asks `run.exceeded`.
        carbon_intensity: of the electricity: a country, such as "DE", or a number in g CO2e per
            kWh; by default the setting, see docs/reference/settings.md.
        pue: power usage effectiveness of the data centre, for CO2e alone; by default the setting,
            or 1.
        quiet: leave out the summary at the end; by default the setting, or False.

    Raises:
        ConfigurationError: an argument is out of its range. Nothing is raised once the run goes.
        EstimateError: the country is not known, or the intensity is negative or not finite.

    Examples:
        >>> from energyest import track
        >>> with track('runs/energy', quiet=True) as run:
        ...     for epoch in run.epochs(3):
        ...         run.log(val_acc=0.9)
        >>> len(run.trace)
        3
    """
    if epochs is not None:
        check_count(epochs, "epochs", ConfigurationError)
    check_settings(confidence, interval_s, components, batch_size)
    if sensors is not None:  # now, and not when the run begins
        given = sensors if isinstance(sensors, Detection) else Detection(tuple(sensors))
        check_device_names(given.devices)
    chosen = settings(folder=folder, carbon_intensity=carbon_intensity, pue=pue, quiet=quiet)
    place = check_folder(chosen.folder)
    budget = Budget.of(
        kWh=budget_kWh,
        kg=budget_kg,
        hours=budget_hours,
        on_exceed=on_exceed,
        intensity=chosen.carbon_intensity,
        pue=chosen.pue,
    )

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

    return Run(session, budget, chosen)


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
