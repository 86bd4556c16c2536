"""How long devices were held, by namespace and kind: counters that outlive the process, by a clock that nobody sets.

Everything is by the clock of the present boot, and begins anew with the next one. What claims hold now is computed
from their records when somebody asks; what ended ones held is added up in one file, now and then and not when they end:
until then their records lie in the directory of ended ones. Whoever of several instances adds up does it under the
ledger's lock, and notes with the sums which tenures are in them: it may be killed before it has removed their files.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from driver.base import files
from driver.base.boot_clock import boot_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from driver.claims import PreparedDevice, Record, Records, Tenure

logger = logging.getLogger(__name__)

MOST_LINES = 200
"""Lines that are kept; beyond that, those go of which nothing is held, longest ended first."""
_NOISE = 0.001
"""Seconds below which sums differ only by how they were added."""

Key = tuple[str, float | None]
"""A claim's UID and since when it holds what it holds."""


class Line(NamedTuple):
    """What is counted together."""

    namespace: str
    type: str
    product: str
    profile: str


class Spent(NamedTuple):
    """How long that was held."""

    device_seconds: float = 0.0
    gpu_seconds: float = 0.0
    """By weight."""
    last: float = 0.0
    """Seconds of the boot's clock: until when."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """What ended tenures have come to."""

    lines: Mapping[Line, Spent] = field(default_factory=dict)
    settled: frozenset[Key] = frozenset()
    """Terms that were added last, and are not to be added again."""


class Accounts:
    """The node's counters. ``totals`` may be called from any thread, all else belongs to the loop."""

    def __init__(self, records: Records, path: Path, *, clock: Callable[[], float] = boot_seconds) -> None:
        self._records = records
        self._path = str(path)
        self._boot_id = records.boot_id
        self._clock = clock
        self._book: Book | None = None
        self._seen: tuple[int, ...] | None = None
        """What tells the file that was read from one that another instance has written since."""
        self._shown: Mapping[Line, Spent] = {}
        """What was last told: counters must not go back, also where another instance ended a claim before we saw it."""

    async def settle(self) -> None:
        """Add up what has ended since the last time. Raises ClaimError, and OSError where the disk does not take it."""
        if self._book is not None and self._identity() == self._seen and not self._records.ended.any():
            return
        async with self._records.exclusive():
            self._settle()

    def rest(self) -> None:
        """Another instance tells: what is known here grows old, and is not told before the next ``settle``."""
        self._book = None

    def totals(self) -> Mapping[Line, Spent]:
        """Everything until now; nothing before the first ``settle``."""
        held = tuple(self._records)  # before what has ended: a tenure that ends meanwhile is in both, not in neither
        recent = dict(self._records.ended.recent)
        book = self._book
        if book is None:
            return {}
        tenures = self._tenures(held, recent.values(), book.settled)
        self._shown = _at_least(add_up(book.lines, tenures), self._shown)
        return self._shown

    def _settle(self) -> None:
        book = read_book(self._path, boot_id=self._boot_id)
        held = {(record.claim.uid, record.held_since) for record in self._records}
        # A tenure that goes on may have a file too, where a process was killed before it replaced the record.
        found = {name: tenure for name, tenure in self._records.ended.read().items() if tenure.key not in held}
        keys = frozenset(tenure.key for tenure in found.values())
        fresh = last_of(tenure for tenure in found.values() if tenure.key not in book.settled)
        lines = add_up(book.lines, ((tenure.record, tenure.ended) for tenure in fresh))
        if found:
            lines = _most(self._with_what_was_shown(lines), self._records)
            book = Book(lines=lines, settled=keys)
            files.replace(self._path, encode(book, boot_id=self._boot_id), mode=0o640)
        self._book, self._seen = book, self._identity()
        self._records.ended.remove(found)
        self._shown = {line: spent for line, spent in self._shown.items() if line in book.lines or not found}

    def _identity(self) -> tuple[int, ...] | None:
        status = files.status(self._path)
        return None if status is None else (status.st_ino, status.st_mtime_ns, status.st_size)

    def _with_what_was_shown(self, lines: Mapping[Line, Spent]) -> dict[Line, Spent]:
        """The next process must not begin below what this one has told."""
        now = add_up(lines, self._tenures(tuple(self._records), (), frozenset()))
        result = dict(lines)
        for line, shown in self._shown.items():
            have, told = result.get(line, Spent()), now.get(line, Spent())
            lacking = [max(a - b, 0.0) for a, b in zip(shown[:2], told[:2], strict=True)]
            if max(lacking) > _NOISE:
                result[line] = Spent(
                    have.device_seconds + lacking[0], have.gpu_seconds + lacking[1], max(have.last, shown.last)
                )
        return result

    def _tenures(
        self, held: Iterable[Record], recent: Iterable[Tenure], settled: frozenset[Key]
    ) -> Iterator[tuple[Record, float]]:
        """Everything that is not in the book, each once, with its end."""
        now, known = self._clock(), set(settled)
        for record in held:  # first: of a record that could not be replaced the end was noted in vain
            key = (record.claim.uid, record.held_since)
            if record.boot_id == self._boot_id and key not in known:
                known.add(key)
                yield record, now
        for tenure in recent:
            if tenure.key not in known:
                known.add(tenure.key)
                yield tenure.record, tenure.ended


