"""From an allocation to a record: pure. Which hardware it is, and what the kubelet is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from driver.cdi import cdi_device_name, qualified_name
from driver.claims.config import resolve
from driver.claims.errors import ClaimError, Reason
from driver.claims.former import begun, with_unknown
from driver.claims.ledger.record import Placement, PreparedDevice, Record, State
from driver.claims.overlap import check_within
from driver.claims.sharing import plan_sharing
from driver.claims.weight import weight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.claims.allocation import Allocation, Result
    from driver.claims.ledger.holders import Holders
    from driver.claims.terms import Terms
    from driver.inventory import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a claim is to have, and what becomes of what it has."""

    record: Record
    """Its state says whether hardware has to be changed for it."""
    again: bool
    """Whether a former call has begun with it: what that left is taken up."""
    retired: Record | None
    """What the claim had before and that is undone first: another allocation, another boot, or one that is ending."""

    @property
    def plain(self) -> bool:
        """Whether nothing but files has to be written for it."""
        return self.record.state is State.PREPARED and not self.again and self.retired is None


def plan(
    allocation: Allocation,
    *,
    devices: Mapping[str, Device],
    former: Record | None,
    terms: Terms,
    boot_id: str,
    prepared_at: str,
    metadata: bool,
    held_since: float | None = None,
) -> Plan:
    """What is to be done for a claim. ``devices`` is the node's catalogue by name, ``former`` the record that it has.

    ``metadata``: whether containers get files of that kind. Raises ClaimError for a device that this node does not
    have, the same share twice, and parameters that cannot be applied.
    """
    again = former is not None and begun(former, allocation, boot_id=boot_id)
    record = Record(
        claim=allocation.claim,
        allocation=allocation.fingerprint,
        boot_id=boot_id,
        driver=terms.driver,
        state=State.PREPARED,
        devices=plan_devices(allocation, devices=devices, terms=terms),
        prepared_at=prepared_at,
        held_since=held_since,
        pods=allocation.pods,
        of_one_pod=allocation.of_one_pod,
        metadata=allocation.metadata_directory if metadata else None,
    )
    if any(needs_hardware(device, devices[device.device]) for device in record.devices):
        record = record.with_state(State.PREPARING)
    if former is not None:
        record = with_unknown(record, former, devices=again)
    return Plan(record=record, again=again, retired=None if again else former)


def plan_devices(allocation: Allocation, *, devices: Mapping[str, Device], terms: Terms) -> tuple[PreparedDevice, ...]:
    """The devices of a claim, with how they are shared. Raises ClaimError."""
    driver = terms.driver
    planned = tuple(
        _plan_device(result, allocation, devices=devices, pool=terms.pool, driver=driver)
        for result in allocation.results
    )
    # With admin access a claim may look at what it uses, too.
    used = [device for device in planned if not device.admin]
    names = [cdi_device_name(allocation.claim.uid, device.device, device.share_id) for device in used]
    for name in names:
        if names.count(name) > 1:
            raise ClaimError(
                Reason.INVALID_REQUEST, f"claim {allocation.claim} is allocated the same device or share twice: {name}"
            )
    check_within(allocation.claim, used)
    if allocation.configs or terms.enforce_shares:
        types = {result.device: devices[result.device].type for result in allocation.results}
        applied = resolve(allocation, types, driver=driver)
        planned = plan_sharing(allocation.claim, planned, known=devices, applied=applied, enforce=terms.enforce_shares)
    return planned


def with_partitions(record: Record, held: Holders) -> Record:
    """With the partitions that admin access looks at: those that are there for other claims, as their records say.

    Raises ClaimError where there is none.
    """
    own = {device.device for device in record.devices if not device.admin}
    devices = []
    for device in record.devices:
        if looks_in(device) and device.device not in own:
            others = (other.partition for holder, other in held.on(device) if holder.claim.uid != record.claim.uid)
            partition = next(filter(None, others), None)
            if partition is None:
                raise ClaimError(
                    Reason.UNKNOWN_DEVICE,
                    f"claim {record.claim} has admin access to {device.device}, which does not exist now: "
                    "partitions are made for claims that use them",
                )
            device = replace(device, partition=partition)
        devices.append(device)
    return replace(record, devices=tuple(devices))


def looks_in(device: PreparedDevice) -> bool:
    """Whether admin access is to a partition that prepare makes for those who use it."""
    return device.admin and device.placement is not None


def needs_hardware(device: PreparedDevice, known: Device) -> bool:
    """Whether a device is made, or has to be made usable, by prepare. Admin access never changes anything."""
    if device.admin:
        return False
    shared = device.sharing is not None and device.sharing.changes
    return device.placement is not None or (device.whole and known.partitionable) or shared


def _plan_device(
    result: Result, allocation: Allocation, *, devices: Mapping[str, Device], pool: str, driver: str
) -> PreparedDevice:
    known = devices.get(result.device)
    if known is None or result.pool != pool:
        names = list(devices)
        listed = ", ".join(names[:16]) + (f" and {len(names) - 16} more" if len(names) > 16 else "")
        raise ClaimError(
            Reason.UNKNOWN_DEVICE,
            f"claim {allocation.claim} is allocated device {result.device!r} of pool {result.pool!r}, which is not on "
            f"this node; pool {pool!r} has: {listed or 'none'}",
        )
    name = cdi_device_name(allocation.claim.uid, result.device, result.share_id, admin=result.admin)
    placement = None
    if known.profile is not None and known.partition is None and known.start is not None:
        placement = Placement(profile=known.profile.name, start=known.start)
    return PreparedDevice(
        requests=(result.base_request,),
        pool=result.pool,
        device=result.device,
        cdi_ids=(qualified_name(driver, name),),
        gpu_uuid=known.gpu.uuid,
        slots=tuple(sorted(known.slots)),
        whole=known.profile is None,
        share_id=result.share_id,
        consumed=result.consumed,
        admin=result.admin,
        subrequest=result.request.partition("/")[2],
        placement=placement,
        partition=known.partition,
        product=known.gpu.product_name,
        weight=weight(known, result),
        offered=known.offered,
    )
