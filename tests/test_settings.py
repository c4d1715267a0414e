"""Settings from arguments, the environment and pyproject.toml: precedence and refusals."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path

import pytest

from energyest import track
from energyest.errors import ConfigurationError, EnergyestError
from energyest.settings import Settings, setting, settings
from energyest.summary import summary_of
from tests.support.sensors import Constant


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")


def write(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)


def test_without_any_the_defaults_hold() -> None:
    assert settings() == Settings()


def test_argument_then_environment_then_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, '[tool.energyest]\nfolder = "runs"\npue = 1.2\ncarbon_intensity = "FR"\n')
    monkeypatch.setenv("ENERGYEST_PUE", "1.3")
    monkeypatch.setenv("ENERGYEST_CARBON_INTENSITY", "400")
    monkeypatch.setenv("ENERGYEST_QUIET", "yes")
    found = settings(pue=None, carbon_intensity="DE")
    # A path in a file is meant from where the file lies.
    assert found == Settings(str(tmp_path / "runs"), "DE", 1.3, True)
    assert settings(quiet=False).quiet is False


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("PUE", "0.5", "pue=0.5 must be 1 or more"),
        ("PUE", "much", "must be a number"),
        ("QUIET", "perhaps", "quiet='perhaps' must be true or false"),
        ("CARBON_INTENSITY", "Atlantis", "unknown country"),
        ("FOLDER", "s3://bucket/x", "must be a local path"),
        (
            "FOLDR",
            "x",
            "unknown setting 'foldr': the settings are folder, carbon_intensity, pue, quiet",
        ),
    ],
)
def test_what_cannot_be_is_left_out_and_named(
    name: str,
    value: str,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(f"ENERGYEST_{name}", value)
    assert settings() == Settings()
    (record,) = caplog.records
    assert "the environment" in record.getMessage()
    assert what in record.getMessage()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[tool.energyest]\nspeed = 3", "unknown setting 'speed'"),
        ("[tool.energyest]\npue = true", "must be a number"),
        ("[tool.energyest]\nfolder = 3", "folder=3 must be a path"),
        ("[tool]\nenergyest = 3", "must be a table"),
        ("[tool.energyest\n", "settings in pyproject.toml are ignored"),
        ("# energyest" + 2**20 * " ", "larger than 1 MiB"),
    ],
)
def test_a_file_that_cannot_be_is_named(
    text: str, what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, text)
    assert settings() == Settings()
    (record,) = caplog.records
    assert "pyproject.toml" in record.getMessage()
    assert what in record.getMessage()


def test_one_setting_is_that_of_all_and_warns_of_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert setting("project") is None
    write(tmp_path, '[tool.energyest]\nproject = "speech"\npue = 0.5\nrecord_user = false')
    assert (setting("project"), setting("pue"), setting("record_user")) == ("speech", 1.0, False)
    monkeypatch.setenv("ENERGYEST_PROJECT", "vision")
    monkeypatch.setenv("ENERGYEST_RECORD_USER", "perhaps")
    assert (setting("project"), setting("record_user")) == ("vision", False)
    assert not caplog.records
    assert (settings().project, settings().record_user) == ("vision", False)
    assert len(caplog.records) == 2 * 2  # what is invalid is said by each of the two calls


def test_a_file_of_others_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "this is [no TOML")
    assert settings() == Settings()
    assert not caplog.records


@pytest.mark.parametrize("wrong", [{"pue": 0.5}, {"quiet": 3}, {"carbon_intensity": "Atlantis"}])
def test_an_argument_that_cannot_be_is_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(EnergyestError):
        track(sensors=[], **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        track("s3://bucket", sensors=[])


def test_a_trace_goes_where_the_setting_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENERGYEST_FOLDER", str(tmp_path / "all"))
    with track(sensors=[]) as run:
        assert run.folder == tmp_path / "all"
    with track(tmp_path / "own", sensors=[]) as run:
        assert run.folder == tmp_path / "own"


def test_without_logging_the_summary_is_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger("energyest"), "propagate", False)
    with track(sensors=[]) as run:
        for _ in run.epochs(1):
            pass
    assert "energyest: 1 epoch in" in capsys.readouterr().err
    with track(sensors=[], quiet=True):
        pass
    assert not capsys.readouterr().err


def test_what_is_modelled_after_a_checkpoint() -> None:
    """The earlier part's energy is in the total, and in no device."""

    def sensors() -> list[Constant]:
        sensor = Constant(100.0, "cpu:0")
        sensor.device = replace(sensor.device, source="modelled")
        return [sensor]

    with track(sensors=sensors(), quiet=True) as first:
        for _ in first.epochs(2):
            time.sleep(0.02)
    second = track(sensors=sensors(), quiet=True)
    second.load_state_dict(first.state_dict())
    with second:
        for _ in second.epochs(4):
            time.sleep(0.02)
    assert len(second.trace) == 4
    assert "modelled 100 % since the checkpoint" in summary_of(second.trace)
    assert "modelled 100 %" in summary_of(first.trace)
