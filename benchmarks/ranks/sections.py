"""Judges the traces of Lightning trainings in several processes."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.checks import Checks
from benchmarks.common.gpu_counter import ConstantCounter, Counter, GpuCounter, off
from benchmarks.overhead.children import Child, Children
from benchmarks.overhead.lightning_hooks import FIRST_EPOCHS
from benchmarks.ranks.launch import Answer, Machine, answer_of, run_ranks, start_ranks
from benchmarks.ranks.training import train
from energyest import EnergyTrace, load_trace

# How long a process may take to start, with CUDA and NCCL, and to end.
START_S = 120.0
# Of the time in which the counter is renewed, the disk written, and the kill takes effect.
LOST_S = 1.2
_EDGE_MS, _ENERGY_PERCENT = 1.5, 1.0
# How long ranks may take to notice that another one is gone.
_NOTICE_S = 5.0
# How long they may take to end once they are told to.
_TOLD_S = 3.0


def gpu_J(trace: EnergyTrace) -> float:
    """GPU energy of a whole run, in joules."""
    return float(trace.meta["components"]["gpu_energy_J"])


def results(check: Checks, name: str, answers: list[Answer]) -> list[dict[str, Any]]:
    """What the ranks returned, by rank; empty if one failed."""
    bad = [f"rank {rank}: {one.error}" for rank, one in enumerate(answers) if one.error]
    check("\n       ".join([f"{name}: {len(answers)} ranks end", *bad]), not bad)
    return [] if bad else sorted((one.value for one in answers), key=lambda said: said["rank"])


def check_energies(
    check: Checks, folder: Path, said: list[dict[str, Any]], *, is_shared: bool = False
) -> None:
    """Compare each rank's energy and that of all with the counters, and live with the disk.

    Args:
        check: prints the results.
        folder: the training's folder.
        said: the results of `train` on each rank.
        is_shared: whether all ranks used one GPU, which then counts once.
    """
    whole = load_trace(folder / "energy")
    parts = [load_trace(folder / "energy", ranks=[one["rank"]]) for one in said]
    differences = [off(gpu_J(p), s["counter_J"]) for p, s in zip(parts, said, strict=True)]
    shown = ", ".join(
        f"{one['counter_J']:.0f} J {difference:+.2f} %"
        for one, difference in zip(said, differences, strict=True)
    )
    check.note(f"counter of each rank, and how far its trace is off: {shown}")
    # Not Python's max, which may ignore a NaN.
    worst = float(np.max(np.abs(differences)))
    check.goal("energy of a rank against its counter, worst", worst, _ENERGY_PERCENT, "%")
    counted_J = said[0]["counter_J"] if is_shared else sum(one["counter_J"] for one in said)
    total_off = off(gpu_J(whole), counted_J)
    check.note(f"all ranks: {gpu_J(whole):.0f} J, {total_off:+.2f} % off")
    check.goal("energy of all ranks against the counters", abs(total_off), _ENERGY_PERCENT, "%")
    live_J, disk_J = said[0]["live_J"], whole.total_J
    close = abs(off(live_J, disk_J)) < 0.01
    check(f"rank 0's live total {live_J:.1f} J, on disk {disk_J:.1f} J", close)
    check("the energy of every epoch is known", bool((whole.column("energy_J") > 0).all()))


def check_edges(check: Checks, said: list[dict[str, Any]], *, is_judged: bool) -> None:
    """Print, and perhaps judge, how long the monitor's end of an epoch takes on each rank."""
    warm = [np.array(one["end_ms"][FIRST_EPOCHS:]) for one in said]
    medians = [float(np.median(ms)) for ms in warm]
    epoch_s = float(np.median(said[0]["epoch_s"]))
    check.note(
        f"on_train_epoch_end on each rank, median: {', '.join(f'{ms:.2f}' for ms in medians)} ms; "
        f"p99 of all {np.quantile(np.concatenate(warm), 0.99):.2f} ms; "
        f"{len(warm[0])} epochs of {epoch_s:.2f} s"
    )
    if is_judged:
        check.goal("on_train_epoch_end, median, slowest rank", max(medians), _EDGE_MS, "ms")


