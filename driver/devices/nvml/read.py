"""One look at all GPUs: what is known of each, and what stands in the way of knowing more.

No odd GPU takes another one with it. One that NVML does not show is described by what the kernel driver says of it;
one that answered before, by what it said then.
"""

from __future__ import annotations

import ctypes
import logging
import uuid as uuids
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from driver.devices.backend import BackendError
from driver.devices.model import Cause, Fault, Gpu, MigMode, switches_without_reset
from driver.devices.nvml import errors
from driver.devices.nvml.errors import NvmlError
from driver.devices.nvml.kernel import bus_id
from driver.devices.nvml.names import ADDRESSING_MODES, ARCHITECTURES, BRANDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from driver.devices.model import Partition
    from driver.devices.nvml.kernel import Kernel, KernelGpu
    from driver.devices.nvml.library import Library
    from driver.devices.nvml.mig import Mig

logger = logging.getLogger(__name__)

GPU_LOST = Fault(cause=Cause.GPU_LOST)
NO_ANSWER = Fault(cause=Cause.INCOMPLETE, detail="no-answer")
MAX_LINKS = 36
"""NVLinks that are asked for; the header's NVML_NVLINK_MAX_LINKS."""
_LINK_TO_GPU, _LINK_TO_SWITCH = 0, 2
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
    "addressing_mode",
)
"""What does not change while a GPU is in its place."""
_FABRIC_READY = 3


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


