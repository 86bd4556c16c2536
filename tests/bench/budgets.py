"""What the accountant costs in a large cluster: made-up objects through its own watches, in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from driver.cluster.accountant.annotation import write_account
from driver.cluster.accountant.count import PAGE, Count, Policy
from driver.cluster.accountant.period import read_time
from tests.bench.stats import Case, Target, memory_mib
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bench.cases import Bench

NODES, CLAIMS, BUDGETS = 5000, 20_000, 1000
CHANGES = 2000
DRIVER = "gpu.nvidia.com"
CREATED = "2026-01-01T00:00:00Z"


async def budgets(_: Bench) -> list[Case]:
    """Memory, and the time of a change among few claims and among many."""
    few, many = [await _measured(claims) for claims in (CLAIMS // 20, CLAIMS)]
    facts = {"nodes": NODES, "claims": CLAIMS, "budgets": BUDGETS, "mib": many["mib"], "change_us": many["change_us"]}
    return [
        Case(
            key="budgets.size",
            unit="MiB",
            facts=facts,
            targets=[
                Target(what="MiB at most", value=many["mib"], limit=300),
                Target(what="times a change among a twentieth", value=many["change_us"] / few["change_us"], limit=3),
            ],
        )
    ]


async def _measured(claims: int) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.budgets", str(claims), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    found: dict[str, float] = json.loads(output)
    return found


class MadeUp:
    """An API server that has as many claims as it is told, in pages, and never any news."""

    def __init__(self, claims: int) -> None:
        self.claims = claims
        self.quiet = asyncio.Event()

    async def get(self, path: str, params: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """A list."""
        if path.endswith("resourceslices"):
            return listing([slice_of(params["fieldSelector"].rpartition("=")[2])])
        if path.endswith("resourcequotas"):
            return json.loads(json.dumps(listing([quota(number) for number in range(BUDGETS)])))
        start = int(params.get("continue", 0))
        end = min(start + PAGE, self.claims)
        page = listing([claim(number) for number in range(start, end)])
        page["metadata"]["continue"] = str(end) if end < self.claims else ""
        return json.loads(json.dumps(page))

    async def watch(self, *_: Any, **__: Any) -> Any:
        """Nothing happens."""
        await self.quiet.wait()
        yield {}


def listing(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": "1"}, "items": items}


def claim(number: int) -> dict[str, Any]:
    """As an API server sends it, with all that nobody needs."""
    name, node = f"claim-{number}", f"node-{number % NODES}"
    result = {"request": "gpu", "driver": DRIVER, "pool": node, "device": f"gpu-{number // NODES % 8}"}
    return {
        "metadata": {
            "namespace": f"team-{number % BUDGETS}",
            "name": name,
            "uid": f"uid-{number}",
            "resourceVersion": "1",
            "creationTimestamp": CREATED,
            "managedFields": [{"manager": "kube-scheduler", "fieldsV1": {"f:status": {"f:allocation": {}}}}] * 4,
        },
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": DRIVER}}]}},
        "status": {
            "allocation": {"devices": {"results": [result]}, "allocationTimestamp": CREATED},
            "reservedFor": [{"resource": "pods", "name": f"pod-{number}", "uid": f"uid-pod-{number}"}],
        },
    }


def quota(number: int) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": f"team-{number}",
            "name": "budget",
            "uid": f"uid-{number}",
            "resourceVersion": "1",
            "creationTimestamp": CREATED,
            "annotations": {f"{DRIVER}/gpu-hours-period": "720h"},
        },
        "spec": {"hard": {"requests.resource.k8s.io/gpu-hours": "1k"}},
        "status": {},
    }


def slice_of(node: str) -> dict[str, Any]:
    devices = [{"name": f"gpu-{index}", "attributes": {"type": {"string": "gpu"}}} for index in range(8)]
    pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
    return {
        "metadata": {"name": node, "resourceVersion": "1"},
        "spec": {"driver": DRIVER, "nodeName": node, "pool": pool, "devices": devices},
    }


async def _child(claims: int) -> None:
    now = (read_time(CREATED) or 0) + 10**9
    count = Count(MadeUp(claims), Policy(driver=DRIVER), now=lambda: now)  # type: ignore[arg-type]
    books, tasks = count.books, [asyncio.create_task(work()) for name, work in count.work() if name != "accounts"]
    await eventually(lambda: len(books.budgets) == BUDGETS and not books.unweighed)
    started = time.process_time()
    for number in range(CHANGES):
        key = (f"team-{number % BUDGETS}", f"claim-{number % claims}")
        known, now = books.claims[key], now + 1000
        books.put_claim(key, None, now, since=now)
        books.put_claim(key, known.claim, now, since=now)
        books.weigh(key, known.claim, known.weight or 0, now)
    change_us = (time.process_time() - started) / CHANGES * 1e6
    size = sum(len(write_account(budget.account)) for budget in books.budgets.values() if budget.account)
    for task in tasks:
        task.cancel()
    mib = memory_mib(os.getpid(), "VmHWM")
    print(json.dumps({"mib": mib, "change_us": change_us, "annotation_bytes": size / BUDGETS}))


if __name__ == "__main__":
    asyncio.run(_child(int(sys.argv[1])))
