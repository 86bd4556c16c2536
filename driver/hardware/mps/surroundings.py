"""Where this process runs, seen from the host, and whether it can start something there that outlives its container."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CGROUP = "gpu-dra-mps"
NEEDED = "give the driver's pod hostPID and a privileged container, as the chart does with devices=nvml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The host, as we reach it."""

    target: int | None = None
    """The process whose namespaces are the host's; None where they are our own."""
    root: Path = Path("/")
    """The host's root directory, as we see it."""
    cgroups: Path | None = Path("/sys/fs/cgroup")
    """The host's cgroups, as we see them; None leaves the daemon in ours."""
    isolate: bool = True
    """Whether daemons get a mount namespace of their own; only a test goes without."""
    refused: str = ""
    """Why nothing can be started on the host, and what to do about it."""

    def procs(self, name: str) -> list[str]:
        """The files to join so that a container's end does not take a process with it; makes the cgroup. OSError.

        With cgroup v2 that is a cgroup of its own at the top; with v1, the top of each hierarchy.
        """
        if self.cgroups is None:
            return []
        if (self.cgroups / "cgroup.controllers").exists():
            own = self.cgroups / CGROUP / name
            own.mkdir(parents=True, exist_ok=True)
            return [str(own / "cgroup.procs")]
        return sorted(str(path) for path in self.cgroups.glob("*/cgroup.procs"))

    def own_cgroup(self, name: str) -> Path | None:
        """The cgroup that has one daemon and its servers, and nothing else; None with v1."""
        path = self.cgroups / CGROUP / name if self.cgroups is not None else None
        return path if path is not None and path.exists() else None


def read_surroundings(proc: Path = Path("/proc"), environ: Mapping[str, str] = os.environ) -> Surroundings:
    """Find out. In a pod, the host's processes are visible with hostPID only, and its namespaces to the privileged."""
    in_pod = "KUBERNETES_SERVICE_HOST" in environ
    try:
        first, own = (os.readlink(proc / pid / "ns/mnt") for pid in ("1", "self"))  # noqa: PTH115
    except OSError as error:
        if not in_pod:
            return Surroundings()
        return Surroundings(refused=f"the namespaces of the host cannot be entered ({error.strerror}): {NEEDED}")
    if first != own:
        return Surroundings(target=1, root=proc / "1/root", cgroups=proc / "1/root/sys/fs/cgroup")
    if in_pod:
        return Surroundings(refused=f"the processes of the host are not visible in this pod: {NEEDED}")
    return Surroundings()
