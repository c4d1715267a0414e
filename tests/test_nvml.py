"""GPUs as `detect` finds them: the real pynvml, on a simulated driver."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pynvml
import pytest

from energyest.errors import ConfigurationError
from energyest.measure.sensors import Detection, Reading, detect
from energyest.measure.sensors.nvml import NvmlSensor
from simulation.fake_nvml import FakeNvml

# Arguments of FakeNvml.fail and FakeNvml.calls.
Question = dict[str, Any]
INSTANT: Question = {
    "function": "nvmlDeviceGetFieldValues",
    "field": pynvml.NVML_FI_DEV_POWER_INSTANT,
}
ALL_FIELDS: Question = {"function": "nvmlDeviceGetFieldValues"}
AVERAGE: Question = {"function": "nvmlDeviceGetPowerUsage"}
COUNTER: Question = {"function": "nvmlDeviceGetTotalEnergyConsumption"}
UTILIZATION: Question = {"function": "nvmlDeviceGetUtilizationRates"}
MEMORY: Question = {"function": "nvmlDeviceGetMemoryInfo"}
TEMPERATURE: Question = {"function": "nvmlDeviceGetTemperature"}
# What has to fail for a quantity to be missing.
QUESTIONS = {
    "power_W": [INSTANT, AVERAGE],
    "energy_J": [COUNTER],
    "utilization": [UTILIZATION],
    "memory_bytes": [MEMORY],
    "temperature_C": [TEMPERATURE],
}
# What a reading asks for while the board supports everything.
ASKED = {**QUESTIONS, "power_W": [INSTANT]}

UNSUPPORTED = [
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NO_PERMISSION,
]
TRANSIENT = [
    pynvml.NVML_ERROR_UNKNOWN,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_TIMEOUT,
]
GIB = 2**30
# pynvml asks for the first version of NVML's memory info, which counts this as used.
RESERVED_BYTES = 512 * 2**20
UUIDS = [
    "GPU-8d3f1b62-54c9-7ae0-91d7-2f06c3b8e415",
    "GPU-1c97e0a4-b2d8-43f5-8e6b-90f1a7d3c258",
    "GPU-f40b6d19-7a3e-c581-24f9-d8e15b07a36c",
    "GPU-6e25a8f7-0d91-b4c3-a718-3c9fe2d4500b",
]


@pytest.fixture
def busy(nvml: FakeNvml) -> FakeNvml:
    """GPU 0 works: none of its quantities is 0, and its average power lags behind."""
    nvml.set_power(0, watts=500)
    nvml.set_average_power(0, watts=420)
    nvml.set_utilization(0, gpu=97, memory=41)
    nvml.set_memory(0, used=10 * GIB)
    nvml.set_temperature(0, celsius=66)
    return nvml


@pytest.fixture
def sensor(busy: FakeNvml) -> Iterator[NvmlSensor]:
    sensor = NvmlSensor(0)
    yield sensor
    sensor.close()


def detect_gpus(gpus: list[int | str] | None = None) -> Detection:
    return detect(gpus, components=("gpu",))


def indices(detection: Detection) -> list[int]:
    return [sensor.device.details["index"] for sensor in detection]


def missing(reading: Reading) -> set[str]:
    return {quantity for quantity in QUESTIONS if math.isnan(getattr(reading, quantity))}


# What is read


def test_readings_of_two_gpus(busy: FakeNvml) -> None:
    busy.freeze_counter(0)
    busy.set_counter(0, joules=5_000_000.25)
    busy.set_power(1, watts=71.5)
    busy.freeze_counter(1)
    busy.set_counter(1, joules=0.125)

    first, second = detect_gpus()

    assert first.read(12.5) == Reading(
        12.5, "gpu:0", 500.0, 5_000_000.25, 0.97, 10 * GIB + RESERVED_BYTES, 66.0
    )
    assert second.read(13.0) == Reading(13.0, "gpu:1", 71.5, 0.125, 0.0, RESERVED_BYTES, 31.0)


def test_what_a_trace_will_say_of_a_gpu(nvml: FakeNvml) -> None:
    nvml.set_name(1, "NVIDIA A100-SXM4-40GB")
    nvml.set_power_limit(1, watts=350, enforced_watts=300, default_watts=400)
    nvml.set_memory(1, used=0, total=40 * GIB)

    assert detect_gpus([1])[0].device.as_meta() == {
        "device": "gpu:1",
        "kind": "gpu",
        "name": "NVIDIA A100-SXM4-40GB",
        "source": "measured",
        "method": "NVML, energy counter and instant power",
        "power_limit_W": 300.0,  # the enforced one: what the board really keeps to
        "memory_bytes": 40 * GIB,
        "uuid": UUIDS[1],
        "index": 1,
        "pci_bus_id": "00000000:3B:00.0",
        "driver_version": "580.95.05",
    }


def test_what_cannot_be_said_of_a_gpu_is_left_out(nvml: FakeNvml) -> None:
    for function in (
        "nvmlDeviceGetName",
        "nvmlDeviceGetPciInfo_v3",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlSystemGetDriverVersion",
        "nvmlDeviceGetMemoryInfo",
    ):
        nvml.fail(function, code=pynvml.NVML_ERROR_NOT_SUPPORTED)

    assert detect_gpus()[0].device.as_meta() == {
        "device": "gpu:0",
        "kind": "gpu",
        "name": "GPU 0",
        "source": "measured",
        "method": "NVML, energy counter and instant power",
        "uuid": UUIDS[0],
        "index": 0,
    }


def test_instant_power_is_preferred_and_the_average_not_asked_for(
    busy: FakeNvml, sensor: NvmlSensor
) -> None:
    assert sensor.read(0.0).power_W == 500.0
    assert busy.calls(**AVERAGE) == 0


@pytest.mark.parametrize(
    ("question", "code"),
    [
        # A driver that does not know the field refuses it alone; an old one has no such call.
        (INSTANT, pynvml.NVML_ERROR_NOT_SUPPORTED),
        (INSTANT, pynvml.NVML_ERROR_INVALID_ARGUMENT),
        (ALL_FIELDS, pynvml.NVML_ERROR_NOT_SUPPORTED),
        (ALL_FIELDS, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND),
    ],
)
def test_average_power_where_there_is_no_instant_power(
    busy: FakeNvml, question: Question, code: int
) -> None:
    busy.fail(**question, code=code, device=0)
    first, second = detect_gpus()

    assert first.read(0.0).power_W == 420.0
    assert first.device.method == "NVML, energy counter and average power"
    assert second.device.method == "NVML, energy counter and instant power"


@pytest.mark.parametrize("code", UNSUPPORTED)
@pytest.mark.parametrize("quantity", QUESTIONS)
def test_what_a_board_does_not_support_is_asked_for_once(
    busy: FakeNvml, quantity: str, code: int
) -> None:
    for question in QUESTIONS[quantity]:
        busy.fail(**question, code=code, device=0)
    first, second = detect_gpus()
    readings = [first.read(time_s) for time_s in (0.0, 0.1, 0.2)]

    assert [missing(reading) for reading in readings] == 3 * [{quantity}]
    # The size of the memory comes with the memory in use, and is another question.
    once = 2 if quantity == "memory_bytes" else 1
    assert [busy.calls(**q, device=0) for q in QUESTIONS[quantity]] == [
        once for _ in QUESTIONS[quantity]
    ]
    assert not missing(second.read(0.0))


def test_a_board_without_a_counter_says_so(busy: FakeNvml) -> None:
    busy.fail(**COUNTER, code=pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert NvmlSensor(0).device.method == "NVML, instant power"


# Failures


@pytest.mark.parametrize("code", TRANSIENT)
@pytest.mark.parametrize("quantity", ASKED)
def test_a_failure_at_the_start_does_not_drop_a_quantity(
    busy: FakeNvml, quantity: str, code: int
) -> None:
    for question in ASKED[quantity]:
        busy.fail(**question, code=code, device=0, times=1)
    reading = NvmlSensor(0).read(0.0)

    assert not missing(reading)
    assert reading.power_W == 500.0  # no lasting retreat to the average either


@pytest.mark.parametrize("code", TRANSIENT)
@pytest.mark.parametrize("quantity", ASKED)
def test_a_failed_reading_is_nan_for_its_quantity_alone(
    busy: FakeNvml, sensor: NvmlSensor, quantity: str, code: int
) -> None:
    for question in ASKED[quantity]:
        busy.fail(**question, code=code, device=0, times=2)
    readings = [sensor.read(time_s) for time_s in (0.0, 0.1, 0.2)]

    assert [missing(reading) for reading in readings] == [{quantity}, {quantity}, set()]


def test_a_lost_gpu_leaves_the_other_alone(busy: FakeNvml) -> None:
    lost, other = detect_gpus([1, 0])
    for question in (INSTANT, AVERAGE, COUNTER, UTILIZATION, MEMORY, TEMPERATURE):
        busy.fail(**question, code=pynvml.NVML_ERROR_GPU_IS_LOST, device=1)

    assert missing(lost.read(0.0)) == set(QUESTIONS)
    assert not missing(other.read(0.0))


# Machines that lack something


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "NVML Shared Library Not Found"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "Driver Not Loaded"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "Insufficient Permissions"),
        # After an update of the driver, until the next boot.
        (
            pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
            "RM has detected an NVML/RM version mismatch.",
        ),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown Error"),
    ],
)
def test_nvml_that_does_not_start_is_noted(nvml: FakeNvml, code: int, reason: str) -> None:
    nvml.fail("nvmlInitWithFlags", code=code)
    detection = detect()

    assert [sensor.device.kind for sensor in detection] == ["cpu", "ram"]
    assert f"no GPU is measured: {reason}" in detection.notes


def test_gpus_that_cannot_be_counted_are_noted(nvml: FakeNvml) -> None:
    nvml.fail("nvmlDeviceGetCount_v2", code=pynvml.NVML_ERROR_UNKNOWN)
    detection = detect_gpus()
    assert len(detection) == 0
    assert detection.notes == ("no GPU is measured: Unknown Error",)


def test_a_driver_without_gpus_is_noted(nvml: FakeNvml) -> None:
    nvml.set_device_count(0)
    detection = detect_gpus()
    assert len(detection) == 0
    assert detection.notes == ("no GPU is measured: NVML knows none on this machine",)


@pytest.mark.parametrize("gpus", [None, [0, 1], [1, 0]])
def test_a_gpu_that_cannot_be_reached_is_noted(
    nvml: FakeNvml, gpus: list[int | str] | None
) -> None:
    nvml.fail("nvmlDeviceGetHandleByIndex_v2", code=pynvml.NVML_ERROR_GPU_IS_LOST, device=0)
    detection = detect_gpus(gpus)
    assert indices(detection) == [1]
    assert detection.notes == ("GPU 0 is not measured: GPU is lost",)


def test_no_gpu_that_can_be_reached(nvml: FakeNvml) -> None:
    nvml.fail("nvmlDeviceGetHandleByIndex_v2", code=pynvml.NVML_ERROR_NO_PERMISSION)
    detection = detect_gpus()
    assert len(detection) == 0
    assert [note[:22] for note in detection.notes] == [
        "GPU 0 is not measured:",
        "GPU 1 is not measured:",
    ]


def test_a_gpu_that_is_lost_after_it_was_listed_is_noted(nvml: FakeNvml) -> None:
    # The second call for its handle is the one that fails.
    nvml.fail(
        "nvmlDeviceGetHandleByIndex_v2", code=pynvml.NVML_ERROR_GPU_IS_LOST, device=1, every=2
    )
    detection = detect_gpus()
    assert indices(detection) == [0]
    assert detection.notes == (f"GPU 1 ({UUIDS[1]}) is not measured: GPU is lost",)


def test_a_gpu_without_uuid_is_measured(nvml: FakeNvml) -> None:
    nvml.fail("nvmlDeviceGetUUID", code=pynvml.NVML_ERROR_UNKNOWN, device=1)
    detection = detect_gpus()
    assert indices(detection) == [0, 1]
    assert "uuid" not in detection[1].device.as_meta()


def test_a_process_without_any_nvml() -> None:
    # In this process the simulated library is loaded; a new one looks for the machine's own.
    script = (
        "from energyest.measure.sensors import detect\n"
        "found = detect(components=('gpu',))\n"
        "print(len(found), len(found.notes))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    gpus, notes = map(int, result.stdout.split())
    assert gpus > 0 or notes == 1


def test_an_unknown_component_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"\['tpu'\].*'gpu', 'cpu', 'ram', 'module' or 'system'"
    ):
        detect(components=("gpu", "tpu"))  # type: ignore[arg-type]


# Which GPUs


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("0", [0]),
        ("3,1", [3, 1]),
        (" 2 , 0 ", [2, 0]),
        (UUIDS[2], [2]),
        (f"{UUIDS[3]},{UUIDS[0]}", [3, 0]),
        ("GPU-f40b", [2]),
        ("GPU-f,GPU-8d3f1b62-54c9", [2, 0]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),  # Slurm's word for none
        # CUDA reads up to the first entry that names no GPU.
        ("1,-1,2", [1]),
        ("0,7,1", [0]),
        ("0,,1", [0]),
        ("GPU-f40b,GPU-00,GPU-8d3f", [2]),
        ("GPU-", []),  # fits them all
        # A GPU that comes twice before that makes the whole list void.
        ("1,1", []),
        ("0,1,0", []),
        (f"{UUIDS[1]},GPU-1c97", []),
        ("1,-1,1", [1]),
    ],
)
def test_cuda_visible_devices(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, visible: str, expected: list[int]
) -> None:
    nvml.set_device_count(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    detection = detect_gpus()

    assert indices(detection) == expected
    assert any("CUDA_VISIBLE_DEVICES" in note for note in detection.notes) == (not expected)


def test_a_gpu_keeps_its_number_when_one_before_it_is_lost(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml.fail("nvmlDeviceGetHandleByIndex_v2", code=pynvml.NVML_ERROR_GPU_IS_LOST, device=0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    detection = detect_gpus()
    assert indices(detection) == [1]
    assert detection.notes == ()


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        ([1], [1]),
        ([3, 0], [3, 0]),
        (["2"], [2]),
        ([UUIDS[2], 1], [2, 1]),
        (["GPU-6e25"], [3]),
        ([1, 1, UUIDS[1]], [1]),  # asked for twice, measured once
        ([], []),
    ],
)
def test_gpus_by_index_and_uuid(
    nvml: FakeNvml,
    monkeypatch: pytest.MonkeyPatch,
    gpus: list[int | str],
    expected: list[int],
) -> None:
    nvml.set_device_count(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # who names GPUs means these
    detection = detect_gpus(gpus)
    assert indices(detection) == expected
    assert detection.notes == ()


@pytest.mark.parametrize("gpu", [2, -1, "GPU-00", "GPU-", UUIDS[2], "first", ""])
def test_a_gpu_that_is_not_there_is_noted(nvml: FakeNvml, gpu: int | str) -> None:
    detection = detect_gpus([gpu, 1])
    assert indices(detection) == [1]
    (note,) = detection.notes
    assert repr(gpu) in note
    assert "2 GPU(s)" in note


# Letting go


def assert_nvml_is_released(nvml: FakeNvml) -> None:
    assert nvml.calls("nvmlInitWithFlags") == nvml.calls("nvmlShutdown") > 0
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


def test_close_releases_nvml(nvml: FakeNvml) -> None:
    detection = detect()
    assert pynvml.nvmlDeviceGetCount() == 2  # held while the sensors are in use
    detection.close()
    assert_nvml_is_released(nvml)


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetCount_v2",
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetTotalEnergyConsumption",
    ],
)
def test_failures_hold_nothing(nvml: FakeNvml, function: str) -> None:
    nvml.fail(function, code=pynvml.NVML_ERROR_UNKNOWN)
    detect_gpus().close()
    assert_nvml_is_released(nvml)


def test_closing_twice_takes_nvml_from_nobody(nvml: FakeNvml) -> None:
    pynvml.nvmlInit()  # somebody else's
    detection = detect_gpus()
    detection.close()
    detection.close()
    assert pynvml.nvmlDeviceGetCount() == 2
