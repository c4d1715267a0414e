"""The code in the README runs, and its figures are those that it gives."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from energyest import EnergyTrace, PlannedChange, estimate_step
from energyest.display import format_energy

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.skipif(not README.exists(), reason="the tests run without the README")
def test_figures_of_the_notebook_example() -> None:
    text = README.read_text(encoding="utf-8")
    made = re.search(r"^trace = (EnergyTrace\.from_epochs\(.*\))$", text, re.MULTILINE)
    assert made is not None
    trace = eval(made[1], {"EnergyTrace": EnergyTrace})
    shown = re.findall(r"^(estimate_step\(trace, .*\))  # (.*)$", text, re.MULTILINE)
    assert len(shown) == 2
    names = {"estimate_step": estimate_step, "trace": trace, "PlannedChange": PlannedChange}
    for code, comment in shown:
        estimate = eval(code, names)
        assert comment.startswith(format_energy(estimate.energy_J))
        if "interval" in comment:
            low, high = format_energy(estimate.lower_J), format_energy(estimate.upper_J)
            assert comment.endswith(f"90 % interval {low} to {high}")


@pytest.mark.skipif(not README.exists(), reason="the tests run without the README")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_hugging_face_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    from tests.support.huggingface import encoder, samples

    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "EnergyCallback" in block]
    assert len([line for line in code.splitlines() if line]) <= 8
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_DISABLED", "true")
    exec(code, names := {"model": encoder(), "data": samples()})
    assert list(names["callback"].trace.column("samples")) == 3 * [16]
    assert (tmp_path / "out/energy/meta.json").exists()
    assert "for 3 epochs in" in capsys.readouterr().out


def test_the_hugging_face_script_runs(tmp_path: Path) -> None:
    script = README.parent / "examples/huggingface.py"
    if not script.exists():
        pytest.skip("the tests run without the examples")
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("huggingface_example", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    trace = module.main(["--epochs", "2", "--texts", "32", "--folder", str(tmp_path)])
    assert list(trace.column("samples")) == [32, 32]
    assert (trace.column("validation_s") > 0).all()
