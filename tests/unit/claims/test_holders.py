"""Who holds what, without looking at everything that is held."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from driver.claims.allocation import ClaimRef
from driver.claims.errors import ClaimError
from driver.claims.ledger.device_sharing import DeviceSharing, Strategy
from driver.claims.ledger.holders import Holders, consumption
from driver.claims.ledger.record import PreparedDevice, Record, State
from driver.claims.overlap import check_overlap
from driver.hardware.process_sharing import TimeSlice

GPU = "GPU-0"


def device(name: str = "gpu-0", *, share: str | None = None, memory: str = "10Gi", admin: bool = False):
    return PreparedDevice(
        requests=("gpu",),
        pool="node-1",
        device=name,
        cdi_ids=(f"k8s.gpu.nvidia.com/claim={name}",),
        gpu_uuid=GPU,
        slots=(0,),
        share_id=share,
        consumed=(("memory", memory),) if share else (),
        admin=admin,
    )


def record(uid: str, *devices: PreparedDevice) -> Record:
    return Record(
        driver="gpu.nvidia.com",
        claim=ClaimRef("default", uid, uid),
        allocation="a",
        boot_id="b",
        state=State.PREPARED,
        devices=devices,
        prepared_at="2026-01-01T00:00:00.000Z",
    )


def holding(*records: Record) -> Holders:
    held = Holders()
    for each in records:
        held.add(each)
    return held


def test_other_shares_of_the_same_device_are_no_rivals():
    held = holding(record("one", device(share="s1")), record("two", device(share="s2")))

    assert list(held.rivals(device(share="s3"))) == []


def test_who_has_the_same_share_is_a_rival():
    one = record("one", device(share="s1"))

    assert list(holding(one).rivals(device(share="s1"))) == [one]


def test_everyone_on_the_gpu_is_a_rival_of_who_wants_it_alone():
    records = [record("one", device(share="s1")), record("two", device("gpu-0-mig-1", share="s1"))]

    assert list(holding(*records).rivals(device())) == records


def test_an_exclusive_holder_is_a_rival_of_a_share():
    one = record("one", device())

    assert list(holding(one).rivals(device(share="s1"))) == [one]


def test_shares_of_a_device_that_is_being_undone_are_rivals():
    one = record("one", device(share="s1")).with_state(State.UNDOING)

    assert list(holding(one).rivals(device(share="s2"))) == [one]


def test_who_was_discarded_holds_nothing():
    one = record("one", device(share="s1"))
    held = holding(one, record("two", device(share="s2")))

    held.discard(one)

    assert list(held.rivals(device(share="s1"))) == []
    assert [holder.claim.uid for holder in held.of(GPU)] == ["two"]
    assert held.taken(device(share="s3"), "memory", except_for=record("three")) == 10 << 30


def test_a_share_that_was_taken_over_stays_with_its_new_holder():
    one, two = record("one", device(share="s1")), record("two", device(share="s1"))
    held = holding(one, two)

    held.discard(one)

    assert list(held.rivals(device(share="s1"))) == [two]


def test_what_shares_take_is_summed_up_but_for_ones_own():
    one, two = record("one", device(share="s1")), record("two", device(share="s2", memory="20Gi"))
    held = holding(one, two)

    assert held.taken(device(share="s3"), "memory", except_for=record("three")) == 30 << 30
    assert held.taken(device(share="s1"), "memory", except_for=one) == 20 << 30
    assert held.taken(device(share="s1"), "memory", except_for=replace(one, state=State.UNDOING)) == 20 << 30


def test_admin_access_takes_nothing():
    held = holding(record("one", device(share="s1", admin=True)))

    assert held.taken(device(share="s2"), "memory", except_for=record("two")) == Decimal()


SHARES = st.sampled_from([None, "s1", "s2", "s3"])
DEVICES = st.builds(device, st.sampled_from(["gpu-0", "gpu-0-mig-1"]), share=SHARES, admin=st.booleans())


@st.composite
def changes(draw: st.DrawFn) -> list[Record]:
    """Records in the order in which they are written; one of the same claim replaces the former."""
    uids = draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8))
    states = st.sampled_from([State.PREPARED, State.UNDOING])
    return [record(uid, *draw(st.lists(DEVICES, min_size=1, max_size=2))).with_state(draw(states)) for uid in uids]


def refused(wanted: Record, holders) -> bool:
    try:
        check_overlap(wanted, holders)
    except ClaimError:
        return True
    return False


def test_a_share_that_two_hold_is_held_until_both_have_let_it_go() -> None:
    held = Holders()
    one, other = record("one", device(share="s1")), record("other", device(share="s1"))
    held.add(one)
    held.add(other)

    held.discard(other)

    assert list(held.rivals(device(share="s1"))) == [one]


@given(changes(), DEVICES)
def test_the_index_decides_as_a_look_at_everything_does(written: list[Record], wish: PreparedDevice):
    current: dict[str, Record] = {}
    held = Holders()
    for each in written:
        if each.claim.uid in current:
            held.discard(current[each.claim.uid])
        held.add(each)
        current[each.claim.uid] = each
    wanted = record("a", wish)

    assert refused(wanted, held.rivals(wish)) == refused(wanted, current.values())
    others = [each for uid, each in current.items() if uid != "a"]
    taken = sum((consumption(each, wish, "memory") for each in others), Decimal())
    assert held.taken(wish, "memory", except_for=wanted) == taken


def test_ways_of_sharing_are_known_by_one_claim_each_and_forgotten_with_the_last() -> None:
    held = Holders()
    long = DeviceSharing(strategy=Strategy.TIME_SLICING, interval=TimeSlice.LONG)
    records = [
        record("a", replace(device(share="1"), sharing=long)),
        record("b", replace(device(share="2"), sharing=long)),
        record("c", device(share="3")),
    ]
    for one in records:
        held.add(one)

    ways = held.ways(device(share="4"), except_for="a")
    for one in records:
        held.discard(one)

    assert {way: holder.claim.uid for way, holder in ways.items()} == {
        "time slicing with interval Long": "b",
        "time slicing as it is": "c",
    }
    assert held.ways(device(share="4"), except_for="x") == {}
