"""What is tried again, and how long after."""

from __future__ import annotations

import random

import tenacity

LONGEST_ASKED = 60.0
"""Seconds that a server may ask for: a Retry-After of a day, from whatever stands in between, is no plan."""


class Backoff:
    """Seconds to wait after so many failures in a row: exponential, with jitter, never above ``longest`` by itself.

    A server that asks for more gets it, up to a minute, and up to half as much beside it: it says the same to all whom
    it refuses, and they must not come back together.
    """

    def __init__(self, *, multiplier: float, longest: float) -> None:
        self._wait = tenacity.wait_random_exponential(multiplier=multiplier, max=longest)
        self._state = tenacity.RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]

    def after(self, failures: int, error: BaseException | None) -> float:
        """The pause after this many failures, 1 for the first; ``error`` is the last of them."""
        self._state.attempt_number = failures
        asked = min(getattr(error, "retry_after", None) or 0, LONGEST_ASKED)
        return max(self._wait(self._state), asked * random.uniform(1, 1.5))  # noqa: S311

    def __call__(self, state: tenacity.RetryCallState) -> float:
        """The same for tenacity."""
        return self.after(state.attempt_number, state.outcome.exception() if state.outcome else None)
