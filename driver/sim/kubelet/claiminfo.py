"""What the kubelet knows about a claim, and the checks that it makes. No I/O.

Error texts are those of the real kubelet (Kubernetes 1.36.2, pkg/kubelet/cm/dra and dynamic-resource-allocation).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ANY_DRIVER = "<any>"


class DraError(Exception):
    """Preparing or unpreparing a pod's claims failed; the text is what the pod's event says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One prepared device, as the driver answered."""

    pool: str
    name: str
    request_names: tuple[str, ...] = ()
    """Empty: relevant for all requests."""
    cdi_device_ids: tuple[str, ...] = ()
    share_id: str | None = None


@dataclass(slots=True, kw_only=True)
class ClaimInfo:
    """A claim that at least one pod on the node references."""

    uid: str
    name: str
    namespace: str
    pods: set[str] = field(default_factory=set)
    """UIDs of the pods."""
    drivers: dict[str, list[Device]] = field(default_factory=dict)
    """Every driver of the allocation, with what it prepared so far."""
    prepared: bool = False
    """Never written down: a restarted kubelet asks again, drivers must be idempotent."""

    def cdi_devices(self, request: str) -> list[str]:
        """CDI ids for a container's ``resources.claims[]`` entry; an empty request means all of the claim."""
        return [
            device_id
            for devices in self.drivers.values()
            for device in devices
            if not request or not device.request_names or request in device.request_names
            for device_id in device.cdi_device_ids
        ]

    def unprepare(self) -> None:
        """Forget the devices before the drivers take them back: a pod that comes meanwhile has to ask for them."""
        self.prepared = False
        self.drivers = {driver: [] for driver in self.drivers}

    def to_state(self) -> dict[str, Any]:
        """JSON for the checkpoint, without what must not survive a restart."""
        return {
            "uid": self.uid,
            "name": self.name,
            "namespace": self.namespace,
            "pods": sorted(self.pods),
            "drivers": {driver: [asdict(device) for device in devices] for driver, devices in self.drivers.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ClaimInfo:
        """Read back what ``to_state`` wrote."""
        lists = ("request_names", "cdi_device_ids")
        drivers = {
            driver: [Device(**device | {key: tuple(device[key]) for key in lists}) for device in devices]
            for driver, devices in state["drivers"].items()
        }
        return cls(**{**state, "pods": set(state["pods"]), "drivers": drivers})


def in_use(claims: Iterable[ClaimInfo]) -> dict[str, int]:
    """Prepared claims by driver name, and all of them under ``<any>``."""
    counts = {ANY_DRIVER: 0}
    for claim in claims:
        if claim.prepared:
            counts[ANY_DRIVER] += 1
            for driver in claim.drivers:
                counts[driver] = counts.get(driver, 0) + 1
    return counts


def pod_claims(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``spec.resourceClaims`` plus the claim that the scheduler made for extended resources."""
    claims = list(pod["spec"].get("resourceClaims") or [])
    extended = (pod.get("status") or {}).get("extendedResourceClaimStatus")
    if extended:
        claims.append({"name": "", "resourceClaimName": extended["resourceClaimName"]})
    return claims


def claim_name(pod: Mapping[str, Any], pod_claim: Mapping[str, Any]) -> tuple[str | None, bool]:
    """Name of the ResourceClaim behind an entry, and whether its owner must be checked.

    The name is None where no claim is needed. Raises DraError when it has not been created yet.
    """
    if pod_claim.get("resourceClaimName"):
        return pod_claim["resourceClaimName"], False
    metadata = pod["metadata"]
    where = f'pod "{metadata["namespace"]}/{metadata["name"]}"'
    if pod_claim.get("resourceClaimTemplateName"):
        for status in (pod.get("status") or {}).get("resourceClaimStatuses") or []:
            if status["name"] == pod_claim["name"]:
                return status.get("resourceClaimName"), True
        raise DraError(f"{where}: ResourceClaim not created yet")
    raise DraError(f'{where}, spec.resourceClaim "{pod_claim["name"]}": none of the supported fields are set')


def check_claim(pod: Mapping[str, Any], claim: Mapping[str, Any], *, check_owner: bool) -> ClaimInfo:
    """The checks before a driver is asked. Returns a fresh entry for the claim, or raises DraError."""
    pod_meta, meta = pod["metadata"], claim["metadata"]
    status = claim.get("status") or {}
    if check_owner and not any(
        owner.get("controller") and owner.get("uid") == pod_meta["uid"] for owner in meta.get("ownerReferences") or []
    ):
        raise DraError(
            f"ResourceClaim {meta['namespace']}/{meta['name']} was not created for Pod "
            f"{pod_meta['namespace']}/{pod_meta['name']} (Pod is not owner)"
        )
    if not any(consumer.get("uid") == pod_meta["uid"] for consumer in status.get("reservedFor") or []):
        raise DraError(
            f"pod {pod_meta['name']} ({pod_meta['uid']}) is not allowed to use ResourceClaim "
            f"{meta['name']} ({meta['uid']})"
        )
    allocation = status.get("allocation")
    if allocation is None:
        raise DraError(f"ResourceClaim {meta['name']}: not allocated")
    results = (allocation.get("devices") or {}).get("results") or []
    return ClaimInfo(
        uid=meta["uid"],
        name=meta["name"],
        namespace=meta["namespace"],
        drivers={result["driver"]: [] for result in results},
    )


def container_requests(pod: Mapping[str, Any], container: Mapping[str, Any]) -> list[tuple[str, str]]:
    """``(ResourceClaim name, request or "")`` for each device request of a container, extended resources included."""
    resources = container.get("resources") or {}
    requests: list[tuple[str, str]] = []
    for pod_claim in pod["spec"].get("resourceClaims") or []:
        wanted = [entry for entry in resources.get("claims") or [] if entry["name"] == pod_claim["name"]]
        if not wanted:
            continue
        name, _ = claim_name(pod, pod_claim)
        if name is not None:
            requests += [(name, entry.get("request") or "") for entry in wanted]
    extended = (pod.get("status") or {}).get("extendedResourceClaimStatus")
    if extended:
        asked = {name for name, amount in (resources.get("requests") or {}).items() if str(amount) != "0"}
        requests += [
            (extended["resourceClaimName"], mapping["requestName"])
            for mapping in extended.get("requestMappings") or []
            if mapping["containerName"] == container["name"] and mapping["resourceName"] in asked
        ]
    return requests
