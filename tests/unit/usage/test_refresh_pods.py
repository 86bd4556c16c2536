"""Claims that may get more pods are read again, a few at a time; those of one pod never."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from driver.claims.claim_pods import ClaimPods
from driver.claims.ledger.quarantine import Quarantine
from driver.claims.ledger.records import Records
from driver.kube import ApiError
from driver.usage.refresh_pods import AT_ONCE, PodRefresher
from tests.unit.usage.examples import BOOT, A, B, record

if TYPE_CHECKING:
    from pathlib import Path


class Api:
    """Has a claim of each name, reserved for pod b."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: ApiError | None = None

    async def get(self, path: str) -> dict[str, Any]:
        name = path.rsplit("/", 1)[-1]
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        reserved = [{"resource": "pods", "name": B.name, "uid": B.uid}, {"apiGroup": "x", "resource": "jobs"}, 3]
        return {"metadata": {"uid": f"uid-of-{name}"}, "status": {"reservedFor": reserved}}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api() -> Api:
    return Api()


async def refresher(
    tmp_path: Path, api: Api, clock: Clock, *names: str, of_one_pod: bool = False
) -> tuple[PodRefresher, ClaimPods]:
    records = Records(
        tmp_path / "claims", boot_id=BOOT, quarantine=Quarantine(tmp_path / "quarantine", lambda *_: None)
    )
    await records.open()
    for name in names:
        async with records.exclusive() as changes:
            changes.put(replace(record(name), of_one_pod=of_one_pod))
    pods = ClaimPods(clock=clock)
    return PodRefresher(api, records, pods, fresh=30), pods  # type: ignore[arg-type]


async def test_claims_are_read_after_a_start_and_then_now_and_then(tmp_path: Path, api: Api, clock: Clock) -> None:
    refresh, pods = await refresher(tmp_path, api, clock, "claim")

    await refresh.refresh()
    await refresh.refresh()

    assert api.asked == ["claim"]
    assert pods.known() == {"uid-of-claim": (B,)}
    clock.now += 30
    await refresh.refresh()
    assert api.asked == ["claim", "claim"]


async def test_a_claim_of_one_pod_is_not_read(tmp_path: Path, api: Api, clock: Clock) -> None:
    refresh, pods = await refresher(tmp_path, api, clock, "claim")
    pods.set("uid-of-claim", (A,), of_one_pod=True)
    clock.now += 1000

    await refresh.refresh()

    assert api.asked == []


async def test_a_claim_that_is_recorded_as_of_one_pod_is_not_read_after_a_start_either(
    tmp_path: Path, api: Api, clock: Clock
) -> None:
    refresh, _ = await refresher(tmp_path, api, clock, "claim", of_one_pod=True)

    await refresh.refresh()

    assert api.asked == []


async def test_a_few_are_read_at_once_and_all_in_their_turn(tmp_path: Path, api: Api, clock: Clock) -> None:
    names = [f"claim-{number}" for number in range(AT_ONCE + 3)]
    refresh, _ = await refresher(tmp_path, api, clock, *names)

    await refresh.refresh()
    assert len(api.asked) == AT_ONCE
    await refresh.refresh()

    assert sorted(api.asked) == sorted(names)


async def test_what_is_not_answered_stays_as_it_was(tmp_path: Path, api: Api, clock: Clock) -> None:
    refresh, pods = await refresher(tmp_path, api, clock, "first", "second")
    api.error = ApiError(0, "no answer")
    await refresh.refresh()
    assert len(api.asked) == 1  # the other would not be answered either
    assert pods.known() == {}

    api.error = ApiError(404, "gone")
    await refresh.refresh()
    await refresh.refresh()

    assert len(api.asked) == 3
    assert pods.known() == {"uid-of-first": (A,), "uid-of-second": (A,)}


async def test_claims_that_have_ended_are_forgotten(tmp_path: Path, api: Api, clock: Clock) -> None:
    refresh, pods = await refresher(tmp_path, api, clock, "claim")
    pods.set("uid-of-another", (A,), of_one_pod=True)

    await refresh.refresh()

    assert set(pods.known()) == {"uid-of-claim"}
