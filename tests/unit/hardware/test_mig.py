"""Counters for GPUs that no table has: rules that memory slices do not keep get one of their own."""

from dataclasses import replace

from driver.hardware.model import Gpu, MigProfile
from driver.inventory import counters as mig
from tests.unit.inventory.mig_facts import gpu

H100 = gpu("H100-SXM5-80GB")


def altered(name: str, **values: int) -> Gpu:
    profiles = tuple(replace(p, **values) if p.name == name else p for p in H100.mig_profiles)
    return replace(H100, mig_profiles=profiles)


def own(device: Gpu) -> set[str]:
    return {name for name in mig.totals(device) if not name.startswith("memory-slice-")}


def test_known_gpus_need_one_for_their_media_engines():
    me = H100.profile("1g.10gb+me")
    plain = H100.profile("1g.10gb")
    assert me is not None
    assert plain is not None

    assert own(H100) == {"media-extensions"}
    assert mig.totals(H100)["media-extensions"] == 1
    assert mig.consumption(H100, me, 3) == {"media-extensions": 1, "memory-slice-3": 1}
    assert mig.consumption(H100, plain, 3) == {"memory-slice-3": 1}


def test_a_number_of_instances_below_what_has_room_is_counted():
    device = altered("1g.10gb", max_instances=3)

    assert own(device) == {"media-extensions", "1g10gb-instances"}
    assert mig.totals(device)["1g10gb-instances"] == 3


def test_compute_slices_that_run_out_before_the_memory_are_counted():
    device = altered("1g.20gb", compute_slices=3)

    assert own(device) == {"media-extensions", "compute-slices"}
    assert mig.totals(device)["compute-slices"] == 7


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