class Reader:
    """Reads GPUs through a session of the library, in which the caller is."""

    def __init__(self, library: Library, mig: Mig, kernel: Kernel) -> None:
        self._library = library
        self._mig = mig
        self._kernel = kernel

    def read(self, before: Mapping[str, Reading]) -> tuple[Reading, ...]:
        """All GPUs in order of their PCI address; ``before`` is what the last look found, by UUID.

        Raises BackendError when there is no driver that tells anything.
        """
        try:
            count = self._library.call("nvmlDeviceGetCount")
        except NvmlError as error:
            raise BackendError(f"NVML cannot count the GPUs, see what nvidia-smi says: {error.reason}") from None
        known = self._kernel.gpus()
        by_place = {gpu.pci_bus_id: gpu for gpu in known or ()}
        found: dict[str, Reading] = {}
        handles: dict[str, Any] = {}
        silent: dict[int, Fault] = {}
        for index in range(count):
            trouble: dict[str, int] = {}
            handle = self._library.ask("nvmlDeviceGetHandleByIndex", index, trouble=trouble)
            reading = self._gpu(index, handle, by_place, trouble) if handle is not None else None
            if reading is None:
                silent[index] = GPU_LOST if errors.LOST & set(trouble.values()) else NO_ANSWER
                logger.error("the GPU with index %d does not answer: %s", index, _why(trouble))
                continue
            found[reading.gpu.uuid], handles[reading.gpu.uuid] = reading, handle
        self._connect(found, handles)
        found = {uuid: _settled(reading, before.get(uuid)) for uuid, reading in found.items()}
        self._add_missing(found, silent, known, before)
        return _ordered(found.values())

    def _gpu(
        self, index: int, handle: Any, by_place: Mapping[str, KernelGpu], trouble: dict[str, int]
    ) -> Reading | None:
        """One GPU by its handle; None where even its name and place cannot be told."""

        def ask(function: str, **options: Any) -> Any:
            return self._library.ask(function, handle, trouble=trouble, **options)

        info = ask("nvmlDeviceGetPciInfo")
        place = (bus_id(info.busId) or bus_id(info.busIdLegacy)) if info is not None else None
        kernel = by_place.get(place or "")
        uuid = ask("nvmlDeviceGetUUID") or (kernel.uuid if kernel else None)
        if not uuid and not place:
            return None
        minor = ask("nvmlDeviceGetMinorNumber")
        if minor is None and kernel is not None:
            minor = kernel.minor
        memory = self._memory(handle, trouble)
        capability = ask("nvmlDeviceGetCudaComputeCapability")
        compute_capability = f"{capability[0]}.{capability[1]}" if capability else None
        architecture = ARCHITECTURES.get(ask("nvmlDeviceGetArchitecture"))
        mode = self._mig.mode(handle, trouble)
        profiles = self._mig.profiles(handle, uuid or "", memory) if mode is not MigMode.UNSUPPORTED else ()
        gpu = Gpu(
            name="",
            uuid=uuid or _stand_in(place or str(index)),
            index=index,
            minor=minor,
            product_name=ask("nvmlDeviceGetName") or (kernel.product_name if kernel else ""),
            brand=BRANDS.get(ask("nvmlDeviceGetBrand")),
            architecture=architecture,
            compute_capability=compute_capability,
            memory_bytes=memory,
            multiprocessors=None,
            pci_bus_id=place,
            pcie_root=self._kernel.pcie_root(place),
            numa_node=self._kernel.numa_node(place),
            addressing_mode=ADDRESSING_MODES.get(ask("nvmlDeviceGetAddressingMode")),
            memory_slices=max((start + p.size for p in profiles for start in p.starts), default=0),
            mig_profiles=profiles,
            mig_mode=mode,
            mig_switchable=bool(profiles) and switches_without_reset(compute_capability),
            fabric_clique=self._clique(handle),
        )
        partitions = self._partitions(handle, gpu)
        gpu = replace(gpu, partitions=partitions or ())
        missing = {
            "uuid": uuid,
            "minor": minor,
            "memory": memory,
            "architecture": architecture,
            "compute-capability": compute_capability,
            "pci": place,
        }
        lost = bool(errors.LOST & set(trouble.values()))
        return Reading(
            gpu=gpu, faults=_faults(missing, lost=lost), answers=not lost, tells_partitions=partitions is not None
        )

    def _memory(self, handle: Any, trouble: dict[str, int]) -> int | None:
        query = "nvmlDeviceGetMemoryInfo"
        memory = self._library.ask(query, handle, trouble=trouble)
        if memory is None and (version := self._library.constant("nvmlMemory_v2", None)) is not None:
            memory = self._library.ask(query, handle, version=version)
        return int(memory.total) if memory is not None and memory.total else None

    def _partitions(self, handle: Any, gpu: Gpu) -> tuple[Partition, ...] | None:
        """A GPU's partitions, None if it does not tell them: it is still published as far as it goes."""
        if gpu.mig_mode is not MigMode.ENABLED:
            return ()
        try:
            return self._mig.partitions(handle, gpu.uuid)
        except BackendError as error:
            logger.error("%s", error)
            return None

    def _clique(self, handle: Any) -> str | None:
        """``<cluster UUID>.<clique>``, once the fabric manager has finished with the GPU."""
        library = self._library
        for query, structure in (
            ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v3_t"),
            ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v2_t"),
            ("nvmlDeviceGetGpuFabricInfo", "c_nvmlGpuFabricInfo_t"),
        ):
            kind = library.constant(structure, None)
            if kind is None:
                continue
            info = kind()
            if library.ask(query, handle, ctypes.byref(info)) is None:
                continue
            cluster = bytes(info.clusterUuid)
            if info.state & 0xFF != _FABRIC_READY or info.status or not any(cluster):
                return None
            return f"{uuids.UUID(bytes=cluster)}.{info.cliqueId}"
        return None

    def _connect(self, found: dict[str, Reading], handles: Mapping[str, Any]) -> None:
        """Fill in which GPUs reach each other over NVLink: linked directly, or through the node's switches."""
        by_place = {reading.gpu.pci_bus_id: uuid for uuid, reading in found.items() if reading.gpu.pci_bus_id}
        direct: dict[str, set[str]] = {}
        switched: set[str] = set()
        for uuid, handle in handles.items():
            direct[uuid] = set()
            if found[uuid].gpu.mig_mode is MigMode.ENABLED:
                continue  # NVLink is off as long as a GPU is cut
            for link in range(MAX_LINKS):
                active = self._library.probe("nvmlDeviceGetNvLinkState", handle, link)
                if active is None:  # it has no more of them
                    break
                kind = self._library.ask("nvmlDeviceGetNvLinkRemoteDeviceType", handle, link) if active else None
                if kind == _LINK_TO_SWITCH:
                    switched.add(uuid)
                    break
                if active and kind in (_LINK_TO_GPU, None):
                    info = self._library.ask("nvmlDeviceGetNvLinkRemotePciInfo", handle, link)
                    place = (bus_id(info.busId) or bus_id(info.busIdLegacy)) if info is not None else None
                    peer = by_place.get(place or "")
                    if peer is not None and peer != uuid:
                        direct[uuid].add(peer)
        for uuid, reading in found.items():
            peers = direct.get(uuid, set()) | (switched - {uuid} if uuid in switched else set())
            found[uuid] = replace(reading, gpu=replace(reading.gpu, nvlink_peers=tuple(sorted(peers))))

    def _add_missing(
        self,
        found: dict[str, Reading],
        silent: dict[int, Fault],
        known: tuple[KernelGpu, ...] | None,
        before: Mapping[str, Reading],
    ) -> None:
        """GPUs that are there but not in NVML's list, or in it and silent."""
        places = {reading.gpu.pci_bus_id for reading in found.values()}
        left = {gpu.pci_bus_id: gpu for gpu in known or () if gpu.pci_bus_id not in places and gpu.uuid not in found}
        for uuid, reading in before.items():
            if uuid in found:
                continue
            place = reading.gpu.pci_bus_id
            if known is not None and place is not None and place not in left and reading.gpu.index not in silent:
                logger.warning("%s (%s) has been taken out of the node", uuid, place)
                continue
            left.pop(place or "", None)
            fault = silent.pop(reading.gpu.index, GPU_LOST)
            found[uuid] = Reading(gpu=reading.gpu, faults=frozenset({fault}), answers=False)
        for kernel in left.values():
            if kernel.excluded:
                logger.info("the GPU at %s is excluded by its driver's configuration", kernel.pci_bus_id)
                continue
            gpu = self._unread(kernel.uuid or _stand_in(kernel.pci_bus_id), index=-1)
            gpu = replace(gpu, minor=kernel.minor, product_name=kernel.product_name, pci_bus_id=kernel.pci_bus_id)
            gpu = replace(gpu, pcie_root=self._kernel.pcie_root(kernel.pci_bus_id))
            gpu = replace(gpu, numa_node=self._kernel.numa_node(kernel.pci_bus_id))
            index = min(silent, default=None)
            fault = silent.pop(index) if index is not None else GPU_LOST
            found[gpu.uuid] = Reading(gpu=gpu, faults=frozenset({fault}), answers=False)
        for index, fault in silent.items():
            gpu = self._unread(_stand_in(str(index)), index=index)
            found[gpu.uuid] = Reading(gpu=gpu, faults=frozenset({fault}), answers=False)

    @staticmethod
    def _unread(uuid: str, *, index: int) -> Gpu:
        return Gpu(
            name="",
            uuid=uuid,
            index=index,
            minor=None,
            product_name="",
            brand=None,
            architecture=None,
            compute_capability=None,
            memory_bytes=None,
            multiprocessors=None,
            pci_bus_id=None,
            pcie_root=None,
            numa_node=None,
        )


