"""Counters for GPUs that no table has: rules that none of NVIDIA's counters expresses get one of their own."""

from dataclasses import replace

from driver.hardware.model import Gpu, MigProfile
from driver.inventory import counters as mig
from tests.unit.inventory.mig_facts import gpu

H100 = gpu("H100-SXM5-80GB")


def altered(name: str, **values: int) -> Gpu:
    profiles = tuple(replace(p, **values) if p.name == name else p for p in H100.mig_profiles)
    return replace(H100, mig_profiles=profiles)


def own(device: Gpu) -> set[str]:
    return {name for name in mig.totals(device) if name not in mig.SCALARS and not name.startswith("memory-slice-")}


def test_known_gpus_need_none():
    assert own(H100) == set()


def test_media_extensions_without_an_engine_that_says_so_are_counted():
    device = replace(
        H100, mig_profiles=tuple(replace(p, ofa_engines=0, jpeg_engines=0, decoders=0) for p in H100.mig_profiles)
    )

    assert own(device) >= {"media-extensions"}
    me = device.profile("1g.10gb+me")
    assert me is not None
    assert mig.totals(device)["media-extensions"] == mig.consumption(device, me, 0)["media-extensions"] == 1


def test_a_number_of_instances_below_what_has_room_is_counted():
    device = altered("1g.10gb", max_instances=3)

    assert own(device) == {"1g10gb-instances"}
    assert mig.totals(device)["1g10gb-instances"] == 3


def test_compute_slices_that_run_out_before_the_memory_are_counted():
    device = altered("1g.20gb", compute_slices=3)

    assert own(device) == {"compute-slices"}
    assert mig.totals(device)["compute-slices"] == 7


def test_memory_is_what_the_gpu_has_if_that_is_more_than_its_partitions_have():
    assert mig.totals(H100)["memory"] == 81559 << 20


def test_totals_are_no_less_than_any_layout_takes():
    b200 = gpu("B200-180GB")

    assert mig.totals(b200)["decoders"] == 7
    assert mig.totals(b200)["copy-engines"] == 16


def test_a_partition_with_all_media_engines_leaves_none_to_others() -> None:
    def variant(name: str, number: int, size: int, most: int, engines: int) -> MigProfile:
        return MigProfile(
            name=name,
            profile_id=number,
            compute_slices=size,
            size=size,
            starts=(0,) if size == 4 else (0, 1, 2, 3),
            max_instances=most,
            memory_mib=24000 * size,
            multiprocessors=46 * size,
            copy_engines=size,
            decoders=engines,
            encoders=engines,
            jpeg_engines=engines,
            ofa_engines=0,
        )

    rows = (("1g.24gb", 1, 4, 1), ("1g.24gb+me.all", 1, 1, 4), ("1g.24gb-me", 1, 4, 0), ("4g.96gb", 4, 1, 4))
    variants = tuple(variant(name, number, *row) for number, (name, *row) in enumerate(rows))
    cut = replace(gpu("A30-24GB"), mig_profiles=variants, memory_slices=4)
    plain, everything, none, _ = variants
    total = mig.totals(cut)

    def fits(*placed: MigProfile) -> bool:
        used = [mig.consumption(cut, profile, start) for start, profile in enumerate(placed)]
        return all(sum(use.get(name, 0) for use in used) <= amount for name, amount in total.items())

    assert fits(plain, plain, plain, plain)
    assert fits(everything, none, none, none)
    assert not fits(everything, plain)
    assert not fits(everything, everything)
