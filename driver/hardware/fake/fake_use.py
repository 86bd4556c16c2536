"""What fake GPUs report of their use and of themselves: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.hardware.fake.state_file import Load
from driver.hardware.measurement import NVLINK_ERRORS, THROTTLE_REASONS, DeviceUse, Measurement
from driver.hardware.model import MigMode, partition_device_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.hardware.fake.state_file import GpuState
    from driver.hardware.model import Gpu

IDLE = Load()
IDLE_CELSIUS, CELSIUS = 32, 40
"""Of a GPU that does nothing, and how much more of one that does all it can."""
IDLE_WATTS, LIMIT_WATTS = 70, 700


def measure(gpu: Gpu, loads: Mapping[str, Load], state: GpuState) -> Measurement:
    """A GPU as it is cut now. ``loads`` are by device name, ``state`` is what is wrong with it."""
    own, partitions = loads.get(gpu.name, IDLE), {}
    used, busy = own.memory, float(own.utilisation)
    for partition in gpu.partitions:
        profile = gpu.profile(partition.profile)
        name = partition_device_name(gpu.name, partition.profile, partition.profile_id, partition.start)
        load = loads.get(name, IDLE)
        total = profile.memory_mib << 20 if profile else None
        partitions[partition.uuid] = _use(load.memory, total, load.utilisation)
        used += load.memory
        busy += load.utilisation * partition.size / max(gpu.memory_slices, 1)
    cut = gpu.mig_mode is MigMode.ENABLED
    busy = min(busy, 100)
    return Measurement(
        whole=_use(used, gpu.memory_bytes, None if cut else busy),
        partitions=partitions,
        temperature_celsius=IDLE_CELSIUS + CELSIUS * busy / 100 if own.temperature is None else own.temperature,
        power_watts=IDLE_WATTS + (LIMIT_WATTS - IDLE_WATTS) * busy / 100 if own.power is None else own.power,
        power_limit_watts=LIMIT_WATTS,
        throttled={reason: reason in own.throttled for reason in THROTTLE_REASONS},
        ecc_errors={
            (kind, scope): int(state.ecc and kind == "uncorrected")
            for kind in ("corrected", "uncorrected")
            for scope in ("volatile", "aggregate")
        },
        remapped_rows={"corrected": 0, "uncorrected": 0},
        row_remapping={"pending": False, "failed": False},
        nvlink_errors=dict.fromkeys(NVLINK_ERRORS, 0) if gpu.nvlink_peers else {},
        pcie_replays=0,
    )


def _use(memory: int, total: int | None, utilisation: float | None) -> DeviceUse:
    """A card never reports more than it has."""
    return DeviceUse(
        memory_used=memory if total is None else min(memory, total),
        memory_total=total,
        utilisation=None if utilisation is None else utilisation / 100,
        sm_active=None if utilisation is None else utilisation / 100,
        processes=None,
        divided=True,
    )
