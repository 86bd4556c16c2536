"""What the kernel says of GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver.hardware.nvml.kernel import Kernel, Places, bus_id
from driver.hardware.nvml.mig_profiles import canonical_name, compose_name, most_side_by_side


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00000000:1B:00.0", "0000:1b:00.0"),
        (b"0000:1b:00.0", "0000:1b:00.0"),
        ("00010000:01:00.0", "10000:01:00.0"),
        ("", None),
        (b"\xff", None),
        ("../../etc", None),
    ],
)
def test_pci_addresses_are_spelt_as_the_kernel_does(text: str | bytes, expected: str | None):
    assert bus_id(text) == expected


def test_an_address_has_one_spelling_whoever_tells_it():
    sysfs = ["0000:1b:00.0", "10000:1c:00.0", "10000:1d:00.0", "20000:1d:00.0"]
    places = Places(sysfs, ["00000000:1B:00.0", "0002:01:00.0"])

    assert places.find("00000000:1B:00.0") == places.find(b"0000:1b:00.0") == "0000:1b:00.0"
    assert places.find("0000:1c:00.0") == places.find("00010000:1C:00.0") == "10000:1c:00.0"
    assert places.find("00010002:01:00.0") == "0002:01:00.0"
    assert places.find("0000:1d:00.0") == "0000:1d:00.0"  # it may be either
    assert places.find("30000:1c:00.0") == "30000:1c:00.0"
    assert places.find("nonsense") is None


def test_a_root_complex_below_another_device_is_found(tmp_path: Path):
    place = tmp_path / "devices/LNXSYSTM:00/pci0009:00/0009:00:00.0/0009:01:00.0"
    place.mkdir(parents=True)
    (tmp_path / "bus/pci/devices").mkdir(parents=True)
    (tmp_path / "bus/pci/devices/0009:01:00.0").symlink_to(place)
    kernel = Kernel(sysfs=tmp_path, proc=tmp_path)

    assert kernel.pcie_root("0009:01:00.0") == "pci0009:00"
    assert kernel.pcie_root("0009:02:00.0") is None
    assert kernel.pcie_root(None) is None
    assert kernel.numa_node("0009:01:00.0") is None


def test_a_gpu_that_did_not_start_has_no_uuid(tmp_path: Path):
    directory = tmp_path / "driver/nvidia/gpus/0000:3b:00.0"
    directory.mkdir(parents=True)
    (directory / "information").write_text(
        "Model: \t\t Unknown\nGPU UUID: \t GPU-????????-????-????-????-????????????\nDevice Minor: \t 4\n"
    )

    kernel = Kernel(sysfs=tmp_path, proc=tmp_path)

    (found,) = kernel.gpus(kernel.places()) or ()

    assert (found.uuid, found.minor, found.product_name, found.excluded) == (None, 4, "", False)


def test_a_kernel_without_the_driver_knows_of_no_gpus(tmp_path: Path):
    kernel = Kernel(sysfs=tmp_path, proc=tmp_path)

    assert kernel.gpus(kernel.places()) is None
    assert kernel.fingerprint() == kernel.fingerprint()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"MIG 1g.10gb", "1g.10gb"),
        ("1g.10gb+me", "1g.10gb+me"),
        ("MIG 1g.24gb+me.all", "1g.24gb+me.all"),
        ("MIG 1g.24gb-me", "1g.24gb-me"),
        ("MIG 1c.3g.40gb", ""),
        ("NVIDIA H100", ""),
        (b"", ""),
    ],
)
def test_names_of_profiles(name: bytes | str, expected: str):
    assert canonical_name(name) == expected


def test_names_of_profiles_where_nvml_gives_none():
    total = 81559 << 20

    assert compose_name(0, 1, 9984, total) == "1g.10gb"
    assert compose_name(7, 1, 9984, total) == "1g.10gb+me"
    assert compose_name(9, 1, 20096, total) == "1g.20gb"
    assert compose_name(10, 1, 9984, total) == "1g.10gb+gfx"
    assert compose_name(4, 7, 81152, total) == "7g.80gb"
    assert compose_name(0, 1, 9984, None) == "1g.10gb"


def test_how_many_fit_beside_each_other():
    assert [most_side_by_side((0, 1, 2, 3), 1), most_side_by_side((0, 2, 4, 6), 2), most_side_by_side((0, 4), 4)] == [
        4,
        4,
        2,
    ]
