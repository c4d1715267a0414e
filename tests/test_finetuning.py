"""What finetuning callbacks will do: against what they do in real trainings of both namespaces."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import lightning.pytorch
import lightning.pytorch.callbacks
import pytest
import pytorch_lightning
import pytorch_lightning.callbacks
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from energyest.lightning import finetuning
from energyest.lightning.finetuning import planned_flips
from energyest.tracking.trainable_changes import Flip, trainable_names
from tests.support.cost import cost_in_calls
from tests.support.models import assert_same, state_of
from tests.support.trainers import lightning_warns

pytestmark = lightning_warns

NAMESPACES = [
    pytest.param(pytorch_lightning, id="pytorch_lightning"),
    pytest.param(lightning.pytorch, id="lightning.pytorch"),
]


def module_of(namespace: ModuleType, *, everything: bool = False) -> Any:
    """Four layers of the same shape, which `torch.equal` could take for each other, and a head."""

    class Module(namespace.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(
                nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.Linear(8, 8)
            )
            self.head = nn.Linear(8, 2)

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

        def configure_optimizers(self) -> Any:
            chosen = [p for p in self.parameters() if p.requires_grad or everything]
            return torch.optim.Adam(chosen, lr=1e-3)

    return Module()


def data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 8, generator=generator)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8)


def gradual_of(namespace: ModuleType, base: type | None = None) -> Any:
    """A user's callback: one layer at epoch 1, another at 3; it keeps layers, prints and logs."""

    class Gradual(base or namespace.callbacks.BaseFinetuning):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layers: list[Any] = []

        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.backbone)
            self.layers = [pl_module.backbone[3], pl_module.backbone[2]]

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            print("finetuning")
            logging.getLogger("user").warning("finetuning")
            pl_module.log("unfrozen", float(epoch))
            pl_module.print(epoch, pl_module.trainer.max_epochs, torch.rand(1))
            if epoch in (1, 3):
                self.unfreeze_and_add_param_group(self.layers.pop(0), optimizer)

    return Gradual()


class Witness:
    """Plans at the start and writes down what really happens, at the first step of each epoch."""

    def __init__(self, base: type, when: str, epochs: int) -> None:
        self.plan: list[Flip] = []
        self.seen: dict[int, dict[str, bool]] = {}
        witness = self

        class Callback(base):  # type: ignore[misc, valid-type]
            def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
                witness.seen[trainer.current_epoch] = flags(module)

        def plan(callback: Any, trainer: Any, module: Any) -> None:
            before = state_of(module), optimizers_of(trainer), states_of(trainer)
            witness.plan = planned_flips(trainer, module, epochs)
            assert_same(before, (state_of(module), optimizers_of(trainer), states_of(trainer)))
            assert module.trainer is trainer

        setattr(Callback, when, plan)
        self.callback = Callback()

    def check(self, flips: int) -> None:
        """Check that the planned changes happened."""
        assert len(self.plan) == flips
        first = min(self.seen)
        state = self.seen[first]
        planned = {flip.epoch: dict(flip.trainable) for flip in self.plan}
        for epoch, seen in self.seen.items():
            state = planned.get(epoch, state)
            assert state == seen, epoch
        assert len({tuple(seen.items()) for seen in self.seen.values()}) == flips + 1


def flags(module: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in module.named_parameters()}


def optimizers_of(trainer: Any) -> list[Any]:
    return [
        (id(optimizer), [[id(p) for p in group["params"]] for group in optimizer.param_groups])
        for optimizer in trainer.optimizers
    ]


def states_of(trainer: Any) -> list[Any]:
    return [
        {name: copy.copy(value) for name, value in vars(callback).items()}
        for callback in trainer.callbacks
        if hasattr(callback, "finetune_function")
    ]


def fit(
    namespace: ModuleType,
    *callbacks: Any,
    epochs: int = 4,
    module: Any = None,
    when: str = "on_fit_start",
    **options: Any,
) -> Witness:
    witness = Witness(namespace.Callback, when, epochs)
    trainer = namespace.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[witness.callback, *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module or module_of(namespace), data(), **options)
    return witness


