"""Upgrades and downgrades under load: pods start all the time, and none of them sees a prepare that failed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import RESOURCE
from driver.sim.process import DriverProcess
from tests.e2e.test_examples import CLASSES, EXAMPLES
from tests.eventually import PATIENCE, eventually

if TYPE_CHECKING:
    from tests.e2e.conftest import EmbeddedSite

AT_ONCE = 6
VERSIONS = ("--partitioning=none", "--partitioning=dynamic")
"""What the versions publish differs: the first upgrade is to the first of these, the next one back."""


def template(name: str, device_class: str) -> dict[str, Any]:
    requests = [{"name": "gpu", "exactly": {"deviceClassName": device_class}}]
    if device_class == "mig.nvidia.com":
        profile = "device.attributes['gpu.nvidia.com'].profile == '1g.10gb'"
        requests[0]["exactly"] |= {"selectors": [{"cel": {"expression": profile}}]}  # type: ignore[operator]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": {"devices": {"requests": requests}}},
    }


class Rollout:
    """Instances that follow each other as a DaemonSet with ``maxSurge: 1`` brings them: the new is ready first."""

    def __init__(self, site: EmbeddedSite) -> None:
        self._site = site
        self._count = 0
        self.now = site.driver

    async def upgrade(self, *flags: str) -> None:
        self._count += 1
        cluster = self._site.cluster
        new = DriverProcess(
            [*cluster.driver_flags(), "--devices=fake:h100x8", *flags],
            log=cluster.root / f"upgrade-{self._count}.log",
            pod_uid=f"v{self._count}",
        )
        self._site.drivers.append(await new.start())

        async def ready() -> bool:
            assert new.status is None, new.log
            with contextlib.suppress(OSError):
                return (await new.get("/readyz"))[0] == 200
            return False

        await eventually(ready, what=f"upgrade {self._count} is ready")
        self.now.signal(signal.SIGTERM)
        old, self.now = self.now, new
        assert await old.ended(within=PATIENCE) == 0

    def failures(self) -> list[str]:
        """What any instance has said of claims that it could not prepare."""
        lines = itertools.chain(*(driver.lines() for driver in self._site.drivers))
        return [str(line["message"]) for line in lines if "prepare failed" in str(line.get("message"))]


async def pods_through_upgrades(site: EmbeddedSite, *, pods: int, upgrades: int) -> None:
    await site.apply(
        [*EXAMPLES[CLASSES].objects, template("whole", "gpu.nvidia.com"), template("cut", "mig.nvidia.com")]
    )
    rollout, started = Rollout(site), 0
    slots, moved = asyncio.Semaphore(AT_ONCE), asyncio.Condition()

    async def one(number: int) -> None:
        nonlocal started
        name, cut = f"pod-{number}", number % 4 == 3
        # What is cut cannot be scheduled while a version serves that cuts nothing; it must not hold up the others.
        async with contextlib.nullcontext() if cut else slots:
            await site.apply([site.sleeper(name, template="cut" if cut else "whole", seconds=0)])
            pod = await site.phase(name, "Succeeded", "Failed")
        assert pod["status"]["phase"] == "Succeeded", json.dumps(pod["status"])
        async with moved:
            started += 1
            moved.notify_all()

    async def roll() -> None:
        whole = pods - pods // 4
        for number in range(upgrades):
            async with moved:
                await moved.wait_for(lambda number=number: started >= whole * number // (upgrades + 1))
            await rollout.upgrade(VERSIONS[number % len(VERSIONS)])

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(roll())
        for number in range(pods):
            tasks.create_task(one(number))

    events = (await site.api.get(f"/api/v1/namespaces/{site.namespace}/events"))["items"]
    assert [e["message"] for e in events if e["reason"] == "FailedPrepareDynamicResources"] == []
    assert rollout.failures() == []
    await site.delete_all()
    await eventually(lambda: site.files() == ([], []), what="nothing of the claims is left")

    async def whole_again() -> bool:
        slices = (await site.api.get(f"{RESOURCE}/resourceslices"))["items"]
        return not any(device.get("taints") for obj in slices for device in obj["spec"].get("devices") or ())

    await eventually(whole_again)


async def test_pods_start_through_an_upgrade_and_a_downgrade(embedded: EmbeddedSite) -> None:
    await pods_through_upgrades(embedded, pods=20, upgrades=2)


@pytest.mark.long
async def test_two_hundred_pods_start_through_ten_upgrades(embedded: EmbeddedSite) -> None:
    embedded.patience = 300
    await pods_through_upgrades(embedded, pods=200, upgrades=10)
