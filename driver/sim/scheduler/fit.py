"""Whether a pod may run on a node, apart from its devices. Pure; CPU and memory are not counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from driver.sim.scheduler import nodes, taints

if TYPE_CHECKING:
    from collections.abc import Mapping

UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": taints.NO_SCHEDULE}


def refusal(pod: Mapping[str, Any], node: Mapping[str, Any]) -> str:
    """Why the node is out of the question, empty if it is not."""
    spec = pod["spec"]
    ready = next((c for c in (node.get("status") or {}).get("conditions") or [] if c["type"] == "Ready"), None)
    if ready is not None and ready["status"] != "True":
        return "node(s) were not ready"
    node_taints = [*((node.get("spec") or {}).get("taints") or [])]
    if (node.get("spec") or {}).get("unschedulable"):
        node_taints.append(UNSCHEDULABLE)
    if taint := taints.blocking(node_taints, spec.get("tolerations") or ()):
        return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    labels = node["metadata"].get("labels") or {}
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    wanted = (spec.get("nodeSelector") or {}).items()
    if any(labels.get(key) != value for key, value in wanted) or not nodes.matches(node, affinity):
        return "node(s) didn't match Pod's node affinity/selector"
    return ""
