"""The simulated NVML behaves, through the real pynvml, as NVML does."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest

from simulation.fake_nvml import FakeNvml, build, compiler_available, environment

pytestmark = pytest.mark.skipif(not compiler_available(), reason="needs Linux and a C compiler")

POWER_INSTANT = pynvml.NVML_FI_DEV_POWER_INSTANT
POWER_AVERAGE = pynvml.NVML_FI_DEV_POWER_AVERAGE
TOTAL_ENERGY = pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def fake(library: Path) -> Iterator[FakeNvml]:
    """A simulated driver as it is at first, already initialised."""
    fake = FakeNvml(library)
    pynvml.nvmlInit()
    yield fake
    fake.remove()


def gpu(index: int) -> Any:
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def power(index: int) -> int:
    return int(pynvml.nvmlDeviceGetPowerUsage(gpu(index)))


def energy(index: int) -> int:
    return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu(index)))


def clocked(action: Callable[[], Any]) -> tuple[Any, float, float]:
    """The action's result, and the two instants between which it happened."""
    before = time.monotonic()
    result = action()
    return result, before, time.monotonic()


# What the machine is


def test_identity_of_the_default_machine(fake: FakeNvml) -> None:
    assert pynvml.nvmlSystemGetDriverVersion() == "580.95.05"
    assert pynvml.nvmlSystemGetNVMLVersion() == "13.580.95.05"
    assert pynvml.nvmlDeviceGetCount() == 2
    assert pynvml.nvmlDeviceGetName(gpu(0)) == "NVIDIA H100 80GB HBM3"
    assert pynvml.nvmlDeviceGetMemoryInfo(gpu(0)).total == 81559 * 2**20
    assert pynvml.nvmlDeviceGetNumGpuCores(gpu(0)) == 16896
    assert pynvml.nvmlDeviceGetMemoryBusWidth(gpu(0)) == 5120
    assert pynvml.nvmlDeviceGetCudaComputeCapability(gpu(0)) == (9, 0)
    assert pynvml.nvmlDeviceGetMaxClockInfo(gpu(0), pynvml.NVML_CLOCK_SM) == 1980
    assert pynvml.nvmlDeviceGetMaxClockInfo(gpu(0), pynvml.NVML_CLOCK_MEM) == 2619
    assert pynvml.nvmlDeviceGetMigMode(gpu(0)) == [0, 0]
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(gpu(0)) == []
    for limit in (
        pynvml.nvmlDeviceGetPowerManagementLimit,
        pynvml.nvmlDeviceGetEnforcedPowerLimit,
        pynvml.nvmlDeviceGetPowerManagementDefaultLimit,
    ):
        assert limit(gpu(1)) == 700_000


def test_eight_gpus_are_distinct_and_found_by_every_name(fake: FakeNvml) -> None:
    fake.set_device_count(8)
    uuids = [pynvml.nvmlDeviceGetUUID(gpu(i)) for i in range(8)]
    buses = [pynvml.nvmlDeviceGetPciInfo(gpu(i)).busId for i in range(8)]

    assert len(set(uuids)) == len(set(buses)) == 8
    assert all([len(part) for part in uuid.split("-")] == [3, 8, 4, 4, 4, 12] for uuid in uuids)
    assert buses[0] == "00000000:19:00.0"
    assert pynvml.nvmlDeviceGetPciInfo(gpu(0)).busIdLegacy == "0000:19:00.0"
    for i in range(8):
        assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(uuids[i])) == i
        assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByPciBusId(buses[i])) == i


def test_gpus_that_are_not_there(fake: FakeNvml) -> None:
    fake.set_device_count(2)
    last_uuid, last_handle = pynvml.nvmlDeviceGetUUID(gpu(1)), gpu(1)
    fake.set_device_count(1)

    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        gpu(1)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetName(last_handle)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID(last_uuid)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-none")
    with pytest.raises(ValueError, match="fake_set_power"):
        fake.set_power(1, watts=100)


