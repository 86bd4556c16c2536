"""What is known of the node's GPUs, put together from NVML, the kernel and the reading before: pure."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from driver.hardware.model import Cause, Fault, Gpu, MigMode

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping, Sequence

    from driver.hardware.nvml.kernel import KernelGpu

logger = logging.getLogger(__name__)

GPU_LOST = Fault(cause=Cause.GPU_LOST)
NO_ANSWER = Fault(cause=Cause.INCOMPLETE, detail="no-answer")
_LASTING = (
    "minor",
    "product_name",
    "brand",
    "architecture",
    "compute_capability",
    "memory_bytes",
    "pci_bus_id",
    "pcie_root",
    "numa_node",
    "near_nodes",
    "addressing_mode",
)
"""What does not change while a GPU is in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One GPU, as far as it is known."""

    gpu: Gpu
    faults: frozenset[Fault] = frozenset()
    """Why it is not whole: lost, or known in part."""
    answers: bool = True
    """Whether NVML has just told of it."""
    tells_partitions: bool = True
    """Whether what ``gpu`` says of its partitions is how it is cut now."""


def settled(reading: Reading, before: Reading | None) -> Reading:
    """What a GPU told once is true as long as it does not say otherwise: a query that fails does not reshape it."""
    if before is None:
        return reading
    now, was = reading.gpu, before.gpu
    if not reading.answers:
        return replace(reading, gpu=replace(was, index=now.index))
    kept: dict[str, Any] = {name: getattr(was, name) for name in _LASTING if getattr(now, name) in (None, "", ())}
    if now.mig_mode is MigMode.UNSUPPORTED:
        kept |= {"mig_mode": was.mig_mode, "partitions": was.partitions}
    elif not reading.tells_partitions and was.mig_mode is MigMode.ENABLED:
        kept |= {"partitions": was.partitions}
    if not now.mig_profiles:
        kept |= {name: getattr(was, name) for name in ("mig_profiles", "memory_slices", "mig_switchable")}
    return replace(reading, gpu=replace(now, **kept))


def missing(
    found: Mapping[str, Reading],
    silent: Mapping[int, Fault],
    known: Sequence[KernelGpu] | None,
    before: Mapping[str, Reading],
) -> tuple[Reading, ...]:
    """GPUs that are there but not in NVML's list, or in it and silent: each is one, whoever tells of it.

    Args:
        found: those that answer, by UUID.
        silent: what is wrong with those that do not, by their index, of which nobody says which GPU it is.
        known: what the kernel says; None where it says nothing.
        before: what the last reading found; indexes are of this session of NVML, or -1.
    """
    places = {reading.gpu.pci_bus_id for reading in found.values()}
    taken = {gpu.pci_bus_id for gpu in known or ()}
    left = {gpu.pci_bus_id: gpu for gpu in known or () if gpu.pci_bus_id not in places and gpu.uuid not in found}
    former = _former(found, places, before)
    there = [gpu for gpu in former if known is None or gpu.pci_bus_id is None or _is(gpu, left.get(gpu.pci_bus_id))]
    there = [_with_minor(gpu, left.pop(gpu.pci_bus_id or "", None)) for gpu in there]
    there += [_of_kernel(gpu) for gpu in left.values() if not gpu.excluded]
    unclaimed = dict(silent)
    faults = {gpu.uuid: fault for gpu in there if (fault := unclaimed.pop(gpu.index, None)) is not None}
    for gpu in former:
        if any(gpu.uuid == other.uuid for other in there):
            continue
        fault = unclaimed.pop(gpu.index, None) if gpu.pci_bus_id not in taken else None
        if fault is not None:  # NVML has it in its list, although the kernel has let go of it
            there.append(gpu)
            faults[gpu.uuid] = fault
        else:
            logger.warning("%s (%s) has been taken out of the node", gpu.uuid, gpu.pci_bus_id)
    for gpu in sorted(there, key=lambda gpu: gpu.pci_bus_id or "~"):
        if gpu.uuid not in faults:
            faults[gpu.uuid] = unclaimed.pop(min(unclaimed)) if unclaimed else GPU_LOST
    nameless = [(Gpu(name="", uuid=stand_in(str(i)), index=i), fault) for i, fault in sorted(unclaimed.items())]
    readings = [(gpu, faults[gpu.uuid]) for gpu in there] + nameless
    return tuple(Reading(gpu=gpu, faults=frozenset({fault}), answers=False) for gpu, fault in readings)


def _former(found: Mapping[str, Reading], places: Container[str | None], before: Mapping[str, Reading]) -> list[Gpu]:
    """GPUs of the last reading that are not found now; what had only an index to be known by is told anew by that."""
    return [
        reading.gpu
        for uuid, reading in before.items()
        if uuid not in found
        and (reading.gpu.pci_bus_id is None or reading.gpu.pci_bus_id not in places)
        and (reading.gpu.pci_bus_id is not None or reading.gpu.has_uuid)
    ]


def _is(gpu: Gpu, kernel: KernelGpu | None) -> bool:
    """Whether that is what the kernel has in its place; one that has got its UUID since then is known by that."""
    return kernel is not None and not kernel.excluded and kernel.uuid in (None, gpu.uuid)


def _with_minor(gpu: Gpu, kernel: KernelGpu | None) -> Gpu:
    return gpu if kernel is None or kernel.minor is None else replace(gpu, minor=kernel.minor)


def _of_kernel(kernel: KernelGpu) -> Gpu:
    return Gpu(
        name="",
        uuid=kernel.uuid or stand_in(kernel.pci_bus_id),
        index=-1,
        minor=kernel.minor,
        product_name=kernel.product_name,
        pci_bus_id=kernel.pci_bus_id,
    )


def stand_in(place: str) -> str:
    """What a GPU without a UUID is known by here; never published as its UUID."""
    return f"unknown-{place}"


def distinct(readings: Iterable[Reading]) -> tuple[Reading, ...]:
    """The same, but that no two GPUs have one device file.

    The number is that of the one that has just told it; where that is none or several, nobody knows whose it is.
    """
    found = tuple(readings)
    tellers: dict[int, list[str]] = {}
    for reading in sorted(found, key=lambda r: not r.answers):
        if reading.gpu.minor is not None:
            tellers.setdefault(reading.gpu.minor, []).append(reading.gpu.uuid if reading.answers else "")
    owner = {minor: uuids[0] for minor, uuids in tellers.items() if len(uuids) > 1 and len([*filter(None, uuids)]) == 1}
    return tuple(
        reading
        if (minor := reading.gpu.minor) is None or len(tellers[minor]) == 1 or owner.get(minor) == reading.gpu.uuid
        else _without_minor(reading)
        for reading in found
    )


def _without_minor(reading: Reading) -> Reading:
    gpu = reading.gpu
    logger.error(
        "%s: another GPU has the same minor number %s, so its device file is not given out", gpu.uuid, gpu.minor
    )
    unknown = frozenset({Fault(cause=Cause.INCOMPLETE, detail="no-minor")})
    faults = reading.faults if GPU_LOST in reading.faults else reading.faults | unknown
    return replace(reading, gpu=replace(reading.gpu, minor=None), faults=faults)


def ordered(readings: Iterable[Reading]) -> tuple[Reading, ...]:
    """In order of PCI addresses, with device names: ``gpu-<minor>``, or what is free where that is unknown."""
    ordered = sorted(readings, key=lambda r: (r.gpu.pci_bus_id or "~", r.gpu.index))
    taken: set[str] = set()
    names: dict[str, str] = {}
    # Those whose minor is known come first: nobody else may be called as they are.
    for reading in sorted(ordered, key=lambda r: r.gpu.minor is None):
        gpu = reading.gpu
        number = gpu.index if gpu.minor is None else gpu.minor
        name = f"gpu-{number}"
        if number < 0 or name in taken:
            name = "gpu-" + "".join(c if c.isalnum() else "-" for c in gpu.uuid.lower().removeprefix("gpu-"))
        taken.add(name)
        names[gpu.uuid] = name
    return tuple(replace(reading, gpu=replace(reading.gpu, name=names[reading.gpu.uuid])) for reading in ordered)
