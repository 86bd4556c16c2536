"""Background work that nobody waits for: what fails is said, and tried again after a pause that grows."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from driver.base.backoff import Backoff
from driver.base.repeat_filter import RepeatFilter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

LASTING = 60.0
"""Seconds after which work that fails has not failed at once, so that the next pause is a short one again."""


async def supervised(
    work: Callable[[], Awaitable[None]],
    *,
    name: str,
    fatal: tuple[type[Exception], ...] = (),
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Work until it is done or cancelled, whatever it raises but for ``fatal`` errors.

    An error gets one line with its traceback when it is new.
    """
    backoff, repeats, failures = Backoff(multiplier=0.5, longest=60), RepeatFilter(), 0
    while True:
        started = clock()
        try:
            return await work()
        except Exception as error:
            cause = root_cause(error)
            if isinstance(cause, fatal):
                raise
            if repeats.is_news("", f"{type(cause).__name__}: {cause}"):
                logger.error("%s failed unexpectedly, trying again: %r", name, cause, exc_info=error)
            failures = 1 if clock() - started >= LASTING else failures + 1
        await sleep(backoff.after(failures, cause))


def root_cause(error: BaseException) -> BaseException:
    """The first error of a group of tasks."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
