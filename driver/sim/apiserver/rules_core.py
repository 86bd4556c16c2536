"""Pods, nodes, namespaces, events, role bindings: the defaults and checks that are needed here, not all there are."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from driver.sim import quantity
from driver.sim.apiserver import checks
from driver.sim.apiserver.errors import (
    Errors,
    Object,
    forbidden_field,
    invalid_value,
    not_found_value,
    required,
    unsupported,
)

if TYPE_CHECKING:
    from driver.sim.apiserver.context import Context

RBAC = "rbac.authorization.k8s.io"
_CONTAINERS = ("initContainers", "containers")


def prepare_namespace(new: Object, old: Object | None, _context: Context) -> None:
    """The label with its own name, the phase."""
    meta = new["metadata"]
    meta.setdefault("labels", {})["kubernetes.io/metadata.name"] = meta.get("name", "")
    if old is None:
        new["status"] = {"phase": "Active"}


def prepare_node(new: Object, _old: Object | None, _context: Context) -> None:
    """A node always has a spec and a status."""
    new.setdefault("spec", {})
    new.setdefault("status", {})


def prepare_event(new: Object, _old: Object | None, _context: Context) -> None:
    """Source and involvedObject are always there."""
    new.setdefault("involvedObject", {})
    new.setdefault("source", {})


def prepare_binding(new: Object, _old: Object | None, _context: Context) -> None:
    """The API group of a binding's role and subjects, where it is left out."""
    new.setdefault("roleRef", {}).setdefault("apiGroup", RBAC)
    for subject in new.get("subjects") or []:
        if subject.get("kind") in {"User", "Group"}:
            subject.setdefault("apiGroup", RBAC)


def validate_binding(new: Object, old: Object | None, _context: Context) -> Errors:
    """A binding keeps its role."""
    return checks.immutable(new["roleRef"], old["roleRef"], "roleRef") if old else []


# -- pods ------------------------------------------------------------------------------------------------------------


def default_pod_spec(spec: Object) -> None:
    """What a real server fills in, as far as somebody looks at it."""
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("schedulerName", "default-scheduler")
    for key in _CONTAINERS:
        for container in spec.get(key) or []:
            resources = container.setdefault("resources", {})
            for name, amount in (resources.get("limits") or {}).items():
                resources.setdefault("requests", {}).setdefault(name, amount)


def prepare_pod(new: Object, old: Object | None, _context: Context) -> None:
    """Defaults of the spec, and what admission adds to a new pod. There is no service account token: nobody uses it."""
    spec = new.setdefault("spec", {})
    default_pod_spec(spec)
    if old is not None:
        return
    spec.setdefault("serviceAccountName", "default")
    new["status"] = {"phase": "Pending", "qosClass": quality_of_service(spec)}


def quality_of_service(spec: Object) -> str:
    """The class of a pod: BestEffort, Burstable, Guaranteed."""
    amounts = [c.get("resources") or {} for key in _CONTAINERS for c in spec.get(key) or []]
    if not any(item.get("requests") or item.get("limits") for item in amounts):
        return "BestEffort"
    full = all(
        {"cpu", "memory"} <= (item.get("limits") or {}).keys() and item.get("requests") == item.get("limits")
        for item in amounts
    )
    return "Guaranteed" if full else "Burstable"


def prepare_pod_status(new: Object, old: Object | None, _context: Context) -> None:
    """The quality-of-service class never changes."""
    status = new.setdefault("status", {})
    quality = ((old or {}).get("status") or {}).get("qosClass")
    if quality:
        status["qosClass"] = quality


def validate_pod(new: Object, old: Object | None, _context: Context) -> Errors:
    """Containers, claims, and that the spec of a pod stays as it is."""
    spec = new.get("spec") or {}
    if old is not None:
        return _pod_update(spec, old.get("spec") or {})
    here = "this embedded cluster has no init containers"
    errors = [forbidden_field("spec.initContainers", here)] if spec.get("initContainers") else []
    return errors + pod_spec_errors(spec, "spec", restart=("Always", "OnFailure", "Never"))


def pod_spec_errors(spec: Object, path: str, *, restart: tuple[str, ...]) -> Errors:
    """A pod's spec, also within a template."""
    errors: Errors = []
    if not spec.get("containers"):
        errors.append(required(f"{path}.containers"))
    if spec.get("restartPolicy") not in restart:
        errors.append(unsupported(f"{path}.restartPolicy", spec.get("restartPolicy", ""), restart))
    claims, found = _pod_claims(spec, f"{path}.resourceClaims")
    errors += found
    volumes = {volume.get("name", "") for volume in spec.get("volumes") or []}
    for key in _CONTAINERS:
        for index, container in enumerate(spec.get(key) or []):
            where = f"{path}.{key}[{index}]"
            errors += _container(container, where, claims)
            errors += _amounts(container.get("resources") or {}, f"{where}.resources")
            errors += [
                not_found_value(f"{where}.volumeMounts[{number}].name", mount.get("name", ""))
                for number, mount in enumerate(container.get("volumeMounts") or [])
                if mount.get("name") not in volumes
            ]
        errors += checks.each(spec.get(key) or [], f"{path}.{key}", key=lambda container: container.get("name", ""))
    return errors


