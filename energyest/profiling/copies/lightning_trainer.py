"""A stand-in for Lightning's Trainer, so that a `training_step` runs without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes


def is_lightning(model: nn.Module) -> bool:
    """Whether the model is a LightningModule, of either namespace."""
    return any(kind.__name__ == "LightningModule" for kind in type(model).__mro__)


def attach_trainer(copy: nn.Module) -> None:
    """Give a copy of a LightningModule a stand-in for its Trainer, unless it has one already.

    What it logs and prints is discarded.
    """
    if getattr(copy, "_trainer", None) is not None:
        return
    trainer = StandInTrainer(copy)
    for module in copy.modules():
        if is_lightning(module):
            # The attribute behind the property `trainer`, which accepts no other class.
            vars(module).update(_trainer=trainer, **dict.fromkeys(_SILENT, _nothing))


def run_backward(loss: Tensor, *, retain_graph: bool = False, create_graph: bool = False) -> None:
    """Like `loss.backward()`, which would disable the modes for functions, as `FusedLayers`."""
    engine: Any = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,),
        (torch.ones_like(loss),),
        retain_graph or create_graph,
        create_graph,
        (),
        allow_unreachable=True,
        accumulate_grad=True,
    )


def _nothing(*_: Any, **__: Any) -> None:
    """Stands in for a method whose work does not count."""


_SILENT = ("log", "log_dict", "print")


class _Discards:
    """Stands in for a logger: it accepts any call, and so do its attributes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self


class _Strategy:
    """Stands in for training on one device."""

    is_global_zero = True
    global_rank = local_rank = node_rank = 0
    world_size = 1

    def __init__(self, trainer: StandInTrainer) -> None:
        self._trainer = trainer

    @property
    def root_device(self) -> torch.device:
        """The device of the module's weights."""
        weights = next(self._trainer.lightning_module.parameters(), None)
        return torch.device("cpu") if weights is None else weights.device

    @property
    def _lightning_optimizers(self) -> list[Any]:
        return self._trainer.optimizers

    def backward(self, loss: Tensor, _: Any = None, **options: Any) -> None:
        """Run the backward pass of manual optimization."""
        accepted = {n: bool(options.get(n)) for n in ("retain_graph", "create_graph")}
        run_backward(loss, **accepted)

    def all_gather(self, tensor: Any, *_: Any, **__: Any) -> Any:
        """The tensor itself, as on one device."""
        return tensor

    reduce = broadcast = all_gather
    barrier = _nothing


class StandInTrainer:
    """What a usual `training_step` asks of its Trainer, at the first step of a training.

    Optimizers and schedulers are those of `configure_optimizers`, which is called when they are
    asked for. Their steps do nothing.

    Args:
        module: the copy of the LightningModule.
    """

    current_epoch = global_step = global_rank = local_rank = node_rank = 0
    max_epochs = num_training_batches = 1000
    estimated_stepping_batches = max_epochs * num_training_batches
    max_steps = -1
    accumulate_grad_batches = world_size = num_devices = num_nodes = 1
    log_every_n_steps = 50
    training = is_global_zero = True
    validating = testing = predicting = evaluating = sanity_checking = False
    is_last_batch = fast_dev_run = should_stop = False
    precision = "32-true"
    gradient_clip_val = gradient_clip_algorithm = datamodule = progress_bar_callback = None

    def __init__(self, module: nn.Module) -> None:
        self.model = self.lightning_module = module
        self.logger = _Discards()
        self.loggers = [self.logger]
        self.callbacks: list[Any] = []
        self.callback_metrics: dict[str, Any] = {}
        self.logged_metrics: dict[str, Any] = {}
        self.strategy = _Strategy(self)
        self.precision_plugin = SimpleNamespace(clip_gradients=_clip)
        self._configured: tuple[list[Any], list[Any]] | None = None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the Trainer's {name} is not known without a training")

    @property
    def optimizers(self) -> list[Any]:
        """The module's optimizers."""
        return self._parts()[0]

    @property
    def lr_scheduler_configs(self) -> list[Any]:
        """The module's schedulers, in configurations as Lightning makes them."""
        return [SimpleNamespace(scheduler=scheduler) for scheduler in self._parts()[1]]

    def _parts(self) -> tuple[list[Any], list[Any]]:
        if self._configured is None:
            module: Any = self.lightning_module
            try:
                # What it computes is no part of the step.
                with _disable_current_modes():
                    made = list(_made_by(module.configure_optimizers()))
            except AttributeError as error:  # a property must not raise it
                raise RuntimeError(f"configure_optimizers failed: {error}") from error
            optimizers = [item for item in made if hasattr(item, "param_groups")]
            schedulers = [item for item in made if not hasattr(item, "param_groups")]
            for optimizer in optimizers:
                optimizer.step = _closure_alone
                optimizer.optimizer = optimizer  # as of Lightning's wrapper
                optimizer.toggle_model = _toggling(module, optimizer)
            for scheduler in schedulers:
                scheduler.step = _nothing
            self._configured = optimizers, schedulers
        return self._configured


def _made_by(configured: Any) -> Iterator[Any]:
    """The optimizers and schedulers in what `configure_optimizers` returns."""
    if isinstance(configured, Mapping):
        for name in ("optimizer", "lr_scheduler", "scheduler"):
            yield from _made_by(configured.get(name))
    elif isinstance(configured, list | tuple):
        for item in configured:
            yield from _made_by(item)
    elif configured is not None:
        yield configured


def _closure_alone(closure: Callable[[], Any] | None = None, **_: Any) -> Any:
    """Stands in for an optimizer's step, whose own work is counted elsewhere."""
    return None if closure is None else closure()


def _toggling(module: Any, optimizer: Any) -> Callable[..., Any]:
    @contextmanager
    def toggle_model(sync_grad: bool = True) -> Iterator[None]:
        module.toggle_optimizer(optimizer)
        yield
        module.untoggle_optimizer(optimizer)

    return toggle_model


def _clip(optimizer: Any, limit: float, by: Any = "norm") -> None:
    """Clip gradients as Lightning's precision plugins do."""
    if not limit:
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if str(getattr(by, "value", by)) == "value":
        nn.utils.clip_grad_value_(parameters, limit)
    else:
        nn.utils.clip_grad_norm_(parameters, limit)
