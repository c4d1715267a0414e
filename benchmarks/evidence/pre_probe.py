"""How accurate a probe of a few steps is: hopper's first warm epochs against the rest of each run.

Exits with 2 if data are missing.

    python -m benchmarks.evidence.pre_probe
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from benchmarks.common.data_folder import FOLDER, require
from benchmarks.common.head import print_head
from benchmarks.common.sweep_table import HOPPER_SWEEP, counter_power_W

STEPS, SECONDS = 30, 1.2  # as profiling.probe does by default


def predicted_and_measured() -> tuple[np.ndarray, np.ndarray]:
    """Energy per sample by the probe and in the epochs after it, each of shape (n,)."""
    _, epochs_file, samples_file = (FOLDER / name for name in HOPPER_SWEEP)
    epochs, samples = pd.read_csv(epochs_file), pd.read_parquet(samples_file)
    found = []
    for run_id, of_run in epochs[epochs.epoch > 0].groupby("run_id"):
        read = samples[samples.run_id == run_id]
        enough = (of_run.steps.cumsum() >= STEPS) & (
            of_run.end_s - of_run.start_s.iloc[0] >= SECONDS
        )
        ends = int(np.argmax(enough)) + 1 if enough.any() else len(of_run)
        parts = of_run.iloc[:ends], of_run.iloc[ends:]
        if len(parts[1]) < 2:
            continue  # nothing to compare with
        found.append([_energy_per_sample_J(part, read) for part in parts])
    return tuple(np.array(found).T)  # type: ignore[return-value]


def _energy_per_sample_J(epochs: pd.DataFrame, samples: pd.DataFrame) -> float:
    power_W = counter_power_W(samples, epochs.start_s.min(), epochs.end_s.max())
    duration_s = (epochs.train_end_s - epochs.start_s).sum()
    return float(power_W * duration_s / epochs.samples.sum())


def report() -> tuple[float, float]:
    """Mean and median absolute error in per cent."""
    predicted, measured = predicted_and_measured()
    off = np.abs(predicted / measured - 1)
    deviation = float(np.std(np.log(predicted / measured)))
    inside = np.quantile(np.abs(np.log(predicted / measured)), 0.9)
    print(
        f"\na probe of {STEPS} steps and {SECONDS} s (hopper, {len(off)} trainings): "
        f"energy per sample {100 * off.mean():.1f} % in the mean, "
        f"{100 * np.median(off):.1f} % in the median; "
        f"deviation of the logarithm {deviation:.3f}, nine in ten within {inside:.3f}"
    )
    return 100 * float(off.mean()), 100 * float(np.median(off))


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    require(*HOPPER_SWEEP)
    print_head(__file__, "numpy")
    report()


if __name__ == "__main__":
    main()
