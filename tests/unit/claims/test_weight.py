"""Which part of a GPU a claim has, and for which pods: what metrics are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from driver.claims.allocation import MAX_PODS, PodRef, Result, is_of_one_pod, reserved_pods
from driver.claims.weight import weight
from driver.hardware.fake.profile import load_profile
from driver.inventory.catalogue import Device
from driver.inventory.options import ShareBy, Shares

GIB = 1 << 30
[GPU, *_] = load_profile("h100x8").inventory().gpus
WHOLE = Device(name="gpu-0", gpu=GPU)


def part(profile: str, start: int = 0) -> Device:
    return Device(name="part", gpu=GPU, profile=GPU.profile(profile), start=start)


def result(**more: Any) -> Result:
    return Result(request="gpu", pool="node-1", device="gpu-0", **more)


def share(**consumed: str) -> Result:
    return result(share_id="1", consumed=tuple(consumed.items()))


def shared(device: Device, mode: ShareBy, count: int | None = None) -> Device:
    return replace(device, shares=Shares(mode=mode, count=count))


@pytest.mark.parametrize(
    ("device", "taken", "expected"),
    [
        (WHOLE, result(), 1),
        (part("1g.10gb"), result(), 1 / 7),
        (part("3g.40gb"), result(), 3 / 7),
        (part("7g.80gb"), result(), 1),
        (WHOLE, result(admin=True), 0),
        (shared(WHOLE, ShareBy.COUNT, 4), share(shares="1", memory="20Gi"), 1 / 4),
        (shared(WHOLE, ShareBy.COUNT, 4), share(shares="2"), 1 / 2),
        (shared(WHOLE, ShareBy.COUNT, 4), share(shares="9"), 1),
        (shared(WHOLE, ShareBy.MEMORY), share(memory=str((GPU.memory_bytes or 0) // 2)), 1 / 2),
        (shared(part("2g.20gb"), ShareBy.COUNT, 2), share(), 1 / 7),
        (shared(WHOLE, ShareBy.UNLIMITED), share(memory="0"), 0),
        (shared(replace(WHOLE, gpu=replace(GPU, memory_bytes=None)), ShareBy.UNLIMITED), share(memory="1Gi"), 0),
    ],
)
def test_weights(device: Device, taken: Result, expected: float) -> None:
    assert weight(device, taken) == pytest.approx(expected, abs=1e-4)


def test_a_share_that_takes_all_that_there_is_to_take_is_all_of_it() -> None:
    shares = Shares(mode=ShareBy.MEMORY, memory_reserve=GIB)
    device = replace(WHOLE, shares=shares)

    assert weight(device, share(memory=str(shares.memory(GPU.memory_bytes or 0)))) == 1


@pytest.mark.parametrize(
    ("claim", "pods"),
    [
        ({}, []),
        ({"status": None}, []),
        ({"status": {"reservedFor": "all"}}, []),
        ({"status": {"reservedFor": [3, {}, {"resource": "pods"}, {"resource": "pods", "name": 1, "uid": "u"}]}}, []),
        ({"status": {"reservedFor": [{"resource": "pods", "name": "../../etc", "uid": "u"}]}}, []),
        ({"status": {"reservedFor": [{"resource": "jobs", "apiGroup": "batch", "name": "a", "uid": "u"}]}}, []),
        ({"status": {"reservedFor": [{"resource": "pods", "name": "a", "uid": "u"}]}}, [PodRef("a", "u")]),
    ],
)
def test_pods_are_those_that_are_told_as_they_should_be(claim: dict[str, Any], pods: list[PodRef]) -> None:
    assert list(reserved_pods(claim)) == pods


def test_there_are_no_more_pods_than_the_server_admits() -> None:
    many = [{"resource": "pods", "name": f"p-{number}", "uid": f"u-{number}"} for number in range(1000)]

    assert len(reserved_pods({"status": {"reservedFor": many}})) == MAX_PODS


def test_a_claim_from_a_template_is_of_one_pod() -> None:
    made = {"metadata": {"annotations": {"resource.kubernetes.io/pod-claim-name": "gpu"}}}

    assert is_of_one_pod(made)
    assert not is_of_one_pod({"metadata": {"annotations": None}})
    assert not is_of_one_pod({})
