"""The shared libraries of NVIDIA's driver: where they are in a driver root, and by which names programs load them."""

from __future__ import annotations

import logging
import posixpath
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.hardware.host import elf, ldcache

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from driver.hardware.host.root import DriverRoot

logger = logging.getLogger(__name__)

MULTIARCH = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}
CACHES = ("/etc/ld.so.cache", "/usr/local/glibc/etc/ld.so.cache")

# Any of these leads to the directory where the others are, whatever link or distribution's "alternative" is between.
_LANDMARKS = ("libcuda.so.1", "libnvidia-ml.so.1", "libcuda.so")
_IN_CACHE = re.compile(r"lib.*(nvidia|cuda|nvcuvid|nvoptix)")
_SUBDIRECTORIES = ("", "vdpau")
_VERSION = re.compile(r"lib(?:cuda|nvidia-ml)\.so\.([0-9]{3,}\.[0-9.]*[0-9])")
# Jetson's driver, and the one of WSL, have these under names without the version.
_PLAIN = re.compile(r"lib(cuda|nvidia-ml)\.so(\.1){0,2}")
# Libraries of the driver that have version numbers of their own.
_OTHERS = re.compile(r"libnvidia-(nvvm70\.so\.[0-9]+|egl-(gbm|wayland2?|xcb|xlib)\.so\.[0-9]+\.[0-9.]+)")

