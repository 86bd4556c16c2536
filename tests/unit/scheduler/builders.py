"""Small API objects for the allocator's tests."""

from __future__ import annotations

from itertools import count

from driver.sim.scheduler.allocator import allocate

DRIVER = "gpu.nvidia.com"
NODE = {"metadata": {"name": "node-a", "labels": {"zone": "z1"}}}
_numbers = count()


def device(name, **fields):
    attributes = {"model": {"string": "H100"}, "index": {"int": 0}} | fields.pop("attributes", {})
    spec = {"name": name, "attributes": attributes, "capacity": {"memory": {"value": "80Gi"}}}
    return spec | fields


def slice_of(devices, *, name="00000-x", pool="node-a", driver=DRIVER, generation=1, slices=1, **spec):
    scope = spec or {"nodeName": "node-a"}
    content = {"devices": devices} if devices is not None else {}
    return {
        "metadata": {"name": name},
        "spec": {
            "driver": driver,
            "pool": {"name": pool, "generation": generation, "resourceSliceCount": slices},
            **scope,
            **content,
        },
    }


def device_class(name="gpu", *, selector='device.driver == "gpu.nvidia.com"', **spec):
    selectors = [{"cel": {"expression": selector}}] if selector else []
    return {"metadata": {"name": name}, "spec": {"selectors": selectors, **spec}}


def exactly(name="gpu", *, selector="", class_name="gpu", **fields):
    spec = {"deviceClassName": class_name, **fields}
    if selector:
        spec["selectors"] = [{"cel": {"expression": selector}}]
    return {"name": name, "exactly": spec}


def claim(*requests, name=None, constraints=(), config=()):
    devices = {"requests": list(requests) or [exactly()]}
    if constraints:
        devices["constraints"] = list(constraints)
    if config:
        devices["config"] = list(config)
    number = next(_numbers)
    metadata = {"name": name or f"claim-{number}", "namespace": "default", "uid": f"uid-{number}"}
    return {"metadata": metadata, "spec": {"devices": devices}}


def allocated(claim_, allocation):
    return {**claim_, "status": {"allocation": allocation}}


def run(claims, slices, *, classes=None, **options):
    classes = {c["metadata"]["name"]: c for c in classes or [device_class()]}
    claims = [claims] if isinstance(claims, dict) else claims
    return allocate(options.pop("node", NODE), claims, classes=classes, slices=slices, **options)


def names(allocation):
    return [result["device"] for result in allocation["devices"]["results"]]
