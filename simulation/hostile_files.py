"""Hostile files for everything in the package that reads one, and what has to become of them.

Used by `tests/test_untrusted.py` with few inputs, and by `benchmarks/endurance/fuzz.py` with many.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from energyest import (
    EnergyestError,
    EnergyTrace,
    compare_estimators,
    estimate_pre,
    estimate_step,
    load_trace,
    track,
)
from energyest.cli import main
from energyest.estimators import PreModel, TableModel, find_stable_epoch
from energyest.estimators.pre.training_data import runs_of
from energyest.estimators.regression.features import FEATURES
from energyest.gpus import Gpu, resolve_gpu
from energyest.measure.sensors.replay import ReplaySensor
from energyest.profiling import Probe, Workload
from energyest.records import storage
from simulation.fuzzing import COLUMNS, META, VALUES, WORDS, Content, Loader
from simulation.synthetic_pre import workload

_DEVICE = (
    *("device", "name", "kind", "uuid", "power_limit_W", "memory_bytes", "source", "energy_J"),
    "missing_s",
)
_CHANGE = ("epoch", "flops_ratio", "energy_ratio", "reason", "known_since")

values: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(VALUES)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
quantities = st.floats(0, 1e4) | st.sampled_from([0, 1, 100.0, None, 1e308, 1e-308, 1e30, 1e15])


def _json(content: Any) -> bytes:
    return json.dumps(content).encode()


def _objects(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, values))


_gpus = st.fixed_dictionaries(
    {"device": st.just("gpu:0"), "kind": st.just("gpu"), "power_limit_W": quantities}
)
_changes = st.fixed_dictionaries({"epoch": quantities, "flops_ratio": quantities})
_metas = st.fixed_dictionaries(
    {"format": st.just(1)},
    optional={
        **dict.fromkeys(META, values),
        "devices": st.lists(_objects(_DEVICE) | _gpus, max_size=3),
        "planned_changes": st.lists(_objects(_CHANGE) | _changes, max_size=4),
    },
)
_rows = st.lists(
    st.fixed_dictionaries(
        {"epoch": st.integers(0, 10)},
        optional={**dict.fromkeys(COLUMNS, quantities), "amends_row": st.integers(-1, 3)},
    ),
    max_size=8,
)
_readings = st.lists(
    st.tuples(
        st.sampled_from(["gpu:0", "cpu:0", "ram:0", "gpu:1", "", "nan", "\x00", '"', "a\rb"]),
        st.lists(st.one_of(st.sampled_from(WORDS[:20]), st.just("")), min_size=5, max_size=5),
    ),
    max_size=10,
)


def _table(readings: list[tuple[str, list[str]]]) -> bytes:
    header = "time_s,device,power_W,energy_J,utilization,memory_bytes,temperature_C\n"
    rows = (f"{i},{device},{','.join(others)}\n" for i, (device, others) in enumerate(readings))
    return (header + "".join(rows)).encode()


@functools.cache
def real_trace() -> Content:
    """A short run that was recorded, with all that a monitor can add to its meta."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "energy"
        with track(folder, components=["cpu", "ram"]) as run:
            for epoch in run.epochs(6):
                time.sleep(0.05)
                run.log(val_acc=epoch / 6)
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    gpu = {"device": "gpu:0", "kind": "gpu", "name": "NVIDIA H100 80GB HBM3", "power_limit_W": 700}
    meta = json.loads(files["meta.json"])
    meta["devices"].append(gpu)
    meta |= {
        "planned_epochs": 20,
        "planned_duration_s": None,
        "validation_every_n_rows": 2,
        "validation_to_training_batches": 0.25,
        "first_epoch": 0,
        "planned_changes": [
            {"epoch": 10, "flops_ratio": 2.0, "reason": "BackboneFinetuning", "known_since": 0}
        ],
        "workload": workload().to_dict(),
        "precision": "fp32",
    }
    rows = [json.loads(line) for line in files["epochs.jsonl"].splitlines()]
    for row in rows:
        if "amends_row" not in row:
            row |= {"steps": 10, "gpu_energy_J": 50.0, "flops": 1e12, "samples": 320}
    files["meta.json"] = json.dumps(meta, indent=1).encode()
    files["epochs.jsonl"] = b"".join(_json(row) + b"\n" for row in rows)
    return files


