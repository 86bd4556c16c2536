"""From chosen devices to ``ResourceClaim.status.allocation``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from driver.sim.scheduler import nodes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from driver.sim.scheduler.pools import Candidate
    from driver.sim.scheduler.requests import Request


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """One device for one request."""

    request: Request
    device: Candidate
    share_id: str | None = None
    """Set for devices that allow several allocations."""
    consumed: Mapping[str, str]


def allocation_result(
    node_name: str, claim: Mapping[str, Any], requests: Sequence[Request], chosen: Sequence[Chosen]
) -> dict[str, Any]:
    """The ``AllocationResult``; ``requests`` has the alternative that was picked for each request of the claim."""
    devices: dict[str, Any] = {"results": [_result(choice) for choice in chosen]}
    if config := _class_config(requests) + _claim_config(claim, requests):
        devices["config"] = config
    selector = _node_selector(node_name, chosen)
    return {"devices": devices, **({"nodeSelector": selector} if selector else {})}


def _result(choice: Chosen) -> dict[str, Any]:
    driver, pool, device = choice.device.id
    result: dict[str, Any] = {
        "request": choice.request.reference,
        "driver": driver,
        "pool": pool,
        "device": device,
    }
    if choice.request.admin:
        result["adminAccess"] = True
    if choice.request.tolerations:
        result["tolerations"] = [dict(toleration) for toleration in choice.request.tolerations]
    if choice.share_id is not None:
        result["shareID"] = choice.share_id
    if choice.consumed:
        result["consumedCapacity"] = dict(choice.consumed)
    return result


def _class_config(requests: Sequence[Request]) -> list[dict[str, Any]]:
    """Configs of the classes, each class once, with the names of all requests that use it."""
    by_class: dict[str, list[dict[str, Any]]] = {}
    for request in requests:
        name = request.device_class["metadata"]["name"]
        if name in by_class:
            for entry in by_class[name]:
                entry["requests"].append(request.reference)
            continue
        by_class[name] = [
            {"source": "FromClass", "requests": [request.reference], **config}
            for config in (request.device_class.get("spec") or {}).get("config") or []
        ]
    return [entry for entries in by_class.values() for entry in entries]


def _claim_config(claim: Mapping[str, Any], requests: Sequence[Request]) -> list[dict[str, Any]]:
    """Configs of the claim, unless they are only for subrequests that were not picked.

    As in 1.36, a config for several requests is repeated once per request: a driver must stand that.
    """
    entries: list[dict[str, Any]] = []
    for config in (claim["spec"].get("devices") or {}).get("config") or []:
        wanted = config.get("requests") or []
        times = sum(bool({request.name, request.reference} & set(wanted)) for request in requests) if wanted else 1
        entries.extend({"source": "FromClaim", **config} for _ in range(times))
    return entries


def _node_selector(node_name: str, chosen: Sequence[Chosen]) -> dict[str, Any] | None:
    return nodes.bound_to(node_name) if any(choice.device.slice.get("nodeName") for choice in chosen) else None
