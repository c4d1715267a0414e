"""`energyest pre` and `energyest advise`: models that are named on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from energyest import EnergyTrace, describe_workload, estimate_pre
from energyest.cli import main
from energyest.cli.targets import batch_of_shape
from energyest.errors import ConfigurationError
from tests.support.terminals import on_terminal

MODELS = """
import torch
from torch import nn

class Net(nn.Sequential):
    def __init__(self, width=16):
        super().__init__(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))

class Wants(nn.Module):
    def __init__(self, width):
        super().__init__()

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(50, 8), nn.Linear(8, 50)

    def forward(self, ids, labels=None):
        return self.head(self.table(ids))

def wide():
    return Net(4096)

net = Net()
number = 3

def batch():
    return torch.zeros(32, 8), torch.zeros(32, dtype=torch.int64)

def broken():
    raise RuntimeError("no weights")

def late():
    import no_such_library
"""
LENGTH = ["--epochs", "3", "--train-samples", "3200"]
TRAINING = ["--gpu", "A100", *LENGTH]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "my_models.py").write_text(MODELS)
    (tmp_path / "bad_module.py").write_text("import no_such_library")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in ("my_models", "bad_module"):
        sys.modules.pop(name, None)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("target", ["my_models:Net", "my_models:net", "my_models.py:Net"])
def test_the_same_as_in_python(
    models: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    options = ["--precision", "bf16", "--optimizer", "adamw", "--devices", "2", "--compiled"]
    found = answer(
        capsys, "pre", target, *TRAINING, "--batch", "32x8", *options, "--validation-samples", "64"
    )
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    workload = describe_workload(net, torch.zeros(32, 8), precision="bf16", optimizer="adamw")
    expected = estimate_pre(
        workload,
        "A100",
        epochs=3,
        train_samples=3200,
        validation_samples=64,
        devices=2,
        compiled=True,
    )
    assert found["estimate"]["energy_J"] == pytest.approx(expected.energy_J)
    assert found["estimate"]["energy_upper_J"] == pytest.approx(expected.upper_J)
    assert found["estimate"]["assumptions"] == list(expected.assumptions)
    assert found["workload"]["optimizer"] == "adamw"
    assert found["workload"]["batch_size"] == 32


def test_text(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["pre", "my_models:wide", *TRAINING, "--batch-from", "my_models:batch"]
    assert main([*arguments, "--intensity", "400"]) == 0
    first, second, *assumptions = capsys.readouterr().out.splitlines()
    assert " for 3 epochs in " in first
    assert "90 % interval" in first
    assert second.endswith(" CO2e")
    assert assumptions[0] == "- the energy of the GPU alone, without processors and memory"


def test_the_cleanest_start(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(timezone.utc)
    hours = [now + timedelta(hours=hour) for hour in range(-1, 5)]
    rows = (
        f"{at.isoformat()},{g}" for at, g in zip(hours, [9, 400, 300, 100, 200, 500], strict=True)
    )
    Path("grid.csv").write_text("\n".join(["time,g", *rows]))
    arguments = ["pre", "my_models:Net", *TRAINING, "--batch", "32x8", "--forecast", "grid.csv"]
    assert main(arguments) == 0
    best = f"cleanest start: {hours[3]:%Y-%m-%d %H:%M} UTC, "
    assert best in capsys.readouterr().out
    found = answer(capsys, *arguments)
    first = found["starts"][0]
    assert first["start"].startswith(f"{hours[3]:%Y-%m-%d %H:%M}")
    assert first["co2e_kg"] == pytest.approx(found["estimate"]["energy_kWh"] * 0.1)
    assert first["saving"] == pytest.approx(0.75)
    early = min(found["starts"], key=lambda start: start["start"])
    assert early["co2e_kg"] == pytest.approx(found["estimate"]["energy_kWh"] * 0.4)


def test_a_workload_that_was_stored(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = ["--save-workload", "net.json"]
    first = answer(capsys, "pre", "my_models:Net", *TRAINING, "--batch", "32x8", *saved)
    second = answer(capsys, "pre", "net.json", *TRAINING)
    assert second["estimate"]["energy_J"] == pytest.approx(first["estimate"]["energy_J"])
    assert main(["pre", "net.json", *TRAINING, *saved]) == 1
    assert "net.json is there already" in capsys.readouterr().err
    assert main(["pre", "net.json", *TRAINING, "--batch", "32x8"]) == 1
    assert "--batch is for a model" in capsys.readouterr().err
    for text in ("{}", "no json", "[" * 100_000):
        Path("other.json").write_text(text)
        assert main(["pre", "other.json", *TRAINING]) == 1
        assert "other.json is no stored workload" in capsys.readouterr().err


def test_the_workload_of_a_trace(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workload = describe_workload(nn.Linear(8, 2), torch.zeros(32, 8))
    meta = {
        "workload": workload.to_dict(),
        "planned_epochs": 3,
        "train_samples": 3200,
        "devices": [{"device": "gpu:0", "kind": "gpu", "name": "NVIDIA A100-SXM4-80GB"}],
    }
    EnergyTrace.from_epochs([10.0] * 2, meta=meta).save("trace")
    by_trace = answer(capsys, "pre", "trace")
    expected = estimate_pre(workload, "A100", epochs=3, train_samples=3200)
    assert by_trace["estimate"]["energy_J"] == pytest.approx(expected.energy_J)
    elsewhere = answer(capsys, "pre", "trace", "--gpu", "H100")
    assert "H100" in elsewhere["estimate"]["method"]
    EnergyTrace.from_epochs([10.0] * 2, meta={"workload_note": "no tensors"}).save("other")
    assert main(["pre", "other"]) == 1
    assert "holds no workload: no tensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["my_models:Nett", "--batch", "2x8"], "my_models has no Nett: did you mean Net"),
        (["my_models:Wants", "--batch", "2x8"], "cannot be called without arguments"),
        (["my_models:number", "--batch", "2x8"], "my_models:number is a int"),
        (["my_models:broken", "--batch", "2x8"], "RuntimeError: no weights"),
        (["bad_module:Net", "--batch", "2x8"], "No module named 'no_such_library'"),
        (["bad_module.py:Net", "--batch", "2x8"], "bad_module.py cannot be imported"),
        (["my_models.py", "--batch", "2x8"], "name the model in it, such as my_models.py:Net"),
        (["my_models.py"], "name the model in it, such as my_models.py:Net"),
        (["my_models:late", "--batch", "2x8"], "my_models:late(): ModuleNotFoundError"),
        (["my_models:Net", "--batch-from", "my_models:late"], "No module named 'no_such_library'"),
        (["no_module:Net", "--batch", "2x8"], "no_module cannot be imported"),
        (["my_models", "--batch", "2x8"], "MODULE:NAME"),
        (["my_models:Net"], "a batch for my_models:Net is needed"),
        (["my_models:Net", "--batch", "2x8", "--batch-from", "a:b"], "a batch for"),
        (["my_models:Net", "--batch", "2y8"], "--batch '2y8' is no shape"),
        (["my_models:Net", "--batch", "2x9"], "mat1 and mat2"),
        (["my_models:Net", "--batch", "2x8", "--optimizer", "adamx"], "must be one of"),
        (["my_models:Net", "--batch", "2x8", "--precision", "int3"], "must be one of"),
    ],
)
def test_what_cannot_be(
    models: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["pre", *arguments, *TRAINING]) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


def test_samples_that_a_shape_does_not_tell(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = ["--batch", "35x8", "--samples", "20", "--save-workload", "net.json"]
    assert main(["pre", "my_models.py:Net", *TRAINING, *batch]) == 0
    assert json.loads((models / "net.json").read_text())["batch_size"] == 20
    assert main(["pre", "net.json", *TRAINING, "--samples", "20"]) == 1
    assert "--samples is for a model" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["pre", "advise"])
def test_without_torch(
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    batch = ["--batch", "32x8"]
    assert main(["pre", "my_models.py:Net", *TRAINING, *batch, "--save-workload", "net.json"]) == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main([command, "my_models.py:Net", *TRAINING, *batch]) == 1
    assert capsys.readouterr().err == (
        "energyest: my_models.py:Net, unlike a workload stored with --save-workload, needs torch, "
        "which is not installed: pip install torch\n"
    )
    assert main([command, "net.json", *TRAINING]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpu", "A1000x", *LENGTH], "the closest names are"),
        (LENGTH, "--gpu NAME is missing"),
        (["--gpu", "A100", "--epochs", "3"], "--train-samples is missing"),
        (["--gpu", "A100", "--train-samples", "3"], "--epochs is missing"),
        ([*TRAINING, "--confidence", "2"], "confidence"),
        ([*TRAINING, "--pue", "0.5"], "pue"),
        ([*TRAINING, "--intensity", "Germny"], "the closest names are Germany"),
        ([*TRAINING, "--gpu", "H100"], "--gpu is given 2 times"),
        ([*TRAINING, "--forecast", "absent.csv"], "absent.csv: no series"),
    ],
)
def test_what_is_missing_or_out_of_range(
    models: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["pre", "my_models:Net", "--batch", "2x8", *arguments]) == 1
    assert said in capsys.readouterr().err


def test_shapes_of_batches() -> None:
    image = batch_of_shape("32x3x224x224")
    assert (image.shape, image.dtype) == ((32, 3, 224, 224), torch.float32)
    pair = batch_of_shape("4x8, 4:int64")
    assert [(x.shape, x.dtype) for x in pair] == [((4, 8), torch.float32), ((4,), torch.int64)]
    named = batch_of_shape("ids=8x16:int64,labels=8:int64")
    assert {name: x.shape for name, x in named.items()} == {"ids": (8, 16), "labels": (8,)}
    for text in (
        "",
        "x",
        "4x",
        "4x8:int65",
        "4x8:zeros",
        "ids=4,5",
        "a=4,a=5",
        "99999999999x99999999999",
    ):
        with pytest.raises(ConfigurationError, match="--batch"):
            batch_of_shape(text)


def test_a_model_of_tokens(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = ["--batch", "ids=8x16:int64,labels=8x16:int64"]
    found = answer(capsys, "pre", "my_models:Tokens", *TRAINING, *batch)
    assert found["estimate"]["energy_J"] > 0


# ---------------------------------------------------------------------- advise


def test_advice(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = ["my_models:Net", "big=my_models:wide", "--gpu", "A100", "--gpu", "H100"]
    options = [*LENGTH, "--batch", "32x8"]
    found = answer(capsys, "advise", *pairs, *options, "--intensity", "400")
    rows = found["pairs"]
    assert sorted(row["model"] for row in rows) == ["Net", "Net", "big", "big"]
    assert rows[0]["on_front"]
    assert rows[0]["co2e_kg"] == pytest.approx(rows[0]["energy_J"] / 3.6e6 * 0.4)
    quality = ["--quality", "Net=0.7", "--quality", "big=0.8"]
    assert main(["advise", *pairs, *options, *quality]) == 0
    out = capsys.readouterr().out
    assert "on the front of energy, time and quality" in out
    head = next(line for line in out.splitlines() if line.startswith("model "))
    assert {"energy", "time", "quality"} <= set(head.split())
    assert "- the energy of the GPU alone" in out
    assert max(map(len, on_terminal(monkeypatch, "advise", *pairs, *options).lines)) <= 80


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["my_models:Net", "b=other/my_models.py:Net"], "there is no file"),
        (["my_models:Net", "my_models:Net"], "two models are called Net"),
        (["my_models:Net", "--quality", "Net"], "--quality Net must be NAME=NUMBER"),
        (["my_models:Net", "--quality", "Nut=1"], "quality is missing for 'Net'"),
    ],
)
def test_advice_that_cannot_be(
    models: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["advise", *arguments, *TRAINING, "--batch", "32x8"]) == 1
    assert said in capsys.readouterr().err
