"""The accountant on an API server: what it counts, what it writes, and who comes after it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from driver.cluster.accountant.books import Books
from driver.cluster.accountant.budget import read_quota
from driver.cluster.accountant.count import Count, Policy
from driver.cluster.accountant.ledger import WHOLE
from driver.cluster.accountant.period import HOUR, iso, read_time
from driver.cluster.accountant.weigh import TRIES, Weigher
from driver.cluster.accountant.writing import Pace
from driver.cluster.read_objects import read_claim
from driver.kube.client import MERGE_PATCH, RESOURCE, Api, ApiError
from driver.sim.apiserver import ApiServer
from tests.eventually import always, eventually
from tests.unit.cluster.world import DRIVER, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

Object = dict[str, Any]
HOURS, GPUS = "requests.resource.k8s.io/gpu-hours", "requests.resource.k8s.io/gpu"
CORE = "/api/v1/namespaces/default"
QUOTA = f"{CORE}/resourcequotas/budget"
CLAIMS = f"{RESOURCE}/namespaces/default/resourceclaims"
STATE, PERIOD = f"{DRIVER}/gpu-hours", f"{DRIVER}/gpu-hours-period"
POLICY = Policy(pace=Pace(change=0, idle=0, repair=0, retry=0, tick=0.01))


class World:
    """A cluster with one node, one budget, and a clock that goes when it is told."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.now = 0
        self.counts: list[tuple[Count, asyncio.Task[None]]] = []

    async def begin(self, *, hard: Object | None = None, **annotations: str) -> None:
        await self.publish()
        meta = {"name": "budget", "annotations": annotations}
        spec = {"hard": hard or {HOURS: "10", GPUS: "4", "pods": "5"}}
        made = await self.api.request("POST", f"{CORE}/resourcequotas", body={"metadata": meta, "spec": spec})
        self.now = read_time(made["metadata"]["creationTimestamp"]) or 0
        self.now += 60_000  # nothing of what follows is from before the quota

    async def publish(self) -> None:
        """The slices of the node."""
        for obj in slices():
            obj["metadata"].pop("resourceVersion")
            await self.api.request("POST", f"{RESOURCE}/resourceslices", body=obj)

    def start(self, policy: Policy = POLICY) -> Count:
        count = Count(self.api, policy, now=lambda: self.now)
        self.counts.append((count, asyncio.create_task(count.run())))
        return count

    async def stop(self, *, finish: bool = True) -> None:
        """The one that was started first."""
        count, task = self.counts.pop(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if finish:
            await count.finish()

    async def allocate(self, name: str, *devices: str, driver: str = DRIVER, **more: Any) -> None:
        """A claim that is given devices now."""
        request = {"name": "gpu", "exactly": {"deviceClassName": DRIVER}}
        try:
            claim = await self.api.get(f"{CLAIMS}/{name}")
        except ApiError:
            body = {"metadata": {"name": name}, "spec": {"devices": {"requests": [request]}}}
            claim = await self.api.request("POST", CLAIMS, body=body)
        results = [{"request": "gpu", "driver": driver, "pool": "node-1", "device": d, **more} for d in devices]
        claim["status"] = {"allocation": {"devices": {"results": results}, "allocationTimestamp": iso(self.now)}}
        await self.api.request("PUT", f"{CLAIMS}/{name}/status", body=claim)

    async def deallocate(self, name: str) -> None:
        claim = await self.api.get(f"{CLAIMS}/{name}")
        claim["status"] = {}
        await self.api.request("PUT", f"{CLAIMS}/{name}/status", body=claim)

    async def delete(self, name: str) -> None:
        await self.api.request("DELETE", f"{CLAIMS}/{name}")

    async def quota(self) -> Object:
        return await self.api.get(QUOTA)

    async def patch(self, body: Object, *, status: bool = False) -> None:
        path = f"{QUOTA}/status" if status else QUOTA
        await self.api.request("PATCH", path, body=body, content_type=MERGE_PATCH)

    async def account(self) -> Object:
        return dict(json.loads((await self.quota())["metadata"].get("annotations", {}).get(STATE, "{}")))

    async def shows(self, hours: str, gpus: str) -> None:
        """Wait until people see this."""

        async def seen() -> bool:
            used = (await self.quota())["status"]["used"]
            return (used[HOURS], used[GPUS]) == (hours, gpus)

        await eventually(seen, what=f"{hours} hours and {gpus} GPUs are shown")

    async def reasons(self) -> list[str]:
        found = await self.api.get(f"{CORE}/events")
        return sorted(item["reason"] for item in found["items"])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with ApiServer() as server, await Api.connect(server.write_kubeconfig(tmp_path / "kubeconfig")) as api:
        world = World(api)
        yield world
        while world.counts:
            await world.stop(finish=False)


async def test_hours_are_counted_from_allocation_to_the_end_and_others_figures_stay(world: World) -> None:
    await world.begin()
    world.start()
    await world.allocate("claim", "gpu-0", "gpu-1")
    await world.shows("0", "2")

    world.now += HOUR
    await world.shows("2", "2")
    await world.delete("claim")
    await world.shows("2", "0")
    world.now += HOUR
    await world.shows("2", "0")

    status = (await world.quota())["status"]
    assert status["used"]["pods"] == "0"
    assert (await world.account())["hours"] == "2.000"


async def test_parts_count_by_their_size_and_others_devices_and_admins_do_not(world: World) -> None:
    await world.begin()
    world.start()
    await world.allocate("part", "gpu-0-mig-1g10gb-19-0")
    await world.allocate("admin", "gpu-1", adminAccess=True)
    await world.allocate("other", "nic-0", driver="nic.example.com")
    await world.shows("0", "142m")

    world.now += 7 * HOUR
    await world.shows("999m", "142m")  # seven sevenths, rounded down


async def test_a_claim_that_is_given_other_devices_is_counted_on(world: World) -> None:
    await world.begin()
    world.start()
    await world.allocate("claim", "gpu-0")
    await world.shows("0", "1")
    world.now += HOUR
    await world.deallocate("claim")
    await world.shows("1", "0")
    world.now += HOUR
    await world.allocate("claim", "gpu-0", "gpu-1")
    await world.shows("1", "2")
    world.now += HOUR
    await world.shows("3", "2")


async def test_what_the_quota_controller_sets_back_is_written_again(world: World) -> None:
    await world.begin()
    world.start(replace(POLICY, pace=Pace(change=3600, idle=3600, repair=0, retry=0, tick=0.01)))
    await world.allocate("claim", "gpu-0")
    await eventually(lambda: world.account())
    await world.patch({"status": {"used": {HOURS: "0", GPUS: "0", "pods": "0"}}}, status=True)
    world.now += HOUR

    await world.patch({"status": {"used": {HOURS: "7", GPUS: "0"}}}, status=True)

    await world.shows("1", "1")


async def test_an_account_says_when_something_was_last_heard_of_claims(world: World) -> None:
    await world.begin()
    world.start()
    await world.allocate("claim", "gpu-0")
    await world.shows("0", "1")
    heard = world.now

    world.now += HOUR
    await world.shows("1", "1")

    account = await world.account()
    assert (account["heard"], account["at"]) == (iso(heard), iso(world.now))


async def test_a_restart_in_the_middle_changes_no_figure(world: World) -> None:
    await world.begin()
    world.start()
    await world.allocate("claim", "gpu-0")
    await world.shows("0", "1")
    world.now += HOUR
    await world.shows("1", "1")

    await world.stop(finish=False)
    world.now += HOUR
    await world.allocate("another", "gpu-1")
    world.now += HOUR
    world.start()

    await world.shows("4", "2")
    assert [unsure for _, _, unsure, _ in (await world.account())["spans"]] == [0]


async def test_a_claim_that_ended_unseen_is_counted_by_half_and_this_is_said(world: World) -> None:
    await world.begin()
    world.start()
    await world.allocate("claim", "gpu-0")
    await world.shows("0", "1")
    await world.stop()
    await world.delete("claim")
    world.now += 2 * HOUR

    world.start()

    await world.shows("1", "0")
    [[_, used, unsure, away]] = (await world.account())["spans"]
    assert used == unsure
    assert away >= 2 * HOUR


async def test_two_that_both_believe_to_be_the_one_never_both_add(world: World) -> None:
    await world.begin(hard={HOURS: "1000", GPUS: "4"})
    for _ in range(2):
        world.start()
    await world.allocate("claim", "gpu-0")
    await world.shows("0", "1")

    def conflicts() -> int:
        return sum(count.writer.writes["conflict"] for count, _ in world.counts)

    for hour in range(1, 200):
        world.now += HOUR
        await world.shows(str(hour), "1")
        if hour >= 5 and conflicts():  # whether they write at the same moment is for the machine to say
            break

    assert conflicts() > 0


async def test_an_account_that_somebody_removes_is_written_again(world: World) -> None:
    await world.begin()
    world.start()
    await world.allocate("claim", "gpu-0")
    await world.shows("0", "1")
    world.now += HOUR
    await world.shows("1", "1")
    await world.delete("claim")
    await world.shows("1", "0")

    await world.patch({"metadata": {"annotations": {STATE: None}}})

    await eventually(lambda: world.account())
    await world.shows("1", "0")


async def test_an_account_that_cannot_be_read_gives_nothing_back_until_somebody_removes_it(world: World) -> None:
    await world.begin(**{STATE: "nonsense"})
    world.start()
    await world.allocate("claim", "gpu-0")
    world.now += HOUR
    await eventually(lambda: has(world, "GpuHoursUnreadable"))
    assert (await world.quota())["metadata"]["annotations"][STATE] == "nonsense"

    await world.patch({"metadata": {"annotations": {STATE: None}}})

    await world.shows("1", "1")


async def test_an_account_that_is_damaged_while_somebody_counts_is_written_again(world: World) -> None:
    await world.begin()
    world.start()
    await world.allocate("claim", "gpu-0")
    await world.shows("0", "1")
    world.now += HOUR
    await world.shows("1", "1")
    await world.delete("claim")
    await world.shows("1", "0")

    await world.patch({"metadata": {"annotations": {STATE: "nonsense"}}})

    await eventually(lambda: readable(world))
    await world.shows("1", "0")


async def test_a_partition_weighs_what_it_did_when_its_node_is_away_at_a_restart(world: World) -> None:
    await world.begin()
    world.start()
    await world.allocate("part", "gpu-0-mig-1g10gb-19-0")
    await world.shows("0", "142m")
    await world.stop()
    names = [item["metadata"]["name"] for item in (await world.api.get(f"{RESOURCE}/resourceslices"))["items"]]
    for name in names:
        await world.api.request("DELETE", f"{RESOURCE}/resourceslices/{name}")
    world.now += 7 * HOUR

    count = world.start()
    await eventually(lambda: asked(count))
    assert (await world.account())["hours"] == "0.000"
    await world.publish()

    await world.shows("999m", "142m")


async def test_a_partition_that_is_gone_for_good_weighs_what_its_name_says(world: World) -> None:
    await world.begin()
    books = Books()
    weigher = Weigher(world.api, books, driver=DRIVER, now=lambda: world.now)
    await world.allocate("part", "gpu-9-mig-3g40gb-9-0")
    claim = read_claim(await world.api.get(f"{CLAIMS}/part"), driver=DRIVER)
    quota = read_quota(await world.quota(), driver=DRIVER)
    assert quota
    books.put_quota(quota, quota.key, world.now)
    books.put_claim(("default", "part"), claim, world.now, since=world.now)

    for _ in range(TRIES):
        assert await weigher.weigh_all()
    assert not await weigher.weigh_all()

    assert books.claims["default", "part"].weight == round(WHOLE * 3 / 7)


async def asked(count: Count) -> bool:
    """Whether the slices have been asked for a claim's devices, in vain."""
    return bool(count.books.unweighed)


async def readable(world: World) -> bool:
    return (await world.quota())["metadata"]["annotations"].get(STATE, "").startswith("{")


async def test_each_level_is_told_once_whoever_counts(world: World) -> None:
    await world.begin()
    world.start()
    await world.allocate("claim", "gpu-0")
    for hours, shown in ((8, "8"), (1, "9"), (1, "10")):
        world.now += hours * HOUR
        await world.shows(shown, "1")
    told = ["GpuHoursLow", "GpuHoursSpent"]
    await eventually(lambda: has(world, *told))

    await world.stop()
    world.start()
    world.now += HOUR

    await world.shows("11", "1")
    assert await world.reasons() == told


async def test_a_month_begins_with_nothing_used(world: World) -> None:
    await world.begin(**{PERIOD: "month Europe/Berlin"})
    world.start()
    await world.allocate("claim", "gpu-0")
    await world.shows("0", "1")
    world.now += HOUR
    await world.shows("1", "1")
    ends = read_time((await world.account())["until"]) or 0

    world.now = ends + HOUR

    await world.shows("1", "1")


async def test_a_period_that_is_none_is_said_and_the_budget_is_for_ever(world: World) -> None:
    await world.begin(**{PERIOD: "fortnight"})
    world.start()

    await eventually(lambda: has(world, "GpuHoursPeriod"))
    assert (await world.account())["period"] == ""


async def test_what_runs_goes_on_unless_eviction_was_asked_for(world: World) -> None:
    await world.begin(hard={HOURS: "1"})
    await pods(world, "old", "new")
    world.start()
    await held_by(world, "old", "gpu-0")
    world.now += HOUR
    await held_by(world, "new", "gpu-1")
    world.now += HOUR

    await eventually(lambda: has(world, "GpuHoursSpent"))
    await always(lambda: both_run(world), during=0.3)


async def test_eviction_warns_waits_and_begins_with_the_newest_claim(world: World) -> None:
    await world.begin(hard={HOURS: "1"})
    await pods(world, "old", "new")
    count = world.start(replace(POLICY, evict=True, grace=600))
    await held_by(world, "old", "gpu-0")
    world.now += HOUR
    await held_by(world, "new", "gpu-1")
    await eventually(lambda: has(world, "GpuHoursSpent"))
    assert count.evictor

    await count.evictor.round()
    await eventually(lambda: has(world, "GpuEvictionAhead"))
    assert await running(world) == ["new", "old"]

    world.now += 600_000
    await count.evictor.round()
    assert await running(world) == ["old"]
    await count.evictor.round()
    assert await running(world) == []
    await eventually(lambda: told_twice(world))


async def has(world: World, *reasons: str) -> bool:
    return set(reasons) <= set(await world.reasons())


async def pods(world: World, *names: str) -> None:
    for name in names:
        spec = {"containers": [{"name": "main", "image": "busybox"}]}
        await world.api.request("POST", f"{CORE}/pods", body={"metadata": {"name": name}, "spec": spec})


async def held_by(world: World, pod: str, device: str) -> None:
    await world.allocate(f"of-{pod}", device)
    claim = await world.api.get(f"{CLAIMS}/of-{pod}")
    uid = (await world.api.get(f"{CORE}/pods/{pod}"))["metadata"]["uid"]
    claim["status"]["reservedFor"] = [{"resource": "pods", "name": pod, "uid": uid}]
    await world.api.request("PUT", f"{CLAIMS}/of-{pod}/status", body=claim)


async def running(world: World) -> list[str]:
    found = (await world.api.get(f"{CORE}/pods"))["items"]
    return sorted(pod["metadata"]["name"] for pod in found if not pod["metadata"].get("deletionTimestamp"))


async def both_run(world: World) -> bool:
    return await running(world) == ["new", "old"]


async def told_twice(world: World) -> bool:
    return (await world.reasons()).count("GpuHoursEvicted") == 2
