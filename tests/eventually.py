"""Waiting for what happens elsewhere: a condition and a deadline, never a fixed time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(look: Callable[[], T | Awaitable[T]], *, within: float = 10.0, what: str = "") -> T:
    """The first true answer of ``look``. Raises AssertionError with the last one when there is none in time."""
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


async def always(look: Callable[[], T | Awaitable[T]], *, during: float) -> None:
    """Raise AssertionError as soon as ``look`` is not true: for what must not happen, and so has no event."""
    end = asyncio.get_running_loop().time() + during
    while asyncio.get_running_loop().time() < end:
        answer = look()
        assert await answer if inspect.isawaitable(answer) else answer, inspect.getsource(look).strip()
        await asyncio.sleep(0.05)
