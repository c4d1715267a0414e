"""`describe_workload` of LightningModules: the `training_step` is walked through, as Lightning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning
import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from energyest.errors import WorkloadError
from energyest.profiling.describe import count_flops, describe_workload
from energyest.records.workload import Workload
from tests.support.models import assert_same, state_of

X, Y = torch.randn(4, 8), torch.zeros(4, dtype=torch.long)
STUDENT, TEACHER = 2 * 8 * 3, 2 * 8 * 100 + 2 * 100 * 3
# Only the student's weights have gradients.
DISTILLATION = 4 * (STUDENT + TEACHER + STUDENT)


class Distillation(pytorch_lightning.LightningModule):
    """A student that learns from a teacher, which only `training_step` knows."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Linear(8, 3)
        self.teacher = nn.Sequential(nn.Linear(8, 100), nn.Linear(100, 3)).requires_grad_(False)

    def forward(self, x: Tensor) -> Any:
        return self.student(x)

    def loss(self, batch: Any) -> Tensor:
        return functional.mse_loss(self(batch[0]), self.teacher(batch[0]))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def manual(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step for manual optimization."""

    def training_step(module: Any, batch: Any, batch_idx: int) -> None:
        module.automatic_optimization = False
        step(module, batch)

    return training_step


def steps_the_schedule(module: Any, batch: Any, batch_idx: int) -> Any:
    module.lr_schedulers().step()
    return module.loss(batch)


def reads_the_rate(module: Any, batch: Any, batch_idx: int) -> Any:
    module.log("lr", module.optimizers().param_groups[0]["lr"])
    return module.loss(batch)


def asks_for_progress(module: Any, batch: Any, batch_idx: int) -> Any:
    trainer = module.trainer
    done = trainer.current_epoch / trainer.max_epochs + batch_idx / trainer.num_training_batches
    assert trainer.is_global_zero
    assert trainer.training
    return module.loss(batch) * (done + trainer.global_step + trainer.world_size)


def writes(module: Any, batch: Any, batch_idx: int) -> Any:
    loss = module.loss(batch)
    module.log_dict({"loss": loss}, prog_bar=True)
    module.print("a step")
    module.logger.experiment.add_scalar("loss", loss, module.global_step)
    for logger in module.loggers:
        logger.log_metrics({"loss": loss})
    return module.all_gather(loss)


def takes_no_index(module: Any, batch: Any) -> Any:
    return module.loss(batch)


def takes_two_indices(module: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
    return module.loss(batch) * (batch_idx + dataloader_idx)


def takes_names_alone(module: Any, batch: Any, **options: Any) -> Any:
    return module.loss(batch)


def takes_whatever_comes(module: Any, *arguments: Any) -> Any:
    batch, _ = arguments
    return module.loss(batch)


def takes_the_loader(module: Any, dataloader_iter: Iterator[Any]) -> Any:
    batch, _, _ = next(dataloader_iter)
    return module.loss(batch)


def by_hand(module: Any, batch: Any) -> None:
    optimizer = module.optimizers()
    optimizer.zero_grad()
    module.manual_backward(module.loss(batch))
    module.clip_gradients(optimizer, 1.0, "value")
    optimizer.step()
    module.lr_schedulers().step()


def with_a_closure(module: Any, batch: Any) -> None:
    optimizer = module.optimizers(use_pl_optimizer=False)
    optimizer.step(closure=lambda: module.manual_backward(module.loss(batch)))


def of_plain_torch(module: Any, batch: Any) -> None:
    module.loss(batch).backward()


STEPS = {
    **{
        step.__name__: step
        for step in (
            steps_the_schedule,
            reads_the_rate,
            asks_for_progress,
            writes,
            takes_no_index,
            takes_two_indices,
            takes_names_alone,
            takes_whatever_comes,
            takes_the_loader,
        )
    },
    **{step.__name__: manual(step) for step in (by_hand, with_a_closure, of_plain_torch)},
}


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_is_walked_through_without_a_trainer(name: str) -> None:
    kind = type("Kind", (Distillation,), {"training_step": STEPS[name]})
    workload = describe_workload(kind(), (X, Y))
    assert workload.flops_per_step == DISTILLATION
    assert workload.notes == ()


def test_a_training_step_that_fails_is_named() -> None:
    class Scaled(Distillation):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch) * self.trainer.datamodule.scale

    class Unknown(Distillation):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.loss(batch) * self.trainer.fit_loop.done

    for kind, why in ((Scaled, "no attribute 'scale'"), (Unknown, "Trainer's fit_loop is not")):
        workload = describe_workload(kind(), (X, Y))
        assert workload.flops_per_step == 4 * 2 * STUDENT
        (note,) = workload.notes
        assert note.startswith("training_step failed (AttributeError: ")
        assert why in note
        assert note.endswith("): its forward method was described instead")
        # A count of the forward pass does not need it.
        assert count_flops(kind(), (X, Y)).note == ""


def test_the_hook_on_a_batch_that_has_arrived() -> None:
    class Flattens(Distillation):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            assert self.trainer.training
            return batch[0].flatten(1), batch[1]

    workload = describe_workload(Flattens(), (X.unflatten(1, (2, 4)), Y))
    assert workload.flops_per_step == DISTILLATION
    assert workload.notes == ()


@pytest.mark.parametrize("library", [pytorch_lightning, lightning])
@pytest.mark.parametrize("toggles", ["methods", "context"])
def test_adversaries_are_described_as_lightning_trains_them(library: Any, toggles: str) -> None:
    class Adversaries(library.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.critic = nn.Linear(8, 8), nn.Linear(8, 2)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            one, other = self.optimizers()
            for optimizer in (one, other):
                if toggles == "methods":
                    self.toggle_optimizer(optimizer)
                    self.play(batch[0], optimizer, is_critic=optimizer is other)
                    self.untoggle_optimizer(optimizer)
                else:
                    with optimizer.toggle_model():
                        self.play(batch[0], optimizer, is_critic=optimizer is other)

        def play(self, x: Tensor, optimizer: Any, *, is_critic: bool) -> None:
            made = self.generator(x)
            loss = self.critic(made.detach() if is_critic else made).mean()
            if is_critic:
                loss = loss - self.critic(x).mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.log("loss", loss, prog_bar=True)

        def configure_optimizers(self) -> Any:
            parts = (self.generator, self.critic)
            return tuple(torch.optim.Adam(part.parameters()) for part in parts)

    model = Adversaries()
    before = describe_workload(model, (X, Y))
    assert before.notes == ()
    trainer = library.Trainer(
        fast_dev_run=True,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with FlopCounterMode(display=False) as counter:
        trainer.fit(model, DataLoader(TensorDataset(X, Y), 4))
    assert before.flops_per_step == counter.get_total_flops()
    # A Trainer that is attached stays as it is.
    state, step = state_of(model), trainer.global_step
    after = describe_workload(model, (X, Y))
    assert after == before
    assert_same(state, state_of(model))
    assert model.trainer is trainer
    assert trainer.global_step == step
    assert model.optimizers(use_pl_optimizer=False) is trainer.optimizers


def test_several_backward_passes_all_count() -> None:
    class Twice(Distillation):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.automatic_optimization = False
            for _ in range(2):
                self.manual_backward(self.loss(batch))
            return self.loss(batch) if self.returns else None

    found: list[Workload] = []
    for returns in (False, True):
        Twice.returns = returns
        found.append(describe_workload(Twice(), (X, Y)))
    assert found[0].flops_per_step == 2 * DISTILLATION
    # What a step of manual optimization returns is not trained on.
    assert found[1].flops_per_step == 3 * DISTILLATION - 4 * STUDENT


def test_a_training_step_without_a_backward_pass_is_refused() -> None:
    class Forgets(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.layer = nn.Linear(8, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.layer(batch[0]).sum()

    with pytest.raises(WorkloadError, match="depends on no trainable parameter"):
        describe_workload(Forgets(), (X, Y))