def test_what_is_set_is_what_is_read(fake: FakeNvml) -> None:
    fake.set_name(1, "NVIDIA A100-SXM4-40GB")
    fake.set_utilization(1, gpu=97, memory=41)
    fake.set_temperature(1, celsius=66)
    fake.set_memory(1, used=10 * 2**30, total=40 * 2**30)
    fake.set_power_limit(1, watts=350, enforced_watts=300, default_watts=400)
    fake.set_chip(1, cores=6912, sm_MHz=1410, memory_MHz=1215, bus_bits=5184, capability=(12, 1))
    fake.set_mig(0, enabled=True)
    fake.add_process(1, pid=4711, used_bytes=9 * 2**30)
    fake.add_process(1, pid=4712, used_bytes=2**30)

    assert pynvml.nvmlDeviceGetName(gpu(1)) == "NVIDIA A100-SXM4-40GB"
    assert pynvml.nvmlDeviceGetNumGpuCores(gpu(1)) == 6912
    assert pynvml.nvmlDeviceGetMemoryBusWidth(gpu(1)) == 5184
    assert pynvml.nvmlDeviceGetCudaComputeCapability(gpu(1)) == (12, 1)
    clocks = (pynvml.NVML_CLOCK_GRAPHICS, pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM)
    mhz = [pynvml.nvmlDeviceGetMaxClockInfo(gpu(1), clock) for clock in clocks]
    assert mhz == [1410, 1410, 1215]
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetMaxClockInfo(gpu(1), 9)
    utilization = pynvml.nvmlDeviceGetUtilizationRates(gpu(1))
    assert (utilization.gpu, utilization.memory) == (97, 41)
    assert pynvml.nvmlDeviceGetTemperature(gpu(1), pynvml.NVML_TEMPERATURE_GPU) == 66
    if hasattr(pynvml, "nvmlDeviceGetTemperatureV"):  # not in the oldest pynvml supported
        assert pynvml.nvmlDeviceGetTemperatureV(gpu(1), pynvml.NVML_TEMPERATURE_GPU) == 66
    assert pynvml.nvmlDeviceGetPowerManagementLimit(gpu(1)) == 350_000
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu(1)) == 300_000
    assert pynvml.nvmlDeviceGetPowerManagementDefaultLimit(gpu(1)) == 400_000
    assert pynvml.nvmlDeviceGetMigMode(gpu(0)) == [1, 1]
    processes = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu(1))
    assert [(p.pid, p.usedGpuMemory) for p in processes] == [(4711, 9 * 2**30), (4712, 2**30)]


def test_both_versions_of_memory_info_agree(fake: FakeNvml) -> None:
    fake.set_memory(0, used=3 * 2**30)
    v1 = pynvml.nvmlDeviceGetMemoryInfo(gpu(0))
    v2 = pynvml.nvmlDeviceGetMemoryInfo(gpu(0), version=pynvml.nvmlMemory_v2)

    assert v2.used == 3 * 2**30
    assert v1.used == v2.used + v2.reserved
    assert v1.free == v2.free == v2.total - v2.used - v2.reserved
    with pytest.raises(pynvml.NVMLError_ArgumentVersionMismatch):
        pynvml.nvmlDeviceGetMemoryInfo(gpu(0), version=1)


