"""Every metric of the driver, declared in one place."""

from __future__ import annotations

import functools
import time
from importlib.metadata import version
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

# From half a millisecond, where a prepare usually is, to past the kubelet's 45 s deadline.
LATENCY_BUCKETS = (
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60,
)  # fmt: skip
# The kubelet's own buckets for its histogram of the same name (ExponentialBucketsRange(.1, 40, 15)).
KUBELET_BUCKETS = tuple(0.1 * 400 ** (step / 14) for step in range(15))

M = TypeVar("M", bound=MetricWrapperBase)

NODE_DEFECTS = ("unread", "cdi-root", "driver-files", "no-libcuda", "no-uvm")
PHASES = ("claim_read", "device_wait", "lock_wait", "plan", "hardware", "record", "cdi")


class Phase:
    """A block of code that is timed. No generator: there are five to a prepare."""

    __slots__ = ("_histogram", "_started")

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._histogram.observe(time.perf_counter() - self._started)


class Metrics:
    """The driver's metrics in a registry of their own, so that tests can have many."""

    def __init__(self, *, driver_name: str) -> None:
        self.registry = CollectorRegistry()
        self._driver_name = driver_name
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

        def histogram(name: str, text: str, labels: tuple[str, ...]) -> Histogram:
            return _quick(Histogram(f"gpu_dra_{name}", text, labels, buckets=LATENCY_BUCKETS, registry=self.registry))

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return _quick(Gauge(f"gpu_dra_{name}", text, labels, registry=self.registry))

        def counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
            return _quick(Counter(f"gpu_dra_{name}", text, labels, registry=self.registry))

        self.claims = histogram(
            "claim_duration_seconds", "Time to prepare or unprepare one claim.", ("operation", "result")
        )
        self.calls = histogram("call_duration_seconds", "Time to answer one gRPC call.", ("operation", "result"))
        self.phases = histogram("prepare_phase_duration_seconds", "Where the time of a prepare goes.", ("phase",))
        self.in_flight = gauge("claims_in_flight", "Claims being worked on at the moment.", ("operation",))
        self.errors = counter("claim_errors", "Claims that failed, by reason.", ("operation", "reason"))
        self.prepared = gauge("prepared_claims", "Claims prepared on this node.")
        self.devices = gauge("devices", "Devices by type and state (healthy, degraded, lost).", ("type", "state"))
        self.not_offered = gauge(
            "not_offered_as_asked", "1 for a GPU (UUID) or a setting of which less is offered than asked.", ("subject",)
        )
        self.pending = gauge(
            "gpus_pending_change", "GPUs that keep their former shape until the claims that hold them end."
        )
        self.defects = gauge(
            "node_defects", "1 while something is wrong with the node as a whole, by what it is.", ("defect",)
        )
        self.slice_writes = counter("slice_writes", "ResourceSlice requests that changed something.", ("verb",))
        self.slice_errors = counter("slice_errors", "Failed attempts to publish, by HTTP status.", ("status",))
        self.slices = gauge("published_slices", "ResourceSlices as last seen on the API server.")
        self.dropped_fields = gauge(
            "slice_dropped_fields", "1 where the API server drops fields of a feature gate.", ("feature_gate",)
        )
        self.api_requests = counter(
            "api_requests", "Requests to the API server, by HTTP status (0: no answer).", ("verb", "resource", "code")
        )
        self.quarantined = counter("quarantined_records", "Damaged records set aside.", ())
        self.registered = gauge("registered", "1 after the kubelet has confirmed the registration.")
        self.published = gauge("published", "1 while the ResourceSlices are as they should be.")
        self.other_drivers = gauge(
            "other_drivers", "1 while another driver serves this node's GPUs (device-plugin, dra-driver).", ("kind",)
        )
        self.rpc = _quick(
            Histogram(
                "dra_grpc_operations_duration_seconds",
                "Duration of gRPC calls by the method's full name, as the kubelet measures them.",
                ("driver_name", "method_name", "grpc_status_code"),
                buckets=KUBELET_BUCKETS,
                registry=self.registry,
            )
        )
        self._begin_series()

    def _begin_series(self) -> None:
        """Series exist from the start, so that a rate() sees the first event."""
        build = Info("gpu_dra_build", "Version of the driver.", registry=self.registry)
        build.info({"version": version("gpu-dra-driver"), "driver_name": self._driver_name})
        for operation in ("prepare", "unprepare"):
            self.in_flight.labels(operation)
            for result in ("success", "error"):
                self.claims.labels(operation, result)
                self.calls.labels(operation, result)
        for phase in PHASES:
            self.phases.labels(phase)
        for verb in ("create", "update", "delete"):
            self.slice_writes.labels(verb)
        for kind in ("device-plugin", "dra-driver"):
            self.other_drivers.labels(kind)
        for kind in NODE_DEFECTS:
            self.defects.labels(kind)

    def phase(self, name: str) -> Phase:
        """Time one phase of a prepare."""
        return Phase(self.phases.labels(name))

    def observe_rpc(self, method: str, code: str, seconds: float) -> None:
        """Count one finished gRPC call. ``code`` is spelled as the kubelet does, for example ``OK``."""
        self.rpc.labels(self._driver_name, method, code).observe(seconds)


def _quick(metric: M) -> M:
    """Remember the children of a metric: the library checks, converts and locks at each ``labels()``."""
    metric.labels = functools.cache(metric.labels)  # type: ignore[method-assign]
    return metric
