"""Who uses how much of what: pure. What nobody can tell is None, and never 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.base.quantity import parse_quantity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from driver.claims import PodRef, PreparedDevice, Record
    from driver.hardware import DeviceUse, ProcessUse
    from driver.usage.sampler import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One device of one claim, with the pods that use it."""

    record: Record
    device: PreparedDevice
    pods: tuple[PodRef, ...]

    @property
    def uuid(self) -> str:
        """The device's own UUID: of the MIG device, or of the GPU."""
        partition = self.device.partition
        return self.device.gpu_uuid if partition is None else partition.uuid

    @property
    def profile(self) -> str:
        """Of a partition; empty for a whole GPU."""
        if self.device.partition is not None:
            return self.device.partition.profile
        return self.device.placement.profile if self.device.placement is not None else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What a claim, or a pod, uses of a device."""

    memory: float | None = None
    """Bytes."""
    utilisation: float | None = None
    """From 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What is used of one holding."""

    holding: Holding
    used: Used
    by_pod: Mapping[PodRef, Used]
    memory_total: float | None = None
    """Bytes that the claim may use."""
    sm_active: float | None = None
    """From 0 to 1; of a device that nobody else has."""


NOTHING_KNOWN = Used()


def holdings(records: Iterable[Record], pods: Mapping[str, tuple[PodRef, ...]]) -> Iterator[Holding]:
    """What claims hold: admin access holds nothing. ``pods`` are those that are known by now, by claim UID."""
    for record in records:
        known = pods.get(record.claim.uid, record.pods)
        for device in record.devices:
            if not device.admin:
                yield Holding(record=record, device=device, pods=known)


def attribute(held: Iterable[Holding], samples: Mapping[str, Sample]) -> Iterator[Account]:
    """What each holding uses of its device, but for those of which nothing is known. ``samples`` are by GPU UUID."""
    by_device: dict[tuple[str, str], list[Holding]] = {}
    for holding in held:
        by_device.setdefault((holding.device.gpu_uuid, holding.device.device), []).append(holding)
    for (gpu_uuid, _), sharers in by_device.items():
        sample = samples.get(gpu_uuid)
        if sample is None:
            continue
        use = sample.measurement.whole
        if not sharers[0].device.whole:
            found = sample.measurement.partitions.get(sharers[0].uuid)
            if found is None:
                continue
            use = found
        for holding in sharers:
            yield _account(holding, sharers, use, sample)


def _account(holding: Holding, sharers: list[Holding], use: DeviceUse, sample: Sample) -> Account:
    alone = holding.device.share_id is None
    total = None if use.memory_total is None else float(use.memory_total)
    taken = dict(holding.device.consumed).get("memory")
    if taken is not None and not alone and (amount := float(parse_quantity(taken))) > 0:
        total = amount
    if use.divided:
        used, by_pod = _divided(holding, sharers, use)
    else:
        by_pod = {pod: _of_pod(pod, holding, sharers, use, sample) for pod in holding.pods}
        used = Used(memory=use.memory_used, utilisation=use.utilisation) if alone else _together(by_pod.values())
        if alone and len(holding.pods) == 1:
            by_pod = {holding.pods[0]: used}
    return Account(
        holding=holding, used=used, by_pod=by_pod, memory_total=total, sm_active=use.sm_active if alone else None
    )


def _divided(holding: Holding, sharers: list[Holding], use: DeviceUse) -> tuple[Used, dict[PodRef, Used]]:
    part = _part(holding, sharers)
    pods = len(holding.pods)
    used = _times(Used(memory=use.memory_used, utilisation=use.utilisation), part)
    return used, {pod: _times(used, 1 / pods) for pod in holding.pods}


def _of_pod(pod: PodRef, holding: Holding, sharers: list[Holding], use: DeviceUse, sample: Sample) -> Used:
    """What its processes use; of a pod with several claims on the device, the claim's part of that."""
    own = [process for process in use.processes or () if sample.pods.get(process.pid) == pod.uid]
    if use.processes is None or not (own or sample.all_seen):
        return NOTHING_KNOWN
    mine = [other for other in sharers if pod in other.pods]
    # Partitions do not tell their processes' utilisation: that there are none must not look like that of somebody.
    telling = (
        all(process.utilisation is not None for process in use.processes) if use.processes else holding.device.whole
    )
    return _times(_sum(own, telling=telling), _part(holding, mine))


def _sum(own: list[ProcessUse], *, telling: bool) -> Used:
    memory = [process.memory_bytes for process in own]
    busy = [process.utilisation for process in own]
    return Used(
        memory=None if None in memory else float(sum(value for value in memory if value is not None)),
        utilisation=min(sum(value for value in busy if value is not None), 1.0) if telling else None,
    )


def _part(holding: Holding, among: list[Holding]) -> float:
    """By weight; equal parts where nobody has any."""
    weights = [other.device.weight or 0.0 for other in among]
    return (holding.device.weight or 0.0) / sum(weights) if sum(weights) else 1 / max(len(among), 1)


def _together(used: Iterable[Used]) -> Used:
    each = list(used)
    memory = [one.memory for one in each]
    busy = [one.utilisation for one in each]
    return Used(
        memory=sum(value for value in memory if value is not None) if each and None not in memory else None,
        utilisation=min(sum(value for value in busy if value is not None), 1.0) if each and None not in busy else None,
    )


def _times(used: Used, part: float) -> Used:
    return Used(
        memory=None if used.memory is None else used.memory * part,
        utilisation=None if used.utilisation is None else used.utilisation * part,
    )
