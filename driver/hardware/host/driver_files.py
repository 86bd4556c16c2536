"""What containers get of NVIDIA's driver besides its libraries: programs, firmware, sockets, configuration."""

from __future__ import annotations

import fnmatch
import posixpath
from typing import TYPE_CHECKING

from driver.hardware.model import Mount

if TYPE_CHECKING:
    from driver.hardware.host.root import DriverRoot

PROGRAMS = (
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nvidia-cuda-mps-control",
    "nvidia-cuda-mps-server",
)
PROGRAM_DIRECTORIES = (
    "/usr/bin",
    "/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/nvidia/bin",
    "/opt/nvidia/bin",
    "/opt/bin",
    "/run/current-system/sw/bin",
)
SOCKETS = ("nvidia-persistenced/socket", "nvidia-fabricmanager/socket")
SOCKET_OPTIONS = ("nosuid", "nodev", "noexec", "rbind", "rprivate")

# Where programs in a container look for them, and where distributions have them, by the file's name below.
_CONFIGURATION = (
    ("/etc", "OpenCL/vendors/nvidia.icd"),
    ("/etc", "vulkan/icd.d/nvidia_icd.json"),
    ("/etc", "vulkan/icd.d/nvidia_icd.x86_64.json"),
    ("/etc", "vulkan/icd.d/nvidia_icd.aarch64.json"),
    ("/etc", "vulkan/implicit_layer.d/nvidia_layers.json"),
    ("/usr/share", "glvnd/egl_vendor.d/10_nvidia.json"),
    ("/usr/share", "egl/egl_external_platform.d/09_nvidia_wayland2.json"),
    ("/usr/share", "egl/egl_external_platform.d/10_nvidia_wayland.json"),
    ("/usr/share", "egl/egl_external_platform.d/15_nvidia_gbm.json"),
    ("/usr/share", "egl/egl_external_platform.d/20_nvidia_xcb.json"),
    ("/usr/share", "egl/egl_external_platform.d/20_nvidia_xlib.json"),
    ("/usr/share", "nvidia/nvoptix.bin"),
)
_CONFIGURATION_DIRECTORIES = ("/etc", "/usr/local/share", "/usr/share", "/run/opengl-driver/share", "")


def find(root: DriverRoot, version: str, kernel: str) -> tuple[Mount, ...]:
    """Mounts of all that is there; ``kernel`` is the running one's release, which firmware may be filed under."""
    return (*_programs(root), *_firmware(root, version, kernel), *_sockets(root), *_configuration(root))


def watched(version: str) -> tuple[str, ...]:
    """Paths inside the root on which ``find`` depends, but for configuration, which comes and goes with the rest."""
    programs = (f"{directory}/{name}" for directory in PROGRAM_DIRECTORIES for name in PROGRAMS)
    sockets = (f"{directory}/{name}" for directory in ("/run", "/var/run") for name in SOCKETS)
    return (*programs, *sockets, f"/lib/firmware/nvidia/{version}")


def _programs(root: DriverRoot) -> list[Mount]:
    mounts = []
    for name in PROGRAMS:
        path = root.find(*(f"{directory}/{name}" for directory in PROGRAM_DIRECTORIES))
        if path is not None:
            mounts.append(Mount(host_path=root.on_host(path), container_path=f"/usr/bin/{name}"))
    return mounts


def _firmware(root: DriverRoot, version: str, kernel: str) -> list[Mount]:
    """The images of the GPU's own processor, in the kernel's order of search."""
    place = f"nvidia/{version}"
    for directory in (f"/lib/firmware/updates/{kernel}", "/lib/firmware/updates", f"/lib/firmware/{kernel}",
                      "/lib/firmware"):  # fmt: skip
        names = fnmatch.filter(root.names(f"{directory}/{place}"), "gsp*.bin") if version else []
        paths = {name: root.find(f"{directory}/{place}/{name}") for name in names}
        if paths:
            return [
                Mount(host_path=root.on_host(path), container_path=f"/lib/firmware/{place}/{name}")
                for name, path in paths.items()
                if path is not None
            ]
    return []


def _sockets(root: DriverRoot) -> list[Mount]:
    mounts = []
    for name in SOCKETS:
        path = root.find(f"/run/{name}", f"/var/run/{name}")
        if path is not None:
            mounts.append(Mount(host_path=root.on_host(path), container_path=f"/run/{name}", options=SOCKET_OPTIONS))
    return mounts


def _configuration(root: DriverRoot) -> list[Mount]:
    mounts = []
    for place, name in _CONFIGURATION:
        path = root.find(*(posixpath.join(directory, name) for directory in _CONFIGURATION_DIRECTORIES))
        if path is not None:
            mounts.append(Mount(host_path=root.on_host(path), container_path=f"{place}/{name}"))
    return mounts
