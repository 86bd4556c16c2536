"""The metrics of usage, made when somebody asks, of what is in memory: no call, no file, no lock is waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from driver.claims import State
from driver.usage.attribution import attribute, holdings
from driver.usage.free_slices import room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from driver.claims import Common
    from driver.hardware import Measurement
    from driver.usage.accounts import Accounts, Line, Spent
    from driver.usage.attribution import Account, Holding
    from driver.usage.free_slices import Room
    from driver.usage.sampler import Sampler

CLAIM = ("namespace", "claim", "claim_uid", "device", "uuid", "share_id")
POD = (*CLAIM, "pod", "pod_uid")
INFO = (*POD, "request", "parent_uuid", "profile", "type", "product")
LINE = ("namespace", "type", "product", "profile")
GPU = ("device", "uuid")


class UsageCollector(Collector):
    """Tells what claims hold and use, and how the GPUs are; nothing while another instance of this node does."""

    def __init__(self, common: Common, *, sampler: Sampler, accounts: Accounts, tells: Callable[[], bool]) -> None:
        self._common = common
        self._sampler = sampler
        self._accounts = accounts
        self._tells = tells

    def collect(self) -> Iterator[Metric]:
        """All families; those of which nothing is known are empty."""
        if not self._tells():
            yield from (claims(()), *times({}), *uses(()), *gpus({}), *rooms({}))
            return
        samples = self._sampler.samples()
        records = self._common.records
        here = (record for record in records if record.boot_id == records.boot_id)
        held = tuple(holdings(here, self._common.pods.known()))
        inventory = self._common.devices.inventory
        names = {gpu.uuid: gpu.name for gpu in inventory.gpus} if inventory else {}
        prepared = [holding for holding in held if holding.record.state is State.PREPARED]
        yield claims(prepared)
        yield from times(self._accounts.totals())
        yield from uses(attribute(prepared, samples))
        yield from gpus({(names[uuid], uuid): sample.measurement for uuid, sample in samples.items() if uuid in names})
        yield from rooms(room(self._common.devices.offered, held))


def claims(held: Iterable[Holding]) -> Metric:
    """Which claims hold which devices, and for which pods."""
    info = GaugeMetricFamily(
        "gpu_dra_claim_device_info",
        "1 for each device that a claim holds, by the pods that the claim is reserved for.",
        labels=INFO,
    )
    for holding in held:
        device = holding.device
        rest = (
            device.requests[0] if device.requests else "",
            device.gpu_uuid,
            holding.profile,
            "gpu" if device.whole else "mig",
            device.product,
        )
        own = _labels(holding)
        for pod in holding.pods or (("", ""),):
            info.add_metric((*own, *pod, *rest), 1)
    return info


def times(totals: Mapping[Line, Spent]) -> Iterator[Metric]:
    """How long devices were held."""
    devices = CounterMetricFamily(
        "gpu_dra_device_seconds", "Seconds that devices were held by claims, since the node booted.", labels=LINE
    )
    weighted = CounterMetricFamily(
        "gpu_dra_gpu_seconds",
        "Seconds that devices were held by claims, times the part of a GPU that they are, since the node booted.",
        labels=LINE,
    )
    for line, spent in totals.items():
        devices.add_metric(line, spent.device_seconds)
        weighted.add_metric(line, spent.gpu_seconds)
    yield devices
    yield weighted


def uses(accounts: Iterable[Account]) -> Iterator[Metric]:
    """What is used of what is held."""
    used = GaugeMetricFamily("gpu_dra_claim_device_memory_used_bytes", "Memory that a claim uses.", labels=CLAIM)
    total = GaugeMetricFamily("gpu_dra_claim_device_memory_total_bytes", "Memory that a claim may use.", labels=CLAIM)
    busy = GaugeMetricFamily(
        "gpu_dra_claim_device_utilisation_ratio",
        "Part of the time in which a claim's programs ran on the device; of a share, their part of its processors.",
        labels=CLAIM,
    )
    active = GaugeMetricFamily(
        "gpu_dra_claim_device_sm_active_ratio", "Part of a device's multiprocessors that were busy.", labels=CLAIM
    )
    pod_used = GaugeMetricFamily("gpu_dra_pod_device_memory_used_bytes", "Memory that a pod uses.", labels=POD)
    pod_busy = GaugeMetricFamily(
        "gpu_dra_pod_device_utilisation_ratio",
        "Part of the time in which a pod's programs ran on the device; where others use it too, their part of it.",
        labels=POD,
    )
    for account in accounts:
        labels = _labels(account.holding)
        _add(used, labels, account.used.memory)
        _add(total, labels, account.memory_total)
        _add(busy, labels, account.used.utilisation)
        _add(active, labels, account.sm_active)
        for pod, by_pod in account.by_pod.items():
            _add(pod_used, (*labels, *pod), by_pod.memory)
            _add(pod_busy, (*labels, *pod), by_pod.utilisation)
    yield from (used, total, busy, active, pod_used, pod_busy)


def gpus(measured: Mapping[tuple[str, str], Measurement]) -> Iterator[Metric]:
    """How the GPUs are, by name and UUID, held or not."""
    for name, (text, value) in _GAUGES.items():
        family = GaugeMetricFamily(f"gpu_dra_gpu_{name}", text, labels=GPU)
        for labels, measurement in measured.items():
            _add(family, labels, value(measurement))
        yield family
    for name, (text, extra, values) in _GAUGES_BY.items():
        family = GaugeMetricFamily(f"gpu_dra_gpu_{name}", text, labels=(*GPU, extra))
        for labels, measurement in measured.items():
            for key, number in values(measurement).items():
                family.add_metric((*labels, key), number)
        yield family
    ecc = CounterMetricFamily(
        "gpu_dra_gpu_ecc_errors",
        "Memory errors, since the GPU's driver was loaded (volatile) or in the GPU's life (aggregate).",
        labels=(*GPU, "type", "scope"),
    )
    nvlink = CounterMetricFamily(
        "gpu_dra_gpu_nvlink_errors", "Errors of all NVLinks of a GPU together, by kind.", labels=(*GPU, "error")
    )
    replays = CounterMetricFamily("gpu_dra_gpu_pcie_replays", "Transfers over PCIe that were repeated.", labels=GPU)
    for labels, measurement in measured.items():
        for kind, count in measurement.ecc_errors.items():
            ecc.add_metric((*labels, *kind), count)
        for error, count in measurement.nvlink_errors.items():
            nvlink.add_metric((*labels, error), count)
        _add(replays, labels, measurement.pcie_replays)
    yield from (ecc, nvlink, replays)


def rooms(left: Mapping[tuple[str, str], Room]) -> Iterator[Metric]:
    """What is left of GPUs that are cut for claims, by name and UUID."""
    free = GaugeMetricFamily("gpu_dra_gpu_free_slices", "Compute slices of a GPU that no claim holds.", labels=GPU)
    largest = GaugeMetricFamily(
        "gpu_dra_gpu_largest_free_slices",
        "Compute slices of the largest part of a GPU that a claim could still get.",
        labels=GPU,
    )
    for labels, (slices, most) in left.items():
        free.add_metric(labels, slices)
        largest.add_metric(labels, most)
    yield from (free, largest)


_GAUGES: Mapping[str, tuple[str, Callable[[Measurement], float | None]]] = {
    "utilisation_ratio": ("Part of the time in which anything ran on a GPU.", lambda m: m.whole.utilisation),
    "memory_used_bytes": ("Memory of a GPU that is used.", lambda m: m.whole.memory_used),
    "memory_total_bytes": ("Memory that a GPU has.", lambda m: m.whole.memory_total),
    "temperature_celsius": ("Temperature of a GPU.", lambda m: m.temperature_celsius),
    "power_watts": ("Power that a GPU takes.", lambda m: m.power_watts),
    "power_limit_watts": ("Power that a GPU may take.", lambda m: m.power_limit_watts),
}
_GAUGES_BY: Mapping[str, tuple[str, str, Callable[[Measurement], Mapping[str, float]]]] = {
    "throttled": ("1 while a GPU's clocks are held down, by reason.", "reason", lambda m: m.throttled),
    "remapped_rows": (
        "Memory rows that were replaced, by the type of the errors that were the cause.",
        "cause",
        lambda m: m.remapped_rows,
    ),
    "row_remapping": ("1 while a memory row is to be replaced, or could not be.", "state", lambda m: m.row_remapping),
}


def _labels(holding: Holding) -> tuple[str, ...]:
    claim, device = holding.record.claim, holding.device
    return claim.namespace, claim.name, claim.uid, device.device, holding.uuid, device.share_id or ""


def _add(family: GaugeMetricFamily | CounterMetricFamily, labels: tuple[str, ...], value: float | None) -> None:
    if value is not None:
        family.add_metric(labels, value)
