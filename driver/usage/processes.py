"""Whose a process is: the pod in whose control group it runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from driver.base import files

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Of version 1 and 2 alike, by cgroupfs ("/kubepods/burstable/pod<uid>/<container>") or by systemd, which spells '-' as
# '_' ("…-burstable-pod<uid>.slice/cri-containerd-<id>.scope"). A static pod's UID is 32 digits of a hash. From within a
# control group namespace the path begins with "/..", and has the pod all the same.
_POD = re.compile(r"(?:^|[/-])pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?(?:/|$)")
LARGEST = 64 << 10
MOST = 4096
"""Processes that one look asks for."""


def pod_uid(cgroups: str) -> str | None:
    """The pod's UID in what ``/proc/<pid>/cgroup`` says; None for a process of no pod. Pure."""
    for line in cgroups.splitlines():
        path = line.split(":", 2)[-1]
        if match := _POD.search(path):
            return match[1].replace("_", "-")
    return None


class Processes:
    """The processes of the node, as far as this one sees them. Methods block, for microseconds."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc

    def all_seen(self) -> bool:
        """Whether these are the node's, and not only those of our own container (``hostPID``).

        NVIDIA's driver tells of no others: then a GPU without any may well be in use. The kernel's first thread is in
        the node's PID namespace only.
        """
        try:
            return files.read(str(self._proc / "2" / "comm"), largest=64).strip() == b"kthreadd"
        except OSError:
            return False

    def pods(self, pids: Iterable[int]) -> dict[int, str]:
        """UIDs of the pods of these processes; one that has ended, or is of no pod, is left out."""
        found = {}
        for pid in list(dict.fromkeys(pids))[:MOST]:
            try:
                text = files.read(f"{self._proc}/{pid}/cgroup", largest=LARGEST).decode(errors="replace")
            except OSError:
                continue
            if (uid := pod_uid(text)) is not None:
                found[pid] = uid
        return found
