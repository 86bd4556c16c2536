"""Waiting for what happens elsewhere: a condition and much patience, never a fixed time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 90.0
"""Seconds until what was expected counts as not happening: no machine is as slow as that, however busy it is."""


async def eventually(look: Callable[[], T | Awaitable[T]], *, within: float = PATIENCE, what: str = "") -> T:
    """The first true answer of ``look``. Raises AssertionError with the last one when there is none in time.

    ``within`` is for waits that are longer by nature, not for saying how quick something should be.
    """
    last: object = None
    try:
        async with asyncio.timeout(within):
            while True:
                answer = look()
                last = await answer if inspect.isawaitable(answer) else answer
                if last:
                    return last  # type: ignore[return-value]
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(
            f"not within {within} s: {what or inspect.getsource(look).strip()}; last: {last!r}"
        ) from None


def until(look: Callable[[], object], *, what: str = "") -> None:
    """Wait in a thread's own time until ``look`` is true, for tests without a loop."""
    end = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < end, f"not within {PATIENCE} s: {what or inspect.getsource(look).strip()}"
        time.sleep(0.005)


async def always(look: Callable[[], T | Awaitable[T]], *, during: float) -> None:
    """Raise AssertionError as soon as ``look`` is not true: for what must not happen, and so has no event."""
    end = asyncio.get_running_loop().time() + during
    while asyncio.get_running_loop().time() < end:
        answer = look()
        assert await answer if inspect.isawaitable(answer) else answer, inspect.getsource(look).strip()
        await asyncio.sleep(0.05)
