"""Train many models for a few seconds each on an NVIDIA GPU, and write the cost of a step.

A setting is drawn at random (see `benchmarks.models.settings`), or is one of the table that was
measured on another GPU, and trained in a plain loop under `track`, or by a Lightning Trainer with
`EnergyMonitor`. Inputs are synthetic, in pinned memory.
Epoch 0 is cold; only the epochs after it count. Then each setting's model is described as a
workload, on the CPU.

Lines of JSON are added to `FOLDER/runs.jsonl` and `FOLDER/workloads.jsonl`. A setting already in
the files is not measured again, so an interrupted sweep can be continued. Settings that do not fit
into the GPU's memory are written with their error. Exits with 2 without a GPU.

With `--operations`, the GPU's time for each operation of a step is added to
`FOLDER/operations.jsonl`.

    python -m benchmarks.collect.sweep --out FOLDER --seed 1 --minutes 30 [--draw thin]
    python -m benchmarks.collect.sweep --out FOLDER --seed 1 --minutes 30 --draw varied --operations
    python -m benchmarks.collect.sweep --out FOLDER --seed 1 --minutes 10 --again H100
    python -m benchmarks.collect.sweep --out FOLDER --seed 1 --runs 3 --device cpu
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import logging
import multiprocessing
import os
import random
import re
import tempfile
import time
import warnings
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.collect.operation_times import operation_times
from benchmarks.common.sweep_table import rows
from benchmarks.models.settings import DRAWS, Setting
from benchmarks.models.trainings import (
    EPOCHS,
    Steps,
    lightning_module,
    loss_of_batch,
    train_lightning,
    train_plain,
)
from benchmarks.models.zoo import build, loss_of, optimizer_of
from energyest import EnergyestError, EnergyTrace
from energyest.profiling.describe import describe_workload
from energyest.profiling.tf32 import tf32

# Seconds of steps before the one whose operations are timed.
HOT_S = 0.3


def profiled(model: nn.Module, batch: tuple[Tensor, ...], setting: Setting) -> dict[str, Any]:
    """The GPU's times in a step of a trained setting, after steps that raise its clocks."""
    optimizer, device = optimizer_of(setting.optimizer, model), torch.device("cuda")
    resident = tuple(t.to(device) for t in batch)

    def loss() -> Tensor:
        return loss_of_batch(model, resident, device, setting)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    end_s = time.monotonic() + HOT_S
    while time.monotonic() < end_s:
        step()
        torch.cuda.synchronize()
    optimizer.zero_grad()
    return operation_times(loss, optimizer)


