"""Who counts: one at a time, and another when it is gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from driver.cluster.accountant.lease import DURATION, Lease, LeaseLostError
from driver.kube.client import ApiError
from driver.kube.server_clock import ServerClock

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
NOW = 1_800_000_000_000


class Server:
    """One Lease, as the API server keeps it."""

    def __init__(self) -> None:
        self.obj: dict[str, Any] | None = None
        self.version = 0
        self.down = False

    async def get(self, path: str, **_: Any) -> dict[str, Any]:
        if self.down:
            raise ApiError(0, "no answer")
        if self.obj is None:
            raise ApiError(404, "not found")
        assert path == f"{PATH}/lease"
        return {**self.obj, "metadata": dict(self.obj["metadata"])}

    async def request(self, method: str, path: str, *, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        if self.down:
            raise ApiError(0, "no answer")
        sent = body["metadata"].get("resourceVersion")
        if (method == "POST") == (self.obj is not None) or (self.obj and sent != str(self.version)):
            raise ApiError(409, "conflict")
        assert path == (PATH if method == "POST" else f"{PATH}/lease")
        self.version += 1
        self.obj = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return self.obj

    @property
    def holder(self) -> str:
        return str(self.obj["spec"]["holderIdentity"]) if self.obj else ""


class Clock:
    """Time goes while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.then: Callable[[], None] = lambda: None

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then()
        await asyncio.sleep(0)


def lease(server: Server, clock: Clock, identity: str) -> Lease:
    return Lease(
        server,  # type: ignore[arg-type]
        namespace="ns",
        name="lease",
        identity=identity,
        now=lambda: NOW,
        clock=clock,
        sleep=clock.sleep,
    )


async def test_another_takes_over_when_there_was_no_sign_of_life_for_long() -> None:
    server, clock = Server(), Clock()
    await lease(server, Clock(), "first").acquire()

    await lease(server, clock, "second").acquire()

    assert server.holder == "second"
    assert DURATION <= clock.now < DURATION + 5
    assert server.obj
    assert server.obj["spec"]["leaseTransitions"] == 1


async def test_who_gives_it_back_is_followed_at_once() -> None:
    server, clock = Server(), Clock()
    first = lease(server, Clock(), "first")
    await first.acquire()

    await first.give_back()
    await lease(server, clock, "second").acquire()

    assert (server.holder, clock.now) == ("second", 0)


async def test_who_cannot_renew_stops_before_another_may_begin() -> None:
    server, clock = Server(), Clock()
    first = lease(server, clock, "first")
    await first.acquire()
    server.down = True

    with pytest.raises(LeaseLostError):
        await first.keep()

    assert clock.now < DURATION


async def test_who_was_replaced_stops() -> None:
    server, clock = Server(), Clock()
    first = lease(server, clock, "first")
    await first.acquire()
    assert server.obj
    server.obj["spec"]["holderIdentity"] = "second"

    with pytest.raises(LeaseLostError):
        await first.keep()


async def test_who_renews_keeps_it() -> None:
    server, clock = Server(), Clock()
    first = lease(server, clock, "first")
    await first.acquire()
    keeping = asyncio.create_task(first.keep())
    long = asyncio.Event()
    clock.then = lambda: long.set() if clock.now > 10 * DURATION else None
    await long.wait()
    keeping.cancel()

    assert (server.holder, server.version > 10) == ("first", True)


@pytest.mark.parametrize(
    ("heard", "now"),
    [
        ([], None),
        ([(0, "nonsense"), (0, None)], None),
        ([(0, "Fri, 15 Jan 2027 08:00:00 GMT")], NOW + 10_000),
        ([(0.9, "Fri, 15 Jan 2027 08:00:00 GMT"), (1.0, "Fri, 15 Jan 2027 08:00:01 GMT")], NOW + 10_000),
        ([(0, "Fri, 15 Jan 2027 08:01:00 GMT"), (0, "Fri, 15 Jan 2027 08:00:00 GMT")], NOW + 10_000),
    ],
    ids=["nothing", "odd", "one", "whole seconds", "set back"],
)
def test_the_time_is_the_servers(heard: list[tuple[float, str | None]], now: int | None) -> None:
    clock = Clock()
    server = ServerClock(clock)
    for at, date in heard:
        clock.now = at
        server.hear(date)
    clock.now = 10

    assert server.now() == now
