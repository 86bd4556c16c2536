"""What is told when somebody asks: of prepared claims of this boot, by the instance that tells, and without a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from driver.claims.common import Common, Told
from driver.claims.ledger.quarantine import Quarantine
from driver.claims.ledger.record import State
from driver.claims.ledger.records import Records
from driver.claims.terms import Terms
from driver.inventory import Devices
from driver.observe.metrics import Metrics
from driver.usage.accounts import Accounts
from driver.usage.collector import UsageCollector
from driver.usage.processes import Processes
from driver.usage.sampler import Sampler
from tests.unit.usage.examples import BOOT, A, B, device, partition, record

if TYPE_CHECKING:
    from pathlib import Path

    from driver.claims.ledger.record import Record


class Teller:
    """A collector on a ledger."""

    def __init__(self, root: Path) -> None:
        nobody: Any = None
        self.root = root
        self.records = Records(
            root / "claims", boot_id=BOOT, quarantine=Quarantine(root / "quarantine", lambda *_: None)
        )
        self.common = Common(
            terms=Terms(driver="gpu.nvidia.com", pool="node-1"),
            devices=Devices(),
            records=self.records,
            specs=nobody,
            hardware=nobody,
            told=Told(metrics=Metrics(driver_name="gpu.nvidia.com"), events=nobody),
        )
        self.tells = True
        self.accounts = Accounts(self.records, root / "gpu-time.json")
        self.collector = UsageCollector(
            self.common,
            sampler=Sampler(self.common.devices, Processes(root)),
            accounts=self.accounts,
            tells=lambda: self.tells,
        )

    async def put(self, *records: Record) -> None:
        await self.records.open()
        async with self.records.exclusive() as changes:
            for one in records:
                changes.put(one)
        await self.accounts.settle()

    def told(self, name: str = "gpu_dra_claim_device_info") -> list[dict[str, str]]:
        families = list(self.collector.collect())
        return [one.labels for family in families for one in family.samples if one.name == name]


@pytest.fixture
def teller(tmp_path: Path) -> Teller:
    return Teller(tmp_path)


async def test_each_device_of_a_claim_is_told_for_each_of_its_pods(teller: Teller) -> None:
    await teller.put(record("claim", device(), partition(), pods=(A, B)))

    assert sorted((one["device"], one["pod"], one["uuid"]) for one in teller.told()) == [
        ("gpu-0", "a", "GPU-1"),
        ("gpu-0", "b", "GPU-1"),
        ("gpu-0-mig-1g10gb-19-0", "a", "MIG-1"),
        ("gpu-0-mig-1g10gb-19-0", "b", "MIG-1"),
    ]
    assert {one["parent_uuid"] for one in teller.told()} == {"GPU-1"}


async def test_a_claim_for_nobody_is_told_once(teller: Teller) -> None:
    await teller.put(record("claim", pods=()))

    assert [(one["pod"], one["pod_uid"]) for one in teller.told()] == [("", "")]


async def test_pods_that_came_later_are_told(teller: Teller) -> None:
    await teller.put(record("claim", pods=(A,)))
    teller.common.pods.set("uid-of-claim", (A, B), of_one_pod=False)

    assert [one["pod"] for one in teller.told()] == ["a", "b"]


async def test_what_is_not_prepared_is_not_told(teller: Teller) -> None:
    await teller.put(
        record("preparing").with_state(State.PREPARING),
        record("undoing").with_state(State.UNDOING),
        record("of-another-boot", boot_id="boot-0"),
        record("admin", device(admin=True)),
    )

    assert teller.told() == []


async def test_who_does_not_tell_has_every_family_and_no_sample(teller: Teller) -> None:
    await teller.put(record())
    families = [family.name for family in teller.collector.collect()]

    teller.tells = False

    assert [family.name for family in teller.collector.collect()] == families
    assert not any(family.samples for family in teller.collector.collect())


async def test_series_are_told_once(teller: Teller) -> None:
    await teller.put(
        record("one", device(share_id="1")), record("two", device(share_id="2")), record("three", partition())
    )

    for family in teller.collector.collect():
        samples = [(one.name, tuple(sorted(one.labels.items()))) for one in family.samples]
        assert len(samples) == len(set(samples))