# Names that programs use although a driver's own package may not bring them.
_USUAL_NAMES = {
    "libcuda": ("libcuda.so.1", "libcuda.so"),
    "libnvidia-ml": ("libnvidia-ml.so.1",),
    "libnvidia-opticalflow": ("libnvidia-opticalflow.so.1", "libnvidia-opticalflow.so"),
    "libnvidia-allocator": ("libnvidia-allocator.so.1", "gbm/nvidia-drm_gbm.so"),
    "libGLX_nvidia": ("libGLX_nvidia.so.0", "libGLX_indirect.so.0"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryFile:
    """One file. Names are relative to the library directory that it is in, and so is its own."""

    directory: str
    """The library directory in the driver root, without symbolic links."""
    file: str
    """``libcuda.so.570.124.06``, or ``vdpau/libvdpau_nvidia.so.570.124.06``."""
    soname: str
    """What the file says that programs ask for; its own name where it does not say."""
    names: tuple[str, ...]
    """All other names that programs may load it by, the soname among them."""

    @property
    def path(self) -> str:
        """The file in the driver root."""
        return posixpath.join(self.directory, self.file)


def search_directories(machine: str) -> tuple[str, ...]:
    """Where drivers put their libraries on distributions and in driver containers, if the cache does not tell."""
    multiarch = MULTIARCH.get(machine, f"{machine}-linux-gnu")
    return (
        f"/usr/lib/{multiarch}",
        f"/usr/lib/{multiarch}/nvidia/current",
        f"/usr/lib/{multiarch}/nvidia",
        f"/usr/lib/{multiarch}/tegra",
        "/usr/lib64",
        "/usr/lib64/nvidia",
        f"/lib/{multiarch}",
        "/lib64",
        "/usr/lib",
        "/usr/lib/nvidia",
        "/usr/lib/nvidia/tesla",
        "/usr/local/nvidia/lib64",
        "/usr/local/glibc/usr/lib",
        "/usr/local/lib",
        "/opt/nvidia/lib64",
        "/run/opengl-driver/lib",
    )


def names_of_interest(names: Iterable[str]) -> frozenset[str]:
    """Of the names in a directory, those by which a change of the driver shows."""
    return frozenset(name for name in names if _IN_CACHE.match(name))


def find_version(root: DriverRoot, machine: str) -> str:
    """The driver's version by its files' names, for a kernel driver that does not tell; empty if there are none."""
    for directory in directories(root, machine):
        for name in root.names(directory):
            if match := _VERSION.fullmatch(name):
                return match[1]
    return ""


def find(root: DriverRoot, version: str, machine: str) -> tuple[LibraryFile, ...]:
    """All libraries of this version of the driver, of two with one name the one that the linker's cache leads to.

    Those that every driver has count without a version in their names too, where none has one.
    """
    found: dict[str, LibraryFile] = {}
    plain: dict[str, LibraryFile] = {}
    for directory in _directories(root, machine, version):
        for subdirectory in _SUBDIRECTORIES:
            names = root.names(posixpath.join(directory, subdirectory))
            for name in names:
                file = posixpath.join(subdirectory, name)
                whole = f"{directory}/{file}"
                if file in found or file in plain:
                    continue
                if _is_versioned(name, version) or _OTHERS.fullmatch(name):
                    kept = found
                elif _PLAIN.fullmatch(name) and root.resolve(whole) == whole:
                    kept = plain
                else:
                    continue
                library = _read(root, machine, directory, file, names)
                if library is not None:
                    kept[file] = library
    stems = {_stem(file) for file in found}
    found |= {file: library for file, library in plain.items() if _stem(file) not in stems}
    return tuple(found[file] for file in sorted(found))


def directories(root: DriverRoot, machine: str) -> tuple[str, ...]:
    """Directories that have libraries of the driver, without symbolic links, those of the linker's cache first."""
    return tuple(_directories(root, machine, version=""))


def _directories(root: DriverRoot, machine: str, version: str) -> list[str]:
    found: dict[str, None] = {}
    candidates = [entry.path for entry in _cached(root, machine)]
    for directory in search_directories(machine):
        versioned = (f"libcuda.so.{version}", f"libnvidia-ml.so.{version}") if version else ()
        candidates += [f"{directory}/{name}" for name in (*_LANDMARKS, *versioned)]
    for candidate in candidates:
        resolved = root.resolve(candidate)
        if resolved is not None:
            directory = posixpath.dirname(resolved)
            found[directory.removesuffix("/vdpau") or "/"] = None
    return list(found)


def _cached(root: DriverRoot, machine: str) -> Iterator[ldcache.Entry]:
    for cache in CACHES:
        resolved = root.resolve(cache)
        if resolved is None:
            continue
        try:
            entries = ldcache.parse(root.here(resolved).read_bytes())
        except (OSError, ldcache.CacheError) as error:
            logger.warning("%s: %s; looking for the driver's libraries in the usual directories", cache, error)
            continue
        yield from (e for e in entries if e.loadable_on(machine) and _IN_CACHE.match(e.name))


def _stem(file: str) -> str:
    return posixpath.basename(file).partition(".so")[0]


def _is_versioned(name: str, version: str) -> bool:
    return bool(version) and name.startswith("lib") and name.endswith(f".so.{version}")


def _read(root: DriverRoot, machine: str, directory: str, file: str, siblings: Iterable[str]) -> LibraryFile | None:
    """One file with its names; None for what is no file, or is for another machine."""
    path = root.resolve(posixpath.join(directory, file))
    status = root.status(path) if path is not None else None
    if path is None or status is None or not stat.S_ISREG(status.st_mode) or posixpath.basename(path) not in siblings:
        return None
    try:
        content = elf.read(root.here(path))
    except OSError as error:
        logger.warning("%s cannot be read and is left out: %s", path, error)
        return None
    if content is not None and content.machine != machine:
        return None
    own = posixpath.basename(file)
    soname = content.soname if content is not None and content.soname and "/" not in content.soname else own
    stem = _stem(own)
    place = posixpath.dirname(file)
    links = {
        posixpath.join(place, name)
        for name in siblings
        if _stem(name) == stem and name != own and root.resolve(f"{directory}/{place}/{name}") == path
    }
    names = links | {posixpath.join(place, soname), *_USUAL_NAMES.get(stem, ())}
    return LibraryFile(directory=directory, file=file, soname=soname, names=tuple(sorted(names - {file})))
