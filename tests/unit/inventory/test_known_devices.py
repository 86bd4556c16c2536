"""When a claim that begins or ends is a reason to read the hardware again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from driver.inventory.catalogue import survey
from driver.inventory.known_devices import Devices
from driver.inventory.options import DeviceOptions, Options, Partitioning
from tests.unit.inventory.mig_facts import node

WHOLE = DeviceOptions()
CUT = DeviceOptions(partitioning=Partitioning.DYNAMIC)


@dataclass(frozen=True)
class Held:
    """A device that a claim has got or let go of."""

    gpu_uuid: str = "GPU-0"
    offered: DeviceOptions | None = WHOLE


@pytest.fixture
def devices() -> Devices:
    """Two GPUs that are offered as a whole."""
    inventory = node("H100-SXM5-80GB", 2)
    found = survey(inventory, Options())
    backend: Any = None
    made = Devices()
    made.update(backend, inventory, found.by_name(), offered=found.devices, pending={"GPU-1": "a claim holds it"})
    return made


def test_a_claim_on_what_is_offered_is_none(devices: Devices) -> None:
    devices.claim_changed([Held(), Held(offered=None)])

    assert not devices.read_again.is_set()


def test_a_claim_on_what_was_offered_otherwise_is_one(devices: Devices) -> None:
    devices.claim_changed([Held(offered=CUT)])

    assert devices.read_again.is_set()


def test_a_claim_on_what_waits_for_claims_to_end_is_one(devices: Devices) -> None:
    devices.claim_changed([Held(), Held(gpu_uuid="GPU-1")])

    assert devices.read_again.is_set()


def test_no_device_has_a_name_before_the_hardware_was_read(devices: Devices) -> None:
    assert Devices().nameable() == {}
    assert set(devices.nameable()) >= {"gpu-0", "gpu-1"}


async def test_a_gpu_is_not_idle_where_nobody_can_tell() -> None:
    unread = Devices()
    unread.fail("no driver")

    assert not await unread.idle("GPU-0")