def test_mig_devices(fake: FakeNvml) -> None:
    uuids = [f"MIG-{i}5c8a1b2-1d3f-5b7e-9a02-c4e6f8b0d241" for i in range(2)]
    with pytest.raises(ValueError, match="fake_add_mig_device"):
        fake.add_mig_device(1, uuids[0])
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu(1)) == 0
    fake.set_mig(1, enabled=True)
    for uuid in uuids:
        fake.add_mig_device(1, uuid)

    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu(1)) == 7
    for number, uuid in enumerate(uuids):
        mig = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu(1), number)
        assert pynvml.nvmlDeviceGetUUID(mig) == uuid
        for handle in (mig, pynvml.nvmlDeviceGetHandleByUUID(uuid)):
            whole = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            assert pynvml.nvmlDeviceGetIndex(whole) == 1
            for ask in (
                pynvml.nvmlDeviceGetPowerUsage,
                pynvml.nvmlDeviceGetTotalEnergyConsumption,
                lambda handle: pynvml.nvmlDeviceGetFieldValues(handle, [POWER_INSTANT]),
            ):
                with pytest.raises(pynvml.NVMLError_NotSupported):
                    ask(handle)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu(1), 2)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu(0), 0)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(gpu(1))
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetUtilizationRates(gpu(1))
    assert power(1) == 70_000
    fake.set_mig(1, enabled=False)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID(uuids[0])


# Power and energy


def test_counter_is_the_integral_of_power(fake: FakeNvml) -> None:
    fake.set_power(0, watts=300)
    first, first_from, first_to = clocked(lambda: energy(0))
    time.sleep(0.1)
    middle, middle_from, middle_to = clocked(lambda: energy(0))
    _, set_from, set_to = clocked(lambda: fake.set_power(0, watts=650.5))
    time.sleep(0.1)
    last, last_from, last_to = clocked(lambda: energy(0))

    # The bounds come from the clock, so they hold however busy the machine is. The counter counts
    # whole millijoules, which makes a difference of two inexact by one.
    at_300, at_650 = (middle - first) / 1000, (last - middle) / 1000
    assert at_300 >= 300 * (middle_from - first_to) - 0.001
    assert at_300 <= 300 * (middle_to - first_from) + 0.001
    assert at_650 >= 300 * (set_from - middle_to) + 650.5 * (last_from - set_to) - 0.001
    assert at_650 <= 300 * (set_to - middle_from) + 650.5 * (last_to - set_from) + 0.001


def test_average_power_follows_unless_set(fake: FakeNvml) -> None:
    fake.set_power(0, watts=500)
    assert power(0) == 500_000
    fake.set_average_power(0, watts=420)
    fields = pynvml.nvmlDeviceGetFieldValues(gpu(0), [POWER_INSTANT, POWER_AVERAGE])
    assert [field.value.uiVal for field in fields] == [500_000, 420_000]
    assert power(0) == 420_000
    fake.set_average_power(0, watts=None)
    assert power(0) == 500_000


def test_counter_by_hand(fake: FakeNvml) -> None:
    assert energy(0) > 1e6  # a driver's counter does not start when we begin to look
    fake.freeze_counter(0)
    fake.set_counter(0, joules=5e6)
    time.sleep(0.01)
    assert energy(0) == 5_000_000_000
    fake.shift_counter(0, joules=-1000.5)
    assert energy(0) == 4_998_999_500
    fake.shift_counter(0, joules=-1e9)
    assert energy(0) == 0
    fake.set_power(0, watts=700)
    time.sleep(0.01)
    assert energy(0) == 0
    fake.freeze_counter(0, False)
    time.sleep(0.01)
    assert 0 < energy(0) < 700_000 * 60  # the time while it was frozen is not made up for


def test_fields_have_types_and_codes_of_their_own(fake: FakeNvml) -> None:
    fake.freeze_counter(1)
    fake.set_counter(1, joules=2**33)
    fake.set_power(1, watts=123)
    fake.fail(
        "nvmlDeviceGetFieldValues",
        device=1,
        field=POWER_AVERAGE,
        code=pynvml.NVML_ERROR_GPU_IS_LOST,
    )
    unknown, module = 9999, (POWER_INSTANT, pynvml.NVML_POWER_SCOPE_MODULE)
    instant, average, total, none, scoped = pynvml.nvmlDeviceGetFieldValues(
        gpu(1), [POWER_INSTANT, POWER_AVERAGE, TOTAL_ENERGY, unknown, module]
    )

    assert (instant.nvmlReturn, instant.value.uiVal) == (pynvml.NVML_SUCCESS, 123_000)
    assert instant.valueType == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
    assert instant.timestamp / 1e6 == pytest.approx(time.time(), abs=60)
    assert average.nvmlReturn == pynvml.NVML_ERROR_GPU_IS_LOST
    assert (total.nvmlReturn, total.value.ullVal) == (pynvml.NVML_SUCCESS, 2**33 * 1000)
    assert total.valueType == pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
    assert none.nvmlReturn == scoped.nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert pynvml.nvmlDeviceGetFieldValues(gpu(0), [POWER_AVERAGE])[0].nvmlReturn == 0
    assert fake.calls("nvmlDeviceGetFieldValues", device=1, field=POWER_AVERAGE) == 1


