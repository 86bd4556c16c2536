"""A device that a claim holds is never removed or reshaped, whatever the settings say now."""

from dataclasses import replace

import pytest

from driver.hardware.model import Inventory, MigMode, Partition
from driver.inventory.catalogue import Catalogue, Hold, survey
from driver.inventory.options import DeviceOptions, Options, Override, Partitioning, ShareBy, Shares
from driver.inventory.slices import build_slices
from tests.unit.inventory.mig_facts import gpu, node

NONE = DeviceOptions()
STATIC = DeviceOptions(partitioning=Partitioning.STATIC)
DYNAMIC = DeviceOptions(partitioning=Partitioning.DYNAMIC)
SHARED = DeviceOptions(shares=Shares(mode=ShareBy.COUNT, count=4))
SMALL = "gpu-0-mig-1g10gb-19-3"


def seen(
    inventory: Inventory, settings: DeviceOptions, *holds: Hold, withheld: frozenset[int] = frozenset()
) -> Catalogue:
    return survey(inventory, Options(default=settings, withheld={"GPU-0": withheld}), {"GPU-0": holds} if holds else {})


def names(found: Catalogue, number: int = 0) -> list[str]:
    return [device.name for device in found.devices if device.gpu.uuid == f"GPU-{number}"]


H100 = node("H100-SXM5-80GB", 2)
CUT = Inventory(
    driver_version="570.124.06",
    cuda_version="12.8",
    gpus=(
        replace(
            gpu("H100-SXM5-80GB", mode=MigMode.ENABLED),
            partitions=(
                Partition(
                    gpu_uuid="GPU-0",
                    profile="1g.10gb",
                    profile_id=19,
                    start=3,
                    size=1,
                    uuid="MIG-3",
                    gi_id=9,
                    ci_id=0,
                ),
            ),
        ),
    ),
)


def test_a_partition_that_is_held_stays_with_everything_that_is_counted_with_it():
    before = seen(H100, DYNAMIC)

    after = seen(H100, NONE, Hold(device=SMALL, offered=DYNAMIC))

    assert names(after) == names(before)
    assert list(after.pending) == ["GPU-0"]
    assert SMALL in after.pending["GPU-0"]


def test_other_gpus_are_offered_as_the_settings_say():
    assert names(seen(H100, NONE, Hold(device=SMALL, offered=DYNAMIC)), 1) == ["gpu-1"]


def test_a_whole_gpu_that_is_held_is_not_cut():
    found = seen(H100, DYNAMIC, Hold(device="gpu-0", offered=NONE))

    assert names(found) == ["gpu-0"]
    assert not found.devices[0].partitionable
    assert list(found.pending) == ["GPU-0"]


def test_a_device_that_is_held_is_not_shared_from_now_on():
    found = seen(H100, SHARED, Hold(device="gpu-0", offered=NONE))

    assert not found.devices[0].shares
    assert found.devices[1].shares


def test_what_the_settings_do_not_change_is_not_pending():
    assert not seen(H100, NONE, Hold(device="gpu-0", offered=STATIC)).pending


def test_once_nobody_holds_it_the_settings_count():
    found = seen(H100, NONE)

    assert names(found) == ["gpu-0"]
    assert not found.pending


def test_a_record_that_does_not_say_how_its_device_was_offered_keeps_it_too():
    found = seen(H100, NONE, Hold(device=SMALL))

    assert SMALL in names(found)


def test_a_partition_of_ours_is_not_given_away_as_a_static_one():
    found = seen(CUT, STATIC, Hold(device=SMALL, offered=DYNAMIC))

    assert next(device for device in found.devices if device.name == SMALL).partitionable
    assert found.pending


def test_a_static_partition_that_is_held_stays_in_dynamic_mode():
    found = seen(CUT, DYNAMIC, Hold(device=SMALL, offered=STATIC), withheld=frozenset({3}))

    assert names(found) == [SMALL]
    assert found.devices[0].partition is not None


def test_a_whole_gpu_that_is_held_stays_when_somebody_has_cut_it():
    found = seen(CUT, DYNAMIC, Hold(device="gpu-0", offered=DYNAMIC), withheld=frozenset({3}))

    assert "gpu-0" in names(found)
    assert found.pending


def test_an_override_for_one_gpu_waits_as_well():
    options = Options(overrides=(Override(name="gpu-0", partitioning=Partitioning.DYNAMIC),))

    found = survey(H100, options, {"GPU-0": (Hold(device="gpu-0", offered=NONE),)})

    assert names(found) == ["gpu-0"]


def test_claims_may_name_what_was_offered_before_the_settings_changed():
    found = seen(H100, NONE)

    assert SMALL in found.by_name()
    assert found.by_name()["gpu-0"] is found.devices[0]


def test_all_of_a_pending_gpu_is_tainted_and_nothing_else():
    found = seen(H100, NONE, Hold(device=SMALL, offered=DYNAMIC))

    slices = build_slices(H100, {}, driver_name="gpu.nvidia.com", devices=found.devices, pending=found.pending)

    devices = [device for spec in slices for device in spec.get("devices", ())]
    taint = {"key": "gpu.nvidia.com/reshape-pending", "effect": "NoSchedule"}
    assert [d["name"] for d in devices if d.get("taints") != [taint]] == ["gpu-1"]


def test_the_shape_of_what_is_held_is_byte_for_byte_what_it_was():
    before = build_slices(H100, {}, driver_name="d", devices=seen(H100, DYNAMIC).devices)
    found = seen(H100, NONE, Hold(device=SMALL, offered=DYNAMIC))

    after = build_slices(H100, {}, driver_name="d", devices=found.devices)

    def of_gpu_0(slices: tuple) -> list:
        return [d for spec in slices for d in spec.get("devices", ()) if d["name"].startswith("gpu-0")]

    assert of_gpu_0(after) == of_gpu_0(before)


def test_a_line_of_the_config_that_is_about_no_gpu_is_told():
    found = survey(H100, Options(overrides=(Override(name="gpu-9", partitioning=Partitioning.DYNAMIC),)))

    assert "gpu-9" in found.problems["gpus[0]"]
    assert "gpu-0" in found.problems["gpus[0]"]


@pytest.mark.parametrize("was", [NONE, STATIC, DYNAMIC, SHARED])
@pytest.mark.parametrize("now", [NONE, STATIC, DYNAMIC, SHARED])
def test_every_change_of_settings_keeps_every_device_that_may_be_held(was: DeviceOptions, now: DeviceOptions):
    for inventory in (H100, CUT):
        for device in seen(inventory, was).devices:
            if device.gpu.uuid != "GPU-0":
                continue
            found = seen(inventory, now, Hold(device=device.name, offered=was)).by_name()[device.name]
            assert (found.partitionable, found.shares, found.slots) == (
                device.partitionable,
                device.shares,
                device.slots,
            )