def _amounts(resources: Object, path: str) -> Errors:
    """Requests within limits; extended resources equal to them."""
    errors: Errors = []
    limits = resources.get("limits") or {}
    for name, amount in (resources.get("requests") or {}).items():
        extended = "/" in name and not f".{name.partition('/')[0]}".endswith(".kubernetes.io")
        if name not in limits:
            if extended:
                errors.append(required(f"{path}.limits", "Limit must be set for non overcommitable resources"))
        elif extended and quantity.parse(amount) != quantity.parse(limits[name]):
            errors.append(invalid_value(f"{path}.requests", amount, f"must be equal to {name} limit of {limits[name]}"))
        elif quantity.parse(amount) > quantity.parse(limits[name]):
            detail = f"must be less than or equal to {name} limit of {limits[name]}"
            errors.append(invalid_value(f"{path}.requests", amount, detail))
    return errors


def _pod_claims(spec: Object, path: str) -> tuple[set[str], Errors]:
    claims = spec.get("resourceClaims") or []
    errors = checks.each(claims, path, key=lambda claim: claim.get("name", ""))
    for index, claim in enumerate(claims):
        where = f"{path}[{index}]"
        errors += checks.dns_label(claim.get("name", ""), f"{where}.name")
        chosen = [key for key in ("resourceClaimName", "resourceClaimTemplateName") if claim.get(key) is not None]
        if len(chosen) != 1:
            detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            errors.append(invalid_value(where, claim, detail))
        errors += [error for key in chosen for error in checks.dns_subdomain(claim[key], f"{where}.{key}")]
    return {claim.get("name", "") for claim in claims}, errors


def _container(container: Object, path: str, claims: set[str]) -> Errors:
    errors = checks.dns_label(container.get("name", ""), f"{path}.name")
    if not container.get("image"):
        errors.append(required(f"{path}.image"))
    if container.get("restartPolicy"):
        errors.append(forbidden_field(f"{path}.restartPolicy", "this embedded cluster has no sidecars"))
    wanted = (container.get("resources") or {}).get("claims") or []
    for index, claim in enumerate(wanted):
        if claim.get("name") not in claims:
            listed = " which is empty" if not claims else ": " + ", ".join(sorted(claims))
            detail = f"must be one of the names in pod.spec.resourceClaims{listed}"
            error = not_found_value(f"{path}.resources.claims[{index}]", claim.get("name", ""))
            errors.append(f"{error}: {detail}")
    return errors + checks.each(
        wanted, f"{path}.resources.claims", key=lambda claim: (claim.get("name"), claim.get("request"))
    )


_MUTABLE = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "nodeName", "schedulingGates")


def _pod_update(spec: Object, old: Object) -> Errors:
    def frozen(value: Object) -> Object:
        plain = copy.deepcopy({key: item for key, item in value.items() if key not in _MUTABLE})
        for key in _CONTAINERS:
            for container in plain.get(key) or []:
                container.pop("image", None)
        return plain

    errors: Errors = []
    if frozen(spec) != frozen(old):
        detail = (
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
            "`spec.activeDeadlineSeconds`,`spec.tolerations`,`spec.terminationGracePeriodSeconds`"
        )
        errors.append(forbidden_field("spec", detail))
    if spec.get("nodeName") != old.get("nodeName"):
        errors.append(forbidden_field("spec.nodeName", "a pod is assigned to a node with its binding subresource"))
    return errors


def prepare_resize(new: Object, old: Object) -> None:
    """Undo everything but the containers' resources."""
    wanted = {c.get("name"): c for key in _CONTAINERS for c in (new.get("spec") or {}).get(key) or []}
    new["spec"] = copy.deepcopy(old["spec"])
    for key in _CONTAINERS:
        for container in new["spec"].get(key) or []:
            for field in ("resources", "resizePolicy"):
                container.pop(field, None)
                if field in wanted.get(container["name"], {}):
                    container[field] = wanted[container["name"]][field]


def validate_resize(new: Object, old: Object) -> Errors:
    """What is wrong with the new resources."""
    before, after = old["spec"], new["spec"]
    errors = pod_spec_errors(after, "spec", restart=("Always", "OnFailure", "Never"))
    if quality_of_service(before) != quality_of_service(after):
        detail = "Pod QOS Class may not change as a result of resizing"
        errors.append(invalid_value("spec", quality_of_service(before), detail))
    for key in _CONTAINERS:
        for index, (one, other) in enumerate(zip(before.get(key) or [], after.get(key) or [], strict=True)):
            was, now = one.get("resources") or {}, other.get("resources") or {}
            for kind in ("requests", "limits"):
                if (was.get(kind) or {}).keys() - (now.get(kind) or {}).keys():
                    errors.append(forbidden_field(f"spec.{key}[{index}].resources.{kind}", "cannot be removed"))
            # 1.36 forgets the claims of the new container when it compares: one that has claims is never resized.
            if _fixed({**now, "claims": None}) != _fixed({**was, "claims": was.get("claims")}):
                errors.append(forbidden_field("spec", "only cpu and memory resources are mutable"))
    return errors


def _fixed(resources: Object) -> Object:
    """The resources without what may change."""
    return {
        "claims": resources["claims"],
        **{
            kind: {name: value for name, value in (resources.get(kind) or {}).items() if name not in {"cpu", "memory"}}
            for kind in ("requests", "limits")
        },
    }
