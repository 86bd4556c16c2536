"""How libraries are found in a container whose image nobody here knows.

With NVIDIA's hook program on the host, it makes the links and the linker's cache in the container, as everywhere else.
Without it nothing runs at all: each library is mounted under every name that programs load it by, into the directories
where every glibc looks without a cache. A program of ours that works as root in a file system which somebody else's
image has prepared would be a way out of the container.
"""

from __future__ import annotations

import logging
import mmap
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.hardware.host.libraries import MULTIARCH
from driver.hardware.model import ContainerEdits, Hook, Mount

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from driver.hardware.host.libraries import LibraryFile
    from driver.hardware.host.root import DriverRoot

logger = logging.getLogger(__name__)

NO_HOOKS = "none"
"""Value of the setting that keeps NVIDIA's hooks out."""

_PROGRAMS = (
    "/usr/bin/nvidia-cdi-hook",
    "/usr/local/nvidia/toolkit/nvidia-cdi-hook",
    "/usr/local/bin/nvidia-cdi-hook",
    "/usr/bin/nvidia-ctk",
    "/usr/local/nvidia/toolkit/nvidia-ctk",
    "/run/current-system/sw/bin/nvidia-cdi-hook",
)
_LDCONFIGS = ("/sbin/ldconfig.real", "/sbin/ldconfig")
_LINKS, _CACHE = "create-symlinks", "update-ldcache"
_REQUIRED = frozenset({_LINKS, _CACHE})
_OPTIONAL = ("enable-cuda-compat", "disable-device-node-modification")
_LDCONFIG_OPTION = "ldconfig-path"


@dataclass(frozen=True, slots=True, kw_only=True)
class HookProgram:
    """NVIDIA's hook program, as far as it concerns us."""

    path: str
    """On the host, where runtimes start it."""
    commands: frozenset[str]
    """What it can do: an unknown one would keep every container from starting."""
    ldconfig: str | None = None
    """The ldconfig that it shall use, on the host; None for its own choice, ``/sbin/ldconfig``."""


def find_program(root: DriverRoot, setting: str) -> HookProgram | None:
    """The program that the setting names, or that the host has; None where it is not to be used, or would fail.

    Args:
        root: the driver's. Programs of the host can be looked at only where that is the host's own root.
        setting: a path on the host, ``none``, or nothing to have it looked for.
    """
    if setting == NO_HOOKS:
        return None
    ldconfig = root.find(*_LDCONFIGS)
    if not root.is_host:
        if not setting:
            return None
        # It cannot be seen from here: only what every version of it knows.
        own = root.on_host(ldconfig) if ldconfig is not None else None
        return HookProgram(path=setting, commands=_REQUIRED, ldconfig=own)
    if ldconfig is None:
        _refused(setting, "the host has no /sbin/ldconfig, which it needs")
        return None
    for path in (setting,) if setting else _PROGRAMS:
        found = root.find(path)
        if found is None:
            continue
        commands = _commands(root, found)
        if commands >= _REQUIRED:
            return HookProgram(path=path, commands=commands)
        _refused(path, f"it does not know {', '.join(sorted(_REQUIRED - commands))}")
    if setting and root.find(setting) is None:
        _refused(setting, "it is not there")
    return None


def watched(setting: str) -> tuple[str, ...]:
    """Files in the root on which ``find_program`` depends."""
    return () if setting == NO_HOOKS else ((setting,) if setting else _PROGRAMS) + _LDCONFIGS


def library_edits(
    libraries: Sequence[LibraryFile], root: DriverRoot, *, program: HookProgram | None, machine: str, version: str
) -> ContainerEdits:
    """Mounts of the libraries, and what makes them findable."""
    if not libraries:
        return ContainerEdits()
    if program is None:
        return ContainerEdits(mounts=tuple(_under_every_name(libraries, root, loader_directories(libraries, machine))))
    mounts = [Mount(host_path=root.on_host(library.path), container_path=library.path) for library in libraries]
    directories = list(dict.fromkeys(library.directory for library in libraries))
    return ContainerEdits(
        env=(f"NVIDIA_CTK_LIBCUDA_DIR={directories[0]}",),
        mounts=tuple(mounts),
        hooks=tuple(_hooks(program, libraries, version)),
    )


def loader_directories(libraries: Iterable[LibraryFile], machine: str) -> tuple[str, ...]:
    """Where glibc looks without a cache: on Debian and what comes from it, and everywhere else; the host's own first.

    Source: ld.so(8), and Debian's and Ubuntu's patch for multiarch directories.
    """
    usual = (f"/usr/lib/{MULTIARCH.get(machine, f'{machine}-linux-gnu')}", "/usr/lib64")
    own = [directory for directory in dict.fromkeys(library.directory for library in libraries) if directory in usual]
    return tuple(dict.fromkeys((*own, *usual)))


def _under_every_name(
    libraries: Iterable[LibraryFile], root: DriverRoot, directories: Sequence[str]
) -> Iterable[Mount]:
    for library in libraries:
        for directory in directories:
            # Nobody asks for a file by its full name if that is not its soname; once is enough to see the version.
            by_file = directory == directories[0] or posixpath.basename(library.file) == library.soname
            own = [library.file] if by_file else []
            for name in dict.fromkeys((*own, *library.names)):
                yield Mount(host_path=root.on_host(library.path), container_path=posixpath.join(directory, name))


def _hooks(program: HookProgram, libraries: Sequence[LibraryFile], version: str) -> Iterable[Hook]:
    links = [
        f"{posixpath.relpath(library.file, posixpath.dirname(name) or '.')}::{posixpath.join(library.directory, name)}"
        for library in libraries
        for name in library.names
    ]
    if links:
        yield _hook(program, _LINKS, *(part for link in links for part in ("--link", link)))
    if "enable-cuda-compat" in program.commands:
        yield _hook(program, "enable-cuda-compat", f"--host-driver-version={version}")
    folders = dict.fromkeys(posixpath.dirname(library.path) for library in libraries)
    ldconfig = (f"--{_LDCONFIG_OPTION}", program.ldconfig) if program.ldconfig is not None else ()
    yield _hook(program, _CACHE, *ldconfig, *(part for folder in folders for part in ("--folder", folder)))
    if "disable-device-node-modification" in program.commands:
        yield _hook(program, "disable-device-node-modification")


def _hook(program: HookProgram, command: str, *args: str) -> Hook:
    name = posixpath.basename(program.path)
    prefix = (name, "hook") if name == "nvidia-ctk" else (name,)
    return Hook(
        name="createContainer",
        path=program.path,
        args=(*prefix, command, *args),
        env=("NVIDIA_CTK_DEBUG=false",),
    )


def _commands(root: DriverRoot, path: str) -> frozenset[str]:
    """Commands whose names are in the program's file, or in that which a wrapper beside it starts."""
    real = root.find(f"{path}.real")
    wanted = (*_REQUIRED, *_OPTIONAL)
    try:
        return _contained(root.here(real or path), wanted)
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return frozenset()


def _contained(path: Path, wanted: Iterable[str]) -> frozenset[str]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return frozenset(word for word in wanted if content.find(word.encode()) >= 0)


def _refused(path: str, why: str) -> None:
    if path:
        logger.warning(
            "NVIDIA's hook program %s is not used: %s. Libraries are mounted under all their names", path, why
        )
