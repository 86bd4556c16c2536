"""The node agent: start order and shutdown order are read here, nowhere else.

Start: directories and records, then the DRA socket, probes and pages, then the registration socket, then the slices.
The API server and the hardware may be away at any time: registration and unprepare need neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING

from driver.base.signals import ending
from driver.base.supervised import root_cause, supervised
from driver.hardware import ProfileError
from driver.kube import Api, ConfigError
from driver.kubelet import allow_descriptors
from driver.node import memory
from driver.node.config_file import read_node_config
from driver.node.follow_devices import catch_up_statuses, renew_specs
from driver.node.parts import assemble
from driver.node.settings import NodeConfigError
from driver.observe import configure_logging, log_stacks_on

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from driver.node.parts import Parts
    from driver.node.settings import Settings

logger = logging.getLogger(__name__)

UMASK = 0o022
"""Ours, not that of whoever starts us: files have the modes that they are written with, and containers read some."""


def run_node(settings: Settings) -> int:
    """Run until SIGTERM or Ctrl-C and return the exit status: 0 stopped, 1 failed, 2 a setting cannot work."""
    os.umask(UMASK)
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    allow_descriptors()
    memory.begin()
    try:
        asyncio.run(_serve_node(settings))
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, ConfigError | ProfileError | NodeConfigError):
            logger.error("%s", cause)
            return 2
        if isinstance(cause, OSError):
            logger.error("%s", cause)
        else:
            logger.exception("the driver failed")
        return 1
    return 0


async def _serve_node(settings: Settings) -> None:
    config = read_node_config(settings)
    stop = asyncio.Event()
    for number in ending():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log_stacks_on(signal.SIGUSR1)
    async with await Api.connect(settings.kubeconfig) as api:
        await run_parts(assemble(settings, config, api), stop=stop)


async def run_parts(parts: Parts, *, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set. Raises what made that impossible: OSError, or ProfileError."""
    settings = parts.settings
    await _open(parts)
    async with asyncio.TaskGroup() as tasks:

        def start(
            name: str, work: Callable[[], Awaitable[None]], *, fatal: tuple[type[Exception], ...] = ()
        ) -> asyncio.Task[None]:
            return tasks.create_task(supervised(work, name=name, fatal=fatal), name=name)

        publishing = start("publish", parts.publisher.run)
        devices = start("devices", parts.discovery.run, fatal=(ProfileError,))
        others = [start(name, work) for name, work in _background(parts)]
        async with parts.serving:
            registering = start("registration", parts.serving.register, fatal=(OSError,))
            logger.info(
                "started",
                extra={"driver": settings.driver_name, "node": settings.node_name, "devices": settings.devices},
            )
            memory.settle()
            await stop.wait()
            logger.info("stopping")
            registering.cancel()
            publishing.cancel()  # what the kubelet wipes once we are gone must not come back
        for task in (devices, *others):  # until now: the last call that was answered may have needed what they do
            task.cancel()
    logger.info("stopped")


async def _open(parts: Parts) -> None:
    """Directories and records. Raises OSError."""
    settings = parts.settings
    settings.plugin_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    settings.kubelet_registry_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # it is watched, and may be writable for the next claim
        parts.specs.open()
    await parts.records.open()
    parts.metrics.prepared.set(len(parts.records))
    if settings.device_metadata:
        parts.metadata.open()


def _background(parts: Parts) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """What goes on all the time, with its name."""
    yield "slices", parts.publication.run
    yield "cdi watch", parts.cdi_watch.run
    yield "spec renewal", lambda: renew_specs(parts.engine, parts.devices)
    yield "undo", parts.engine.undo_leftovers
    yield "mps", parts.engine.watch_mps
    yield "sweep", parts.sweeper.run
    yield "coexistence", parts.coexistence.run
    yield "usage", parts.usage.measure
    yield "gpu time", parts.usage.account
    yield "claims' pods", parts.usage.follow_pods
    yield "events", parts.events.run
    yield "memory", memory.give_back
    status = parts.status
    if status is not None:
        yield "status", status.run
        yield "earlier statuses", lambda: catch_up_statuses(status, parts.records, parts.devices)
