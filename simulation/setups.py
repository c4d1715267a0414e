"""Trainings of many kinds, each of which a careless monitor could change, and what comes of them.

A set-up is a function of a namespace of Lightning and of a `World`. `outcome` trains it and returns
all that may not differ with a monitor. Used by `tests/test_setups.py`, and as a whole by
`tests/long/test_setups.py`.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import io
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from simulation.trainers import quiet_trainer

SAMPLES, BATCH, WIDTH, CLASSES = 24, 4, 8, 3
EPOCHS = 2


class World:
    """What a training uses and nobody can restore from outside: generators, a counter, a queue."""

    def __init__(self) -> None:
        self.numpy = np.random.default_rng(0)
        self.torch = torch.Generator().manual_seed(0)
        self.counter = itertools.count()
        self.queue: collections.deque[float] = collections.deque(maxlen=8)
        self.calls: collections.Counter[str] = collections.Counter()
        self.losses: list[float] = []


@dataclass
class Setup:
    """A training: its module, its data, and the settings of its Trainer."""

    module: Any
    train: Any = None
    validation: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    callbacks: list[Any] = field(default_factory=list)
    around: Callable[[], Any] = contextlib.nullcontext


Build = Callable[[ModuleType, World], Setup]
SETUPS: dict[str, Build] = {}


def setup(build: Build) -> Build:
    """Add a set-up to the table, under the name of its function."""
    SETUPS[build.__name__.replace("_", " ")] = build
    return build


def pairs(samples: int = SAMPLES) -> TensorDataset:
    """Inputs and classes, always the same."""
    x = torch.arange(float(samples * WIDTH)).reshape(samples, WIDTH).sin()
    return TensorDataset(x, (torch.arange(samples) % CLASSES))


def loader(**options: Any) -> DataLoader[Any]:
    """Their batches; shuffled, which draws from torch's generator."""
    return DataLoader(pairs(), **{"batch_size": BATCH, "shuffle": True, **options})


