"""What is ours in a ResourceClaim: pure functions from the API's dict to frozen values."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from driver.base.quantity import is_quantity
from driver.claims.errors import ClaimError, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

# Claim UIDs become file names, so what may be in one is spelled out. The API server makes them as RFC 4122 UUIDs.
_UID = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

# Source: KEP-5304, device metadata.
METADATA_ROOT = "/var/run/kubernetes.io/dra-device-attributes"
TEMPLATES = "resourceclaimtemplates"
_SORTED = json.JSONEncoder(sort_keys=True)
_POD_CLAIM = "resource.kubernetes.io/pod-claim-name"

# What the API server admits, and what is safe in a path, in a CDI name and in arithmetic, whatever it answers.
_REQUEST = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(/[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?")
_SHARE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?")

_ALLOCATION = "status.allocation"
MAX_PODS = 256
"""What the API server admits in ``status.reservedFor``."""
_WORDS: Mapping[type, str] = {str: "text", bool: "true or false", list: "a list", dict: "an object"}

T = TypeVar("T")


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


class PodRef(NamedTuple):
    """A pod that a claim is reserved for."""

    name: str
    uid: str


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
    pods: tuple[PodRef, ...] = ()
    """Who the claim is reserved for."""
    of_one_pod: bool = False
    """Whether it was made for a pod, from a template: no other one will have it."""


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
    """Take our part out of a claim as the API server returned it; fields that we do not know are passed over.

    Raises ClaimError when the claim is another one than the kubelet meant, is not allocated, or has no device of ours;
    also where the answer is not of the form that the API has (resource.k8s.io/v1), with the field.
    Source: the checks that the kubelet's Go helper makes before it calls a driver, made per claim.
    """
    try:
        return _read_allocation(claim, ref=ref, driver=driver)
    except _OddError as error:
        raise ClaimError(
            Reason.API,
            f"claim {ref} cannot be understood as the API server gives it: {error}. Is it of a version of Kubernetes "
            "that this driver does not know?",
        ) from None
    except RecursionError:
        raise ClaimError(
            Reason.CONFIG, f"parameters of claim {ref} or its DeviceClass are nested too deeply to be read"
        ) from None


class _OddError(Exception):
    """A field of an answer that has another form than it should have."""

    def __init__(self, where: str, expected: str, found: object) -> None:
        super().__init__(f"{where} is {_shown(found)}, {expected} is expected")


def _read_allocation(claim: dict[str, Any], *, ref: ClaimRef, driver: str) -> Allocation:
    metadata = _get(dict, claim, "metadata", "the claim") or {}
    uid = metadata.get("uid")
    if uid != ref.uid:
        raise ClaimError(
            Reason.REPLACED,
            f"claim {ref} has been replaced: the kubelet asks for UID {ref.uid}, the API server now has {uid}",
        )
    allocation = _get(dict, _get(dict, claim, "status", "the claim") or {}, "allocation", "status")
    if not allocation:
        raise ClaimError(Reason.NOT_ALLOCATED, f"claim {ref} is not allocated: the scheduler has chosen no device yet")
    devices = _get(dict, allocation, "devices", _ALLOCATION) or {}
    where = f"{_ALLOCATION}.devices"
    all_results = _objects(devices, "results", where)
    results = [result for result in all_results if result.get("driver") == driver]
    if not results:
        others = ", ".join(sorted({str(result.get("driver")) for result in all_results})) or "none"
        raise ClaimError(
            Reason.NOT_OURS, f"claim {ref} has no device of driver {driver}; its devices belong to: {others}"
        )
    configs = [
        config
        for config in _objects(devices, "config", where)
        if (_get(dict, config, "opaque", f"{where}.config[]") or {}).get("driver") == driver
    ]
    return Allocation(
        claim=ref,
        results=tuple([_read_result(result, f"{where}.results[]") for result in results]),
        configs=tuple([_read_config(config, f"{where}.config[]") for config in configs]),
        fingerprint=hashlib.sha256(_SORTED.encode([results, configs]).encode()).hexdigest(),
        metadata_directory=_metadata_directory(metadata, ref),
        pods=reserved_pods(claim),
        of_one_pod=is_of_one_pod(claim),
    )


def is_of_one_pod(claim: Mapping[str, Any]) -> bool:
    """Whether a claim was made for a pod, from a template."""
    metadata = claim.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return isinstance(annotations, dict) and _POD_CLAIM in annotations


def reserved_pods(claim: Mapping[str, Any]) -> tuple[PodRef, ...]:
    """The pods of ``status.reservedFor``; nothing that is not as it should be stands in a claim's way for that."""
    status = claim.get("status")
    found = status.get("reservedFor") if isinstance(status, dict) else None
    return tuple(
        PodRef(one["name"], one["uid"])
        for one in (found if isinstance(found, list) else ())
        if isinstance(one, dict)
        and one.get("resource") == "pods"
        and isinstance(one.get("name"), str)
        and isinstance(one.get("uid"), str)
        and _NAME.fullmatch(one["name"])
        and _UID.fullmatch(one["uid"])
    )[:MAX_PODS]


