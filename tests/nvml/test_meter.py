"""What is used of GPUs, as NVML tells it: through the library's ABI."""

from __future__ import annotations

import pytest

from driver.hardware.backend import BackendError
from driver.hardware.measurement import DeviceUse, Measurement, ProcessUse
from driver.hardware.nvml.measure import NvmlMeter
from tests.nvml.conftest import Build, Open
from tests.nvml.standin import World

GIB = 1 << 30
NOT_SUPPORTED, NO_PERMISSION, GPU_IS_LOST, UNKNOWN = 3, 4, 15, 999
WHAT_A_GPU_TELLS = {
    "utilisation": 73,
    "used": 40 * GIB,
    "temperature": 61,
    "power": 512_345,
    "power_limit": 700_000,
    "throttle": 0x4 | 0x40,
    "replays": 7,
    "ecc_errors.0.0": 3,
    "ecc_errors.1.1": 2,
    "remapped": "5 1 1 0",
    "field.38": 11,
    "field.52": 12,
}


def one_gpu(machine: World, open_nvml: Open, **more: object) -> tuple[str, Measurement]:
    uuid = machine.add(**{key: value for key, value in WHAT_A_GPU_TELLS.items()} | more)  # noqa: C416
    backend = open_nvml(machine)
    backend.inventory()
    return uuid, backend.measure(uuid)


def test_everything_that_a_gpu_tells_is_measured(machine: World, open_nvml: Open) -> None:
    _, measured = one_gpu(machine, open_nvml)

    assert (measured.whole.utilisation, measured.whole.memory_used) == (0.73, 40 * GIB)
    assert measured.whole.memory_total == 81559 << 20
    assert measured.temperature_celsius == 61
    assert (measured.power_watts, measured.power_limit_watts) == (512.345, 700)
    assert {reason for reason, is_so in measured.throttled.items() if is_so} == {"power_cap", "hardware_thermal"}
    assert measured.ecc_errors == {
        ("corrected", "volatile"): 3,
        ("corrected", "aggregate"): 0,
        ("uncorrected", "volatile"): 0,
        ("uncorrected", "aggregate"): 2,
    }
    assert measured.remapped_rows == {"corrected": 5, "uncorrected": 1}
    assert measured.row_remapping == {"pending": True, "failed": False}
    assert measured.nvlink_errors == {"flit_crc": 11, "replay": 12}
    assert measured.pcie_replays == 7
    assert measured.partitions == {}


def test_what_a_gpu_has_not_is_absent(machine: World, open_nvml: Open) -> None:
    uuid = machine.add("A100-SXM4-40GB", memory=None, remapped=None, without_ecc=1)
    backend = open_nvml(machine)
    backend.inventory()

    measured = backend.measure(uuid)

    assert measured.whole == DeviceUse(processes=())
    assert (measured.power_limit_watts, measured.pcie_replays) == (None, None)
    assert measured.throttled == measured.ecc_errors == measured.remapped_rows == measured.row_remapping == {}
    assert measured.nvlink_errors == {}


@pytest.mark.parametrize(
    "missing",
    [
        {"nvmlDeviceGetUtilizationRates"},
        {"nvmlDeviceGetProcessUtilization", "nvmlDeviceGetMPSComputeRunningProcesses_v3"},
        {"nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPcieReplayCounter", "nvmlDeviceGetTotalEccErrors"},
        {"nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleGet", "nvmlGpmMetricsGet"},
        {"nvmlDeviceGetComputeRunningProcesses_v3"},
    ],
    ids=min,
)
def test_a_library_that_lacks_something_tells_the_rest(build: Build, open_nvml: Open, missing: set[str]) -> None:
    machine = build(missing=frozenset(missing))

    _, measured = one_gpu(machine, open_nvml, samples="", has_gpm=1, gpm="1 1")

    assert measured.whole.memory_used == 40 * GIB
    assert measured.temperature_celsius == 61
    assert (measured.whole.utilisation is None) == ("nvmlDeviceGetUtilizationRates" in missing)
    assert (measured.power_limit_watts is None) == ("nvmlDeviceGetEnforcedPowerLimit" in missing)
    assert (measured.whole.processes is None) == ("nvmlDeviceGetComputeRunningProcesses_v3" in missing)


def test_throttling_is_told_by_a_driver_that_knows_its_older_name_only(build: Build, open_nvml: Open) -> None:
    machine = build(missing=frozenset({"nvmlDeviceGetCurrentClocksEventReasons"}))

    _, measured = one_gpu(machine, open_nvml)

    assert measured.throttled["power_cap"]


def test_memory_that_the_driver_reserves_is_not_used(build: Build, open_nvml: Open) -> None:
    machine = build(missing=frozenset({"nvmlDeviceGetMemoryInfo_v2"}))

    _, measured = one_gpu(machine, open_nvml)

    assert measured.whole.memory_used == 40 * GIB  # by the older call, which is all there is


