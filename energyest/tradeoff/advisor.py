"""`advise`: which model on which GPU, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from energyest.errors import EstimateError
from energyest.estimators.checks import check_confidence, check_positive, is_number
from energyest.estimators.pre.estimate import does_not_fit, estimate_pre, mismatch
from energyest.estimators.pre.model import PreModel, packaged
from energyest.estimators.pre.totals import check_samples, whole_trainings, with_validation
from energyest.gpus import Gpu, check_precision, peak_flops, resolve_gpu
from energyest.integration import FloatArray
from energyest.records.probe import Probe
from energyest.records.workload import Workload
from energyest.tradeoff.advice import COLUMNS, Advice
from energyest.tradeoff.pareto import undominated
from energyest.tradeoff.table import Mode, check_quality, direction

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Row = dict[str, Any]


def advise(
    models: Mapping[str, Workload] | Sequence[Workload] | Workload,
    gpus: Sequence[str | Gpu] | str | Gpu,
    *,
    epochs: float | Mapping[str, float],
    train_samples: int,
    validation_samples: int = 0,
    quality: Mapping[str, float] | None = None,
    mode: Mode = "max",
    probes: Sequence[Probe] = (),
    model: PreModel | None = None,
    confidence: float = 0.9,
) -> Advice:
    """What every model would cost on every GPU, and which pairs no other pair beats.

    Each pair's numbers are those of `estimate_pre`: the energy of the GPU alone, without
    processors, memory and cooling. A slower GPU keeps the rest of its machine busy for longer,
    which is not in them.

    A pair is on the front if no other is expected to take as little energy and time, with as good a
    quality, and less of one of them. As expectations are off, `may_be_on_front` also marks pairs of
    which that cannot be ruled out: no other is below them in energy *and* in time by more than
    the root of the sum of the squares of both half-widths, in logarithms. That takes errors of two
    pairs as independent. They are between two models on one GPU (ratios deviated 0.96 times as much
    as independent ones in `benchmarks/data/sweep.jsonl.gz`); between two GPUs for one model they
    are partly shared (0.65 times in zeus_nsdi23), and the rule is wider than it needs to be.

    Among models on a GPU that was measured, this chose far better than FLOPs or parameters do:
    the truly cheapest of six unseen networks in 83 to 90 % of menus, against 33 to 52 %. Among GPUs
    that were not measured it did not: of two of V100, P100 and RTX 6000 it took the cheaper one in
    71 % of cases, the lower TDP alone in 83 % (`benchmarks/evidence/advise_accuracy.py`). Probe
    those.

    Args:
        models: workloads by name, from `describe_workload`; or one or a list of them, whose models
            then are the names. One model may be there with several batch sizes or precisions, under
            a name each.
        gpus: names ("H100", "RTX 3090") or `Gpu`s, one or several.
        epochs: number of epochs, above 0: for all, or for each name in `models`.
        train_samples: samples in an epoch.
        validation_samples: samples that are validated after each epoch.
        quality: name -> expected quality, such as an accuracy, taken as exact.
        mode: whether more quality is better, "max", or less, "min".
        probes: from `energyest.probe`: a pair that was probed is estimated from its probe.
        model: a `PreModel` of your own; by default the one that comes with the package.
        confidence: probability for the intervals and for `may_be_on_front`.

    Returns:
        The advice, with one row a pair in its `table`. A pair that cannot be, as the GPU lacks the
        precision or the memory, stands at its end with the reason, and NaN for its costs.

    Raises:
        EstimateError: there is no model or GPU, or one is there twice; a GPU is unknown (the
            nearest names are given) or lacks numbers; names in `epochs` or `quality` are not those
            of `models`; a number is out of its range; a probe is of no pair; or as `estimate_pre`.
    """
    named, boards = _named(models), _boards(gpus)
    names = list(named)
    epochs_of = _epochs_of(epochs, names)
    train_samples = check_samples(train_samples, "train_samples", least=1)
    validation_samples = check_samples(validation_samples, "validation_samples", least=0)
    known = packaged() if model is None else model
    if not isinstance(known, PreModel):
        raise EstimateError(f"model is a {type(model).__name__}: it must be a fitted PreModel")
    direction("quality", mode)
    if quality is not None:
        quality = _of_each(quality, names, "quality")
        _check_units(quality, mode)
    samples = {"train_samples": train_samples, "validation_samples": validation_samples}
    asked: dict[str, Any] = {"model": known, "confidence": check_confidence(confidence), **samples}
    probe_of = _probe_of(probes, named, boards)
    possible: list[Row] = []
    impossible: list[Row] = []
    for name, workload in named.items():
        for gpu in boards:
            probe = probe_of.get((name, gpu.name))
            row: Row = {
                "model": name,
                "gpu": gpu.name,
                "batch_size": workload.batch_size,
                "precision": workload.precision,
                "quality": np.nan if quality is None else quality[name],
            }
            cannot = "" if probe else _cannot(workload, gpu)
            if cannot:
                impossible.append({**row, "note": cannot})
                continue
            row |= _computes_in(workload, gpu)
            if probe:
                row |= _probed(probe, workload, epochs_of[name], asked)
            else:
                row |= {"pair": (workload, gpu), "epochs": epochs_of[name]}
            possible.append(row)
    _foretell([row for row in possible if "pair" in row], asked)
    for row in possible:
        row["note"] = "; ".join([*row["reasons"], *row["remarks"]])
        if not np.isfinite(row["energy_J"] * row["duration_s"]):
            raise EstimateError(
                f"energy and time of {row['model']} on {row['gpu']} are too large for a number: "
                "ask for fewer epochs or samples"
            )
    table = _table(possible, impossible, None if quality is None else mode)
    return Advice(table, asked["confidence"], None if quality is None else mode)


# ------------------------------------------------------------------ what was asked


def _named(models: Mapping[str, Workload] | Sequence[Workload] | Workload) -> dict[str, Workload]:
    if isinstance(models, Mapping):
        pairs = list(models.items())
    else:
        several = models if isinstance(models, Iterable) else [models]
        pairs = [(getattr(workload, "model", ""), workload) for workload in several]
    for name, workload in pairs:
        if not isinstance(workload, Workload):
            raise EstimateError(
                f"models hold a {type(workload).__name__}: they must be workloads from "
                "describe_workload, in a dict by name or in a list"
            )
        if not (isinstance(name, str) and name):
            raise EstimateError(f"name={name!r} of a model must be a text")
    if not pairs:
        raise EstimateError("there is no model to give advice on")
    twice = _first_double([name for name, _ in pairs])
    if twice:
        raise EstimateError(
            f"two workloads are of the model {twice!r}: pass a dict with a name for each, such as "
            f'{{"{twice}, batch 32": ..., "{twice}, batch 64": ...}}'
        )
    return dict(pairs)


def _boards(gpus: Sequence[str | Gpu] | str | Gpu) -> list[Gpu]:
    several = [gpus] if isinstance(gpus, str | Gpu) or not isinstance(gpus, Iterable) else gpus
    boards = [resolve_gpu(gpu) for gpu in several]
    if not boards:
        raise EstimateError("there is no GPU to give advice on")
    twice = _first_double([gpu.name for gpu in boards])
    if twice:
        raise EstimateError(f"the GPU {twice} is named twice: name it once")
    return boards


def _epochs_of(epochs: float | Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    numbers = (
        _of_each(epochs, names, "epochs")
        if isinstance(epochs, Mapping)
        else dict.fromkeys(names, epochs)
    )
    return {
        name: check_positive(
            number, f"epochs of {name}" if isinstance(epochs, Mapping) else "epochs"
        )
        for name, number in numbers.items()
    }


def _of_each(values: Mapping[str, float], names: Sequence[str], what: str) -> dict[str, float]:
    """A finite number for each name, and none for any other."""
    if not isinstance(values, Mapping):
        raise EstimateError(
            f"{what} is a {type(values).__name__}: it must be a dict from the names of the models"
        )
    for lacking, text in (
        ([name for name in names if name not in values], "is not known for"),
        ([name for name in values if name not in names], "names what is no model here:"),
    ):
        if lacking:
            raise EstimateError(
                f"{what} {text} {', '.join(map(repr, lacking))}; the models are "
                f"{', '.join(map(repr, names))}"
            )
    for name in names:
        if not (is_number(values[name]) and np.isfinite(values[name])):
            raise EstimateError(f"{what} of {name!r} is {values[name]!r}: it must be a number")
    return {name: float(values[name]) for name in names}


def _check_units(quality: Mapping[str, float], mode: Mode) -> None:
    """Shares do not stand beside percentages."""
    import pandas as pd  # noqa: PLC0415

    if mode == "max":
        check_quality(pd.DataFrame({"run": list(quality), "quality": quality.values()}), "quality")


def _first_double(names: Sequence[str]) -> str:
    return next((name for i, name in enumerate(names) if name in names[:i]), "")


def _probe_of(
    probes: Sequence[Probe], named: Mapping[str, Workload], boards: Sequence[Gpu]
) -> dict[tuple[str, str], Probe]:
    """(name, GPU) -> its probe."""
    found: dict[tuple[str, str], Probe] = {}
    for probe in [probes] if isinstance(probes, Probe) else probes:
        if not isinstance(probe, Probe):
            raise EstimateError(
                f"probes hold a {type(probe).__name__}: they must be Probes from probe()"
            )
        of = [
            (name, gpu.name)
            for name, workload in named.items()
            for gpu in boards
            if gpu.name == probe.gpu.name and not mismatch(probe, workload)
        ]
        if not of:
            raise EstimateError(
                f"the probe of {probe.workload.model} on {probe.gpu.name} is of no pair that was "
                "asked for: model, batch size, precision, optimizer and FLOPs have to be the same"
            )
        twice = [pair for pair in of if pair in found]
        if twice:
            raise EstimateError(f"{twice[0][0]!r} on {twice[0][1]} is probed twice: give one probe")
        found.update(dict.fromkeys(of, probe))
    return found


def _cannot(workload: Workload, gpu: Gpu) -> str:
    """Why the workload cannot be trained, or be predicted, on the GPU; nothing where it can."""
    if not any(operation.phase == "forward" for operation in workload.operations):
        return "its workload has no operations of the forward pass to time"
    try:
        peak_flops(gpu, workload.precision)
    except EstimateError as error:
        return str(error)
    return does_not_fit(workload, gpu)


# ------------------------------------------------------------------ what is expected


def _probed(probe: Probe, workload: Workload, epochs: float, asked: Mapping[str, Any]) -> Row:
    found = estimate_pre(workload, probe=probe, epochs=epochs, **asked)
    assert found.upper_J is not None
    return {
        "energy_J": found.energy_J,
        "duration_s": found.duration_s,
        "half": float(np.log(found.upper_J / found.energy_J)),
        "basis": "probe",
        "reasons": (),
    }


def _computes_in(workload: Workload, gpu: Gpu) -> Row:
    """The precision that the GPU computes in, and what is to be said of it and of the workload."""
    used = check_precision(gpu, workload.precision)
    instead = [f"computes in {used}, as it lacks {workload.precision}"]
    return {
        "precision": used,
        "remarks": (*(instead if used != workload.precision else []), *workload.notes),
    }


def _foretell(rows: Sequence[Row], asked: Mapping[str, Any]) -> None:
    """Fill in what is expected of the pairs, all at once: one by one takes ten times as long."""
    if not rows:
        return
    known: PreModel = asked["model"]
    pairs = [row["pair"] for row in rows]
    predicted = known.predict(with_validation(pairs))
    total = whole_trainings(
        pairs,
        predicted,
        known.half_width(predicted, asked["confidence"]),
        epochs=np.array([row["epochs"] for row in rows]),
        train_samples=asked["train_samples"],
        validation_samples=asked["validation_samples"],
    )
    reasons = known.beyond_measured(pairs, predicted)
    for i, row in enumerate(rows):
        row |= {
            "energy_J": total.energy_J[i],
            "duration_s": total.duration_s[i],
            "half": total.half[i],
            "basis": "extrapolation" if reasons[i] else "interpolation",
            "reasons": reasons[i],
        }


def _table(possible: Sequence[Row], impossible: Sequence[Row], mode: Mode | None) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415

    table = pd.DataFrame([*possible, *impossible]).reindex(columns=[*COLUMNS, "half"])
    n = len(possible)
    is_possible = np.arange(len(table)) < n
    energy_J, duration_s, half = (
        table[name].to_numpy(float) for name in ("energy_J", "duration_s", "half")
    )
    sign = -1.0 if mode == "max" else 1.0
    worse = np.zeros(len(table)) if mode is None else sign * table["quality"].to_numpy(float)
    on_front, may_be = is_possible.copy(), is_possible.copy()
    on_front[:n] = undominated(np.stack([energy_J, duration_s, worse], axis=1)[:n])
    may_be[:n] = ~surely_beaten(energy_J[:n], duration_s[:n], worse[:n], half[:n])
    table = table[list(COLUMNS)].assign(
        energy_J=energy_J,
        lower_J=energy_J * np.exp(-half),
        upper_J=energy_J * np.exp(half),
        duration_s=duration_s,
        mean_power_W=energy_J / duration_s,
        on_front=on_front,
        may_be_on_front=may_be,
    )
    order = np.lexsort([energy_J, ~on_front])  # NaN comes last
    sorted_rows: pd.DataFrame = table.iloc[order].reset_index(drop=True)
    return sorted_rows


def surely_beaten(
    energy_J: FloatArray, duration_s: FloatArray, worse: FloatArray, half: FloatArray
) -> NDArray[np.bool_]:
    """Which pairs another one beats whatever the errors, within the confidence of `half`.

    Each end of an interval is missed with half of what the confidence leaves, so both ends,
    that of the energy and that of the time, are missed with no more than all of it. Errors of the
    time are taken to be like those of the energy: on unseen architectures the energy's
    interval held the time of 88 % of steps, the energy of 91 %.
    """
    ln_J, ln_s = np.log(energy_J), np.log(duration_s)
    beaten = [
        (
            (worse <= worse[i])
            & (ln_J[i] - ln_J > np.hypot(half, half[i]))
            & (ln_s[i] - ln_s > np.hypot(half, half[i]))
        ).any()
        for i in range(len(ln_J))
    ]
    return np.array(beaten, bool)
