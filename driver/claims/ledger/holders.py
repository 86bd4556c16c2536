"""Who holds what of the GPUs: an index over records, so that a prepare costs the same whatever is prepared already."""

from __future__ import annotations

from collections import Counter, defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING

from driver.base.quantity import parse_quantity
from driver.claims.ledger.device_sharing import way_of
from driver.claims.ledger.record import State
from driver.inventory import Hold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from driver.claims.ledger.record import PreparedDevice, Record


class Holders:
    """Records by what they hold. It follows what is added and discarded, and reads no file."""

    def __init__(self) -> None:
        self._groups: defaultdict[str, defaultdict[str, dict[str, Record]]] = defaultdict(lambda: defaultdict(dict))
        """By GPU UUID, by the name of the device that is shared (empty for what is not), and by claim UID."""
        self._shares: defaultdict[tuple[str, str, str], dict[str, Record]] = defaultdict(dict)
        """By GPU UUID, device and share id, and by claim UID."""
        self._taken: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
        """How often each quantity is taken, by GPU UUID, device and name of the capacity."""
        self._ways: defaultdict[tuple[str, str], dict[str, dict[str, Record]]] = defaultdict(dict)
        """Holders of shares by GPU UUID and device, by how they share it, and by claim UID."""

    def add(self, record: Record) -> None:
        """A claim holds its devices."""
        for device in record.devices:
            self._groups[device.gpu_uuid][_group(record, device)][record.claim.uid] = record
            if device.share_id is not None and not device.admin:
                self._shares[device.gpu_uuid, device.device, device.share_id][record.claim.uid] = record
                self._ways[device.gpu_uuid, device.device].setdefault(way_of(device.sharing), {})[record.claim.uid] = (
                    record
                )
                for name, value in device.consumed:
                    self._taken[device.gpu_uuid, device.device, name][value] += 1

    def discard(self, record: Record) -> None:
        """It does not any more. Only for a record that was added."""
        for device in record.devices:
            gpu = self._groups[device.gpu_uuid]
            group = _group(record, device)
            gpu[group].pop(record.claim.uid, None)
            if not gpu[group]:
                del gpu[group]
            if not gpu:
                del self._groups[device.gpu_uuid]
            if device.share_id is not None and not device.admin:
                share = (device.gpu_uuid, device.device, device.share_id)
                self._shares[share].pop(record.claim.uid, None)
                if not self._shares[share]:
                    del self._shares[share]
                self._leave(device, record)
                for name, value in device.consumed:
                    taken = self._taken[device.gpu_uuid, device.device, name]
                    taken[value] -= 1
                    if not taken[value]:
                        del taken[value]
                    if not taken:
                        del self._taken[device.gpu_uuid, device.device, name]

    def of(self, gpu_uuid: str) -> tuple[Record, ...]:
        """Everyone who holds something of a GPU."""
        groups: Mapping[str, Mapping[str, Record]] = self._groups.get(gpu_uuid, {})
        return tuple({uid: record for group in groups.values() for uid, record in group.items()}.values())

    def rivals(self, device: PreparedDevice) -> Iterator[Record]:
        """Who may stand in the way of a device: everyone on its GPU but those with other shares of the same device."""
        for shared, group in self._groups.get(device.gpu_uuid, {}).items():
            if device.share_id is None or shared != device.device:
                yield from group.values()
            else:
                yield from self._shares.get((device.gpu_uuid, device.device, device.share_id), {}).values()

    def ways(self, device: PreparedDevice, *, except_for: str) -> dict[str, Record]:
        """How claims share a device at the moment, with one claim for each way, other than that of this UID."""
        found = {}
        for way, records in self._ways.get((device.gpu_uuid, device.device), {}).items():
            other = next((record for uid, record in records.items() if uid != except_for), None)
            if other is not None:
                found[way] = other
        return found

    def on(self, device: PreparedDevice) -> Iterator[tuple[Record, PreparedDevice]]:
        """Every use of exactly this device, with its claim; looking in does not count."""
        for holder in self.of(device.gpu_uuid):
            for held in holder.devices:
                if held.device == device.device and not held.admin:
                    yield holder, held

    def partitions(self, gpu_uuid: str) -> frozenset[str]:
        """UUIDs of the partitions of a GPU that our records know."""
        known = (device.partition for holder in self.of(gpu_uuid) for device in holder.devices)
        return frozenset(partition.uuid for partition in known if partition is not None)

    def taken(self, device: PreparedDevice, name: str, *, except_for: Record) -> Decimal:
        """How much of a capacity the shares of a device take, but for those of one claim."""
        amounts: Mapping[str, int] = self._taken.get((device.gpu_uuid, device.device, name), {})
        total = sum((parse_quantity(value) * count for value, count in amounts.items()), Decimal())
        groups: Mapping[str, Mapping[str, Record]] = self._groups.get(device.gpu_uuid, {})
        mine = (groups.get(group, {}).get(except_for.claim.uid) for group in (device.device, ""))
        known = next((record for record in mine if record is not None), None)
        return total - consumption(known, device, name) if known is not None else total

    def _leave(self, device: PreparedDevice, record: Record) -> None:
        ways = self._ways[device.gpu_uuid, device.device]
        way = way_of(device.sharing)
        if way in ways:
            ways[way].pop(record.claim.uid, None)
            if not ways[way]:
                del ways[way]
        if not ways:
            del self._ways[device.gpu_uuid, device.device]


def holds(records: Iterable[Record]) -> dict[str, tuple[Hold, ...]]:
    """What claims hold, by GPU UUID; admin access holds nothing."""
    found: defaultdict[str, set[Hold]] = defaultdict(set)
    for record in records:
        for device in record.devices:
            if not device.admin:
                found[device.gpu_uuid].add(Hold(device=device.device, offered=device.offered))
    return {uuid: tuple(sorted(held, key=lambda hold: hold.device)) for uuid, held in found.items()}


def consumption(record: Record, device: PreparedDevice, name: str) -> Decimal:
    """How much of a capacity of one device a claim takes."""
    return sum(
        (
            parse_quantity(value)
            for own in record.devices
            if own.device == device.device and own.share_id is not None and not own.admin
            for key, value in own.consumed
            if key == name
        ),
        Decimal(),
    )


def _group(record: Record, device: PreparedDevice) -> str:
    # What is being undone stands in the way of new shares too.
    shared = device.share_id is not None and not device.admin and record.state is not State.UNDOING
    return device.device if shared else ""
