"""The device health stream, in each version of its API; what is sent is ``driver.health.feed``'s business."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.wire import dra_health_v1_pb2, dra_health_v1_pb2_grpc, dra_health_v1alpha1_pb2, dra_health_v1alpha1_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc.aio

    from driver.health import HealthFeed


class HealthServiceV1(dra_health_v1_pb2_grpc.DRAResourceHealthServicer):
    """``v1.DRAResourceHealth`` of Kubernetes 1.37 and newer."""

    def __init__(self, feed: HealthFeed) -> None:
        self._feed = feed

    async def NodeWatchResources(  # noqa: N802
        self,
        request: dra_health_v1_pb2.NodeWatchResourcesRequest,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> AsyncIterator[dra_health_v1_pb2.NodeWatchResourcesResponse]:
        """Stream until one side goes."""
        async for message in self._feed.messages(dra_health_v1_pb2):
            yield message


class HealthServiceV1Alpha1(dra_health_v1alpha1_pb2_grpc.DRAResourceHealthServicer):
    """``v1alpha1.DRAResourceHealth`` of Kubernetes 1.34 to 1.36."""

    def __init__(self, feed: HealthFeed) -> None:
        self._feed = feed

    async def NodeWatchResources(  # noqa: N802
        self,
        request: dra_health_v1alpha1_pb2.NodeWatchResourcesRequest,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> AsyncIterator[dra_health_v1alpha1_pb2.NodeWatchResourcesResponse]:
        """Stream until one side goes."""
        async for message in self._feed.messages(dra_health_v1alpha1_pb2):
            yield message