def _faults(missing: Mapping[str, object], *, lost: bool) -> frozenset[Fault]:
    if lost:
        return frozenset({GPU_LOST})
    names = [name for name, value in missing.items() if value is None]
    return frozenset({Fault(cause=Cause.INCOMPLETE, detail="no-" + "-".join(names))} if names else ())


def _settled(reading: Reading, before: Reading | None) -> Reading:
    """What a GPU told once is true as long as it does not say otherwise: a query that fails does not reshape it."""
    if before is None:
        return reading
    now, was = reading.gpu, before.gpu
    if not reading.answers:
        return replace(reading, gpu=replace(was, index=now.index))
    kept: dict[str, Any] = {name: getattr(was, name) for name in _LASTING if getattr(now, name) in (None, "")}
    if now.mig_mode is MigMode.UNSUPPORTED:
        kept |= {"mig_mode": was.mig_mode, "partitions": was.partitions}
    elif not reading.tells_partitions and was.mig_mode is MigMode.ENABLED:
        kept |= {"partitions": was.partitions}
    if not now.mig_profiles:
        kept |= {name: getattr(was, name) for name in ("mig_profiles", "memory_slices", "mig_switchable")}
    return replace(reading, gpu=replace(now, **kept))


def _why(trouble: Mapping[str, int]) -> str:
    return ", ".join(f"{function}: {errors.words(code)}" for function, code in trouble.items()) or "it says nothing"


def _stand_in(place: str) -> str:
    """What a GPU without a UUID is known by here; never published as its UUID."""
    return f"unknown-{place}"


def _ordered(readings: Iterable[Reading]) -> tuple[Reading, ...]:
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
