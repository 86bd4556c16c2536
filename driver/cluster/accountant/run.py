"""The accountant as a process: stand by, count while the lease is ours, give it back."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from driver.base.signals import ending
from driver.base.supervised import root_cause, supervised
from driver.cluster.accountant.count import Count, Policy
from driver.cluster.accountant.lease import Lease, LeaseLostError
from driver.cluster.accountant.numbers import Numbers
from driver.kube import Api, ApiError, ConfigError, ServerClock
from driver.observe import configure_logging, serve_pages

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

PAUSE = 3.0
FINISH = 10.0
"""Seconds for the last accounts at the most: the lease is shorter than that and half as much again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where and as whom it runs."""

    policy: Policy = field(default_factory=Policy)
    kubeconfig: Path | None = None
    lease_namespace: str
    lease_name: str = "gpu-dra-accountant"
    identity: str
    http_port: int = 8080
    log_level: str = "info"
    log_format: str = "text"


def run_accountant(settings: Settings) -> int:
    """Run until SIGTERM or Ctrl-C and return the exit status: 0 stopped, 1 failed, 2 a setting cannot work."""
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    try:
        asyncio.run(_until_signal(settings))
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, ConfigError):
            logger.error("%s", cause)
            return 2
        if isinstance(cause, OSError):
            logger.error("%s", cause)
        else:
            logger.exception("the accountant failed")
        return 1
    return 0


async def _until_signal(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in ending():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with await Api.connect(settings.kubeconfig) as api:
        await Accountant(api, settings).run(stop)


class Accountant:
    """Pages all the time; a ``Count`` for each term of office."""

    def __init__(self, api: Api, settings: Settings) -> None:
        self._api = api
        self._settings = settings
        self._clock = ServerClock()
        api.on_date = self._clock.hear
        self._count: Count | None = None
        self._numbers = Numbers()
        self._numbers.now = self._now

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set. Raises OSError when the port is taken."""
        port = self._settings.http_port
        pages = (
            await serve_pages(
                port=port,
                registry=self._numbers.registry,
                live=_alive,
                not_ready=self._not_ready,
                status=self._status,
            )
            if port
            else None
        )
        office = asyncio.create_task(supervised(self._office, name="counting"), name="office")
        try:
            await stop.wait()
            logger.info("stopping")
        finally:
            office.cancel()
            await asyncio.gather(office, return_exceptions=True)
            if pages:
                await pages.cleanup()

    async def _office(self) -> None:
        while True:
            lease = self._lease()
            try:
                await lease.acquire()
                await self._term(lease)
            except* (ApiError, LeaseLostError) as error:
                logger.warning("%s", root_cause(error))
            await asyncio.sleep(PAUSE)

    async def _term(self, lease: Lease) -> None:
        """Count while the lease is ours."""
        self._count = count = Count(self._api, self._settings.policy, now=self._now)
        self._numbers.books, self._numbers.writes = count.books, count.writer.writes
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(lease.keep(), name="lease")
                tasks.create_task(count.run(), name="count")
        except asyncio.CancelledError:
            try:
                async with asyncio.timeout(FINISH):
                    await count.finish()
                    await lease.give_back()
            except TimeoutError:
                logger.warning("the last accounts were not written in time: the next instance counts from the former")
            raise
        finally:
            self._count = self._numbers.books = None

    def _lease(self) -> Lease:
        settings = self._settings
        return Lease(
            self._api,
            namespace=settings.lease_namespace,
            name=settings.lease_name,
            identity=settings.identity,
            now=self._now,
        )

    def _now(self) -> int:
        """The API server's time: nothing is counted before it has said anything."""
        return self._clock.now() or 0

    def _not_ready(self) -> list[str]:
        # Who stands by is ready to take over.
        timeless = [] if self._clock.now() else ["API server: no answer with a Date was heard yet"]
        return [*self._api.not_ready(), *timeless, *(self._count.not_ready() if self._count else ())]

    def _status(self) -> dict[str, Any]:
        count = self._count
        return {"counts": count is not None, "budgets": len(count.books.budgets) if count else 0}


async def _alive() -> bool:
    return True