def mlp() -> nn.Sequential:
    """A small net with dropout and batch normalisation."""
    return nn.Sequential(
        nn.Linear(WIDTH, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(16, CLASSES),
    )


def module(
    pl: ModuleType,
    world: World,
    net: nn.Module | None = None,
    *,
    forward: Callable[[Any, Any], Tensor] | None = None,
    step: Callable[[Any, Any], Tensor] | None = None,
    optimizers: Callable[[Any], Any] | None = None,
    manual: bool = False,
    **held: Any,
) -> Any:
    """A LightningModule that counts its calls.

    Args:
        pl: the namespace.
        world: where to count.
        net: what it trains.
        forward: from the module and an input to an output.
        step: from the module and a batch to a loss.
        optimizers: from the module to what `configure_optimizers` returns.
        manual: optimise in the step.
        held: attributes.
    """

    class Net(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = not manual
            self.net = mlp() if net is None else net
            for name, value in held.items():
                setattr(self, name, value)

        def forward(self, x: Any) -> Any:
            world.calls["forward"] += 1
            return self.net(x) if forward is None else forward(self, x)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            world.calls["training_step"] += 1
            if step is not None:
                loss = step(self, batch)
            else:
                loss = functional.cross_entropy(self(batch[0]), batch[1])
            if isinstance(loss, Tensor):
                world.losses.append(float(loss.detach()))
                self.log("loss", loss, on_step=True, on_epoch=True)
            return None if manual else loss

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            world.calls["validation_step"] += 1
            self.log("val", functional.cross_entropy(self(batch[0]).float(), batch[1]))

        def configure_optimizers(self) -> Any:
            if optimizers is not None:
                return optimizers(self)
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    return Net()


def outcome(build: Build, pl: ModuleType, folder: Path, *callbacks: Any) -> dict[str, Any]:
    """Train; everything that a monitor may not change, by name.

    Args:
        build: the set-up.
        pl: the namespace.
        folder: for the Trainer.
        callbacks: beside those of the set-up.
    """
    world = World()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    made = build(pl, world)
    printed = io.StringIO()
    options = {"max_epochs": EPOCHS, **made.options}
    trainer = quiet_trainer(pl, folder, *made.callbacks, *callbacks, **options)
    train = loader() if made.train is None else made.train
    with contextlib.redirect_stdout(printed), made.around():
        trainer.fit(made.module, train, made.validation)
    metrics = {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if not name.startswith("energy/")
    }
    return {
        "weights": [t.detach().clone() for t in made.module.state_dict().values()],
        "gradients": [
            None if p.grad is None else p.grad.to_dense() for p in made.module.parameters()
        ],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1:],  # noqa: NPY002
        "python": random.getstate(),
        "own numpy": world.numpy.bit_generator.state,
        "own torch": world.torch.get_state(),
        "counter": next(world.counter),
        "queue": list(world.queue),
        "calls": dict(world.calls),
        "losses": world.losses,
        "printed": printed.getvalue(),
        "metrics": metrics,
        "steps": trainer.global_step,
    }


def same(one: Any, other: Any) -> bool:
    """Whether two outcomes are equal, bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(
            one.nan_to_num() if one.is_floating_point() else one,
            other.nan_to_num() if other.is_floating_point() else other,
        )
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and np.isnan(one):
        return isinstance(other, float) and bool(np.isnan(other))
    return bool(one == other)


# ------------------------------------------------------------------ plain models


@setup
def perceptron(pl: ModuleType, world: World) -> Setup:
    return Setup(module(pl, world), validation=loader(shuffle=False))


@setup
def convolutions(pl: ModuleType, world: World) -> Setup:
    net = nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)),
        nn.Conv2d(2, 4, 1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1, groups=2),
        nn.ConvTranspose2d(4, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, CLASSES),
    )
    return Setup(module(pl, world, net))


@setup
def recurrent(pl: ModuleType, world: World) -> Setup:
    net = nn.LSTM(2, 6, 2, batch_first=True, dropout=0.2, bidirectional=True)
    head = nn.Linear(12, CLASSES)
    return Setup(
        module(
            pl,
            world,
            net,
            head=head,
            forward=lambda m, x: m.head(m.net(x.unflatten(1, (4, 2)))[0][:, -1]),
        )
    )


@setup
def transformer(pl: ModuleType, world: World) -> Setup:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.1, batch_first=True)
    net = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(WIDTH, CLASSES))
    forward = lambda m, x: m.net(x[:, None].expand(-1, 5, -1)).mean(1)  # noqa: E731
    return Setup(module(pl, world, net, forward=forward))


@setup
def causal_attention(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.net(x.unflatten(1, (4, 2))).chunk(3, -1)
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True).mean(1)

    return Setup(module(pl, world, nn.Linear(2, 9), forward=forward))


@setup
def sparse_embedding(pl: ModuleType, world: World) -> Setup:
    net = nn.Sequential(nn.Embedding(10, 6, sparse=True), nn.Flatten(), nn.Linear(48, CLASSES))
    return Setup(
        module(
            pl,
            world,
            net,
            forward=lambda m, x: m.net((x.abs() * 9).long()),
            optimizers=lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
        )
    )


@setup
def lazy_layers(pl: ModuleType, world: World) -> Setup:
    net = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(CLASSES))
    net(torch.zeros(1, WIDTH))
    return Setup(module(pl, world, net))


@setup
def normalised_weights(pl: ModuleType, world: World) -> Setup:
    wrap = nn.utils.parametrizations
    net = nn.Sequential(
        wrap.weight_norm(nn.Linear(WIDTH, 8)), wrap.spectral_norm(nn.Linear(8, CLASSES))
    )
    return Setup(module(pl, world, net))


@setup
def tied_weights(pl: ModuleType, world: World) -> Setup:
    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, CLASSES))
    net[2].weight = net[0].weight
    return Setup(module(pl, world, net))


@setup
def complex_numbers(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        return torch.fft.rfft(m.net(x)).abs()

    return Setup(module(pl, world, nn.Linear(WIDTH, 4), forward=forward))


@setup
def nested_tensors(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        nested = torch.nested.nested_tensor(list(x.unflatten(1, (2, 4))), layout=torch.strided)
        return m.net(nested).to_padded_tensor(0.0).mean(1)

    return Setup(module(pl, world, nn.Linear(4, CLASSES), forward=forward))


# ------------------------------------------------------------------ what a forward may do


@setup
def numpy_generator(pl: ModuleType, world: World) -> Setup:
    def step(m: Any, batch: Any) -> Tensor:
        x, y = batch
        w = float(world.numpy.beta(1, 1))
        return functional.cross_entropy(m(w * x + (1 - w) * x.flip(0)), y)

    return Setup(module(pl, world, step=step))


@setup
def torch_generator(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.net(x + torch.randn(x.shape, generator=world.torch))

    return Setup(module(pl, world, forward=forward))


@setup
def counter_and_queue(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        world.queue.append(float(x.mean()))
        return m.net(x * (1 + next(world.counter) % 2) + sum(world.queue))

    return Setup(module(pl, world, forward=forward))


@setup
def global_generators(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.net(x * random.random() + np.random.rand())  # noqa: NPY002

    return Setup(module(pl, world, forward=forward))


@setup
def rejection_sampling(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        mean = m.net(x)
        mean = mean / mean.norm(dim=-1, keepdim=True)
        while True:  # for ever, where all weights are 0
            z = mean + 0.3 * torch.randn_like(mean)
            if bool(((z * mean).sum(-1) > 0).all()):
                return z

    return Setup(module(pl, world, nn.Linear(WIDTH, CLASSES), forward=forward))


@setup
def control_by_values(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.net(x) if x.sum() > 0 else m.net(-x)

    return Setup(module(pl, world, forward=forward))


@setup
def prints(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        print("forward of", tuple(x.shape))
        return m.net(x)

    return Setup(module(pl, world, forward=forward))


@setup
def asks_its_trainer(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.net(x) * (1 + m.trainer.current_epoch)

    return Setup(module(pl, world, forward=forward))


@setup
def works_in_place(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.net(x.mul_(1.5)).clone().add_(1)

    return Setup(module(pl, world, forward=forward))


@setup
def caches(pl: ModuleType, world: World) -> Setup:
    kept: dict[int, Tensor] = {}

    def forward(m: Any, x: Tensor) -> Tensor:
        mask = kept.setdefault(len(x), torch.tril(torch.ones(WIDTH, WIDTH)))
        return m.net(x @ mask)

    return Setup(module(pl, world, forward=forward))


@setup
def hooks(pl: ModuleType, world: World) -> Setup:
    made = module(pl, world)
    first = made.net[0]
    first.register_forward_hook(lambda *_: world.calls.update(["hook"]))
    first.register_full_backward_hook(lambda *_: world.calls.update(["backward hook"]))
    first.weight.register_hook(lambda g: g * 2)
    return Setup(made)


@setup
def metrics_in_the_module(pl: ModuleType, world: World) -> Setup:
    accuracy = torchmetrics.classification.MulticlassAccuracy(CLASSES)

    def step(m: Any, batch: Any) -> Tensor:
        output = m(batch[0])
        m.accuracy(output, batch[1])
        m.log("accuracy", m.accuracy, on_epoch=True)
        return functional.cross_entropy(output, batch[1])

    return Setup(module(pl, world, step=step, accuracy=accuracy))


@setup
def holds_much_data(pl: ModuleType, world: World) -> Setup:
    return Setup(module(pl, world, memory=[np.zeros(1000) for _ in range(1000)], file=io.BytesIO()))


@setup
def functional_transforms(pl: ModuleType, world: World) -> Setup:
    def step(m: Any, batch: Any) -> Tensor:
        weights = dict(m.net.named_parameters())

        def one(x: Tensor, y: Tensor) -> Tensor:
            output = torch.func.functional_call(m.net, weights, (x[None],))
            return functional.cross_entropy(output, y[None])

        return torch.func.vmap(one)(*batch).mean()

    return Setup(module(pl, world, nn.Linear(WIDTH, CLASSES), step=step))


@setup
def own_autograd_function(pl: ModuleType, world: World) -> Setup:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            world.calls["own forward"] += 1
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            world.calls["own backward"] += 1
            return gradient * 2

    return Setup(module(pl, world, forward=lambda m, x: Double.apply(m.net(x))))


@setup
def saved_tensors_packed(pl: ModuleType, world: World) -> Setup:
    def step(m: Any, batch: Any) -> Tensor:
        pack = lambda t: (world.calls.update(["packed"]), t.clone())[1]  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            return functional.cross_entropy(m(batch[0]), batch[1])

    return Setup(module(pl, world, step=step))


@setup
def checkpointed_layers(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = torch.utils.checkpoint.checkpoint(m.net[:4], x, use_reentrant=False)
        return m.net[4](x)

    return Setup(module(pl, world, forward=forward))


@setup
def reentrant_checkpoints(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(m.net, x.requires_grad_(), use_reentrant=True)

    return Setup(module(pl, world, forward=forward))


@setup
def gradient_penalty(pl: ModuleType, world: World) -> Setup:
    def step(m: Any, batch: Any) -> Tensor:
        x = batch[0].requires_grad_()
        output = m(x)
        (gradient,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        return functional.cross_entropy(output, batch[1]) + gradient.square().mean()

    return Setup(module(pl, world, step=step))


@setup
def frozen_backbone(pl: ModuleType, world: World) -> Setup:
    made = module(pl, world)
    made.net[0].requires_grad_(False)
    return Setup(made)


@setup
def features_without_gradients(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = m.net[:4](x)
        return m.net[4](x)

    return Setup(module(pl, world, forward=forward))


@setup
def moving_average_teacher(pl: ModuleType, world: World) -> Setup:
    student, teacher = mlp(), mlp().requires_grad_(False)

    def step(m: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            for mine, theirs in zip(m.net.parameters(), m.teacher.parameters(), strict=True):
                theirs.lerp_(mine, 0.1)
            target = m.teacher(batch[0])
        return functional.mse_loss(m(batch[0]), target.detach())

    return Setup(module(pl, world, student, step=step, teacher=teacher))


# ------------------------------------------------------------------ optimisation


@setup
def manual_optimisation(pl: ModuleType, world: World) -> Setup:
    def step(m: Any, batch: Any) -> Tensor:
        optimizer = m.optimizers()
        optimizer.zero_grad()
        loss = functional.cross_entropy(m(batch[0]), batch[1])
        m.manual_backward(loss)
        optimizer.step()
        return loss

    return Setup(module(pl, world, step=step, manual=True))


@setup
def adversarial(pl: ModuleType, world: World) -> Setup:
    generator, critic = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 1)

    def step(m: Any, batch: Any) -> Tensor:
        for_generator, for_critic = m.optimizers()
        noise = torch.randn(len(batch[0]), 4)
        m.toggle_optimizer(for_critic)
        loss = m.critic(m.net(noise).detach()).mean() - m.critic(batch[0]).mean()
        for_critic.zero_grad()
        m.manual_backward(loss)
        for_critic.step()
        m.untoggle_optimizer(for_critic)
        if next(world.counter) % 3 == 0:
            m.toggle_optimizer(for_generator)
            other = -m.critic(m.net(noise)).mean()
            for_generator.zero_grad()
            m.manual_backward(other)
            for_generator.step()
            m.untoggle_optimizer(for_generator)
        return loss

    def optimizers(m: Any) -> Any:
        return [
            torch.optim.Adam(m.net.parameters(), 0.01),
            torch.optim.Adam(m.critic.parameters(), 0.01),
        ]

    return Setup(
        module(pl, world, generator, step=step, manual=True, optimizers=optimizers, critic=critic)
    )


@setup
def closure_several_times(pl: ModuleType, world: World) -> Setup:
    optimizers = lambda m: torch.optim.LBFGS(m.parameters(), 0.1, max_iter=3)  # noqa: E731
    return Setup(module(pl, world, optimizers=optimizers))


@setup
def optimizer_with_products(pl: ModuleType, world: World) -> Setup:
    class Orthogonal(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"lr": 0.01})

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None and p.ndim == 2:
                        p.sub_(group["lr"] * (p.grad @ p.grad.T @ p.grad))
            return loss

    return Setup(module(pl, world, optimizers=lambda m: Orthogonal(m.parameters())))


@setup
def skipped_steps(pl: ModuleType, world: World) -> Setup:
    def step(m: Any, batch: Any) -> Any:
        loss = functional.cross_entropy(m(batch[0]), batch[1])
        return loss if next(world.counter) % 2 else None

    return Setup(module(pl, world, step=step))


def _settings(name: str, **options: Any) -> None:
    """A set-up that differs from the plain one by settings of its Trainer."""

    def build(pl: ModuleType, world: World) -> Setup:
        return Setup(module(pl, world), validation=loader(shuffle=False), options=dict(options))

    SETUPS[name] = build


_settings("accumulated gradients", accumulate_grad_batches=2)
_settings("clipped by norm", gradient_clip_val=0.1)
_settings("clipped by value", gradient_clip_val=0.1, gradient_clip_algorithm="value")
_settings("bf16 mixed", precision="bf16-mixed")
_settings("bf16 true", precision="bf16-true")
_settings("double precision", precision="64-true")
_settings("limited batches", limit_train_batches=3, limit_val_batches=1)
_settings("overfits", overfit_batches=2)
_settings("validates within an epoch", val_check_interval=2)
_settings("validates rarely", check_val_every_n_epoch=2)
_settings("without sanity check", num_sanity_val_steps=0)
_settings("bounded by steps", max_steps=5, max_epochs=-1)
_settings("one quick run", fast_dev_run=True)
_settings("looks for anomalies", detect_anomaly=True)
_settings("without inference mode", inference_mode=False)
_settings("profiled", profiler="simple")
_settings("reloads its data", reload_dataloaders_every_n_epochs=1)
_settings("barebones", barebones=True, logger=None, enable_checkpointing=None)


# ------------------------------------------------------------------ callbacks


def _callbacks(name: str, make: Callable[[ModuleType], list[Any]], **options: Any) -> None:
    def build(pl: ModuleType, world: World) -> Setup:
        return Setup(
            module(pl, world, backbone=mlp(), forward=lambda m, x: m.net(m.backbone(x) @ _LIFT)),
            validation=loader(shuffle=False),
            callbacks=make(pl.callbacks),
            options=options,
        )

    SETUPS[name] = build


_LIFT = torch.ones(CLASSES, WIDTH)
_callbacks("early stopping", lambda c: [c.EarlyStopping("val", patience=1)])
_callbacks("averaged weights", lambda c: [c.StochasticWeightAveraging(0.01, swa_epoch_start=1)])
_callbacks(
    "checkpoints",
    lambda c: [c.ModelCheckpoint(monitor="val", save_last=True)],
    enable_checkpointing=True,
)
_callbacks("scheduled accumulation", lambda c: [c.GradientAccumulationScheduler({0: 1, 1: 2})])
_callbacks("timer", lambda c: [c.Timer(duration={"hours": 1})])


@setup
def unfreezes(pl: ModuleType, world: World) -> Setup:
    made = module(
        pl,
        world,
        nn.Linear(CLASSES, CLASSES),
        backbone=mlp(),
        forward=lambda m, x: m.net(m.backbone(x)),
        optimizers=lambda m: torch.optim.SGD(m.net.parameters(), lr=0.05),
    )
    callback = pl.callbacks.BackboneFinetuning(1, verbose=False)
    return Setup(made, callbacks=[callback], options={"max_epochs": 3})


@setup
def ends_an_epoch_early(pl: ModuleType, world: World) -> Setup:
    made = module(pl, world)
    made.on_train_batch_start = lambda batch, index: -1 if index == 3 else None
    return Setup(made)


@setup
def another_mode_in_a_callback(pl: ModuleType, world: World) -> Setup:
    from torch.utils.flop_counter import FlopCounterMode

    class Counts(pl.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_start(self, *_: Any) -> None:
            self.mode = FlopCounterMode(display=False)
            self.mode.__enter__()

        def on_train_batch_end(self, *_: Any) -> None:
            self.mode.__exit__(None, None, None)
            world.queue.append(float(self.mode.get_total_flops()))

    return Setup(module(pl, world), callbacks=[Counts()])


# ------------------------------------------------------------------ data


@dataclass
class Batch:
    """A batch with names."""

    x: Tensor
    y: Tensor


@setup
def batches_of_a_class(pl: ModuleType, world: World) -> Setup:
    def collate(items: Any) -> Batch:
        x, y = zip(*items, strict=True)
        return Batch(torch.stack(x), torch.stack(y))

    step = lambda m, b: functional.cross_entropy(m(b.x), b.y)  # noqa: E731
    return Setup(module(pl, world, step=step), train=loader(collate_fn=collate))


@setup
def batches_by_name(pl: ModuleType, world: World) -> Setup:
    def collate(items: Any) -> dict[str, Any]:
        x, y = zip(*items, strict=True)
        return {"input": torch.stack(x), "label": torch.stack(y), "text": ["a"] * len(x)}

    step = lambda m, b: functional.cross_entropy(m(b["input"]), b["label"])  # noqa: E731
    return Setup(module(pl, world, step=step), train=loader(collate_fn=collate))


@setup
def several_loaders(pl: ModuleType, world: World) -> Setup:
    def step(m: Any, batch: Any) -> Tensor:
        parts = [functional.cross_entropy(m(x), y) for x, y in batch.values()]
        return torch.stack(parts).sum()

    train = {"a": loader(), "b": loader(batch_size=2)}
    validation = [loader(shuffle=False), loader(shuffle=False, batch_size=8)]
    return Setup(module(pl, world, step=step), train=train, validation=validation)


@setup
def a_stream(pl: ModuleType, world: World) -> Setup:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([(x, y) for x, y in pairs()])

    return Setup(module(pl, world), train=DataLoader(Stream(), BATCH))


@setup
def batches_of_unequal_length(pl: ModuleType, world: World) -> Setup:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.net(x.expand(1 + len(x) % 3, *x.shape)).mean(0)

    net = nn.Linear(WIDTH, CLASSES)
    return Setup(module(pl, world, net, forward=forward), train=loader(batch_size=5))


@setup
def data_of_the_module(pl: ModuleType, world: World) -> Setup:
    made = module(pl, world, data=pairs())
    made.train_dataloader = lambda: DataLoader(made.data, BATCH)
    return Setup(made, train=made.train_dataloader())


# ------------------------------------------------------------------ what is not watched


@setup
def compiled_module(pl: ModuleType, world: World) -> Setup:
    return Setup(module(pl, world, torch.compile(mlp(), backend="eager")))  # type: ignore[arg-type]


@setup
def compiled_function(pl: ModuleType, world: World) -> Setup:
    def graph(made: Any, inputs: Any) -> Any:
        world.calls["compiled"] += 1
        return made.forward

    twice = torch.compile(lambda x: x * 2, backend=graph)
    return Setup(module(pl, world, forward=lambda m, x: twice(m.net(x))))


@setup
def scripted_module(pl: ModuleType, world: World) -> Setup:
    return Setup(module(pl, world, torch.jit.script(nn.Linear(WIDTH, CLASSES))))


@setup
def within_another_mode(pl: ModuleType, world: World) -> Setup:
    from torch.utils.flop_counter import FlopCounterMode

    mode = FlopCounterMode(display=False)
    return Setup(module(pl, world), around=lambda: mode)


@setup
def copies_of_itself(pl: ModuleType, world: World) -> Setup:
    def step(m: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            old = copy.deepcopy(m.net).eval()(batch[0])
        return functional.mse_loss(m(batch[0]), old)

    return Setup(module(pl, world, step=step))
