"""Resource quotas: what objects use, what that leaves, and the refusal when it is not enough.

Devices by class, pods, and numbers of objects (``count/<plural>.<group>``) are counted; other names are taken and count
nothing: what somebody else writes as their usage stays until the quota's spec changes. Usage is counted anew from the
store whenever something may have changed it: so it cannot drift.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.sim import quantity
from driver.sim.apiserver.errors import forbidden

if TYPE_CHECKING:
    from driver.sim.apiserver.call import Call, Object
    from driver.sim.apiserver.store import Change, Store

    Usage = dict[str, int]

_PER_CLASS = ".deviceclass.resource.k8s.io/devices"
_ALL_DEVICES = 32
"""What allocation mode All counts for: the most that a claim may get."""


class Quotas:
    """Admission by quota, and the status of the quotas."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def admit(self, call: Call, operation: str, new: Object | None, _old: Object | None) -> None:
        """Raise StatusError 403 if a new object would exceed a quota."""
        if new is None or operation != "CREATE":
            return
        asked = _usage(call.resource.plural, call.resource.group, new)
        for quota in self._quotas(call.namespace):
            hard, used = _hard(quota), self._used(quota)
            exceeded = sorted(n for n in asked if n in hard and used[n] + asked[n] > quantity.parse(hard[n]))
            if exceeded:
                why = f"exceeded quota: {quota['metadata']['name']}"
                for word, amounts in (("requested", asked), ("used", used), ("limited", hard)):
                    why += f", {word}: {','.join(f'{name}={amounts[name]}' for name in exceeded)}"
                meta = new["metadata"]
                raise forbidden(call.resource, meta.get("name") or meta.get("generateName") or "Unknown", why)

    def changed(self, _collection: str, change: Change) -> None:
        """Write the new usage into the quotas that a change may concern."""
        for quota in self._quotas(change.key[0]):
            hard, before = _hard(quota), quota.get("status") or {}
            used = {name: str(amount) for name, amount in self._used(quota).items()}
            if before.get("hard") == hard:
                used |= {name: text for name, text in before.get("used", {}).items() if not _is_counted(name)}
            status = {"hard": hard, "used": used}
            if before != status:
                updated = {**quota, "metadata": dict(quota["metadata"]), "status": status}
                self._store.put("resourcequotas", (change.key[0], quota["metadata"]["name"]), updated)

    def _quotas(self, namespace: str) -> list[Object]:
        objects = self._store.collection("resourcequotas").objects
        return [objects[key].obj for key in sorted(objects) if key[0] == namespace]

    def _used(self, quota: Object) -> Usage:
        """How much of what a quota limits is in use."""
        used = dict.fromkeys(_hard(quota), 0)
        for collection in self._store.names():
            for key, stored in self._store.collection(collection).objects.items():
                if key[0] == quota["metadata"]["namespace"]:
                    group = stored.obj["apiVersion"].rpartition("/")[0]
                    for name, amount in _usage(collection, group, stored.obj).items():
                        if name in used:
                            used[name] += amount
        return used


def _hard(quota: Object) -> Object:
    return (quota.get("spec") or {}).get("hard") or {}


def _is_counted(name: str) -> bool:
    return name == "pods" or name.startswith("count/") or name.endswith(_PER_CLASS)


def _usage(collection: str, group: str, obj: Object) -> Usage:
    usage = {f"count/{collection}.{group}" if group else f"count/{collection}": 1}
    if collection == "pods" and (obj.get("status") or {}).get("phase") not in {"Succeeded", "Failed"}:
        usage["pods"] = 1
    if collection == "resourceclaims":
        for request in ((obj.get("spec") or {}).get("devices") or {}).get("requests") or []:
            most: Usage = {}
            for choice in request.get("firstAvailable") or [request.get("exactly") or {}]:
                name = f"{choice.get('deviceClassName', '')}{_PER_CLASS}"
                most[name] = max(most.get(name, 0), _devices(choice))
            for name, amount in most.items():
                usage[name] = usage.get(name, 0) + amount
    return usage


def _devices(request: Object) -> int:
    return _ALL_DEVICES if request.get("allocationMode") == "All" else int(request.get("count", 1))
