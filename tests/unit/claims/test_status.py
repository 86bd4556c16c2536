"""``status.devices``: written after the fact, with what a person wants to see."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from driver.claims.allocation import ClaimRef
from driver.claims.ledger.record import PreparedDevice, Record, State
from driver.claims.status import StatusWriter
from driver.kube.client import MERGE_PATCH, RESOURCE, Api, ApiError
from driver.sim.apiserver import ApiServer, Fault
from tests.eventually import eventually
from tests.harness import DRIVER, NODE, Claims

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PUBLISHED = {
    "attributes": {
        "productName": {"string": "NVIDIA H100"},
        "driverVersion": {"version": "570.124.6"},
        "resource.kubernetes.io/pciBusID": {"string": "0000:1b:00.0"},
    }
}


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        yield server


@pytest.fixture
async def api(server: ApiServer, tmp_path: Path) -> AsyncIterator[Api]:
    async with await Api.connect(server.write_kubeconfig(tmp_path / "kubeconfig")) as api:
        yield api


@pytest.fixture
async def writer(api: Api) -> AsyncIterator[StatusWriter]:
    writer = StatusWriter(api, published=lambda _name: PUBLISHED)
    task = asyncio.create_task(writer.run())
    yield writer
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def record(claim: dict[str, Any]) -> Record:
    metadata = claim["metadata"]
    return Record(
        claim=ClaimRef(metadata["namespace"], metadata["name"], metadata["uid"]),
        allocation="x",
        boot_id="boot-1",
        driver=DRIVER,
        state=State.PREPARED,
        devices=(
            PreparedDevice(
                requests=("req-0",), pool=NODE, device="gpu-0", cdi_ids=("x",), gpu_uuid="GPU-0", slots=(0,)
            ),
        ),
        prepared_at="2026-01-02T03:04:05.678+00:00",
    )


async def statuses(api: Api) -> list[dict[str, Any]]:
    claim = await api.get(f"{RESOURCE}/namespaces/default/resourceclaims/claim")
    found: list[dict[str, Any]] = (claim.get("status") or {}).get("devices") or []
    return found


async def test_a_prepared_device_is_ready_and_says_what_it_is(api: Api, writer: StatusWriter) -> None:
    claim = await Claims(api).allocated("claim", "gpu-0")

    writer.want(record(claim))

    [device] = await eventually(lambda: statuses(api))
    assert device["device"] == "gpu-0"
    assert [(c["type"], c["status"], c["reason"]) for c in device["conditions"]] == [("Ready", "True", "Prepared")]
    assert device["data"] == {
        "uuid": "GPU-0",
        "productName": "NVIDIA H100",
        "pciBusID": "0000:1b:00.0",
        "driverVersion": "570.124.6",
    }


async def test_a_server_that_stumbles_is_asked_again(api: Api, server: ApiServer, writer: StatusWriter) -> None:
    claim = await Claims(api).allocated("claim", "gpu-0")
    failures = [Fault(status=503)]
    server.fault = lambda request: failures.pop() if request.verb == "patch" and failures else None

    writer.want(record(claim))

    await eventually(lambda: statuses(api))
    assert failures == []


async def test_a_server_that_asks_for_a_pause_gets_it(api: Api, server: ApiServer, writer: StatusWriter) -> None:
    claim = await Claims(api).allocated("claim", "gpu-0")
    failures = [Fault(status=429, retry_after=1)]
    server.fault = lambda request: failures.pop() if request.verb == "patch" and failures else None
    started = time.monotonic()

    writer.want(record(claim))

    await eventually(lambda: statuses(api))
    assert time.monotonic() - started >= 1


async def test_what_other_drivers_say_of_their_devices_stays(api: Api, writer: StatusWriter) -> None:
    theirs = {"driver": "nic.example.com", "pool": NODE, "device": "nic-0"}
    claim = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": "claim", "namespace": "default"},
        "spec": {"devices": {"requests": [{"name": "req-0", "exactly": {"deviceClassName": DRIVER}}]}},
    }
    claim = await api.request("POST", f"{RESOURCE}/namespaces/default/resourceclaims", body=claim)
    ours = {"request": "req-0", "driver": DRIVER, "pool": NODE, "device": "gpu-0"}
    claim = await Claims(api).allocate(claim, [ours, {"request": "req-0", **theirs}])
    body = {"status": {"devices": [theirs]}}
    path = f"{RESOURCE}/namespaces/default/resourceclaims/claim/status"
    await api.request("PATCH", path, body=body, content_type=MERGE_PATCH)

    writer.want(record(claim))

    async def both() -> list[str] | None:
        found = [one["device"] for one in await statuses(api)]
        return found if len(found) == 2 else None

    assert await eventually(both) == ["nic-0", "gpu-0"]


async def test_what_a_claim_both_uses_and_looks_at_is_said_once(api: Api, writer: StatusWriter) -> None:
    claim = await Claims(api).allocated("claim", "gpu-0")
    known = record(claim)
    [device] = known.devices

    writer.want(replace(known, devices=(device, replace(device, requests=("req-1",), admin=True))))

    assert [one["device"] for one in await eventually(lambda: statuses(api))] == ["gpu-0"]


async def test_a_claim_that_is_gone_does_not_stop_the_others(api: Api, writer: StatusWriter) -> None:
    claims = Claims(api)
    gone = await claims.allocated("gone", "gpu-1")
    await claims.delete(gone)
    claim = await claims.allocated("claim", "gpu-0")

    writer.want(record(gone))
    writer.want(record(claim))

    await eventually(lambda: statuses(api))


async def test_an_unprepared_claim_is_not_written_any_more(api: Api) -> None:
    writer = StatusWriter(api, published=lambda _name: PUBLISHED)
    claim = await Claims(api).allocated("claim", "gpu-0")
    writer.want(record(claim))

    writer.forget(record(claim).claim)
    task = asyncio.create_task(writer.run())
    await Claims(api).allocated("other", "gpu-1")
    task.cancel()

    assert await statuses(api) == []


class Known(list[Record]):
    """Records that are read back as they are."""

    def read(self, uid: str) -> Record | None:
        return next((record for record in self if record.claim.uid == uid), None)


async def test_a_status_that_a_dead_process_did_not_write_is_written_at_the_next_start(
    api: Api, writer: StatusWriter
) -> None:
    claims = Claims(api)
    claim = await claims.allocated("claim", "gpu-0")

    await writer.catch_up(Known([record(claim)]))  # type: ignore[arg-type]

    async def written() -> bool:
        return bool((await claims.read(claim))["status"].get("devices"))

    await eventually(written)


async def test_a_status_that_is_there_is_not_written_again(api: Api, writer: StatusWriter) -> None:
    claims = Claims(api)
    claim = await claims.allocated("claim", "gpu-0")
    writer.want(record(claim))

    async def written() -> dict[str, Any] | None:
        found = await claims.read(claim)
        return found if found["status"].get("devices") else None

    before = await eventually(written)

    await writer.catch_up(Known([record(claim)]))  # type: ignore[arg-type]

    assert not writer._wanted
    assert await claims.read(claim) == before


async def test_a_claim_that_is_gone_needs_no_status(api: Api, writer: StatusWriter) -> None:
    claims = Claims(api)
    claim = await claims.allocated("claim", "gpu-0")
    await claims.delete(claim)

    await writer.catch_up(Known([record(claim)]))  # type: ignore[arg-type]

    assert not writer._wanted


class Odd:
    """An API server that does not take what is applied, and answers GETs with what is no claim."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.gets = 0

    async def request(self, *_: Any, **__: Any) -> dict[str, Any]:
        raise ApiError(422, "no")

    async def get(self, _path: str) -> dict[str, Any]:
        self.gets += 1
        return self.answer


@pytest.mark.parametrize(
    "answer", [{}, {"metadata": {"uid": "u"}}, {"metadata": {"uid": "u"}, "status": {"devices": [1]}}]
)
async def test_an_answer_that_is_no_claim_ends_neither_the_writer_nor_the_look_at_the_start(
    answer: dict[str, Any],
) -> None:
    odd = Odd(answer)
    writer = StatusWriter(odd, published=lambda _name: PUBLISHED)  # type: ignore[arg-type]
    one = record({"metadata": {"namespace": "default", "name": "claim", "uid": "u"}})
    task = asyncio.create_task(writer.run())

    await writer.catch_up(Known([one]))  # type: ignore[arg-type]
    writer.want(one)
    await eventually(lambda: odd.gets >= 2)
    writer.want(one)
    await eventually(lambda: odd.gets >= 3)

    assert not task.done()
    task.cancel()
