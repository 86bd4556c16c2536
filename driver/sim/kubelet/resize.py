"""In-place resize of running pods (Kubernetes 1.36), as far as processes have something to resize: they do not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def summary(pod: Mapping[str, Any]) -> str:
    """What the kubelet's events say of a pod's resources."""
    spec: dict[str, Any] = {}
    for kind in ("initContainers", "containers"):
        if containers := pod["spec"].get(kind):
            spec[kind] = [{"name": c["name"], "resources": c.get("resources") or {}} for c in containers]
    spec["generation"] = pod["metadata"].get("generation", 0)
    return json.dumps(spec, separators=(",", ":"))
