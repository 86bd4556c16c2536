"""What publishing costs: writes to the API server, CPU time, bytes; a node with 16 GPUs, each cut any way."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from driver.kube.client import RESOURCE
from tests.bench import world
from tests.bench.stats import Case, Stats, Target
from tests.eventually import eventually

if TYPE_CHECKING:
    from driver.kube.client import Api
    from tests.bench.cases import Bench
    from tests.bench.world import ApiProcess, Node

GPUS = 16
QUIET = 1.5
"""Seconds without a write after which publishing counts as done."""


async def slices(bench: Bench) -> list[Case]:
    """Start, restart, a taint on one GPU, taints on all at once."""
    profile = world.profile(bench.directory, GPUS)
    async with (
        world.api_process(bench.directory, []) as server,
        world.client(server) as api,
        world.node(server, f"--devices=fake:{profile}", "--partitioning=dynamic") as node,
    ):
        await _quiet(server)
        first = await server.slice_writes()
        published = await _published(api)
        sizes = [float(len(json.dumps(piece, separators=(",", ":")))) for piece in published]

        await node.kubelet.close()
        await node.driver.stop()
        await node.driver.start()
        await node.connect()
        await _quiet(server)
        restart = await server.slice_writes() - first

        one, one_ms = await _taint(node, server, api, ["gpu-3"])
        every, every_ms = await _taint(node, server, api, [f"gpu-{index}" for index in range(4, GPUS)])
    return [
        Case(key="slices.first_start", unit="writes", facts={"writes": first, "slices": len(published)}),
        Case(
            key="slices.restart",
            unit="writes",
            facts={"writes": restart},
            targets=[Target(what="writes", value=restart, limit=0)],
        ),
        Case(
            key="slices.one_taint",
            unit="writes",
            facts={"writes": one, "cpu_ms": one_ms},
            targets=[Target(what="writes", value=one, limit=1)],
        ),
        Case(key="slices.all_taints", unit="writes", facts={"writes": every, "cpu_ms": every_ms}),
        Case(key="slices.reconcile_cpu_ms", facts={"one_taint": one_ms, "all_taints": every_ms}),
        Case(key="slices.bytes", unit="bytes", stats=Stats.of(sizes, seconds=1.0), facts={"total": int(sum(sizes))}),
    ]


async def _taint(node: Node, server: ApiProcess, api: Api, gpus: list[str]) -> tuple[int, float]:
    """Break GPUs. Answers writes, and the CPU time that the driver took beyond what it takes when nothing happens."""
    await asyncio.sleep(QUIET)
    idle = node.cpu_ms()
    await asyncio.sleep(QUIET)
    idle_rate = (node.cpu_ms() - idle) / QUIET
    before, cpu = await server.slice_writes(), node.cpu_ms()
    clock = asyncio.get_running_loop().time
    started = clock()
    await asyncio.gather(*(node.fault(f"--device={gpu}", "--lost") for gpu in gpus))
    wanted = set(gpus)

    async def tainted() -> bool:
        return wanted <= {
            device["name"]
            for piece in await _published(api)
            for device in piece["spec"].get("devices") or []
            if device.get("taints")
        }

    await eventually(tainted, within=20, what="all are tainted")
    await _quiet(server)
    took = node.cpu_ms() - cpu - idle_rate * (clock() - started)
    return await server.slice_writes() - before, max(took, 0.0)


async def _quiet(server: ApiProcess) -> None:
    """Wait until nothing has been written for a while."""
    seen = -1
    while (now := await server.slice_writes()) != seen:
        seen = now
        await asyncio.sleep(QUIET)


async def _published(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.get(f"{RESOURCE}/resourceslices"))["items"]
    return found