# ---------------------------------------------------------------------- the plan is what happens


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("everything", [False, True], ids=["head in optimizer", "all in optimizer"])
def test_backbone_finetuning(namespace: ModuleType, everything: bool) -> None:
    callback = namespace.callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=2, verbose=True)
    witness = fit(namespace, callback, module=module_of(namespace, everything=everything))
    witness.check(flips=1)
    (flip,) = witness.plan
    assert (flip.epoch, flip.callback) == (2, "BackboneFinetuning")
    # `freeze` leaves normalisation layers trainable.
    assert [name for name, trained in witness.seen[1].items() if trained] == [
        "backbone.1.weight",
        "backbone.1.bias",
        "head.weight",
        "head.bias",
    ]
    assert all(flip.trainable.values())


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_callback_of_the_users(
    namespace: ModuleType, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    witness = fit(namespace, gradual_of(namespace), epochs=5)
    witness.check(flips=2)
    assert [(flip.epoch, flip.callback) for flip in witness.plan] == [
        (1, "Gradual"),
        (3, "Gradual"),
    ]
    # What the rehearsal printed and logged was not heard; the training's own was.
    assert capsys.readouterr().out.count("finetuning") == 5
    assert [r.name for r in caplog.records].count("user") == 5
    assert "energyest" not in [r.name for r in caplog.records]


def test_two_callbacks_and_no_flip_beyond_the_end() -> None:
    backbone = pytorch_lightning.callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=9)
    head = head_at(2)
    witness = fit(pytorch_lightning, backbone, head, epochs=4)
    witness.check(flips=1)
    assert witness.plan[0].callback == "HeadAt"


def head_at(epoch: int) -> Any:
    class HeadAt(pytorch_lightning.callbacks.BaseFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.head)
            pl_module.backbone[0].requires_grad_(True)

        def finetune_function(self, pl_module: Any, current: int, optimizer: Any) -> None:
            if current == epoch:
                self.unfreeze_and_add_param_group(pl_module.head, optimizer)

    return HeadAt()


