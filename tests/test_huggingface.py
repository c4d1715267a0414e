"""`EnergyCallback` in real trainings by Hugging Face's Trainer; see test_adapters.py for more."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from energyest import EnergyCallback, EnergyTrace, load_trace
from energyest.carbon import co2e_kg
from energyest.errors import ConfigurationError, EstimateError
from energyest.profiling.describe import count_flops
from tests.support.cost import cost_in_calls
from tests.support.loggers import read_tensorboard
from tests.support.sensors import Constant
from tests.support.threads import is_within, own_threads
from tests.support.trainers import AccidentError, warnings_of

transformers = pytest.importorskip("transformers")

from energyest.huggingface.calls import call_of  # noqa: E402
from energyest.huggingface.model_card import add_emissions, emissions_of  # noqa: E402
from energyest.huggingface.taps import Tap  # noqa: E402
from energyest.huggingface.trainer_plan import TrainerPlan  # noqa: E402
from tests.support.huggingface import (  # noqa: E402
    BATCH,
    Stream,
    callback_of,
    causal_lm,
    encoder,
    make_trainer,
    samples,
    seq2seq,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class At(transformers.TrainerCallback):  # type: ignore[misc]
    """Does something in an event, at a step."""

    def __init__(self, event: str, step: int, act: Callable[..., Any]) -> None:
        def maybe(args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                act(control)

        setattr(self, event, maybe)


def fail(*_: Any) -> None:
    raise AccidentError("as it was")


# ---------------------------------------------------------------------- models


@pytest.mark.parametrize(
    ("make", "labels"), [(encoder, "class"), (causal_lm, "text"), (seq2seq, "answer")]
)
def test_real_models(make: Any, labels: str, tmp_path: Path) -> None:
    callback = callback_of()
    model, data = make(), samples(labels=labels)
    trainer = make_trainer(model, tmp_path, callback, train_dataset=data, eval_strategy="no")
    trainer.train()
    trace = callback.trace
    assert list(trace.column("steps")) == [4, 4]
    assert list(trace.column("samples")) == [16, 16]
    batch = trainer.data_collator(data[:BATCH])
    forward = count_flops(make(), batch).per_sample
    assert forward is not None
    assert trace.meta["forward_flops_per_sample"] == pytest.approx(forward, rel=1e-3)
    assert 2.5 < trace.meta["training_to_forward_flops"] < 3.1
    assert trace.meta["model"]["name"] == type(model).__name__
    assert trace.meta["versions"]["transformers"] == transformers.__version__
    assert callback.folder == tmp_path / "energy"


def test_generation_in_an_evaluation(tmp_path: Path) -> None:
    callback = callback_of()
    trainer = make_trainer(
        seq2seq(),
        tmp_path,
        callback,
        kind=transformers.Seq2SeqTrainer,
        train_dataset=samples(labels="answer"),
        eval_dataset=samples(8, labels="answer"),
        eval_strategy="epoch",
        predict_with_generate=True,
        generation_max_length=8,
    )
    trainer.train()
    trace = callback.trace
    assert (trace.column("validation_s") > 0).all()
    assert np.isfinite(trace.column("eval_loss")).all()
    assert trace.meta["validation_samples"] == 8


def test_arguments_that_were_given_are_in_the_trace(tmp_path: Path) -> None:
    callback = callback_of(hparams=["run_name"])
    trainer = make_trainer(
        encoder(), tmp_path, callback, warmup_steps=3, run_name="a b://c", hub_token="hf_abcdefghij"
    )
    trainer.train()
    hparams = callback.trace.meta["hparams"]
    assert hparams["warmup_steps"] == 3
    assert hparams["learning_rate"] == 5e-5
    assert hparams["run_name"] == "a b://c"
    assert not {"output_dir", "hub_token", "logging_dir"} & hparams.keys()
    assert "adam_beta1" not in hparams  # left as it is


# ---------------------------------------------------------------------- evaluation


def test_evaluation_of_several_data_sets_within_epochs(tmp_path: Path) -> None:
    callback = callback_of()
    sets = {"one": samples(8), "two": samples(4)}
    trainer = make_trainer(
        encoder(), tmp_path, callback, eval_dataset=sets, eval_strategy="steps", eval_steps=2
    )
    trainer.train()
    trace = callback.trace
    assert list(trace.column("steps")) == [4, 4]
    assert (trace.column("validation_s") > 0).all()
    assert trace.meta["validation_samples"] == 12
    assert trace.meta["validation_every_n_rows"] == 0.5
    assert trace.meta["validation_to_training_batches"] == 3 / 4
    # Of both, twice in an epoch.
    per_sample = trace.meta["forward_flops_per_sample"]
    training = trace.meta["training_to_forward_flops"] * per_sample * 16
    expected = training + 24 * per_sample
    np.testing.assert_allclose(trace.column("flops"), expected, rtol=1e-3)
    assert {"eval_one_loss", "eval_two_loss"} <= set(trace.metrics)


def test_evaluation_before_the_first_epoch_and_outside_of_a_training(tmp_path: Path) -> None:
    callback = callback_of()
    trainer = make_trainer(
        encoder(), tmp_path, callback, eval_on_start=True, eval_strategy="epoch", eval_delay=9
    )
    trainer.evaluate()
    assert len(callback.trace) == 0
    trainer.train()
    trace = callback.trace
    total_J = callback.total_J
    assert list(trace.column("validation_s")) == [0, 0]
    assert trace.column("start_s")[0] > 0
    assert "eval_loss" not in trace.metrics or np.isnan(trace.column("eval_loss")[1])
    trainer.evaluate()
    assert callback.total_J == total_J


def test_an_evaluation_that_a_later_callback_asks_for_costs_no_row(tmp_path: Path) -> None:
    def ask(control: Any) -> None:
        control.should_evaluate = True

    callback = callback_of()
    trainer = make_trainer(encoder(), tmp_path, callback, At("on_epoch_end", 4, ask))
    trainer.train()
    assert list(callback.trace.column("steps")) == [4, 4]
    assert np.isfinite(callback.trace.column("eval_loss")[0])


# ---------------------------------------------------------------------- length


@pytest.mark.parametrize("number", [None, 24])
def test_steps_that_bound_a_stream_make_intervals(number: int | None, tmp_path: Path) -> None:
    callback = callback_of()
    trainer = make_trainer(
        encoder(), tmp_path, callback, train_dataset=Stream(number), max_steps=100
    )
    seen: list[Any] = []
    for step in range(20, 100):  # on a busy machine, some of them follow uneven steps
        trainer.add_callback(At("on_step_end", step, lambda _: seen.append(callback.projection)))
    trainer.train()
    trace = callback.trace
    assert trace.unit == "interval"
    assert trace.column("steps").sum() == 100
    assert trace.meta["interval_steps"] == 2
    assert trace.meta["planned_epochs"] == 50
    projections = [projection.energy_J for projection in seen if projection is not None]
    assert np.median(projections) == pytest.approx(trace.column("energy_J").sum(), rel=0.5)


def test_steps_that_bound_many_epochs_leave_them(tmp_path: Path) -> None:
    callback = callback_of()
    make_trainer(encoder(), tmp_path, callback, max_steps=14).train()
    assert callback.trace.unit == "epoch"
    assert list(callback.trace.column("steps")) == [4, 4, 4, 2]
    assert callback.trace.meta["planned_epochs"] == 3.5


def plan_of(length: int | None, every: int | None = None, **options: Any) -> TrainerPlan:
    arguments = {
        "gradient_accumulation_steps": 2,
        "max_steps": -1,
        "num_train_epochs": 3,
        "ignore_data_skip": False,
        "dataloader_drop_last": False,
        "world_size": 2,
        "eval_batch_size": 4,
        "eval_strategy": "epoch",
    }
    state = {"max_steps": options.pop("total"), "global_step": options.pop("step", 0)}
    trainer = SimpleNamespace(
        args=SimpleNamespace(**arguments | options),
        state=SimpleNamespace(**state, eval_steps=3),
        callback_handler=SimpleNamespace(
            train_dataloader=Stream() if length is None else range(length)
        ),
        train_dataset=range(30),
        eval_dataset={"a": range(10), "b": range(6)},
    )
    return TrainerPlan(trainer, every)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        # An epoch of five batches has three optimizer steps; in older Trainers, two.
        ({"length": 5, "total": 9}, 3),
        ({"length": 5, "total": 6}, 3),
        ({"length": 5, "total": 8, "num_train_epochs": 2.5}, 2 + 4 / 5),
        ({"length": 5, "total": 10, "max_steps": 10}, 3 + 2 / 5),
        ({"length": 5, "total": 9, "every": 5}, 3),
        ({"length": None, "total": 50, "max_steps": 50}, 50),
        ({"length": None, "total": 5, "max_steps": 5, "every": 4}, 2.5),
        ({"length": 5, "total": 9, "step": 3}, 2),  # what is left of a resumed training
    ],
)
def test_rows_of_a_plan(options: dict[str, Any], rows: float) -> None:
    plan = plan_of(**options)
    assert plan.rows_at_start() == pytest.approx(rows)
    assert plan.world_size == 2


def test_evaluation_in_a_plan() -> None:
    plan = plan_of(5, total=9)
    assert (plan.validation_every_n_rows, plan.row_validation_samples(4)) == (1, 8)
    assert plan.validation_to_training_batches == 2 / 5
    # Two ranks share 30 samples; the fifth batch of four is not full.
    assert plan_of(4, total=9).row_samples(4) == 15
    assert plan_of(4, total=9, dataloader_drop_last=True).row_samples(4) == 16
    plan = plan_of(5, total=9, eval_strategy="steps")
    assert plan.validation_every_n_rows == 3 * 2 / 5
    plan = plan_of(5, total=9, eval_strategy="no")
    assert plan.validation_every_n_rows is plan.validation_to_training_batches is None
    assert plan.row_validation_samples(4) == 0


def test_where_a_resumed_training_is() -> None:
    for options, epoch, batches in (
        ({"step": 0}, 0, 0),
        ({"step": 3}, 1, 0),
        ({"step": 4}, 1, 2),
        ({"step": 4, "ignore_data_skip": True}, 1, 0),
    ):
        plan = plan_of(5, total=9, **options)
        assert (plan.epoch, plan.batches_seen) == (epoch, batches)
        plan.start_epoch()
        assert (plan.epoch, plan.batches_seen) == (epoch, batches)
        plan.count_batch()
        plan.end_epoch()
        plan.start_epoch()
        assert (plan.epoch, plan.batches_seen) == (epoch + 1, 0)


# ---------------------------------------------------------------------- going on


def interrupted_at(step: int, folder: Path, **options: Any) -> EnergyCallback:
    """Train until it fails after a checkpoint."""
    callback = callback_of()
    trainer = make_trainer(
        encoder(),
        folder,
        callback,
        At("on_step_begin", step + 1, fail),
        save_strategy="steps",
        save_steps=step,
        num_train_epochs=3,
        **options,
    )
    with pytest.raises(AccidentError, match="as it was"):
        trainer.train()
    assert callback.trace.meta["status"] == "interrupted by AccidentError"
    return callback


@pytest.mark.parametrize("accumulates", [1, 2])
def test_resuming_within_an_epoch(accumulates: int, tmp_path: Path) -> None:
    step = 6 // accumulates
    options = {"gradient_accumulation_steps": accumulates}
    earlier = interrupted_at(step, tmp_path, **options)
    callback = callback_of(tmp_path / "later")
    trainer = make_trainer(encoder(), tmp_path, callback, num_train_epochs=3, **options)
    trainer.train(resume_from_checkpoint=True)
    trace = load_trace(tmp_path / "later")
    assert list(trace.column("epoch")) == [0, 1, 2]
    assert list(trace.column("steps")) == [4, 4, 4]
    assert list(trace.column("samples")) == [16, 16, 16]
    assert trace.column("energy_J")[0] == pytest.approx(earlier.trace.column("energy_J")[0])
    carried_J = trace.meta["carried_J"]
    assert 0 < carried_J < trace.column("energy_J")[1]
    assert trace.meta["earlier_rows"] == 1
    assert trace.meta["planned_epochs"] == 3
    assert not trace.meta["notes"]


def stop_now(control: Any) -> None:
    control.should_save = control.should_training_stop = True


@pytest.mark.parametrize("strategy", ["no", "epoch"])
def test_stopped_within_an_epoch_and_resumed(strategy: str, tmp_path: Path) -> None:
    """With "epoch", the checkpoint is saved once more, after the epoch's row has ended."""
    parts = []
    for name, more in (("first", [At("on_step_end", 6, stop_now)]), ("later", [])):
        callback = callback_of(tmp_path / name)
        trainer = make_trainer(
            encoder(), tmp_path, callback, *more, save_strategy=strategy, num_train_epochs=3
        )
        trainer.train(resume_from_checkpoint=name == "later")
        parts.append(load_trace(tmp_path / name))
    first, later = parts
    assert list(first.column("steps")) == [4, 2]
    assert first.meta["planned_epochs"] == 1.5
    assert list(later.column("epoch")) == [0, 1, 2]
    assert list(later.column("steps")) == [4, 4, 4]
    assert list(later.column("samples")) == [16, 16, 16]
    assert later.column("energy_J")[1] > first.column("energy_J")[1]
    assert later.meta["planned_epochs"] == 3
    assert later.total_J > first.total_J


