"""Extended resources backed by devices (KEP-5004): from container requests to one special claim per pod. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from driver.sim import quantity
from driver.sim.scheduler.objects import EXTENDED_RESOURCE_ANNOTATION, owner_reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

IMPLICIT_PREFIX = "deviceclass.resource.kubernetes.io/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backed:
    """What a pod needs through its special claim."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    mappings: list[dict[str, str]] = field(default_factory=list)
    """``status.extendedResourceClaimStatus.requestMappings`` of the pod."""


def extended_name(resource: str) -> bool:
    """Whether a container's resource can be an extended one."""
    if resource.startswith(IMPLICIT_PREFIX):
        return True
    domain, slash, _ = resource.partition("/")
    return bool(slash) and not domain.startswith("requests.") and not f".{domain}".endswith(".kubernetes.io")


def classes_by_resource(classes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Class name by extended resource name. Of two classes with one name the newer wins, then the first by name."""
    mapping: dict[str, str] = {}
    ordered = sorted(classes, key=lambda c: c["metadata"]["name"], reverse=True)
    for device_class in sorted(ordered, key=lambda c: c["metadata"].get("creationTimestamp") or ""):
        name = device_class["metadata"]["name"]
        mapping[IMPLICIT_PREFIX + name] = name
        if explicit := (device_class.get("spec") or {}).get("extendedResourceName"):
            mapping[explicit] = name
    return mapping


def wanted(pod: Mapping[str, Any]) -> set[str]:
    """Extended resources of which some container wants more than nothing."""
    return {
        resource
        for container in _containers(pod)
        for resource in _requests(container)
        if extended_name(resource) and _amount(container, resource) > 0
    }


def backed(pod: Mapping[str, Any], node: Mapping[str, Any], mapping: Mapping[str, str]) -> tuple[Backed | None, str]:
    """What devices must provide on this node, and why the node is out of the question (empty if it is not).

    A resource that the node has in its allocatable is a device plugin's, even if a class has the same name.
    """
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    through_devices: list[str] = []
    for resource in sorted(wanted(pod)):
        has = quantity.parse(allocatable.get(resource, 0)) > 0
        if resource in mapping and not has:
            through_devices.append(resource)
        elif not has:
            return None, f"Insufficient {resource}"
    if not through_devices:
        return None, ""
    return _requests_and_mappings(pod, through_devices, mapping), ""


def special_claim(pod: Mapping[str, Any], requests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The claim to create for the pod."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {
            "generateName": f"{pod['metadata']['name']}-extended-resources-",
            "namespace": pod["metadata"]["namespace"],
            "annotations": {EXTENDED_RESOURCE_ANNOTATION: "true"},
            "ownerReferences": [owner_reference(pod, "v1", "Pod")],
        },
        "spec": {"devices": {"requests": list(requests)}},
    }


def _requests_and_mappings(pod: Mapping[str, Any], resources: Iterable[str], mapping: Mapping[str, str]) -> Backed:
    """A request of its own for each container: devices that an init container leaves are not used again."""
    result = Backed()
    for resource in resources:
        for index, container in enumerate(_containers(pod)):
            if (amount := _amount(container, resource)) > 0:
                request = _request(index, container, resource, mapping[resource], amount)
                result.requests.append(request)
                result.mappings.append(_mapping(container, resource, request["name"]))
    result.requests.sort(key=lambda request: str(request["name"]))
    return result


def _containers(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*(pod["spec"].get("initContainers") or []), *(pod["spec"].get("containers") or [])]


def _requests(container: Mapping[str, Any]) -> dict[str, Any]:
    resources = container.get("resources") or {}
    # The server copies limits of extended resources to requests, but not into objects of before that rule.
    return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


def _amount(container: Mapping[str, Any], resource: str) -> int:
    return int(quantity.parse(_requests(container).get(resource, 0)))


def _request(index: int, container: Mapping[str, Any], resource: str, class_name: str, count: int) -> dict[str, Any]:
    position = sorted(_requests(container)).index(resource)
    return {
        "name": f"container-{index}-request-{position}",
        "exactly": {"deviceClassName": class_name, "allocationMode": "ExactCount", "count": count},
    }


def _mapping(container: Mapping[str, Any], resource: str, request: str) -> dict[str, str]:
    return {"containerName": container["name"], "resourceName": resource, "requestName": request}
