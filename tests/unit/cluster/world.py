"""Slices as our builder publishes them, and claims and pods as the API server has them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from driver.cluster import Fleet, Gpu, Node, State, read_claim, read_pod, read_rule, read_slice
from driver.hardware.model import Partition
from driver.inventory import DeviceOptions, Options, Partitioning, Shares, build_slices, slice_name
from driver.inventory.catalogue import catalogue
from driver.inventory.options import EXCLUSIVE
from tests.unit.inventory import mig_facts

if TYPE_CHECKING:
    from driver.hardware import Inventory
    from driver.health import Conditions

DRIVER = "gpu.nvidia.com"
SINCE = "2026-03-01T10:00:00Z"
Object = dict[str, Any]


def options(partitioning: Partitioning = Partitioning.DYNAMIC, shares: Shares = EXCLUSIVE) -> Options:
    return Options(default=DeviceOptions(partitioning=partitioning, shares=shares))


def cut(inventory: Inventory, *parts: tuple[str, int]) -> Inventory:
    """The node with its first GPU cut into these partitions, given by profile and first memory slice."""
    first, *others = inventory.gpus
    made = tuple(
        Partition(
            gpu_uuid=first.uuid,
            profile=profile,
            profile_id=0,
            gi_id=start,
            ci_id=0,
            start=start,
            size=next(known.size for known in first.mig_profiles if known.name == profile),
            uuid=f"MIG-{start}",
        )
        for profile, start in parts
    )
    return replace(inventory, gpus=(replace(first, partitions=made), *others))


def slices(
    node: str = "node-1",
    inventory: Inventory | None = None,
    *,
    offered: Options | None = None,
    conditions: Conditions | None = None,
    generation: int = 1,
) -> list[Object]:
    found = inventory or mig_facts.node("H100-SXM5-80GB", 2)
    devices = catalogue(found, offered or options())
    specs = build_slices(found, conditions or {}, driver_name=DRIVER, devices=devices)
    pool = {"name": node, "generation": generation, "resourceSliceCount": len(specs)}
    return [
        {
            "metadata": {"name": slice_name(index, driver_name=DRIVER, node_name=node), "resourceVersion": "1"},
            "spec": copy.deepcopy({"driver": DRIVER, "nodeName": node, "pool": pool, **spec}),
        }
        for index, spec in enumerate(specs)
    ]


def claim(
    name: str, *devices: str, namespace: str = "team-a", node: str = "node-1", pods: tuple[str, ...] = (), **more: Any
) -> Object:
    results = [{"request": "gpu", "driver": DRIVER, "pool": node, "device": device, **more} for device in devices]
    return {
        "metadata": {"namespace": namespace, "name": name, "uid": f"uid-{name}"},
        "status": {
            "allocation": {"devices": {"results": results}, "allocationTimestamp": SINCE},
            "reservedFor": [{"resource": "pods", "name": pod, "uid": f"uid-{pod}"} for pod in pods],
        },
    }


def pod(name: str, phase: str = "Running", namespace: str = "team-a") -> Object:
    return {
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"nodeName": "node-1", "resourceClaims": [{"name": "gpu"}]},
        "status": {"phase": phase},
    }


def rule(name: str = "drain", *, key: str = "example.com/drain", effect: str = "NoSchedule", **selector: str) -> Object:
    """A DeviceTaintRule; without a selector for all devices that there are."""
    return {
        "metadata": {"name": name},
        "spec": {"deviceSelector": selector, "taint": {"key": key, "effect": effect, "timeAdded": SINCE}},
    }


def state(*objects: Object) -> State:
    found = State()
    put(found, *objects)
    return found


def put(found: State, *objects: Object) -> None:
    """Each object as a watch tells of it."""
    for obj in objects:
        key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        if "driver" in obj.get("spec", {}):
            found.put_slice(key, read_slice(obj, driver=DRIVER))
        elif "taint" in obj.get("spec", {}):
            found.put_rule(key, read_rule(obj, driver=DRIVER))
        elif "resourceClaims" in obj.get("spec", {}):
            found.put_pod(key, read_pod(obj))
        else:
            found.put_claim(key, read_claim(obj, driver=DRIVER))


def fleet(*objects: Object) -> Fleet:
    return state(*objects).fleet()


def node(*objects: Object) -> Node:
    [found] = fleet(*objects).nodes
    return found


def gpu(*objects: Object) -> Gpu:
    """The first GPU."""
    return node(*objects).gpus[0]
