"""How long to wait before the next try, for loops that go on for ever."""

from __future__ import annotations

import tenacity


class Backoff:
    """Seconds to wait after so many failures in a row: exponential, with jitter, never above ``longest``."""

    def __init__(self, *, multiplier: float, longest: float) -> None:
        self._wait = tenacity.wait_random_exponential(multiplier=multiplier, max=longest)
        self._state = tenacity.RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]

    def after(self, failures: int) -> float:
        """The pause after this many failures; 1 for the first."""
        self._state.attempt_number = failures
        return self._wait(self._state)
