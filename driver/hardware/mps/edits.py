"""What containers need to be clients of an MPS daemon, and what daemons leave behind; for real and fake daemons."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from driver.hardware.model import ContainerEdits, Mount

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from driver.hardware.process_sharing import MpsLimits

# CUDA looks there even when nobody tells it, so a program that drops the variable ends up at the same daemon.
PIPES = "/tmp/nvidia-mps"  # noqa: S108 - in the container, and it is NVIDIA's default
SHM = "/dev/shm"  # noqa: S108 - in the container
_OPTIONS = ("rw", "nosuid", "nodev", "bind", "rprivate")


LONG_AGO = 3600.0
"""Seconds after which a directory is no daemon's that is just being started."""


def long_gone(base: Path, keep: Collection[str]) -> Iterator[Path]:
    """Directories of daemons other than these that nobody has touched for long."""
    with contextlib.suppress(OSError):
        for path in base.iterdir():
            if path.name not in keep and time.time() - path.stat().st_mtime > LONG_AGO:
                yield path


def client_edits(*, pipes: str, shm: str, limits: MpsLimits) -> ContainerEdits:
    """Edits by which a container's processes find a daemon, given its directories on the host.

    A limit in the environment only lowers what the daemon allows (NVIDIA's MPS documentation, environment variables).
    Its device is 0: who shares a device with other claims gets limits of its own, and has one device of that daemon.
    """
    env = [f"CUDA_MPS_PIPE_DIRECTORY={PIPES}"]
    if limits.memory_mib is not None:
        env.append(f"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0={limits.memory_mib}M")
    if limits.thread_percentage is not None:
        env.append(f"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE={limits.thread_percentage}")
    return ContainerEdits(
        env=tuple(env),
        mounts=(
            Mount(host_path=pipes, container_path=PIPES, options=_OPTIONS),
            Mount(host_path=shm, container_path=SHM, options=_OPTIONS),
        ),
    )
