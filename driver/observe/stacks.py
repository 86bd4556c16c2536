"""Where everything stands, for somebody who asks why nothing goes on."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator

logger = logging.getLogger(__name__)


def log_stacks_on(number: signal.Signals) -> None:
    """At this signal, log where each task waits, and write each thread's stack to stderr, even if the loop hangs.

    To be called in the loop.
    """
    asyncio.get_running_loop().add_signal_handler(number, log_tasks)
    # After the loop's, which it calls in its turn.
    faulthandler.register(number, file=sys.stderr, all_threads=True, chain=True)


def log_tasks() -> None:
    """A line for each task: what it waits for, from the outside in."""
    for task in sorted(asyncio.all_tasks(), key=asyncio.Task.get_name):
        logger.warning("task", extra={"task": task.get_name(), "waits_in": " > ".join(_chain(task.get_coro()))})


def _chain(awaited: Any) -> Iterator[str]:
    """The coroutines and generators that wait for one another. What is written in C has no frame, and ends it."""
    while awaited is not None:
        for kind, inner in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                yield f"{frame.f_code.co_qualname} ({frame.f_globals.get('__name__', '?')}:{frame.f_lineno})"
                awaited = getattr(awaited, f"{kind}_{inner}", None)
                break
        else:
            return
