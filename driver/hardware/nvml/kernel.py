"""What the kernel says of GPUs, in sysfs and in the NVIDIA driver's part of procfs: it needs no NVML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_UUID = re.compile(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BUS_ID = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelGpu:
    """A GPU that the kernel driver has taken, whether or not it works."""

    pci_bus_id: str
    uuid: str | None
    """None where the GPU did not start: then it has question marks."""
    minor: int | None
    product_name: str
    excluded: bool
    """Whether an administrator has told the driver to leave this GPU alone."""


class Kernel:
    """The files, below roots of one's choice."""

    def __init__(self, *, sysfs: Path, proc: Path) -> None:
        self._pci = sysfs / "bus/pci/devices"
        self._devices = sysfs / "devices"
        self._nodes = sysfs / "devices/system/node"
        self._processors = sysfs / "devices/system/cpu"
        self._driver = proc / "driver/nvidia"

    def places(self) -> Places:
        """How addresses are spelt at the moment."""
        return Places(_names(self._pci), _names(self._driver / "gpus"))

    def gpus(self, places: Places) -> tuple[KernelGpu, ...] | None:
        """All GPUs of NVIDIA's kernel driver in order of their PCI address; None where it does not tell."""
        try:
            found = sorted(path for path in (self._driver / "gpus").iterdir())
        except OSError:
            return None
        at = ((places.find(path.name), path) for path in found)
        return tuple(self._gpu(path, place) for place, path in at if place is not None)

    def fingerprint(self) -> object:
        """Something cheap that differs once GPUs have come or gone, or another driver was loaded."""
        try:
            gpus = frozenset(path.name for path in (self._driver / "gpus").iterdir())
        except OSError:
            gpus = None
        return gpus, _read(self._driver / "version")

    def pcie_root(self, bus_id: str | None) -> str | None:
        """First component of the device's place below /sys/devices: ``pci0000:15``."""
        if bus_id is None:
            return None
        try:
            devices = self._devices.resolve()
            place = (self._pci / bus_id).resolve(strict=True).relative_to(devices)
        except (OSError, ValueError):
            return None
        # Below a bridge of its own (Grace, some clouds) the root complex is a component further down.
        return next((part for part in place.parts if re.fullmatch(r"pci[0-9a-f]{4,}:[0-9a-f]{2}", part)), None)

    def numa_node(self, bus_id: str | None) -> int | None:
        """The memory that is near, None where the kernel does not know (-1) or there is no such file."""
        text = _read(self._pci / bus_id / "numa_node") if bus_id is not None else None
        return int(text) if text is not None and text.isdecimal() else None

    def near_nodes(self, node: int | None) -> tuple[int, ...]:
        """The other NUMA nodes of its socket that are no farther than any; empty where the kernel does not tell.

        Distances are those of ACPI's SLIT; what counts as near is for KEP-6072 to say.
        """
        online = sorted(int(name[4:]) for name in _names(self._nodes) if re.fullmatch(r"node[0-9]{1,4}", name))
        distances = (_read(self._nodes / f"node{node}/distance") or "").split()
        if len(distances) != len(online) or not all(text.isdecimal() for text in distances):
            return ()
        others = {other: int(far) for other, far in zip(online, distances, strict=True) if other != node}
        nearest = [other for other, far in others.items() if far == min(others.values())]
        here = self._socket(node)
        return tuple(other for other in nearest if here is not None and self._socket(other) == here)

    def _socket(self, node: int | None) -> str | None:
        """The socket of a NUMA node's processors; None for one that is memory only."""
        first = re.match(r"[0-9]+", _read(self._nodes / f"node{node}/cpulist") or "")
        return _read(self._processors / f"cpu{first[0]}/topology/physical_package_id") if first else None

    def _gpu(self, path: Path, place: str) -> KernelGpu:
        facts = {}
        for line in (_read(path / "information") or "").splitlines():
            key, _, value = line.partition(":")
            facts[key.strip().lower()] = value.strip()
        uuid, minor = facts.get("gpu uuid", "").replace("gpu-", "GPU-"), facts.get("device minor", "")
        return KernelGpu(
            pci_bus_id=place,
            uuid=uuid if _UUID.fullmatch(uuid) else None,
            minor=int(minor) if minor.isdecimal() else None,
            product_name=facts.get("model", "").strip() if facts.get("model", "Unknown") != "Unknown" else "",
            excluded=facts.get("gpu excluded", "").lower() == "yes",
        )


class Places:
    """The PCI addresses of the node, as sysfs spells them; those that it does not have, as the driver's files do.

    Some tell a domain in 32 bits, some only its lower 16, and some with zeros in front: it is one address all the same.
    """

    def __init__(self, sysfs: Iterable[str], procfs: Iterable[str]) -> None:
        self._known: set[str] = set()
        self._short: dict[str, list[str]] = {}
        for name in (*sysfs, *procfs):
            place = self.find(name)
            if place is not None and place not in self._known:
                self._known.add(place)
                self._short.setdefault(_short(place), []).append(place)

    def find(self, text: str | bytes) -> str | None:
        """An address in the one spelling that counts; None for something else."""
        place = bus_id(text)
        if place is None or place in self._known:
            return place
        short = _short(place)
        alike = [other for other in self._short.get(short, ()) if short in (place, other)]
        return alike[0] if len(alike) == 1 else place


def bus_id(text: str | bytes) -> str | None:
    """A PCI address such as ``00000000:1B:00.0`` in the kernel's spelling; None for something else."""
    name = (text.decode(errors="replace") if isinstance(text, bytes) else text).strip().lower()
    if not _BUS_ID.fullmatch(name):
        return None
    domain, _, rest = name.partition(":")
    return f"{domain.lstrip('0').rjust(4, '0')}:{rest}"


def _short(place: str) -> str:
    """An address with the lower half of its domain."""
    domain, _, rest = place.partition(":")
    return f"{domain[-4:]}:{rest}"


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError:
        return []


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
