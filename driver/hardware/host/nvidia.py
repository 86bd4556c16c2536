"""Container edits for NVIDIA's GPUs: everything that a CUDA program needs of the host, and nothing of other GPUs.

Source: what NVIDIA's container toolkit puts into its own specs (pkg/nvcdi).
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from driver.hardware.backend import BackendError
from driver.hardware.host import driver_files, hooks, libraries
from driver.hardware.host.nodes import NodeTable
from driver.hardware.host.root import DriverRoot
from driver.hardware.model import ContainerEdits, Defect, DeviceNode, Mount

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from driver.hardware.model import Gpu, Partition

logger = logging.getLogger(__name__)

KEEP_OTHERS_OUT = "NVIDIA_VISIBLE_DEVICES=void"
"""Keeps NVIDIA's own container runtime, where a node has it, from adding GPUs of its choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverFiles:
    """What one reading of a driver root found."""

    version: str
    """The version that libraries were looked for; empty where nobody knows one."""
    libraries: tuple[libraries.LibraryFile, ...] = ()
    hook_program: hooks.HookProgram | None = None
    edits: ContainerEdits = field(default_factory=ContainerEdits)
    """Mounts and hooks."""

    @property
    def has_cuda(self) -> bool:
        """Whether CUDA programs find their library."""
        return any(library.file.startswith("libcuda.so") for library in self.libraries)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Needed:
    """Files that containers get mounted, as this process sees them, and the directories that they were seen in.

    As long as no name comes or goes in these, none of the files has gone: so much fewer need to be looked at.
    """

    files: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    stamps: tuple[object, ...] = ()


def scan(root: DriverRoot, *, version: str, hook: str, machine: str, kernel: str) -> DriverFiles:
    """Look for everything that containers get of a driver but device files.

    Args:
        root: where the driver is installed.
        version: the loaded kernel driver's, which its libraries have to have; empty where it does not say.
        hook: the setting of NVIDIA's hook program, see ``hooks.find_program``.
        machine: as ``uname -m`` says it.
        kernel: as ``uname -r`` says it.
    """
    version = version or libraries.find_version(root, machine)
    found = libraries.find(root, version, machine)
    program = hooks.find_program(root, hook)
    edits = hooks.library_edits(found, root, program=program, machine=machine, version=version)
    others = driver_files.find(root, version, kernel)
    mounts: dict[str, Mount] = {}
    for mount in (*edits.mounts, *others):
        mounts.setdefault(mount.container_path, mount)
    return DriverFiles(
        version=version,
        libraries=found,
        hook_program=program,
        edits=ContainerEdits(env=edits.env, mounts=tuple(mounts.values()), hooks=edits.hooks),
    )