def test_time_can_be_set(fake: FakeNvml) -> None:
    fake.set_power(0, watts=300)
    fake.set_time(100)
    first = energy(0)
    assert energy(0) == first  # it stands still
    fake.set_time(102.5)
    assert energy(0) - first == 750_000
    fake.delay("nvmlDeviceGetPowerUsage", seconds=60, times=1)
    assert power(0) == 300_000  # time has passed, but nobody has waited
    assert fake.time() == 162.5
    assert energy(0) - first == 300 * 62_500
    # Back at the real time it goes on, and nothing is drawn by the change itself.
    fake.set_time(None)
    _, before, _ = clocked(lambda: None)
    assert fake.time() >= before
    assert 0 <= energy(0) - first - 300 * 62_500 < 300_000 * 60
    fake.set_time(5)
    fake.reset()
    assert fake.time() >= before


# Failures, delays, counts


def outcomes(index: int, calls: int) -> str:
    """One letter per power reading: o for one that succeeds, x for one that fails."""
    letters = []
    for _ in range(calls):
        try:
            power(index)
        except pynvml.NVMLError_Unknown:
            letters.append("x")
        else:
            letters.append("o")
    return "".join(letters)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "xxxxxxx"),
        ({"times": 1}, "xoooooo"),
        ({"times": 3}, "xxxoooo"),
        ({"every": 3}, "ooxooxo"),
        ({"every": 3, "times": 1}, "ooxoooo"),
        ({"device": 0}, "xxxxxxx"),
        ({"device": 1}, "ooooooo"),
    ],
)
def test_which_calls_fail(fake: FakeNvml, options: dict[str, int], expected: str) -> None:
    fake.fail("nvmlDeviceGetPowerUsage", code=pynvml.NVML_ERROR_UNKNOWN, **options)
    assert outcomes(0, 7) == expected
    fake.fail("nvmlDeviceGetPowerUsage", code=pynvml.NVML_SUCCESS, device=options.get("device"))
    assert outcomes(0, 2) == "oo"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVMLError_NotSupported),
        (pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVMLError_NoPermission),
        (pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVMLError_FunctionNotFound),
        (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVMLError_GpuIsLost),
        (pynvml.NVML_ERROR_IN_USE, pynvml.NVMLError_InUse),
    ],
)
def test_codes_become_the_exceptions_of_pynvml(
    fake: FakeNvml, code: int, error: type[Exception]
) -> None:
    fake.fail("nvmlDeviceGetTotalEnergyConsumption", code=code, device=1)
    energy(0)
    with pytest.raises(error) as raised:
        energy(1)
    assert str(raised.value)  # some texts are pynvml's, the others come from nvmlErrorString


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVMLError_DriverNotLoaded),
        (pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVMLError_NoPermission),
    ],
)
def test_init_can_fail(fake: FakeNvml, code: int, error: type[Exception]) -> None:
    fake.reset()
    fake.fail("nvmlInitWithFlags", code=code, times=1)
    with pytest.raises(error):
        pynvml.nvmlInit()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 2


def test_inits_and_shutdowns_are_counted(fake: FakeNvml) -> None:
    pynvml.nvmlInit()
    pynvml.nvmlShutdown()
    assert pynvml.nvmlDeviceGetCount() == 2
    pynvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlShutdown()


