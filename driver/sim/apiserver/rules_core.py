"""Pods, nodes, namespaces, events, jobs: the defaults and checks that an embedded cluster needs, not all there are."""

from __future__ import annotations

import base64
import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from driver.sim.apiserver import checks, quantity
from driver.sim.apiserver.errors import (
    FieldError,
    StatusError,
    duplicate,
    forbidden_field,
    invalid_value,
    not_found_value,
    required,
    too_long,
    unsupported,
)

if TYPE_CHECKING:
    from driver.sim.apiserver.context import Context

    Object = dict[str, Any]
    Errors = list[FieldError]

_CONTAINERS = ("initContainers", "containers")


def prepare_namespace(new: Object, _old: Object | None, _context: Context) -> None:
    """The label with its own name."""
    meta = new["metadata"]
    meta.setdefault("labels", {})["kubernetes.io/metadata.name"] = meta.get("name", "")


def admit_namespace(new: Object, _old: Object | None, _context: Context) -> None:
    """The finalizer of its contents, the phase."""
    new["spec"] = {"finalizers": ["kubernetes"]}
    new["status"] = {"phase": "Active"}


def prepare_node(new: Object, _old: Object | None, _context: Context) -> None:
    """A node always has a spec and a status."""
    new.setdefault("spec", {})
    new.setdefault("status", {})


def prepare_node_status(new: Object, _old: Object | None, _context: Context) -> None:
    """All of the capacity is allocatable where the kubelet says nothing else."""
    status = new.setdefault("status", {})
    if status.get("capacity") and not status.get("allocatable"):
        status["allocatable"] = dict(status["capacity"])


def validate_node(new: Object, _old: Object | None, _context: Context) -> Errors:
    """Taints of the node."""
    errors: Errors = []
    taints = (new.get("spec") or {}).get("taints") or []
    for index, taint in enumerate(taints):
        path = f"spec.taints[{index}]"
        errors += checks.label_name(taint.get("key", ""), f"{path}.key")
        if taint.get("effect") not in {"NoSchedule", "PreferNoSchedule", "NoExecute"}:
            supported = ("NoSchedule", "PreferNoSchedule", "NoExecute")
            errors.append(unsupported(f"{path}.effect", taint.get("effect", ""), supported))
    return errors


def prepare_secret(new: Object, _old: Object | None, _context: Context) -> None:
    """The type; plain text becomes data."""
    new.setdefault("type", "Opaque")
    for key, value in (new.pop("stringData", None) or {}).items():
        new.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()


def prepare_service(new: Object, _old: Object | None, _context: Context) -> None:
    """Type and ports. Nobody serves its address, so it has none."""
    spec = new.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port", 0))


def validate_service(new: Object, _old: Object | None, _context: Context) -> Errors:
    """Ports."""
    spec = new["spec"]
    ports = spec.get("ports") or []
    headless = spec.get("clusterIP") == "None" or spec["type"] == "ExternalName"
    errors = [] if ports or headless else [required("spec.ports")]
    for index, port in enumerate(ports):
        if len(ports) > 1 and not port.get("name"):
            errors.append(required(f"spec.ports[{index}].name"))
        if not 0 < port.get("port", 0) < 65536:
            detail = "must be between 1 and 65535, inclusive"
            errors.append(invalid_value(f"spec.ports[{index}].port", port.get("port", 0), detail))
    return errors


def prepare_event(new: Object, _old: Object | None, _context: Context) -> None:
    """Source and involvedObject are always there."""
    new.setdefault("involvedObject", {})
    new.setdefault("source", {})


def validate_configmap(new: Object, _old: Object | None, _context: Context) -> Errors:
    """Keys and the total size of 1 MiB."""
    size = 0
    for key, value in (new.get("data") or {}).items():
        size += len(value.encode())
        if not key or len(key) > 253 or any(not (c.isalnum() or c in "-_.") for c in key):
            wanted = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
            return [invalid_value(f"data[{key}]", key, wanted)]
    return [too_long("", 1 << 20)] if size > 1 << 20 else []


# -- pods ------------------------------------------------------------------------------------------------------------


