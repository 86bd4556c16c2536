"""What Events say of a claim, its pods and its node, as far as they may be read."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.kube import ApiError, check_list

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from driver.kube import Api

NEWEST = 50
"""Events of one object that are kept."""
SUBJECTS = 8
"""Objects that are asked about at most."""
LISTED = 500
"""Events of one object that are read at most; the server has them by name, not by age."""
FRESH = 4.0
"""Seconds for which an answer is good, whoever asks."""
AT_ONCE = 4
REMEMBERED = 100

Subject = tuple[str, str, str]
"""Namespace, kind and name of what an Event is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What happened."""

    subject: Subject
    at: str
    """As the API has it; empty where it does not say when."""
    reason: str
    message: str
    warning: bool
    count: int


class Events:
    """Asked for when a reader looks; few at once, and the same not again and again."""

    def __init__(self, api: Api, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._known: dict[Subject, tuple[float, tuple[Event, ...] | ApiError]] = {}

    async def about(self, subjects: Iterable[Subject]) -> tuple[tuple[Event, ...], ApiError | None]:
        """The newest first, and why others cannot be read, if so."""
        answers = await asyncio.gather(*(self._of(subject) for subject in list(subjects)[:SUBJECTS]))
        found = [event for answer in answers if not isinstance(answer, ApiError) for event in answer]
        error = next((answer for answer in answers if isinstance(answer, ApiError)), None)
        return tuple(sorted(found, key=lambda event: event.at, reverse=True)), error

    async def _of(self, subject: Subject) -> tuple[Event, ...] | ApiError:
        async with self._turns:
            known = self._known.get(subject)
            if known is not None and self._clock() - known[0] < FRESH:
                return known[1]
            answer = await self._read(subject)
            self._known.pop(subject, None)
            self._known[subject] = (self._clock(), answer)
            if len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
            return answer

    async def _read(self, subject: Subject) -> tuple[Event, ...] | ApiError:
        namespace, kind, name = subject
        path = f"/api/v1/namespaces/{namespace}/events"
        selector = f"involvedObject.kind={kind},involvedObject.name={name}"
        try:
            answer = await self._api.get(path, {"fieldSelector": selector, "limit": LISTED}, timeout=10)
            items = check_list(answer, f"GET {path}")["items"]
        except ApiError as error:
            return error
        found = [event for item in items if (event := read_event(item, subject)) is not None]
        return tuple(sorted(found, key=lambda event: event.at, reverse=True)[:NEWEST])


def read_event(obj: Any, subject: Subject) -> Event | None:
    """An Event of either kind of writer; None for what nobody could read. Pure."""
    if not isinstance(obj, dict):
        return None
    series = obj.get("series")
    times = [obj.get(key) for key in ("lastTimestamp", "eventTime", "firstTimestamp")]
    times.insert(0, series.get("lastObservedTime") if isinstance(series, dict) else None)
    count = obj.get("count")
    return Event(
        subject=subject,
        at=next((moment for moment in times if isinstance(moment, str)), ""),
        reason=str(obj.get("reason") or ""),
        message=str(obj.get("message") or "")[:1024],
        warning=obj.get("type") == "Warning",
        count=count if isinstance(count, int) else 1,
    )
