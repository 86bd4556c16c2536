"""From what was seen to the numbers of a result. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.scale.numbers import Numbers
    from tests.scale.observer import Life

SHARES = (0.5, 0.9, 0.99)
CALL = "gpu_dra_call_duration_seconds"
PHASE = "gpu_dra_prepare_phase_duration_seconds"
CLAIM_QUEUE = "resource_claim"
"""How the work queue of the ResourceClaim controller is called."""


def quantiles(samples: Iterable[float]) -> dict[str, float]:
    """``{"n": 3, "p50": 1.0, "p90": 2.0, "p99": 2.0}``, nearest rank; empty without samples."""
    ordered = sorted(samples)
    if not ordered:
        return {}
    found = {f"p{share * 100:g}": ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in SHARES}
    return {"n": len(ordered), **found}


def parts(lives: Sequence[Life]) -> dict[str, Any]:
    """Seconds from a pod's creation until it runs, and what of it is whose."""
    run = [life for life in lives if life.running is not None and life.scheduled is not None]
    return {
        "start": quantiles(life.running - life.created for life in run),  # type: ignore[operator]
        "claim": quantiles(life.claim - life.created for life in run if life.claim is not None),
        "scheduling": quantiles(life.scheduled - max(life.created, life.claim or 0.0) for life in run),  # type: ignore[operator]
        "kubelet": quantiles(life.running - life.scheduled for life in run),  # type: ignore[operator]
    }


def prepares(calls: Iterable[tuple[str, str, float]], drivers: Numbers) -> dict[str, Any]:
    """Seconds of a prepare and of an unprepare: as the kubelet saw them, and in the driver; and of the claim's GET."""
    calls = list(calls)

    def told(metric: str, **labels: str) -> dict[str, float]:
        return {f"p{share * 100:g}": drivers.quantile(share, metric, **labels) for share in SHARES}

    found = {
        operation: {
            "kubelet": quantiles(seconds for method, _, seconds in calls if method == call),
            "driver": told(CALL, operation=operation),
        }
        for operation, call in (("prepare", "NodePrepareResources"), ("unprepare", "NodeUnprepareResources"))
    }
    found["prepare"]["claim_read"] = told(PHASE, phase="claim_read")
    return found


def requests(drivers: Numbers) -> dict[str, float]:
    """Requests of all drivers to the API server, by verb and resource; refused ones have their status beside it."""
    found = drivers.by("gpu_dra_api_requests_total", "verb", "resource", "code")
    shown: dict[str, float] = {}
    for key, count in found.items():
        what, _, code = key.rpartition(" ")
        name = what if code.startswith("2") else key
        shown[name] = shown.get(name, 0.0) + count
    return shown


def components(grown: Mapping[str, Numbers], now: Mapping[str, Numbers], seconds: float) -> dict[str, dict[str, float]]:
    """What each component tells of itself: CPU time, memory, and what the documentation says to look at."""
    found = {}
    for name, page in grown.items():
        found[name] = {
            "cpu_seconds": page.total("process_cpu_seconds_total"),
            "resident_mib": now[name].total("process_resident_memory_bytes") / 2**20,
        }
    if page := grown.get("scheduler"):
        sli, algorithm = (
            "scheduler_pod_scheduling_sli_duration_seconds",
            "scheduler_scheduling_algorithm_duration_seconds",
        )
        found["scheduler"] |= {
            "pod_scheduling_sli_p50_s": page.quantile(0.5, sli),
            "pod_scheduling_sli_p99_s": page.quantile(0.99, sli),
            "scheduling_algorithm_mean_ms": page.mean(algorithm) * 1000,
            "scheduling_algorithm_p99_ms": page.quantile(0.99, algorithm) * 1000,
        }
    if page := grown.get("controller manager"):
        work = "workqueue_work_duration_seconds"
        found["controller manager"] |= {
            "claim_queue_adds_per_s": page.total("workqueue_adds_total", name=CLAIM_QUEUE) / seconds,
            "claim_queue_depth": now["controller manager"].total("workqueue_depth", name=CLAIM_QUEUE),
            "claim_queue_work_p99_ms": page.quantile(0.99, work, name=CLAIM_QUEUE) * 1000,
        }
    if page := grown.get("API server"):
        found["API server"] |= {
            "requests_per_s": page.total("apiserver_request_total") / seconds,
            "refused_429": page.total("apiserver_request_total", code="429"),
        }
    return found