def test_a_resumed_training_begins_where_it_was(tmp_path: Any) -> None:
    def callbacks() -> list[Any]:
        return [gradual_of(pytorch_lightning)]

    trainer = pytorch_lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=callbacks(),
        logger=False,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = module_of(pytorch_lightning)
    trainer.fit(module, data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    witness = fit(
        pytorch_lightning,
        *callbacks(),
        epochs=5,
        when="on_train_start",
        ckpt_path=tmp_path / "last.ckpt",
    )
    assert sorted(witness.seen) == [2, 3, 4]
    witness.check(flips=1)


def test_the_other_namespace_is_not_imported() -> None:
    script = (
        "import sys, types\n"
        "from energyest.lightning.finetuning import planned_flips\n"
        "assert planned_flips(types.SimpleNamespace(callbacks=[object()]), None, 9) == []\n"
        "assert 'lightning' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_compiled_parts_keep_their_names() -> None:
    module = module_of(pytorch_lightning)
    module.backbone[2] = torch.compile(module.backbone[2], backend="eager")
    witness = fit(
        pytorch_lightning,
        pytorch_lightning.callbacks.BackboneFinetuning(unfreeze_backbone_at_epoch=1),
        module=module,
    )
    witness.check(flips=1)
    assert "backbone.2._orig_mod.weight" in witness.plan[0].trainable


# ---------------------------------------------------------------------- it never raises


def on_stage(callback: Any, module: Any = None) -> Any:
    """As much of a Trainer as is looked at."""
    module = module or module_of(pytorch_lightning)
    callback.freeze_before_training(module)
    trainer = SimpleNamespace(
        callbacks=[callback],
        optimizers=[module.configure_optimizers()],
        current_epoch=0,
        max_epochs=-1,
    )
    return trainer, module


def custom(finetune: Any, **attributes: Any) -> Any:
    class Custom(pytorch_lightning.callbacks.BaseFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.backbone)

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            finetune(self, pl_module, epoch, optimizer)

    callback = Custom()
    vars(callback).update(attributes)
    return callback


def raises(*_: Any) -> None:
    raise RuntimeError("not today\nnor tomorrow")


def unfreezes_on_a_metric(callback: Any, module: Any, epoch: int, optimizer: Any) -> None:
    if module.trainer.callback_metrics["val_loss"] < 1:
        callback.make_trainable(module.backbone)


def looks_at_values(callback: Any, module: Any, epoch: int, optimizer: Any) -> None:
    if module.head.weight.norm() > 0:
        callback.make_trainable(module.backbone)


UNKNOWN = {
    "raises": (custom(raises), "not today"),
    "a metric": (custom(unfreezes_on_a_metric), "callback_metrics"),
    "values": (custom(looks_at_values), "meta"),
    "no copy": (custom(lambda *_: None, lock=threading.Lock()), "pickle"),
    "not written": (custom(lambda *_: pytorch_lightning.callbacks.BaseFinetuning()
                           .finetune_function(None, 0, None)), "NotImplementedError"),
}  # fmt: skip


@pytest.mark.parametrize(("callback", "why"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_cannot_be_foreseen_is_said_once(
    callback: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, module = on_stage(callback)
    before = state_of(module)
    assert planned_flips(trainer, module, 9) == []
    assert_same(before, state_of(module))
    (record,) = caplog.records
    assert record.name == "energyest"
    assert why in record.getMessage()
    assert "\n" not in record.getMessage()
    assert logging.root.manager.disable == 0


def test_a_callback_that_has_the_module_from_elsewhere_cannot_change_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = module_of(pytorch_lightning)

    def unfreezes_the_real_one(callback: Any, _: Any, epoch: int, optimizer: Any) -> None:
        callback.make_trainable(module.backbone)
        module.eval()

    trainer, _ = on_stage(custom(unfreezes_the_real_one), module)
    callback = pytorch_lightning.callbacks.BaseFinetuning
    callback.freeze(module.backbone, train_bn=False)
    before = state_of(module)
    assert planned_flips(trainer, module, 9) == []
    assert_same(before, state_of(module))
    assert module.backbone[1].track_running_stats is False
    assert "changed a module other than" in caplog.text


def test_nothing_to_do(caplog: pytest.LogCaptureFixture) -> None:
    trainer, module = on_stage(custom(raises))
    assert planned_flips(trainer, module, 0) == []
    trainer.callbacks = []
    assert planned_flips(trainer, module, 9) == []
    assert not caplog.records


def test_the_optimizers_groups_are_those_of_the_copy() -> None:
    def thaws_and_freezes(callback: Any, module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            callback.unfreeze_and_add_param_group([module.backbone[0], module.head], optimizer)
        elif epoch in (2, 3):  # first what epoch 1 has added, then what was there
            for parameter in optimizer.param_groups[epoch - 3]["params"]:
                parameter.requires_grad = False

    trainer, module = on_stage(custom(thaws_and_freezes))
    fine, coarse = ["backbone.0.weight", "backbone.0.bias"], [*trainable_names(module)]
    states = [{n for n, on in f.trainable.items() if on} for f in planned_flips(trainer, module, 9)]
    assert states == [{*coarse, *fine}, set(coarse), set()]
    assert trainable_names(module) == set(coarse)


# ---------------------------------------------------------------------- what it costs


def every_other_epoch(callback: Any, module: Any, epoch: int, optimizer: Any) -> None:
    module.backbone.requires_grad_(epoch % 2 == 1)


def test_epochs_and_time_are_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(finetuning, "MOST_SECONDS", 60.0)
    trainer, module = on_stage(custom(every_other_epoch))
    assert planned_flips(trainer, module, 100_000)[-1].epoch == finetuning.MOST_EPOCHS - 1
    monkeypatch.setattr(finetuning, "MOST_SECONDS", 0.1)
    now_s = 0.0

    def takes_long(callback: Any, module: Any, epoch: int, optimizer: Any) -> None:
        nonlocal now_s
        now_s += 0.02
        every_other_epoch(callback, module, epoch, optimizer)

    monkeypatch.setattr(finetuning, "time", SimpleNamespace(monotonic=lambda: now_s))
    trainer, module = on_stage(custom(takes_long))
    with caplog.at_level(logging.DEBUG, "energyest"):
        assert 1 <= len(planned_flips(trainer, module, 100_000)) <= 6
    assert "not known in advance" in caplog.text


def test_trainable_names_are_cheap() -> None:
    module = nn.Sequential(*[nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(250)])
    module[3].requires_grad_(False)
    names = trainable_names(module)
    assert len(names) == 498
    assert "3.0.weight" not in names
    assert cost_in_calls(lambda: trainable_names(module)) < 50_000  # 100 for each tensor
