"""What is offered, and in which order: the scheduler takes the first device that fits."""

import itertools
from dataclasses import replace

import pytest

from driver.hardware.fake import profile
from driver.hardware.model import Gpu, Inventory, MigMode, Partition
from driver.inventory.catalogue import Device, catalogue, placements, survey
from driver.inventory.options import DeviceOptions, Options, Override, Partitioning, ShareBy, Shares
from tests.unit.inventory.mig_facts import FACTS, MODELS, gpu, node

NONE = Options()
STATIC = Options(default=DeviceOptions(partitioning=Partitioning.STATIC))
DYNAMIC = Options(default=DeviceOptions(partitioning=Partitioning.DYNAMIC))


def h100(**more) -> Gpu:
    return replace(gpu("H100-SXM5-80GB"), **more)


def of(*gpus: Gpu) -> Inventory:
    return Inventory(driver_version="570.124.06", cuda_version="12.8", gpus=gpus)


def names(devices: tuple[Device, ...]) -> list[str]:
    return [device.name for device in devices]


def made(name: str, start: int, *, of: Gpu) -> Partition:
    facts = of.profile(name)
    assert facts is not None
    return Partition(
        gpu_uuid=of.uuid,
        profile=name,
        profile_id=facts.profile_id,
        start=start,
        size=facts.size,
        uuid=f"MIG-{name}-{start}",
        gi_id=1,
        ci_id=0,
    )


def test_without_partitioning_every_gpu_is_one_device():
    devices = catalogue(profile.load_profile("h100x8").inventory(), NONE)

    assert names(devices) == [f"gpu-{minor}" for minor in range(8)]
    assert {device.type for device in devices} == {"gpu"}


def test_dynamic_offers_the_whole_then_partitions_from_small_to_big_each_from_the_far_end():
    assert names(catalogue(node("H100-SXM5-80GB"), DYNAMIC)) == [
        "gpu-0",
        *(f"gpu-0-mig-1g10gb-19-{start}" for start in (6, 5, 4, 3, 2, 1, 0)),
        *(f"gpu-0-mig-1g10gb-me-20-{start}" for start in (6, 5, 4, 3, 2, 1, 0)),
        *(f"gpu-0-mig-1g20gb-15-{start}" for start in (6, 4, 2, 0)),
        *(f"gpu-0-mig-2g20gb-14-{start}" for start in (4, 2, 0)),
        *(f"gpu-0-mig-3g40gb-9-{start}" for start in (4, 0)),
        "gpu-0-mig-4g40gb-5-0",
        "gpu-0-mig-7g80gb-0-0",
    ]


def test_the_devices_of_a_gpu_stay_together():
    devices = catalogue(node("H100-SXM5-80GB", 3), DYNAMIC)

    assert [uuid for uuid, _ in itertools.groupby(device.gpu.uuid for device in devices)] == ["GPU-0", "GPU-1", "GPU-2"]


def test_slots_are_what_two_devices_cannot_share():
    devices = {device.name: device for device in catalogue(node("H100-SXM5-80GB"), DYNAMIC)}

    assert devices["gpu-0"].slots == frozenset(range(8))
    assert devices["gpu-0-mig-3g40gb-9-4"].slots == frozenset({4, 5, 6, 7})
    assert devices["gpu-0-mig-1g10gb-me-20-6"].slots == frozenset({6})


def test_a_gpu_without_mig_is_one_slot_in_every_mode():
    for options in (NONE, STATIC, DYNAMIC):
        (device,) = catalogue(profile.load_profile("t4x1").inventory(), options)

        assert (device.slots, device.partitionable) == (frozenset({0}), False)


class FirstFit:
    """The scheduler with one GPU: for each request the first device of the profile that overlaps with none."""

    def __init__(self, model: str) -> None:
        self.devices = [device for device in catalogue(node(model), DYNAMIC) if device.type == "mig"]
        self.taken: set[int] = set()

    def take(self, name: str) -> bool:
        for device in self.devices:
            if device.profile and device.profile.name == name and not device.slots & self.taken:
                self.taken |= device.slots
                return True
        return False


