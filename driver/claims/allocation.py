"""What is ours in a ResourceClaim: pure functions from the API's dict to frozen values."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from driver.claims.errors import ClaimError, Reason

# Claim UIDs become file names, so what may be in one is spelled out. The API server makes them as RFC 4122 UUIDs.
_UID = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

# Source: KEP-5304, device metadata.
METADATA_ROOT = "/var/run/kubernetes.io/dra-device-attributes"
TEMPLATES = "resourceclaimtemplates"
_SORTED = json.JSONEncoder(sort_keys=True)
_POD_CLAIM = "resource.kubernetes.io/pod-claim-name"


@dataclass(frozen=True, slots=True)
class ClaimRef:
    """A claim as the kubelet names it, checked: every part is safe in a path and in a URL."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One allocated device of ours (``status.allocation.devices.results[]``)."""

    request: str
    """The request, or ``request/subrequest`` for an alternative of ``firstAvailable``."""
    pool: str
    device: str
    admin: bool = False
    share_id: str | None = None
    consumed: tuple[tuple[str, str], ...] = ()
    """Capacity that a share takes: names and quantities."""

    @property
    def base_request(self) -> str:
        """The name that pods use: without the subrequest."""
        return self.request.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Opaque parameters for our driver (``status.allocation.devices.config[]``), lowest precedence first."""

    from_class: bool
    requests: tuple[str, ...]
    """``request`` or ``request/subrequest``; empty stands for all."""
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Our part of one claim's allocation."""

    claim: ClaimRef
    results: tuple[Result, ...]
    configs: tuple[Config, ...]
    fingerprint: str
    """Equal for equal allocations only; a record answers for the one that it was made for."""
    metadata_directory: str
    """Where containers look for device metadata: by the claim's name, or by the pod's name for it from a template."""


def check_ref(namespace: str, name: str, uid: str) -> ClaimRef:
    """Check what came over the wire. Raises ClaimError that names the part which is wrong, shortened."""
    if not _UID.fullmatch(uid):
        raise _bad("claim UID", uid, "at most 63 letters, digits and '-'")
    if not _NAMESPACE.fullmatch(namespace):
        raise _bad("claim namespace", namespace, "a DNS label of at most 63 characters")
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise _bad("claim name", name, "a DNS name of at most 253 characters")
    return ClaimRef(namespace, name, uid)


def read_allocation(claim: dict[str, Any], *, ref: ClaimRef, driver: str) -> Allocation:
    """Take our part out of a claim as the API server returned it.

    Raises ClaimError when the claim is another one than the kubelet meant, is not allocated, or has no device of ours.
    Source: the checks that the kubelet's Go helper makes before it calls a driver, made per claim.
    """
    uid = claim.get("metadata", {}).get("uid")
    if uid != ref.uid:
        raise ClaimError(
            Reason.REPLACED,
            f"claim {ref} has been replaced: the kubelet asks for UID {ref.uid}, the API server now has {uid}",
        )
    allocation = (claim.get("status") or {}).get("allocation")
    if not allocation:
        raise ClaimError(Reason.NOT_ALLOCATED, f"claim {ref} is not allocated: the scheduler has chosen no device yet")
    devices = allocation.get("devices") or {}
    all_results = devices.get("results") or []
    results = [result for result in all_results if result["driver"] == driver]
    if not results:
        others = ", ".join(sorted({result["driver"] for result in all_results})) or "none"
        raise ClaimError(
            Reason.NOT_OURS, f"claim {ref} has no device of driver {driver}; its devices belong to: {others}"
        )
    configs = [config for config in devices.get("config") or [] if (config.get("opaque") or {}).get("driver") == driver]
    return Allocation(
        claim=ref,
        results=tuple(_read_result(result) for result in results),
        configs=tuple(_read_config(config) for config in configs),
        fingerprint=hashlib.sha256(_SORTED.encode([results, configs]).encode()).hexdigest(),
        metadata_directory=_metadata_directory(claim["metadata"], ref),
    )


def _metadata_directory(metadata: dict[str, Any], ref: ClaimRef) -> str:
    pod_claim = (metadata.get("annotations") or {}).get(_POD_CLAIM)
    # An annotation is text that a user may write: it becomes a part of a path in a container.
    if isinstance(pod_claim, str) and _NAMESPACE.fullmatch(pod_claim):
        return f"{METADATA_ROOT}/{TEMPLATES}/{pod_claim}"
    return f"{METADATA_ROOT}/resourceclaims/{ref.name}"


def _read_result(result: dict[str, Any]) -> Result:
    return Result(
        request=result["request"],
        pool=result["pool"],
        device=result["device"],
        admin=bool(result.get("adminAccess")),
        share_id=result.get("shareID"),
        consumed=tuple((result.get("consumedCapacity") or {}).items()),
    )


def _read_config(config: dict[str, Any]) -> Config:
    return Config(
        from_class=config.get("source") == "FromClass",
        requests=tuple(config.get("requests") or ()),
        parameters=config["opaque"].get("parameters") or {},
    )


def _bad(what: str, value: str, expected: str) -> ClaimError:
    shown = value if len(value) <= 80 else f"{value[:80]}… ({len(value)} characters)"
    return ClaimError(Reason.INVALID_REQUEST, f"{what} {shown!r} is not valid: {expected} expected")