def test_calls_are_counted(fake: FakeNvml) -> None:
    handles = [gpu(0), gpu(1)]
    fake.fail("nvmlDeviceGetPowerUsage", code=pynvml.NVML_ERROR_UNKNOWN, device=1)
    pynvml.nvmlDeviceGetPowerUsage(handles[0])
    for _ in range(2):
        with pytest.raises(pynvml.NVMLError_Unknown):
            pynvml.nvmlDeviceGetPowerUsage(handles[1])

    assert fake.calls("nvmlDeviceGetPowerUsage", device=0) == 1
    assert fake.calls("nvmlDeviceGetPowerUsage", device=1) == 2
    assert fake.calls("nvmlDeviceGetPowerUsage") == 3
    assert fake.calls("nvmlInitWithFlags") == 1
    fake.reset()
    assert fake.calls("nvmlDeviceGetPowerUsage") == 0


def test_a_call_that_hangs_blocks_no_other_and_ends_with_a_reset(fake: FakeNvml) -> None:
    handles = [gpu(0), gpu(1)]
    errors: list[Exception] = []

    def hang() -> None:
        try:
            pynvml.nvmlDeviceGetPowerUsage(handles[1])
        except pynvml.NVMLError as error:
            errors.append(error)

    fake.delay("nvmlDeviceGetPowerUsage", device=1, seconds=60)
    thread = threading.Thread(target=hang, daemon=True)
    thread.start()
    while fake.calls("nvmlDeviceGetPowerUsage", device=1) == 0:
        time.sleep(0.001)
    assert pynvml.nvmlDeviceGetPowerUsage(handles[0]) == 70_000
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handles[1]) > 0
    assert thread.is_alive()

    fake.reset()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert [type(error) for error in errors] == [pynvml.NVMLError_Uninitialized]


def test_a_delayed_call_returns_in_the_end(fake: FakeNvml) -> None:
    handle = gpu(0)
    fake.delay("nvmlDeviceGetPowerUsage", seconds=0.05, times=1)
    reading, before, after = clocked(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    assert reading == 70_000
    assert after - before >= 0.05


def test_mistakes_in_a_script_are_noticed(fake: FakeNvml) -> None:
    with pytest.raises(ValueError, match="nvmlDeviceGetPowrUsage"):
        fake.fail("nvmlDeviceGetPowrUsage", code=pynvml.NVML_ERROR_UNKNOWN)
    with pytest.raises(ValueError, match="no fields"):
        fake.calls("nvmlDeviceGetPowerUsage", field=POWER_INSTANT)
    with pytest.raises(ValueError, match="fake_fail"):
        fake.fail("nvmlDeviceGetPowerUsage", code=pynvml.NVML_ERROR_UNKNOWN, every=0)
    with pytest.raises(ValueError, match="fake_set_device_count"):
        fake.set_device_count(9)


# Loading


def test_reset_leaves_pynvml_as_after_its_import(fake: FakeNvml) -> None:
    fake.set_power(0, watts=300)
    fake.reset()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    pynvml.nvmlInit()
    assert power(0) == 70_000


def test_after_removal_there_is_no_nvml(fake: FakeNvml, library: Path) -> None:
    fake.remove()
    with pytest.raises(pynvml.NVMLError_LibraryNotFound):
        pynvml.nvmlInit()
    FakeNvml(library)
    pynvml.nvmlInit()


def test_a_second_build_shares_the_driver(fake: FakeNvml, tmp_path: Path) -> None:
    other = FakeNvml(build(tmp_path))
    pynvml.nvmlInit()
    other.set_power(0, watts=300)
    assert power(0) == 300_000


def test_a_subprocess_finds_it(library: Path) -> None:
    script = "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())"
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(library),
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "2\n"


def test_a_compiler_error_is_shown(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"libnvidia-ml\.so\.1"):
        build(tmp_path / "missing")
