"""`energyest doctor`: what it finds, what it advises, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pynvml
import pytest

from energyest.cli import main
from energyest.cli.exits import Exit
from energyest.measure.sensors.kernel import rapl
from simulation.fake_nvml import FakeNvml


def doctor(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    status = main(["doctor", "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["exit_status"] == status
    return status, found


def finding(found: dict[str, Any], topic: str) -> dict[str, str]:
    seen: dict[str, str] = next(one for one in found["findings"] if one["topic"] == topic)
    return seen


def test_all_gpus_are_measured(nvml: FakeNvml, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = doctor(capsys)
    assert status == Exit.OK
    assert found["verdict"] == "All 2 GPUs of this process are measured."
    assert finding(found, "gpu:0")["state"] == "ok"
    assert finding(found, "driver")["text"].startswith("NVIDIA driver ")
    assert {"energyest", "python", "numpy", "torch"} <= found["versions"].keys()


def test_a_machine_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = doctor(capsys)
    assert status == Exit.NO_GPU
    assert found["verdict"].startswith("There is no GPU to measure; processors are ")
    seen = finding(found, "driver")
    assert seen["state"] == "missing"
    assert "install its driver" in seen["remedy"]


def test_a_gpu_that_cannot_be_read(nvml: FakeNvml, capsys: pytest.CaptureFixture[str]) -> None:
    for function in (
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetTotalEnergyConsumption",
    ):
        nvml.fail(function, device=1, code=pynvml.NVML_ERROR_NOT_SUPPORTED)
    status, found = doctor(capsys)
    assert status == Exit.UNMEASURED
    assert found["verdict"].startswith("gpu:1 cannot be measured")
    assert finding(found, "gpu:1")["state"] == "missing"
    assert [one["source"] for one in found["devices"][:2]] == ["measured", "not measured"]


def test_a_gpu_without_an_energy_counter(
    nvml: FakeNvml, capsys: pytest.CaptureFixture[str]
) -> None:
    nvml.fail("nvmlDeviceGetTotalEnergyConsumption", code=pynvml.NVML_ERROR_NOT_SUPPORTED)
    status, found = doctor(capsys)
    assert status == Exit.OK
    assert "no energy counter" in finding(found, "gpu:0")["text"]


def test_gpus_that_are_hidden(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    status, found = doctor(capsys)
    assert status == Exit.NO_GPU
    assert finding(found, "environment")["text"] == "CUDA_VISIBLE_DEVICES=-1"
    assert "CUDA_VISIBLE_DEVICES leaves none" in finding(found, "GPUs")["text"]


def test_mig(nvml: FakeNvml, capsys: pytest.CaptureFixture[str]) -> None:
    nvml.set_mig(0, enabled=True)
    _, found = doctor(capsys)
    texts = [one["text"] for one in found["findings"] if one["topic"] == "gpu:0"]
    assert any("MIG is on" in text for text in texts)


def test_counters_that_root_alone_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "name").write_text("package-0\n")
    (package / "max_energy_range_uj").write_text("1000000\n")
    (package / "energy_uj").mkdir()  # root may read any file
    monkeypatch.setattr(rapl, "RAPL_ROOT", tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: "energy_uj" not in str(path))
    _, found = doctor(capsys)
    seen = finding(found, "processors")
    assert seen["state"] == "missing"
    assert str(package / "energy_uj") in seen["text"]
    assert "/etc/udev/rules.d/" in seen["remedy"]
    assert 'SUBSYSTEM=="powercap"' in seen["remedy"]


def test_settings_and_where_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.energyest]\ncarbon_intensity = "DE"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENERGYEST_PUE", "1.3")
    monkeypatch.setenv("ENERGYEST_QUIET", "perhaps")
    status = main(["doctor", "--json"])
    captured = capsys.readouterr()
    rows = {row["setting"]: row for row in json.loads(captured.out)["settings"]}
    assert status == Exit.NO_GPU
    assert rows["carbon_intensity"]["value"] == "DE"
    assert rows["carbon_intensity"]["from"].endswith("pyproject.toml [tool.energyest]")
    assert (rows["pue"]["value"], rows["pue"]["from"]) == (1.3, "the environment (ENERGYEST_...)")
    assert (rows["quiet"]["value"], rows["quiet"]["from"]) == (False, "default")
    assert "note: the environment (ENERGYEST_...): quiet='perhaps' must be" in captured.err


def test_libraries_that_are_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.metadata as metadata

    known = metadata.version

    def version(name: str) -> str:
        if name == "matplotlib":
            raise metadata.PackageNotFoundError(name)
        try:
            return known(name)
        except metadata.PackageNotFoundError:  # as torch may be
            return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    _, found = doctor(capsys)
    assert found["versions"]["matplotlib"] is None
    seen = finding(found, "library")
    assert "matplotlib" in seen["text"]
    assert seen["remedy"] == "pip install matplotlib"
    assert main(["doctor"]) == Exit.NO_GPU
    assert "    pip install matplotlib" in capsys.readouterr().out.splitlines()
