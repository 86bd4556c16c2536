"""The DRA service between the kubelet's messages and the engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from driver.kubelet.dra import BATCH, DraService
from driver.observe.metrics import Metrics
from driver.wire import dra_v1_pb2 as pb

if TYPE_CHECKING:
    from driver.claims.engine import Engine

Claims = list[tuple[str, str, str]]


class Context:
    """Of a call with a deadline."""

    def time_remaining(self) -> float:
        return 45.0


class CountingEngine:
    """Has each claim prepared or unprepared in the next round of the loop, and remembers those given together."""

    def __init__(self) -> None:
        self.given: list[Claims] = []

    async def prepare(self, claims: Claims, *, seconds_left: float | None) -> dict[str, tuple[()]]:
        self.given.append(claims)
        await asyncio.sleep(0)
        return {uid: () for _, _, uid in claims}

    async def unprepare(self, claims: Claims) -> dict[str, None]:
        self.given.append(claims)
        await asyncio.sleep(0)
        return {uid: None for _, _, uid in claims}


def service(engine: CountingEngine) -> Any:
    return DraService(cast("Engine", engine), Metrics(driver_name="gpu.nvidia.com"))


def some(count: int, name: str = "claim") -> list[pb.Claim]:
    return [pb.Claim(namespace="default", name=name, uid=f"{name}-{number}") for number in range(count)]


async def test_a_call_with_many_claims_lets_others_go_first() -> None:
    engine, ended = CountingEngine(), list[str]()

    async def call(name: str, count: int) -> None:
        answer = await service(engine).NodeUnprepareResources(
            pb.NodeUnprepareResourcesRequest(claims=some(count, name)), Context()
        )
        assert len(answer.claims) == count
        ended.append(name)

    await asyncio.gather(call("many", 100 * BATCH), call("one", 1))

    assert ended == ["one", "many"]
    assert max(map(len, engine.given)) == BATCH


async def test_each_claim_of_a_large_call_gets_an_answer() -> None:
    claims = some(3 * BATCH + 1)

    answer = await service(CountingEngine()).NodePrepareResources(
        pb.NodePrepareResourcesRequest(claims=claims), Context()
    )

    assert set(answer.claims) == {claim.uid for claim in claims}


async def test_a_claim_that_is_named_many_times_is_asked_for_once() -> None:
    engine = CountingEngine()

    await service(engine).NodePrepareResources(pb.NodePrepareResourcesRequest(claims=some(1) * (2 * BATCH)), Context())

    assert engine.given == [[("default", "claim", "claim-0")]]
