"""Train on an NVIDIA GPU beside a log of its power, as `nvidia-smi` would write it; write a CSV.

Many people have only such a log, and cut it into equal times. Validation, checkpoints and pauses
then lie in some of the pieces. Each run is a training with one of these events, of a size and a
frequency drawn from its seed:

- `plain`: nothing but training;
- `validation`: every epoch, or every few, an evaluation from the processor's memory;
- `late_validation`: the same, from an epoch in the first two thirds on;
- `checkpoints`: every few epochs, weights are written to the disk, and the training waits;
- `restarts`: once or twice, the training stops, and starts again from a checkpoint;
- `other_process`: another process computes on the same GPU in bursts;
- `waits`: now and then, no data come for a while.

A run lasts a given time. Its readings are added to `power_logs_samples.csv`, its facts to
`power_logs.csv`. A run already in the files is not repeated.

    python -m benchmarks.collect.power_logs --out FOLDER [--seeds 1] [--budget-s 270]
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing as mp
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pynvml
import torch
from torch.nn.functional import cross_entropy

from benchmarks.collect.loaders import CLASSES, Bursts, add_run, network

SCENARIOS = (
    "validation",
    "late_validation",
    "checkpoints",
    "restarts",
    "other_process",
    "waits",
    "plain",
)
BATCH, SIDE, READS_PER_S = 256, 64, 10


class PowerLog:
    """Readings of the first GPU's power, ten a second, while the context is open."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> PowerLog:
        pynvml.nvmlInit()
        self._gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        self.began_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        pynvml.nvmlShutdown()

    def _read(self) -> None:
        number = 0
        while not self._stop.wait(self.began_s + number / READS_PER_S - time.monotonic()):
            self.rows.append((round(time.monotonic() - self.began_s, 3), self._power_W()))
            number += 1

    def _power_W(self) -> float:
        # The plain reading of these GPUs is a mean over a second, longer than many events here.
        field = pynvml.nvmlDeviceGetFieldValues(self._gpu, [pynvml.NVML_FI_DEV_POWER_INSTANT])[0]
        if field.nvmlReturn == pynvml.NVML_SUCCESS:
            return float(field.value.uiVal / 1e3)
        return float(pynvml.nvmlDeviceGetPowerUsage(self._gpu) / 1e3)


def compute(bursts: Bursts, device: str, stop: Any) -> None:
    """In a process of its own, compute on the same GPU in bursts until told to end."""
    began_s = time.monotonic()
    values = torch.rand(2048, 2048, device=device)
    for at_s, lasts_s in bursts.spans():
        if stop.wait(max(0.0, began_s + at_s - time.monotonic())):
            return
        until_s = time.monotonic() + lasts_s
        while time.monotonic() < until_s and not stop.is_set():
            float((values @ values).sum())


@contextlib.contextmanager
def other_process(bursts: Bursts, device: str) -> Iterator[None]:
    context = mp.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=compute, args=(bursts, device, stop), daemon=True)
    process.start()
    try:
        yield
    finally:
        stop.set()
        process.join(10)


