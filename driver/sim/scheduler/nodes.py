"""Which nodes a slice, a device or an allocation may be used from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def selects(node: Mapping[str, Any], scope: Mapping[str, Any]) -> bool:
    """Whether a slice's spec or a device names the node: by name, for all nodes, or by selector."""
    if scope.get("nodeName"):
        return bool(scope["nodeName"] == node["metadata"]["name"])
    if scope.get("allNodes"):
        return True
    return scope.get("nodeSelector") is not None and matches(node, scope["nodeSelector"])


def matches(node: Mapping[str, Any], selector: Mapping[str, Any] | None) -> bool:
    """Whether a NodeSelector accepts the node: one of its terms holds; None accepts each node."""
    if selector is None:
        return True
    return any(_term(node, term) for term in selector.get("nodeSelectorTerms") or [])


def _term(node: Mapping[str, Any], term: Mapping[str, Any]) -> bool:
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False  # an empty term matches nothing
    labels = node["metadata"].get("labels") or {}
    name = {"metadata.name": node["metadata"]["name"]}
    return all(_requirement(labels, r) for r in expressions) and all(_requirement(name, r) for r in fields)


def _requirement(values: Mapping[str, str], requirement: Mapping[str, Any]) -> bool:
    key, wanted = requirement["key"], requirement.get("values") or []
    match requirement["operator"]:
        case "In":
            return values.get(key) in wanted
        case "NotIn":
            return values.get(key) not in wanted
        case "Exists":
            return key in values
        case "DoesNotExist":
            return key not in values
        case _:
            return False


def bound_to(name: str) -> dict[str, Any]:
    """The selector that an allocation of a node's own devices carries."""
    requirement = {"key": "metadata.name", "operator": "In", "values": [name]}
    return {"nodeSelectorTerms": [{"matchFields": [requirement]}]}
