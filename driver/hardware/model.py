"""The device model: what a node has, as plain frozen values. No I/O here; everything else builds on it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class MigProfile:
    """One GPU-instance profile of a GPU model, as NVML's GetGpuInstanceProfileInfo and placements give it.

    ``size`` and ``starts`` count memory slices; a placement is ``(start, size)``.
    """

    name: str
    """Canonical name such as ``1g.10gb`` or ``1g.10gb+me``."""
    profile_id: int
    """NVML profile id: the number that creates an instance (not the enum index)."""
    compute_slices: int
    size: int
    starts: tuple[int, ...]
    max_instances: int
    memory_mib: int
    multiprocessors: int
    copy_engines: int
    decoders: int
    encoders: int
    jpeg_engines: int
    ofa_engines: int

    @property
    def media_extensions(self) -> bool:
        """Whether instances take the GPU's JPEG and optical-flow engines, of which there is one set (``+me``)."""
        return "+me" in self.name


class MigMode(enum.StrEnum):
    """Whether a GPU is cut into partitions at the moment."""

    UNSUPPORTED = "unsupported"
    DISABLED = "disabled"
    ENABLED = "enabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One MIG device that exists: a GPU instance with one compute instance that fills it."""

    gpu_uuid: str
    profile: str
    """Canonical name such as ``1g.10gb+me``."""
    profile_id: int
    start: int
    size: int
    """``start`` and ``size`` count memory slices, as in MigProfile."""
    uuid: str
    """``MIG-<uuid>``; the same placement may get the same one again when it is created anew.

    Empty for one that a crash left unfinished: it takes its slices, and can only be destroyed.
    """
    gi_id: int
    ci_id: int

    @property
    def slots(self) -> frozenset[int]:
        """The memory slices that it occupies."""
        return frozenset(range(self.start, self.start + self.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One physical GPU. What a driver may not tell has a default that says so; a GPU is never left out for it."""

    name: str
    """Device name in the ResourceSlice, ``gpu-<minor>``."""
    uuid: str
    """``GPU-<uuid>``; for one that does not tell it ``unknown-`` and its place, which is not published."""
    index: int
    """NVML's number, which is not the minor; -1 for a GPU that it does not list."""
    minor: int | None = None
    """The number of its device file; None where nobody tells, and then it cannot be given to containers."""
    product_name: str = ""
    """Empty where nobody tells."""
    brand: str | None = None
    architecture: str | None = None
    compute_capability: str | None = None
    """``major.minor``, for example ``9.0``."""
    memory_bytes: int | None = None
    multiprocessors: int | None = None
    pci_bus_id: str | None = None
    """``dddd:bb:dd.f``, lower case."""
    pcie_root: str | None = None
    """``pcidddd:bb``, the root complex that the GPU hangs on."""
    numa_node: int | None = None
    near_nodes: tuple[int, ...] = ()
    """Other NUMA nodes of the same socket, all of them the nearest that there are to ``numa_node``."""
    addressing_mode: str | None = None
    """``HMM``, ``ATS`` or ``None`` as NVML spells them; None where the driver does not say."""
    memory_slices: int = 0
    """MIG memory slices on the die; 0 where the GPU has no MIG."""
    mig_profiles: tuple[MigProfile, ...] = ()
    mig_mode: MigMode = MigMode.UNSUPPORTED
    mig_switchable: bool = False
    """Whether MIG mode goes on and off without a reset of the GPU: Hopper and newer; see ``switches_without_reset``."""
    partitions: tuple[Partition, ...] = ()
    """The MIG devices that existed when the GPU was read, in order of their placement."""
    partitions_sealed: str = ""
    """Why containers cannot be given its partitions, whoever makes them; empty if they can."""
    nvlink_peers: tuple[str, ...] = ()
    """UUIDs of the GPUs that this one reaches over NVLink; empty where nobody knows."""
    fabric_clique: str | None = None
    """``<cluster UUID>.<clique>``: GPUs of several nodes with the same value share memory over NVLink."""

    @property
    def has_uuid(self) -> bool:
        """Whether anybody has told its UUID; what stands in for one is good as long as nobody does."""
        return is_uuid(self.uuid)

    def profile(self, name: str) -> MigProfile | None:
        """The MIG profile of that canonical name, None where this GPU has no such."""
        return next((profile for profile in self.mig_profiles if profile.name == name), None)


def is_uuid(text: str) -> bool:
    """Whether that is a GPU's UUID, and not what stands in for one."""
    return text.startswith("GPU-")


def switches_without_reset(compute_capability: str | None) -> bool:
    """Whether MIG mode can be switched while the GPU stays up: from Hopper on (NVIDIA MIG User Guide)."""
    major = (compute_capability or "").partition(".")[0]
    return major.isdecimal() and int(major) >= 9


def partition_device_name(gpu: str, profile: str, profile_id: int, start: int) -> str:
    """Name of a partition's device: ``gpu-0-mig-1g10gb-19-0``, ``+me`` as in ``1g10gb-me``; as NVIDIA's driver says."""
    label = profile.replace(".", "").replace("+", "-").replace(",", "-")
    return f"{gpu}-mig-{label}-{profile_id}-{start}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """Something that is wrong with the node as a whole or with one device, for as long as it lasts."""

    kind: str
    """One word of a closed set, with ``-``: the value of a taint and the label of a metric."""
    why: str
    """For people: what is wrong."""
    remedy: str = ""
    """What would help; empty where ``why`` says it."""
    blocks: bool = False
    """Whether none of it can be prepared meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All that a backend found on the node, GPUs in order of their PCI address."""

    driver_version: str
    """As the driver reports it, for example ``570.124.06`` (not yet semver)."""
    cuda_version: str
    """CUDA version that the driver supports, ``major.minor``."""
    gpus: tuple[Gpu, ...]
    defects: tuple[Defect, ...] = ()
    """What is wrong with the driver's installation."""

    def by_name(self) -> dict[str, Gpu]:
        """GPUs keyed by device name; of two with one name the first, which is the one that gets published."""
        result: dict[str, Gpu] = {}
        for gpu in self.gpus:
            result.setdefault(gpu.name, gpu)
        return result


class Cause(enum.StrEnum):
    """Why a GPU is not as it should be. The value is the last part of the taint key."""

    XID = "xid"
    ECC = "ecc"
    GPU_LOST = "gpu-lost"
    UNMONITORED = "unmonitored"
    REPAIR = "repair"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong with one GPU right now, as a backend reports it."""

    cause: Cause
    detail: str = ""
    """The XID number for XID, the error class for ECC, what would help for REPAIR, what is not known for INCOMPLETE."""
    slots: frozenset[int] | None = None
    """The memory slices of the one partition that it is confined to; None: it is about all of the GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurred:
    """A fault appeared. Repeating a fault that is known already is harmless."""

    gpu_uuid: str
    fault: Fault
    recovery: str | None = None
    """What the GPU asked for at that moment, as in Account; None where it does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """A GPU has recovered from every fault except those named."""

    gpu_uuid: str
    remaining: frozenset[Fault] = frozenset()
    causes: frozenset[Cause] | None = None
    """Only faults of these causes are meant; of all without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """A GPU that gives no account of itself has had no error for a while: faults that end with a program are over."""

    gpu_uuid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a GPU asks for to get over its errors: ``gpu-reset`` and the like, ``none`` for nothing."""

    gpu_uuid: str
    recovery: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryChanged:
    """GPUs came, went or changed shape: read the inventory again."""


NO_ACTION = "none"
"""The recovery action of a GPU that by its own account needs nothing."""

Event = Occurred | Cleared | Quiet | Account | InventoryChanged


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """A device file to put into a container. ``host_path`` None means the same path as in the container."""

    path: str
    host_path: str | None = None
    type: str = "c"
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A bind mount into a container."""

    host_path: str
    container_path: str
    options: tuple[str, ...] = ("ro", "nosuid", "nodev", "rbind", "rprivate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """An OCI hook; ``args[0]`` repeats the program name."""

    name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerEdits:
    """What a container needs to use a device, in the terms of CDI."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = field(default=())

    def __bool__(self) -> bool:
        """CDI forbids an edit that changes nothing."""
        return bool(self.env or self.device_nodes or self.mounts or self.hooks)
