"""Time and energy of a step on 1, 2, 4 and 8 GPUs, beside those that `estimate_pre` predicts."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.common.checks import Checks
from benchmarks.common.gpu_counter import off
from benchmarks.models.settings import Setting
from benchmarks.overhead.children import Children, tell
from benchmarks.ranks.launch import Answer, Machine, own_counter, run_ranks
from benchmarks.ranks.sections import START_S
from energyest import Estimate, estimate_pre

COUNTS = (1, 2, 4, 8)
# Of what `compared` returns the errors.
ERRORS = ("one", "several", "several, relative to one")
MOST_PERCENT = 15.0
# The largest last: if it does not fit, the others are there.
MODELS = {
    "ResNet-50": Setting("torchvision/resnet50", 128, 224, "bf16", "sgd_momentum", layout="nhwc"),
    "launch-bound MLP": Setting("own/mlp-d128-l16", 64, 0, "fp32", "adamw"),
    "ViT-B/16": Setting("torchvision/vit_b_16", 64, 224, "bf16", "adamw"),
    "EfficientNet-B0": Setting(
        "torchvision/efficientnet_b0", 256, 224, "bf16", "sgd_momentum", layout="nhwc"
    ),
    "BERT": Setting("transformers/bert-d768-l12", 32, 128, "fp32", "adamw"),
    "ResNet-18": Setting("torchvision/resnet18", 256, 224, "bf16", "sgd_momentum"),
    "VGG-16": Setting("torchvision/vgg16_bn", 64, 224, "bf16", "sgd_momentum", layout="nhwc"),
    "MobileNetV3": Setting("torchvision/mobilenet_v3_large", 128, 224, "bf16", "adamw"),
    "ConvNeXt-T": Setting("torchvision/convnext_tiny", 64, 224, "bf16", "adamw"),
    "Swin-T": Setting("torchvision/swin_t", 64, 224, "bf16", "adamw"),
    "LSTM": Setting("own/lstm-d512-l2", 128, 128, "tf32", "adam"),
    "DistilBERT": Setting("transformers/distilbert-d768-l6", 64, 128, "bf16", "adamw"),
    "Llama, 200 M": Setting("transformers/llama-d1024-l12", 8, 512, "bf16", "adamw"),
    "GPT, 355 M": Setting("transformers/causal_gpt2-d1024-l24", 8, 1024, "bf16", "adamw"),
}
# The same kinds for the CPU, to try the script.
TINY_MODELS = {
    "U-Net": Setting("own/unet-d16-l4", 2, 32, "fp32", "sgd_momentum", layout="nhwc"),
    "launch-bound MLP": Setting("own/mlp-d128-l16", 64, 0, "fp32", "adamw"),
    "GPT": Setting("transformers/causal_gpt2-d64-l2", 2, 32, "bf16", "adamw"),
}
# A number of steps for which PRE is asked: the cost of one is the total, divided by it.
_STEPS = 1000


@dataclass(frozen=True)
class Step:
    """The measured cost of a step of all GPUs together."""

    model: str
    gpus: int
    step_s: float
    energy_J: float


# ---------------------------------------------------------------------- in each rank


def rank_steps(counts: list[int], models: dict[str, Setting], window_s: float) -> None:
    """Train each model on the first ranks of each count, or on each rank by itself if that is 1.

    Each rank tells what a step took on it.

    Args:
        counts: numbers of ranks; the last is that of all.
        models: the models, by name.
        window_s: seconds of warm steps that are measured.
    """
    from benchmarks.ranks.group import join, leave

    groups = join(counts)
    counter = own_counter()
    for name, setting in models.items():
        for group in groups:
            if group.is_member:
                step_s, energy_J = _measured(setting, group, counter, window_s)
                tell(model=name, gpus=group.ranks, step_s=step_s, energy_J=energy_J)
            _free()
            groups[-1].meet()
        tell(finished=name)
    leave()


def _measured(setting: Setting, group: Any, counter: Any, window_s: float) -> tuple[float, float]:
    """Seconds and this GPU's joules of a step."""
    from benchmarks.overhead.slowdown import run_steps, steps_of, warm_up
    from benchmarks.overhead.work import resident

    training = resident(setting, group.wrap)
    warm_up(training, group.agree)
    steps = steps_of(training, window_s, group.agree)
    group.meet()
    renewal = counter.renewed()
    group.meet()  # the ranks' counters are renewed at different times
    began_s = time.monotonic()
    run_steps(training, steps)
    ended_s = time.monotonic()
    used_J = counter.renewed().at(ended_s) - renewal.at(began_s)
    return (ended_s - began_s) / steps, used_J / steps


