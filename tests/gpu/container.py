"""A container that has nothing of NVIDIA's but what CDI edits give it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.gpu import isolation
from tests.short import short_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from driver.sim.kubelet.cdi import Injection

_THEIRS = re.compile(r"(lib)?(nvidia|cuda|nvcuvid|nvoptix|EGL_nvidia|GLX_nvidia|GLESv\w*_nvidia)[-\w.]*|libcuda.*")
_PLACES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/bin", "/bin", "/usr/local/nvidia", "/opt/nvidia")


def run(
    injection: Injection, argv: Sequence[str], *, image: Path = Path("/"), timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a program with the edits in a fresh mount namespace: on this machine's root without NVIDIA's files, or on an
    image's. Environment variables are those of the edits, and PATH.
    """
    with short_directory() as base:
        lines = isolation.root_lines(base, _mount_points() if image == Path("/") else (), image)
        lines += [f'rm -rf "$root"{shlex.quote(path)}' for path in _hidden()] if image == Path("/") else []
        lines += isolation.edit_lines(base, injection.device_nodes, injection.mounts, injection.hooks)
        env = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *injection.env]

        enter = 'exec chroot "$root" "$@"\n'
        script = "\n".join(lines) + f"\n{enter}"
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", *argv],
            env=dict(variable.split("=", 1) for variable in env),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def python(program: Path) -> list[str]:
    """A command that runs a program of ours with this interpreter, without what is installed for it."""
    return [os.path.realpath(sys.executable), "-I", str(program)]


def _mount_points() -> list[str]:
    points = isolation.top_mount_points(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    return [point for point in points if not _THEIRS.fullmatch(point.rsplit("/", 1)[-1])]


def _hidden() -> Iterator[str]:
    """NVIDIA's files of this machine, and the linker's cache, which knows them."""
    yield "/etc/ld.so.cache"
    for place in _PLACES:
        if Path(place).is_symlink():
            continue
        for directory, subdirectories, files in os.walk(place):
            if directory.count("/") > 4:
                subdirectories.clear()
            yield from (f"{directory}/{name}" for name in files if _THEIRS.fullmatch(name))
