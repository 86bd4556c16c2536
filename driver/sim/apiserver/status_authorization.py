"""Who may write which part of a claim's status: the synthetic permissions of Kubernetes 1.36."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.errors import FieldError, forbidden_field

if TYPE_CHECKING:
    from collections.abc import Callable

    from driver.sim.apiserver.access import User
    from driver.sim.apiserver.call import Call

    Object = dict[str, Any]
    Authorize = Callable[[User, str, str, str, str, str, str], bool]

_NODE_NAME = "authentication.kubernetes.io/node-name"


def check(call: Call, new: Object, old: Object, authorize: Authorize) -> list[FieldError]:
    """Field errors (they become a 422) for the parts of ``status`` that this user may not change."""
    after, before = new.get("status") or {}, old.get("status") or {}
    verb = call.verb or "update"
    errors = []
    if any(after.get(key) != before.get(key) for key in ("allocation", "reservedFor")) and not authorize(
        call.user, verb, "resource.k8s.io", "resourceclaims", "binding", "", ""
    ):
        needs = f'requires resource="resourceclaims/binding", verb="{verb}" permission'
        detail = f"changing status.allocation or status.reservedFor {needs}, which {call.user.name} has not"
        errors.append(forbidden_field("status.allocation", detail))
    if not after.get("allocation"):
        return errors
    verbs = [f"arbitrary-node:{verb}"]
    if _on_allocated_node(call.user, after["allocation"]):
        verbs.insert(0, f"associated-node:{verb}")
    for driver in sorted(_changed_drivers(after, before)):
        allowed = any(
            authorize(call.user, wanted, "resource.k8s.io", "resourceclaims", "driver", call.namespace, driver)
            for wanted in verbs
        )
        if not allowed:
            needs = f'requires resource="resourceclaims/driver", verb="[{" ".join(verbs)}]" permission'
            detail = f"changing status.devices of {driver} {needs}, which {call.user.name} has not"
            errors.append(forbidden_field("status.devices", detail))
    return errors


def _changed_drivers(after: Object, before: Object) -> set[str]:
    def by_key(status: Object) -> dict[tuple[str, ...], Object]:
        keys = ("driver", "pool", "device", "shareID")
        return {tuple(str(d.get(key, "")) for key in keys): d for d in status.get("devices") or []}

    old, new = by_key(before), by_key(after)
    return {key[0] for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def _on_allocated_node(user: User, allocation: Object) -> bool:
    nodes = tuple(user.extra.get(_NODE_NAME, ()))
    if not user.name.startswith("system:serviceaccount:") or len(nodes) != 1:
        return False
    terms = (allocation.get("nodeSelector") or {}).get("nodeSelectorTerms") or []
    if len(terms) != 1 or terms[0].get("matchExpressions") or len(terms[0].get("matchFields") or []) != 1:
        return False
    field = terms[0]["matchFields"][0]
    return bool(
        field.get("key") == "metadata.name" and field.get("operator") == "In" and field.get("values") == list(nodes)
    )