def check_training(
    check: Checks,
    children: Children,
    machine: Machine,
    folder: Path,
    *,
    strategy: str,
    nodes: int,
    seconds: float,
) -> None:
    """Train on all GPUs in epochs of a quarter of a second, as one node or as several."""
    ranks = machine.ranks - machine.ranks % nodes
    said = results(
        check,
        f"{strategy} on {nodes} node(s)",
        run_ranks(
            children,
            train,
            machine.environments(ranks, nodes),
            timeout_s=START_S + 4 * seconds,
            folder=folder,
            strategy=strategy,
            devices=ranks // nodes,
            nodes=nodes,
            epochs=FIRST_EPOCHS + max(5, round(4 * seconds)),
            steps=6,
        ),
    )
    if said:
        check_energies(check, folder, said)
        check_edges(check, said, is_judged=not (machine.is_simulated and machine.is_crowded))


def check_lost(
    check: Checks, trace: EnergyTrace, *, since_J: float, now_J: float, power_W: float
) -> None:
    """Compare the energy on disk of a killed process with its counter at the kill."""
    measured_J = gpu_J(trace)
    lost_s = (now_J - since_J - measured_J) / power_W
    check(
        f"killed with {len(trace)} epochs: {measured_J:.0f} J of its GPU on disk, "
        f"{lost_s:.2f} s of its power ({power_W:.0f} W) lost, asked {LOST_S} s",
        -0.2 < lost_s < LOST_S,
    )
    cut_J = trace.meta.get("interrupted_epoch", {}).get("gpu_energy_J", 0.0)
    rows_J = float(trace.column("gpu_energy_J").sum()) + cut_J
    check(f"in epochs, ended and under way: {rows_J:.0f} J", rows_J <= measured_J + 1)


def kill_in_epoch(check: Checks, child: Child) -> dict[str, float] | None:
    """Kill a process in the middle of its fourth epoch; its counter then and at its start."""
    since_J = child.fact("start_J", START_S)
    ends: dict[int, float] = {}
    give_up_s = time.monotonic() + START_S
    while since_J is not None and len(ends) < 3 and time.monotonic() < give_up_s:
        if child.has_ended(0.02):
            break
        ends = {fact["epoch"]: fact["at_s"] for fact in child.told if "epoch" in fact}
    if not check("the training to be killed has ended three epochs", len(ends) >= 3):
        return None
    times_s = sorted(ends.values())
    time.sleep((times_s[-1] - times_s[-2]) / 2)
    counter = _counter_of(child)
    now = {"since_J": since_J, "now_J": counter.read_J(), "power_W": counter.power_W()}
    child.signal(signal.SIGKILL)
    child.process.join(10)
    return now


def _counter_of(child: Child) -> Counter:
    uuid, watts = (child.fact(name, 0.0) for name in ("uuid", "watts"))
    return GpuCounter(uuid) if uuid else ConstantCounter(watts)


def check_kill(check: Checks, children: Children, machine: Machine, folder: Path) -> None:
    """Kill the last rank of a training; look at its trace, those of others, and the whole."""
    ranks = machine.ranks
    started = start_ranks(
        children,
        train,
        machine.environments(ranks),
        folder=folder,
        strategy="ddp",
        devices=ranks,
        epochs=1000,
        steps=50,
    )
    try:
        now = kill_in_epoch(check, started[-1])
        if now is None:
            check.note("\n       ".join(answer_of(child).error for child in started))
            return
        _end_others(check, started[:-1])
    finally:
        for child in started:
            child.end()
    parts = [load_trace(folder / "energy", ranks=[rank]) for rank in range(ranks)]
    check_lost(check, parts[-1], **now)
    rows = [len(part) for part in parts]
    check(f"each rank's folder loads, with {rows} epochs", min(rows) >= 2)
    check.note(f"status of each: {', '.join(str(part.meta.get('status')) for part in parts)}")
    whole = load_trace(folder / "energy")
    known = np.isfinite(whole.column("energy_J"))
    count = int(known.sum())
    summed_J = sum(part.column("energy_J")[:count] for part in parts)
    check(
        f"the whole holds the sum of the {count} epochs that all ended, and NaN after them "
        f"({len(whole)} rows)",
        count >= 2
        and bool(known[:count].all())
        and bool(np.allclose(whole.column("energy_J")[:count], summed_J)),
    )


