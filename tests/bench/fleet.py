"""What ``gpu-dra top`` costs on a cluster of 1,000 nodes, each with 8 GPUs that may be cut any way."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

from driver.sim.process import gpu_dra
from tests.bench import world
from tests.bench.fleet_server import HELD
from tests.bench.stats import Case, Target, memory_mib

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.cases import Bench

NODES = 1000
DEVICES = 208
"""Of a node."""


async def fleet(bench: Bench) -> list[Case]:
    """The first answer, and an update of what is watched."""
    kubeconfig = bench.directory / "fleet.kubeconfig"
    async with world.module("tests.bench.fleet_server", str(kubeconfig), str(NODES)) as server:
        first = await asyncio.to_thread(_first, kubeconfig)
        update, lists = await _update(server, kubeconfig)
    facts = {**first, "devices": NODES * DEVICES, "claims": NODES * len(HELD)}
    return [
        Case(
            key="fleet.first",
            unit="s",
            facts=facts,
            targets=[
                Target(what="s to the first answer", value=first["seconds"], limit=20),
                Target(what="MiB at most", value=first["mib"], limit=500),
            ],
        ),
        Case(
            key="fleet.update",
            unit="s",
            facts={"seconds": update},
            targets=[
                Target(what="s from a change to what is shown", value=update, limit=2),
                Target(what="lists", value=lists, limit=0),
            ],
        ),
    ]


def _first(kubeconfig: Path) -> dict[str, float]:
    """Seconds, CPU seconds and the most memory of ``top`` from its start to its end."""
    started = time.perf_counter()
    command = [*gpu_dra("top"), f"--kubeconfig={kubeconfig}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        mib, ended = 0.0, 0
        while not ended:
            mib = memory_mib(process.pid, "VmHWM") or mib
            time.sleep(0.02)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"top has ended with {process.returncode}")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "mib": mib,
    }


async def _update(server: asyncio.subprocess.Process, kubeconfig: Path) -> tuple[float, int]:
    """Seconds from a claim's allocation until it is shown, and how many lists were asked for meanwhile."""
    watching = await asyncio.create_subprocess_exec(
        *gpu_dra("top"), f"--kubeconfig={kubeconfig}", "--watch", stdout=asyncio.subprocess.PIPE, limit=1 << 24
    )
    held = NODES * len(HELD)
    try:
        await _until(watching, f"team-a     {held} ")
        before = (await _ask(server, "lists"))["lists"]
        started = time.perf_counter()
        await _ask(server, "change")
        await _until(watching, f"team-a     {held + 1} ")
        took = time.perf_counter() - started
        return took, (await _ask(server, "lists"))["lists"] - before
    finally:
        watching.kill()
        await watching.wait()


async def _until(process: asyncio.subprocess.Process, beginning: str) -> None:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        if line.decode().startswith(beginning):
            return
    raise RuntimeError("top has ended")


async def _ask(server: asyncio.subprocess.Process, word: str) -> dict[str, Any]:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{word}\n".encode())
    answer: dict[str, Any] = json.loads(await server.stdout.readline())
    return answer
