"""`track()`, which measures any training loop, and the sensors that a training needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from energyest.carbon import Intensity
from energyest.checks import check_count
from energyest.errors import ConfigurationError
from energyest.measure.sensors import Detection, Kind, Sensor, detect
from energyest.measure.sensors.base import check_devices
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
    """Measure the energy of any training loop.

        with track("runs/energy") as run:
            for epoch in run.epochs(100):
                train_one_epoch()
                with run.validation():
                    accuracy = validate()
                run.log(val_acc=accuracy)
                print(run.projection)

    If the loop is not yours, call `run.start_epoch()` and `run.end_epoch(val_acc=0.9)`.
    For training without epochs, use `for step in run.steps(10_000, every_n_steps=200)`.

    As a decorator, it makes each call of the function a run. The run is passed to the parameter
    `run`, if there is one, and stored in the attribute `run` of the function:

        @track("runs/energy")
        def train(run):
            for epoch in run.epochs(100):
                train_one_epoch()

        train()
        print(train.run.total_J)

    Without `with`: `run = track()`, `run.start()` and `run.stop()`. A run can be used only once.

    Args:
        folder: where to write the trace as it grows; None to keep it in memory. If the folder
            already holds a trace, or a file with the name of a trace file, a free name next to it
            is used.
        epochs: number of epochs planned, for `run.projection`; `run.epochs(n)` sets it as well.
        gpus: the GPUs to measure: numbers as nvidia-smi shows them, UUIDs, MIG identifiers or PCI
            bus ids; by default those visible to this process through CUDA.
        components: what to measure: GPUs, the machine's processors and its memory; on request also
            "module" and "system", see docs/how_to/measure_a_node.md.
        sensors: sensors to use instead of what `detect()` finds.
        interval_s: sampling interval in seconds; GPUs update their readings every 0.1 s. It becomes
            0.5 s in long epochs, while power is steady and the energy counters work.
        confidence: coverage probability of the interval of `run.projection`.
        batch_size: a function that returns the number of samples in a batch, for
            `run.count_flops`; needed where the structure of the batch does not show it.
        budget_kWh: energy that the run may use; see docs/how_to/stop_at_a_budget.md.
        budget_kg: CO2e that the run may emit, in kg; requires a carbon intensity.
        budget_hours: how long the run may take.
        on_exceed: "warn" when a budget is exceeded or will be, or "stop" to end `run.epochs` after
            the epoch and `run.steps` after the step. In a loop of your own, check `run.exceeded`.
            With several processes, it only warns.
        carbon_intensity: carbon intensity of the electricity: a country, such as "DE", or a number
            in g CO2e per kWh; by default the setting, see docs/reference/settings.md.
        pue: power usage effectiveness of the data centre, for CO2e only; by default the setting,
            or 1.
        quiet: omit the summary at the end; by default the setting, or False.

    Raises:
        ConfigurationError: an argument is invalid. Nothing is raised once the run has started.
        EstimateError: the country is unknown, or the intensity is negative or not finite.

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
    if sensors is not None:  # fail now, not when the run begins
        given = sensors if isinstance(sensors, Detection) else Detection(tuple(sensors))
        check_devices(given.devices)
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
        made.describe(**chosen.basis.as_meta())
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
    """The given sensors, or the sensors of this machine; see `track`.

    Args:
        gpus: see `track`.
        components: see `track`.
        sensors: see `track`.
        others: accelerators in use that no sensor can read.
    """
    if sensors is None:
        found = detect(gpus, components=components)
        for name in others if "gpu" in components else ():
            loss = f"{name} is not measured: no sensor here can read it"
            device = lost("gpu", f"gpu:{name.replace(':', '')}", name, "no sensor can read it")
            found += Detection((), (loss,), (device,), (loss,))
    else:
        found = sensors if isinstance(sensors, Detection) else Detection(tuple(sensors))
    warn_of(
        found.losses if found.unknown else (),
        ". Use `components` to leave out what the training does not use",
    )
    return found