def test_resuming_with_intervals(tmp_path: Path) -> None:
    for folder, epochs, resume in (("first", 1, None), ("later", 2, True)):
        callback = callback_of(tmp_path / folder, every_n_steps=3)
        trainer = make_trainer(
            encoder(), tmp_path, callback, num_train_epochs=epochs, save_strategy="epoch"
        )
        trainer.train(resume_from_checkpoint=resume)
    assert list(callback.trace.column("steps")) == [3, 3, 2]
    assert callback.trace.meta["earlier_rows"] == 1


def test_resuming_from_what_has_no_record_or_a_damaged_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interrupted_at(6, tmp_path)
    record = tmp_path / "checkpoint-6" / "energyest.json"
    state = json.loads(record.read_text())
    damages = (
        (None, "holds no energy record"),
        ("{", "holds no readable JSON"),
        (json.dumps(state | {"epoch": -1}), "is not a position"),
        (json.dumps([]), "holds no checkpoint"),
    )
    for damage, why in damages:
        record.unlink() if damage is None else record.write_text(damage)
        callback = callback_of(None)
        trainer = make_trainer(encoder(), tmp_path, callback, num_train_epochs=3)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
        trace = callback.trace
        assert list(trace.column("steps")) == [2, 4]
        assert any("used before" in note and why in note for note in trace.meta["notes"])
    assert len(warnings_of(caplog, "energy record in the checkpoint is damaged")) == 3


