"""Partitions of real GPUs: what NVML says of them, how they are made and taken away."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import re
from typing import TYPE_CHECKING, Any

from driver.devices.backend import BackendError
from driver.devices.model import DeviceNode, MigMode, MigProfile, Partition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from driver.devices.model import Gpu

logger = logging.getLogger(__name__)

# Profiles with graphics or with all media engines are left out: how many of which go together is not documented.
_OFFERED = re.compile(r"[1-8]g\.[0-9]+gb(\+me|-me)?")
_CAP = re.compile(r"gpu([0-9]+)/gi([0-9]+)/(?:ci([0-9]+)/)?access ([0-9]+)")
_REV1 = 7
"""A compute instance profile of one slice that shares engines otherwise; never the one that fills an instance."""
MAX_INSTANCES = 16
"""More than any GPU has; the counts that NVML gives by profile are too low for A30."""


class NvmlMig:
    """The part of the NVML backend that knows MIG. ``ask`` is its way to query: None where there is no answer."""

    def __init__(self, nvml: Any, ask: Callable[..., Any], *, proc: Path) -> None:
        self._nvml = nvml
        self._ask = ask
        self._proc = proc

    def mode(self, handle: Any) -> MigMode:
        """Whether the GPU is cut at the moment."""
        answer = self._ask("nvmlDeviceGetMigMode", handle)
        if not answer:
            return MigMode.UNSUPPORTED
        return MigMode.ENABLED if answer[0] else MigMode.DISABLED

    def profiles(self, handle: Any) -> tuple[MigProfile, ...]:
        """All profiles that we can offer, with their placements; empty where the driver does not tell."""
        found: list[MigProfile] = []
        for number in range(getattr(self._nvml, "NVML_GPU_INSTANCE_PROFILE_COUNT", 0)):
            info = self._query("nvmlDeviceGetGpuInstanceProfileInfo", handle, number)
            name = _text(info.name).removeprefix("MIG ") if info is not None else ""
            if not _OFFERED.fullmatch(name):
                continue
            starts = self._starts(handle, info.id)
            if starts:
                found.append(_profile(name, info, starts))
        return tuple(found)

    def partitions(self, gpu_uuid: str, profiles: Mapping[int, MigProfile]) -> tuple[Partition, ...]:
        """GPU instances as they are now. One without a compute instance, left by a crash, has an empty UUID.

        Raises BackendError.
        """
        what = f"list the MIG devices of {gpu_uuid}"
        with self._errors(what):
            handle = self._nvml.nvmlDeviceGetHandleByUUID(gpu_uuid)
            if self.mode(handle) is not MigMode.ENABLED:
                return ()
            devices = self._devices(handle)
            found = []
            for number, profile in profiles.items():
                for instance in self._instances(handle, number):
                    info = self._nvml.nvmlGpuInstanceGetInfo(instance)
                    ci, uuid = devices.get(info.id, (0, ""))
                    found.append(_partition(gpu_uuid, profile, info, ci, uuid))
        return tuple(sorted(found, key=lambda partition: partition.start))

    def create(self, gpu: Gpu, profile: MigProfile, start: int) -> Partition:
        """Create a GPU instance and the compute instance that fills it. Raises BackendError, and leaves nothing."""
        nvml = self._nvml
        what = f"create {profile.name} at {start} on {gpu.name}"
        with self._errors(what):
            handle = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            with contextlib.ExitStack() as undo:
                if self.mode(handle) is not MigMode.ENABLED:
                    if not gpu.mig_switchable:
                        raise BackendError(f"{what}: MIG mode is off, and needs a reset of the GPU to go on")
                    self._switch(handle, what, on=True)
                    undo.callback(self._attempt, what, nvml.nvmlDeviceSetMigMode, handle, 0)
                placement = nvml.c_nvmlGpuInstancePlacement_t(start=start, size=profile.size)
                instance = nvml.nvmlDeviceCreateGpuInstanceWithPlacement(
                    handle, profile.profile_id, ctypes.byref(placement)
                )
                undo.callback(self._attempt, what, nvml.nvmlGpuInstanceDestroy, instance)
                info = nvml.nvmlGpuInstanceGetInfo(instance)
                compute = nvml.nvmlGpuInstanceCreateComputeInstance(instance, self._filling(instance, profile, what))
                undo.callback(self._attempt, what, nvml.nvmlComputeInstanceDestroy, compute)
                if (info.placement.start, info.placement.size) != (start, profile.size):
                    raise BackendError(f"{what}: the driver put it at {info.placement.start}")
                ci, uuid = self._devices(handle).get(info.id, (0, ""))
                if not uuid:
                    raise BackendError(f"{what}: the driver shows no MIG device for GPU instance {info.id}")
                undo.pop_all()
        return _partition(gpu.uuid, profile, info, ci, uuid)

    def destroy(self, partition: Partition, *, switchable: bool) -> None:
        """Destroy by ids, if what has them now is still the same placement. Raises BackendError."""
        nvml = self._nvml
        what = f"destroy {partition.profile} at {partition.start} ({partition.uuid or 'unfinished'})"
        with self._errors(what):
            handle = nvml.nvmlDeviceGetHandleByUUID(partition.gpu_uuid)
            instance = self._find(nvml.nvmlDeviceGetGpuInstanceById, handle, partition.gi_id)
            if instance is not None:
                info = nvml.nvmlGpuInstanceGetInfo(instance)
                if (info.profileId, info.placement.start) != (partition.profile_id, partition.start):
                    return
                compute = self._find(nvml.nvmlGpuInstanceGetComputeInstanceById, instance, partition.ci_id)
                if compute is not None:
                    nvml.nvmlComputeInstanceDestroy(compute)
                nvml.nvmlGpuInstanceDestroy(instance)
            if switchable and self.mode(handle) is MigMode.ENABLED and not self._any(handle):
                self._attempt(what, nvml.nvmlDeviceSetMigMode, handle, 0)  # make_whole tries again when it matters

    def make_whole(self, gpu: Gpu) -> None:
        """Switch MIG mode off. Raises BackendError."""
        what = f"switch MIG mode off on {gpu.name}"
        with self._errors(what):
            handle = self._nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            if self.mode(handle) is not MigMode.ENABLED:
                return
            if self._any(handle):
                raise BackendError(f"{what}: MIG devices exist that this driver has not made; destroy them first")
            if not gpu.mig_switchable:
                raise BackendError(f"{what}: it needs a reset of the GPU")
            self._switch(handle, what, on=False)

    def capabilities(self) -> dict[tuple[int, int, int | None], DeviceNode]:
        """Device files that open partitions, by GPU minor, GPU instance, and compute instance or None."""
        try:
            devices = (self._proc / "devices").read_text(encoding="ascii")
            minors = (self._proc / "driver/nvidia-caps/mig-minors").read_text(encoding="ascii")
        except (OSError, ValueError):
            return {}
        major = re.search(r"^ *([0-9]+) nvidia-caps$", devices, re.MULTILINE)
        if major is None:
            return {}
        return {
            (int(m[1]), int(m[2]), None if m[3] is None else int(m[3])): DeviceNode(
                path=f"/dev/nvidia-caps/nvidia-cap{m[4]}", major=int(major[1]), minor=int(m[4]), permissions="r"
            )
            for m in map(_CAP.fullmatch, minors.splitlines())
            if m is not None
        }

    def _query(self, function: str, *args: Any) -> Any:
        """A query that is expected to fail for what this GPU does not have."""
        with contextlib.suppress(AttributeError, self._nvml.NVMLError):
            return getattr(self._nvml, function)(*args)
        return None

    def _starts(self, handle: Any, profile_id: int) -> tuple[tuple[int, int], ...]:
        """Placements of a profile as (start, size)."""
        count = ctypes.c_uint(0)
        query = "nvmlDeviceGetGpuInstancePossiblePlacements"
        if self._query(query, handle, profile_id, None, ctypes.byref(count)) is None or not count.value:
            return ()
        array = (self._nvml.c_nvmlGpuInstancePlacement_t * count.value)()
        if self._query(query, handle, profile_id, array, ctypes.byref(count)) is None:
            return ()
        return tuple((place.start, place.size) for place in array[: count.value])

    def _devices(self, handle: Any) -> dict[int, tuple[int, str]]:
        """Compute instance and UUID by GPU instance, the first where there are several, as we never make."""
        found: dict[int, tuple[int, str]] = {}
        for index in range(self._query("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            device = self._query("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
            if device is not None:
                gi = self._nvml.nvmlDeviceGetGpuInstanceId(device)
                ci = self._nvml.nvmlDeviceGetComputeInstanceId(device)
                found.setdefault(gi, (ci, self._nvml.nvmlDeviceGetUUID(device)))
        return found

    def _instances(self, handle: Any, profile_id: int) -> list[Any]:
        array = (self._nvml.c_nvmlGpuInstance_t * MAX_INSTANCES)()
        count = ctypes.c_uint(0)
        self._nvml.nvmlDeviceGetGpuInstances(handle, profile_id, array, ctypes.byref(count))
        return list(array[: count.value])

    def _any(self, handle: Any) -> bool:
        """Whether there is any GPU instance, of profiles that we do not offer as well."""
        numbers = range(getattr(self._nvml, "NVML_GPU_INSTANCE_PROFILE_COUNT", 0))
        infos = [self._query("nvmlDeviceGetGpuInstanceProfileInfo", handle, number) for number in numbers]
        return any(self._instances(handle, info.id) for info in infos if info is not None)

    def _filling(self, instance: Any, profile: MigProfile, what: str) -> int:
        """Id of the compute instance profile that takes all of a GPU instance."""
        nvml = self._nvml
        for number in range(getattr(nvml, "NVML_COMPUTE_INSTANCE_PROFILE_COUNT", 0)):
            shared = nvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
            info = self._query("nvmlGpuInstanceGetComputeInstanceProfileInfo", instance, number, shared)
            if info is not None and info.sliceCount == profile.compute_slices and number != _REV1:
                return int(info.id)
        raise BackendError(f"{what}: the driver has no compute instance profile of {profile.compute_slices} slices")

    def _switch(self, handle: Any, what: str, *, on: bool) -> None:
        status = self._nvml.nvmlDeviceSetMigMode(handle, int(on))
        if status:
            raise BackendError(
                f"{what}: MIG mode cannot be switched {'on' if on else 'off'}, NVML status {status}: "
                "something still uses the GPU, for example a monitoring agent"
            )

    def _find(self, function: Callable[[Any, int], Any], owner: Any, number: int) -> Any:
        """Something by its id; None if it is gone."""
        try:
            return function(owner, number)
        except self._nvml.NVMLError as error:
            if error.value == self._nvml.NVML_ERROR_NOT_FOUND:
                return None
            raise

    def _attempt(self, what: str, function: Callable[..., Any], *args: Any) -> None:
        try:
            function(*args)
        except self._nvml.NVMLError as error:
            logger.error("%s: %s failed on the way back: %s", what, getattr(function, "__name__", function), error)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as error:
            raise BackendError(f"{what}: {error}") from None


def _profile(name: str, info: Any, places: tuple[tuple[int, int], ...]) -> MigProfile:
    return MigProfile(
        name=name,
        profile_id=info.id,
        compute_slices=info.sliceCount,
        size=places[0][1],
        starts=tuple(sorted(start for start, _ in places)),
        max_instances=info.instanceCount,
        memory_mib=info.memorySizeMB,
        multiprocessors=info.multiprocessorCount,
        copy_engines=info.copyEngineCount,
        decoders=info.decoderCount,
        encoders=info.encoderCount,
        jpeg_engines=info.jpegCount,
        ofa_engines=info.ofaCount,
    )


def _partition(gpu_uuid: str, profile: MigProfile, info: Any, ci: int, uuid: str) -> Partition:
    return Partition(
        gpu_uuid=gpu_uuid,
        profile=profile.name,
        profile_id=profile.profile_id,
        start=info.placement.start,
        size=info.placement.size,
        uuid=uuid,
        gi_id=info.id,
        ci_id=ci,
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
