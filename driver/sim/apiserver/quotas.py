"""Resource quotas: what objects use, what that leaves, and the refusal when it is not enough.

Usage is counted anew from the store whenever something may have changed it; at this server's size that costs little,
and it cannot drift. Rules of the evaluators for claims, pods and object counts of Kubernetes 1.36.
"""

from __future__ import annotations

from datetime import datetime
from fractions import Fraction
from typing import TYPE_CHECKING

from driver.sim.apiserver import quantity
from driver.sim.apiserver.errors import forbidden

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from driver.sim.apiserver.engine import Call, Object
    from driver.sim.apiserver.store import Change, Store

    Usage = dict[str, Fraction]

_PER_CLASS = ".deviceclass.resource.k8s.io/devices"
_IMPLICIT = "requests.deviceclass.resource.kubernetes.io/"
_SPECIAL_CLAIM = "resource.kubernetes.io/extended-resource-claim"
_ALL_DEVICES = 32
"""What allocation mode All counts for: the most that a claim may get."""
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_PLAIN = frozenset(("configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas", "secrets",
                    "services"))  # fmt: skip


class Quotas:
    """Admission by quota, and the status of the quotas."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    def admit(self, call: Call, operation: str, new: Object | None, old: Object | None) -> None:
        """Raise StatusError 403 if the request would exceed a quota."""
        if new is None or not self._store.collection("resourcequotas").objects or not _counted(call, operation):
            return
        wanted = self._usage(call.resource.plural, call.resource.group, new)
        before = self._usage(call.resource.plural, call.resource.group, old) if old is not None else {}
        asked = {name: amount - before.get(name, Fraction(0)) for name, amount in wanted.items()}
        asked = {name: amount for name, amount in asked.items() if amount > 0}
        for quota in self._in_namespace(call.namespace, "resourcequotas"):
            if call.resource.plural == "pods" and not _in_scope(quota, new):
                continue
            hard = (quota.get("spec") or {}).get("hard") or {}
            if call.resource.plural == "pods":
                self._check_given(call, quota, new)
            used = self._used(quota)
            exceeded = sorted(
                name for name in asked if name in hard and used[name] + asked[name] > quantity.value(hard[name])
            )
            if exceeded:
                why = f"exceeded quota: {quota['metadata']['name']}"
                lists = (("requested", asked), ("used", used), ("limited", hard))
                for word, amounts in lists:
                    shown = (f"{name}={_text(name, amounts[name])}" for name in exceeded)
                    why += f", {word}: {','.join(shown)}"
                raise forbidden(call.resource, _name_of(call, new), why)

    def _check_given(self, call: Call, quota: Object, pod: Object) -> None:
        """A pod must say how much it needs of cpu and memory where these are limited."""
        limited = {name for name in (quota["spec"].get("hard") or {}) if name.rpartition(".")[2] in {"cpu", "memory"}}
        missing: dict[str, set[str]] = {}
        for container in _containers(pod):
            resources = container.get("resources") or {}
            for name in limited:
                kind, _, resource = name.rpartition(".")
                if resource not in (resources.get(kind or "requests") or {}):
                    missing.setdefault(name, set()).add(container["name"])
        if missing:
            listed = "; ".join(f"{name} for: {','.join(sorted(missing[name]))}" for name in sorted(missing))
            why = f"failed quota: {quota['metadata']['name']}: must specify {listed}"
            raise forbidden(call.resource, _name_of(call, pod), why)

    def changed(self, collection: str, change: Change) -> None:
        """Write the new usage into the quotas that a change may concern."""
        if not self._store.collection("resourcequotas").objects:
            return
        everywhere = collection == "deviceclasses"
        for key, stored in list(self._store.collection("resourcequotas").objects.items()):
            if not everywhere and key[0] != change.key[0]:
                continue
            quota = stored.obj
            hard = (quota.get("spec") or {}).get("hard") or {}
            used = {name: _text(name, amount) for name, amount in self._used(quota).items()}
            status = {"hard": hard, "used": used} if hard else {}
            if (quota.get("status") or {}) != status:
                updated = {**quota, "metadata": dict(quota["metadata"]), "status": status}
                self._store.put("resourcequotas", key, updated)

    # -- counting ------------------------------------------------------------------------------------------------

    def _in_namespace(self, namespace: str, collection: str) -> list[Object]:
        objects = self._store.collection(collection).objects
        return [objects[key].obj for key in sorted(objects) if key[0] == namespace]

    def _used(self, quota: Object) -> Usage:
        """How much of what a quota limits is in use."""
        hard = (quota.get("spec") or {}).get("hard") or {}
        used = dict.fromkeys(hard, Fraction(0))
        namespace = quota["metadata"]["namespace"]
        for collection, group in _evaluated(hard):
            for obj in self._in_namespace(namespace, collection):
                if collection == "pods" and not _in_scope(quota, obj):
                    continue
                for name, amount in self._usage(collection, group, obj).items():
                    if name in used:
                        used[name] += amount
        return used

    def _usage(self, collection: str, group: str, obj: Object) -> Usage:
        usage = {f"count/{collection}.{group}" if group else f"count/{collection}": Fraction(1)}
        if collection == "pods" and not group:
            return usage | self._pod(obj)
        if collection == "resourceclaims":
            return usage | self._claim(obj)
        return usage | ({collection: Fraction(1)} if collection in _PLAIN and not group else {})

    def _pod(self, pod: Object) -> Usage:
        if (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"} or self._overdue(pod):
            return {}
        usage = {"pods": Fraction(1)}
        for kind in ("requests", "limits"):
            for name, amount in _pod_resources(pod, kind).items():
                extended = "/" in name and not f".{name.partition('/')[0]}".endswith(".kubernetes.io")
                if name in _COMPUTE or (kind == "requests" and (extended or name.startswith(_IMPLICIT[9:]))):
                    usage[f"{kind}.{name}"] = amount
                if name in _COMPUTE and kind == "requests":
                    usage[name] = amount
        return usage

    def _overdue(self, pod: Object) -> bool:
        meta = pod["metadata"]
        if not meta.get("deletionTimestamp"):
            return False
        return datetime.fromisoformat(meta["deletionTimestamp"]) < self._now()

    def _claim(self, claim: Object) -> Usage:
        usage: Usage = {}
        for request in ((claim.get("spec") or {}).get("devices") or {}).get("requests") or []:
            most: Usage = {}
            for choice in request.get("firstAvailable") or [request.get("exactly") or {}]:
                name = f"{choice.get('deviceClassName', '')}{_PER_CLASS}"
                most[name] = max(most.get(name, Fraction(0)), Fraction(_devices(choice)))
            for name, amount in most.items():
                usage[name] = usage.get(name, Fraction(0)) + amount
        return usage | self._extended(claim, usage)

    def _extended(self, claim: Object, devices: Usage) -> Usage:
        """The same devices by the names of extended resources, less what the claim's pod is charged for already."""
        charged = self._pod_of(claim)
        usage: Usage = {}
        for name, amount in devices.items():
            device_class = name.removesuffix(_PER_CLASS)
            stored = self._store.get("deviceclasses", ("", device_class))
            explicit = (stored.obj.get("spec") or {}).get("extendedResourceName") if stored else ""
            if not explicit:
                continue
            for extended in (_IMPLICIT + device_class, f"requests.{explicit}"):
                left = amount - charged.get(extended, Fraction(0))
                if left > 0:
                    usage[extended] = left
        return usage

    def _pod_of(self, claim: Object) -> Usage:
        meta = claim["metadata"]
        owner = next((ref for ref in meta.get("ownerReferences") or () if ref.get("controller")), None)
        if (meta.get("annotations") or {}).get(_SPECIAL_CLAIM) != "true" or owner is None or owner["kind"] != "Pod":
            return {}
        stored = self._store.get("pods", (meta["namespace"], owner["name"]))
        if stored is None or stored.obj["metadata"]["uid"] != owner["uid"]:
            return {}
        known = (stored.obj.get("status") or {}).get("extendedResourceClaimStatus")
        if known is not None and known.get("resourceClaimName") != meta.get("name"):
            return {}
        return self._pod(stored.obj)


