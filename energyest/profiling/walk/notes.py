"""Notes on what a walk assumed or left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from energyest.profiling.copies.model_copy import hooked_modules
from energyest.profiling.walk.fake_tensors import Origin

# The most places in the code, or modules, that are named.
_MOST_NAMED = 3
DRAWN = (
    "the step draws from the random generators of Python or numpy: it was walked through once, from"
    " a fixed seed"
)


def notes_on_hooks(model: nn.Module) -> Iterator[str]:
    """A note on hooks that a copy lacks, because they would mistake it for the model."""
    names = hooked_modules(model)
    if names:
        yield (
            f"hooks of {_listed(names)} are left out, with what they compute: functions are,"
            " methods of modules are not"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")


def notes_on_questions(asked: Any, flops: tuple[float, float] = (0.0, 0.0)) -> Iterator[str]:
    """Notes on the values that a forward looked at."""
    for origin, said in (
        (Origin.BATCH, "values of the batch, on which its operations may depend"),
        (Origin.BATCH_WITHOUT_VALUES, "values of the batch, which was taken to have no padding"),
        (Origin.RANDOM, "values that shapes do not determine"),
    ):
        kinds = (origin, Origin.ASSUMED) if origin is Origin.RANDOM else (origin,)
        places = sorted({place for kind, place in asked if kind in kinds})
        if not places:
            continue
        note = f"the step looks at {said} ({_listed(places)})"
        least, most = flops
        if origin is Origin.RANDOM and most > least:
            note += f": it has {least:.3g} to {most:.3g} FLOPs, and the highest is used"
        elif origin is Origin.RANDOM:
            note += ": they were assumed"
        yield note
