"""The API server's time, from the Date of its answers: this machine's own clock may say anything."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

STEP = 1500
"""Milliseconds that a Date may be behind without the server's clock having been set back: it has whole seconds."""


class ServerClock:
    """Runs on from what was heard by a clock that only measures how long something takes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._offset: int | None = None

    def hear(self, date: str | None) -> None:
        """A Date header: the time was at least this when the answer was sent, and less than a second more."""
        try:
            said = round(parsedate_to_datetime(date or "").timestamp() * 1000)
        except (ValueError, TypeError, OverflowError):
            return
        offset = said - round(self._clock() * 1000)
        if self._offset is None or offset > self._offset or offset < self._offset - STEP:
            self._offset = offset

    def now(self) -> int | None:
        """Milliseconds since 1970; None before the first answer."""
        return None if self._offset is None else self._offset + round(self._clock() * 1000)
