"""Claims that want devices near each other, allocated from what we publish: without any alpha feature gate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from driver.hardware.fake import profile
from driver.hardware.model import MigMode
from driver.inventory.catalogue import catalogue
from driver.inventory.options import DeviceOptions, Options, Partitioning
from driver.inventory.slices import build_slices
from driver.sim.scheduler.allocator import UnschedulableError
from tests.unit.scheduler.builders import DRIVER, allocated, claim, device_class, exactly, run, slice_of

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
GPU_CLASS = device_class(
    "gpu.nvidia.com",
    selector="device.driver == 'gpu.nvidia.com' && device.attributes['gpu.nvidia.com'].type == 'gpu'",
)


def slices_of(name: str, partitioning: Partitioning = Partitioning.NONE) -> list[dict[str, Any]]:
    """The pool of a fake node; every GPU there with MIG off."""
    found = profile.load_profile(name).inventory()
    found = replace(found, gpus=tuple(replace(gpu, mig_mode=MigMode.DISABLED, partitions=()) for gpu in found.gpus))
    devices = catalogue(found, Options(default=DeviceOptions(partitioning=partitioning)))
    specs = build_slices(found, {}, driver_name=DRIVER, devices=devices)
    return [
        slice_of(spec.get("devices"), name=f"{n:05x}", slices=len(specs), nodeName="node-a", **without(spec, "devices"))
        for n, spec in enumerate(specs)
    ]


def without(spec: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name != key}


def wish(example: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The claim of an example, and the classes that it may name."""
    objects = list(yaml.safe_load_all((EXAMPLES / f"{example}.yaml").read_text(encoding="utf-8")))
    [template] = [obj for obj in objects if obj["kind"] == "ResourceClaimTemplate"]
    classes = [obj for obj in objects if obj["kind"] == "DeviceClass"]
    return {**claim(), "spec": template["spec"]["spec"]}, [GPU_CLASS, *classes]


def given(allocation: dict[str, Any]) -> list[tuple[str, str]]:
    return [(result["driver"], result["device"]) for result in allocation["devices"]["results"]]


def taken(slices: list[dict[str, Any]], device: str) -> dict[str, Any]:
    """A claim that has one device already."""
    held = claim(exactly(class_name="gpu.nvidia.com", selector=f"device.attributes['{DRIVER}'].minor == {device[-1]}"))
    [allocation] = run(held, slices, classes=[GPU_CLASS])
    assert given(allocation) == [(DRIVER, device)]
    return allocated(held, allocation)


@pytest.mark.parametrize(
    ("held", "pair"),
    [((), {"gpu-0", "gpu-1"}), (("gpu-0",), {"gpu-2", "gpu-3"}), (("gpu-3",), {"gpu-0", "gpu-1"})],
)
def test_two_gpus_over_nvlink_are_those_of_one_bridge(held: tuple[str, ...], pair: set[str]):
    nvlink, classes = wish("32-two-gpus-over-nvlink")
    slices = slices_of("a30x4")

    [allocation] = run(nvlink, slices, classes=classes, allocated=[taken(slices, device) for device in held])

    assert {device for _, device in given(allocation)} == pair


def test_two_gpus_of_different_bridges_are_no_pair():
    nvlink, classes = wish("32-two-gpus-over-nvlink")
    slices = slices_of("a30x4")

    with pytest.raises(UnschedulableError):
        run(nvlink, slices, classes=classes, allocated=[taken(slices, "gpu-0"), taken(slices, "gpu-2")])


def test_gpus_without_nvlink_are_no_pair():
    nvlink, classes = wish("32-two-gpus-over-nvlink")

    with pytest.raises(UnschedulableError):
        run(nvlink, slices_of("l40sx4"), classes=classes)


@pytest.mark.parametrize("partitioning", [Partitioning.NONE, Partitioning.DYNAMIC])
@pytest.mark.parametrize(("root", "gpus"), [("pci0000:48", {"gpu-2"}), ("pci0000:ff", set())])
def test_a_gpu_and_a_network_card_share_a_pcie_root(root: str, gpus: set[str], partitioning: Partitioning):
    both, classes = wish("33-gpu-and-nic")
    attributes = {"dra.net/rdma": {"bool": True}, "resource.kubernetes.io/pcieRoot": {"string": root}}
    other = {"name": "eth0", "attributes": {"resource.kubernetes.io/pcieRoot": {"string": "pci0000:15"}}}
    cards = slice_of([other, {"name": "mlx5-0", "attributes": attributes}], driver="dra.net", nodeName="node-a")
    slices = [*slices_of("h100x8", partitioning), cards]

    if not gpus:
        with pytest.raises(UnschedulableError):
            run(both, slices, classes=classes)
        return
    [allocation] = run(both, slices, classes=classes)

    assert given(allocation) == [(DRIVER, "gpu-2"), ("dra.net", "mlx5-0")]
