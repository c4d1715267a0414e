"""Trainings of two processes, and what their traces have to hold."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from energyest import EnergyTrace, load_trace
from tests.support.forks import LIGHTNING, Forks
from tests.support.source import PACKAGE, ROOT

EPOCHS = 4
WATTS = {0: 100.0, 1: 30.0}


class Trained(NamedTuple):
    """A training of two processes that has ended.

    Attributes:
        folder: the trace of rank 0 is in its subfolder `energy`.
        statuses: with which its processes ended, as far as they are known.
        stdout: what they printed.
        stderr: what else.
    """

    folder: Path
    statuses: list[int]
    stdout: str
    stderr: str

    def said(self, word: str) -> dict[str, Any]:
        """The line of JSON that a process printed after a word."""
        lines = [line for line in self.stdout.splitlines() if line.startswith(word + " ")]
        assert len(lines) == 1, self.stdout + self.stderr
        seen: dict[str, Any] = json.loads(lines[0].removeprefix(word))
        return seen


def train(folder: Path, *options: str) -> Trained:
    """Train in two processes that Lightning starts; ended by force, it is a hang."""
    result = subprocess.run(
        [sys.executable, "-m", "simulation.ranks", str(folder), *options],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return Trained(folder, [result.returncode], result.stdout, result.stderr)


def train_at_once(forks: Forks, folder: Path, *trainings: str) -> list[Trained]:
    """Train several times, each in two processes that are started from outside.

    Args:
        forks: starts them.
        folder: for their traces.
        trainings: options of each, in one text.
    """
    numbers = []
    for place, options in ((folder / str(n), text.split()) for n, text in enumerate(trainings)):
        variables = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "NODE_RANK": "0",
            "WORLD_SIZE": "2",
        }
        numbers.append(
            [
                forks.start(
                    "simulation.ranks:main",
                    *(str(place), *options),
                    folder=place / f"output of rank {rank}",
                    needs=LIGHTNING,
                    environment={**variables, "LOCAL_RANK": str(rank), "ENERGYEST_QUIET": "1"},
                )
                for rank in (0, 1)
            ]
        )
    ends = [[forks.wait(number) for number in both] for both in numbers]
    return [
        Trained(
            folder / str(n),
            [end.status for end in both],
            "".join(end.stdout for end in both),
            "".join(end.stderr for end in both),
        )
        for n, both in enumerate(ends)
    ]


def _free_port() -> int:
    """One at which the processes of a training may meet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def parts(folder: Path) -> list[EnergyTrace]:
    return [load_trace(folder / "energy", ranks=[0]), load_trace(folder / "energy/rank1")]


def check_truth(folder: Path) -> EnergyTrace:
    """Each rank's energy is that of its GPU; their sum is that of both, or unknown."""
    own = parts(folder)
    for rank, trace in enumerate(own):
        truth_J = WATTS[rank] * trace.column("duration_s")
        assert trace.column("gpu_energy_J") == pytest.approx(truth_J, rel=1e-3)
    whole = load_trace(folder / "energy")
    both = min(map(len, own))
    for name in ("energy_J", "gpu_energy_J"):
        sums = sum(trace.column(name)[:both] for trace in own)
        if name == "gpu_energy_J":
            assert whole.column(name)[:both] == pytest.approx(sums)
        assert np.isnan(whole.column(name)[both:]).all()
    # Processors and memory are the machine's: one of the processes counts them.
    assert whole.column("cpu_energy_J")[:both] == pytest.approx(
        own[0].column("cpu_energy_J")[:both]
    )
    assert {d["kind"] for d in own[1].devices} == {"gpu"}
    return whole


def check_death(result: Trained, option: str) -> None:
    """A rank dies or fails in its third epoch; every folder must hold what was measured."""
    assert 0 not in result.statuses
    # No word of the monitor's but the summary, and no error from within it (the folder may be
    # called as it is).
    said = [line for line in result.stderr.splitlines() if line.startswith("energyest: ")]
    assert all(" epochs in " in line for line in said), said
    assert str(PACKAGE) not in result.stderr
    assert ("ValueError: rank 1 fails" in result.stderr) == (option == "fail=1")
    whole = check_truth(result.folder)
    # Two epochs, or three: the one that failed had ended already.
    assert all(2 <= len(trace) <= 3 for trace in parts(result.folder))
    assert np.isfinite(whole.column("energy_J")[:2]).all()
    assert whole.meta["run_id"] == parts(result.folder)[1].meta["run_id"]
