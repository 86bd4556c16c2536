"""Which nodes a pod may run on, and a slice, a device or an allocation be used from. CPU and memory are not counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.sim.apiserver.selectors import meets
from driver.sim.scheduler import tolerations

if TYPE_CHECKING:
    from collections.abc import Mapping

UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": tolerations.NO_SCHEDULE}


def refusal(pod: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Why the node is out of the question, empty if it is not."""
    spec = pod["spec"]
    ready = next((c for c in (node.get("status") or {}).get("conditions") or [] if c["type"] == "Ready"), None)
    if ready is not None and ready["status"] != "True":
        return "node(s) were not ready"
    node_taints = [*((node.get("spec") or {}).get("taints") or [])]
    if (node.get("spec") or {}).get("unschedulable"):
        node_taints.append(UNSCHEDULABLE)
    if taint := tolerations.blocking(node_taints, spec.get("tolerations") or ()):
        return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    labels = node["metadata"].get("labels") or {}
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    wanted = (spec.get("nodeSelector") or {}).items()
    if any(labels.get(key) != value for key, value in wanted) or not matches(node, affinity):
        return "node(s) didn't match Pod's node affinity/selector"
    return ""


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
    return all(meets(labels, r) for r in expressions) and all(meets(name, r) for r in fields)


def bound_to(name: str) -> dict[str, Any]:
    """The selector that an allocation of a node's own devices carries."""
    requirement = {"key": "metadata.name", "operator": "In", "values": [name]}
    return {"nodeSelectorTerms": [{"matchFields": [requirement]}]}