def default_pod_spec(spec: Object) -> None:
    """What a real server fills in, as far as somebody looks at it."""
    spec.setdefault("restartPolicy", "Always")
    if spec.setdefault("terminationGracePeriodSeconds", 30) < 0:
        spec["terminationGracePeriodSeconds"] = 1
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    for key in _CONTAINERS:
        for container in spec.get(key) or []:
            container.setdefault("resources", {})
            container.setdefault("terminationMessagePath", "/dev/termination-log")
            container.setdefault("terminationMessagePolicy", "File")
            image = str(container.get("image", ""))
            latest = ":" not in image.rsplit("/", 1)[-1] or image.endswith(":latest")
            container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
            for port in container.get("ports") or []:
                port.setdefault("protocol", "TCP")
            resources = container["resources"]
            for name, amount in (resources.get("limits") or {}).items():
                resources.setdefault("requests", {}).setdefault(name, amount)


def prepare_pod(new: Object, _old: Object | None, _context: Context) -> None:
    """Defaults of the spec."""
    spec = new.setdefault("spec", {})
    default_pod_spec(spec)
    spec.setdefault("enableServiceLinks", True)


def admit_pod(new: Object, _old: Object | None, context: Context) -> None:
    """What admission adds to a new pod, which is pending. There is no service account token: nobody would use it."""
    spec = new["spec"]
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("priority", _priority(new, context))
    tolerations = list(spec.get("tolerations") or [])
    everything = any(not item.get("key") and item.get("operator") == "Exists" for item in tolerations)
    tolerated = {item.get("key") for item in tolerations}
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not everything and key not in tolerated:
            spec.setdefault("tolerations", []).append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            )
    new["status"] = {"phase": "Pending", "qosClass": quality_of_service(spec)}


def _priority(pod: Object, context: Context) -> int:
    name = pod["spec"].get("priorityClassName", "")
    value = context.priority(name) if name else 0
    if value is None:
        meta = pod["metadata"]
        subject = meta.get("name") or meta.get("generateName", "Unknown")
        message = f'pods "{subject}" is forbidden: no PriorityClass with name {name} was found'
        raise StatusError(403, "Forbidden", message, {"name": subject, "kind": "pods"})
    return value


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
    return pod_spec_errors(spec, "spec", restart=("Always", "OnFailure", "Never"))


def pod_spec_errors(spec: Object, path: str, *, restart: tuple[str, ...]) -> Errors:
    """A pod's spec, also within a template."""
    errors: Errors = []
    if not spec.get("containers"):
        errors.append(required(f"{path}.containers"))
    if spec.get("restartPolicy") not in restart:
        errors.append(unsupported(f"{path}.restartPolicy", spec.get("restartPolicy", ""), restart))
    claims, found = _pod_claims(spec, f"{path}.resourceClaims")
    errors += found
    volumes, found = _volumes(spec, f"{path}.volumes")
    errors += found
    seen: set[str] = set()
    for key in _CONTAINERS:
        for index, container in enumerate(spec.get(key) or []):
            where = f"{path}.{key}[{index}]"
            errors += _container(container, where, claims) + _mounts(container, where, volumes)
            errors += _amounts(container.get("resources") or {}, f"{where}.resources")
            name = container.get("name", "")
            if name in seen:
                errors.append(duplicate(f"{where}.name", name))
            seen.add(name)
    return errors


def _volumes(spec: Object, path: str) -> tuple[set[str], Errors]:
    names: set[str] = set()
    errors: Errors = []
    for index, volume in enumerate(spec.get("volumes") or []):
        where = f"{path}[{index}].name"
        name = volume.get("name", "")
        errors += checks.dns_label(name, where) if name else [required(where)]
        if name in names:
            errors.append(duplicate(where, name))
        names.add(name)
    return names, errors


def _mounts(container: Object, path: str, volumes: set[str]) -> Errors:
    errors: Errors = []
    seen: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or []):
        where = f"{path}.volumeMounts[{index}]"
        if not mount.get("name"):
            errors.append(required(f"{where}.name"))
        elif mount["name"] not in volumes:
            errors.append(not_found_value(f"{where}.name", mount["name"]))
        if not mount.get("mountPath"):
            errors.append(required(f"{where}.mountPath"))
        elif mount["mountPath"] in seen:
            errors.append(invalid_value(f"{where}.mountPath", mount["mountPath"], "must be unique"))
        seen.add(mount.get("mountPath", ""))
    return errors


def _amounts(resources: Object, path: str) -> Errors:
    """Requests within limits; extended resources equal to them."""
    errors: Errors = []
    limits = resources.get("limits") or {}
    for name, amount in (resources.get("requests") or {}).items():
        where = f"{path}.requests"
        extended = "/" in name and not f".{name.partition('/')[0]}".endswith(".kubernetes.io")
        if name in limits and extended and quantity.value(amount) != quantity.value(limits[name]):
            errors.append(invalid_value(where, amount, f"must be equal to {name} limit of {limits[name]}"))
        elif name in limits and quantity.value(amount) > quantity.value(limits[name]):
            detail = f"must be less than or equal to {name} limit of {limits[name]}"
            errors.append(invalid_value(where, amount, detail))
        elif name not in limits and extended:
            errors.append(required(f"{path}.limits", "Limit must be set for non overcommitable resources"))
    return errors


