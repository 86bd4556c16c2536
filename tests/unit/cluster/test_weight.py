"""How much of a GPU a device is."""

from __future__ import annotations

from fractions import Fraction

import pytest

from driver.cluster import Device, Result, Slice, held_weight, read_slice, weights
from driver.hardware.model import MigMode
from driver.inventory import Partitioning, Shares
from driver.inventory.options import ShareBy
from tests.unit.cluster.world import DRIVER, cut, options, slices
from tests.unit.inventory import mig_facts


def devices(*more: object, **how: object) -> dict[str, Device]:
    read = [read_slice(obj, driver=DRIVER) for obj in slices(*more, **how)]  # type: ignore[arg-type]
    return {device.name: device for found in read if isinstance(found, Slice) for device in found.devices}


@pytest.mark.parametrize("model", mig_facts.MODELS)
def test_a_partition_weighs_its_compute_slices(model: str) -> None:
    inventory = mig_facts.node(model, 1)
    [gpu] = inventory.gpus
    total = max(profile.compute_slices for profile in gpu.mig_profiles)
    expected = {profile.name: Fraction(profile.compute_slices, total) for profile in gpu.mig_profiles}

    found = devices(inventory=inventory)

    by_name = weights(found.values())
    assert {found[name].shape.profile or "gpu": weight for name, weight in by_name.items()} == {"gpu": 1, **expected}


@pytest.mark.parametrize("model", mig_facts.MODELS)
def test_so_does_one_that_is_alone_on_its_gpu(model: str) -> None:
    inventory = mig_facts.node(model, 1, mode=MigMode.ENABLED)
    [gpu] = inventory.gpus
    profile = min(gpu.mig_profiles, key=lambda profile: (profile.compute_slices, profile.size))
    inventory = cut(inventory, (profile.name, 0))

    found = weights(devices(inventory=inventory, offered=options(Partitioning.STATIC)).values())

    total = max(profile.compute_slices for profile in gpu.mig_profiles)
    assert list(found.values()) == [Fraction(profile.compute_slices, total)]


def share(how: Shares, **consumed: int) -> Fraction:
    device = devices(offered=options(Partitioning.NONE, how))["gpu-0"]
    taken = Result(request="r", pool="p", device="gpu-0", share_id="a", consumed=tuple(consumed.items()))
    return held_weight(device, taken, Fraction(1))


def test_a_share_by_memory_weighs_its_part_of_the_memory() -> None:
    shares = Shares(mode=ShareBy.MEMORY, memory_reserve=559 << 20)

    assert share(shares, memory=20250 << 20) == Fraction(1, 4)


def test_a_share_by_count_weighs_one_of_so_many() -> None:
    assert share(Shares(mode=ShareBy.COUNT, count=4), shares=1, memory=1 << 30) == Fraction(1, 4)


def test_a_share_without_limits_weighs_the_memory_that_it_says() -> None:
    assert share(Shares(mode=ShareBy.UNLIMITED), memory=0) == 0


def test_nobody_has_more_of_a_device_than_there_is() -> None:
    assert share(Shares(mode=ShareBy.MEMORY), memory=1 << 60) == 1


def test_a_share_of_a_partition_is_a_part_of_its_weight() -> None:
    found = devices(offered=options(Partitioning.DYNAMIC, Shares(mode=ShareBy.COUNT, count=2)))
    device = found["gpu-0-mig-1g10gb-19-6"]
    taken = Result(request="r", pool="p", device=device.name, share_id="a", consumed=(("shares", 1),))

    assert held_weight(device, taken, weights(found.values())[device.name]) == Fraction(1, 14)


def test_admin_access_weighs_nothing() -> None:
    device = devices()["gpu-0"]

    assert held_weight(device, Result(request="r", pool="p", device="gpu-0", admin=True), Fraction(1)) == 0
