"""The estimators that STEP is held against, as del Rey et al. (arXiv 2307.05520) evaluate them.

None of them gives an interval: they rest on assumptions whose error their inputs do not show.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from energyest.checks import (
    check_count,
    check_not_negative,
    check_positive,
    check_share,
    is_number,
)
from energyest.errors import EstimateError
from energyest.estimate import Estimate, NotStableError
from energyest.estimators.arguments import check_epochs
from energyest.gpus import find_gpu
from energyest.records.devices import Device, accelerators_of, kind_of, of_kind
from energyest.records.meta import read_text
from energyest.records.trace import EnergyTrace

# Power of memory in W per GB available: Lannelongue, Grealey, Inouye, "Green Algorithms:
# Quantifying the carbon footprint of computation", Advanced Science 8, 2100707 (2021).
RAM_W_PER_GB = 0.3725
# Share of the peak that trainings are assumed to reach on a GPU: Amodei, Hernandez, "AI and
# Compute" (OpenAI, 2018), appendix.
FLOPS_EFFICIENCY = 0.33


def estimate_first_epoch(trace: EnergyTrace, epochs: float, *, observed: int = 1) -> Estimate:
    """Mean of the first epochs times the number of epochs; what carbontracker predicts.

    Args:
        trace: the epochs measured so far.
        epochs: number of epochs of the whole training.
        observed: how many epochs to take the mean of; carbontracker's default is 1.

    Raises:
        NotStableError: fewer than `observed` epochs were measured.
        EstimateError: fewer `epochs` than were measured, or `observed` is not 1 or more.

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
            f"the first {observed} epoch(s) are needed and {measured} of them were measured",
            missing_epochs=max(1, observed - len(seen_J)),
        )
    duration_s = float(np.mean(trace.column("duration_s")[:observed])) * epochs
    return Estimate(
        energy_J=float(seen_J.mean()) * epochs,
        duration_s=duration_s if math.isfinite(duration_s) else None,
        measured_J=float(seen_J.sum()),
        epochs=epochs,
        method="first epoch" if observed == 1 else f"mean of the first {observed} epochs",
        assumptions=("every epoch costs what the first cost",),
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
        trace: its epochs give the duration, its devices the TDP.
        epochs: number of epochs of the whole training.
        tdp_W: thermal design power of all GPUs together in watts; by default the power limits of
            the trace's GPUs or, where it does not hold them, their data sheets' board power; of
            its CPU where the trace holds no GPU.
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
        assumptions=("the device draws its TDP throughout", *assumption),
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
        trace: supplies what is not given: duration, TDP, mean utilisation, RAM of the machine.
        epochs: number of epochs of the whole training.
        tdp_W: as in `estimate_mlco2`.
        utilization: mean share of time, 0 to 1, in which the GPU was busy; by default the mean of
            the trace's readings or, as in the method itself, 1 where there are none.
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
        trace: supplies what is not given.
        epochs: number of epochs of the whole training.
        flops: floating-point operations of the whole training (a multiply and an add are two);
            by default the mean of the trace's epochs times `epochs`.
        peak_flops_per_s: peak arithmetic rate of all GPUs together at the training's precision;
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
        counted = trace.column("flops")
        counted = counted[np.isfinite(counted)]
        if not len(counted):
            note = read_text(trace.meta, "flops_note")
            reason = f" ({note})" if note else ""
            raise EstimateError(f"the trace holds no FLOPs{reason}: give flops=")
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


# ------------------------------------------------------------------ what a trace supplies


def _duration(
    trace: EnergyTrace, epochs: float, duration_s: float | None
) -> tuple[float, tuple[str, ...]]:
    epochs = check_epochs(trace, epochs)
    if duration_s is not None:
        return check_positive(duration_s, "duration_s", EstimateError), ()
    measured_s = trace.column("duration_s")
    measured_s = measured_s[np.isfinite(measured_s)]
    if not len(measured_s):
        raise EstimateError("the trace holds no duration of an epoch: give duration_s=")
    return float(measured_s.mean()) * epochs, ("every epoch takes the mean of those measured",)


def _tdp_W(trace: EnergyTrace, tdp_W: float | None) -> float:
    if tdp_W is None:
        known = [_device_tdp_W(device) for device in accelerators_of(trace.devices)]
        tdp_W = sum(known) if known else math.nan
        if not math.isfinite(tdp_W):
            raise EstimateError("the trace names no device with a known TDP: give tdp_W=")
    return check_positive(tdp_W, "tdp_W", EstimateError)


def _device_tdp_W(device: Device) -> float:
    # The board's own limit is its TDP: partners' boards differ from the data sheet.
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
        # Generations before tf32 compute in fp32 when asked for it.
        older = gpu is not None and asked == "tf32" and "tf32" not in gpu.peak_flops_per_s
        precision = "fp32" if older else asked
        if gpu is None or precision not in gpu.peak_flops_per_s:
            raise EstimateError(f"no {precision} peak known for {name}: give peak_flops_per_s=")
        total += gpu.peak_flops_per_s[precision]
    if not total:
        raise EstimateError("the trace names no device: give peak_flops_per_s=")
    return total


def mean_utilization(trace: EnergyTrace) -> float | None:
    """Share of time in which the GPUs were busy, as a mean over time; None if it was not read."""
    devices = accelerators_of(trace.devices)
    names = trace.power_columns["device"].astype(str)
    rows = np.isin(names, [str(device.get("device")) for device in devices])
    if not rows.any() and devices:  # a hand-written meta that names no device
        rows = np.char.startswith(names, kind_of(devices[0]))
    rows &= np.isfinite(trace.power_columns["utilization"])
    means = [_mean_over_time(trace, rows & (names == name)) for name in np.unique(names[rows])]
    return float(np.mean(means)) if means else None


def _mean_over_time(trace: EnergyTrace, rows: NDArray[np.bool_]) -> float:
    """Mean utilisation of a device, whose rows lie ever further apart in a long run."""
    time_s = trace.power_columns["time_s"][rows]
    busy = trace.power_columns["utilization"][rows]
    span_s = time_s[-1] - time_s[0]
    whole = np.diff(time_s) @ (busy[1:] + busy[:-1]) / 2
    mean = whole / span_s if span_s > 0 else busy.mean()
    return min(float(mean), 1.0)  # sums of ones may round to more


def _ram_GB(trace: EnergyTrace) -> float:
    for memory in of_kind(trace.devices, "ram"):
        size = memory.get("memory_bytes")
        if is_number(size):
            return float(size) / 1e9
    raise EstimateError("the trace does not hold the machine's memory: give ram_GB=")
