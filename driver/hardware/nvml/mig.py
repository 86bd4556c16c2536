"""Partitions of real GPUs: what NVML says of them, how they are made and taken away.

A GPU instance has memory slices and engines; a compute instance in it has multiprocessors. What a container gets is a
MIG device, a compute instance that fills its GPU instance. Whoever calls is within a session of the library.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.hardware.backend import BackendError
from driver.hardware.model import MigMode, MigProfile, Partition
from driver.hardware.nvml import return_codes
from driver.hardware.nvml.mig_profiles import STARTS, canonical_name, compose_name, most_side_by_side
from driver.hardware.nvml.return_codes import NvmlError, explained

if TYPE_CHECKING:
    from collections.abc import Iterator

    from driver.hardware.model import Gpu
    from driver.hardware.nvml.library import Library

logger = logging.getLogger(__name__)

_REV1 = 7
"""A compute instance profile of one slice that shares engines otherwise; never the one that fills an instance."""
MAX_INSTANCES = 64
"""More GPU instances of one profile than any GPU has; NVML's own counts are too low for A30."""
MAX_PLACEMENTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A GPU instance profile as far as partitions of it need it."""

    id: int
    name: str
    slices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _MigDevice:
    """A compute instance, by which containers know a partition."""

    ci: int
    uuid: str
    fills: bool
    """Whether it takes all of its GPU instance, as far as the driver tells."""


class Mig:
    """The part of the backend that knows MIG."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._kinds: dict[str, tuple[_Kind, ...]] = {}
        """By GPU UUID; profiles of a GPU never change."""

    def mode(self, handle: Any, trouble: dict[str, int] | None = None) -> MigMode:
        """Whether the GPU is cut at the moment."""
        answer = self._library.ask("nvmlDeviceGetMigMode", handle, trouble=trouble)
        if not answer:
            return MigMode.UNSUPPORTED
        return MigMode.ENABLED if answer[0] == 1 else MigMode.DISABLED

    def profiles(self, handle: Any, gpu_uuid: str, memory_bytes: int | None) -> tuple[MigProfile, ...]:
        """All profiles with their placements; none where an old driver tells them only in MIG mode."""
        found: list[MigProfile] = []
        kinds: list[_Kind] = []
        infos = list(self._infos(handle))
        listed = {info.id: self._places(handle, info.id) for _, info in infos}
        table = {} if any(listed.values()) else STARTS
        slots = 4 if max((info.sliceCount for _, info in infos), default=0) == 4 else 8
        for number, info in infos:
            name = canonical_name(getattr(info, "name", b"")) or compose_name(
                number, info.sliceCount, info.memorySizeMB, memory_bytes
            )
            kinds.append(_Kind(id=info.id, name=name, slices=info.sliceCount))
            places = listed[info.id] or table.get((slots, number), ())
            if places and name not in {profile.name for profile in found}:
                found.append(_profile(name, info, places))
        self._kinds[gpu_uuid] = tuple(kinds)
        return tuple(found)

    def partitions(self, handle: Any, gpu_uuid: str) -> tuple[Partition, ...]:
        """GPU instances as they are now. One that no compute instance fills, as a crash leaves it, has an empty UUID.

        Raises BackendError.
        """
        if self.mode(handle) is not MigMode.ENABLED:
            return ()
        if gpu_uuid not in self._kinds:
            self.profiles(handle, gpu_uuid, None)
        with explained(f"list the MIG devices of {gpu_uuid}"):
            devices = self._devices(handle)
            found = []
            for kind in self._kinds[gpu_uuid]:
                for instance in self._instances(handle, kind.id):
                    info = self._library.call("nvmlGpuInstanceGetInfo", instance)
                    found.append(_partition(gpu_uuid, kind.name, info, devices.get(info.id, [])))
        return tuple(sorted(found, key=lambda partition: partition.start))

    def create(self, handle: Any, gpu: Gpu, profile: MigProfile, start: int) -> Partition:
        """Create a GPU instance and the compute instance that fills it. Raises BackendError, and leaves nothing."""
        call = self._library.call
        what = f"create {profile.name} at {start} on {gpu.name}"
        with contextlib.ExitStack() as undo, explained(what):
            if self.mode(handle) is not MigMode.ENABLED:
                if not gpu.mig_switchable:
                    raise BackendError(
                        f"{what}: MIG mode is off, and this GPU needs a reset to switch it on: drain the node, then "
                        f"nvidia-smi -i {gpu.uuid} -mig 1 and nvidia-smi -i {gpu.uuid} --gpu-reset"
                    )
                undo.callback(self._attempt, what, "nvmlDeviceSetMigMode", handle, 0)
                self._switch(handle, what, on=True)
            instance = self._create_instance(handle, gpu.uuid, profile, start, what)
            undo.callback(self._attempt, what, "nvmlGpuInstanceDestroy", instance)
            info = call("nvmlGpuInstanceGetInfo", instance)
            if (info.placement.start, info.placement.size) != (start, profile.size):
                raise BackendError(f"{what}: the driver put it at {info.placement.start} instead")
            compute = call("nvmlGpuInstanceCreateComputeInstance", instance, self._filling(instance, profile, what))
            undo.callback(self._attempt, what, "nvmlComputeInstanceDestroy", compute)
            made = _partition(gpu.uuid, profile.name, info, self._devices(handle).get(info.id, []))
            if not made.uuid:
                raise BackendError(f"{what}: the driver shows no MIG device for GPU instance {info.id}")
            undo.pop_all()
        return made

    def destroy(self, handle: Any, partition: Partition, *, switchable: bool) -> None:
        """Destroy by ids, if what has them now is still the same placement. Raises BackendError."""
        call = self._library.call
        what = f"destroy {partition.profile} at {partition.start} ({partition.uuid or 'unfinished'})"
        with explained(what):
            mode = self.mode(handle)
            if mode is MigMode.DISABLED:
                return  # a reset has taken it away
            instance = None
            if partition.gi_id >= 0:
                instance = self._find("nvmlDeviceGetGpuInstanceById", handle, partition.gi_id)
            if instance is not None:
                info = call("nvmlGpuInstanceGetInfo", instance)
                if (info.profileId, info.placement.start) != (partition.profile_id, partition.start):
                    return
                compute = self._find("nvmlGpuInstanceGetComputeInstanceById", instance, partition.ci_id)
                if compute is not None:
                    call("nvmlComputeInstanceDestroy", compute)
                call("nvmlGpuInstanceDestroy", instance)
            # Nobody else gets the whole of a GPU in MIG mode; make_whole tries again when it matters.
            if switchable and mode is MigMode.ENABLED and not self._any(handle, partition.gpu_uuid):
                self._attempt(what, "nvmlDeviceSetMigMode", handle, 0)

    def make_whole(self, handle: Any, gpu: Gpu) -> None:
        """Switch MIG mode off. Raises BackendError."""
        what = f"switch MIG mode off on {gpu.name}"
        with explained(what):
            if self.mode(handle) is not MigMode.ENABLED:
                return
            if self._any(handle, gpu.uuid):
                raise BackendError(f"{what}: MIG devices exist that this driver has not made; destroy them first")
            if not gpu.mig_switchable:
                raise BackendError(
                    f"{what}: this GPU needs a reset for that: drain the node, then nvidia-smi -i {gpu.uuid} -mig 0 "
                    f"and nvidia-smi -i {gpu.uuid} --gpu-reset"
                )
            self._switch(handle, what, on=False)

    def handles(self, handle: Any) -> Iterator[Any]:
        """The MIG devices of a GPU, in NVML's order."""
        for index in range(self._library.ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            device = self._library.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
            if device is not None:
                yield device

    def _infos(self, handle: Any) -> Iterator[tuple[int, Any]]:
        """Profiles by their number; an older library gives them without a name."""
        for number in range(self._library.constant("NVML_GPU_INSTANCE_PROFILE_COUNT", 0)):
            trouble: dict[str, int] = {}
            query = "nvmlDeviceGetGpuInstanceProfileInfo"
            info = self._library.probe(query, handle, number, trouble=trouble)
            if info is None and trouble[query] in {
                return_codes.FUNCTION_NOT_FOUND,
                return_codes.ARGUMENT_VERSION_MISMATCH,
            }:
                info = self._library.probe(query, handle, number, version=1)
            if info is not None:
                yield number, info

    def _places(self, handle: Any, profile_id: int) -> tuple[tuple[int, int], ...]:
        """Placements of a profile as (start, size)."""
        query = "nvmlDeviceGetGpuInstancePossiblePlacements"
        array = (self._library.nvml.c_nvmlGpuInstancePlacement_t * MAX_PLACEMENTS)()
        count = ctypes.c_uint(0)
        if self._library.probe(query, handle, profile_id, None, ctypes.byref(count)) is None:
            return ()
        count.value = min(count.value, MAX_PLACEMENTS)
        if not count.value or self._library.probe(query, handle, profile_id, array, ctypes.byref(count)) is None:
            return ()
        return tuple((place.start, place.size) for place in array[: min(count.value, MAX_PLACEMENTS)] if place.size)

    def _devices(self, handle: Any) -> dict[int, list[_MigDevice]]:
        """MIG devices by GPU instance. Raises NvmlError: one that is not seen must not be taken for destroyed."""
        found: dict[int, list[_MigDevice]] = {}
        call, ask = self._library.call, self._library.ask
        for index in range(call("nvmlDeviceGetMaxMigDeviceCount", handle)):
            device = self._find("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
            if device is None:
                continue
            size = ask("nvmlDeviceGetAttributes", device)
            found.setdefault(call("nvmlDeviceGetGpuInstanceId", device), []).append(
                _MigDevice(
                    ci=call("nvmlDeviceGetComputeInstanceId", device),
                    uuid=call("nvmlDeviceGetUUID", device),
                    fills=size is None or size.computeInstanceSliceCount == size.gpuInstanceSliceCount,
                )
            )
        return found

    def _instances(self, handle: Any, profile_id: int) -> list[Any]:
        array = (self._library.nvml.c_nvmlGpuInstance_t * MAX_INSTANCES)()
        count = ctypes.c_uint(MAX_INSTANCES)
        try:
            self._library.call("nvmlDeviceGetGpuInstances", handle, profile_id, array, ctypes.byref(count))
        except NvmlError as error:
            if error.code in {
                return_codes.NOT_SUPPORTED,
                return_codes.NOT_FOUND,
            }:  # of this profile there can be none now
                return []
            raise
        return list(array[: min(count.value, MAX_INSTANCES)])

    def _any(self, handle: Any, gpu_uuid: str) -> bool:
        """Whether there is any GPU instance, whoever made it."""
        if gpu_uuid not in self._kinds:
            self.profiles(handle, gpu_uuid, None)
        return any(self._instances(handle, kind.id) for kind in self._kinds[gpu_uuid])

    def _create_instance(self, handle: Any, gpu_uuid: str, profile: MigProfile, start: int, what: str) -> Any:
        placement = self._library.nvml.c_nvmlGpuInstancePlacement_t(start=start, size=profile.size)
        try:
            return self._library.call(
                "nvmlDeviceCreateGpuInstanceWithPlacement", handle, profile.profile_id, ctypes.byref(placement)
            )
        except NvmlError as error:
            if error.code != return_codes.INSUFFICIENT_RESOURCES:
                raise
            there = ", ".join(f"{p.profile} at {p.start} ({p.uuid})" for p in self.partitions(handle, gpu_uuid))
            raise BackendError(f"{what}: {error.reason}; there are: {there or 'none'}") from None

    def _filling(self, instance: Any, profile: MigProfile, what: str) -> int:
        """Id of the compute instance profile that takes all of a GPU instance."""
        shared = self._library.constant("NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED", 0)
        query = "nvmlGpuInstanceGetComputeInstanceProfileInfo"
        for number in range(self._library.constant("NVML_COMPUTE_INSTANCE_PROFILE_COUNT", 0)):
            if number == _REV1:
                continue
            info = self._library.probe(query, instance, number, shared)
            if info is None:
                info = self._library.probe(query, instance, number, shared, version=1)
            if info is not None and info.sliceCount == profile.compute_slices:
                return int(info.id)
        raise BackendError(f"{what}: the driver has no compute instance profile of {profile.compute_slices} slices")

    def _switch(self, handle: Any, what: str, *, on: bool) -> None:
        status = self._library.call("nvmlDeviceSetMigMode", handle, int(on))
        wanted = MigMode.ENABLED if on else MigMode.DISABLED
        if not status and self.mode(handle) is wanted:
            return
        if status == return_codes.IN_USE:
            why = "a process still uses the GPU, for example a monitoring agent"
        elif not status:
            why = "it waits for a reset of the GPU"
        else:
            why = f"{return_codes.words(status)} (NVML status {status})"
        if not on:  # leave nothing pending that the next reset would bring about
            self._attempt(what, "nvmlDeviceSetMigMode", handle, 1)
        raise BackendError(f"{what}: MIG mode cannot be switched {'on' if on else 'off'} now: {why}")

    def _find(self, function: str, owner: Any, number: int) -> Any:
        """Something by its id; None if it is gone."""
        try:
            return self._library.call(function, owner, number)
        except NvmlError as error:
            if error.code == return_codes.NOT_FOUND:
                return None
            raise

    def _attempt(self, what: str, function: str, *arguments: Any) -> None:
        try:
            self._library.call(function, *arguments)
        except NvmlError as error:
            logger.error("%s: %s failed on the way back: %s", what, function, error.reason)


def _profile(name: str, info: Any, places: tuple[tuple[int, int], ...]) -> MigProfile:
    starts, size = tuple(sorted(start for start, _ in places)), places[0][1]
    # NVML's counts are too low for A30 (as mig-parted knows); only of variants there are fewer than have room.
    most = most_side_by_side(starts, size) if re.fullmatch(r"[0-9]+g\.[0-9]+gb", name) else 0
    return MigProfile(
        name=name,
        profile_id=info.id,
        compute_slices=info.sliceCount,
        size=size,
        starts=starts,
        max_instances=max(info.instanceCount, most, 1),
        memory_mib=info.memorySizeMB,
        multiprocessors=info.multiprocessorCount,
        copy_engines=info.copyEngineCount,
        decoders=info.decoderCount,
        encoders=info.encoderCount,
        jpeg_engines=info.jpegCount,
        ofa_engines=info.ofaCount,
    )


def _partition(gpu_uuid: str, profile: str, info: Any, devices: list[_MigDevice]) -> Partition:
    """``devices`` are those of the GPU instance; several, or one that leaves room, make none that we can give out."""
    filled = len(devices) == 1 and devices[0].fills
    return Partition(
        gpu_uuid=gpu_uuid,
        profile=profile,
        profile_id=info.profileId,
        start=info.placement.start,
        size=info.placement.size,
        uuid=devices[0].uuid if filled else "",
        gi_id=info.id,
        ci_id=devices[0].ci if filled else 0,
    )
