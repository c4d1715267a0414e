"""Gives a loader thousands of files, generated and mutated, and notes what becomes of each.

The files and the loaders are those of `simulation.hostile_files`.
"""

from __future__ import annotations

import copy
import json
import random
import re
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from energyest import EnergyestError

# Files of a folder, by their names.
Content = dict[str, bytes]

# What stands in JSON or in a table where something else should.
WORDS = (
    *("0", "-1", "1", "0.5", "1e308", "-1e308", "1e-308", "5e-324", "1e999", "1e30", "3.33"),
    *("9223372036854775808", "1" * 310, "1" * 5000, "-0.0", "nan", "NaN", "Infinity", "inf"),
    *("true", "null", "", "[]", "{}", '""', '"text"', '"1"', "[1, [2]]", '{"a": {"b": 1}}'),
    *('"\\ud800"', '"\\u0000\\u001b[31m"', "[" * 100_000, '"' + "x" * 1000 + '"', "gpu:0", "\r"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 10, 0.5, 3.33, 1e308, -1e308, 1e-308, 5e-324, 1e30, 1e15),
    *(2**31, 2**63, 10**300, "", "text", "gpu:0", "\ud800", "\x00\x1b[31m", [], {}, [[]], [{}]),
    *([1, "a", None], {"a": {"b": [1]}}, "NaN"),
)
META = (
    *("total_J", "duration_s", "status", "components", "interrupted_epoch", "interval_steps"),
    *("planned_epochs", "planned_duration_s", "first_epoch", "validation_every_n_rows", "host"),
    *("validation_to_training_batches", "planned_changes", "devices", "workload", "precision"),
    *("flops_note", "run_id", "world_size", "rank", "earlier_rows", "start_time", "model"),
)
COLUMNS = (
    *("start_s", "end_s", "duration_s", "energy_J", "gpu_energy_J", "validation_energy_J"),
    *("validation_s", "mean_power_W", "steps", "samples", "flops", "val_acc", "\ud800", ""),
)


class ForeignError(AssertionError):
    """An input brought out an error that is none of the package's, or took too long."""


@dataclass(frozen=True)
class Loader:
    """Something that reads files from anywhere.

    Attributes:
        name: of the function, and of the file that is changed.
        real: makes files as the package itself writes them.
        changed: which of them is mutated.
        generated: makes files from nothing.
        use: reads a folder's files, and does with them whatever the package can.
    """

    name: str
    real: Callable[[], Content]
    changed: str
    generated: st.SearchStrategy[Content]
    use: Callable[[Path], None]


@dataclass
class Outcome:
    """What became of the inputs of a loader."""

    inputs: int = 0
    accepted: int = 0
    accepted_generated: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0


def fuzz(loader: Loader, inputs: int, *, chance: int = 0, most_s: float = 10.0) -> Outcome:
    """Give a loader so many inputs, half of them generated and half mutated from real files.

    Args:
        loader: the loader.
        inputs: how many.
        chance: seed of the mutations and of hypothesis.
        most_s: an input that takes longer, in time of the processor, has failed.

    Raises:
        ForeignError: at the first error that is none of the package's; it names the folder that
            holds the input.
    """
    outcome = Outcome()

    @seed(chance)
    @settings(
        max_examples=inputs // 2,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(loader.generated)
    def generated(content: Content) -> None:
        _try(loader, content, outcome, most_s)

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        generated()
        outcome.accepted_generated = outcome.accepted
        dice, real = random.Random(chance), loader.real()
        while outcome.inputs < inputs:
            mutated = real | {loader.changed: mutate(real[loader.changed], dice)}
            _try(loader, mutated, outcome, most_s)
    return outcome


def _try(loader: Loader, content: Content, outcome: Outcome, most_s: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, content)
        begin_s = time.process_time()
        outcome.inputs += 1
        try:
            loader.use(folder)
            outcome.accepted += 1
        except EnergyestError as error:
            outcome.refused[type(error).__name__] += 1
        except Exception as error:
            raise ForeignError(f"{_keep(content)}: {type(error).__name__}: {error}") from error
        took_s = time.process_time() - begin_s
        outcome.slowest_s = max(outcome.slowest_s, took_s)
        if took_s > most_s:
            raise ForeignError(f"{_keep(content)}: it took {took_s:.1f} s")


def _write(folder: Path, content: Content) -> None:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def _keep(content: Content) -> str:
    """Save an input for whoever looks for the fault."""
    folder = Path(tempfile.mkdtemp(prefix="energyest-fuzz-"))
    _write(folder, content)
    return str(folder)


# ---------------------------------------------------------------------- mutations


def mutate(data: bytes, dice: random.Random) -> bytes:
    """A real file with a few things wrong with it."""
    for _ in range(dice.randint(1, 3)):
        data = dice.choice(_MUTATIONS)(data, dice)
    return data


def _truncate(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randint(0, len(data))]


def _flip(data: bytes, dice: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(min(len(damaged), dice.randint(1, 8))):
        damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
    return bytes(damaged)


def _lines(data: bytes, dice: random.Random) -> bytes:
    """Swap, repeat or delete a line."""
    lines = data.splitlines(keepends=True) or [b""]
    at, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    what = dice.randrange(3)
    if what == 0:
        lines[at], lines[other] = lines[other], lines[at]
    elif what == 1:
        lines.insert(at, lines[other])
    else:
        del lines[at]
    return b"".join(lines)


def _word(data: bytes, dice: random.Random) -> bytes:
    """Another word in the place of a field of a table, or of a value or a name in JSON."""
    edges = [i for i, byte in enumerate(data) if byte in b",:\n[]{}"]
    if len(edges) < 2:
        return dice.choice(WORDS).encode()
    at = dice.randrange(len(edges) - 1)
    return data[: edges[at] + 1] + dice.choice(WORDS).encode() + data[edges[at + 1] :]


def _scale(data: bytes, dice: random.Random) -> bytes:
    """A number that may well be, but is not the one that was there."""
    numbers = list(re.finditer(rb"(?<![\w\"])-?\d+(\.\d+)?(e-?\d+)?", data))
    if not numbers:
        return data
    found = dice.choice(numbers)
    number = repr(float(found[0]) * 10 ** dice.choice([-9, -2, -0.1, 0.1, 2, 9])).encode()
    return data[: found.start()] + number + data[found.end() :]


def _field(data: bytes, dice: random.Random) -> bytes:
    """Delete, rename, repeat or replace an entry of an object of JSON, at any depth."""
    lines = data.splitlines() if data.count(b"\n{") else [data]
    at = dice.randrange(len(lines)) if lines else 0
    try:
        content = json.loads(lines[at])
    except (ValueError, IndexError, RecursionError):
        return _word(data, dice)
    holder: Any = content
    while isinstance(holder, dict | list) and holder:
        key = dice.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if isinstance(holder[key], dict | list) and holder[key] and dice.random() < 0.8:
            holder = holder[key]
            continue
        what = dice.randrange(4)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[dice.choice(META + COLUMNS)] = holder.pop(key)
        elif what == 1:
            holder.insert(0, holder[key])
        else:
            holder[key] = copy.deepcopy(dice.choice(VALUES))
        break
    lines[at] = json.dumps(content).encode()
    return b"\n".join(lines) + b"\n" * data.endswith(b"\n")


_MUTATIONS = (_truncate, _flip, _lines, _word, _field, _field, _scale, _scale, _scale)
