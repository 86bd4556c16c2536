"""The edits of the present moment: looked for once, and again when the driver changes."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from driver.hardware.backend import BackendError
from driver.hardware.host.nvidia import NvidiaEdits
from driver.hardware.host.root import DriverRoot
from driver.hardware.model import Gpu, Partition
from tests.needs import NO_ROOT
from tests.unit.hardware import roots
from tests.unit.hardware.roots import VERSION
from tests.unit.hardware.test_nodes import DEVICES, MINORS

if TYPE_CHECKING:
    from pathlib import Path

GPU = Gpu(
    name="gpu-3",
    uuid="GPU-3",
    index=0,
    minor=3,
    product_name="H100",
    pci_bus_id="0000:1b:00.0",
)
PARTITION = Partition(
    gpu_uuid="GPU-3", profile="1g.10gb", profile_id=19, start=0, size=1, uuid="MIG-1", gi_id=1, ci_id=0
)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    roots.rhel(tmp_path)
    roots.put(tmp_path, "/proc/devices", DEVICES)
    roots.put(tmp_path, "/proc/driver/nvidia-caps/mig-minors", MINORS.replace("gpu12/gi3", "gpu3/gi1"))
    roots.put(tmp_path, "/sys/bus/pci/devices/0000:1b:00.0/drm/renderD129/dev", "226:129\n")
    return tmp_path


def edits_of(host: Path, **given: Any) -> NvidiaEdits:
    root = DriverRoot(path=host, host="/")
    return NvidiaEdits(root, dev=host / "dev", proc=host / "proc", sysfs=host / "sys", machine="x86_64", **given)


@pytest.fixture
def edits(host: Path) -> NvidiaEdits:
    edits = edits_of(host)
    edits.refresh(VERSION, [GPU])
    return edits


def has_library(edits: NvidiaEdits, version: str) -> bool:
    return f"/usr/lib64/libcuda.so.{version}" in {mount.host_path for mount in edits.common.mounts}


def test_nvidia_s_runtime_is_kept_out_even_before_anything_is_known(host: Path):
    assert edits_of(host).common.env == ("NVIDIA_VISIBLE_DEVICES=void",)


def test_every_container_gets_control_files_and_the_driver(edits: NvidiaEdits):
    assert edits.common.env == ("NVIDIA_VISIBLE_DEVICES=void",)
    assert {node.path for node in edits.common.device_nodes} == {
        "/dev/nvidiactl", "/dev/nvidia-modeset", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools",
    }  # fmt: skip
    assert has_library(edits, VERSION)


def test_a_gpu_is_its_own_files_only(edits: NvidiaEdits):
    device = edits.device(GPU)

    assert [node.path for node in device.device_nodes] == ["/dev/nvidia3", "/dev/dri/renderD129"]


def test_a_partition_is_its_gpu_s_file_and_what_opens_the_partition(edits: NvidiaEdits):
    device = edits.device(GPU, PARTITION)

    assert [(node.path, node.type, node.major, node.minor) for node in device.device_nodes] == [
        ("/dev/nvidia3", "c", 195, 3),
        ("/dev/nvidia-caps/nvidia-cap1650", "c", 235, 1650),
        ("/dev/nvidia-caps/nvidia-cap1651", "c", 235, 1651),
    ]


def test_a_partition_without_such_files_is_not_given_out(edits: NvidiaEdits):
    with pytest.raises(BackendError, match="mig-minors"):
        edits.device(GPU, replace(PARTITION, gi_id=9))


def test_a_gpu_whose_file_nobody_knows_is_not_given_out(edits: NvidiaEdits):
    with pytest.raises(BackendError, match="device file"):
        edits.device(replace(GPU, minor=None))


def test_every_node_has_a_type_and_numbers(edits: NvidiaEdits):
    device = edits.device(GPU)

    for node in (*edits.common.device_nodes, *device.device_nodes):
        assert node.type == "c"
        assert node.major is not None
        assert node.minor is not None


def test_the_same_driver_is_not_looked_at_twice(edits: NvidiaEdits, caplog: Any):
    before = edits.common
    caplog.set_level(logging.INFO)

    edits.refresh(VERSION, [GPU])

    assert edits.common == before
    assert edits.common.mounts is before.mounts
    assert not caplog.records
    assert not edits.outdated()


def upgrade(host: Path, version: str, *, before: str = VERSION) -> None:
    for name in (name.replace(VERSION, before) for name in roots.SONAMES):
        (host / "usr/lib64" / name).rename(host / "usr/lib64" / name.replace(before, version))
    roots.ldconfig(host, "/usr/lib64", links=True)


def test_an_upgrade_is_noticed_and_taken_over(edits: NvidiaEdits, host: Path):
    upgrade(host, "575.1.2")
    assert edits.outdated()

    edits.refresh("575.1.2", [GPU])

    assert has_library(edits, "575.1.2")
    assert not has_library(edits, VERSION)
    assert not edits.outdated()


def test_files_that_are_mounted_and_gone_are_missing_until_the_driver_is_whole_again(edits: NvidiaEdits, host: Path):
    assert edits.missing() == ""

    upgrade(host, "575.1.2")

    assert edits.missing().endswith(f".so.{VERSION}")
    edits.refresh("575.1.2", [GPU])
    assert edits.missing() == ""


def test_while_the_kernel_has_the_old_driver_the_new_one_s_files_are_no_help(edits: NvidiaEdits, host: Path):
    assert edits.defects() == ()
    upgrade(host, "575.1.2")

    edits.refresh(VERSION, [GPU])

    assert edits.missing().endswith(f".so.{VERSION}")
    assert [(defect.kind, defect.blocks) for defect in edits.defects()] == [("driver-files", True)]
    upgrade(host, VERSION, before="575.1.2")
    assert edits.outdated()
    edits.refresh(VERSION, [GPU])
    assert (edits.missing(), edits.defects()) == ("", ())
    assert has_library(edits, VERSION)


def test_any_file_that_is_mounted_can_be_missing(edits: NvidiaEdits, host: Path):
    (host / "run/nvidia-persistenced/socket").unlink()

    assert edits.missing() == str(host / "run/nvidia-persistenced/socket")


def test_a_file_that_is_gone_and_that_nothing_else_depends_on_is_given_up(host: Path):
    file = roots.put(host, "/usr/share/glvnd/egl_vendor.d/10_nvidia.json")
    edits = edits_of(host)
    edits.refresh(VERSION)
    file.unlink()
    assert (edits.missing(), edits.outdated()) == (str(file), True)

    edits.refresh(VERSION)

    assert (edits.missing(), edits.outdated()) == ("", False)


def test_files_of_others_in_the_same_directory_are_no_change(edits: NvidiaEdits, host: Path):
    roots.put(host, "/usr/lib64/libcrypto.so.3")
    roots.put(host, "/usr/bin/vim")

    assert not edits.outdated()
    assert edits.missing() == ""


def test_a_driver_that_is_installed_later_is_noticed(host: Path):
    hidden = (host / "usr/lib64").rename(host / "usr/later")
    (host / "etc/ld.so.cache").unlink()
    edits = edits_of(host)
    edits.refresh(VERSION)
    assert [defect.kind for defect in edits.defects()] == ["no-libcuda"]
    assert f"no libcuda.so.{VERSION}" in edits.defects()[0].why

    hidden.rename(host / "usr/lib64")
    assert edits.outdated()
    edits.refresh(VERSION)

    assert has_library(edits, VERSION)
    assert edits.defects() == ()


def test_a_daemon_that_starts_later_is_noticed(edits: NvidiaEdits, host: Path):
    roots.put(host, "/run/nvidia-fabricmanager/socket")
    assert edits.outdated()

    edits.refresh(VERSION)

    assert "/run/nvidia-fabricmanager/socket" in {mount.container_path for mount in edits.common.mounts}


def test_a_daemon_that_has_stopped_does_not_keep_containers_from_starting(edits: NvidiaEdits, host: Path):
    (host / "run/nvidia-persistenced/socket").unlink()
    assert edits.outdated()

    edits.refresh(VERSION)

    assert not any("persistenced/socket" in mount.container_path for mount in edits.common.mounts)


def test_a_module_that_was_loaded_again_is_noticed(edits: NvidiaEdits, host: Path):
    roots.put(host, "/proc/devices", DEVICES.replace("510 nvidia-uvm", "511 nvidia-uvm"))
    assert edits.outdated()

    edits.refresh(VERSION)

    assert {node.path: node.major for node in edits.common.device_nodes}["/dev/nvidia-uvm"] == 511
    assert not edits.outdated()


def test_libraries_of_another_version_than_the_kernel_s_are_not_given_out(host: Path):
    edits = edits_of(host)

    edits.refresh("575.1.2")

    assert edits.common.env == ("NVIDIA_VISIBLE_DEVICES=void",)
    assert not any(".so" in mount.container_path for mount in edits.common.mounts)
    (defect,) = edits.defects()
    assert (defect.kind, defect.blocks) == ("no-libcuda", False)
    assert "no libcuda.so.575.1.2" in defect.why
    assert f"(only {VERSION})" in defect.why
    assert "--driver-root" in defect.remedy


def test_without_the_module_that_cuda_needs_the_node_has_a_defect_until_it_is_loaded(host: Path):
    roots.put(host, "/proc/devices", "Character devices:\n195 nvidia\n")
    edits = edits_of(host)
    assert edits.defects() == ()  # nobody has looked yet
    edits.refresh(VERSION)

    (defect,) = edits.defects()

    assert (defect.kind, defect.blocks, defect.remedy) == ("no-uvm", False, "modprobe nvidia-uvm on this node")
    roots.put(host, "/proc/devices", DEVICES)
    assert edits.outdated()
    edits.refresh(VERSION)
    assert edits.defects() == ()


def test_a_driver_container_s_own_device_files_count(host: Path):
    roots.put(host, "/proc/devices", "")
    root = host / "run/nvidia/driver"
    try:
        for name, minor in (("nvidiactl", 255), ("nvidia-uvm", 0)):
            (root / "dev").mkdir(parents=True, exist_ok=True)
            os.mknod(root / "dev" / name, 0o20666, os.makedev(333, minor))
    except PermissionError:
        pytest.skip(NO_ROOT)
    edits = NvidiaEdits(
        DriverRoot(path=root, host="/run/nvidia/driver"), dev=host / "dev", proc=host / "proc", sysfs=host / "sys"
    )

    edits.refresh(VERSION)

    assert {node.path: node.major for node in edits.common.device_nodes} == {
        "/dev/nvidiactl": 333, "/dev/nvidia-uvm": 333,
    }  # fmt: skip
