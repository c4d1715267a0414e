"""The queries of the guide on many runs, in DuckDB: they say the same as pandas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from energyest.cli import main
from energyest.tradeoff import duplicated_runs, pareto_front
from tests.support.markdown import ROOT, blocks
from tests.support.traces import trace_of

duckdb = pytest.importorskip("duckdb")
pytest.importorskip("pyarrow")
PAGE = ROOT / "docs/how_to/many_runs.md"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that `energyest runs --to` writes, of 40 runs, one of them of unknown energy."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for number in range(40):
        model, gpu = f"net{number % 4}", ("A40", "H100")[number // 4 % 2]
        energy_J = rng.uniform(50, 100, 3) * (1 + number % 4)
        if number == 7:
            energy_J[1] = np.nan
        meta = {
            "run_id": f"id{number}",
            "status": {0: "KeyboardInterrupt", 5: "SIGTERM"}.get(number % 10, "finished"),
            "start_time": f"2026-01-01T00:00:{number:02}+00:00",
            "user": ("ada", "eve")[number % 2],
            "project": ("vision", "speech", "text")[number % 3],
            "model": {"name": model, "parameters": 10},
            "precision": "bf16",
            "batch_size": 32,
            "devices": [
                {"device": "gpu:0", "kind": "gpu", "name": gpu, "utilization": number / 40}
            ],
        }
        quality = np.sort(rng.uniform(0.2, 0.6, 3)) + 0.1 * (number % 4)
        trace_of(energy_J, meta=meta, val_acc=quality).save(folder / f"run{number}")
    assert main(["runs", str(folder), "--unfinished", "--to", str(folder / "runs.parquet")]) == 0
    return folder / "runs.parquet"


def costs(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    found = table.assign(kWh=(table["energy_J"] + table["lost_J"]) / 3.6e6)
    return found.groupby(by).agg(runs=("run", "size"), kWh=("kWh", "sum")).reset_index()


def duplicates(table: pd.DataFrame) -> pd.DataFrame:
    by = ["model", "gpu_name", "gpus", "batch_size", "precision"]
    return duplicated_runs(table, by=by)[[*by, "runs", "repeated_J"]]


def idle(table: pd.DataFrame) -> pd.DataFrame:
    found = table[table["utilization"] < 0.3].assign(cost_J=table["energy_J"] + table["lost_J"])
    return found[["run", "user", "gpu", "utilization", "cost_J"]]


def front(table: pd.DataFrame) -> pd.DataFrame:
    finished = table[table["status"] == "finished"].dropna(subset=["energy_J"])
    found = pareto_front(finished, quality="val_acc", by=["model", "gpu"])
    return found[["model", "gpu", "energy_J", "val_acc"]]


# In the order of the page.
ANSWERS: list[Callable[[pd.DataFrame], pd.DataFrame]] = [
    lambda table: costs(table, ["project", "user"]),
    lambda table: costs(table[table["status"] != "finished"], ["status"]),
    duplicates,
    idle,
    front,
]


def test_every_query_has_an_answer() -> None:
    assert len([block for block in blocks(PAGE) if block.language == "sql"]) == len(ANSWERS)


@pytest.mark.parametrize("place", range(len(ANSWERS)))
def test_the_queries_say_the_same_as_pandas(
    place: int, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs.parent)
    query = [block.code for block in blocks(PAGE) if block.language == "sql"][place]
    table = pd.read_parquet(runs)
    assert table["energy_J"].isna().sum() == 1
    expected = pd.DataFrame(ANSWERS[place](table))
    found = duckdb.sql(query).df()[list(expected.columns)]
    keys = [name for name in expected if expected[name].dtype.kind not in "fi"]
    in_order = [one.sort_values(keys, ignore_index=True) for one in (found, expected)]
    assert len(expected) > 1
    pd.testing.assert_frame_equal(*in_order, check_dtype=False, rtol=1e-9)
