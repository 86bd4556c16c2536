"""A MIG device that an administrator destroys while a claim holds it."""

from __future__ import annotations

from driver.hardware.model import Inventory, MigMode
from driver.health.report import GONE, Health, report_health
from driver.inventory.catalogue import Hold, survey
from driver.inventory.options import DeviceOptions, Options, Partitioning
from driver.inventory.slices import build_slices
from tests.unit.inventory.mig_facts import gpu

STATIC = DeviceOptions(partitioning=Partitioning.STATIC)
HELD = "gpu-0-mig-1g10gb-19-6"


def test_it_stays_and_its_gpu_is_offered_in_no_other_way() -> None:
    cut = gpu("H100-SXM5-80GB", mode=MigMode.ENABLED)
    inventory = Inventory(driver_version="570.1", cuda_version="12.8", gpus=(cut,))

    found = survey(inventory, Options(default=STATIC), {cut.uuid: [Hold(device=HELD, offered=STATIC)]})

    (device,) = found.devices
    assert (device.name, device.partitionable, device.partition) == (HELD, False, None)
    assert found.pending


def test_it_is_tainted_and_unhealthy() -> None:
    cut = gpu("H100-SXM5-80GB", mode=MigMode.ENABLED)
    inventory = Inventory(driver_version="570.1", cuda_version="12.8", gpus=(cut,))
    found = survey(inventory, Options(default=STATIC), {cut.uuid: [Hold(device=HELD, offered=STATIC)]})

    (spec,) = build_slices(inventory, {}, driver_name="gpu.nvidia.com", devices=found.devices)
    (health,) = report_health(found.devices, {})

    assert spec["devices"][0]["taints"] == [{"key": "gpu.nvidia.com/partition-gone", "effect": "NoSchedule"}]
    assert (health.status, health.message) == (Health.UNHEALTHY, GONE)