def measure(
    setting: Setting,
    device: torch.device,
    scratch: Path,
    *,
    epochs: int = EPOCHS,
    operations: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train one setting; return the cost of its warm epochs, and the times of its operations."""
    with tf32(setting.precision != "fp32"):
        return _measured(setting, device, scratch, epochs, operations=operations)


def _measured(
    setting: Setting, device: torch.device, scratch: Path, epochs: int, *, operations: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    with device:
        model, batch = build(setting)
    if device.type == "cuda":
        batch = tuple(t.pin_memory() for t in batch)
        torch.cuda.reset_peak_memory_stats()
    steps = Steps(batch, device, setting.accumulate)
    if setting.compiled:
        model = torch.compile(model)
    if setting.loop == "lightning":
        trace = train_lightning(model, steps, setting, scratch / "energy", epochs)
    else:
        trace = train_plain(model, steps, setting, epochs)
    facts, times = _facts(trace, steps, model), dict[str, Any]()
    if operations and not setting.compiled:  # compiled code is not dispatched as operations
        model.to(device).zero_grad()  # Lightning has moved it to the CPU
        times = profiled(model, batch, setting)
    return facts, times


def _facts(trace: EnergyTrace, steps: Steps, model: nn.Module) -> dict[str, Any]:
    epochs = trace.epochs.iloc[1:]
    duration_s = float(epochs["duration_s"].sum())
    count = sum(steps.counts[1:])
    power = trace.power
    warm = (power["time_s"] > epochs["start_s"].iloc[0] + 0.15) & (
        power["time_s"] <= epochs["end_s"].iloc[-1]
    )
    gpu = next((d for d in trace.devices if d.get("kind") == "gpu"), {})
    readings = power[warm & power["device"].astype(str).str.startswith("gpu")]
    peak = torch.cuda.max_memory_allocated() if steps.device.type == "cuda" else None
    facts = {
        "gpu": gpu.get("name"),
        "power_limit_W": gpu.get("power_limit_W"),
        "steps": count,
        "duration_s": duration_s,
        "gpu_energy_J": float(epochs["gpu_energy_J"].sum(skipna=False)),
        "instant_power_W": float(readings["power_W"].mean()),
        "epoch_duration_s": [float(v) for v in epochs["duration_s"]],
        "epoch_gpu_energy_J": [None if np.isnan(v) else float(v) for v in epochs["gpu_energy_J"]],
        "epoch_steps": steps.counts[1:],
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_gpu_memory_bytes": peak,
    }
    return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in facts.items()}


def describe(setting: dict[str, Any]) -> dict[str, Any]:
    """The workload of a setting, in a process of its own."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    chosen = Setting(**setting)
    try:
        try:
            with torch.device("meta"):
                model, batch = build(chosen)
        except NotImplementedError:  # the model computes its widths with tensors
            model, batch = build(chosen)
        if chosen.loop == "lightning":
            model = lightning_module(model, chosen)
        with tf32(chosen.precision != "fp32"):
            workload = describe_workload(
                model,
                batch,
                precision=chosen.precision,
                optimizer=chosen.optimizer,
                loss=None if chosen.loop == "lightning" else loss_of,
            )
    except EnergyestError as error:
        return {"name": chosen.name, "error": str(error)}
    workload = replace(
        workload, model=chosen.model, compiled=chosen.compiled, accumulate=chosen.accumulate
    )
    return {"name": chosen.name, **workload.to_dict()}


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:  # cut short: the last line of an interrupted sweep
            continue
    return found


def _add(path: Path, content: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def settings_of(arguments: argparse.Namespace) -> Iterable[Setting]:
    """The settings to measure, in their order."""
    if arguments.again is None:
        return DRAWS[arguments.draw](arguments.seed, arguments.models)
    names = list(Setting.__dataclass_fields__)
    found = [
        Setting(**{name: row[name] for name in names if name in row})
        for row in rows()
        if arguments.again in row["gpu"] and re.fullmatch(arguments.models, row["model"])
    ]
    random.Random(arguments.seed).shuffle(found)
    return found


def measure_all(arguments: argparse.Namespace, device: torch.device) -> None:
    path = arguments.out / "runs.jsonl"
    done = {row["name"] for row in _lines(path)}
    end_s = time.monotonic() + arguments.minutes * 60
    bar = tqdm(total=arguments.runs, unit="run", mininterval=5)
    for setting in settings_of(arguments):
        if bar.n >= arguments.runs or time.monotonic() > end_s:
            break
        bar.update()
        if setting.name in done:
            continue
        done.add(setting.name)
        bar.set_postfix_str(setting.name)
        row = {"name": setting.name, **asdict(setting), "torch": torch.__version__}
        times: dict[str, Any] = {}
        try:
            with tempfile.TemporaryDirectory() as scratch:
                found, times = measure(
                    setting, device, Path(scratch), operations=arguments.operations
                )
            row |= found
        except (torch.OutOfMemoryError, RuntimeError, ValueError, TypeError) as error:
            row["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        _add(path, row)
        if times:
            _add(arguments.out / "operations.jsonl", {"name": setting.name, **times})
        if setting.compiled:
            torch.compiler.reset()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    bar.close()


def describe_all(arguments: argparse.Namespace) -> None:
    path = arguments.out / "workloads.jsonl"
    done = {row["name"] for row in _lines(path)}
    names = list(Setting.__dataclass_fields__)
    rows = [r for r in _lines(arguments.out / "runs.jsonl") if "error" not in r]
    todo = [{name: row[name] for name in names} for row in rows if row["name"] not in done]
    workers = max(1, min(16, (os.cpu_count() or 2) - 1))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for content in tqdm(
            pool.map(describe, todo), total=len(todo), unit="workload", mininterval=5
        ):
            _add(path, content)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--seed", type=int, default=1, help="which settings are drawn")
    parser.add_argument("--runs", type=int, default=1000, help="settings to draw")
    parser.add_argument("--minutes", type=float, default=60, help="time for measuring")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--draw", default="all", choices=DRAWS, help="which kind of settings")
    which.add_argument("--again", metavar="GPU", help="the settings of the table on that GPU")
    parser.add_argument("--operations", action="store_true", help="time operations, too")
    parser.add_argument("--models", default=".*", help="regular expression of the models' names")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--describe", action="store_true", help="only describe what was measured")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not (arguments.describe or torch.cuda.is_available()):
        print("sweep: torch sees no NVIDIA GPU; nothing was measured")
        return 2
    missing = [
        p for p in ("torchvision", "transformers", "timm") if importlib.util.find_spec(p) is None
    ]
    if missing:
        print(f"without {' and '.join(missing)}, their models are left out")
    for name in ("pytorch_lightning", "lightning", "energyest"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.describe:
        measure_all(arguments, torch.device(arguments.device))
    describe_all(arguments)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