class Training:
    """A network that trains on random images in the GPU's memory."""

    def __init__(self, width: int, device: str, batch: int) -> None:
        self.width, self.device, self.batch = width, device, batch
        self.inputs = torch.rand(batch, 3, SIDE, SIDE, device=device)
        self.labels = torch.randint(CLASSES, (batch,), device=device)
        self.start()

    def start(self, weights: dict[str, Any] | None = None) -> None:
        self.model = network(self.width).to(self.device)
        if weights is not None:
            self.model.load_state_dict(weights)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def train(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            cross_entropy(self.model(self.inputs), self.labels).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self._synchronize()

    @torch.no_grad()
    def evaluate(self, seconds: float) -> None:
        """Evaluate on images that come from the processor, which takes longer than the GPU."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            images = torch.rand(self.batch // 4, 3, SIDE, SIDE).to(self.device)
            self.model(images).argmax(1).cpu()

    def save(self, path: Path, megabytes: int) -> dict[str, Any]:
        """Write the weights, and as much beside them as the state of a large network."""
        weights = self.model.state_dict()
        with path.open("wb") as file:
            torch.save({"weights": weights, "state": torch.rand(megabytes, 2**18)}, file)
            file.flush()
            os.fsync(file.fileno())
        return weights

    def _synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def collect(scenario: str, seed: int, args: argparse.Namespace) -> tuple[pd.DataFrame, Any]:
    """The log of one training, and its facts."""
    chance = random.Random(f"{scenario} {seed}")
    torch.manual_seed(seed)
    epoch_s = args.run_s / chance.uniform(8, 60)
    every = chance.choice((1, 2, 5))
    first = chance.uniform(0.2, 0.65) * args.run_s if scenario == "late_validation" else 0.0
    validation_s = chance.uniform(0.05, 0.3) * epoch_s * (1 if every == 1 else 2)
    megabytes = chance.randint(50, 400)
    bursts = Bursts(seed, args.run_s / chance.uniform(2, 8), 0.04 * args.run_s)
    waits = bursts.spans() if scenario == "waits" else iter(())
    restarts = [args.run_s * chance.uniform(0.1, 0.9) for _ in range(chance.randint(1, 2))]
    restarts = sorted(restarts) if scenario == "restarts" else []
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(PowerLog())
        if scenario == "other_process":
            stack.enter_context(other_process(bursts, args.device))
        training = Training(args.width, args.device, args.batch)
        checkpoint, epoch = args.out / "checkpoint", 0
        next_wait = next(waits, (math.inf, 0.0))
        while (now_s := time.monotonic() - log.began_s) < args.run_s:
            training.train(min(epoch_s, args.run_s - now_s))
            epoch += 1
            now_s = time.monotonic() - log.began_s
            if epoch % every == 0 and now_s >= first:
                if "validation" in scenario:
                    training.evaluate(validation_s)
                elif scenario == "checkpoints":
                    training.save(checkpoint, megabytes)
            if next_wait[0] <= now_s:
                time.sleep(next_wait[1])
                next_wait = next(waits)
            if restarts and restarts[0] <= now_s:
                weights = training.save(checkpoint, megabytes)
                time.sleep(0.06 * args.run_s)  # as long as a program takes to start
                training.start(weights)
                restarts.pop(0)
        checkpoint.unlink(missing_ok=True)
    rows = pd.DataFrame(log.rows, columns=["time_s", "power_W"]).round({"power_W": 1})
    print(f"{scenario} {seed}: {epoch} epochs, {len(rows)} readings", flush=True)
    return rows, {
        "scenario": scenario,
        "seed": seed,
        "epochs": epoch,
        "epoch_s": epoch_s,
        "event_every_epochs": every if "validation" in scenario or "check" in scenario else None,
        "device": torch.cuda.get_device_name(0) if args.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each scenario")
    parser.add_argument("--run-s", type=float, default=35.0, help="seconds of a run")
    parser.add_argument("--budget-s", type=float, default=270, help="seconds for all of the runs")
    parser.add_argument("--width", type=int, default=128, help="of the network")
    parser.add_argument("--batch", type=int, default=BATCH)
    arguments = parser.parse_args()
    arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments.out.mkdir(parents=True, exist_ok=True)
    table, samples = (arguments.out / f"power_logs{part}.csv" for part in ("", "_samples"))
    made = set(pd.read_csv(table)["run_id"]) if table.exists() else set()
    began_s = time.monotonic()
    for seed in range(arguments.seeds):
        for scenario in SCENARIOS:
            run_id = f"log-{arguments.device}-{scenario}-{seed}"
            if run_id in made:
                continue
            if time.monotonic() - began_s + 1.1 * arguments.run_s > arguments.budget_s:
                print(f"out of time before {run_id}")
                return
            rows, facts = collect(scenario, seed, arguments)
            add_run(run_id, {samples: rows, table: pd.DataFrame([facts])})


if __name__ == "__main__":
    main()
