"""The device health stream, in each version of its API; what is sent is ``driver.health.feed``'s business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.wire import dra_health_v1_pb2, dra_health_v1_pb2_grpc, dra_health_v1alpha1_pb2, dra_health_v1alpha1_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType

    from driver.health import HealthFeed
    from driver.kubelet.server import MeasuredServer


class HealthStream:
    """``DRAResourceHealth`` in one version of its API, with the messages of the module ``pb``."""

    def __init__(self, feed: HealthFeed, pb: ModuleType) -> None:
        self._feed = feed
        self._pb = pb

    async def NodeWatchResources(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        """Stream until one side goes."""
        async for message in self._feed.messages(self._pb):
            yield message


def add_health_streams(feed: HealthFeed, server: MeasuredServer) -> None:
    """Serve ``v1`` of Kubernetes 1.37 and newer, and ``v1alpha1`` of 1.34 to 1.36."""
    dra_health_v1_pb2_grpc.add_DRAResourceHealthServicer_to_server(HealthStream(feed, dra_health_v1_pb2), server)
    dra_health_v1alpha1_pb2_grpc.add_DRAResourceHealthServicer_to_server(
        HealthStream(feed, dra_health_v1alpha1_pb2), server
    )
