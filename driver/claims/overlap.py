"""Nobody gets what somebody else holds: whether claims are in each other's way, by what they hold of a GPU. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.base.quantity import parse_quantity
from driver.claims.errors import ClaimError, Reason
from driver.claims.ledger.holders import consumption
from driver.claims.ledger.record import State
from driver.inventory import capacity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from driver.claims.allocation import ClaimRef
    from driver.claims.ledger.holders import Holders
    from driver.claims.ledger.record import PreparedDevice, Record
    from driver.inventory import Device


def check_overlap(record: Record, holders: Iterable[Record]) -> None:
    """Refuse what another claim holds, by physical slots. Raises ClaimError with the holder's name.

    The scheduler can hand out a device twice after a forced deletion or a race; drivers have to refuse. A holder whose
    claim is gone still counts: its containers may run until the kubelet says unprepare. Claims that are just being
    prepared have records too, so they count as well.
    """
    wanted = [device for device in record.devices if not device.admin]
    for holder in holders:
        ending = holder.state is State.UNDOING
        for held in holder.devices:
            for device in wanted:
                if _collide(device, held, ending=ending) and holder.claim.uid != record.claim.uid:
                    raise ClaimError(Reason.IN_USE, _in_use(device, held, record, holder))


def check_capacity(record: Record, device: PreparedDevice, known: Device, held: Holders) -> None:
    """Refuse a share that with all others takes more than its device has, as published.

    Raises ClaimError. The scheduler counts too; this is for what it may have handed out twice.
    """
    published = capacity(known)
    for name, amount in device.consumed:
        if device.admin or name not in published:
            continue
        available = published[name]["value"]
        taken = held.taken(device, name, except_for=record) + consumption(record, device, name)
        if taken > parse_quantity(available):
            others = (holder.claim for holder in held.of(device.gpu_uuid) if holder.claim.uid != record.claim.uid)
            names = ", ".join(sorted(map(str, set(others))))
            raise ClaimError(
                Reason.IN_USE,
                f"device {device.device} has {available} of {name}: {amount} for claim {record.claim} would be "
                f"too much, because it is shared with {names}",
            )


def check_within(claim: ClaimRef, devices: Sequence[PreparedDevice]) -> None:
    """Refuse that a claim uses the same hardware as two devices, for instance a GPU and a partition of it: ClaimError.

    No scheduler that counts as the slices say allocates them together.
    """
    for number, device in enumerate(devices):
        for other in devices[:number]:
            if _collide(device, other, ending=False):
                raise ClaimError(
                    Reason.INVALID_REQUEST,
                    f"claim {claim} is allocated devices {other.device} and {device.device}, which are the same part "
                    f"of GPU {device.gpu_uuid}: a claim can have one of them",
                )


def _collide(device: PreparedDevice, held: PreparedDevice, *, ending: bool) -> bool:
    # A device may have hundreds of shares, so the usual case comes first: another share of the same device.
    if held.device == device.device and held.share_id is not None and device.share_id is not None:
        # Of a partition that is being destroyed not even a share can be had.
        return not held.admin and (held.share_id == device.share_id or (ending and held.placement is not None))
    return not held.admin and held.gpu_uuid == device.gpu_uuid and not set(held.slots).isdisjoint(device.slots)


def _in_use(device: PreparedDevice, held: PreparedDevice, record: Record, holder: Record) -> str:
    what = f"device {device.device}" + (f", share {device.share_id}," if device.share_id else "")
    part = "" if held.device == device.device else f" as part of {held.device}"
    if holder.state is State.UNDOING:
        return (
            f"{what} is not free yet{part}: what was made for claim {holder.claim} (UID {holder.claim.uid}) could not "
            f"be undone so far; the driver tries again on its own"
        )
    if holder.salvaged_from:
        return (
            f"{what} may still be used{part} by the claim with UID {holder.claim.uid}, whose record was damaged or "
            f"lost: see {holder.salvaged_from}. Claim {record.claim} can have it once the kubelet unprepares that one; "
            "docs/records.md says what to do where no pod uses the device any more"
        )
    return (
        f"{what} is still held{part} by claim {holder.claim} (UID {holder.claim.uid}), whose containers may still use "
        f"it; claim {record.claim} can have it once the kubelet unprepares that one"
    )
