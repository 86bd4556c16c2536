"""Signals that tell a process to end."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class ToldToEndError(Exception):
    """A signal came before the work was done; ``number`` says which."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def ending() -> list[signal.Signals]:
    """SIGTERM, and Ctrl-C and a hangup unless we were started with them ignored, as a shell's ``&`` and nohup do it."""
    asked = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    return [signal.SIGTERM, *asked]


async def until_told(work: Coroutine[Any, Any, T]) -> T:
    """What the work answers. Raises ToldToEndError when a signal has cancelled it, and it has cleaned up."""
    told: list[signal.Signals] = []
    task, loop, numbers = asyncio.create_task(work), asyncio.get_running_loop(), ending()

    def end(number: signal.Signals) -> None:
        told.append(number)
        for other in numbers:  # whoever asks again does not want to wait
            loop.remove_signal_handler(other)
        task.cancel()

    for number in numbers:
        loop.add_signal_handler(number, end, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not told:
            raise
        raise ToldToEndError(told[0]) from None