def test_processes_are_told_with_what_they_use(machine: World, open_nvml: Open) -> None:
    now = 1_000_000_000
    uuid = machine.add(processes=f"17:{GIB} 23:{2 * GIB}", mps_processes=f"23:{2 * GIB} 42:{3 * GIB}")
    machine.set({"gpu.0.samples": f"17:{now - 1}:40 17:{now - 2}:20 42:{now - 1}:10 99:{now - 3}:255"})
    backend = open_nvml(machine)
    backend.inventory()
    backend._meter = NvmlMeter(backend._library, backend._mig, clock=lambda: now / 1e6)

    measured = backend.measure(uuid)

    assert measured.whole.processes == (
        ProcessUse(pid=17, memory_bytes=GIB, utilisation=pytest.approx(0.3)),
        ProcessUse(pid=23, memory_bytes=2 * GIB, utilisation=0.0),
        ProcessUse(pid=42, memory_bytes=3 * GIB, utilisation=0.1),
    )
    again = backend.measure(uuid).whole.processes or ()
    assert [process.utilisation for process in again] == [0, 0, 0]  # nothing has run since


def test_processes_of_which_no_utilisation_is_told_have_none(machine: World, open_nvml: Open) -> None:
    _, measured = one_gpu(machine, open_nvml, processes="17")

    assert measured.whole.processes == (ProcessUse(pid=17, memory_bytes=1 << 20),)


def test_partitions_are_measured_each_for_itself(machine: World, open_nvml: Open) -> None:
    uuid = machine.add(has_gpm=1, utilisation=50)
    machine.cut(0, "1g.10gb", 0, gi=7)
    machine.cut(0, "2g.20gb", 2, gi=3)
    machine.set(
        {
            "gpu.0.used.7": 4 * GIB,
            "gpu.0.used.3": 0,
            "gpu.0.processes.7": f"17:{4 * GIB}",
            "gpu.0.gpm.7": "80 25.5",
            "gpu.0.gpm.3": "0 0",
        }
    )
    backend = open_nvml(machine)
    small, big = backend.inventory().gpus[0].partitions

    first = backend.measure(uuid)
    measured = backend.measure(uuid)

    assert first.partitions[small.uuid].utilisation is None  # of which time?
    use = measured.partitions[small.uuid]
    assert (use.memory_used, use.memory_total) == (4 * GIB, 9984 << 20)
    assert (use.utilisation, use.sm_active) == (0.8, 0.255)
    assert use.processes == (ProcessUse(pid=17, memory_bytes=4 * GIB),)
    assert (measured.partitions[big.uuid].utilisation, measured.partitions[big.uuid].memory_used) == (0, 0)
    assert measured.partitions[big.uuid].processes == ()
    assert measured.whole.utilisation is None


def test_samples_of_partitions_that_are_gone_are_let_go(machine: World, open_nvml: Open) -> None:
    uuid = machine.add(has_gpm=1)
    machine.cut(0, "1g.10gb", 0, gi=7)
    machine.cut(0, "1g.10gb", 1, gi=8)
    backend = open_nvml(machine)
    backend.inventory()
    for _ in range(3):
        backend.measure(uuid)
    assert machine.read()["gpm.samples"] == "2"

    machine.set({"gpu.0.gi.8": None, "gpu.0.ci.8.0": None})
    backend.measure(uuid)

    assert machine.read()["gpm.samples"] == "1"


def test_how_busy_a_whole_gpu_is_by_its_counters(machine: World, open_nvml: Open) -> None:
    uuid = machine.add(has_gpm=1, utilisation=90, gpm="88 40")
    backend = open_nvml(machine)
    backend.inventory()
    backend.measure(uuid)

    use = backend.measure(uuid).whole

    assert (use.utilisation, use.sm_active) == (0.9, 0.4)


def test_a_new_session_begins_with_new_samples(machine: World, open_nvml: Open) -> None:
    uuid = machine.add(has_gpm=1, gpm="88 40")
    backend = open_nvml(machine)
    backend.inventory()
    backend.measure(uuid)
    machine.set(generation=1)  # the driver was loaded anew
    with pytest.raises(BackendError):
        backend.measure(uuid)

    assert backend.measure(uuid).whole.sm_active is None
    assert backend.measure(uuid).whole.sm_active == 0.4


@pytest.mark.parametrize("code", [NO_PERMISSION, UNKNOWN])
def test_what_fails_is_absent_and_the_rest_is_told(machine: World, open_nvml: Open, code: int) -> None:
    for function in ("nvmlDeviceGetTemperature", "nvmlDeviceGetProcessUtilization", "nvmlGpmSampleGet"):
        machine.fail(function, code)

    _, measured = one_gpu(machine, open_nvml, samples="", has_gpm=1)

    assert measured.temperature_celsius is None
    assert measured.whole.memory_used == 40 * GIB


def test_a_gpu_that_is_lost_tells_nothing(machine: World, open_nvml: Open) -> None:
    uuid = machine.add()
    backend = open_nvml(machine)
    backend.inventory()
    machine.set({"gpu.0.lost": 1})

    with pytest.raises(BackendError, match="is lost"):
        backend.measure(uuid)
