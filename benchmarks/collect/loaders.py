"""Train from files through a `DataLoader`, with disturbances; write every epoch as CSV.

The inputs of `scenarios` are in memory, and nothing else runs. Here, worker processes read images
from files and augment them, and disturbances happen at random times, set by the seed:

- `quiet`: two workers, files in the system's cache, nothing else running;
- `slow_loader`: no worker, so that the device waits for every batch;
- `cold_files`: now and then, the files are no longer cached, and are read from the disk;
- `busy_disk`: another process writes in bursts, and waits for the disk each time;
- `busy_processors`: other processes compute in bursts;
- `slow_store`: now and then, opening a file takes seconds, as on a network;
- `checkpoints`: every few epochs, a large file is written, and the training waits for the disk;
- `validation`: every few epochs, the model is evaluated on other files.

Bursts come on average once in 4 to 40 epochs and last for a tenth of an epoch to three epochs, both
drawn for each run. A quarter of the runs have none.

After every run, its epochs are added to `loaders_epochs.csv` and its facts to `loaders.csv`. A run
already in the files is not repeated.

    python -m benchmarks.collect.loaders --out FOLDER [--seeds 3] [--budget-s 540]
"""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing as mp
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from energyest import track

SCENARIOS = (
    "quiet",
    "slow_loader",
    "cold_files",
    "busy_disk",
    "busy_processors",
    "slow_store",
    "checkpoints",
    "validation",
)
FILES, SIDE, CLASSES, BATCH = 4096, 64, 10, 64
WARM_BATCHES, TIMED_BATCHES = 4, 12
COLUMNS = ["epoch", "start_s", "end_s", "duration_s", "energy_J", "gpu_energy_J"]
COLUMNS += ["validation_energy_J", "validation_s", "steps", "samples"]


@dataclass(frozen=True)
class Bursts:
    """The times of disturbances.

    Attributes:
        seed: determines the times.
        every_s: mean seconds from one burst to the next; infinite for no bursts.
        lasts_s: median duration of a burst.
    """

    seed: int
    every_s: float
    lasts_s: float

    def spans(self) -> Iterator[tuple[float, float]]:
        """Start of each burst in seconds from the beginning, and its duration."""
        chance, at_s = random.Random(self.seed), 0.0
        while math.isfinite(self.every_s):
            at_s += chance.expovariate(1 / self.every_s)
            lasts_s = self.lasts_s * math.exp(0.7 * chance.gauss(0, 1))
            yield at_s, lasts_s
            at_s += lasts_s


# ------------------------------------------------------------------ what is read


class Images(Dataset[tuple[Tensor, int]]):
    """Images in files of their own, flipped and shifted at random.

    Args:
        files: one image each.
        slow: times at which opening a file is slow.
        began_s: start of the training, by `time.monotonic`.
    """

    def __init__(self, files: list[Path], slow: Bursts | None, began_s: float) -> None:
        self.files, self.slow, self.began_s = files, slow, began_s

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        if self.slow is not None:
            self._wait(self.slow)
        image = np.load(self.files[number]).astype(np.float32) / 255
        if number % 2:
            image = image[..., ::-1]
        image = np.roll(image, (number % 7, number % 5), axis=(1, 2))
        image = (image - image.mean()) / (image.std() + 1e-6)
        return torch.from_numpy(np.ascontiguousarray(image)), number % CLASSES

    def _wait(self, slow: Bursts) -> None:
        since_s = time.monotonic() - self.began_s
        for at_s, lasts_s in slow.spans():
            if since_s < at_s:
                return
            if since_s < at_s + lasts_s:
                time.sleep(at_s + lasts_s - since_s)
                return


def make_files(folder: Path) -> list[Path]:
    """Write the images as bytes."""
    chance = np.random.default_rng(0)
    files = [folder / f"{number}.npy" for number in range(FILES)]
    for file in files:
        np.save(file, chance.integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8))
    return files