def test_two_callbacks_do_not_mix(tmp_path: Path) -> None:
    for epochs, resume in ((1, None), (2, True)):
        both = [callback_of(None, Constant(watts)) for watts in (100.0, 300.0)]
        trainer = make_trainer(
            encoder(), tmp_path, *both, num_train_epochs=epochs, save_strategy="epoch"
        )
        trainer.train(resume_from_checkpoint=resume)
        for callback, watts in zip(both, (100.0, 300.0), strict=True):
            trace = callback.trace
            assert len(trace) == epochs
            np.testing.assert_allclose(
                trace.column("energy_J"), watts * trace.column("duration_s"), rtol=1e-6
            )
            assert not any(name.startswith("energy") for name in trace.metrics)
        logged = [set(entry) for entry in trainer.state.log_history]
        assert sum("energy/epoch_J" in names for names in logged) == epochs
        assert sum("energyest/epoch_J" in names for names in logged) == epochs


# ---------------------------------------------------------------------- being broken off


@pytest.mark.parametrize("event", ["on_step_end", "on_evaluate", "on_log"])
def test_the_end_of_a_training_that_fails_anywhere(event: str, tmp_path: Path) -> None:
    callback = callback_of(tmp_path / "energy")
    trainer = make_trainer(encoder(), tmp_path, callback, At(event, 4, fail), eval_strategy="epoch")
    with pytest.raises(AccidentError, match="as it was"):
        trainer.train()
    assert is_within(lambda: not own_threads(), 10)
    assert load_trace(tmp_path / "energy").meta["status"] == "interrupted by AccidentError"
    assert set(vars(trainer)) & {"training_step", "evaluate", "prediction_step"} == set()


