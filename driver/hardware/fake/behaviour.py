"""What real hardware makes of a request and of a fault, for GPUs that are not there: pure."""

from __future__ import annotations

import uuid as uuids
from typing import TYPE_CHECKING

from driver.hardware.backend import BackendError
from driver.hardware.fake.state_file import GpuInstance, GpuState
from driver.hardware.model import NO_ACTION, Account, Cause, Cleared, Event, Fault, Gpu, Occurred, Partition, Quiet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from driver.hardware.fake.state_file import MigState
    from driver.hardware.model import MigProfile

WELL = GpuState()
GI_IDS = range(1, 15)
_UUIDS = uuids.UUID("6e0c4a1e-2b0f-4f6d-9d0a-3a2e7d1b5c11")


def place(gpu: Gpu, mig: MigState, profile: MigProfile, start: int, what: str) -> GpuInstance:
    """The new instance; raises BackendError as the hardware would, where the placement is not possible."""
    if gpu.profile(profile.name) != profile or start not in profile.starts:
        raise BackendError(f"{what}: Invalid Argument: not a placement of this GPU")
    present = [(instance, gpu.profile(instance.profile)) for instance in mig.instances]
    taken = {slot for i, p in present if p for slot in range(i.start, i.start + p.size)}
    same = sum(1 for _, other in present if other == profile)
    media = any(other.media_extensions for _, other in present if other)
    compute = sum(other.compute_slices for _, other in present if other) + profile.compute_slices
    gi = next((number for number in GI_IDS if all(number != instance.gi for instance, _ in present)), None)
    if (
        taken.intersection(range(start, start + profile.size))
        or same >= profile.max_instances
        or (media and profile.media_extensions)
        or compute > max(p.compute_slices for p in gpu.mig_profiles)
        or gi is None
    ):
        there = ", ".join(f"{i.profile} at {i.start}" for i in mig.instances)
        raise BackendError(f"{what}: Insufficient Resources: there are {there} already")
    return GpuInstance(profile=profile.name, start=start, gi=gi)


def partition(gpu: Gpu, instance: GpuInstance) -> Partition:
    """An instance as the driver sees it; its UUID follows from its place."""
    profile = gpu.profile(instance.profile)
    return Partition(
        gpu_uuid=gpu.uuid,
        profile=instance.profile,
        profile_id=profile.profile_id if profile else 0,
        start=instance.start,
        size=profile.size if profile else 0,
        uuid=f"MIG-{uuids.uuid5(_UUIDS, f'{gpu.uuid}/{instance.gi}/0')}",
        gi_id=instance.gi,
        ci_id=0,
    )


def events(uuid: str, old: GpuState | None, new: GpuState) -> Iterator[Event]:
    """What happened between two states; ``old`` None means that nobody knows, and gives the whole state."""
    faults = _faults(new)
    anew = old is None or not _faults(old) <= faults
    if anew:
        yield Cleared(gpu_uuid=uuid, remaining=faults)
    known = old or WELL
    happened = new.xids[len(known.xids) :] if new.xids[: len(known.xids)] == known.xids else new.xids
    for xid in happened:
        yield Occurred(gpu_uuid=uuid, fault=Fault(cause=Cause.XID, detail=str(xid)), recovery=new.recovery)
    for fault in sorted(faults - _faults(known), key=lambda fault: fault.cause):
        if fault.cause is not Cause.XID:
            yield Occurred(gpu_uuid=uuid, fault=fault)
    if new.recovery is not None and (anew or new.recovery != known.recovery):
        yield Account(gpu_uuid=uuid, recovery=new.recovery)
    if new.quiet and (anew or happened or not known.quiet):
        if new.recovery is None:
            yield Quiet(gpu_uuid=uuid)
        elif new.recovery == NO_ACTION:
            lasting = frozenset(fault for fault in faults if fault.cause not in (Cause.XID, Cause.ECC))
            yield Cleared(gpu_uuid=uuid, remaining=lasting)


def _faults(state: GpuState) -> frozenset[Fault]:
    faults = {Fault(cause=Cause.XID, detail=str(xid)) for xid in state.xids}
    if state.ecc:
        faults.add(Fault(cause=Cause.ECC, detail="double-bit"))
    if state.recovery not in (None, NO_ACTION):
        faults.add(Fault(cause=Cause.REPAIR, detail=state.recovery))
    if state.lost:
        faults.add(Fault(cause=Cause.GPU_LOST))
    return frozenset(faults)
