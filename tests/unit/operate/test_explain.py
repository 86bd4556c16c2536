"""Where a profile has room, and who is in the way."""

from dataclasses import replace
from typing import Any

import pytest

from driver.claims.allocation import ClaimRef
from driver.claims.ledger.record import PreparedDevice, Record, State
from driver.cluster import Rule, Taint
from driver.hardware.model import MigMode, Partition
from driver.inventory.catalogue import Device, catalogue
from driver.inventory.options import DeviceOptions, Options, Partitioning, ShareBy, Shares
from driver.operate.explain import find_room, profiles
from tests.unit.inventory.mig_facts import gpu, node

DYNAMIC = Options(default=DeviceOptions(partitioning=Partitioning.DYNAMIC))
DEVICES = catalogue(node("H100-SXM5-80GB"), DYNAMIC)


def holding(name: str, claim: str = "train", *, devices: tuple[Device, ...] = DEVICES, **more: Any) -> Record:
    device = next(device for device in devices if device.name == name)
    return Record(
        claim=ClaimRef("default", claim, f"uid-{claim}"),
        driver="gpu.nvidia.com",
        allocation="",
        boot_id="1",
        state=State.PREPARED,
        prepared_at="",
        devices=(
            PreparedDevice(
                requests=("r",),
                pool="node-1",
                device=name,
                cdi_ids=(),
                gpu_uuid=device.gpu.uuid,
                slots=tuple(sorted(device.slots)),
                whole=device.profile is None,
                **more,
            ),
        ),
    )


def free(profile: str, *records: Record, devices: tuple[Device, ...] = DEVICES) -> list[int | None]:
    return [room.device.start for room in find_room(devices, profile, records) if not room.blockers]


def test_everything_is_free_on_a_fresh_node():
    assert free("1g.10gb") == [6, 5, 4, 3, 2, 1, 0]


def test_a_claim_is_in_the_way_of_what_overlaps():
    rooms = find_room(DEVICES, "3g.40gb", [holding("gpu-0-mig-1g10gb-19-6")])

    assert [(room.device.start, room.blockers) for room in rooms] == [
        (4, ("claim default/train holds gpu-0-mig-1g10gb-19-6",)),
        (0, ()),
    ]


def test_a_device_that_is_tainted_is_not_free():
    sick = {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoExecute"}
    noted = {"key": "gpu.nvidia.com/repair", "effect": "None"}

    (room,) = find_room(DEVICES, "gpu", [], taints={"gpu-0": [sick, noted]})

    assert room.blockers == ("tainted gpu.nvidia.com/xid=79:NoExecute",)


def test_a_device_that_an_administrators_rule_taints_is_not_free():
    drain = Rule(taint=Taint(key="example.com/drain", effect="NoSchedule", rule="drain-gpu-0"), device="gpu-0")
    note = Rule(taint=Taint(key="example.com/note", effect="None", rule="note"))

    rooms = find_room(DEVICES, None, [], rules=[drain, note])

    assert {room.device.name: room.blockers for room in rooms if room.blockers} == {
        "gpu-0": ("tainted by DeviceTaintRule drain-gpu-0 (example.com/drain:NoSchedule)",)
    }


def test_without_a_profile_everything_is_explained():
    assert [room.device for room in find_room(DEVICES, None, [])] == list(DEVICES)


def test_the_whole_gpu_is_in_the_way_of_all():
    assert free("1g.10gb", holding("gpu-0")) == []


def test_there_is_one_set_of_media_extensions():
    (room, *_) = find_room(DEVICES, "1g.10gb+me", [holding("gpu-0-mig-1g10gb-me-20-0")])

    assert room.blockers == ("claim default/train holds gpu-0-mig-1g10gb-me-20-0 with the GPU's only media extensions",)


def test_admin_access_is_in_nobodys_way():
    assert free("gpu", holding("gpu-0", admin=True)) == [None]


def test_a_share_leaves_room_for_others_on_its_device_and_nowhere_else():
    shares = Shares(mode=ShareBy.UNLIMITED)
    devices = catalogue(
        node("H100-SXM5-80GB"), Options(default=DeviceOptions(partitioning=Partitioning.DYNAMIC, shares=shares))
    )
    held = holding("gpu-0-mig-2g20gb-14-4", devices=devices, share_id="share-1")

    assert free("2g.20gb", held, devices=devices) == [4, 2, 0]
    assert free("1g.10gb", held, devices=devices) == [6, 3, 2, 1, 0]


def test_what_is_left_of_a_shared_device_is_counted():
    shares = Shares(mode=ShareBy.COUNT, count=4)
    devices = catalogue(node("H100-SXM5-80GB"), Options(default=DeviceOptions(shares=shares)))
    consumed = (("memory", "20Gi"), ("shares", "1"))
    held = [
        holding("gpu-0", name, devices=devices, share_id=f"share-{name}", consumed=consumed) for name in ("a", "b", "c")
    ]

    (room,) = find_room(devices, "gpu", held)

    assert not room.blockers
    assert room.left == {"memory": ("20119Mi", "81559Mi"), "shares": ("1", "4")}


def test_a_shared_device_that_is_used_up_names_its_claims():
    shares = Shares(mode=ShareBy.COUNT, count=2)
    devices = catalogue(node("H100-SXM5-80GB"), Options(default=DeviceOptions(shares=shares)))
    held = [
        holding("gpu-0", name, devices=devices, share_id=f"share-{name}", consumed=(("shares", "1"),))
        for name in ("a", "b")
    ]

    (room,) = find_room(devices, "gpu", held)

    assert room.blockers == ("nothing is left of its 2 of shares, taken by default/a, default/b",)


def test_partitions_of_others_are_named():
    there = Partition(
        gpu_uuid="GPU-0", profile="1g.10gb", profile_id=19, start=6, size=1, uuid="MIG-1", gi_id=1, ci_id=0
    )
    cut = replace(gpu("H100-SXM5-80GB"), mig_mode=MigMode.ENABLED, partitions=(there,))
    devices = catalogue(replace(node("H100-SXM5-80GB"), gpus=(cut,)), DYNAMIC)

    (room,) = find_room(devices, "7g.80gb", [])

    assert room.blockers == ("1g.10gb at memory slice 6 (MIG-1) is there, and no claim's record names it",)


def test_ones_own_partition_is_named_once():
    there = Partition(
        gpu_uuid="GPU-0", profile="1g.10gb", profile_id=19, start=6, size=1, uuid="MIG-1", gi_id=1, ci_id=0
    )
    cut = replace(gpu("H100-SXM5-80GB"), mig_mode=MigMode.ENABLED, partitions=(there,))
    devices = catalogue(replace(node("H100-SXM5-80GB"), gpus=(cut,)), DYNAMIC)

    (room,) = find_room(devices, "7g.80gb", [holding("gpu-0-mig-1g10gb-19-6", devices=devices)])

    assert room.blockers == ("claim default/train holds gpu-0-mig-1g10gb-19-6",)


@pytest.mark.parametrize(("options", "offered"), [(Options(), ("gpu",)), (DYNAMIC, ("gpu", "1g.10gb", "1g.10gb+me"))])
def test_profiles_are_in_order_of_publication(options: Options, offered: tuple[str, ...]):
    assert profiles(catalogue(node("H100-SXM5-80GB"), options))[:3] == offered
