"""`advise`: compares models on GPUs before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.checks import check_confidence, check_positive, is_number
from energyest.errors import EstimateError, RunsError
from energyest.estimators.pre.estimate import does_not_fit, estimate_pre, fitted_of
from energyest.estimators.pre.fitted import FittedPreModel
from energyest.estimators.pre.gpu_distance import check_data_sheet
from energyest.estimators.pre.probed import mismatch, nearest, probe_of
from energyest.estimators.pre.totals import check_samples, whole_trainings, with_validation
from energyest.gpus import Gpu, check_precision, peak_flops_per_s, resolve_gpu
from energyest.records.probe import Probe
from energyest.records.trace import EnergyTrace
from energyest.records.workload import Workload
from energyest.tradeoff.advice import COLUMNS, Advice
from energyest.tradeoff.metrics import Mode, direction
from energyest.tradeoff.pareto import undominated
from energyest.tradeoff.table import as_runs_errors, check_quality

if TYPE_CHECKING:
    from energyest.estimators.pre.model import PreModel

#: A pair of a model and a GPU: columns of the table of the advice, and intermediate values.
Row = dict[str, Any]


@dataclass(frozen=True)
class _Training:
    """The training to estimate, the fitted model and the confidence."""

    epochs: dict[str, float]
    train_samples: int
    validation_samples: int
    model: PreModel | None
    fitted: FittedPreModel
    confidence: float


@as_runs_errors()
def advise(
    models: Mapping[str, Workload] | Sequence[Workload] | Workload,
    gpus: Sequence[str | Gpu] | str | Gpu,
    *,
    epochs: float | Mapping[str, float],
    train_samples: int,
    validation_samples: int = 0,
    quality: Mapping[str, float] | None = None,
    mode: Mode = "max",
    probes: Sequence[Probe | EnergyTrace] | Probe | EnergyTrace = (),
    model: PreModel | None = None,
    confidence: float = 0.9,
) -> Advice:
    """Estimate the cost of every model on every GPU, and find the pairs that no other pair beats.

    The figures come from `estimate_pre`: the energy of the GPU alone, without processors, memory
    and cooling, although a slower GPU keeps these busy for longer.

    A pair is on the front if no other pair is expected to be at least as good in energy, time and
    quality and better in one of them. Because estimates have errors, `may_be_on_front` also marks
    pairs for which no other is lower in energy *and* in time by more than the root of the sum of
    the squares of both half-widths, in logarithms. This assumes that the errors of two pairs are
    independent. That holds for two models on one GPU (ratios deviated 0.99 times as much as
    independent ones in `benchmarks/data/sweep.jsonl.gz`); for one model on two GPUs, errors are
    partly shared (0.64 times in zeus_nsdi23), so that the rule is wider than necessary.

    On a measured GPU, it chose the cheapest of six unseen networks in 85 to 89 % of menus (by FLOPs
    or parameters: 34 to 56 %). Of two unmeasured GPUs among V100, P100 and RTX 6000, it chose the
    cheaper one in 63 % of cases (by the lower TDP: 83 %); use probes for such GPUs
    (`benchmarks/evidence/advise_accuracy.py`).

    Args:
        models: workloads from `describe_workload` by name; or one or a list, named after their
            models. A model may occur with several batch sizes or precisions under separate names.
        gpus: names ("H100", "RTX 3090") or `Gpu` objects, one or several.
        epochs: number of epochs, above 0: one number for all, or one for each name in `models`.
        train_samples: training samples per epoch.
        validation_samples: validation samples per epoch.
        quality: name -> expected quality, such as an accuracy; it is assumed to be exact.
        mode: "max" if higher quality is better, "min" if lower is.
        probes: from `profiling.probe`, or traces of a few epochs on one GPU. They apply to a pair
            itself, or to its model on the most similar GPU, which need not be one of `gpus`.
        model: a `PreModel` of your own; by default the one that comes with the package.
        confidence: probability used for the intervals and for `may_be_on_front`.

    Returns:
        The advice, with one row per pair in its `table`. Pairs that cannot be trained, because the
        GPU lacks the precision or the memory, come last, with the reason and NaN for their costs.

    Raises:
        RunsError: there is no model or GPU, or one is given twice; a GPU is unknown (the message
            lists the closest names) or lacks data; the names in `epochs` or `quality` differ from
            those in `models`; an argument is invalid; a probe belongs to no pair; or
            `estimate_pre` raises an `EstimateError`.

    Examples:
        >>> from energyest.tradeoff import advise
        >>> advice = advise({'small': workload}, ['H100', 'L4'], epochs=9, train_samples=50_000)
        >>> len(advice.table)
        2
    """
    workloads, boards = _named(models), _boards(gpus)
    names = list(workloads)
    mode = direction("quality", mode)
    qualities = _qualities(quality, names, mode)
    training = _Training(
        epochs=_epochs_of(epochs, names),
        train_samples=check_samples(train_samples, "train_samples", least=1),
        validation_samples=check_samples(validation_samples, "validation_samples", least=0),
        model=model,
        fitted=fitted_of(model),
        confidence=check_confidence(confidence, RunsError),
    )
    probed = _probe_of(probes, workloads, boards)
    rows = [
        _pair(name, workloads[name], gpu, probed.get((name, gpu.name)), qualities[name])
        for name, gpu in product(names, boards)
    ]
    possible = [row for row in rows if not row["note"]]
    impossible = [row for row in rows if row["note"]]
    _predict([row for row in possible if row["probe"] is None], training)
    _use_probes([row for row in possible if row["probe"]], training)
    _finish(possible)
    known_mode = None if quality is None else mode
    return Advice(_table(possible, impossible, known_mode), training.confidence, known_mode)


# ------------------------------------------------------------------ arguments


def _named(models: Mapping[str, Workload] | Sequence[Workload] | Workload) -> dict[str, Workload]:
    if isinstance(models, Mapping):
        pairs = list(models.items())
    else:
        several = models if isinstance(models, Iterable) else [models]
        pairs = [(getattr(workload, "model", ""), workload) for workload in several]
    for name, workload in pairs:
        if not isinstance(workload, Workload):
            raise RunsError(
                f"models contains a {type(workload).__name__}: it must hold workloads from "
                "describe_workload(), in a dict by name or in a list"
            )
        if not (isinstance(name, str) and name):
            raise RunsError(f"name={name!r} of a model must be non-empty text")
    if not pairs:
        raise RunsError("models is empty: pass at least one workload")
    twice = _first_duplicate([name for name, _ in pairs])
    if twice:
        raise RunsError(
            f"two workloads have the model {twice!r}: pass a dict with a name for each, such as "
            f'{{"{twice}, batch 32": ..., "{twice}, batch 64": ...}}'
        )
    return dict(pairs)


def _boards(gpus: Sequence[str | Gpu] | str | Gpu) -> list[Gpu]:
    several = [gpus] if isinstance(gpus, str | Gpu) or not isinstance(gpus, Iterable) else gpus
    boards = [resolve_gpu(gpu) for gpu in several]
    if not boards:
        raise RunsError("gpus is empty: pass at least one GPU")
    twice = _first_duplicate([gpu.name for gpu in boards])
    if twice:
        raise RunsError(f"GPU {twice} is given twice: pass it once")
    return boards


def _epochs_of(epochs: float | Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    if not isinstance(epochs, Mapping):
        return dict.fromkeys(names, check_positive(epochs, "epochs", RunsError))
    numbers = _of_each(epochs, names, "epochs")
    return {
        name: check_positive(number, f"epochs of {name}", RunsError)
        for name, number in numbers.items()
    }


def _of_each(values: Mapping[str, float], names: Sequence[str], what: str) -> dict[str, float]:
    """Check that there is a finite number for each name, and for no other."""
    if not isinstance(values, Mapping):
        raise RunsError(
            f"{what} is a {type(values).__name__}: it must be a dict with the names of the models"
        )
    for lacking, text in (
        ([name for name in names if name not in values], "is missing for"),
        ([name for name in values if name not in names], "has a name that is not in models:"),
    ):
        if lacking:
            raise RunsError(
                f"{what} {text} {', '.join(map(repr, lacking))}; the models are "
                f"{', '.join(map(repr, names))}"
            )
    for name in names:
        if not (is_number(values[name]) and np.isfinite(values[name])):
            raise RunsError(f"{what} of {name!r} is {values[name]!r}: it must be a number")
    return {name: float(values[name]) for name in names}


def _qualities(
    quality: Mapping[str, float] | None, names: Sequence[str], mode: Mode
) -> dict[str, float]:
    """The quality of each name, or NaN; refuses a mix of shares and percentages."""
    if quality is None:
        return dict.fromkeys(names, math.nan)
    found = _of_each(quality, names, "quality")
    if mode == "max":
        check_quality(pd.DataFrame({"run": list(found), "quality": found.values()}), "quality")
    return found


def _first_duplicate(names: Sequence[str]) -> str:
    return next((name for i, name in enumerate(names) if name in names[:i]), "")


def _probe_of(
    probes: Sequence[Probe | EnergyTrace] | Probe | EnergyTrace,
    named: Mapping[str, Workload],
    boards: Sequence[Gpu],
) -> dict[tuple[str, str], Probe]:
    """Map (name, GPU) to the probe of that model on that GPU, or else on the most similar one."""
    made: dict[tuple[str, str], Probe] = {}
    one = isinstance(probes, Probe | EnergyTrace) or not isinstance(probes, Iterable)
    every: Iterable[Any] = [probes] if one else probes  # type: ignore[assignment]
    for given in every:
        try:
            probe = probe_of(given)
        except EstimateError as error:
            raise RunsError(f"probes: {error}") from error
        of = [name for name, workload in named.items() if not mismatch(probe, workload)]
        if not of:
            raise RunsError(
                f"the probe of {probe.workload.model} on {probe.gpu.name} matches none of the "
                "models: model, batch size, precision, optimizer, layout and FLOPs must be the same"
            )
        twice = [name for name in of if (name, probe.gpu.name) in made]
        if twice:
            raise RunsError(f"{twice[0]!r} on {probe.gpu.name} has two probes: pass one")
        made.update({(name, probe.gpu.name): probe for name in of})
    # The probe on the GPU itself, or else on the most similar one.
    found: dict[tuple[str, str], Probe] = {}
    for name, gpu in product(named, boards):
        of_model = [probe for (other, _), probe in made.items() if other == name]
        if of_model:
            found[name, gpu.name] = nearest(of_model, gpu)
    return found


def _cannot(workload: Workload, gpu: Gpu) -> str:
    """Why the workload cannot be trained or predicted on the GPU; empty if it can."""
    if not any(operation.phase == "forward" for operation in workload.operations):
        return "its workload has no operations of the forward pass"
    try:
        peak_flops_per_s(gpu, workload.precision)
        check_data_sheet(gpu)
    except EstimateError as error:
        return str(error)
    return does_not_fit(workload, gpu)


# ------------------------------------------------------------------ predictions


def _pair(name: str, workload: Workload, gpu: Gpu, probe: Probe | None, quality: float) -> Row:
    """Create the row of a pair without its costs; `note` says why it cannot be trained."""
    is_proven = probe is not None and probe.gpu.name == gpu.name
    cannot = "" if is_proven else _cannot(workload, gpu)
    used = workload.precision if cannot else check_precision(gpu, workload.precision)
    remarks = [f"computes in {used}, because it lacks {workload.precision}"]
    return {
        "model": name,
        "gpu": gpu.name,
        "batch_size": workload.batch_size,
        "precision": used,
        "quality": quality,
        "note": cannot,
        "remarks": [*(remarks if used != workload.precision else []), *workload.notes],
        "pair": (workload, gpu),
        "probe": probe,
    }


def _predict(rows: Sequence[Row], training: _Training) -> None:
    """Fill in predictions for all pairs at once; one by one would take ten times as long."""
    if not rows:
        return
    pairs = [row["pair"] for row in rows]
    predicted = training.fitted.predict(with_validation(pairs))
    total = whole_trainings(
        pairs,
        predicted,
        training.fitted.half_width(predicted, training.confidence),
        epochs=np.array([training.epochs[row["model"]] for row in rows]),
        train_samples=training.train_samples,
        validation_samples=training.validation_samples,
    )
    reasons = training.fitted.beyond_measured(pairs, predicted)
    for i, row in enumerate(rows):
        row |= {
            "energy_J": total.energy_J[i],
            "duration_s": total.duration_s[i],
            "half": total.half[i],
            "basis": "extrapolation" if reasons[i] else "interpolation",
            "reasons": reasons[i],
        }


def _use_probes(rows: Sequence[Row], training: _Training) -> None:
    """Fill in predictions for probed pairs."""
    for row in rows:
        found = estimate_pre(
            *row["pair"],
            probe=row["probe"],
            epochs=training.epochs[row["model"]],
            train_samples=training.train_samples,
            validation_samples=training.validation_samples,
            model=training.model,
            confidence=training.confidence,
        )
        assert found.upper_J is not None
        is_here = row["probe"].gpu.name == row["pair"][1].name
        row |= {
            "energy_J": found.energy_J,
            "duration_s": found.duration_s,
            "half": float(np.log(found.upper_J / found.energy_J)),
            "basis": "probe" if is_here else "probe elsewhere",
            "reasons": () if is_here else (f"probed on {row['probe'].gpu.name}",),
        }


def _finish(rows: Sequence[Row]) -> None:
    """Write the notes of pairs that can be trained, and refuse overflows."""
    for row in rows:
        row["note"] = "; ".join([*row["reasons"], *row["remarks"]])
        if not np.isfinite(row["energy_J"] * row["duration_s"]):
            raise RunsError(
                f"energy and time of {row['model']} on {row['gpu']} overflow: pass fewer epochs or "
                "samples"
            )


def _table(possible: Sequence[Row], impossible: Sequence[Row], mode: Mode | None) -> pd.DataFrame:
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
        energy_lower_J=energy_J * np.exp(-half),
        energy_upper_J=energy_J * np.exp(half),
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
    """Which pairs are beaten by another pair regardless of errors, at the confidence of `half`.

    Each end of an interval is missed with probability (1 − confidence) / 2, so that the ends for
    energy and for time together are missed with at most 1 − confidence. Errors of the time are
    assumed to be like errors of the energy: on unseen architectures, the interval of the energy
    held the time of 88 % of steps, and the energy of 91 %.
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
