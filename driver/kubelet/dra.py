"""The DRA service: the kubelet's messages in, the engine's outcomes out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from driver.claims import ClaimError
from driver.wire import dra_v1_pb2 as pb
from driver.wire import dra_v1_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc.aio

    from driver.claims import Engine, PreparedDevice
    from driver.observe import Metrics


BATCH = 64
"""Claims of one call that are worked on together.

A kubelet calls with the claims of one pod, a handful. More take turns with other calls, and none are refused: a pod
whose claims nobody unprepares could never end.
"""


class DraService(dra_v1_pb2_grpc.DRAPluginServicer):
    """``v1.DRAPlugin``. Each claim gets its own answer; a call as a whole never fails."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics

    async def NodePrepareResources(  # noqa: N802
        self,
        request: pb.NodePrepareResourcesRequest,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> pb.NodePrepareResourcesResponse:
        """Answer for each claim UID with its devices or an error."""
        started = time.perf_counter()
        response = pb.NodePrepareResourcesResponse()
        outcomes: dict[str, tuple[PreparedDevice, ...] | ClaimError] = {}
        for batch in _batches(request):
            outcomes |= await self._engine.prepare(batch, seconds_left=context.time_remaining())
        for uid, outcome in outcomes.items():
            answer = response.claims[uid]
            if isinstance(outcome, ClaimError):
                answer.error = str(outcome)
                continue
            for device in outcome:
                answer.devices.add(
                    request_names=device.requests,
                    pool_name=device.pool,
                    device_name=device.device,
                    cdi_device_ids=device.cdi_ids,
                    share_id=device.share_id,
                )
        if outcomes:  # probes call with no claim at all and would drown the rest
            self._observe("prepare", started, failed=any(isinstance(o, ClaimError) for o in outcomes.values()))
        return response

    async def NodeUnprepareResources(  # noqa: N802
        self,
        request: pb.NodeUnprepareResourcesRequest,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> pb.NodeUnprepareResourcesResponse:
        """Answer for each claim UID with nothing or an error."""
        started = time.perf_counter()
        response = pb.NodeUnprepareResourcesResponse()
        outcomes: dict[str, ClaimError | None] = {}
        for batch in _batches(request):
            outcomes |= await self._engine.unprepare(batch)
        for uid, outcome in outcomes.items():
            response.claims[uid].error = str(outcome) if isinstance(outcome, ClaimError) else ""
        if outcomes:
            self._observe("unprepare", started, failed=any(isinstance(o, ClaimError) for o in outcomes.values()))
        return response

    def _observe(self, operation: str, started: float, *, failed: bool) -> None:
        result = "error" if failed else "success"
        self._metrics.calls.labels(operation, result).observe(time.perf_counter() - started)


def _batches(
    request: pb.NodePrepareResourcesRequest | pb.NodeUnprepareResourcesRequest,
) -> Iterator[list[tuple[str, str, str]]]:
    """The claims as (namespace, name, UID), each UID once."""
    claims = list({claim.uid: (claim.namespace, claim.name, claim.uid) for claim in request.claims}.values())
    for start in range(0, len(claims), BATCH):
        yield claims[start : start + BATCH]
