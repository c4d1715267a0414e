"""`spending`: when a run used its energy, on the clock."""

from __future__ import annotations

import numpy as np

from energyest.arrays import FloatArray


def spending(
    rows: tuple[FloatArray, FloatArray, FloatArray],
    parts: list[tuple[int, float]],
    duration_s: float,
    total_J: float,
) -> tuple[FloatArray, FloatArray]:
    """The energy of a run over time.

    Within an epoch, power is constant. What was used outside of epochs is spread evenly over the
    time outside of them or, if there is none, over the whole run.

    Args:
        rows: `start_s`, `end_s` and `energy_J` of the epochs, each of shape (epochs,). The times
            of the newest part count from its beginning; those of earlier parts are negative.
        parts: of each part of the run, its first row and when it began, in seconds since 1970.
        duration_s: how long the newest part took, in seconds.
        total_J: energy of the whole run.

    Returns:
        Times in seconds since 1970, ascending, of shape (n,), and the energy used up to each of
        them in joules, of the same shape.
    """
    starts_s, ends_s, energy_J = rows
    offset_s, began_s = np.zeros(len(starts_s)), -np.inf
    before_s = -np.inf
    ends = [first for first, _ in parts[1:]] + [len(starts_s)]
    for number, ((first, at_s), stop) in enumerate(zip(parts, ends, strict=True), 1):
        # The clock may have been set back since, or another machine's may be behind.
        began_s = max(at_s, before_s)
        zero_s = 0.0 if number == len(parts) else starts_s[first : first + 1]
        offset_s[first:stop] = began_s - zero_s
        before_s = max([before_s, *(ends_s[first:stop] + offset_s[first:stop])[-1:]])
    ended_s = began_s + duration_s
    begins_s, ends_s = starts_s + offset_s, ends_s + offset_s
    begins_s = np.maximum.accumulate(begins_s)
    # The first epoch of a part may have begun in the part before.
    begins_s = np.maximum(begins_s, np.concatenate([[-np.inf], ends_s[:-1]]))
    ends_s = np.maximum(ends_s, begins_s)
    last_s = max([ended_s, *ends_s[-1:]])
    first_s = min([began_s, *begins_s[:1]])
    # From the end of each epoch to the beginning of the next, within the newest part.
    from_s = np.maximum(np.concatenate([[first_s], ends_s]), began_s)
    until_s = np.concatenate([begins_s, [last_s]])
    idle_s = np.maximum(until_s - from_s, 0.0)
    outside_J = total_J - float(np.sum(energy_J))
    whole_idle_s = idle_s.sum()
    share = outside_J / whole_idle_s if whole_idle_s > 0 else 0.0
    if share == 0.0 and np.sum(energy_J) > 0:
        energy_J = energy_J * (total_J / np.sum(energy_J))
    time_s = np.empty(2 * len(begins_s) + 2)
    step_J = np.zeros_like(time_s)
    time_s[0], time_s[-1] = first_s, last_s
    time_s[1:-1:2], time_s[2:-1:2] = begins_s, ends_s
    step_J[1::2] = share * idle_s
    step_J[2:-1:2] = energy_J
    return time_s, np.cumsum(step_J)