def _counted(call: Call, operation: str) -> bool:
    """Whether the request can change what is used at all."""
    if call.subresource:
        return call.resource.plural == "pods" and call.subresource == "resize"
    return operation == "CREATE" or (operation == "UPDATE" and call.resource.plural == "resourceclaims")


def _evaluated(hard: Iterable[str]) -> set[tuple[str, str]]:
    """Collection and group of the objects that these names are about."""
    found: set[tuple[str, str]] = set()
    for name in hard:
        if name.startswith("count/"):
            collection, _, group = name.removeprefix("count/").partition(".")
            found.add((collection, group))
        elif name in _PLAIN:
            found.add((name, ""))
        elif name.endswith(_PER_CLASS):
            found.add(("resourceclaims", "resource.k8s.io"))
        else:
            found.add(("pods", ""))
            if "/" in name:
                found.add(("resourceclaims", "resource.k8s.io"))
    return found


def _devices(request: Object) -> int:
    mode = request.get("allocationMode", "ExactCount")
    return {"ExactCount": int(request.get("count", 1)), "All": _ALL_DEVICES}.get(mode, 0)


def _containers(pod: Object) -> list[Object]:
    return [*(pod["spec"].get("initContainers") or []), *(pod["spec"].get("containers") or [])]


def _pod_resources(pod: Object, kind: str) -> Usage:
    """What a pod needs at most at one time: containers with sidecars, or an init container with those before it."""
    total: Usage = {}
    peak: Usage = {}
    for container in _containers(pod):
        amounts = {
            name: quantity.value(text) for name, text in ((container.get("resources") or {}).get(kind) or {}).items()
        }
        short = container in (pod["spec"].get("initContainers") or []) and container.get("restartPolicy") != "Always"
        for name, amount in amounts.items():
            if short:
                peak[name] = max(peak.get(name, Fraction(0)), total.get(name, Fraction(0)) + amount)
            else:
                total[name] = total.get(name, Fraction(0)) + amount
    return {name: max(total.get(name, Fraction(0)), peak.get(name, Fraction(0))) for name in total.keys() | peak.keys()}


def _in_scope(quota: Object, pod: Object) -> bool:
    spec = pod["spec"]
    best_effort = not any(
        (c.get("resources") or {}).get(key) for c in _containers(pod) for key in ("requests", "limits")
    )
    facts = {
        "Terminating": spec.get("activeDeadlineSeconds") is not None,
        "NotTerminating": spec.get("activeDeadlineSeconds") is None,
        "BestEffort": best_effort,
        "NotBestEffort": not best_effort,
    }
    return all(facts.get(scope, True) for scope in (quota.get("spec") or {}).get("scopes") or [])


def _name_of(call: Call, obj: Object) -> str:
    meta = obj.get("metadata") or {}
    return call.name or meta.get("name") or meta.get("generateName") or "Unknown"


def _text(name: str, amount: Fraction | str) -> str:
    if isinstance(amount, str):
        return amount
    return quantity.text(amount, binary=name.rpartition(".")[2] in {"memory", "ephemeral-storage"})