def test_the_end_is_noticed_of_a_callback_that_was_added_later(tmp_path: Path) -> None:
    callback = callback_of(tmp_path / "energy")
    trainer = make_trainer(encoder(), tmp_path, At("on_step_end", 6, fail))
    trainer.add_callback(callback)
    with pytest.raises(AccidentError):
        trainer.train()
    # Nobody asks it for anything.
    assert is_within(lambda: not own_threads(), 10)
    assert load_trace(tmp_path / "energy").meta["status"] == "interrupted"
    assert not {"training_step", "evaluate"} & set(vars(trainer))
    # And at once, where somebody does.
    with pytest.raises(AccidentError):
        trainer.train()
    assert callback.trace.meta["status"] == "interrupted"


def test_a_long_step_is_not_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("energyest.huggingface.calls.LOOK_S", 0.01)
    callback = callback_of()
    slow = At("on_step_end", 2, lambda _: time.sleep(0.3))
    trainer = make_trainer(encoder(), tmp_path, slow)
    trainer.add_callback(callback)
    trainer.train()
    assert callback.trace.meta["status"] == "finished"
    assert list(callback.trace.column("steps")) == [4, 4]


def test_a_training_that_starts_again_with_smaller_batches(tmp_path: Path) -> None:
    class Trainer(transformers.Trainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
            if len(inputs["labels"]) > 3:
                raise RuntimeError("CUDA out of memory.")
            return super().training_step(model, inputs, *rest)

    callback = callback_of(tmp_path / "energy")
    trainer = make_trainer(
        encoder(), tmp_path, callback, kind=Trainer, auto_find_batch_size=True, num_train_epochs=1
    )
    trainer.train()
    trace = callback.trace
    assert trace.meta["status"] == "finished"
    assert list(trace.column("samples")) == [16]
    earlier = load_trace(tmp_path / "energy")
    assert earlier.meta["status"] == "interrupted by RuntimeError"
    assert earlier.meta["run_id"] != trace.meta["run_id"]


# ---------------------------------------------------------------------- the Trainer is left alone


def test_the_trainer_is_as_it_was(tmp_path: Path) -> None:
    copies: list[Any] = []
    callback = callback_of()
    trainer = make_trainer(encoder(), tmp_path, callback)
    own: list[int] = []
    original = trainer.training_step

    def of_the_user(*arguments: Any, **options: Any) -> Any:
        own.append(1)
        return original(*arguments, **options)

    trainer.training_step = of_the_user
    trainer.add_callback(At("on_step_end", 2, lambda _: copies.append(copy.deepcopy(trainer))))
    trainer.train()
    assert len(own) == 8
    assert trainer.training_step is of_the_user
    assert not {"evaluate", "predict", "prediction_step"} & set(vars(trainer))
    assert list(callback.trace.column("steps")) == [4, 4]
    # A copy that was made meanwhile has methods and a callback of its own.
    (copied,) = copies
    assert not any(isinstance(value, Tap) for value in vars(copied).values())
    assert copied.evaluate.__self__ is copied
    assert copied.callback_handler.callbacks[-2] is not callback
    assert len(copied.callback_handler.callbacks[-2].trace) == 0


def test_a_copy_of_an_object_has_no_tap() -> None:
    class Thing:
        def __init__(self) -> None:
            self.calls = 0

        def method(self, number: int) -> int:
            self.calls += 1
            return number + 1

    seen: list[Any] = []
    thing = Thing()
    tap = Tap(thing, "method", seen.append, seen.append)
    copied = copy.deepcopy(thing)
    assert copied.method(1) == 2
    assert (seen, thing.calls, copied.calls) == ([], 0, 1)
    assert thing.method(2) == 3
    assert seen == [2, None]
    kept = thing.method
    tap.remove()
    assert "method" not in vars(thing)
    assert kept(3) == 4
    assert seen == [2, None]


def test_a_callback_that_no_trainer_calls(caplog: pytest.LogCaptureFixture) -> None:
    callback = callback_of()
    with pytest.raises(LookupError, match="not called by a Trainer"):
        call_of(callback)
    callback.on_train_begin(None, None, None)
    assert warnings_of(caplog, "on_train_begin failed")
    assert len(callback.trace) == 0


def test_a_batch_costs_microseconds(tmp_path: Path) -> None:
    model, costs = encoder(), []
    callback = callback_of(count_flops=False, every_n_steps=10**6)
    batch = {"input_ids": torch.zeros(4, 12), "labels": torch.zeros(4)}

    def watch_a_batch() -> None:
        callback._steps._start_batch(model, batch)
        callback._steps._end_batch(None)

    def measure(_: Any) -> None:
        costs.append(cost_in_calls(watch_a_batch, repetitions=500))

    make_trainer(model, tmp_path, callback, At("on_step_end", 2, measure)).train()
    assert callback.trace.column("steps").sum() == 5008
    assert costs[0] < 500


# ---------------------------------------------------------------------- logs


def test_logs_go_where_the_trainer_reports_to(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    callback = callback_of()
    trainer = make_trainer(
        encoder(), tmp_path, callback, report_to=["tensorboard"], num_train_epochs=3
    )
    trainer.train()
    (file,) = tmp_path.rglob("events.out.tfevents*")  # transformers 4 writes into its own folder
    values = read_tensorboard(str(file.parent))
    assert list(values["train/energy/epoch_J"]) == [4, 8, 12]
    assert len(values["train/loss"]) == 3
    np.testing.assert_allclose(
        list(values["train/energy/epoch_J"].values()), callback.trace.column("energy_J"), rtol=0.2
    )


class Listener(transformers.TrainerCallback):
    """What the callback of a logger hears of, in order: names of values, and the end."""

    def __init__(self) -> None:
        self.heard: list[set[str] | str] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.heard.append({name for name in logs if name.startswith("energy/run_")})

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.heard.append("end")


RUN = {f"energy/run_{n}" for n in ("J", "kWh", "duration_s", "mean_power_W", "J_per_sample")}


def test_what_the_run_has_cost_is_logged_before_loggers_close(tmp_path: Path) -> None:
    callback, listener = callback_of(), Listener()
    trainer = make_trainer(encoder(), tmp_path, listener, callback)
    for _ in range(2):
        listener.heard.clear()
        trainer.train()
        assert listener.heard[-2:] == [RUN, "end"]
        assert listener.heard.count(RUN) == 1
        (outcome,) = [entry for entry in trainer.state.log_history if "energy/run_J" in entry]
        assert outcome["energy/run_J"] == callback.total_J == callback.trace.total_J
        assert outcome["energy/run_kWh"] == callback.total_J / 3.6e6
        assert "train_runtime" in trainer.state.log_history[-1]  # where scripts look for it
        assert callback.trace.meta["status"] == "finished"
    assert "on_train_end" not in vars(trainer.callback_handler)


@pytest.mark.parametrize("error", [AccidentError, KeyboardInterrupt])
def test_what_an_interrupted_run_has_cost_is_logged(error: type, tmp_path: Path) -> None:
    class Fails(transformers.TrainerCallback):  # type: ignore[misc]
        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.epoch > 1:
                raise error

    callback, listener = callback_of(), Listener()
    trainer = make_trainer(encoder(), tmp_path, listener, callback, Fails())
    with pytest.raises(error):
        trainer.train()
    assert listener.heard[-1] == RUN
    assert listener.heard.count(RUN) == 1
    assert "on_train_end" not in vars(trainer.callback_handler)


def test_a_training_found_to_be_over_later_is_not_logged_as_another(tmp_path: Path) -> None:
    class Fails(transformers.TrainerCallback):  # type: ignore[misc]
        def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            raise AccidentError

    callback, listener, fails = callback_of(), Listener(), Fails()
    trainer = make_trainer(encoder(), tmp_path, listener, fails)
    trainer.add_callback(callback)  # too late to see the end of `train`
    with pytest.raises(AccidentError):
        trainer.train()
    trainer.remove_callback(fails)
    trainer.train()
    assert listener.heard.count(RUN) == 1
    assert listener.heard[-2:] == [RUN, "end"]


def test_a_trainers_own_log_is_not_called_for_the_callback(tmp_path: Path) -> None:
    calls: list[set[str]] = []

    class Trainer(transformers.Trainer):  # type: ignore[misc]
        """As those of TRL, which empty their averages with each log."""

        def log(self, logs: dict[str, float], *rest: Any) -> None:
            calls.append(set(logs))
            super().log(logs, *rest)

    callback = callback_of()
    trainer = make_trainer(encoder(), tmp_path, callback, kind=Trainer)
    trainer.train()
    assert len(calls) == 3
    assert not any(name.startswith("energy/") for names in calls for name in names)
    logged = [entry for entry in trainer.state.log_history if "energy/epoch_J" in entry]
    assert [entry["step"] for entry in logged] == [4, 8]


def test_a_name_that_the_training_uses_is_left_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Trainer(transformers.Trainer):  # type: ignore[misc]
        def log(self, logs: dict[str, float], *rest: Any) -> None:
            super().log({**logs, "energy/total_J": 12.0, "steps": 1.0}, *rest)

    callback = callback_of()
    trainer = make_trainer(
        encoder(), tmp_path, callback, kind=Trainer, logging_strategy="steps", logging_steps=1
    )
    trainer.train()
    history = trainer.state.log_history
    assert {entry["energy/total_J"] for entry in history if "energy/total_J" in entry} == {12.0}
    assert sum("energyest/total_J" in entry for entry in history) == 2
    assert list(callback.trace.column("energy/total_J")) == [12, 12]
    assert list(callback.trace.column("steps")) == [4, 4]
    assert len(warnings_of(caplog, "energy/total_J")) == 1
    assert len(warnings_of(caplog, "'steps' is left out of the trace")) == 1


# ---------------------------------------------------------------------- the Hub


def trace_of(energy_J: float) -> EnergyTrace:
    trace = EnergyTrace.from_epochs(energy_J=[energy_J])
    device = {"device": "gpu:0", "kind": "gpu", "name": "NVIDIA H100", "source": "measured"}
    return EnergyTrace(trace.epoch_columns, meta={"total_J": energy_J, "devices": [device] * 2})


def test_fields_of_a_card() -> None:
    fields = emissions_of(trace_of(3.6e6), "DE", is_pretrained=True)
    assert fields == {
        "emissions": pytest.approx(1000 * co2e_kg(3.6e6, "DE"), rel=1e-3),
        "source": fields["source"],
        "training_type": "fine-tuning",
        "geographical_location": "Germany",
        "hardware_used": "2 x NVIDIA H100",
    }
    assert "1 kWh" in fields["source"]
    world = emissions_of(trace_of(3.6e6), None, is_pretrained=False)
    assert "World" in world["source"]
    assert "geographical_location" not in world
    assert world["training_type"] == "pre-training"
    assert emissions_of(trace_of(3.6e6), 100.0, is_pretrained=False)["emissions"] == 100
    assert emissions_of(trace_of(float("nan")), "DE", is_pretrained=False) == {}
    with pytest.raises(EstimateError, match="Atlantis"):
        EnergyCallback(carbon_intensity="Atlantis")


def test_what_others_say_of_emissions_stays(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    add_emissions(card, {"emissions": 1.0})
    assert not card.exists()
    card.write_text("---\nlicense: mit\nco2_eq_emissions: 5\n---\n# A model\n")
    add_emissions(card, {"emissions": 1.0})
    assert "co2_eq_emissions: 5" in card.read_text()


def test_the_card_of_a_model_that_is_pushed(tmp_path: Path, monkeypatch: Any) -> None:
    from huggingface_hub import HfApi, ModelCard

    uploaded: list[Any] = []

    def upload(*_: Any, **options: Any) -> None:
        uploaded.append(options)

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr("transformers.trainer.upload_folder", upload, raising=False)  # of 4
    callback = callback_of(carbon_intensity="FR")
    trainer = make_trainer(encoder(), tmp_path, callback)
    trainer.hub_model_id = "me/model"
    trainer.train()
    trainer.push_to_hub()
    assert len(uploaded) == 1
    card = ModelCard.load(tmp_path / "README.md")
    fields = card.data["co2_eq_emissions"]
    assert fields["emissions"] == pytest.approx(1000 * co2e_kg(callback.total_J, "FR"), rel=1e-3)
    assert fields["geographical_location"] == "France"


def test_the_card_of_a_callback_that_was_added_later(tmp_path: Path) -> None:
    callback = callback_of()
    trainer = make_trainer(encoder(), tmp_path)
    trainer.add_callback(callback)
    for epochs in (1, 2):
        trainer.args.num_train_epochs = epochs
        trainer.train()
        trainer.create_model_card()
        text = (tmp_path / "README.md").read_text()
        assert text.count("co2_eq_emissions") == 1
        kWh = callback.total_J / 3.6e6
        assert f"{kWh:.4g} kWh" in text


# ---------------------------------------------------------------------- where it does not fit


WITHOUT = """
import sys
sys.modules["transformers"] = None
import energyest
assert {"torch", "pytorch_lightning"} & set(sys.modules) == set()
try:
    energyest.EnergyCallback()
except ImportError as error:
    print(error)
assert "pytorch_lightning" not in sys.modules
"""


def test_without_transformers_it_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True
    )
    assert "EnergyCallback needs transformers" in done.stdout
    assert "pip install transformers accelerate" in done.stdout


@pytest.mark.parametrize(
    "options", [{"every_n_steps": 0}, {"interval_s": -1}, {"confidence": 2}, {"folder": "s3://a"}]
)
def test_bad_settings_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        EnergyCallback(**options)


def test_nothing_is_told_of_a_training_that_goes_well(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    make_trainer(encoder(), tmp_path, callback_of(), eval_strategy="epoch").train()
    assert not warnings_of(caplog)
    assert torch.is_grad_enabled()
