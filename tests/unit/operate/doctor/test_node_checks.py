"""What the doctor says about a node: from what was seen to findings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driver.claims.allocation import ClaimRef
from driver.hardware.model import Defect
from driver.inventory.instances import Instance, Kind
from driver.operate.doctor.findings import Finding, Level, exit_status
from driver.operate.doctor.node_checks import judge
from driver.operate.doctor.read_node import mount_points
from driver.operate.doctor.state import NodeHardware, NodeState, Place, RuntimeConfig
from driver.operate.drain import Holder

REGISTRY = Path("/var/lib/kubelet/plugins_registry")
SOCKET = REGISTRY / "gpu.nvidia.com-reg.sock"


def instance(kind: Kind) -> Instance:
    return Instance(socket=SOCKET, kind=kind, name="gpu.nvidia.com", problem="GetInfo: no answer in time")


WELL = NodeState(
    node_name="node-1",
    driver_name="gpu.nvidia.com",
    devices="nvml",
    plugins=Place(path=Path("/var/lib/kubelet/plugins")),
    registry=Place(path=REGISTRY),
    cdi=Place(path=Path("/var/run/cdi")),
    instances=(instance(Kind.OURS),),
    not_ready=(),
    kubelet_listens=True,
    hardware=NodeHardware(gpus=("gpu-0", "gpu-1")),
    runtimes=(RuntimeConfig(path=Path("/etc/containerd/config.toml"), enabled=True),),
)


def wrong(state: NodeState) -> list[Finding]:
    return [finding for finding in judge(state) if finding.level in {Level.WARNING, Level.PROBLEM}]


def the_one(state: NodeState) -> Finding:
    [finding] = wrong(state)
    return finding


def test_a_node_that_is_well_has_nothing_to_do():
    assert wrong(WELL) == []
    assert exit_status(judge(WELL)) == 0


@pytest.mark.parametrize(
    ("unseen", "check"),
    [({"not_ready": None}, "readiness"), ({"kubelet_listens": None}, "kubelet"), ({"runtimes": ()}, "runtime")],
)
def test_what_could_not_be_looked_at_is_said_and_counts_as_nothing(unseen: dict[str, Any], check: str):
    state = replace(WELL, **unseen)

    assert [finding.check for finding in judge(state) if finding.level is Level.UNKNOWN] == [check]
    assert exit_status(judge(state)) == 0


@pytest.mark.parametrize(
    ("cdi", "words"),
    [
        (Place(path=Path("/var/run/cdi"), exists=False), "does not exist"),
        (Place(path=Path("/var/run/cdi"), writable=False), "cannot be written"),
        (Place(path=Path("/var/run/cdi"), own_layer=True), "inside the driver's own container"),
        (Place(path=Path("/var/run/cdi"), error="Input/output error"), "Input/output error"),
    ],
)
def test_a_cdi_directory_that_cannot_be_used_is_a_problem(cdi: Place, words: str):
    finding = the_one(replace(WELL, cdi=cdi))

    assert (finding.check, finding.level) == ("directories", Level.PROBLEM)
    assert words in finding.sentence
    assert "mount" in finding.remedy


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RuntimeConfig(path=Path("/etc/containerd/config.toml"), enabled=False), "switched off"),
        (RuntimeConfig(path=Path("/etc/containerd/config.toml"), spec_dirs=("/etc/cdi",)), "not /var/run/cdi"),
    ],
)
def test_a_runtime_that_does_not_look_there_is_a_problem(config: RuntimeConfig, words: str):
    finding = the_one(replace(WELL, runtimes=(config,)))

    assert finding.level is Level.PROBLEM
    assert words in finding.sentence


@pytest.mark.parametrize("spec_dirs", [("/var/run/cdi",), ("/etc/cdi", "/run/cdi/"), None])
def test_a_runtime_that_looks_there_is_fine(spec_dirs: tuple[str, ...] | None):
    config = RuntimeConfig(path=Path("/etc/containerd/config.toml"), enabled=True, spec_dirs=spec_dirs)

    assert wrong(replace(WELL, runtimes=(config,))) == []


def test_without_an_instance_pods_neither_start_nor_end():
    finding = the_one(replace(WELL, instances=(), not_ready=None))

    assert (finding.check, finding.level) == ("registration", Level.PROBLEM)


def test_an_instance_that_hangs_is_a_problem_and_is_named():
    finding = the_one(replace(WELL, instances=(instance(Kind.SILENT),), not_ready=None))

    assert str(SOCKET) in finding.sentence
    assert "no answer in time" in finding.sentence


def test_a_dead_socket_beside_a_live_instance_is_a_warning():
    finding = the_one(replace(WELL, instances=(instance(Kind.OURS), instance(Kind.DEAD))))

    assert finding.level is Level.WARNING


def test_what_the_driver_says_is_missing_is_passed_on():
    finding = the_one(replace(WELL, not_ready=("kubelet: not registered",)))

    assert finding.sentence == "the driver says that it is not ready: kubelet: not registered"
    assert "--kubelet-registry-dir" in finding.remedy


def test_what_the_driver_cannot_offer_is_a_warning():
    finding = the_one(replace(WELL, not_offered={"GPU-1": "MIG devices that the driver did not make occupy it"}))

    assert (finding.check, finding.level, finding.about) == ("offer", Level.WARNING, "GPU-1")
    assert "MIG devices that the driver did not make" in finding.sentence


def test_a_kubelet_that_does_not_listen_is_a_problem():
    assert the_one(replace(WELL, kubelet_listens=False)).check == "kubelet"


def test_a_device_plugin_is_a_problem():
    finding = the_one(replace(WELL, plugin_sockets=(Path("/var/lib/kubelet/device-plugins/nvidia-gpu.sock"),)))

    assert (finding.check, finding.level, finding.about) == ("other-drivers", Level.PROBLEM, "device-plugin")


def test_another_dra_driver_of_our_name_is_a_problem():
    finding = the_one(replace(WELL, instances=(instance(Kind.OURS), instance(Kind.OTHER))))

    assert (finding.check, finding.level, finding.about) == ("other-drivers", Level.PROBLEM, "dra-driver")


def test_beside_nvidias_driver_of_compute_domains_all_is_well():
    path = Path("/var/lib/kubelet/plugins_registry/compute-domain.nvidia.com-reg.sock")
    found = judge(replace(WELL, compute_domain_sockets=(path,)))

    assert [finding.about for finding in found if finding.level is not Level.OK] == []
    assert any(str(path) in finding.sentence for finding in found if finding.check == "other-drivers")


def test_what_nvidias_driver_left_is_a_warning():
    checkpoint = Path("/var/lib/kubelet/plugins/gpu.nvidia.com/checkpoint.json")

    finding = the_one(replace(WELL, foreign_files=(checkpoint,)))

    assert finding.level is Level.WARNING
    assert str(checkpoint) in finding.sentence


def test_hardware_that_cannot_be_read_is_a_problem_in_its_own_words():
    finding = the_one(replace(WELL, hardware=NodeHardware(problem="libnvidia-ml.so.1 is not there")))

    assert finding.level is Level.PROBLEM
    assert "libnvidia-ml.so.1 is not there" in finding.sentence


def test_a_driver_that_is_installed_in_part_is_a_problem_with_its_remedy():
    defect = Defect(kind="no-uvm", why="nvidia-uvm is not loaded", remedy="modprobe nvidia-uvm")

    finding = the_one(replace(WELL, hardware=replace(WELL.hardware, defects=(defect,))))

    assert finding.level is Level.PROBLEM
    assert (finding.about, finding.sentence, finding.remedy) == (defect.kind, defect.why, defect.remedy)


def test_a_node_without_gpus_is_a_warning():
    assert the_one(replace(WELL, hardware=NodeHardware())).level is Level.WARNING


def test_records_that_need_a_person_are_named():
    claim = ClaimRef("default", "claim", "uid-1")
    state = replace(
        WELL,
        holders=(
            Holder(uid="uid-2", claim=None, state="is damaged (ValueError)"),
            Holder(uid="uid-3", claim=claim, state="undoing", devices=("gpu-0-mig-1g10gb-19-0",)),
        ),
        quarantined=(Path("/plugins/quarantine/uid-4.0a1b2c3d.json"),),
        without_spec=(Holder(uid="uid-1", claim=claim, state="prepared", devices=("gpu-0",)),),
        stray_specs=(Path("/var/run/cdi/k8s.gpu.nvidia.com-claim_uid-5.json"),),
    )

    findings = wrong(state)

    assert {finding.check for finding in findings} == {"records"}
    assert [finding.about for finding in findings] == [
        "uid-2",
        "/plugins/quarantine/uid-4.0a1b2c3d.json",
        "default/claim",
        "default/claim",
        "/var/run/cdi/k8s.gpu.nvidia.com-claim_uid-5.json",
    ]


def test_mount_points_are_paths_whatever_letters_they_have() -> None:
    lines = [
        b"22 1 0:21 / / rw - overlay overlay rw,lowerdir=/a",
        b"23 22 8:1 /lib /var/lib/a\\040place/g\xc3\xa9 rw shared:1 - ext4 /dev/sda1 rw",
        b"24 22 8:1 / /mnt/latin\xe9 rw - xfs /dev/sdb1 rw",
    ]

    points = mount_points(b"\n".join(lines) + b"\n")

    assert points == (("/", "overlay"), ("/var/lib/a place/gé", "ext4"), ("/mnt/latin\udce9", "xfs"))
