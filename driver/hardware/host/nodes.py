"""Device files with their type and numbers, so that a runtime need not find them on the host.

The kernel's own list of majors counts more than a file: of a module that was loaded again, a file may be out of date,
and a container's ``/dev`` is a copy from when it started.
Source: the kernel's Documentation/admin-guide/devices.txt (major 195), NVIDIA's MIG User Guide ("Device Nodes").
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.hardware.model import DeviceNode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NVIDIA_MAJOR = 195
"""Assigned to NVIDIA for good; all other majors of the driver change from boot to boot."""

_CAPABILITY = re.compile(r"gpu([0-9]+)/gi([0-9]+)/(?:ci([0-9]+)/)?access ([0-9]+)")
_CAPABILITY_MINOR = re.compile(r"^DeviceFileMinor:\s*([0-9]+)\s*$", re.MULTILINE)
_DRM_NAME = re.compile(r"(card|renderD)[0-9]+")
_DRM_NUMBERS = re.compile(r"([0-9]+):([0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Control:
    name: str
    majors: tuple[str, ...]
    """Names in the kernel's list, one of which the module goes by."""
    minor: int
    major: int | None = None
    """Where the list does not have it."""


_GPU_MAJORS = ("nvidia", "nvidia-frontend")
_CONTROLS = (
    _Control(name="nvidiactl", majors=("nvidiactl", *_GPU_MAJORS), minor=255, major=NVIDIA_MAJOR),
    _Control(name="nvidia-modeset", majors=("nvidia-modeset",), minor=254, major=NVIDIA_MAJOR),
    _Control(name="nvidia-uvm", majors=("nvidia-uvm",), minor=0),
    _Control(name="nvidia-uvm-tools", majors=("nvidia-uvm",), minor=1),
)


class NodeTable:
    """The device files of one moment. Read once; afterwards everything but an odd kernel's capability is in memory."""

    def __init__(self, *, dev: Path, proc: Path, sysfs: Path) -> None:
        self._dev, self._proc, self._sysfs = dev, proc, sysfs
        self._majors = majors(_text(proc / "devices"))
        self._capabilities = capabilities(_text(proc / "driver/nvidia-caps/mig-minors"))
        self._unlisted = (proc / "driver/nvidia/capabilities").is_dir()
        """Whether the kernel driver tells capabilities by files that come with an instance."""

    @property
    def fingerprint(self) -> object:
        """Equal for two tables that give the same answers."""
        present = tuple(self._status(control.name) is not None for control in _CONTROLS)
        return (tuple(sorted(self._majors.items())), tuple(self._capabilities), self._unlisted, present)

    @property
    def has_uvm(self) -> bool:
        """Whether the module is loaded without which no CUDA program starts."""
        return "nvidia-uvm" in self._majors or self._status("nvidia-uvm") is not None

    def controls(self) -> tuple[DeviceNode, ...]:
        """Those that every container needs: of modules that are loaded, or whose files are there."""
        nodes = []
        for control in _CONTROLS:
            status = self._status(control.name)
            listed = next((self._majors[name] for name in control.majors if name in self._majors), None)
            if status is None and listed is None:
                continue
            known = os.major(status.st_rdev) if status is not None and stat.S_ISCHR(status.st_mode) else None
            major = next((number for number in (listed, known, control.major) if number is not None), None)
            if major is None:
                continue
            nodes.append(_node(f"/dev/{control.name}", major, control.minor, status))
        return tuple(nodes)

    def gpu(self, minor: int) -> DeviceNode:
        """A GPU's own file, whether or not anybody has made it yet."""
        major = next((self._majors[name] for name in _GPU_MAJORS if name in self._majors), NVIDIA_MAJOR)
        return _node(f"/dev/nvidia{minor}", major, minor, self._status(f"nvidia{minor}"))

    def drm(self, pci_bus_id: str | None) -> tuple[DeviceNode, ...]:
        """The files by which rendering and video programs open a GPU; none where nvidia-drm is not loaded."""
        nodes = []
        for entry in _entries(self._sysfs / "bus/pci/devices" / pci_bus_id / "drm") if pci_bus_id else ():
            numbers = _DRM_NUMBERS.fullmatch(_text(entry / "dev").strip())
            if _DRM_NAME.fullmatch(entry.name) and numbers:
                major, minor = int(numbers[1]), int(numbers[2])
                nodes.append(_node(f"/dev/dri/{entry.name}", major, minor, self._status(f"dri/{entry.name}")))
        return tuple(nodes)

    def seals_partitions(self, gpu: int) -> str:
        """Why no partition of the GPU with this minor can be given to containers; empty where nothing is against it."""
        if "nvidia-caps" not in self._majors:
            return "the kernel has no major for nvidia-caps (/proc/devices), so no container can open its partitions"
        if not self._unlisted and not any(known == gpu for known, _, _ in self._capabilities):
            return (
                "the kernel driver tells no device files of its partitions (neither nvidia-caps/mig-minors nor "
                "nvidia/capabilities below /proc/driver has it), so no container can open them"
            )
        return ""

    def partition(self, gpu: int, gi: int, ci: int) -> tuple[DeviceNode, ...] | None:
        """What opens a GPU instance and the compute instance in it; None where the kernel driver names no such files.

        ``gpu`` is the GPU's minor number.
        """
        major = self._majors.get("nvidia-caps")
        minors = [self._capability(gpu, gi, None), self._capability(gpu, gi, ci)]
        if major is None or None in minors:
            return None
        return tuple(
            DeviceNode(path=f"/dev/nvidia-caps/nvidia-cap{minor}", major=major, minor=minor, file_mode=0o444)
            for minor in minors
        )

    def _capability(self, gpu: int, gi: int, ci: int | None) -> int | None:
        known = self._capabilities.get((gpu, gi, ci))
        if known is not None:
            return known
        # Only drivers without the list come here; these files exist no sooner than the instance does.
        part = "" if ci is None else f"ci{ci}/"
        path = self._proc / f"driver/nvidia/capabilities/gpu{gpu}/mig/gi{gi}/{part}access"
        match = _CAPABILITY_MINOR.search(_text(path))
        return int(match[1]) if match else None

    def _status(self, name: str) -> os.stat_result | None:
        try:
            return (self._dev / name).stat()
        except OSError:
            return None


def majors(text: str) -> dict[str, int]:
    """Majors of character devices by the name of their module, from ``/proc/devices``."""
    lines = text.partition("Block devices:")[0].splitlines()
    pairs = (line.split() for line in lines)
    return {pair[1]: int(pair[0]) for pair in pairs if len(pair) == 2 and pair[0].isdecimal()}


def capabilities(text: str) -> Mapping[tuple[int, int, int | None], int]:
    """Minors by GPU minor, GPU instance, and compute instance or None, from ``nvidia-caps/mig-minors``."""
    matches = (match for match in map(_CAPABILITY.fullmatch, text.splitlines()) if match is not None)
    return {(int(m[1]), int(m[2]), None if m[3] is None else int(m[3])): int(m[4]) for m in matches}


def _node(path: str, major: int, minor: int, status: os.stat_result | None) -> DeviceNode:
    is_device = status is not None and stat.S_ISCHR(status.st_mode)
    # NVIDIA's default, which the driver in a container expects to find.
    mode = stat.S_IMODE(status.st_mode) if status is not None and is_device else 0o666
    return DeviceNode(path=path, major=major, minor=minor, file_mode=mode)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []
