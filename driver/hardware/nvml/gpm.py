"""How busy GPUs and their partitions are by the hardware's own counters (GPM): Hopper and newer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.hardware.nvml.return_codes import NvmlError

if TYPE_CHECKING:
    from driver.hardware.nvml.library import Library

_GRAPHICS, _SM = 1, 2
"""NVML_GPM_METRIC_GRAPHICS_UTIL and NVML_GPM_METRIC_SM_UTIL, in percent."""

Busy = tuple[float | None, float | None]
"""Part of the time in which anything ran, part of the multiprocessors that were busy; None where that is unknown."""
UNKNOWN: Busy = (None, None)


class Gpm:
    """Averages between two looks, so the first one at a device tells nothing. The caller is within a session."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._session = 0
        self._able: dict[str, bool] = {}
        self._samples: dict[tuple[str, int | None], Any] = {}
        """The last one of each GPU and GPU instance, in this session."""

    def busy(self, uuid: str, handle: Any, instance: int | None = None) -> Busy:
        """A GPU, or one of its instances, since the last call."""
        if self._session != self._library.number:  # the library has forgotten its samples
            self._session, self._able, self._samples = self._library.number, {}, {}
        if uuid not in self._able:
            support = self._library.probe("nvmlGpmQueryDeviceSupport", handle)
            self._able[uuid] = support is not None and bool(support.isSupportedDevice)
        if not self._able[uuid]:
            return UNKNOWN
        sample = self._library.ask("nvmlGpmSampleAlloc")
        if sample is None:
            return UNKNOWN
        before = self._samples.pop((uuid, instance), None)
        try:
            if instance is None:
                self._library.call("nvmlGpmSampleGet", handle, sample)
            else:
                self._library.call("nvmlGpmMigSampleGet", handle, instance, sample)
        except NvmlError:
            self._free(sample, before)
            return UNKNOWN
        self._samples[uuid, instance] = sample
        if before is None:
            return UNKNOWN
        try:
            return self._compare(before, sample)
        finally:
            self._free(before)

    def keep(self, uuid: str, instances: set[int]) -> None:
        """Of a GPU there are these instances now: what is kept of others is let go."""
        for key in [
            key for key in list(self._samples) if key[0] == uuid and key[1] is not None and key[1] not in instances
        ]:
            self._free(self._samples.pop(key))

    def _compare(self, before: Any, now: Any) -> Busy:
        nvml = self._library.nvml
        wanted = nvml.c_nvmlGpmMetricsGet_t()
        wanted.version = nvml.NVML_GPM_METRICS_GET_VERSION
        wanted.sample1, wanted.sample2 = before, now
        wanted.numMetrics = 2
        wanted.metrics[0].metricId, wanted.metrics[1].metricId = _GRAPHICS, _SM
        if self._library.ask("nvmlGpmMetricsGet", wanted) is None:
            return UNKNOWN
        return _ratio(wanted.metrics[0]), _ratio(wanted.metrics[1])

    def _free(self, *samples: Any) -> None:
        for sample in samples:
            if sample is not None:
                self._library.ask("nvmlGpmSampleFree", sample)


def _ratio(metric: Any) -> float | None:
    value = float(metric.value)
    return value / 100 if metric.nvmlReturn == 0 and 0 <= value <= 100 else None