def add_up(lines: Mapping[Line, Spent], tenures: Iterable[tuple[Record, float]]) -> dict[Line, Spent]:
    """Sums with these tenures added: records with their ends. Pure."""
    result = dict(lines)
    for record, end in tenures:
        if record.held_since is None:
            continue
        seconds = max(end - record.held_since, 0.0)
        for device in record.devices:
            if device.admin:
                continue
            line = line_of(record, device)
            before = result.get(line, Spent())
            result[line] = Spent(
                before.device_seconds + seconds,
                before.gpu_seconds + seconds * (device.weight or 0.0),
                max(before.last, end),
            )
    return result


def line_of(record: Record, device: PreparedDevice) -> Line:
    """Where a device of a claim is counted."""
    made = device.partition or device.placement
    return Line(record.claim.namespace, "gpu" if device.whole else "mig", device.product, made.profile if made else "")


def last_of(tenures: Iterable[Tenure]) -> list[Tenure]:
    """One for each tenure that there are several of, that with the latest end. Pure."""
    latest: dict[Key, Tenure] = {}
    for tenure in tenures:
        if tenure.key not in latest or latest[tenure.key].ended < tenure.ended:
            latest[tenure.key] = tenure
    return list(latest.values())


def encode(book: Book, *, boot_id: str) -> bytes:
    """The file's content."""
    lines = [[*line, *spent] for line, spent in book.lines.items()]
    return json.dumps(
        {"schema": 1, "bootID": boot_id, "lines": lines, "settled": sorted(book.settled, key=str)}
    ).encode()


def read_book(path: str, *, boot_id: str) -> Book:
    """What is in the file; an empty book where that is nothing of this boot, or damaged. Raises OSError."""
    try:
        raw = files.parse(files.read(path))
        if raw["bootID"] != boot_id:
            return Book()
        lines = {Line(*map(str, line[:4])): Spent(*map(float, line[4:7])) for line in raw["lines"] if len(line) == 7}
        return Book(lines=lines, settled=frozenset((str(uid), float(since)) for uid, since in raw["settled"]))
    except FileNotFoundError:
        return Book()
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged, GPU time of ended claims is counted from here on: %r", path, error)
        return Book()


def _at_least(now: dict[Line, Spent], shown: Mapping[Line, Spent]) -> dict[Line, Spent]:
    for line, before in shown.items():
        pairs = zip(now.get(line, Spent()), before, strict=True)
        now[line] = Spent(*(max(pair) for pair in pairs))
    return now


def _most(lines: dict[Line, Spent], held: Iterable[Record]) -> dict[Line, Spent]:
    if len(lines) <= MOST_LINES:
        return lines
    on = {line_of(record, device) for record in held for device in record.devices}
    kept = sorted(lines, key=lambda line: (line not in on, -lines[line].last))[:MOST_LINES]
    return {line: lines[line] for line in kept}
