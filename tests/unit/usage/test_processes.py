"""Whose a process is: by the control groups of all container runtimes that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from driver.usage.processes import Processes, pod_uid

if TYPE_CHECKING:
    from pathlib import Path

UID = "0f3c9a1e-5b7d-4c2a-9e11-6d2f8a7b4c3d"
SYSTEMD = UID.replace("-", "_")
STATIC = "8c7f6e5d4b3a29180716f5e4d3c2b1a0"


@pytest.mark.parametrize(
    ("cgroups", "pod"),
    [
        # version 2, systemd: containerd and CRI-O, guaranteed and burstable
        (f"0::/kubepods.slice/kubepods-pod{SYSTEMD}.slice/cri-containerd-{'a' * 64}.scope\n", UID),
        (f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SYSTEMD}.slice/crio-b.scope\n", UID),
        # version 2, from within a namespace of control groups
        (f"0::/../../kubepods-besteffort-pod{SYSTEMD}.slice/cri-containerd-{'c' * 64}.scope\n", UID),
        (f"0::/../../pod{UID}/{'c' * 64}\n", UID),
        # version 2, cgroupfs; a group that the program has made in its container
        (f"0::/kubepods/burstable/pod{UID}/{'d' * 64}\n", UID),
        (f"0::/kubepods/pod{UID}/{'d' * 64}/worker\n", UID),
        # version 1: the first line with a pod counts
        (f"12:pids:/kubepods/besteffort/pod{UID}/{'e' * 64}\n11:cpu,cpuacct:/\n", UID),
        (f"12:hugetlb:/\n4:memory:/kubepods.slice/kubepods-pod{SYSTEMD}.slice/docker-{'f' * 64}.scope\n", UID),
        # below a kubelet of a node that is a container itself
        (f"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SYSTEMD}.slice/cri-containerd-1.scope\n", UID),
        # a static pod's UID
        (f"0::/kubepods/burstable/pod{STATIC}/{'a' * 64}\n", STATIC),
        (f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/crio-1.scope\n", STATIC),
        # no pod's
        ("0::/system.slice/nvidia-persistenced.service\n", None),
        ("0::/\n", None),
        ("", None),
        (f"0::/user.slice/tripod{UID}/x\n", None),
        ("0::/kubepods/podlike/x\n", None),
    ],
)
def test_the_pod_is_found_in_the_path(cgroups: str, pod: str | None) -> None:
    assert pod_uid(cgroups) == pod


def test_processes_that_have_ended_or_are_nobodys_are_left_out(tmp_path: Path) -> None:
    for pid, text in ((17, f"0::/kubepods/pod{UID}/x\n"), (23, "0::/init.scope\n")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cgroup").write_text(text)

    assert Processes(tmp_path).pods([17, 23, 42, 17]) == {17: UID}


def test_all_are_seen_from_the_nodes_namespace_only(tmp_path: Path) -> None:
    assert not Processes(tmp_path).all_seen()

    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "comm").write_text("bash\n")
    assert not Processes(tmp_path).all_seen()

    (tmp_path / "2" / "comm").write_text("kthreadd\n")
    assert Processes(tmp_path).all_seen()
