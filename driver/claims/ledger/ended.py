"""Records of claims that have ended, until somebody has accounted for how long they held what.

A record that goes is not removed but renamed, to a name that says when: one system call as before, and the process can
be killed on either side of it. Only of the present boot; who accounts removes them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from driver.base import files
from driver.claims.ledger.codec import DamagedRecordError, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from driver.claims.ledger.record import Record

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<uid>[A-Za-z0-9-]{1,63})\.(?P<end>[0-9]{1,15})\.json")
MANY = 100
MOST = 1000
"""Records that are kept if nobody can account for them, because the disk is full for instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenure:
    """A claim from its beginning to its end."""

    record: Record
    ended: float
    """Seconds of the boot's clock."""

    @property
    def key(self) -> tuple[str, float | None]:
        """What tells one holding from another of the same claim."""
        return self.record.claim.uid, self.record.held_since


class EndedRecords:
    """The directory of records that have ended."""

    def __init__(self, directory: Path, *, boot_id: str, clock: Callable[[], float]) -> None:
        self._directory = directory
        self._prefix = f"{directory}{os.sep}"
        self._boot_id = boot_id
        self._clock = clock
        self.recent: dict[str, Tenure] = {}
        """By file name: what this instance has ended, until it is accounted for. Other threads take copies of it."""
        self._unfiled: set[str] = set()
        """Names in ``recent`` that only this process knows: the disk did not take them."""

    def open(self) -> None:
        """Make the directory. Raises OSError."""
        self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)

    def move(self, path: str, record: Record | None) -> None:
        """Take a record's file out of the way; removes it where it does not count. Raises OSError."""
        if self._counts(record) and len(self.recent) < MOST:
            name = self._note(record)
            try:
                files.rename(path, self._prefix + name)
            except OSError:  # a claim's end is worth more than its account
                self._unfiled.add(name)
            else:
                return
        files.remove(path)

    def keep(self, path: str, record: Record | None) -> None:
        """Note what a record said that is about to be replaced by another one of its claim."""
        if self._counts(record) and len(self.recent) < MOST:
            name = self._note(record)
            try:
                os.link(path, self._prefix + name)
            except OSError:
                self._unfiled.add(name)

    @property
    def are_many(self) -> bool:
        """Whether so many claims have ended that they should be accounted for now."""
        return len(self.recent) >= MANY

    def any(self) -> bool:
        """Whether any claim has ended that is not accounted for, whoever ended it. Raises OSError."""
        if self.recent:
            return True
        try:
            with os.scandir(self._directory) as entries:
                return any(True for _ in entries)
        except FileNotFoundError:
            return False

    def read(self) -> dict[str, Tenure]:
        """All there are, by file name; what is not understood, or is of an earlier boot, is removed. Raises OSError."""
        names: list[str] = []
        with contextlib.suppress(FileNotFoundError):
            names = sorted(os.listdir(self._directory))  # noqa: PTH208
        # Whatever has no file any more another instance has accounted for.
        there = self._unfiled.union(names)
        self.recent = {name: tenure for name, tenure in self.recent.items() if name in there}
        found = dict(self.recent)
        for name in names:
            if name in found or (match := _NAME.fullmatch(name)) is None:
                continue
            record = self._read(name, match["uid"])
            if self._counts(record) and len(found) < MOST:
                found[name] = Tenure(record=record, ended=int(match["end"]) / 1000)
            else:
                self.remove([name])
        return found

    def remove(self, names: Iterable[str]) -> None:
        """They are accounted for. Raises OSError."""
        for name in names:
            files.remove(self._prefix + name)
            self.recent.pop(name, None)
            self._unfiled.discard(name)

    def _read(self, name: str, uid: str) -> Record | None:
        try:
            return decode(files.read(self._prefix + name), uid=uid)
        except (DamagedRecordError, OSError) as error:
            logger.warning("%s%s is not accounted for: %s", self._prefix, name, error)
            return None

    def _counts(self, record: Record | None) -> TypeGuard[Record]:
        return record is not None and record.held_since is not None and record.boot_id == self._boot_id

    def _note(self, record: Record) -> str:
        now = self._clock()
        name = f"{record.claim.uid}.{round(now * 1000)}.json"
        self.recent[name] = Tenure(record=record, ended=now)
        return name
