"""Who uses how much of what. What nobody can tell is absent, and never 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.usage.attribution import Used, attribute, holdings
from tests.unit.usage.examples import GIB, A, B, device, partition, process, record, sample, use

if TYPE_CHECKING:
    from driver.claims.ledger.record import Record
    from driver.usage.attribution import Account
    from driver.usage.sampler import Sample


def accounts(samples: dict[str, Sample], *records: Record) -> dict[str, Account]:
    """By the name of the claim."""
    return {one.holding.record.claim.name: one for one in attribute(holdings(records, {}), samples)}


def test_a_claim_that_has_a_gpu_for_itself_uses_what_is_used_of_it() -> None:
    found = accounts(sample(use(sm_active=0.5)), record())["claim"]

    assert found.used == Used(memory=40 * GIB, utilisation=0.8)
    assert (found.memory_total, found.sm_active) == (80 * GIB, 0.5)
    assert found.by_pod == {A: found.used}  # whose else?


def test_pods_of_one_claim_are_told_apart_by_their_processes() -> None:
    whole = use(processes=(process(1, 3 * GIB, 0.5), process(2, 4 * GIB, 0.2), process(9)))

    found = accounts(sample(whole, a=1, b=2), record(pods=(A, B)))["claim"]

    assert found.used == Used(memory=40 * GIB, utilisation=0.8)
    assert found.by_pod == {A: Used(memory=3 * GIB, utilisation=0.5), B: Used(memory=4 * GIB, utilisation=0.2)}


def test_claims_that_share_a_gpu_use_what_their_own_processes_do() -> None:
    whole = use(processes=(process(1, 3 * GIB, 0.5), process(2, 4 * GIB, 0.2)))
    first = record("first", device(share_id="1", weight=0.5, consumed=(("memory", "20Gi"),)), pods=(A,))
    second = record("second", device(share_id="2", weight=0.5), pods=(B,))

    found = accounts(sample(whole, a=1, b=2), first, second)

    assert found["first"].used == Used(memory=3 * GIB, utilisation=0.5)
    assert found["second"].used == Used(memory=4 * GIB, utilisation=0.2)
    assert found["first"].memory_total == 20 * GIB  # what it took
    assert found["second"].memory_total == 80 * GIB  # nobody said how much
    assert found["first"].sm_active is None


def test_a_pod_with_two_claims_on_a_gpu_is_counted_once() -> None:
    whole = use(processes=(process(1, 4 * GIB, 0.4),))
    small = record("small", device(share_id="1", weight=0.25))
    big = record("big", device(share_id="2", weight=0.75))

    found = accounts(sample(whole, a=1), small, big)

    assert found["small"].used == Used(memory=GIB, utilisation=0.1)
    assert found["big"].used.memory == 3 * GIB


def test_who_runs_nothing_uses_nothing_if_all_processes_are_seen() -> None:
    held = record("share", device(share_id="1"))

    assert accounts(sample(use(processes=())), held)["share"].used == Used(memory=0, utilisation=0)
    assert accounts(sample(use(processes=()), all_seen=False), held)["share"].used == Used()
    assert accounts(sample(use(processes=None)), held)["share"].used == Used()


def test_processes_that_do_not_tell_what_they_use_make_it_unknown() -> None:
    whole = use(processes=(process(1, None, None),))

    found = accounts(sample(whole, a=1), record("share", device(share_id="1")))["share"]

    assert found.used == Used()


def test_a_partition_is_measured_for_itself() -> None:
    samples = sample(use(), part=use(4 * GIB, 0.25))

    found = accounts(samples, record("part", partition()))["part"]

    assert found.used == Used(memory=4 * GIB, utilisation=0.25)


def test_shares_of_a_partition_have_memory_and_no_utilisation() -> None:
    samples = sample(use(), part=use(4 * GIB, 0.25, processes=(process(1, GIB, None),)), a=1)
    nobody = sample(use(), part=use(4 * GIB, 0.25, processes=()))
    shared = record("part", partition(share_id="1"))

    assert accounts(samples, shared)["part"].used == Used(memory=GIB)
    assert accounts(nobody, shared)["part"].used == Used(memory=0)


def test_nothing_is_told_of_what_was_not_measured() -> None:
    assert accounts({}, record()) == {}
    assert accounts(sample(use()), record("part", partition())) == {}


def test_admin_access_uses_nothing() -> None:
    assert accounts(sample(use()), record("admin", device(admin=True))) == {}


def test_a_claim_without_pods_has_none() -> None:
    found = accounts(sample(use()), record(pods=()))["claim"]

    assert found.used.memory == 40 * GIB
    assert found.by_pod == {}


def test_fake_gpus_are_used_by_each_for_its_part() -> None:
    whole = use(40 * GIB, 0.8, processes=None, divided=True)
    first = record("first", device(share_id="1", weight=0.25), pods=(A, B))
    second = record("second", device(share_id="2", weight=0.75))

    found = accounts(sample(whole), first, second)

    assert found["first"].used == Used(memory=10 * GIB, utilisation=0.2)
    assert found["first"].by_pod == dict.fromkeys((A, B), Used(memory=5 * GIB, utilisation=0.1))
    assert found["second"].used.memory == 30 * GIB


def test_pods_that_were_read_since_count() -> None:
    [holding] = holdings([record(pods=(A,))], {"uid-of-claim": (A, B)})

    assert holding.pods == (A, B)
