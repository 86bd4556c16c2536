"""DeviceClass, ResourceClaim and ResourceClaimTemplate: defaults, limits, and the rules of a claim's status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import checks
from driver.sim.apiserver.errors import Errors, Object, forbidden_field, invalid_value, required, too_long, unsupported

if TYPE_CHECKING:
    from driver.sim.apiserver.context import Context

MAX_REQUESTS = 32
MAX_CONSTRAINTS = 32
MAX_CONFIGS = 32
MAX_SELECTORS = 32
MAX_FIRST_AVAILABLE = 8
MAX_RESERVED_FOR = 256
MAX_OPAQUE_BYTES = 10 * 1024
MAX_EXPRESSION_BYTES = 10 * 1024
ADMIN_LABEL = "resource.kubernetes.io/admin-access"

_EFFECTS = ("NoExecute", "NoSchedule", "None")
_REFERENCE = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"


# -- defaults --------------------------------------------------------------------------------------------------------


def _default_claim_spec(spec: Object) -> None:
    for request in (spec.get("devices") or {}).get("requests") or []:
        for part in [*(request.get("firstAvailable") or []), *([request["exactly"]] if "exactly" in request else [])]:
            if part.setdefault("allocationMode", "ExactCount") == "ExactCount":
                part.setdefault("count", 1)


def prepare_claim(new: Object, old: Object | None, _context: Context) -> None:
    """Defaults of the requests; there is always a status."""
    _default_claim_spec(new.setdefault("spec", {}))
    if old is None:
        new["status"] = {}


def prepare_template(new: Object, _old: Object | None, _context: Context) -> None:
    """Defaults of the requests in the template."""
    _default_claim_spec(new.setdefault("spec", {}).setdefault("spec", {}))


def prepare_class(new: Object, _old: Object | None, _context: Context) -> None:
    """The spec is always there."""
    new.setdefault("spec", {})


# -- specs -----------------------------------------------------------------------------------------------------------


def validate_claim(new: Object, old: Object | None, context: Context) -> Errors:
    """All that is wrong with a claim, apart from its status."""
    spec = new.get("spec") or {}
    if old is not None:
        return checks.immutable(spec, old.get("spec") or {}, "spec")
    return _admin_requests(spec, new, context) + _claim_spec(spec, "spec", context)


def _admin_requests(spec: Object, owner: Object, context: Context) -> Errors:
    labels = context.namespace_labels(owner["metadata"].get("namespace", ""))
    detail = f"admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"
    return [
        forbidden_field(f"spec.devices.requests[{index}].adminAccess", detail)
        for index, request in enumerate((spec.get("devices") or {}).get("requests") or [])
        if (request.get("exactly") or {}).get("adminAccess") is True and labels.get(ADMIN_LABEL) != "true"
    ]


def validate_template(new: Object, old: Object | None, context: Context) -> Errors:
    """All that is wrong with a template."""
    spec = new.get("spec") or {}
    if old is not None:
        return checks.immutable(spec, old.get("spec") or {}, "spec")
    claim = spec.get("spec") or {}
    return _admin_requests(claim, new, context) + _claim_spec(claim, "spec.spec", context)


def validate_class(new: Object, old: Object | None, context: Context) -> Errors:
    """All that is wrong with a class."""
    spec = new.get("spec") or {}
    before = (old or {}).get("spec") or {}
    errors = _selectors(spec, "spec", context, stored=before.get("selectors") or [])
    errors += checks.each(spec.get("config") or [], "spec.config", _configuration, limit=MAX_CONFIGS)
    name = spec.get("extendedResourceName")
    if name is not None and not _extended_resource_name(name):
        errors.append(invalid_value("spec.extendedResourceName", name, "must be a valid extended resource name"))
    return errors


def _extended_resource_name(name: str) -> bool:
    return "/" in name and "kubernetes.io/" not in name and not checks.label_name(f"requests.{name}", "")


def _request_names(spec: Object) -> dict[str, set[str]]:
    return {
        request.get("name", ""): {sub.get("name", "") for sub in request.get("firstAvailable") or []}
        for request in (spec.get("devices") or {}).get("requests") or []
    }


def _claim_spec(spec: Object, path: str, context: Context) -> Errors:
    devices = spec.get("devices") or {}
    names = _request_names(spec)
    path = f"{path}.devices"
    errors = checks.each(
        devices.get("requests") or [],
        f"{path}.requests",
        lambda request, where: _request(request, where, context),
        limit=MAX_REQUESTS,
        key=lambda request: request.get("name", ""),
    )
    errors += checks.each(
        devices.get("constraints") or [],
        f"{path}.constraints",
        lambda item, where: _constraint(item, where, names),
        limit=MAX_CONSTRAINTS,
    )
    return errors + checks.each(
        devices.get("config") or [],
        f"{path}.config",
        lambda item, where: _references(item, where, names) + _configuration(item, where),
        limit=MAX_CONFIGS,
    )


def _request(request: Object, path: str, context: Context) -> Errors:
    errors = checks.dns_label(request.get("name", ""), f"{path}.name")
    first, exactly = request.get("firstAvailable") or [], request.get("exactly")
    if bool(first) is (exactly is not None):
        errors.append(invalid_value(path, None, "exactly one of `exactly` or `firstAvailable` is required"))
    elif first:
        errors += checks.each(
            first,
            f"{path}.firstAvailable",
            lambda sub, where: checks.dns_label(sub.get("name", ""), f"{where}.name") + _exact(sub, where, context),
            limit=MAX_FIRST_AVAILABLE,
            key=lambda sub: sub.get("name", ""),
        )
    elif exactly is not None:
        errors += _exact(exactly, f"{path}.exactly", context)
    return errors


def _exact(request: Object, path: str, context: Context) -> Errors:
    name = request.get("deviceClassName", "")
    where = f"{path}.deviceClassName"
    errors = checks.dns_subdomain(name, where) if name else [required(where)]
    errors += _selectors(request, path, context)
    mode, count = request.get("allocationMode", ""), request.get("count", 0)
    if mode == "All":
        if count:
            errors.append(invalid_value(f"{path}.count", count, "must not be specified when allocationMode is 'All'"))
    elif mode == "ExactCount":
        if count <= 0:
            errors.append(invalid_value(f"{path}.count", count, "must be greater than zero"))
    else:
        errors.append(unsupported(f"{path}.allocationMode", mode, ("All", "ExactCount")))
    # The documented limit of 16 tolerations is not enforced by the real server, nor are names of requested capacities.
    return errors + checks.each(request.get("tolerations") or [], f"{path}.tolerations", _toleration)


def _selectors(owner: Object, path: str, context: Context, *, stored: list[Any] | None = None) -> Errors:
    selectors = owner.get("selectors") or []

    def check(selector: Object, where: str) -> Errors:
        cel = selector.get("cel")
        if cel is None:
            return [required(f"{where}.cel")]
        expression = cel.get("expression", "")
        at = f"{where}.cel.expression"
        if len(expression.encode()) > MAX_EXPRESSION_BYTES:
            return [too_long(at, MAX_EXPRESSION_BYTES)]
        if not expression:
            return [invalid_value(at, expression, "compilation failed: an expression is expected")]
        if stored == selectors:
            return []  # what is stored already is not compiled again
        problem = context.compile_cel(expression)
        return [invalid_value(at, expression, problem)] if problem else []

    return checks.each(selectors, f"{path}.selectors", check, limit=MAX_SELECTORS)


def _toleration(item: Object, path: str) -> Errors:
    errors = checks.label_name(item["key"], f"{path}.key") if item.get("key") else []
    operator = item.get("operator", "Equal")
    if operator == "Exists":
        if item.get("value"):
            errors.append(invalid_value(f"{path}.value", item["value"], "must be empty for operator `Exists`"))
    elif operator == "Equal":
        errors += checks.label_value(item.get("value", ""), f"{path}.value")
    else:
        errors.append(unsupported(f"{path}.operator", operator, ("Equal", "Exists")))
    if item.get("effect") and item["effect"] not in _EFFECTS:
        errors.append(unsupported(f"{path}.effect", item["effect"], _EFFECTS))
    return errors


def _constraint(item: Object, path: str, names: dict[str, set[str]]) -> Errors:
    errors = _references(item, path, names)
    for key in ("matchAttribute", "distinctAttribute"):
        if item.get(key) is not None:
            return errors + checks.fully_qualified_name(item[key], f"{path}.{key}")
    return [*errors, required(path, 'exactly one of "matchAttribute" or "distinctAttribute" is required')]


def _references(item: Object, path: str, names: dict[str, set[str]]) -> Errors:
    return checks.each(
        item.get("requests") or [],
        f"{path}.requests",
        lambda name, where: _reference(name, where, names),
        limit=MAX_REQUESTS,
        key=lambda name: name,
    )


def _reference(name: str, path: str, names: dict[str, set[str]]) -> Errors:
    request, slash, sub = name.partition("/")
    if "/" in sub:
        return [invalid_value(path, name, _REFERENCE)]
    errors = [error for part in name.split("/") for error in checks.dns_label(part, path)]
    if request not in names or (slash and sub not in names[request]):
        errors.append(invalid_value(path, name, _REFERENCE))
    return errors


def _configuration(item: Object, path: str) -> Errors:
    opaque = item.get("opaque")
    if opaque is None:
        return [required(f"{path}.opaque")]
    return checks.driver_name(opaque.get("driver", ""), f"{path}.opaque.driver") + checks.raw_object(
        opaque.get("parameters"), f"{path}.opaque.parameters", MAX_OPAQUE_BYTES
    )


# -- status ----------------------------------------------------------------------------------------------------------

Device = tuple[str, str, str, str]


def _device_id(item: Object) -> Device:
    return item.get("driver", ""), item.get("pool", ""), item.get("device", ""), item.get("shareID") or ""


def _allocated(status: Object) -> set[Device]:
    devices = (status.get("allocation") or {}).get("devices") or {}
    return {_device_id(result) for result in devices.get("results") or []}


def prepare_claim_status(new: Object, old: Object | None, _context: Context) -> None:
    """Status entries of devices that were deallocated by this write are dropped."""
    status = new.setdefault("status", {})
    before = (old or {}).get("status") or {}
    if status.get("allocation") is not None:
        status["allocation"].setdefault("devices", {})
    deallocated = _allocated(before) - _allocated(status)
    kept = [item for item in status.get("devices") or [] if _device_id(item) not in deallocated]
    if kept:
        status["devices"] = kept
    else:
        status.pop("devices", None)


def validate_claim_status(new: Object, old: Object | None, _context: Context) -> Errors:
    """What is wrong with the status of a claim; an allocation is the scheduler's, and taken as it is."""
    status, before = new.get("status") or {}, (old or {}).get("status") or {}
    allocation, allocated_before = status.get("allocation"), before.get("allocation")
    reserved = status.get("reservedFor") or []
    errors = checks.each(reserved, "status.reservedFor", limit=MAX_RESERVED_FOR, key=lambda item: item.get("uid", ""))
    devices = _allocated(status)
    errors += checks.each(
        status.get("devices") or [],
        "status.devices",
        lambda item, path: _device_status(item, path, devices),
        key=_device_id,
    )
    if reserved and allocation is None:
        detail = "may not be specified when `allocated` is not set"
        errors.append(forbidden_field("status.reservedFor", detail))
    elif reserved and new["metadata"].get("deletionTimestamp"):
        known = before.get("reservedFor") or []
        if any(item not in known for item in reserved):
            detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"
            errors.append(forbidden_field("status.reservedFor", detail))
    if allocation is not None and allocated_before is not None:
        errors += checks.immutable(allocation, allocated_before, "status.allocation")
    return errors


def _device_names(item: Object, path: str) -> Errors:
    errors = checks.driver_name(item.get("driver", ""), f"{path}.driver")
    errors += checks.pool_name(item.get("pool", ""), f"{path}.pool")
    errors += checks.dns_label(item.get("device", ""), f"{path}.device")
    if item.get("shareID") is not None:
        errors += checks.uid(item["shareID"], f"{path}.shareID")
    return errors


def _device_status(item: Object, path: str, allocated: set[Device]) -> Errors:
    errors = _device_names(item, path)
    if _device_id(item) not in allocated:
        errors.append(invalid_value(path, "/".join(_device_id(item)), "must be an allocated device in the claim"))
    errors += checks.conditions(item.get("conditions") or [], f"{path}.conditions")
    if item.get("data") is not None:
        errors += checks.raw_object(item["data"], f"{path}.data", MAX_OPAQUE_BYTES)
    return errors
