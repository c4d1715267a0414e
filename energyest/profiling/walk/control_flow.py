"""torch's operators for branches and loops, run as plain Python would run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def _branch(
    choice: Any, if_true: Callable[..., Any], if_false: Callable[..., Any], operands: Sequence[Any]
) -> Any:
    """`torch.cond`; the choice is a value that the model looks at."""
    return if_true(*operands) if bool(choice) else if_false(*operands)


def _loop(
    goes_on: Callable[..., Any],
    body: Callable[..., Any],
    carried: Sequence[Any],
    others: Sequence[Any] = (),
    **_: Any,
) -> Any:
    """`while_loop`."""
    while bool(goes_on(*carried, *others)):
        carried = body(*carried, *others)
    return tuple(carried)


def _scan(
    combine: Callable[..., Any],
    start: Sequence[Any],
    rows: Sequence[Tensor],
    others: Sequence[Any] = (),
) -> list[Any]:
    """`scan` along the first dimension: the last state, and the results of all steps."""
    state, results = list(start), []
    for place in range(len(rows[0])):
        made = list(combine(*state, *(row[place] for row in rows), *others))
        state = made[: len(state)]
        results.append(made[len(state) :])
    return [*state, *(torch.stack(column) for column in zip(*results, strict=True))]


def _map(change: Callable[..., Any], rows: Sequence[Tensor], others: Sequence[Any] = ()) -> Any:
    """`map` along the first dimension."""
    return tuple(_scan(change, (), rows, others))


# By the names of torch's operators.
CONTROL_FLOW: dict[str, Callable[..., Any]] = {
    "cond": _branch,
    "while_loop": _loop,
    "scan": _scan,
    "map_impl": _map,
}