def _metadata_directory(metadata: dict[str, Any], ref: ClaimRef) -> str:
    annotations = metadata.get("annotations")
    pod_claim = annotations.get(_POD_CLAIM) if isinstance(annotations, dict) else None
    # An annotation is text that a user may write: it becomes a part of a path in a container.
    if isinstance(pod_claim, str) and _NAMESPACE.fullmatch(pod_claim):
        return f"{METADATA_ROOT}/{TEMPLATES}/{pod_claim}"
    return f"{METADATA_ROOT}/resourceclaims/{ref.name}"


def _read_result(result: dict[str, Any], where: str) -> Result:
    request, pool, device = (_get(str, result, key, where) for key in ("request", "pool", "device"))
    share_id = _get(str, result, "shareID", where)
    consumed = _get(dict, result, "consumedCapacity", where) or {}
    if request is None or not _REQUEST.fullmatch(request):
        raise _OddError(f"{where}.request", "a name, or two with '/' between", request)
    if pool is None or device is None:
        raise _OddError(f"{where}.{'pool' if pool is None else 'device'}", "a name", None)
    if share_id is not None and not _SHARE.fullmatch(share_id):
        raise _OddError(f"{where}.shareID", "a UUID", share_id)
    for amount in consumed.values():
        if not (isinstance(amount, str) and is_quantity(amount)):
            raise _OddError(f"{where}.consumedCapacity[]", "a quantity such as 10Gi", amount)
    return Result(
        request=request,
        pool=pool,
        device=device,
        admin=bool(_get(bool, result, "adminAccess", where)),
        share_id=share_id,
        consumed=tuple(consumed.items()),
    )


def _read_config(config: dict[str, Any], where: str) -> Config:
    requests = _get(list, config, "requests", where) or []
    for request in requests:
        if not isinstance(request, str):
            raise _OddError(f"{where}.requests[]", "a name", request)
    return Config(
        from_class=config.get("source") == "FromClass",
        requests=tuple(requests),
        parameters=_get(dict, config["opaque"], "parameters", f"{where}.opaque") or {},
    )


def _get(kind: type[T], parent: Mapping[str, Any], key: str, where: str) -> T | None:
    """A field that may be left out. Raises _OddError for one of another type."""
    value = parent.get(key)
    if value is None or type(value) is kind:
        return value
    raise _OddError(f"{where}.{key}", _WORDS[kind], value)


def _objects(parent: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    found: list[Any] = _get(list, parent, key, where) or []
    for one in found:
        if type(one) is not dict:
            raise _OddError(f"{where}.{key}[]", "an object", one)
    return found


def _shown(value: object) -> str:
    """At most so much of it, and never all of what is nested deeply."""
    if value is None:
        return "missing"
    return f"{value!r:.80}" if isinstance(value, str | int | float) else _WORDS.get(type(value), str(type(value)))


def _bad(what: str, value: str, expected: str) -> ClaimError:
    shown = value if len(value) <= 80 else f"{value[:80]}… ({len(value)} characters)"
    return ClaimError(Reason.INVALID_REQUEST, f"{what} {shown!r} is not valid: {expected} expected")