@functools.cache
def real_ranks() -> Content:
    """A run of two processes that was killed: the trace of rank 1 is in that of rank 0."""
    rank0 = real_trace()
    meta = json.loads(rank0["meta.json"])
    known = {name: meta[name] for name in ("run_id", "total_J", "duration_s", "devices")}
    ended_s = json.loads(rank0["epochs.jsonl"].splitlines()[-1])["end_s"]
    known["interrupted_epoch"] = {"epoch": 6, "start_s": ended_s, "energy_J": 1.0}
    metas = {rank: _json({**meta, "world_size": 2, "rank": rank}) for rank in (0, 1)}
    rank1 = {f"rank1/{name}": data for name, data in rank0.items()}
    whole = {"meta.json": metas[0], "latest.json": _json(known), "rank1/meta.json": metas[1]}
    return rank0 | rank1 | whole


def _traces(**parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[Content]:
    """The real trace with some of its files made anew."""
    names = {"meta": "meta.json", "epochs": "epochs.jsonl", "power": "power.csv"}
    return st.fixed_dictionaries({names[part]: made for part, made in parts.items()}).map(
        lambda files: {**real_trace(), **files}
    )


_meta_files = _metas.map(_json)
_epochs_files = _rows.map(lambda rows: b"".join(_json(row) + b"\n" for row in rows))
_power_files = _readings.map(_table)
_latest_files = _objects(storage.LATEST).map(
    lambda known: _json({**known, "run_id": json.loads(real_trace()["meta.json"])["run_id"]})
)


def _among_ranks(file: str, data: bytes) -> Content:
    return real_ranks() | {file: data}


@functools.cache
def real_json(kind: str) -> Content:
    """A file of a model, a workload or a probe."""
    if kind == "pre":
        import energyest

        return {"it.json": (Path(energyest.__file__).parent / "data/pre_model.json").read_bytes()}
    if kind == "workload":
        return {"it.json": _json(workload().to_dict())}
    if kind == "probe":
        probe = {"workload": workload().to_dict(), "gpu": "H100", "steps": 30, "step_s": 0.01}
        return {"it.json": _json(probe | {"power_W": 300.0})}
    if kind == "state":
        played = ReplaySensor(EnergyTrace.from_power([0.0, 9.0], [100.0, 120.0], [9.0]))
        with track(sensors=[played], interval_s=0.02) as run:
            for step in run.steps(7, every_n_steps=2):
                time.sleep(0.02)
                run.log(loss=float(step))
                if step == 4:
                    return {"it.json": json.dumps(run.state_dict()).encode()}
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "it.json"
        TableModel(kind, draws=2).fit(_runs()).save(path)  # type: ignore[arg-type]
        return {"it.json": path.read_bytes()}


@functools.cache
def _runs() -> pd.DataFrame:
    """A table to learn from, and to ask about."""
    dice = np.random.default_rng(0)
    table = pd.DataFrame({name: dice.uniform(1, 100, 24) for name in FEATURES})
    table["mean_power_W"] = dice.uniform(50, 300, 24)
    return table


@st.composite
def _edited(draw: st.DrawFn, kind: str) -> Content:
    """A real file of JSON in which hypothesis replaced, or slightly moved, a few entries."""
    content = json.loads(real_json(kind)["it.json"])
    near = draw(st.integers(0, 3)) == 0  # or else nearly all of them are refused
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = content
        while isinstance(holder, dict | list) and holder:
            keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
            key = draw(st.sampled_from(keys))
            if isinstance(holder[key], dict | list) and holder[key] and draw(st.integers(0, 4)):
                holder = holder[key]
                continue
            if not near:
                holder[key] = copy.deepcopy(draw(values))
            elif isinstance(holder[key], float):
                holder[key] *= draw(st.floats(0.99, 1.01))
            break
    return {"it.json": _json(content)}


# ---------------------------------------------------------------------- uses


def _use_trace(folder: Path) -> None:
    trace = load_trace(folder)
    more = len(trace) + 10
    uses: tuple[Callable[[], Any], ...] = (
        lambda: (repr(trace), trace.total_J, trace.metrics, trace.unit, trace.devices),
        lambda: (trace.epochs, trace.power),
        lambda: trace.head(2).total_J,
        lambda: find_stable_epoch(trace),
        lambda: str(estimate_step(trace)),
        lambda: str(estimate_step(trace, steps=1000)),
        lambda: str(estimate_step(trace, more, form="power")),
        lambda: compare_estimators(trace, more, observed=2),
        lambda: runs_of([trace]),
        lambda: ReplaySensor(trace).read(0.0),
        lambda: _command("show", str(folder)),
        lambda: _command("project", str(folder)),
    )
    for use in uses:
        with contextlib.suppress(EnergyestError):
            use()


def _use_sum(folder: Path) -> None:
    """The sum of ranks is a trace like others: what is done with them is not done again."""
    trace = load_trace(folder)
    repr(trace)
    for use in (lambda: trace.total_J, lambda: estimate_step(trace), lambda: runs_of([trace])):
        with contextlib.suppress(EnergyestError):
            use()


def _command(*arguments: str) -> None:
    """The command line, into a file as strict about text as a terminal is."""
    with (
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")),
        contextlib.redirect_stderr(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")),
    ):
        assert main(arguments) in (0, 1)


def _use_pre(folder: Path) -> None:
    model = PreModel.load(folder / "it.json")
    asked = {"epochs": 3, "train_samples": 1000, "validation_samples": 100}
    with contextlib.suppress(EnergyestError):
        str(estimate_pre(workload(), "H100", model=model, **asked))  # type: ignore[arg-type]


def _use_table(folder: Path) -> None:
    model = TableModel.load(folder / "it.json")
    with contextlib.suppress(EnergyestError):
        model.predict(_runs())


def _use_workload(folder: Path) -> None:
    _ask(Workload.from_dict(_plain(folder)))


def _use_probe(folder: Path) -> None:
    parts = _plain(folder)
    known = parts if isinstance(parts, dict) else {}
    given = {name: known.get(name) for name in ("steps", "step_s", "power_W")}
    asked = Workload.from_dict(known.get("workload", {}))
    probe = Probe(asked, resolve_gpu(known.get("gpu", "")), **given)  # type: ignore[arg-type]
    str(probe)
    _ask(asked, probe)


def _use_state(folder: Path) -> None:
    run = track(sensors=[], interval_s=10.0)
    run.load_state_dict(_plain(folder))
    with contextlib.suppress(EnergyestError):
        next(run.steps(9, every_n_steps=2), None)
    again = run.state_dict()
    trace = run.trace
    run.stop()
    track(sensors=[]).load_state_dict(again)
    with contextlib.suppress(EnergyestError):
        str(estimate_step(trace))
    repr(trace), trace.total_J, trace.head(1).total_J


def _ask(asked: Workload, probe: Probe | None = None) -> None:
    with contextlib.suppress(EnergyestError):
        gpu: str | Gpu = "H100" if probe is None else probe.gpu
        str(estimate_pre(asked, gpu, epochs=3, train_samples=1000, probe=probe))


def _plain(folder: Path) -> Any:
    """What a program of the user's reads from a file, for a function that takes a dict."""
    try:
        return json.loads((folder / "it.json").read_bytes())
    except (ValueError, RecursionError):
        return None


def loaders() -> Iterator[Loader]:
    """Each way in which the package reads what it has not written itself."""
    made = {"meta": _meta_files, "epochs": _epochs_files, "power": _power_files}
    for part, file in (("meta", "meta.json"), ("epochs", "epochs.jsonl"), ("power", "power.csv")):
        # A part alone, and with the others made anew too: they have to fit together.
        generated = _traces(**{part: made[part]}) | _traces(**made)
        yield Loader(f"load_trace, {file}", real_trace, file, generated, _use_trace)
    rank1 = {"rank1/meta.json": _meta_files, "rank1/epochs.jsonl": _epochs_files}
    for file, strategy in {**rank1, "latest.json": _latest_files}.items():
        generated = strategy.map(functools.partial(_among_ranks, file))
        yield Loader(f"load_trace, {file}", real_ranks, file, generated, _use_sum)
    for kind, name, use in (
        ("pre", "PreModel.load", _use_pre),
        *(
            (kind, f"TableModel.load, {kind}", _use_table)
            for kind in ("linear", "kernel_ridge", "gaussian_process", "power_share")
        ),
        ("workload", "Workload.from_dict", _use_workload),
        ("probe", "Probe", _use_probe),
        ("state", "Run.load_state_dict", _use_state),
    ):
        real = functools.partial(real_json, kind)
        yield Loader(name, real, "it.json", _edited(kind), use)