def forget(files: list[Path]) -> None:
    """Drop the files from the system's cache, so that they are read from the disk next time."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ------------------------------------------------------------------ what disturbs


def disturb(kind: str, bursts: Bursts, folder: str, stop: Any) -> None:
    """In a process of its own, create a disturbance in bursts until told to end."""
    began_s = time.monotonic()
    files = sorted(Path(folder).glob("*.npy"))
    for at_s, lasts_s in bursts.spans():
        if stop.wait(max(0.0, began_s + at_s - time.monotonic())):
            return
        until_s = time.monotonic() + lasts_s
        if kind == "cold_files":
            forget(files)
            continue
        while time.monotonic() < until_s and not stop.is_set():
            if kind == "busy_disk":
                _write(Path(folder) / f"other-{os.getpid()}", 32)
            else:
                np.linalg.svd(np.random.default_rng(0).random((200, 200)))


def _write(path: Path, megabytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(2**20))
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def disturbed(scenario: str, bursts: Bursts, folder: Path) -> Iterator[None]:
    """Run the disturbances of a scenario within the context."""
    context = mp.get_context("spawn")
    stop = context.Event()
    counts = {"cold_files": 1, "busy_disk": 1, "busy_processors": os.cpu_count() or 1}
    processes = [
        context.Process(target=disturb, args=(scenario, bursts, str(folder), stop), daemon=True)
        for _ in range(counts.get(scenario, 0))
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        stop.set()
        for process in processes:
            process.join(10)


# ------------------------------------------------------------------ a training


def network(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for channels in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        before = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, CLASSES))


def collect(scenario: str, seed: int, files: list[Path], args: Any) -> tuple[pd.DataFrame, Any]:
    """One training: its epochs and its facts."""
    chance = random.Random(f"{scenario} {seed}")
    torch.manual_seed(seed)
    device = args.device
    model = network(args.width).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    epoch_s, every, lasts = args.epoch_s, chance.uniform(4, 40), math.exp(chance.uniform(-2.3, 1.1))
    has_bursts = chance.random() < 0.75
    bursts = Bursts(seed, epoch_s * every if has_bursts else math.inf, epoch_s * lasts)
    slow = bursts if scenario == "slow_store" else None
    workers = 0 if scenario == "slow_loader" else 2
    period = chance.choice((2, 3, 5, 10))
    cut = int(0.9 * len(files))
    began_s = time.monotonic()

    def loader(part: list[Path]) -> DataLoader[tuple[Tensor, int]]:
        images = Images(part, slow, began_s)
        return DataLoader(
            images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
        )

    def batches_of(one: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from one

    def step(batch: tuple[Tensor, Tensor], *, trains: bool) -> None:
        inputs, labels = (part.to(device, non_blocking=True) for part in batch)
        loss = cross_entropy(model(inputs), labels)
        if trains:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    training, others = batches_of(loader(files[:cut])), batches_of(loader(files[cut:]))
    steps = _steps_of(lambda: step(next(training), trains=True), synchronize, epoch_s)
    components = ["gpu"] if device == "cuda" else ["cpu", "ram"]
    folder = files[0].parent
    with disturbed(scenario, bursts, folder), track(components=components) as run:
        for epoch in run.epochs(args.epochs):
            for _ in range(steps):
                step(next(training), trains=True)
            synchronize()
            is_due = (epoch + 1) % period == 0
            if scenario == "validation" and is_due:
                with run.validation(), torch.no_grad():
                    for _ in range(max(1, steps // 4)):
                        step(next(others), trains=False)
                    synchronize()
            if scenario == "checkpoints" and is_due:
                _write(folder / "checkpoint", chance.randint(50, 300))
            run.log(steps=steps, samples=steps * BATCH)
    epochs = run.trace.epochs.reindex(columns=COLUMNS)
    print(
        f"{scenario} {seed}: {steps} steps an epoch, {epochs['duration_s'].sum():.1f} s", flush=True
    )
    return epochs, {
        "scenario": scenario,
        "seed": seed,
        "burst_every_s": bursts.every_s if math.isfinite(bursts.every_s) else None,
        "burst_lasts_s": bursts.lasts_s,
        "period": period if scenario in ("validation", "checkpoints") else None,
        "workers": workers,
        "steps": steps,
        "device": torch.cuda.get_device_name(0) if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _steps_of(step: Callable[[], None], synchronize: Callable[[], None], epoch_s: float) -> int:
    """The number of steps in an epoch of about this length."""
    for _ in range(WARM_BATCHES):
        step()
    synchronize()
    began_s = time.perf_counter()
    for _ in range(TIMED_BATCHES):
        step()
    synchronize()
    return max(4, round(epoch_s * TIMED_BATCHES / (time.perf_counter() - began_s)))


def add_run(run_id: str, tables: dict[Path, pd.DataFrame]) -> None:
    """Add the rows of a run to the files, with its name in the first column."""
    for path, rows in tables.items():
        rows.insert(0, "run_id", run_id)
        rows.to_csv(path, mode="a", header=not path.exists(), index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the CSV files")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each scenario")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--epoch-s", type=float, default=2.0, help="seconds of an epoch, about")
    parser.add_argument("--budget-s", type=float, default=540, help="seconds for all of the runs")
    parser.add_argument("--width", type=int, default=None, help="of the network")
    arguments = parser.parse_args()
    arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments.width = arguments.width or (128 if arguments.device == "cuda" else 8)
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table, epochs_table = (arguments.out / name for name in ("loaders.csv", "loaders_epochs.csv"))
    made = set(pd.read_csv(table)["run_id"]) if table.exists() else set()
    began_s, longest_s = time.monotonic(), 0.0
    with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        files = make_files(Path(folder))
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for seed in seeds:
            for scenario in SCENARIOS:
                run_id = f"loader-{arguments.device}-{scenario}-{seed}"
                if run_id in made:
                    continue
                run_began_s = time.monotonic()
                if run_began_s - began_s + longest_s > arguments.budget_s:
                    print(f"out of time before {run_id}")
                    return
                epochs, facts = collect(scenario, seed, files, arguments)
                add_run(run_id, {epochs_table: epochs, table: pd.DataFrame([facts])})
                longest_s = max(longest_s, time.monotonic() - run_began_s)


if __name__ == "__main__":
    main()