def _pod_claims(spec: Object, path: str) -> tuple[set[str], Errors]:
    names: set[str] = set()
    errors: Errors = []
    for index, claim in enumerate(spec.get("resourceClaims") or []):
        where = f"{path}[{index}]"
        name = claim.get("name", "")
        errors += checks.dns_label(name, f"{where}.name") if name else [required(f"{where}.name")]
        if name in names:
            errors.append(duplicate(f"{where}.name", name))
        names.add(name)
        chosen = [key for key in ("resourceClaimName", "resourceClaimTemplateName") if claim.get(key) is not None]
        if len(chosen) > 1:
            detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            errors.append(invalid_value(where, claim, detail))
        elif not chosen:
            detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            errors.append(invalid_value(where, claim, detail))
        for key in chosen:
            errors += checks.dns_subdomain(claim[key], f"{where}.{key}")
    return names, errors


def _container(container: Object, path: str, claims: set[str]) -> Errors:
    name = container.get("name", "")
    errors = checks.dns_label(name, f"{path}.name") if name else [required(f"{path}.name")]
    if not container.get("image"):
        errors.append(required(f"{path}.image"))
    for index, item in enumerate(container.get("env") or []):
        if not item.get("name"):
            errors.append(required(f"{path}.env[{index}].name"))
    seen: set[tuple[Any, Any]] = set()
    for index, claim in enumerate((container.get("resources") or {}).get("claims") or []):
        where = f"{path}.resources.claims[{index}]"
        if not claim.get("name"):
            errors.append(required(f"{where}.name"))
        elif claim["name"] not in claims:
            listed = " which is empty" if not claims else ": " + ", ".join(sorted(claims))
            detail = f"must be one of the names in pod.spec.resourceClaims{listed}"
            error = not_found_value(where, claim["name"])
            errors.append(replace(error, body=f"{error.body}: {detail}"))
        key = (claim.get("name"), claim.get("request"))
        if key in seen or (claim.get("name"), None) in seen or (key[1] is None and key[0] in {k for k, _ in seen}):
            errors.append(duplicate(where, claim.get("name")))
        seen.add(key)
    return errors


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
            "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
            "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
        )
        errors.append(forbidden_field("spec", detail))
    if spec.get("nodeName") != old.get("nodeName"):
        errors.append(forbidden_field("spec.nodeName", "a pod is assigned to a node with its binding subresource"))
    if any(item not in (spec.get("tolerations") or []) for item in old.get("tolerations") or []):
        errors.append(
            forbidden_field("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
        )
    return errors


# -- jobs ------------------------------------------------------------------------------------------------------------


def prepare_job(new: Object, _old: Object | None, _context: Context) -> None:
    """Defaults of the spec."""
    spec = new.setdefault("spec", {})
    spec.setdefault("parallelism", 1)
    spec.setdefault("completions", 1)
    spec.setdefault("backoffLimit", 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("podReplacementPolicy", "TerminatingOrFailed")
    spec.setdefault("manualSelector", False)
    template = spec.setdefault("template", {})
    default_pod_spec(template.setdefault("spec", {}))
    new.setdefault("status", {})


def admit_job(new: Object, _old: Object | None, _context: Context) -> None:
    """The selector and the labels that tie the job to its pods."""
    spec = new["spec"]
    if not spec["manualSelector"]:
        template = spec["template"]
        uid, name = new["metadata"]["uid"], new["metadata"].get("name", "")
        labels = template.setdefault("metadata", {}).setdefault("labels", {})
        for prefix in ("", "batch.kubernetes.io/"):
            labels[f"{prefix}controller-uid"], labels[f"{prefix}job-name"] = uid, name
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}


def validate_job(new: Object, old: Object | None, _context: Context) -> Errors:
    """The template of the pods."""
    spec = new.get("spec") or {}
    pod = (spec.get("template") or {}).get("spec") or {}
    if old is not None:
        before = old.get("spec") or {}
        errors = checks.immutable(spec.get("selector"), before.get("selector"), "spec.selector")
        return errors + checks.immutable(spec.get("template"), before.get("template"), "spec.template")
    return pod_spec_errors(pod, "spec.template.spec", restart=("OnFailure", "Never"))
