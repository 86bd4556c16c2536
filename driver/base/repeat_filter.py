"""Errors of what is tried over and over: each is worth a line when it is new, and one now and then while it lasts."""

from __future__ import annotations

import time

AGAIN_SECONDS = 600.0


class RepeatFilter:
    """Remembers what was last said of which thing, so that it is not said over and over."""

    def __init__(self, *, again_seconds: float = AGAIN_SECONDS) -> None:
        self._again_seconds = again_seconds
        self._last: dict[str, tuple[str, float]] = {}

    def is_news(self, about: str, words: str) -> bool:
        """Whether to say so: it is not what was said last, or that was long ago. Counts as said from then on."""
        before, when = self._last.get(about, ("", 0.0))
        now = time.monotonic()
        if words == before and now - when < self._again_seconds:
            return False
        self._last[about] = (words, now)
        return True

    def over(self, about: str) -> bool:
        """It works again; whether anything was said before."""
        return self._last.pop(about, None) is not None
