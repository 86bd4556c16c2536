"""Records and measurements of examples."""

from __future__ import annotations

from typing import Any

from driver.claims.allocation import ClaimRef, PodRef
from driver.claims.ledger.record import PreparedDevice, Record, State
from driver.hardware.measurement import DeviceUse, Measurement, ProcessUse
from driver.hardware.model import Partition
from driver.usage.sampler import Sample

BOOT = "boot-1"
GPU = "GPU-1"
MIG = "MIG-1"
GIB = 1 << 30
A, B = PodRef("a", "uid-a"), PodRef("b", "uid-b")


def device(name: str = "gpu-0", **more: Any) -> PreparedDevice:
    shown: dict[str, Any] = {
        "requests": ("gpu",),
        "pool": "node-1",
        "device": name,
        "cdi_ids": (),
        "gpu_uuid": GPU,
        "slots": (0,),
        "product": "H100",
        "weight": 1.0,
    }
    return PreparedDevice(**shown | more)


def partition(**more: Any) -> PreparedDevice:
    made = Partition(gpu_uuid=GPU, profile="1g.10gb", profile_id=19, start=0, size=1, uuid=MIG, gi_id=7, ci_id=0)
    return device("gpu-0-mig-1g10gb-19-0", whole=False, partition=made, **{"weight": 0.142857} | more)


def record(
    name: str = "claim",
    *devices: PreparedDevice,
    pods: tuple[PodRef, ...] = (A,),
    since: float | None = 100.0,
    boot_id: str = BOOT,
    namespace: str = "default",
) -> Record:
    return Record(
        claim=ClaimRef(namespace, name, f"uid-of-{name}"),
        allocation="1",
        boot_id=boot_id,
        driver="gpu.nvidia.com",
        state=State.PREPARED,
        devices=devices or (device(),),
        prepared_at="2026-01-02T03:04:05.678+00:00",
        held_since=since,
        pods=pods,
    )


def use(memory: int | None = 40 * GIB, utilisation: float | None = 0.8, **more: Any) -> DeviceUse:
    return DeviceUse(memory_used=memory, memory_total=80 * GIB, utilisation=utilisation, **more)


def process(pid: int, memory: int | None = GIB, utilisation: float | None = 0.1) -> ProcessUse:
    return ProcessUse(pid=pid, memory_bytes=memory, utilisation=utilisation)


def sample(whole: DeviceUse, *, part: DeviceUse | None = None, all_seen: bool = True, **pods: int) -> dict[str, Sample]:
    """Of one GPU; ``pods`` are process ids by the name of their pod, of which there is one each."""
    measurement = Measurement(whole=whole, partitions={} if part is None else {MIG: part})
    known = {pid: f"uid-{name}" for name, pid in pods.items()}
    return {GPU: Sample(measurement=measurement, pods=known, all_seen=all_seen)}
