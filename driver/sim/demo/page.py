"""The cluster as a page for the reader's browser: ``gpu-dra top --web``, as anybody would start it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

from driver.sim.demo.workloads import StepError
from driver.sim.process import gpu_dra

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from driver.sim.cluster import Cluster

STARTING = 30.0
"""Seconds."""


@contextlib.asynccontextmanager
async def page_of(cluster: Cluster) -> AsyncIterator[str]:
    """The page's address while it is served. Raises StepError if it does not start."""
    log_path = cluster.root / "page.log"
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *gpu_dra("top", "--web", "--port=0", f"--kubeconfig={cluster.kubeconfig}"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # a terminal's Ctrl-C is for us, and we end it
        )
    try:
        async with asyncio.timeout(STARTING):
            said = await process.stdout.readline() if process.stdout else b""
        if not said:
            raise StepError(
                f"the page has not started: {log_path.read_text(encoding='utf-8', errors='replace').strip()}"
            )
        yield said.decode().split()[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)  # it has nothing to put in order
        await process.wait()
