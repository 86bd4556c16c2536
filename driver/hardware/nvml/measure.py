"""What is used of real GPUs, and how they are. What one of them cannot tell is None or left out, never 0."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from driver.hardware.measurement import (
    NVLINK_ERRORS,
    THROTTLE_REASONS,
    DeviceUse,
    Measurement,
    ProcessUse,
)
from driver.hardware.model import MigMode
from driver.hardware.nvml import return_codes
from driver.hardware.nvml.gpm import UNKNOWN, Gpm
from driver.hardware.nvml.return_codes import NvmlError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.hardware.nvml.gpm import Busy
    from driver.hardware.nvml.library import Library
    from driver.hardware.nvml.mig import Mig

_GPU_TEMPERATURE = 0
_ECC_TYPES = {"corrected": 0, "uncorrected": 1}
_ECC_SCOPES = {"volatile": 0, "aggregate": 1}
_LOOK_BACK = 10.0
"""Seconds that the first measurement's averages of processes go back."""
_PROCESSES = (
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
)


class NvmlMeter:
    """Measures one GPU at a time; the caller is within a session. ``clock``: seconds since 1970, as NVML counts."""

    def __init__(self, library: Library, mig: Mig, *, clock: Callable[[], float] = time.time) -> None:
        self._library = library
        self._mig = mig
        self._clock = clock
        self._gpm = Gpm(library)
        self._told: dict[str, int] = {}
        """Time stamp of the newest sample of processes that each GPU has given, in microseconds."""

    def measure(self, uuid: str, handle: Any) -> Measurement:
        """Everything that one GPU tells."""
        ask, probe = self._library.ask, self._library.probe
        cut = self._mig.mode(handle) is MigMode.ENABLED
        power, limit = ask("nvmlDeviceGetPowerUsage", handle), ask("nvmlDeviceGetEnforcedPowerLimit", handle)
        rows = ask("nvmlDeviceGetRemappedRows", handle)
        return Measurement(
            whole=self._whole(uuid, handle, cut=cut),
            partitions=self._partitions(uuid, handle) if cut else {},
            temperature_celsius=ask("nvmlDeviceGetTemperature", handle, _GPU_TEMPERATURE),
            power_watts=None if power is None else power / 1000,
            power_limit_watts=None if limit is None else limit / 1000,
            throttled=self._throttled(handle),
            ecc_errors={
                (kind, scope): int(count)
                for kind, number in _ECC_TYPES.items()
                for scope, which in _ECC_SCOPES.items()
                if (count := probe("nvmlDeviceGetTotalEccErrors", handle, number, which)) is not None
            },
            remapped_rows={} if rows is None else {"corrected": rows[0], "uncorrected": rows[1]},
            row_remapping={} if rows is None else {"pending": bool(rows[2]), "failed": bool(rows[3])},
            nvlink_errors=self._nvlink_errors(handle),
            pcie_replays=ask("nvmlDeviceGetPcieReplayCounter", handle),
        )

    def _whole(self, uuid: str, handle: Any, *, cut: bool) -> DeviceUse:
        rates = None if cut else self._library.ask("nvmlDeviceGetUtilizationRates", handle)
        by_process = None if cut else self._by_process(uuid, handle)
        busy = UNKNOWN if cut else self._gpm.busy(uuid, handle)
        return self._use(handle, busy=busy, by_process=by_process, rate=None if rates is None else rates.gpu / 100)

    def _partitions(self, uuid: str, handle: Any) -> Mapping[str, DeviceUse]:
        found, instances = {}, set()
        for device in self._mig.handles(handle):
            name = self._library.ask("nvmlDeviceGetUUID", device)
            instance = self._library.ask("nvmlDeviceGetGpuInstanceId", device)
            if name is None:
                continue
            busy: Busy = UNKNOWN
            if instance is not None:
                instances.add(instance)
                busy = self._gpm.busy(uuid, handle, instance)
            found[str(name)] = self._use(device, busy=busy, by_process=None, rate=busy[0])
        self._gpm.keep(uuid, instances)
        return found

    def _use(self, handle: Any, *, busy: Busy, by_process: Mapping[int, float] | None, rate: float | None) -> DeviceUse:
        memory = self._memory(handle)
        return DeviceUse(
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            utilisation=rate,
            sm_active=busy[1],
            processes=self._processes(handle, by_process),
        )

    def _memory(self, handle: Any) -> Any:
        """The second version does not count what the driver has reserved as used."""
        version = self._library.constant("nvmlMemory_v2", None)
        found = None if version is None else self._library.probe("nvmlDeviceGetMemoryInfo", handle, version=version)
        return self._library.ask("nvmlDeviceGetMemoryInfo", handle) if found is None else found

    def _processes(self, handle: Any, by_process: Mapping[int, float] | None) -> tuple[ProcessUse, ...] | None:
        """Each process once, though it is in several lists; None where the driver does not tell those that compute."""
        memory: dict[int, int | None] = {}
        for query in _PROCESSES:
            listed = self._library.ask(query, handle)
            if listed is None and query == _PROCESSES[0]:
                return None
            for process in listed or ():
                used = None if process.usedGpuMemory is None else int(process.usedGpuMemory)
                memory[process.pid] = used if memory.get(process.pid) is None else memory[process.pid]
        return tuple(
            ProcessUse(pid=pid, memory_bytes=used, utilisation=None if by_process is None else by_process.get(pid, 0.0))
            for pid, used in memory.items()
        )

    def _by_process(self, uuid: str, handle: Any) -> dict[int, float] | None:
        """How much of the multiprocessors' time each process had since the last look; None where nobody tells."""
        since = self._told.get(uuid, int((self._clock() - _LOOK_BACK) * 1e6))
        try:
            samples = self._library.call("nvmlDeviceGetProcessUtilization", handle, since)
        except NvmlError as error:
            return {} if error.code == return_codes.NOT_FOUND else None  # nothing has run since
        shares: dict[int, list[float]] = {}
        for sample in samples:
            if sample.timeStamp > since and sample.smUtil <= 100:  # there are drivers that tell nonsense now and then
                shares.setdefault(sample.pid, []).append(sample.smUtil / 100)
                self._told[uuid] = max(self._told.get(uuid, 0), int(sample.timeStamp))
        return {pid: sum(values) / len(values) for pid, values in shares.items()}

    def _throttled(self, handle: Any) -> dict[str, bool]:
        bits = self._library.probe("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if bits is None:  # its name before 535
            bits = self._library.ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return {} if bits is None else {reason: bool(bits & bit) for reason, bit in THROTTLE_REASONS.items()}

    def _nvlink_errors(self, handle: Any) -> dict[str, int]:
        values = self._library.ask("nvmlDeviceGetFieldValues", handle, list(NVLINK_ERRORS.values()))
        return {
            name: int(value.value.ullVal)
            for name, value in zip(NVLINK_ERRORS, values or (), strict=False)
            if value.nvmlReturn == 0
        }
