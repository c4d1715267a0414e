"""Channels of batch normalisations in workloads that were described without them."""

from __future__ import annotations

from dataclasses import replace

from energyest.estimators.pre.physics.alignment import number_bytes
from energyest.estimators.pre.physics.kinds import BATCH_NORM, kind_of
from energyest.records.workload import Operation, Workload

# How far sizes may differ, as a share: a normalisation also reads its means and weights.
_SAME = 0.02


def with_channels(workload: Workload) -> tuple[Operation, ...]:
    """The operations of a workload; batch normalisations have their channels as groups.

    Versions up to 0.1 did not note channels. They are those of the convolution whose output has the
    size of what is normalised.
    """
    operations = workload.operations
    unknown = [o for o in operations if o.groups == 1 and kind_of(o) == BATCH_NORM]
    if not unknown:
        return operations
    channels = {
        o.rows * o.columns * o.groups: o.columns * o.groups
        for o in operations
        if o.name == "convolution" and o.rows
    }
    found = {o: _channels(o, channels, number_bytes(workload)) for o in unknown}
    return tuple(replace(o, groups=found[o]) if o in found else o for o in operations)


def _channels(norm: Operation, channels: dict[int, int], bytes_of_number: int) -> int:
    # The backward pass reads two tensors of this size and writes one; the forward pass, one each.
    tensors = 3 if norm.phase == "backward" else 2
    size = norm.bytes / (tensors * bytes_of_number)
    near = min(channels, key=lambda other: abs(other - size), default=0)
    return channels[near] if near and abs(near / size - 1) < _SAME else 1
