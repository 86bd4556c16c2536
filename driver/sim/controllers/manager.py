"""The control plane beside the API server: mirrors, scheduler and controllers under one roof."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from driver.sim.controllers.claims import ClaimController
from driver.sim.controllers.eviction import EvictionController
from driver.sim.controllers.jobs import JobController
from driver.sim.scheduler.cluster import Cluster
from driver.sim.scheduler.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from driver.kube import Api


class ControlPlane:
    """Scheduler and controllers for one API server."""

    def __init__(
        self, api: Api, *, taint_rules: str, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """``taint_rules`` is the API version in which the server has DeviceTaintRules."""
        self.cluster = Cluster(api, taint_rules=taint_rules)
        self._parts = (
            Scheduler(self.cluster, clock=clock),
            ClaimController(self.cluster),
            EvictionController(self.cluster, clock=clock),
            JobController(self.cluster, clock=clock),
        )

    async def run(self) -> None:
        """Work for ever. Ends by cancellation; an ExceptionGroup has the defect that stopped one of the parts."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.cluster.run(), name="mirrors")
            for part in self._parts:
                group.create_task(part.run(), name=type(part).__name__)
