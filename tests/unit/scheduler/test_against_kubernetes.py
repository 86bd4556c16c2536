"""Recorded answers of the Kubernetes 1.36.2 allocator ("incubating", default gates) to random clusters.

Each case has a node, claims to allocate together, all slices and the claims that hold devices already. The answer is
the list of allocations, None (does not fit) or "error" (scheduling is aborted).
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from driver.sim import quantity
from driver.sim.scheduler.allocator import AllocationError, UnschedulableError, allocate

RECORDED = json.loads(gzip.decompress((Path(__file__).parent / "kubernetes-1.36.2.json.gz").read_bytes()))
CLASSES = {c["metadata"]["name"]: c for c in RECORDED["classes"]}


def normal(allocations):
    """Share IDs are random, and quantities may be written in several ways."""
    for allocation in allocations:
        for result in allocation["devices"]["results"]:
            if "shareID" in result:
                result["shareID"] = "S"
            for name, amount in result.get("consumedCapacity", {}).items():
                result["consumedCapacity"][name] = str(quantity.parse(amount))
    return allocations


@pytest.mark.parametrize("case", RECORDED["cases"], ids=[str(i) for i in range(len(RECORDED["cases"]))])
def test_allocates_what_kubernetes_allocates(case):
    try:
        answer = allocate(
            case["node"], case["claims"], classes=CLASSES, slices=case["slices"], allocated=case["allocated"]
        )
    except UnschedulableError:
        answer, cause = None, ""
    except AllocationError as error:
        answer, cause = "error", str(error).rpartition(":")[2]
    else:
        cause = ""

    assert not cause or cause == case["error"].rpartition(":")[2]
    assert (normal(json.loads(json.dumps(answer))) if isinstance(answer, list) else answer) == case["answer"]
