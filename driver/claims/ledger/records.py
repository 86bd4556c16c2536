"""Durable state: one small file for each prepared claim, and an index of who holds which GPU.

A record is written to a temporary name and renamed, never synced: it has to outlive this process, not the machine.
After a reboot nothing that it describes exists any more, and the boot id in it says so.

Two instances of the driver may run on a node (rolling upgrade). They meet at one ``flock``, held only while records
change. The lock file carries a stamp that every change renews first; an instance that finds a stamp which is not its
own reads again what the other has changed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.base import files, layout
from driver.base.boot_clock import boot_seconds
from driver.claims.errors import ClaimError, Reason
from driver.claims.ledger.codec import DamagedRecordError, decode, encode
from driver.claims.ledger.ended import EndedRecords
from driver.claims.ledger.holders import Holders
from driver.claims.ledger.lock import FileLock
from driver.claims.ledger.record import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from driver.claims.ledger.damage import SpecHolds
    from driver.claims.ledger.quarantine import Quarantine

logger = logging.getLogger(__name__)

_SUFFIX = ".json"

LOCK_PATIENCE = 30.0
"""Seconds to wait for another instance that is changing records; it needs milliseconds."""


class Records:
    """The directory of records. All methods are quick; none scans the directory unless another instance wrote."""

    def __init__(
        self,
        directory: Path,
        *,
        boot_id: str,
        quarantine: Quarantine,
        by_spec: SpecHolds | None = None,
        changed: Callable[[Record], None] = lambda _record: None,
        clock: Callable[[], int] = time.time_ns,
        boot_clock: Callable[[], float] = boot_seconds,
    ) -> None:
        """Args are what they are called, but for these.

        by_spec: tells what is held where a record is damaged or gone; None: nothing is.
        changed: gets each record that this instance begins or ceases to know, whoever wrote it. On the hot path.
        clock: nanoseconds that go on with each record, finer than a file system's own time stamps.
        boot_clock: seconds since the node booted.
        """
        self._directory = directory
        self._prefix = f"{directory}{os.sep}"
        self.ended = EndedRecords(directory.parent / layout.ENDED, boot_id=boot_id, clock=boot_clock)
        self.lock_path = f"{directory}{os.sep}.lock"
        self._lock = FileLock(self.lock_path)
        self.boot_id = boot_id
        self.quarantine = quarantine
        self._by_spec = by_spec
        self._changed = changed
        self._clock = clock
        self._stamp = b""
        self._seen: dict[str, tuple[int, ...]] = {}
        """What identifies the content of each record file that the index reflects, by UID."""
        self._index: dict[str, Record] = {}
        self.held = Holders()
        """What is held since this boot. Reliable only inside ``exclusive``."""

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._index.values()))

    async def open(self) -> None:
        """Create the directories, remove what a killed process left half-written, and read all records once."""
        self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        self.ended.open()
        await self.tidy()

    async def tidy(self, *, older: float = files.ABANDONED) -> None:
        """Remove what killed instances left half-written; ``older`` in seconds, because others may be writing now.

        The driver's own directory, around that of records, has small files that are written the same way.
        """
        await self.refresh()
        for directory in (self._directory, self._directory.parent):
            try:
                files.tidy(str(directory), older=older, also=[r".+\.tmp"] if directory == self._directory else ())
            except OSError as error:
                logger.warning("%s has leftovers that cannot be removed: %s", directory, error.strerror)

    def hold_by_specs(self) -> bool:
        """Hold what CDI specs name that have no record: it was damaged, or is gone. Whether there were any.

        To be called when more is known of the devices.
        """
        if self._by_spec is None:
            return False
        try:
            found = [self._hold(uid) for uid in sorted(self._by_spec.uids() - self._index.keys())]
        except OSError as error:
            logger.error("what claims without a record hold is not known: %s", error)
            return False
        return any(record is not None for record in found)

    def read(self, uid: str) -> Record | None:
        """The record of a claim from disk, None where there is none. A damaged one is set aside and counts as none."""
        path = self._path(uid)
        try:
            status = files.status(path)
            if status is None:
                return None
            if _identity(status) == self._seen.get(uid):
                return self._index[uid]  # nobody has written it since we last did or looked
            readable = stat.S_ISREG(status.st_mode) and status.st_size <= files.LARGEST
            data = files.read(path) if readable else b""
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ClaimError(Reason.RECORD, f"cannot read record {path}: {error.strerror}") from error
        try:
            if not readable:
                raise DamagedRecordError(f"it is no file of at most {files.LARGEST >> 20} MiB")
            return decode(data, uid=uid)
        except DamagedRecordError as error:
            return self._hold(uid) if self.quarantine.take(path, uid, str(error)) else None

    @contextlib.asynccontextmanager
    async def exclusive(self, *, within: float = LOCK_PATIENCE, look: bool = False) -> AsyncIterator[Changes]:
        """Hold the node-wide lock. The body must not await: everyone on the node waits for it.

        ``look``: for what somebody has done to the files who is no instance, and so leaves no stamp.
        Raises ClaimError when another instance does not let go of it ``within`` so many seconds.
        """
        try:
            descriptor = await self._lock.acquire(within=within)
        except TimeoutError:
            raise ClaimError(
                Reason.RECORD,
                f"another instance of the driver has held {self.lock_path} for {within:.0f} s, which takes "
                "milliseconds; is its process stopped, or the disk stuck?",
            ) from None
        except OSError as error:
            raise ClaimError(Reason.RECORD, f"cannot lock {self.lock_path}: {error.strerror}") from error
        try:
            try:
                stamp = os.pread(descriptor, 64, 0)
                others = not stamp or stamp != self._stamp
                if others or look:
                    lost = self._rescan(others=others)
                    self._stamp = stamp
                    for record in lost:
                        self._rescue(descriptor, record)
            except OSError as error:
                raise ClaimError(Reason.RECORD, f"cannot read {self._directory}: {error.strerror}") from error
            yield Changes(self, descriptor)
        finally:
            os.close(descriptor)

    def knows(self, uid: str) -> bool:
        """Whether there was a record of a claim when we last looked."""
        return uid in self._index

    async def refresh(self, *, within: float = LOCK_PATIENCE, look: bool = False) -> None:
        """Take over what another instance has changed. Raises ClaimError, as ``exclusive`` does."""
        async with self.exclusive(within=within, look=look):
            pass

    def _put(self, descriptor: int, record: Record) -> None:
        path = self._path(record.claim.uid)
        known = self._index.get(record.claim.uid)
        try:
            self._renew_stamp(descriptor)
            if known is not None and known.held_since != record.held_since:
                self.ended.keep(path, known)
            status = files.replace(path, encode(record), mtime_ns=self._clock())
        except OSError as error:
            raise ClaimError(Reason.RECORD, f"cannot write record {path}: {error.strerror}") from error
        self._forget(record.claim.uid)
        self._remember(record, status)

    def _remove(self, descriptor: int, uid: str) -> None:
        path = self._path(uid)
        try:
            self._renew_stamp(descriptor)
            self.ended.move(path, self._index.get(uid))
        except OSError as error:
            raise ClaimError(Reason.RECORD, f"cannot remove record {path}: {error.strerror}") from error
        self._forget(uid)

    def _renew_stamp(self, descriptor: int) -> None:
        # Before the change: if we die between the two, the others only read once more than they need.
        stamp = os.urandom(16).hex().encode()
        os.pwrite(descriptor, stamp, 0)
        self._stamp = stamp

    def _rescan(self, *, others: bool) -> list[Record]:
        """Take over what ``others`` changed, if they did; only files that differ from what we know are read.

        Which records are gone although their claims have not ended: somebody has removed the files.
        """
        found: set[str] = set()
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if not entry.name.endswith(_SUFFIX):
                    continue
                uid = entry.name.removesuffix(_SUFFIX)
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    found.add(uid)
                    if self._seen.get(uid) == _identity(status):
                        continue
                    try:
                        record = self.read(uid)
                    except ClaimError as error:  # what it held when it could be read is still held
                        logger.error("%s; its claim is prepared anew when asked for, once it can be read", error)
                        continue
                    if record is None:
                        self._forget(uid)
                    elif self._index.get(uid) is not record:  # it is where another was written for a damaged one
                        self._forget(uid)
                        self._remember(record, status)
        lost = []
        for uid in self._seen.keys() - found:
            if self._is_lost(uid, others=others):
                lost.append(self._index[uid])
            else:
                self._forget(uid)
        return lost

    def _is_lost(self, uid: str, *, others: bool) -> bool:
        if self._index[uid].boot_id != self.boot_id:
            return False
        if not others:
            return True
        try:
            return self._by_spec is not None and self._by_spec.has(uid)
        except OSError:
            return True  # whoever ends a claim could not have removed the spec either

    def _rescue(self, descriptor: int, record: Record) -> None:
        try:
            self._put(descriptor, record)
        except ClaimError as error:  # it is still held as far as we are concerned
            logger.error("the record of claim %s was removed: %s", record.claim, error)
        else:
            logger.warning("the record of claim %s was removed while it is in use: written again", record.claim)

    def _remember(self, record: Record, status: os.stat_result) -> None:
        uid = record.claim.uid
        self._seen[uid] = _identity(status)
        self._index[uid] = record
        if record.boot_id == self.boot_id:
            self.held.add(record)
            self._changed(record)

    def _forget(self, uid: str) -> None:
        self._seen.pop(uid, None)
        record = self._index.pop(uid, None)
        if record is not None and record.boot_id == self.boot_id:
            self.held.discard(record)
            self._changed(record)

    def _hold(self, uid: str) -> Record | None:
        """Write a record where one was damaged or is gone, so that nobody is given what may still be in use.

        The best is what we still know of it ourselves. Without the lock, because damage is found while reading: it
        never replaces a record that is there.
        """
        path = self._path(uid)
        temporary = f"{self._prefix}{files.temporary_name(f'{uid}{_SUFFIX}')}"
        try:
            if files.status(path) is not None:  # first: a claim that ends loses its spec before its record
                return None
            record = self._index.get(uid)
            if record is None and self._by_spec is not None:
                record = self._by_spec.record(uid, damaged=self.quarantine.by_uid().get(uid, ""))
            if record is None:
                return None
            status = files.write(temporary, encode(record), mtime_ns=self._clock())
            os.link(temporary, path)
        except FileExistsError:
            return None  # prepared anew meanwhile
        except OSError as error:
            logger.error("what claim UID %s holds, whose record was lost, is not protected: %s", uid, error)
            return None
        finally:
            with contextlib.suppress(OSError):
                files.remove(temporary)
        self._forget(uid)
        self._remember(record, status)
        names = ", ".join(device.device for device in record.devices if not device.admin) or "nothing"
        logger.warning("a record was written in the place of the lost one of claim UID %s: it holds %s", uid, names)
        return record

    def _path(self, uid: str) -> str:
        return f"{self._prefix}{uid}{_SUFFIX}"


@dataclass(frozen=True, slots=True)
class Changes:
    """The right to change records, as long as the lock is held."""

    _records: Records
    _descriptor: int

    def put(self, record: Record) -> None:
        """Write a record, replacing what the claim had. Raises ClaimError; then nothing has changed."""
        self._records._put(self._descriptor, record)

    def remove(self, uid: str) -> None:
        """Remove a claim's record, if there is one."""
        self._records._remove(self._descriptor, uid)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """A record is never written in place: another content is another file, with a time stamp of its own.

    Inodes are used again at once, and time stamps of the kernel's own are as coarse as 4 ms before Linux 6.13.
    """
    return status.st_ino, status.st_mtime_ns, status.st_size
