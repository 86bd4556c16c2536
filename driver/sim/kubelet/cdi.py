"""The runtime's side of CDI: which devices there are, and what a list of them does to a container."""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from driver.sim.kubelet.cdispec import CdiError, DeviceNode, Edits, Hook, Mount, Spec, SpecDevice, read
from driver.sim.kubelet.cdiwatch import SUFFIXES, SpecWatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """The edits of all devices of a container, device nodes with type and numbers filled in from the host."""

    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()
    additional_gids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    device: SpecDevice
    spec: Spec
    path: Path


class CdiCache:
    """The specs of the CDI directories, later directories win. Sub-directories and other suffixes are not looked at.

    They are read at the start, and again when the watch says so: a spec that was only moved in is not known.
    """

    def __init__(self, dirs: Sequence[Path]) -> None:
        self._dirs = tuple(dirs)
        self.devices: dict[str, _Found] = {}
        """By qualified name."""
        self._watch = SpecWatch(self._dirs, outdated=self.refresh)
        self.refresh()

    def watching(self) -> AbstractContextManager[None]:
        """Keep up with the directories while the context lasts; without it that is done at each use."""
        return self._watch.running()

    def refresh(self) -> None:
        """Read the directories again; a file that a runtime would refuse is as if it were not there."""
        self.devices = {}
        for path in self._scan():
            try:
                spec = read(path)
            except FileNotFoundError:
                continue
            except CdiError as error:
                logger.warning("CDI registry refresh failed: failed to load CDI Spec %s", error)
                continue
            self.devices |= {f"{spec.kind}={d.name}": _Found(device=d, spec=spec, path=path) for d in spec.devices}

    def inject(self, names: Iterable[str]) -> Injection:
        """The edits of qualified devices, each once. Raises CdiError with the runtime's words."""
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return Injection()
        self._watch.catch_up()
        unresolved = [name for name in wanted if name not in self.devices]
        if unresolved:
            raise CdiError(f"CDI device injection failed: unresolvable CDI devices {', '.join(unresolved)}")
        edits: list[Edits] = []
        seen: set[Path] = set()
        for name in wanted:
            found = self.devices[name]
            if found.path not in seen:
                seen.add(found.path)
                edits.append(found.spec.container_edits)
            edits.append(found.device.container_edits)
        try:
            return merge(edits)
        except CdiError as error:
            raise CdiError(f"CDI device injection failed: failed to inject devices: {error}") from error

    def _scan(self) -> Iterable[Path]:
        for directory in self._dirs:
            try:
                names = sorted(entry.name for entry in os.scandir(directory) if not entry.is_dir(follow_symlinks=False))
            except FileNotFoundError:
                continue
            except OSError as error:
                logger.warning("cannot read the CDI directory %s: %s", directory, error)
                return
            yield from (directory / name for name in names if name.endswith(SUFFIXES))


def merge(all_edits: Iterable[Edits]) -> Injection:
    """Apply edits one after the other: a later device node or mount for the same path replaces an earlier one."""
    env: list[str] = []
    nodes: dict[str, DeviceNode] = {}
    mounts: dict[str, Mount] = {}
    hooks: list[Hook] = []
    gids: dict[int, None] = {}
    for edits in all_edits:
        env += edits.env
        for node in edits.device_nodes:
            nodes.pop(node.path, None)
            nodes[node.path] = complete(node)
        for mount in edits.mounts:
            mounts.pop(mount.container_path, None)
            mounts[mount.container_path] = mount
        hooks += edits.hooks
        gids.update(dict.fromkeys(gid for gid in edits.additional_gids if gid))
    return Injection(
        env=tuple(env),
        device_nodes=tuple(nodes.values()),
        # Fewer path elements first: a mount never hides one that lies below it.
        mounts=tuple(sorted(mounts.values(), key=lambda mount: mount.container_path.rstrip("/").count("/"))),
        hooks=tuple(hooks),
        additional_gids=tuple(gids),
    )


def complete(node: DeviceNode) -> DeviceNode:
    """Fill in what a spec left to the host's own device file. Raises CdiError when that is needed and not there."""
    sufficient = bool(node.type) and (node.major != 0 or node.type == "p")
    host_path = node.host_path or node.path
    try:
        status = Path(host_path).lstat()
        kind = {stat.S_IFBLK: "b", stat.S_IFCHR: "c", stat.S_IFIFO: "p"}.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            raise OSError("not a device node")
    except OSError as error:
        if sufficient:
            return node.model_copy(update={"host_path": host_path})
        raise CdiError(f'failed to stat CDI host device "{host_path}": {error.strerror or error}') from error
    changes: dict[str, object] = {"host_path": host_path}
    if node.file_mode is None:
        changes["file_mode"] = stat.S_IMODE(status.st_mode)
    if not sufficient:
        if node.type and node.type != kind:
            raise CdiError(f'CDI device ("{node.path}", "{host_path}"), host type mismatch ({node.type}, {kind})')
        changes["type"] = kind
        if kind != "p" and node.major == 0:
            changes |= {"major": os.major(status.st_rdev), "minor": os.minor(status.st_rdev)}
    return node.model_copy(update=changes)
