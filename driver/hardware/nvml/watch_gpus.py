"""What goes wrong with GPUs: NVML's events where there are any, and each GPU read now and then.

Reading is for what has no event: GPUs that are lost, that ask for a reset, that were mended, that came or went, and
MIG devices that an administrator made or destroyed.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Any

from driver.hardware.backend import BackendError
from driver.hardware.model import (
    NO_ACTION,
    Account,
    Cause,
    Cleared,
    Event,
    Fault,
    InventoryChanged,
    MigMode,
    Occurred,
    Quiet,
    is_uuid,
)
from driver.hardware.nvml import return_codes
from driver.hardware.nvml.enum_names import RECOVERY_ACTIONS
from driver.hardware.nvml.library import NO_INSTANCE
from driver.hardware.nvml.reading import GPU_LOST, NO_ANSWER
from driver.hardware.nvml.return_codes import NvmlError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from driver.hardware.model import Gpu, Partition
    from driver.hardware.nvml.kernel import Kernel
    from driver.hardware.nvml.library import Library
    from driver.hardware.nvml.mig import Mig
    from driver.hardware.nvml.reading import Reading

logger = logging.getLogger(__name__)

UNMONITORED = Fault(cause=Cause.UNMONITORED)
ECC_DOUBLE_BIT = Fault(cause=Cause.ECC, detail="double-bit")
TOLD_BY_READING = frozenset({Cause.GPU_LOST, Cause.UNMONITORED, Cause.REPAIR, Cause.INCOMPLETE})
"""Causes of which a reading says all there is to say; XIDs and memory errors are events."""

CLOSE_SECONDS = 0.5
"""Longest stay inside the library, so that close() is noticed."""
CHECK_SECONDS = 10.0
SETTLE_SECONDS = 60.0
"""How long after its last error event a GPU that asks for no repair counts as well: its word may come late.

