"""Device files with type and numbers, from the kernel's lists and from files."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from driver.hardware.host.nodes import NodeTable, capabilities, majors
from tests.needs import NO_ROOT
from tests.unit.hardware.roots import put

if TYPE_CHECKING:
    from pathlib import Path

    from driver.hardware.model import DeviceNode

DEVICES = """Character devices:
  1 mem
195 nvidia
195 nvidia-modeset
195 nvidiactl
226 drm
235 nvidia-caps
510 nvidia-uvm

Block devices:
  8 sd
510 nvidia-caps
"""
MINORS = """config 1
monitor 2
gpu0/gi1/access 12
gpu0/gi1/ci0/access 13
gpu0/gi1/ci1/access 14
gpu12/gi3/access 1650
gpu12/gi3/ci0/access 1651
nonsense
"""


def table(root: Path) -> NodeTable:
    return NodeTable(dev=root / "dev", proc=root / "proc", sysfs=root / "sys")


def numbers(nodes: tuple[DeviceNode, ...]) -> dict[str, tuple[str, int | None, int | None]]:
    return {node.path: (node.type, node.major, node.minor) for node in nodes}


def device(path: Path, major: int, minor: int, mode: int = 0o660) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.mknod(path, stat.S_IFCHR | mode, os.makedev(major, minor))
        path.chmod(mode)
    except PermissionError:
        pytest.skip(NO_ROOT)


def test_modules_that_are_loaded_have_their_files_even_before_anybody_made_them(tmp_path: Path):
    put(tmp_path, "/proc/devices", DEVICES)

    assert numbers(table(tmp_path).controls()) == {
        "/dev/nvidiactl": ("c", 195, 255),
        "/dev/nvidia-modeset": ("c", 195, 254),
        "/dev/nvidia-uvm": ("c", 510, 0),
        "/dev/nvidia-uvm-tools": ("c", 510, 1),
    }


def test_modules_that_are_not_loaded_have_none(tmp_path: Path):
    put(tmp_path, "/proc/devices", "Character devices:\n195 nvidia-frontend\n")

    assert numbers(table(tmp_path).controls()) == {"/dev/nvidiactl": ("c", 195, 255)}
    assert not table(tmp_path).has_uvm


def test_a_file_that_the_kernel_s_list_knows_better_does_not_count(tmp_path: Path):
    put(tmp_path, "/proc/devices", DEVICES)
    device(tmp_path / "dev/nvidia-uvm", 507, 0)

    assert numbers(table(tmp_path).controls())["/dev/nvidia-uvm"] == ("c", 510, 0)


def test_where_the_list_cannot_be_read_the_files_are_believed(tmp_path: Path):
    device(tmp_path / "dev/nvidia-uvm", 507, 0)
    device(tmp_path / "dev/nvidiactl", 195, 255)

    assert numbers(table(tmp_path).controls()) == {
        "/dev/nvidiactl": ("c", 195, 255),
        "/dev/nvidia-uvm": ("c", 507, 0),
    }


def test_a_gpu_s_file_is_always_known(tmp_path: Path):
    assert numbers((table(tmp_path).gpu(7),)) == {"/dev/nvidia7": ("c", 195, 7)}


def test_the_mode_is_the_host_s_or_nvidia_s_default(tmp_path: Path):
    device(tmp_path / "dev/nvidia0", 195, 0, mode=0o640)

    assert table(tmp_path).gpu(0).file_mode == 0o640
    assert table(tmp_path).gpu(1).file_mode == 0o666


def test_rendering_files_are_those_of_the_same_pci_device(tmp_path: Path):
    put(tmp_path, "/sys/bus/pci/devices/0000:1b:00.0/drm/card1/dev", "226:1\n")
    put(tmp_path, "/sys/bus/pci/devices/0000:1b:00.0/drm/renderD129/dev", "226:129\n")
    put(tmp_path, "/sys/bus/pci/devices/0000:1b:00.0/drm/controlD65/dev", "226:65\n")
    put(tmp_path, "/sys/bus/pci/devices/0000:00:02.0/drm/card0/dev", "226:0\n")

    assert numbers(table(tmp_path).drm("0000:1b:00.0")) == {
        "/dev/dri/card1": ("c", 226, 1),
        "/dev/dri/renderD129": ("c", 226, 129),
    }
    assert table(tmp_path).drm("0000:99:00.0") == ()
    assert table(tmp_path).drm(None) == ()


def test_a_partition_is_opened_by_two_capabilities(tmp_path: Path):
    put(tmp_path, "/proc/devices", DEVICES)
    put(tmp_path, "/proc/driver/nvidia-caps/mig-minors", MINORS)

    nodes = table(tmp_path).partition(12, 3, 0)

    assert nodes is not None
    assert numbers(nodes) == {
        "/dev/nvidia-caps/nvidia-cap1650": ("c", 235, 1650),
        "/dev/nvidia-caps/nvidia-cap1651": ("c", 235, 1651),
    }


def test_without_the_list_of_minors_each_instance_tells_its_own(tmp_path: Path):
    put(tmp_path, "/proc/devices", DEVICES)
    place = "/proc/driver/nvidia/capabilities/gpu0/mig/gi2"
    put(tmp_path, f"{place}/access", "DeviceFileMinor: 21\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
    put(tmp_path, f"{place}/ci0/access", "DeviceFileMinor: 22\n")

    nodes = table(tmp_path).partition(0, 2, 0)

    assert nodes is not None
    assert [node.minor for node in nodes] == [21, 22]


@pytest.mark.parametrize("missing", ["devices", "driver/nvidia-caps/mig-minors"])
def test_without_numbers_there_is_nothing_to_open_a_partition(missing: str, tmp_path: Path):
    put(tmp_path, "/proc/devices", DEVICES)
    put(tmp_path, "/proc/driver/nvidia-caps/mig-minors", MINORS)
    (tmp_path / "proc" / missing).unlink()

    assert table(tmp_path).partition(0, 1, 0) is None


def test_block_devices_and_odd_lines_do_not_count():
    assert majors(DEVICES)["nvidia-caps"] == 235
    assert "sd" not in majors(DEVICES)
    assert set(capabilities(MINORS)) == {(0, 1, None), (0, 1, 0), (0, 1, 1), (12, 3, None), (12, 3, 0)}


def test_two_tables_differ_only_where_their_answers_do(tmp_path: Path):
    put(tmp_path, "/proc/devices", DEVICES)
    before = table(tmp_path)
    assert table(tmp_path).fingerprint == before.fingerprint

    put(tmp_path, "/proc/devices", DEVICES.replace("510", "511", 1))

    assert table(tmp_path).fingerprint != before.fingerprint
