"""A runtime whose containers are no processes: CDI devices are resolved as always, then the container only waits.

A container whose command is ``sleep N`` succeeds after so many seconds; any other one runs until it is stopped.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from driver.sim.kubelet.containers import Container, Exit, Launch, Runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

TERMINATED = 143


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleeper(Container):
    """Ends at its time, or when it is stopped."""

    seconds: float
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def running(self) -> bool:
        return not self.stopped.is_set() and time.time() < self.started + self.seconds

    async def wait(self) -> Exit:
        left = self.started + self.seconds - time.time()
        try:
            await asyncio.wait_for(self.stopped.wait(), left)
        except TimeoutError:
            return Exit(code=0, finished=time.time())
        return Exit(code=TERMINATED, finished=time.time())

    async def stop(self, grace: float) -> Exit:
        self.stopped.set()
        return await self.wait()


class Sleepers(Runtime):
    """Has no processes, and so nothing that a later kubelet could adopt."""

    def _spawn(self, uid: str, identity: str, launch: Launch, argv: Sequence[str]) -> Container:
        command, *words = launch.argv
        return Sleeper(
            id=identity,
            name=launch.name,
            attempt=launch.attempt,
            pid=0,
            ticks=0,
            started=time.time(),
            log="",
            exit_file="",
            cdi_devices=tuple(launch.cdi_devices),
            seconds=float(words[0]) if command == "sleep" and words else float("inf"),
        )