def satisfied(model: str, wanted: tuple[str, ...]) -> bool:
    scheduler = FirstFit(model)
    return all(scheduler.take(name) for name in wanted)


def mixes(model: str) -> list[tuple[str, ...]]:
    """Every combination of profiles that a GPU has room for in some arrangement, media extensions aside."""
    profiles = {name: facts for name, facts in FACTS[model]["profiles"].items() if "+me" not in name}

    def has_room(rest: tuple[str, ...], taken: frozenset[int]) -> bool:
        if not rest:
            return True
        size, starts = profiles[rest[0]][2:4]
        spans = [frozenset(range(start, start + size)) for start in starts]
        return any(not span & taken and has_room(rest[1:], taken | span) for span in spans)

    found: list[tuple[str, ...]] = []
    for count in range(1, 8):
        combinations = itertools.combinations_with_replacement(sorted(profiles, key=lambda n: -profiles[n][2]), count)
        found += [combination for combination in combinations if has_room(combination, frozenset())]
    return found


@pytest.mark.parametrize("model", MODELS)
def test_all_small_ones_fit(model: str):
    smallest = next(iter(FACTS[model]["profiles"]))

    assert satisfied(model, (smallest,) * FACTS[model]["profiles"][smallest][4])


@pytest.mark.parametrize("model", MODELS)
def test_every_mix_that_has_room_fits_when_the_big_ones_come_first(model: str):
    size = {name: (-facts[2], -facts[1]) for name, facts in FACTS[model]["profiles"].items()}

    missed = [mix for mix in mixes(model) if not satisfied(model, tuple(sorted(mix, key=size.__getitem__)))]

    assert missed == []


@pytest.mark.parametrize("order", list(itertools.permutations(["1g.10gb", "2g.20gb", "4g.40gb"])), ids=" ".join)
def test_a_classic_mix_fits_in_any_order(order: tuple[str, ...]):
    assert satisfied("H100-SXM5-80GB", order)


@pytest.mark.parametrize("order", [("3g.40gb", "4g.40gb"), ("4g.40gb", "3g.40gb")], ids=" ".join)
def test_the_two_halves_fit_in_any_order(order: tuple[str, ...]):
    assert satisfied("H100-SXM5-80GB", order)


@pytest.mark.parametrize("small", [1, 2, 3])
def test_small_ones_leave_room_for_a_half(small: int):
    assert satisfied("H100-SXM5-80GB", ("1g.10gb",) * small + ("4g.40gb",))


def test_static_offers_what_exists_in_place_of_its_gpu():
    cut = h100(mig_mode=MigMode.ENABLED)
    cut = replace(cut, partitions=(made("3g.40gb", 0, of=cut), made("1g.10gb+me", 6, of=cut)))
    whole = replace(gpu("H100-SXM5-80GB", 1))

    devices = catalogue(of(cut, whole), STATIC)

    assert names(devices) == ["gpu-0-mig-1g10gb-me-20-6", "gpu-0-mig-3g40gb-9-0", "gpu-1"]
    assert [device.partition and device.partition.uuid for device in devices] == [
        "MIG-1g.10gb+me-6",
        "MIG-3g.40gb-0",
        None,
    ]
    assert not any(device.partitionable for device in devices)


def test_a_gpu_that_is_cut_into_nothing_is_reported():
    found = survey(of(h100(mig_mode=MigMode.ENABLED)), STATIC)

    assert found.devices == ()
    assert "no MIG devices" in found.problems["GPU-0"]


def test_an_unfinished_instance_is_reported_and_not_offered():
    cut = h100(mig_mode=MigMode.ENABLED)
    cut = replace(cut, partitions=(replace(made("1g.10gb", 0, of=cut), uuid=""),))

    found = survey(of(cut), STATIC)

    assert found.devices == ()
    assert "has no compute instance" in found.problems["GPU-0"]


def test_without_partitioning_a_gpu_in_mig_mode_is_reported():
    found = survey(of(h100(mig_mode=MigMode.ENABLED)), NONE)

    assert found.devices == ()
    assert "MIG mode is on" in found.problems["GPU-0"]