def _end_others(check: Checks, others: list[Child]) -> None:
    """Let the other ranks end by themselves; then tell them to, as `torchrun` does.

    Over NCCL, they may wait for the lost rank in a way that no signal but SIGKILL ends.
    """
    count = len(others)
    left = _still_there(others, _NOTICE_S)
    told = len(left)
    for child in left:
        child.signal(signal.SIGTERM)
    left = _still_there(left, _TOLD_S)
    check.note(
        f"of {count} others, {count - told} ended by themselves within {_NOTICE_S:g} s, "
        f"{told - len(left)} when told to, and {len(left)} had to be killed"
    )


def _still_there(children: list[Child], wait_s: float) -> list[Child]:
    """Those that have not ended after this time."""
    ends_s = time.monotonic() + wait_s
    while children and time.monotonic() < ends_s:
        children = [child for child in children if not child.has_ended(0.05)]
    return children


def check_resume(check: Checks, children: Children, machine: Machine, folder: Path) -> None:
    """Train on all GPUs with checkpoints, and go on from the last one on half of them."""
    ranks, half, epochs = machine.ranks, machine.ranks // 2, 4
    answers = run_ranks(
        children,
        train,
        machine.environments(ranks),
        timeout_s=START_S + 60,
        folder=folder,
        strategy="ddp",
        devices=ranks,
        epochs=epochs,
        save=True,
    )
    if not results(check, f"training on {ranks}", answers):
        return
    answers = run_ranks(
        children,
        train,
        machine.environments(half),
        timeout_s=START_S + 60,
        folder=folder / "half",
        strategy="ddp",
        devices=half,
        epochs=2 * epochs,
        resume=max(folder.glob("*.ckpt")),
    )
    said = results(check, f"resumed on {half}", answers)
    if not said:
        return
    check(f"epochs {said[0]['epochs']}", said[0]["epochs"] == list(range(2 * epochs)))
    trace = load_trace(folder / "half" / "energy")
    epochs_J = trace.column("energy_J")
    shown = ", ".join(f"{joules:.0f}" for joules in epochs_J)
    check(f"energy of every epoch: {shown} J", bool((epochs_J > 0).all()))
    # What the checkpoint holds; the first run went on for a moment after it was saved.
    (before_J,) = (part["total_J"] for part in trace.meta["earlier_parts"])
    first_J = load_trace(folder / "energy").total_J
    counted_J = before_J + sum(one["counter_J"] for one in said)
    check.note(
        f"in all {trace.total_J:.0f} J, of which {before_J:.0f} J by the checkpoint; the first run "
        f"ended at {first_J:.0f} J"
    )
    name = "energy of both parts, against the checkpoint and the counters of the second"
    check.goal(name, abs(off(trace.total_J, counted_J)), _ENERGY_PERCENT, "%")
    gpus = [device for device in trace.devices if device["kind"] == "gpu"]
    earlier = [part["gpus"] for part in trace.meta["earlier_parts"]]
    check(
        f"devices: before {earlier}, now {[device['name'] for device in gpus]}",
        len(gpus) == half and [sum(names.values()) for names in earlier] == [ranks],
    )
    check.note(f"planned changes: {trace.meta.get('planned_changes')}")