As long after the last one, or the start, what ends with a program is over on a GPU that gives no account."""

_XID, _DOUBLE_BIT, _UNAVAILABLE, _RECOVERY = 0x8, 0x2, 0x4000, 0x8000
WANTED = _XID | _DOUBLE_BIT | _UNAVAILABLE | _RECOVERY
_GPU_TEMPERATURE = 0

Shape = tuple[bool, MigMode, "tuple[Partition, ...]"]
"""Whether a GPU answers, and how it is cut."""


class Watch:
    """Not thread-safe: one thread waits. ``readings`` gives what the last reading of the inventory found, by UUID."""

    def __init__(
        self,
        library: Library,
        mig: Mig,
        kernel: Kernel,
        *,
        readings: Callable[[], Mapping[str, Reading]],
        reread: Callable[[], None],
        check_seconds: float = CHECK_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._library = library
        self._mig = mig
        self._kernel = kernel
        self._readings = readings
        self._reread = reread
        self._check_seconds = check_seconds
        self._settle_seconds = settle_seconds
        self.closed = threading.Event()
        self._session = self._begun = 0
        """The session that is watched, not one where that has failed; and the last that was ever begun."""
        self._events: Any = None
        self._events_of = 0
        self._failed = False
        self._monitored: frozenset[str] = frozenset()
        self._faults: dict[str, frozenset[Fault]] = {}
        self._recovery: dict[str, str | None] = {}
        """What each GPU is last said to ask for; None where it gives no account."""
        self._known: frozenset[str] = frozenset()
        self._settles: dict[str, float] = {}
        """When a GPU with error events may count as well again, or as quiet where it gives no account; by UUID."""
        self._next_check = 0.0
        self._fingerprint: object = None
        self._told: object = None
        """What the GPUs looked like when a change was last announced: once is enough."""

    def wait(self, timeout: float) -> tuple[Event, ...]:
        """Block for something to happen. Raises BackendError when events cannot be read; the next call begins anew."""
        deadline = time.monotonic() + timeout
        while not self.closed.is_set():
            with self._library.session():
                if self._session != self._library.number:
                    return self._begin()
                if time.monotonic() >= self._next_check and (events := self._check()):
                    return events
            remaining = deadline - time.monotonic()
            if events := self._wait(max(0.0, min(remaining, CLOSE_SECONDS))):
                return events
            if remaining <= CLOSE_SECONDS:
                break
        return ()

    def _begin(self) -> tuple[Event, ...]:
        """Subscribe to every GPU in a new session, and report what is known to be wrong at this moment."""
        started = self._begun not in (0, self._library.number)
        if started or not self._readings():
            self._reread()
        self._fingerprint = self._kernel.fingerprint()
        self._faults, self._told = {}, None
        self._subscribe()
        events = self._check()
        self._session = self._begun = self._library.number
        if not self._library.is_open:  # or it would be begun over and over
            raise BackendError("NVML has to be started anew as soon as it was started")
        return (*events, *((InventoryChanged(),) if started and InventoryChanged() not in events else ()))

    def _subscribe(self) -> None:
        self._unsubscribe()
        self._monitored = frozenset()
        try:
            self._events = self._library.call("nvmlEventSetCreate")
            self._events_of = self._library.number
        except NvmlError as error:
            logger.warning("NVML gives no events, GPUs are only looked at now and then: %s", error.reason)
            return
        monitored = set()
        for uuid, reading in self._readings().items():
            try:
                handle = self._library.device(uuid, reading.gpu.index)
                types = WANTED & (self._library.ask("nvmlDeviceGetSupportedEventTypes", handle) or 0)
                if not types & (_XID | _DOUBLE_BIT):
                    raise NvmlError("nvmlDeviceGetSupportedEventTypes", return_codes.NOT_SUPPORTED, "Not Supported")
                self._library.call("nvmlDeviceRegisterEvents", handle, types, self._events)
            except NvmlError as error:
                logger.warning("%s cannot be watched for errors: %s", uuid, error.reason)
                continue
            monitored.add(uuid)
        if self._failed:  # what broke the last time has to work before it counts as mended
            self._next_event(0)
        self._monitored = frozenset(monitored)

    def _unsubscribe(self) -> None:
        events, self._events = self._events, None
        if events is not None and self._events_of == self._library.number:  # those of a former session are gone
            self._library.ask("nvmlEventSetFree", events)

    def _wait(self, timeout: float) -> tuple[Event, ...]:
        started = time.monotonic()
        events: tuple[Event, ...] = ()
        if self._events is not None and self._monitored:
            with self._library.session():
                if self._session != self._library.number:
                    return ()
                events = self._next_event(timeout)
        if not events:  # a library that does not wait, or has nothing to wait for, must not keep us busy
            self.closed.wait(max(0.0, timeout - (time.monotonic() - started)))
        return events

    def _next_event(self, timeout: float) -> tuple[Event, ...]:
        try:
            data = self._library.call("nvmlEventSetWait_v2", self._events, int(timeout * 1000))
        except NvmlError as error:
            match error.code:
                case return_codes.TIMEOUT:
                    self._failed = False
                    return ()
                case return_codes.GPU_IS_LOST:  # it does not say which one, and goes on saying it
                    self._failed = False
                    known = any(GPU_LOST in faults for faults in self._faults.values())
                    return () if known else self._check()
                case code if code in return_codes.CANNOT_TELL:
                    logger.warning("NVML's events cannot be read, GPUs are only looked at: %s", error.reason)
                    self._unsubscribe()
                    self._monitored, self._next_check = frozenset(), 0.0
                    return ()
            self._unsubscribe()
            self._session, self._failed = -1, True
            raise BackendError(f"waiting for NVML events failed: {error.reason}") from None
        self._failed = False
        return self._translate(data)

    def _translate(self, data: Any) -> tuple[Event, ...]:
        uuid = self._library.ask("nvmlDeviceGetUUID", data.device) if data.device else None
        if uuid is not None and uuid not in self._readings():
            parent = self._library.ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", data.device)
            uuid = self._library.ask("nvmlDeviceGetUUID", parent) if parent else None
        self._next_check = 0.0  # an error is a reason to read all that has no event
        if uuid is None:
            return self._check()
        if data.eventType == _XID:
            fault = Fault(cause=Cause.XID, detail=str(data.eventData), slots=self._slots(uuid, data.gpuInstanceId))
        elif data.eventType == _DOUBLE_BIT:
            fault = ECC_DOUBLE_BIT
        else:
            return ()
        self._settles[uuid] = time.monotonic() + self._settle_seconds
        self._recovery[uuid] = recovery = self._asks_for(uuid)
        return (Occurred(gpu_uuid=uuid, fault=fault, recovery=recovery),)

    def _asks_for(self, uuid: str) -> str | None:
        reading = self._readings().get(uuid)
        try:
            action = None if reading is None else self._recovery_action(self._library.device(uuid, reading.gpu.index))
        except NvmlError:
            return None
        return None if action is None else _recovery(action)

    def _slots(self, uuid: str, gi_id: int) -> frozenset[int] | None:
        """Memory slices of the GPU instance that an XID is laid to; None where it is laid to none that there is."""
        reading = self._readings().get(uuid)
        if reading is None or gi_id == NO_INSTANCE:
            return None
        try:
            partitions = self._mig.partitions(self._library.device(uuid, reading.gpu.index), uuid)
        except (BackendError, NvmlError) as error:
            logger.debug("%s", error)
            partitions = reading.gpu.partitions
        # A 0 may be an instance's id, or that of a library which knows none: then the GPU is not cut.
        return next((partition.slots for partition in partitions if partition.gi_id == gi_id), None)

    def _check(self) -> tuple[Event, ...]:
        """Read every GPU: what is different from the last time."""
        first = self._session != self._library.number
        self._next_check = time.monotonic() + self._check_seconds
        if not first and self._kernel.fingerprint() != self._fingerprint:
            logger.info("GPUs or their kernel driver have changed: NVML is started anew")
            self._library.expire()
            return ()
        events: list[Event] = []
        shapes: list[object] = []
        changed = back = unread = False
        for uuid, reading in self._readings().items():
            now, well, shape = self._look(uuid, reading)
            shapes.append(shape)
            unread |= shape[0] and not reading.answers
            changed |= shape != _shape(reading.gpu, answers=reading.answers)
            if GPU_LOST in self._faults.get(uuid, ()) and GPU_LOST not in now:
                back = True
            if well and (first or time.monotonic() >= self._settles.get(uuid, math.inf)):
                self._settles.pop(uuid, None)
                self._faults[uuid] = now
                events.append(Cleared(gpu_uuid=uuid, remaining=now))
            elif now != self._faults.get(uuid):
                self._faults[uuid] = now
                events.append(Cleared(gpu_uuid=uuid, remaining=now, causes=TOLD_BY_READING))
            recovery = _account(now, well=well)
            if recovery not in (None, self._recovery.get(uuid, NO_ACTION)):
                events.append(Account(gpu_uuid=uuid, recovery=recovery))
            self._recovery[uuid] = recovery
            quiet = (
                self._settles.setdefault(uuid, time.monotonic() + self._settle_seconds) if well is None else math.inf
            )
            if time.monotonic() >= quiet:
                self._settles[uuid] = math.inf
                events.append(Quiet(gpu_uuid=uuid))
        for uuid in self._known - self._readings().keys():  # taken out of the node; claims may still hold it
            # What stood in for a UUID is known by that now, and nothing is wrong with what never was.
            left = frozenset({GPU_LOST} if is_uuid(uuid) else ())
            events.append(Cleared(gpu_uuid=uuid, remaining=left, causes=TOLD_BY_READING))
            self._faults.pop(uuid, None)
        self._known = frozenset(self._readings())
        if back:  # what was subscribed to before its reset is gone
            self._subscribe()
        if changed and (unread or shapes != self._told):  # a GPU that has come back is read until that succeeds
            self._told = shapes
            events.append(InventoryChanged())
        return tuple(events)

    def _look(self, uuid: str, reading: Reading) -> tuple[frozenset[Fault], bool | None, Shape]:
        """What is wrong with a GPU, whether by its own account it needs nothing (None: no account), how it is cut."""
        trouble: dict[str, int] = {}
        gpu = reading.gpu
        try:
            handle = self._library.device(uuid, gpu.index)
        except NvmlError as error:
            if error.code in {return_codes.NOT_FOUND, *return_codes.LOST} and is_uuid(uuid):
                return frozenset({GPU_LOST}), False, _shape(gpu, answers=False)
            faults = frozenset({NO_ANSWER}) if reading.answers else reading.faults
            return faults, False, _shape(gpu, answers=False)
        answers = self._library.ask("nvmlDeviceGetUUID", handle, trouble=trouble) is not None
        self._library.ask("nvmlDeviceGetTemperature", handle, _GPU_TEMPERATURE, trouble=trouble)  # NVML remembers names
        if return_codes.LOST & set(trouble.values()):
            return frozenset({GPU_LOST}), False, _shape(gpu, answers=False)
        found = set(reading.faults)  # of one that has come back, too, until it was read
        if uuid not in self._monitored:
            found.add(UNMONITORED)
        action = self._recovery_action(handle)
        if action:
            found.add(Fault(cause=Cause.REPAIR, detail=_recovery(action)))
        elif pending := self._memory_repair(handle, trouble):
            found.add(pending)
        return frozenset(found), None if action is None else action == 0, self._cut(handle, gpu, answers=answers)

    def _recovery_action(self, handle: Any) -> int | None:
        """What the GPU asks for; None where it gives no account, as with drivers before 570."""
        field = self._library.constant("NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", None)
        values = self._library.ask("nvmlDeviceGetFieldValues", handle, [field]) if field is not None else None
        return int(values[0].value.uiVal) if values and values[0].nvmlReturn == 0 else None

    def _memory_repair(self, handle: Any, trouble: dict[str, int]) -> Fault | None:
        """Memory rows that are to be replaced, or could not be; pages, on GPUs before Ampere."""
        rows = self._library.ask("nvmlDeviceGetRemappedRows", handle, trouble=trouble)
        if rows is not None:
            _, _, pending, failed = rows
            if failed:
                return Fault(cause=Cause.REPAIR, detail="row-remap-failed")
            return Fault(cause=Cause.REPAIR, detail="row-remap-pending") if pending else None
        if self._library.ask("nvmlDeviceGetRetiredPagesPendingStatus", handle, trouble=trouble):
            return Fault(cause=Cause.REPAIR, detail="page-retirement-pending")
        return None

    def _cut(self, handle: Any, gpu: Gpu, *, answers: bool) -> Shape:
        """How the GPU is cut, as compared with what is known; a GPU that cannot tell is as it was."""
        mode = self._mig.mode(handle)
        if mode is MigMode.UNSUPPORTED:
            return _shape(gpu, answers=answers)
        try:
            partitions = self._mig.partitions(handle, gpu.uuid)
        except BackendError as error:
            logger.debug("%s", error)
            return _shape(gpu, answers=answers)
        return answers, mode, partitions


def _recovery(action: int) -> str:
    return RECOVERY_ACTIONS.get(action, f"action-{action}") if action else NO_ACTION


def _account(faults: frozenset[Fault], *, well: bool | None) -> str | None:
    """What a GPU asks for, of what a look at it has found."""
    if well:
        return NO_ACTION
    return None if well is None else next((f.detail for f in faults if f.cause is Cause.REPAIR), None)


def _shape(gpu: Gpu, *, answers: bool) -> Shape:
    return answers, gpu.mig_mode, gpu.partitions
