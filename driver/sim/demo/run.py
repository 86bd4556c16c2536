"""The demo from its beginning to its end: the last chapter, something that is not true, or Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

from driver.base.signals import ToldToEndError, until_told
from driver.kube import ApiError
from driver.sim.apiserver import V1_37
from driver.sim.cluster import Cluster, ClusterError
from driver.sim.demo import place
from driver.sim.demo.chapters import Story
from driver.sim.demo.next_steps import say_how_to_use, say_what_next
from driver.sim.demo.node import Node
from driver.sim.demo.page import page_of
from driver.sim.demo.screen import Screen, as_json
from driver.sim.demo.workloads import NotSeenError, StepError, Workloads
from driver.sim.kubelet import Options

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

FAILURES = (StepError, NotSeenError, ApiError, ClusterError, TimeoutError, OSError)


def run_demo(*, devices: str, json: bool) -> int:
    """Tell the whole story. Returns 0 if everything did what it says, else 1; after Ctrl-C 130."""
    screen = Screen(quiet=json)
    return asyncio.run(_until_signal(_tell(screen, devices, json=json), screen))


def serve(*, devices: str) -> int:
    """Bring up the cluster with a driver and keep both until Ctrl-C."""
    screen = Screen(quiet=False)
    status = asyncio.run(_until_signal(_serve(screen, devices), screen))
    return 0 if status > 128 else status  # a signal is how it is meant to end


async def _until_signal(telling: Coroutine[Any, Any, int], screen: Screen) -> int:
    """The status of the story, or 128 and the signal that ended it, when everything has been cleaned up."""
    try:
        with screen:
            return await until_told(telling)
    except ToldToEndError as told:
        screen.goodbye("Goodbye: the driver and the cluster have ended.")
        return 128 + told.number


async def _tell(screen: Screen, devices: str, *, json: bool) -> int:
    screen.title(
        "gpu-dra demo", f"A Kubernetes cluster in one process, and a real driver beside it (devices: {devices})."
    )
    started = time.monotonic()
    outcome: dict[str, Any] = {"ok": False, "devices": devices}
    try:
        async with _stage(screen, devices) as story:
            node = story.node
            for title, chapter in story.chapters().items():
                shown, begun = screen.chapter(title), time.monotonic()
                await node.cluster.or_failure(node.while_drivers_live(chapter()))
                shown.seconds = round(time.monotonic() - begun, 3)
            outcome["prepare_ms"] = node.latencies("prepared claim")
            outcome["unprepare_ms"] = node.latencies("unprepared claim")
            outcome["failed_prepares"] = node.failures()
        outcome["ok"] = True
    except FAILURES as error:
        outcome["error"] = str(error) or type(error).__name__
        screen.failed("stopped here", outcome["error"])
    outcome["seconds"] = round(time.monotonic() - started, 1)
    if json:
        print(as_json(outcome, screen.chapters))  # noqa: T201 - this is the output
    else:
        screen.summary(_facts(outcome), ok=outcome["ok"])
        if outcome["ok"]:
            say_what_next(screen)
    return 0 if outcome["ok"] else 1


async def _serve(screen: Screen, devices: str) -> int:
    screen.title(
        "gpu-dra demo --serve", f"A Kubernetes cluster in one process, and a real driver beside it ({devices})."
    )
    try:
        async with _stage(screen, devices) as story:
            node = story.node
            title, chapter = next(iter(story.chapters().items()))
            screen.chapter(title)
            await node.cluster.or_failure(node.while_drivers_live(chapter()))
            classes = [obj for example in story.examples for obj in example.of_kind("DeviceClass")]
            await story.workloads.apply(classes)
            async with page_of(node.cluster) as page:
                screen.rest()
                say_how_to_use(screen, node, page=page)
                await node.cluster.or_failure(node.while_drivers_live(_until_cancelled()))
    except FAILURES as error:
        screen.failed("stopped here", str(error) or type(error).__name__)
    return 1


async def _until_cancelled() -> None:
    await asyncio.get_running_loop().create_future()


@contextlib.asynccontextmanager
async def _stage(screen: Screen, devices: str) -> AsyncIterator[Story]:
    root = place.new_root(place.directories(os.environ))
    # What the cluster's parts have to say must not fall between the lines of the story.
    logging.basicConfig(filename=root / "cluster.log", level=logging.INFO, force=True)
    screen.waiting("the cluster starts")
    try:
        # The wait before slices are deleted is the real one: a driver that is killed comes back sooner, also on a slow
        # machine.
        async with Cluster(root, options=Options(wiping_delay=30.0), release=V1_37) as cluster:
            workloads = Workloads(cluster.api, waiting=screen.waiting)
            node = Node(cluster, workloads, devices=devices)
            try:
                yield Story(node, workloads, screen)
            finally:
                screen.waiting("the driver and the cluster end")
                await node.end()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _facts(outcome: dict[str, Any]) -> dict[str, str]:
    facts = {"took": f"{outcome['seconds']:.1f} s"}
    for operation in ("prepare", "unprepare"):
        took = outcome.get(f"{operation}_ms", {})
        if "p50" in took:
            facts[operation] = f"{took['n']} claims, p50 {took['p50']} ms, p99 {took['p99']} ms, max {took['max']} ms"
    if "failed_prepares" in outcome:
        facts["failed prepares"] = str(outcome["failed_prepares"])
    return facts
