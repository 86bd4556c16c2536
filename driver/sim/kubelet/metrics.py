"""The kubelet's own DRA metrics, names and labels as the real kubelet has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.core import Metric


class KubeletMetrics:
    """One registry per kubelet, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.operations = Histogram(
            "dra_operations_duration_seconds",
            "Latency in seconds of all ResourceClaims of one pod, by operation.",
            ["operation_name", "is_error"],
            registry=self.registry,
        )
        self.grpc_operations = Histogram(
            "dra_grpc_operations_duration_seconds",
            "Latency in seconds of the kubelet's gRPC calls to DRA drivers.",
            ["driver_name", "method_name", "grpc_status_code"],
            registry=self.registry,
        )

    def watch_claims(self, in_use: Callable[[], Mapping[str, int]]) -> None:
        """Export ``dra_resource_claims_in_use`` from a function that counts prepared claims by driver name."""
        self.registry.register(
            _Gauge(
                "dra_resource_claims_in_use",
                "Prepared ResourceClaims.",
                ["driver_name"],
                lambda: (((driver,), count) for driver, count in in_use().items()),
            )
        )

    def watch_plugins(self, sockets: Callable[[], Iterable[tuple[str, str]]]) -> None:
        """Export ``plugin_manager_total_plugins`` from a function that lists (socket path, state)."""
        self.registry.register(
            _Gauge(
                "plugin_manager_total_plugins",
                "Plugins that the plugin manager knows.",
                ["socket_path", "state"],
                lambda: ((labels, 1) for labels in sockets()),
            )
        )


class _Gauge(Collector):
    """A gauge whose values are read at each scrape: a value that was forgotten is gone, not stale."""

    def __init__(
        self, name: str, text: str, labels: list[str], values: Callable[[], Iterable[tuple[tuple[str, ...], float]]]
    ) -> None:
        self._name, self._text, self._labels, self._values = name, text, labels, values

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self._values():
            family.add_metric(list(labels), value)
        yield family
