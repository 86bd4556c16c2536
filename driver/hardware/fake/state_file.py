"""What the fake GPUs remember: a small file that outlives the driver's process, as the state of real hardware does."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from driver.base import files
from driver.hardware.process_sharing import ComputeMode, TimeSlice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATE_FILE = "fake-hardware.json"
MAX_XIDS = 64
MAX_LATENCY_MS = 600_000
MAX_FAILURES = 1000
MAX_TEMPERATURE = 200
MAX_POWER = 10_000


class DamagedStateError(ValueError):
    """The state file is not what we write."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class GpuState(_Part):
    """What is wrong with one fake GPU."""

    xids: tuple[int, ...] = ()
    """Every XID that happened, oldest first; a repeated one is there twice."""
    ecc: bool = False
    lost: bool = False
    recovery: str | None = None
    """What it asks for by its own account; None: it gives none."""
    quiet: bool = False
    """Whether there was no error for a while since the last one."""
    latency_ms: int = Field(default=0, ge=0, le=MAX_LATENCY_MS, alias="latencyMs")
    """How long each operation on this GPU's hardware takes on top."""
    fail_next: int = Field(default=0, ge=0, le=MAX_FAILURES, alias="failNext")
    """How many operations on this GPU's hardware are going to fail from now on."""


class GpuInstance(_Part):
    """A partition: one GPU instance with one compute instance, on memory slices from ``start`` on."""

    profile: str
    start: int = Field(ge=0)
    gi: int = Field(ge=0)


class MigState(_Part):
    """How one GPU is cut at the moment."""

    enabled: bool
    instances: tuple[GpuInstance, ...] = ()


class MpsState(_Part):
    """A control daemon of MPS that runs."""

    gpus: tuple[str, ...]
    devices: tuple[str, ...]
    memory_mib: tuple[int | None, ...] = Field(alias="memoryMiB")
    thread_percentage: int | None = Field(default=None, alias="threadPercentage")
    multi_user: bool = Field(default=False, alias="multiUser")


class Load(_Part):
    """What a fake GPU, or a partition of one, reports of its use."""

    utilisation: int = Field(default=0, ge=0, le=100)
    """Percent."""
    memory: int = Field(default=0, ge=0)
    """Bytes."""
    temperature: int | None = Field(default=None, ge=0, le=MAX_TEMPERATURE)
    """Degrees Celsius; of whole GPUs only. None: as the use makes it."""
    power: int | None = Field(default=None, ge=0, le=MAX_POWER)
    """Watts; of whole GPUs only. None: as the use makes it."""
    throttled: tuple[str, ...] = ()
    """Why its clocks are held down; of whole GPUs only."""


class HardwareState(_Part):
    """Everything that the fake hardware remembers."""

    boot_id: str = Field(alias="bootID")
    profile: str
    devices: dict[str, str]
    """UUID by device name: what ``gpu-dra fault --device`` accepts."""
    gpus: dict[str, GpuState] = {}
    """State by UUID; a GPU without an entry is well."""
    mig: dict[str, MigState] = {}
    """How GPUs are cut, by UUID; one without an entry is as its profile says."""
    time_slice: dict[str, TimeSlice] = Field(default={}, alias="timeSlice")
    """By UUID; Default without an entry."""
    compute_mode: dict[str, ComputeMode] = Field(default={}, alias="computeMode")
    """By UUID; DEFAULT without an entry."""
    mps: dict[str, MpsState] = {}
    """Daemons by id."""
    load: dict[str, Load] = {}
    """By device name, also of partitions that do not exist yet; nothing runs on one without an entry."""

    def in_boot(self, boot_id: str) -> HardwareState:
        """This state as a node sees it now: a reboot mends every GPU, and takes away what was cut by hand."""
        if boot_id == self.boot_id:
            return self
        return HardwareState(boot_id=boot_id, profile=self.profile, devices=self.devices)


Signature = tuple[int, int, int] | None


class StateFile:
    """The file itself. Writers take a lock, readers need none: they see the old or the new content, never a mix."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / STATE_FILE
        self._lock = directory / f".{STATE_FILE}.lock"

    def signature(self) -> Signature:
        """Something cheap that differs after each write; None while there is no file."""
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def read(self) -> HardwareState | None:
        """The present state, None where there is no file.

        Raises:
            DamagedStateError: the file holds something else.
            OSError: it cannot be read.
        """
        try:
            data = files.read(str(self.path))
        except FileNotFoundError:
            return None
        try:
            return HardwareState.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise DamagedStateError(f"{self.path} is damaged: {f'{where}: ' if where else ''}{first['msg']}") from None

    def write(self, state: HardwareState) -> None:
        """Replace the content. Call it under ``locked``. Raises OSError."""
        files.replace(str(self.path), (state.model_dump_json(by_alias=True, indent=1) + "\n").encode())

    def set_aside(self) -> Path:
        """Move a damaged file out of the way, for a person to look at. Raises OSError."""
        damaged = self.path.with_name(f"{STATE_FILE}.damaged")
        self.path.replace(damaged)
        return damaged

    @contextmanager
    def locked(self, timeout: float = 5.0) -> Iterator[None]:
        """Keep other writers out. Raises OSError, and TimeoutError when another one does not finish."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + timeout
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{self._lock} is locked by another process since {timeout:g} s") from None
                    time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)