def _free() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---------------------------------------------------------------------- in the parent


def check_scaling(
    check: Checks, children: Children, machine: Machine, gpu: str, *, window_s: float
) -> None:
    """Measure each model on each number of GPUs, and compare with `estimate_pre`.

    Args:
        check: prints the results.
        children: starts the ranks.
        machine: the GPUs.
        gpu: the GPU's name, for the prediction.
        window_s: seconds of warm steps that are measured.
    """
    counts = [count for count in COUNTS if count <= machine.ranks]
    models = TINY_MODELS if machine.is_simulated else MODELS
    steps = _all_steps(check, children, machine, counts, models, window_s)
    guesses: dict[str, dict[int, Estimate]] = {}
    for name, setting in models.items():
        try:
            guesses[name] = predicted(setting, gpu, counts)
        except Exception as error:  # the other models go on
            check(f"PRE of {name}: {type(error).__name__}: {error}", False)
    errors = compared(steps, guesses)
    for kind, pairs in errors.items():
        if pairs:
            time_off, energy_off = np.abs(np.array(pairs)).mean(axis=0)
            check.note(
                f"PRE, mean error on {kind}: time {time_off:.1f} %, energy {energy_off:.1f} %"
            )
    if machine.is_simulated:
        check.note("none of it is judged: these are no GPUs")
    elif errors["several"]:
        energy_off = float(np.mean([abs(pair[1]) for pair in errors["several"]]))
        check.goal("PRE, energy on several GPUs, mean error", energy_off, MOST_PERCENT, "%")


def compared(
    steps: list[Step], guesses: dict[str, dict[int, Estimate]]
) -> dict[str, list[tuple[float, float]]]:
    """Print a line for each step; return the errors of time and energy in per cent.

    Beside those on one GPU and on several, that is the errors of the ratio of a sample's cost on
    several GPUs to that on one.

    Args:
        steps: measured steps of each model, on one GPU first.
        guesses: what `predicted` says of each model.
    """
    print(
        f"{'model':<18}{'GPUs':>5}{'ms':>10}{'J':>10}{'W/GPU':>8}   "
        f"PRE{'ms':>8}{'error':>8}{'J':>10}{'error':>8}{'90 % interval':>28}   "
        f"ms, J a sample against one GPU (PRE)",
        flush=True,
    )
    errors: dict[str, list[tuple[float, float]]] = {kind: [] for kind in ERRORS}
    for name, of_counts in guesses.items():
        found = [step for step in steps if step.model == name]
        for step in found:
            guess = of_counts[step.gpus]
            line, pair, ratios = _row(step, guess, found[0], of_counts[found[0].gpus])
            print(line, flush=True)
            errors["one" if step.gpus == 1 else "several"].append(pair)
            if step.gpus > 1:
                errors["several, relative to one"].append(ratios)
    return errors


def _all_steps(
    check: Checks,
    children: Children,
    machine: Machine,
    counts: list[int],
    models: dict[str, Setting],
    window_s: float,
) -> list[Step]:
    """Measure all models; if one fails, start again with those after it."""
    steps: list[Step] = []
    left = dict(models)
    while left:
        answers = run_ranks(
            children,
            rank_steps,
            machine.environments(counts[-1]),
            timeout_s=START_S + len(left) * len(counts) * (30 + 3 * window_s),
            on_fact=lambda fact: _show(check, fact),
            counts=counts,
            models=left,
            window_s=window_s,
        )
        steps += _steps(answers)
        bad = [f"rank {rank}: {one.error}" for rank, one in enumerate(answers) if one.error]
        if not bad:
            break
        done = {fact["finished"] for fact in answers[0].told if "finished" in fact}
        failed = next((name for name in left if name not in done), "the end")
        check("\n       ".join([f"{failed} fails", *bad]), False)
        names = list(left)
        left = {name: left[name] for name in names[len(done) + 1 :]}
    return steps


