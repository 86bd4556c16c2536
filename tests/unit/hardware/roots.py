"""Driver roots that look like those of real hosts, with libraries that the real ldconfig takes for libraries."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from tests.needs import LDCONFIG, NO_LDCONFIG

VERSION = "570.124.06"
MACHINES = {"x86_64": 62, "aarch64": 183, "i386": 3}

# Of the sixty that a driver has: one or two of each kind.
SONAMES = {
    f"libcuda.so.{VERSION}": "libcuda.so.1",
    f"libnvidia-ml.so.{VERSION}": "libnvidia-ml.so.1",
    f"libnvidia-ptxjitcompiler.so.{VERSION}": "libnvidia-ptxjitcompiler.so.1",
    f"libnvidia-nvvm.so.{VERSION}": "libnvidia-nvvm.so.4",
    f"libnvidia-gpucomp.so.{VERSION}": f"libnvidia-gpucomp.so.{VERSION}",
}


def elf(soname: str, machine: str = "x86_64") -> bytes:
    """A shared library without any code."""
    strings = b"\0" + soname.encode() + b"\0"
    header, programs = 64, 2 * 56
    dynamic_at = header + programs
    dynamic = struct.pack("<qQqQqQqQ", 5, dynamic_at + 64, 10, len(strings), 14, 1, 0, 0)
    size = dynamic_at + len(dynamic) + len(strings)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    return (
        ident
        + struct.pack("<HHIQQQIHHHHHH", 3, MACHINES[machine], 1, 0, header, 0, 0, header, 56, 2, 64, 0, 0)
        + struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, 4096)
        + struct.pack("<IIQQQQQQ", 2, 6, dynamic_at, dynamic_at, dynamic_at, len(dynamic), len(dynamic), 8)
        + dynamic
        + strings
    )


def put(root: Path, inside: str, content: bytes | str = b"") -> Path:
    path = root / inside.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def link(root: Path, inside: str, target: str) -> None:
    path = root / inside.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def program(root: Path, inside: str, content: bytes | str = b"#!/bin/sh\n") -> None:
    put(root, inside, content).chmod(0o755)


def libraries(root: Path, directory: str, *, machine: str = "x86_64", links: bool = True) -> None:
    """The driver's libraries, with the links that its installer makes."""
    for name, soname in SONAMES.items():
        put(root, f"{directory}/{name}", elf(soname, machine))
        if links and soname != name:
            link(root, f"{directory}/{soname}", name)
    if links:
        link(root, f"{directory}/libcuda.so", "libcuda.so.1")


def ldconfig(root: Path, *directories: str, links: bool = False) -> None:
    """Have the real one write the root's cache, as a distribution does after an installation."""
    if LDCONFIG is None:
        pytest.skip(NO_LDCONFIG)
    put(root, "/etc/ld.so.conf", "\n".join(directories) + "\n")
    flags = [] if links else ["-X"]
    subprocess.run([LDCONFIG, *flags, "-r", str(root), "-f", "/etc/ld.so.conf", "-C", "/etc/ld.so.cache"], check=True)


def extras(root: Path) -> None:
    """Programs, firmware and sockets, where everybody has them."""
    for name in ("nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nvidia-cuda-mps-control",
                 "nvidia-cuda-mps-server", "nvidia-imex", "nvidia-xconfig"):  # fmt: skip
        program(root, f"/usr/bin/{name}")
    for name in ("gsp_ga10x.bin", "gsp_tu10x.bin"):
        put(root, f"/lib/firmware/nvidia/{VERSION}/{name}")
    put(root, "/lib/firmware/nvidia/535.1/gsp_ga10x.bin")
    put(root, "/run/nvidia-persistenced/socket")


def ubuntu(root: Path, *, machine: str = "x86_64") -> Path:
    multiarch = f"/usr/lib/{machine}-linux-gnu"
    (root / "usr/lib").mkdir(parents=True)
    link(root, "/lib", "usr/lib")
    link(root, "/sbin", "usr/sbin")
    link(root, "/bin", "usr/bin")
    libraries(root, multiarch, machine=machine)
    put(root, f"{multiarch}/libcudart.so.12.4.127", elf("libcudart.so.12", machine))
    put(root, f"{multiarch}/libcuda.so.535.1", elf("libcuda.so.1", machine))
    put(root, f"{multiarch}/vdpau/libvdpau_nvidia.so.{VERSION}", elf("libvdpau_nvidia.so.1", machine))
    put(root, "/usr/lib/i386-linux-gnu/libcuda.so.570.124.06", b"\x7fELF\x01\x01\x01" + bytes(57))
    program(root, "/usr/sbin/ldconfig")
    if machine == "x86_64":
        ldconfig(root, multiarch)
    extras(root)
    return root


def rhel(root: Path) -> Path:
    (root / "usr/lib64").mkdir(parents=True)
    (root / "usr/lib").mkdir(parents=True)
    link(root, "/lib64", "usr/lib64")
    link(root, "/lib", "usr/lib")
    libraries(root, "/usr/lib64")
    put(root, f"/usr/lib/libcuda.so.{VERSION}", b"\x7fELF\x01\x01\x01" + bytes(57))
    ldconfig(root, "/usr/lib64")
    extras(root)
    return root


def debian(root: Path) -> Path:
    """Its "alternatives" put two absolute links between the name and the file."""
    place = "/usr/lib/x86_64-linux-gnu/nvidia/current"
    libraries(root, place)
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        link(root, f"/usr/lib/x86_64-linux-gnu/{name}", f"/etc/alternatives/nvidia--{name}")
        link(root, f"/etc/alternatives/nvidia--{name}", f"{place}/{name}")
    ldconfig(root, "/usr/lib/x86_64-linux-gnu")
    program(root, "/usr/lib/nvidia/current/nvidia-smi")
    link(root, "/usr/bin/nvidia-smi", "/etc/alternatives/nvidia--nvidia-smi")
    link(root, "/etc/alternatives/nvidia--nvidia-smi", "/usr/lib/nvidia/current/nvidia-smi")
    return root


def nixos(root: Path) -> Path:
    store = "/nix/store/abc-nvidia-x11"
    libraries(root, f"{store}/lib")
    link(root, "/run/opengl-driver/lib/libcuda.so.1", f"{store}/lib/libcuda.so.1")
    link(root, "/run/current-system/sw/bin/nvidia-smi", f"{store}/bin/nvidia-smi")
    program(root, f"{store}/bin/nvidia-smi")
    return root


def talos(root: Path) -> Path:
    libraries(root, "/usr/local/glibc/usr/lib")
    program(root, "/usr/local/bin/nvidia-smi")
    return root
