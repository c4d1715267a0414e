"""Planned freezing and unfreezing by Lightning's finetuning callbacks."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from energyest.display import in_a_line
from energyest.measure.signals import let_handlers_raise
from energyest.profiling.copies.held_objects import SHARED
from energyest.profiling.copies.model_copy import bare_copy, generators_restored
from energyest.tracking.trainable_changes import Flip

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

# A rehearsal ends at this epoch or, between two epochs, after this many seconds.
MOST_EPOCHS = 1000
MOST_SECONDS = 1.0
# Both namespaces define the class; a namespace that is not imported has no callbacks.
_HOMES = ("pytorch_lightning.callbacks.finetuning", "lightning.pytorch.callbacks.finetuning")

log = logging.getLogger("energyest")


def planned_flips(
    trainer: Trainer, pl_module: LightningModule, epochs: int | None = None, *, users: bool = True
) -> list[Flip]:
    """Find out when the Trainer's `BaseFinetuning` callbacks will freeze or unfreeze parameters.

    Copies of the callbacks are called, epoch by epoch, on a copy of the module without parameter
    values. The module, the callbacks, the optimizers and the random states do not change. Changes
    that depend on values, such as a metric, cannot be predicted. For Lightning's own callbacks,
    only the parameters are copied; everything else is shared with the module.

    Call it after `on_fit_start`, when the callbacks have frozen their parameters, and before the
    first epoch; in a resumed training, after `on_train_start`, when the Trainer knows its epoch.

    Args:
        trainer: the Trainer, with its callbacks, optimizers and current epoch.
        pl_module: the module being trained, with its present `requires_grad`.
        epochs: number of the epoch before which to stop; by default the Trainer's `max_epochs`.
        users: whether to call users' own callbacks, too; they may have side effects, such as
            writing a file.

    Returns:
        The changes in order; empty if they cannot be predicted, which is logged. Nothing is
        raised.
    """
    if epochs is None:
        last = trainer.max_epochs
        epochs = last if last is not None and last > 0 else trainer.current_epoch + MOST_EPOCHS
    try:
        homes = [sys.modules[name] for name in _HOMES if name in sys.modules]
        kinds = tuple(home.BaseFinetuning for home in homes)
        callbacks = [c for c in trainer.callbacks if isinstance(c, kinds)]  # type: ignore[attr-defined]
        if not users:
            callbacks = [c for c in callbacks if type(c).finetune_function.__module__ in _HOMES]
        if not callbacks:
            return []
        with generators_restored(), _untouched(pl_module), _silence():
            flips, ended = _rehearse(trainer, pl_module, callbacks, epochs, is_deep=users)
        if ended < epochs:
            log.debug("energyest: unfreezing from epoch %d on is not known in advance", ended)
        return flips
    except Exception as error:  # users' callbacks can raise anything
        let_handlers_raise(error)
        log.warning(
            "energyest: the changes by the finetuning callbacks are not known in advance (%s)",
            in_a_line(error),
        )
        return []


def _rehearse(
    trainer: Trainer,
    pl_module: LightningModule,
    callbacks: Sequence[Any],
    epochs: int,
    *,
    is_deep: bool,
) -> tuple[list[Flip], int]:
    """Return the changes, and the first epoch that was not rehearsed."""
    # References that a callback keeps must lead to the copy.
    stage = SimpleNamespace(
        max_epochs=trainer.max_epochs,
        current_epoch=trainer.current_epoch,
        optimizers=[],
        loggers=[],
        logger=None,
        barebones=True,  # makes `pl_module.log` do nothing
        is_global_zero=False,  # makes `pl_module.print` do nothing
    )
    memo: dict[int, Any] = {id(trainer): stage}
    if is_deep:
        duplicate: Any = bare_copy(pl_module, torch.device("meta"), memo)
    else:
        duplicate = _skeleton(pl_module, memo)
    duplicate.trainer = stage
    for optimizer in trainer.optimizers:
        memo[id(optimizer)] = _copy_of(optimizer, memo)
        stage.optimizers.append(memo[id(optimizer)])
    if is_deep:
        for callback in callbacks:
            memo.update({id(v): v for v in vars(callback).values() if isinstance(v, SHARED)})
        actors = copy.deepcopy(callbacks, memo)
    else:
        actors = [copy.copy(callback) for callback in callbacks]
    parameters = {name: memo[id(p)] for name, p in pl_module.named_parameters()}

    flips: list[Flip] = []
    trainable = {name: p.requires_grad for name, p in parameters.items()}
    ends_s = time.monotonic() + MOST_SECONDS
    while stage.current_epoch < min(epochs, MOST_EPOCHS) and time.monotonic() < ends_s:
        for actor in actors:
            with _EqualIfSame():
                for optimizer in stage.optimizers:
                    actor.finetune_function(duplicate, stage.current_epoch, optimizer)
            before, trainable = trainable, {n: p.requires_grad for n, p in parameters.items()}
            if trainable != before:
                flips.append(Flip(stage.current_epoch, trainable, type(actor).__name__))
        stage.current_epoch += 1
    return flips, stage.current_epoch


def _skeleton(module: nn.Module, memo: dict[int, Any]) -> Any:
    """A module of the same structure with parameters on the meta device; the rest is shared.

    Args:
        module: the original.
        memo: maps the `id` of an original module or parameter to its copy; filled in.
    """
    if id(module) in memo:
        return memo[id(module)]
    memo[id(module)] = duplicate = object.__new__(type(module))
    state = dict(vars(module))
    for name in ("_parameters", "_modules"):
        state[name] = dict(state[name])
    vars(duplicate).update(state)
    for name, parameter in state["_parameters"].items():
        if parameter is not None:
            if id(parameter) not in memo:
                shape = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
                memo[id(parameter)] = nn.Parameter(shape, requires_grad=parameter.requires_grad)
            state["_parameters"][name] = memo[id(parameter)]
    for name, child in state["_modules"].items():
        state["_modules"][name] = None if child is None else _skeleton(child, memo)
    return duplicate


def _copy_of(optimizer: torch.optim.Optimizer, memo: Mapping[int, Any]) -> torch.optim.Optimizer:
    """An optimizer with the same groups but without state; it never makes a step."""
    groups = [
        {
            **{name: copy.deepcopy(value) for name, value in group.items() if name != "params"},
            "params": [memo[id(p)] for p in group["params"] if id(p) in memo],
        }
        for group in optimizer.param_groups
    ]
    return torch.optim.SGD(groups, lr=1.0)


class _EqualIfSame(TorchFunctionMode):
    """Makes `torch.equal`, which Lightning uses to compare parameters, compare identities."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace `torch.equal`, whose arguments have no values, and no other function."""
        if func is torch.equal:
            return args[0] is args[1]
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    """Undo what a callback does to the module itself, which it may know from a global variable.

    Raises:
        RuntimeError: something had to be undone.
    """
    # Everything that `freeze` and `unfreeze_and_add_param_group` set.
    before: list[tuple[Any, str, bool]] = [
        (owner, name, getattr(owner, name))
        for owners, names in (
            (module.parameters(), ("requires_grad",)),
            (module.modules(), ("training", "track_running_stats")),
        )
        for owner in owners
        for name in names
        if hasattr(owner, name)
    ]
    try:
        yield
    finally:
        changed = [item for item in before if getattr(item[0], item[1]) is not item[2]]
        for owner, name, value in changed:
            setattr(owner, name, value)
    if changed:
        raise RuntimeError("a callback changed a module other than the one it was called with")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress output, warnings and log messages of a rehearsed callback."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)
