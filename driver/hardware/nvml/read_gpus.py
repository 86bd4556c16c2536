"""One reading of all GPUs: what is known of each, and what stands in the way of knowing more.

No odd GPU takes another one with it. One that NVML does not show is described by what the kernel driver says of it;
one that answered before, by what it said then.
"""

from __future__ import annotations

import ctypes
import logging
import uuid as uuids
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from driver.hardware.backend import BackendError
from driver.hardware.model import Cause, Fault, Gpu, MigMode, switches_without_reset
from driver.hardware.nvml import return_codes
from driver.hardware.nvml.enum_names import ADDRESSING_MODES, ARCHITECTURES, BRANDS
from driver.hardware.nvml.reading import GPU_LOST, NO_ANSWER, Reading, distinct, missing, ordered, settled, stand_in
from driver.hardware.nvml.return_codes import NvmlError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from driver.hardware.model import Partition
    from driver.hardware.nvml.kernel import Kernel, KernelGpu, Places
    from driver.hardware.nvml.library import Library
    from driver.hardware.nvml.mig import Mig

logger = logging.getLogger(__name__)

MAX_LINKS = 36
"""NVLinks that are asked for; the header's NVML_NVLINK_MAX_LINKS."""
_LINK_TO_GPU, _LINK_TO_SWITCH = 0, 2
_FABRIC_READY = 3
_TOLD_BY = {
    "memory": ("memory_bytes", "nvmlDeviceGetMemoryInfo"),
    "architecture": ("architecture", "nvmlDeviceGetArchitecture"),
    "compute-capability": ("compute_capability", "nvmlDeviceGetCudaComputeCapability"),
}
"""What a GPU can do without: by the name in a fault, its field and NVML's query."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Surroundings:
    """What a reading knows of GPUs before it asks NVML."""

    places: Places
    kernel: Mapping[str, KernelGpu]
    """By PCI address."""
    uuids: Mapping[str, str]
    """By PCI address, as the kernel says or the last reading found."""


class GpuReader:
    """Reads GPUs through a session of the library, in which the caller is."""

    def __init__(self, library: Library, mig: Mig, kernel: Kernel) -> None:
        self._library = library
        self._mig = mig
        self._kernel = kernel

    def read(self, before: Mapping[str, Reading]) -> tuple[Reading, ...]:
        """All GPUs in order of their PCI address; ``before`` is what the last reading found, by UUID.

        Raises BackendError when there is no driver that tells anything.
        """
        try:
            count = self._library.call("nvmlDeviceGetCount")
        except NvmlError as error:
            raise BackendError(f"NVML cannot count the GPUs, see what nvidia-smi says: {error.reason}") from None
        places = self._kernel.places()
        known = self._kernel.gpus(places)
        former = {gpu.pci_bus_id: gpu.uuid for r in before.values() if (gpu := r.gpu).pci_bus_id and gpu.has_uuid}
        told = {gpu.pci_bus_id: gpu.uuid for gpu in known or () if gpu.uuid}
        around = _Surroundings(
            places=places, kernel={gpu.pci_bus_id: gpu for gpu in known or ()}, uuids={**former, **told}
        )
        found: dict[str, Reading] = {}
        handles: dict[str, Any] = {}
        silent: dict[int, Fault] = {}
        for index in range(count):
            trouble: dict[str, int] = {}
            handle = self._library.ask("nvmlDeviceGetHandleByIndex", index, trouble=trouble)
            reading = self._gpu(index, handle, around, trouble) if handle is not None else None
            if reading is None:
                silent[index] = GPU_LOST if return_codes.LOST & set(trouble.values()) else NO_ANSWER
                logger.error("the GPU with index %d does not answer: %s", index, _why(trouble))
                continue
            found[reading.gpu.uuid], handles[reading.gpu.uuid] = reading, handle
        self._connect(found, handles, places, before)
        found = {uuid: settled(reading, before.get(uuid)) for uuid, reading in found.items()}
        return ordered(distinct((*found.values(), *map(self._placed, missing(found, silent, known, before)))))

    def _gpu(self, index: int, handle: Any, around: _Surroundings, trouble: dict[str, int]) -> Reading | None:
        """One GPU by its handle; None where even its name and place cannot be told."""

        def ask(function: str, **options: Any) -> Any:
            return self._library.ask(function, handle, trouble=trouble, **options)

        info = ask("nvmlDeviceGetPciInfo")
        place = _place(info, around.places)
        kernel = around.kernel.get(place or "")
        told = ask("nvmlDeviceGetUUID") or (kernel.uuid if kernel else None)
        if not told and not place:
            return None
        uuid = told or around.uuids.get(place or "") or stand_in(place or str(index))
        minor = ask("nvmlDeviceGetMinorNumber")
        if minor is None and kernel is not None:
            minor = kernel.minor
        memory = self._memory(handle, trouble)
        capability = ask("nvmlDeviceGetCudaComputeCapability")
        compute_capability = f"{capability[0]}.{capability[1]}" if capability else None
        architecture = ARCHITECTURES.get(ask("nvmlDeviceGetArchitecture"))
        mode = self._mig.mode(handle, trouble)
        profiles = self._mig.profiles(handle, uuid, memory) if mode is not MigMode.UNSUPPORTED else ()
        gpu = Gpu(
            name="",
            uuid=uuid,
            index=index,
            minor=minor,
            product_name=ask("nvmlDeviceGetName") or (kernel.product_name if kernel else ""),
            brand=BRANDS.get(ask("nvmlDeviceGetBrand")),
            architecture=architecture,
            compute_capability=compute_capability,
            memory_bytes=memory,
            pci_bus_id=place,
            pcie_root=self._kernel.pcie_root(place),
            numa_node=(numa_node := self._kernel.numa_node(place)),
            near_nodes=self._kernel.near_nodes(numa_node),
            addressing_mode=ADDRESSING_MODES.get(ask("nvmlDeviceGetAddressingMode")),
            memory_slices=max((start + p.size for p in profiles for start in p.starts), default=0),
            mig_profiles=profiles,
            mig_mode=mode,
            mig_switchable=bool(profiles) and switches_without_reset(compute_capability),
            fabric_clique=self._clique(handle),
        )
        partitions = self._partitions(handle, gpu)
        gpu = replace(gpu, partitions=partitions or ())
        needed = {"uuid": told, "minor": minor, "pci": place}
        unknown = [name for name, value in needed.items() if value in (None, "")]
        unknown += [
            name
            for name, (field, query) in _TOLD_BY.items()
            # What this GPU or driver never tells is no fault; what failed for now is.
            if getattr(gpu, field) is None and trouble.get(query, return_codes.NOT_SUPPORTED) not in return_codes.NEVER
        ]
        lost = bool(return_codes.LOST & set(trouble.values()))
        return Reading(
            gpu=gpu, faults=_faults(unknown, lost=lost), answers=not lost, tells_partitions=partitions is not None
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

    def _connect(
        self,
        found: dict[str, Reading],
        handles: Mapping[str, Any],
        places: Places,
        before: Mapping[str, Reading],
    ) -> None:
        """Fill in which GPUs reach each other over NVLink: linked directly, or through the node's switches.

        NVLink is off as long as a GPU is cut; what it reached before it will reach again.
        """
        by_place = {reading.gpu.pci_bus_id: uuid for uuid, reading in found.items() if reading.gpu.pci_bus_id}
        direct: dict[str, set[str]] = {}
        switched: set[str] = set()
        for uuid, handle in handles.items():
            direct[uuid] = set()
            if found[uuid].gpu.mig_mode is MigMode.ENABLED:
                if uuid in before:
                    direct[uuid] = set(before[uuid].gpu.nvlink_peers) & found.keys()
                continue
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
                    peer = by_place.get(_place(info, places) or "")
                    if peer is not None and peer != uuid:
                        direct[uuid].add(peer)
        for uuid, reading in found.items():
            peers = direct.get(uuid, set()) | (switched - {uuid} if uuid in switched else set())
            peers |= {other for other, reached in direct.items() if uuid in reached}
            found[uuid] = replace(reading, gpu=replace(reading.gpu, nvlink_peers=tuple(sorted(peers))))

    def _placed(self, reading: Reading) -> Reading:
        """With what the kernel knows of a GPU's surroundings, where nobody has said it yet."""
        gpu = reading.gpu
        if gpu.pcie_root is not None and gpu.numa_node is not None:
            return reading
        root, node = self._kernel.pcie_root(gpu.pci_bus_id), self._kernel.numa_node(gpu.pci_bus_id)
        near = self._kernel.near_nodes(node)
        return replace(reading, gpu=replace(gpu, pcie_root=gpu.pcie_root or root, numa_node=node, near_nodes=near))


def _faults(unknown: Sequence[str], *, lost: bool) -> frozenset[Fault]:
    if lost:
        return frozenset({GPU_LOST})
    return frozenset({Fault(cause=Cause.INCOMPLETE, detail="no-" + "-".join(unknown))} if unknown else ())


def _place(info: Any, places: Places) -> str | None:
    """The address that NVML gives; the longer form first, as an old library leaves it empty."""
    return (places.find(info.busId) or places.find(info.busIdLegacy)) if info is not None else None


def _why(trouble: Mapping[str, int]) -> str:
    return (
        ", ".join(f"{function}: {return_codes.words(code)}" for function, code in trouble.items()) or "it says nothing"
    )