def _show(check: Checks, fact: dict[str, Any]) -> None:
    """Say how far it has got."""
    if "step_s" in fact:
        check.note(f"{fact['model']} on {fact['gpus']}: rank 0 takes {1e3 * fact['step_s']:.3f} ms")


def _steps(answers: list[Answer]) -> list[Step]:
    """The time of the slowest rank, and the energy of all, of each step that all have told.

    On one GPU, every rank trains by itself, at the same time. The result is the mean of all ranks,
    so that GPUs of different efficiency do not look like an effect of their number.
    """
    told: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for answer in answers:
        for fact in answer.told:
            if "step_s" in fact:
                told.setdefault((fact["model"], fact["gpus"]), []).append(fact)
    steps = []
    for (model, gpus), facts in told.items():
        times_s, energies_J = ([fact[key] for fact in facts] for key in ("step_s", "energy_J"))
        if gpus == 1 and len(facts) == len(answers):
            steps.append(Step(model, 1, float(np.mean(times_s)), float(np.mean(energies_J))))
        elif gpus > 1 and len(facts) == gpus:
            steps.append(Step(model, gpus, max(times_s), sum(energies_J)))
    return steps


def predicted(setting: Setting, gpu: str, counts: list[int]) -> dict[int, Estimate]:
    """PRE's estimate of `_STEPS` steps of all GPUs, for each number of them."""
    import torch

    from benchmarks.models.zoo import build, loss_of
    from energyest import describe_workload

    with torch.device("meta"):
        model, batch = build(setting)
    workload = describe_workload(
        model, batch, precision=setting.precision, optimizer=setting.optimizer, loss=loss_of
    )
    return {
        count: estimate_pre(
            workload,
            gpu,
            epochs=1,
            # A step of all GPUs takes a batch on each.
            train_samples=_STEPS * setting.batch_size * count,
            devices=count,
        )
        for count in counts
    }


def _row(step: Step, guess: Estimate, one: Step, one_guess: Estimate) -> tuple[str, Any, Any]:
    """A line of the table; the errors of time and energy, and of their ratios, in per cent."""
    guess_s, guess_J = (guess.duration_s or 0.0) / _STEPS, guess.energy_J / _STEPS
    lower_J, upper_J = ((value or 0.0) / _STEPS for value in (guess.lower_J, guess.upper_J))
    pair = (off(guess_s, step.step_s), off(guess_J, step.energy_J))
    holds = "holds" if lower_J <= step.energy_J <= upper_J else "misses"
    longer = step.step_s / one.step_s
    energy_ratio = step.energy_J / step.gpus / (one.energy_J / one.gpus)
    guess_longer = guess_s * _STEPS / (one_guess.duration_s or 1.0)
    guess_energy_ratio = guess_J * _STEPS / step.gpus / (one_guess.energy_J / one.gpus)
    ratios = (off(guess_longer, longer), off(guess_energy_ratio, energy_ratio))
    interval = f"{lower_J:.4g} to {upper_J:.4g} {holds}"
    return (
        (
            f"{step.model:<18}{step.gpus:>5}{1e3 * step.step_s:>10.3f}{step.energy_J:>10.4g}"
            f"{step.energy_J / step.step_s / step.gpus:>8.0f}   "
            f"   {1e3 * guess_s:>8.3f}{pair[0]:>+8.1f}{guess_J:>10.4g}{pair[1]:>+8.1f}"
            f"{interval:>28}   "
            f"{longer:.3f} ({guess_longer:.3f}), {energy_ratio:.3f} ({guess_energy_ratio:.3f})"
        ),
        pair,
        ratios,
    )