def test_where_mig_mode_needs_a_reset_to_go_on_only_the_whole_is_offered():
    found = survey(node("A100-SXM4-40GB", switchable=False), DYNAMIC)

    assert names(found.devices) == ["gpu-0"]
    assert not found.devices[0].partitionable
    assert "without a reset" in found.problems["GPU-0"]


def test_where_mig_mode_needs_a_reset_to_go_off_only_partitions_are_offered():
    found = survey(node("A100-SXM4-40GB", mode=MigMode.ENABLED, switchable=False), DYNAMIC)

    assert len(found.devices) == 25
    assert {device.type for device in found.devices} == {"mig"}
    assert found.problems == {}


def test_our_own_partitions_change_nothing_in_dynamic_mode():
    before = h100()
    after = h100(mig_mode=MigMode.ENABLED, partitions=(made("1g.10gb", 6, of=before),))

    assert names(catalogue(of(before), DYNAMIC)) == names(catalogue(of(after), DYNAMIC))


def test_what_others_occupy_is_not_offered_in_dynamic_mode():
    found = survey(node("H100-SXM5-80GB"), replace(DYNAMIC, withheld={"GPU-0": frozenset({4, 5, 6, 7})}))

    assert all(device.slots <= {0, 1, 2, 3} for device in found.devices)
    assert "gpu-0-mig-4g40gb-5-0" in names(found.devices)
    assert "did not make" in found.problems["GPU-0"]


@pytest.mark.parametrize(
    ("override", "partitioned"),
    [
        (Override(name="gpu-1", partitioning=Partitioning.DYNAMIC), {"gpu-1"}),
        (Override(uuid="GPU-2", partitioning=Partitioning.DYNAMIC), {"gpu-2"}),
        (Override(product="H100-SXM5-80GB", partitioning=Partitioning.DYNAMIC), {"gpu-0", "gpu-1", "gpu-2"}),
        (Override(name="gpu-1", uuid="GPU-2", partitioning=Partitioning.DYNAMIC), set()),
        (Override(partitioning=Partitioning.DYNAMIC), {"gpu-0", "gpu-1", "gpu-2"}),
    ],
)
def test_overrides_are_for_the_gpus_that_match_in_everything(override: Override, partitioned: set[str]):
    devices = catalogue(node("H100-SXM5-80GB", 3), Options(overrides=(override,)))

    assert {device.gpu.name for device in devices if device.partitionable} == partitioned


def test_of_several_overrides_the_last_one_counts_field_by_field():
    options = Options(
        overrides=(
            Override(partitioning=Partitioning.DYNAMIC, shares=(ShareBy.UNLIMITED, None)),
            Override(name="gpu-0", shares=(ShareBy.COUNT, 4), memory_reserve=5),
        )
    )

    device = catalogue(node("H100-SXM5-80GB"), options)[0]

    assert device.partitionable
    assert device.shares == Shares(mode=ShareBy.COUNT, count=4, memory_reserve=5)


def test_a_device_that_is_too_small_to_share_goes_to_one_claim():
    shares = Shares(mode=ShareBy.MEMORY, memory_reserve=20 << 30)
    options = Options(default=DeviceOptions(partitioning=Partitioning.DYNAMIC, shares=shares))

    found = survey(node("H100-SXM5-80GB"), options)

    shared = {device.profile.name if device.profile else "whole" for device in found.devices if device.shares}
    assert shared == {"whole", "3g.40gb", "4g.40gb", "7g.80gb"}
    assert "too few to share" in found.problems["GPU-0"]


def test_of_two_gpus_with_one_name_the_first_is_offered():
    found = survey(of(h100(), h100(uuid="GPU-9")), NONE)

    assert [device.gpu.uuid for device in found.devices] == ["GPU-0"]
    assert "belongs to another" in found.problems["GPU-9"]


def test_placements_are_all_there_are():
    facts = FACTS["A30-24GB"]["profiles"]

    found = {(profile.name, start) for profile, start in placements(gpu("A30-24GB"))}

    assert found == {(name, start) for name, values in facts.items() for start in values[3]}