class NvidiaEdits:
    """The edits as of the last ``refresh``, which looks at the driver's files again only where they have changed.

    All of it may be used in several threads; only ``refresh`` and ``outdated`` look at files, and wait for each other.
    """

    def __init__(
        self,
        root: DriverRoot,
        *,
        hook: str = "",
        dev: Path = Path("/dev"),
        proc: Path = Path("/proc"),
        sysfs: Path = Path("/sys"),
        machine: str | None = None,
    ) -> None:
        self._root = root
        self._hook = hook
        self._dev, self._proc, self._sysfs = dev, proc, sysfs
        self._machine = machine or os.uname().machine
        self._kernel = os.uname().release
        self._looking = threading.Lock()
        self._version: str | None = None
        self._files = DriverFiles(version="")
        self._stamps: Mapping[str, object] | None = None
        self._needed = _Needed()
        self._nodes = self._read_nodes()
        self._places: Mapping[str, str | None] = {}
        """PCI addresses by GPU UUID."""
        self._drm: Mapping[str, tuple[DeviceNode, ...]] = {}
        self.common = ContainerEdits(env=(KEEP_OTHERS_OUT,))
        """For every container that gets any device."""

    def refresh(self, version: str, gpus: Iterable[Gpu] = ()) -> None:
        """See to it that the edits are those for the driver of this version, and for these GPUs."""
        with self._looking:
            self._refresh(version, tuple(gpus))

    def outdated(self) -> bool:
        """Whether a ``refresh`` would find something else than the last one did, for example after an upgrade."""
        with self._looking:
            if self._version is None:
                return False
            return (
                bool(self.missing())
                or self._read_names(self._version) != self._stamps
                or (nodes := self._read_nodes()).fingerprint != self._nodes.fingerprint
                or self._read_drm(nodes, self._places) != self._drm
            )

    def missing(self) -> str:
        """A file that is mounted into containers and has gone since the last ``refresh``; empty if there is none.

        Costs a stat for each directory that they are in, some ten; and where one has changed, a stat for each file.
        """
        needed = self._needed
        stamps = tuple(map(_stamp, needed.directories))
        if stamps == needed.stamps:
            return ""
        gone = next((file for file in needed.files if _stamp(file) is None), "")
        if not gone:
            self._needed = replace(needed, stamps=stamps)
        return gone

    def defects(self) -> tuple[Defect, ...]:
        """What was wrong with the installation at the last ``refresh``."""
        found = []
        if gone := self.missing():
            why = f"{gone} is gone, which is mounted into containers: NVIDIA's driver was or is being replaced"
            remedy = "Finish the upgrade, and load the kernel module anew or reboot this node"
            found.append(Defect(kind="driver-files", why=why, remedy=remedy, blocks=True))
        elif self._version is not None and not self._files.has_cuda:
            found.append(self._no_cuda(self._files.version))
        if self._version is not None and not self._nodes.has_uvm:
            why = "the kernel module nvidia-uvm is not loaded: no CUDA program will start"
            found.append(Defect(kind="no-uvm", why=why, remedy="modprobe nvidia-uvm on this node"))
        return tuple(found)

    def seals_partitions(self, gpu: Gpu) -> str:
        """Why containers cannot be given partitions of a GPU; empty where nothing is known against it."""
        return self._nodes.seals_partitions(gpu.minor) if gpu.minor is not None and gpu.mig_profiles else ""

    def device(self, gpu: Gpu, partition: Partition | None = None) -> ContainerEdits:
        """One GPU, or one partition of it. Raises BackendError where the kernel driver names no files that open it."""
        if gpu.minor is None:
            raise BackendError(f"{gpu.name} cannot be given to a container: its driver does not tell its device file")
        node = self._nodes.gpu(gpu.minor)
        if partition is None:
            return ContainerEdits(device_nodes=(node, *self._drm.get(gpu.uuid, ())))
        capabilities = self._nodes.partition(gpu.minor, partition.gi_id, partition.ci_id)
        if capabilities is None:
            raise BackendError(
                f"{partition.uuid} cannot be given to a container: the kernel has no major for nvidia-caps, "
                "or neither nvidia-caps/mig-minors nor nvidia/capabilities has an entry for it"
            )
        return ContainerEdits(device_nodes=(node, *capabilities))

    def _refresh(self, version: str, gpus: tuple[Gpu, ...]) -> None:
        if (
            version != self._version
            or self.missing()
            or self._stamps is None
            or self._stamps != self._read_names(version)
        ):
            self._scan(version)
        nodes = self._nodes = self._read_nodes()
        self._places = {gpu.uuid: gpu.pci_bus_id for gpu in gpus}
        self._drm = self._read_drm(nodes, self._places)
        edits = self._files.edits
        self.common = ContainerEdits(
            env=(KEEP_OTHERS_OUT, *edits.env), device_nodes=nodes.controls(), mounts=edits.mounts, hooks=edits.hooks
        )
        host = self._root.host.rstrip("/")
        here = [str(self._root.here(mount.host_path.removeprefix(host))) for mount in edits.mounts]
        directories = tuple(dict.fromkeys(map(os.path.dirname, here)))
        self._needed = _Needed(files=tuple(here), directories=directories)  # without stamps: not yet looked at

    def _read_nodes(self) -> NodeTable:
        # A driver container may have device files of its own, which the host has not.
        own = self._root.resolve("/dev/nvidiactl")
        dev = self._root.here("/dev") if own is not None else self._dev
        return NodeTable(dev=dev, proc=self._proc, sysfs=self._sysfs)

    @staticmethod
    def _read_drm(nodes: NodeTable, places: Mapping[str, str | None]) -> Mapping[str, tuple[DeviceNode, ...]]:
        return {uuid: nodes.drm(place) for uuid, place in places.items()}

    def _scan(self, version: str) -> None:
        before, known = self._read_names(version), self._files
        found = scan(self._root, version=version, hook=self._hook, machine=self._machine, kernel=self._kernel)
        # A driver that had CUDA and has it no longer is being replaced: what it had is missed, not given up.
        self._files = known if known.has_cuda and not found.has_cuda else found
        after = self._read_names(version)
        # What changed while we looked is looked at again; directories that are new to us have no stamp from before.
        self._stamps = after if all(after.get(path) == stamp for path, stamp in before.items()) else None
        if self._version is None or known.edits != self._files.edits:
            _report(found, self._root)
        self._version = version

    def _read_names(self, version: str) -> Mapping[str, object]:
        """Changes when there is something new to find: names of libraries, and single files, not their content."""
        watched = {*libraries.CACHES, *driver_files.watched(version), *hooks.watched(self._hook)}
        directories = {
            self._root.resolve(directory)
            for directory in (
                *libraries.search_directories(self._machine),
                *(library.directory for library in self._files.libraries),
            )
        }
        names = {path: libraries.names_of_interest(self._root.names(path)) for path in directories if path is not None}
        return {path: self._stamp_of(path) for path in watched} | names

    def _stamp_of(self, inside: str) -> tuple[int, int] | None:
        resolved = self._root.resolve(inside)
        status = self._root.status(resolved) if resolved is not None else None
        return None if status is None else (status.st_ino, status.st_mtime_ns)

    def _no_cuda(self, version: str) -> Defect:
        others = libraries.find_version(self._root, self._machine)
        only = f" (only {others})" if others and others != version else ""
        wanted = f"libcuda.so.{version or '*'}"
        return Defect(
            kind="no-libcuda",
            why=f"no {wanted} below {self._root.path}{only}: containers get device files, but no CUDA",
            remedy="Set --driver-root to where NVIDIA's driver is installed, and see that its version is that of the "
            "loaded kernel module",
        )


def _report(found: DriverFiles, root: DriverRoot) -> None:
    places = ", ".join(dict.fromkeys(library.directory for library in found.libraries))
    logger.info(
        "driver %s: %d libraries from %s of %s; %s",
        found.version,
        len(found.libraries),
        places or "nowhere",
        root.host,
        f"hooks of {found.hook_program.path}" if found.hook_program else "mounted under their names, without hooks",
    )


def _stamp(path: str) -> object:
    """Differs once a file was replaced, or a name has come or gone in a directory; None for what is not there."""
    try:
        status = os.stat(path)  # noqa: PTH116 - on the prepare path
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns
