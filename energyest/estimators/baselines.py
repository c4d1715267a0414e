"""The baseline estimators that del Rey et al. (arXiv 2307.05520) compare STEP with.

None of them has an interval: the error of their assumptions cannot be inferred from their inputs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from energyest.arrays import FloatArray
from energyest.checks import (
    check_count,
    check_not_negative,
    check_positive,
    check_share,
    is_number,
    number_or_nan,
)
from energyest.errors import EstimateError
from energyest.estimate import Estimate, NotStableError
from energyest.estimators.arguments import check_epochs
from energyest.gpus import find_gpu
from energyest.records.devices import Device, accelerators_of, kind_of, of_kind
from energyest.records.meta import read_text
from energyest.records.trace import EnergyTrace

# Power of memory in W per GB of available memory: Lannelongue, Grealey, Inouye, "Green Algorithms:
# Quantifying the carbon footprint of computation", Advanced Science 8, 2100707 (2021).
RAM_W_PER_GB = 0.3725
# Share of the peak that training is assumed to reach on a GPU: Amodei, Hernandez, "AI and
# Compute" (OpenAI, 2018), appendix.
FLOPS_EFFICIENCY = 0.33


def estimate_first_epoch(trace: EnergyTrace, epochs: float, *, observed: int = 1) -> Estimate:
    """Mean of the first epochs times the number of epochs, as carbontracker predicts.

    Args:
        trace: the epochs measured so far.
        epochs: number of epochs of the whole training.
        observed: number of epochs to average over; carbontracker's default is 1.

    Raises:
        NotStableError: fewer than `observed` epochs were measured.
        EstimateError: `epochs` is less than the number measured, or `observed` is less than 1.

    Examples:
        >>> from energyest import EnergyTrace
        >>> from energyest.estimators import estimate_first_epoch
        >>> trace = EnergyTrace.from_epochs([5100, 4020, 4010])
        >>> estimate_first_epoch(trace, epochs=100).energy_J
        510000.0
    """
    epochs = check_epochs(trace, epochs)
    observed = check_count(observed, "observed", EstimateError)
    seen_J = trace.column("energy_J")[:observed]
    if len(seen_J) < observed or not np.isfinite(seen_J).all():
        measured = int(np.isfinite(seen_J).sum())
        raise NotStableError(
            f"the first {observed} epoch(s) are needed, but {measured} of them were measured",
            missing_epochs=max(1, observed - len(seen_J)),
        )
    duration_s = float(np.mean(trace.column("duration_s")[:observed])) * epochs
    return Estimate(
        energy_J=float(seen_J.mean()) * epochs,
        duration_s=duration_s if math.isfinite(duration_s) else None,
        measured_J=float(seen_J.sum()),
        epochs=epochs,
        method="first epoch" if observed == 1 else f"mean of the first {observed} epochs",
        assumptions=("every epoch uses as much energy as the first",),
    )


def estimate_mlco2(
    trace: EnergyTrace,
    epochs: float,
    *,
    tdp_W: float | None = None,
    duration_s: float | None = None,
) -> Estimate:
    """TDP times duration, after the Machine Learning Emissions Calculator (arXiv 1910.09700).

    Args:
        trace: provides the duration (from its epochs) and the TDP (from its devices).
        epochs: number of epochs of the whole training.
        tdp_W: thermal design power of all GPUs together in watts. By default, the power limits of
            the GPUs in the trace or, if it does not hold them, the board power in their data
            sheets; for a trace without GPUs, the CPU's.
        duration_s: duration of the whole training in seconds; by default the mean of the
            measured epochs times `epochs`.

    Raises:
        EstimateError: the TDP or the duration is neither given nor in the trace.

    Examples:
        >>> from energyest import EnergyTrace
        >>> from energyest.estimators import estimate_mlco2
        >>> trace = EnergyTrace.from_epochs([5100, 4020], duration_s=[30, 24])
        >>> estimate_mlco2(trace, epochs=100, tdp_W=700).energy_J
        1890000.0
    """
    total_s, assumption = _duration(trace, epochs, duration_s)
    watts = _tdp_W(trace, tdp_W)
    return Estimate(
        energy_J=watts * total_s,
        duration_s=total_s,
        epochs=epochs,
        method=f"MLCO2: {watts:g} W TDP × duration",
        assumptions=("the device draws its TDP all the time", *assumption),
    )


def estimate_green_algorithms(
    trace: EnergyTrace,
    epochs: float,
    *,
    tdp_W: float | None = None,
    utilization: float | None = None,
    ram_GB: float | None = None,
    duration_s: float | None = None,
) -> Estimate:
    """(TDP × utilisation + 0.3725 W/GB × RAM) × duration, after Lannelongue et al. (2021).

    Args:
        trace: provides values that are not given: duration, TDP, mean utilisation, machine's RAM.
        epochs: number of epochs of the whole training.
        tdp_W: as in `estimate_mlco2`.
        utilization: mean share of time, 0 to 1, in which the GPU was busy; by default the mean of
            the readings in the trace or, as in the original method, 1 if there are none.
        ram_GB: memory available to the training, in GB.
        duration_s: as in `estimate_mlco2`.

    Raises:
        EstimateError: a quantity is neither given nor in the trace, or out of its range.

    Examples:
        >>> from energyest import EnergyTrace
        >>> from energyest.estimators import estimate_green_algorithms
        >>> trace = EnergyTrace.from_epochs([5100, 4020], duration_s=[30, 24])
        >>> estimate = estimate_green_algorithms(trace, 100, tdp_W=700, utilization=0.5, ram_GB=64)
        >>> round(estimate.energy_J)
        1009368
    """
    total_s, assumption = _duration(trace, epochs, duration_s)
    watts = _tdp_W(trace, tdp_W)
    memory_GB = _ram_GB(trace) if ram_GB is None else ram_GB
    memory_GB = check_not_negative(memory_GB, "ram_GB", EstimateError)
    busy = mean_utilization(trace) if utilization is None else utilization
    assumptions = list(assumption)
    if busy is None:
        busy = 1.0
        assumptions.append("the device is busy all the time (no utilisation was read)")
    busy = check_share(busy, "utilization", EstimateError)
    return Estimate(
        energy_J=(watts * busy + RAM_W_PER_GB * memory_GB) * total_s,
        duration_s=total_s,
        epochs=epochs,
        method=f"Green Algorithms: {watts:g} W TDP × {busy:.0%} busy, {memory_GB:.3g} GB RAM",
        assumptions=("power grows from 0 to the TDP with utilisation", *assumptions),
    )


def estimate_flops(
    trace: EnergyTrace,
    epochs: float,
    *,
    flops: float | None = None,
    peak_flops_per_s: float | None = None,
    tdp_W: float | None = None,
    efficiency: float = FLOPS_EFFICIENCY,
) -> Estimate:
    """Training FLOPs ÷ (peak FLOP/s per watt × an assumed efficiency).

    Args:
        trace: provides values that are not given.
        epochs: number of epochs of the whole training.
        flops: floating-point operations of the whole training (a multiply and an add are two);
            by default the mean of the trace's epochs times `epochs`.
        peak_flops_per_s: peak FLOP/s of all GPUs together at the precision of the training;
            by default from the table of GPUs.
        tdp_W: as in `estimate_mlco2`.
        efficiency: share of the peak that the training is assumed to reach; 0.33 after Amodei and
            Hernandez (2018).

    Raises:
        EstimateError: a quantity is neither given nor in the trace, or out of its range.

    Examples:
        >>> from energyest import EnergyTrace
        >>> from energyest.estimators import estimate_flops
        >>> trace = EnergyTrace.from_epochs([5100, 4020])
        >>> estimate = estimate_flops(trace, 100, flops=1e17, peak_flops_per_s=1e15, tdp_W=700)
        >>> round(estimate.energy_J)
        212121
    """
    epochs = check_epochs(trace, epochs)
    if flops is None:
        counted = _of_whole_epochs(trace, "flops")
        counted = counted[np.isfinite(counted)]
        if not len(counted):
            note = read_text(trace.meta, "flops_note")
            reason = f" ({note})" if note else ""
            raise EstimateError(f"the trace holds no FLOPs{reason}: pass flops=")
        flops = float(counted.mean()) * epochs
    peak = _peak_flops(trace) if peak_flops_per_s is None else peak_flops_per_s
    watts = _tdp_W(trace, tdp_W)
    check_positive(flops, "flops", EstimateError)
    check_positive(peak, "peak_flops_per_s", EstimateError)
    check_positive(efficiency, "efficiency", EstimateError)
    return Estimate(
        energy_J=flops / (peak / watts * efficiency),
        epochs=epochs,
        method=f"FLOPs: {flops:.3g} at {peak / watts * efficiency:.3g} FLOP/J",
        assumptions=(f"the training reaches {efficiency:.0%} of the peak at full board power",),
    )


# ------------------------------------------------------------------ values from a trace


def _of_whole_epochs(trace: EnergyTrace, column: str) -> FloatArray:
    return trace.column(column)[: math.floor(trace.epochs_done)]


def _duration(
    trace: EnergyTrace, epochs: float, duration_s: float | None
) -> tuple[float, tuple[str, ...]]:
    epochs = check_epochs(trace, epochs)
    if duration_s is not None:
        return check_positive(duration_s, "duration_s", EstimateError), ()
    measured_s = _of_whole_epochs(trace, "duration_s")
    measured_s = measured_s[np.isfinite(measured_s)]
    if not len(measured_s):
        raise EstimateError("the trace holds no duration of an epoch: pass duration_s=")
    return float(measured_s.mean()) * epochs, ("every epoch lasts the mean measured duration",)


def _tdp_W(trace: EnergyTrace, tdp_W: float | None) -> float:
    if tdp_W is None:
        known = [_device_tdp_W(device) for device in accelerators_of(trace.devices)]
        tdp_W = sum(known) if known else math.nan
        if not math.isfinite(tdp_W):
            raise EstimateError("the trace names no device with a known TDP: pass tdp_W=")
    return check_positive(tdp_W, "tdp_W", EstimateError)


def _device_tdp_W(device: Device) -> float:
    # The board's own power limit is its TDP: board partners deviate from the data sheet.
    limit_W = device.get("power_limit_W")
    if limit_W is not None and is_number(limit_W):
        return float(limit_W)
    gpu = find_gpu(str(device.get("name", "")))
    return math.nan if gpu is None else gpu.tdp_W


def _peak_flops(trace: EnergyTrace) -> float:
    asked = read_text(trace.meta, "precision") or "fp32"
    total = 0.0
    for device in accelerators_of(trace.devices):
        name = str(device.get("name", device.get("device")))
        gpu = find_gpu(name)
        # Generations without tf32 compute in fp32 instead.
        older = gpu is not None and asked == "tf32" and "tf32" not in gpu.peak_flops_per_s
        precision = "fp32" if older else asked
        if gpu is None or precision not in gpu.peak_flops_per_s:
            raise EstimateError(f"no {precision} peak known for {name}: pass peak_flops_per_s=")
        total += gpu.peak_flops_per_s[precision]
    if not total:
        raise EstimateError("the trace names no device: pass peak_flops_per_s=")
    return total


def mean_utilization(trace: EnergyTrace) -> float | None:
    """Mean share of time in which the GPUs were busy; None if it was not read."""
    devices = accelerators_of(trace.devices)
    if devices and all("utilization" in device for device in devices):  # recorded at the end
        shares = [number_or_nan(device["utilization"]) for device in devices]
        known = [share for share in shares if 0 <= share <= 1]
        return float(np.mean(known)) if known else None
    names = trace.power_columns["device"].astype(str)
    rows = np.isin(names, [str(device.get("device")) for device in devices])
    if not rows.any() and devices:  # hand-written meta without device names
        rows = np.char.startswith(names, kind_of(devices[0]))
    rows &= np.isfinite(trace.power_columns["utilization"])
    means = [_mean_over_time(trace, rows & (names == name)) for name in np.unique(names[rows])]
    return float(np.mean(means)) if means else None


def _mean_over_time(trace: EnergyTrace, rows: NDArray[np.bool_]) -> float:
    """Time-weighted mean utilisation of a device; in a long run, readings are thinned out."""
    time_s = trace.power_columns["time_s"][rows]
    busy = trace.power_columns["utilization"][rows]
    span_s = time_s[-1] - time_s[0]
    whole = np.diff(time_s) @ (busy[1:] + busy[:-1]) / 2
    mean = whole / span_s if span_s > 0 else busy.mean()
    return min(float(mean), 1.0)  # rounding may exceed 1


def _ram_GB(trace: EnergyTrace) -> float:
    for memory in of_kind(trace.devices, "ram"):
        size = memory.get("memory_bytes")
        if is_number(size):
            return float(size) / 1e9
    raise EstimateError("the trace does not hold the size of the machine's memory: pass ram_GB=")
