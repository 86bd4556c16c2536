"""What of an object may be kept: lists of names, so that a field nobody thought of stays where it is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from driver.claims import decode_parameters


def kept(value: Any, shape: Any) -> Any:
    """What of a value its shape allows; None where the value is of another kind than the shape.

    A shape is True for a scalar, a mapping for these fields of an object, or a function for what it makes of the value.
    Of a list, each.
    """
    if isinstance(value, list | tuple):
        return [kept(one, shape) for one in value]
    if isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            return None
        return {name: kept(value[name], inner) for name, inner in shape.items() if name in value}
    if callable(shape):
        return shape(value)
    return value if value is None or isinstance(value, str | int | float) else None


def everything(value: Any) -> Any:
    """All of it: where the API or the driver itself says what can stand there, and no free text can."""
    return value


def _names(value: Any) -> Any:
    """Of an environment variable its name."""
    return value.partition("=")[0] if isinstance(value, str) else None


def _opaque(value: Any) -> Any:
    """Parameters for a driver: ours as far as they are what we accept, others' not at all."""
    if not isinstance(value, Mapping):
        return None
    found = {"driver": kept(value.get("driver"), True)}
    parameters = value.get("parameters")
    try:
        decoded = decode_parameters(parameters if isinstance(parameters, Mapping) else {})
    except ValueError:
        return {**found, "parameters": "not shown: this driver does not accept them"}
    return {**found, "parameters": decoded.model_dump(mode="json", by_alias=True, exclude_unset=True)}


OWNER = {"apiVersion": True, "kind": True, "name": True, "uid": True, "controller": True}
METADATA = {
    "name": True,
    "namespace": True,
    "uid": True,
    "resourceVersion": True,
    "generation": True,
    "creationTimestamp": True,
    "deletionTimestamp": True,
    "finalizers": True,
    "ownerReferences": OWNER,
}
CONDITION = {"type": True, "status": True, "reason": True, "message": True, "lastTransitionTime": True}
CONFIG = {"requests": True, "source": True, "opaque": _opaque}

SLICE = {"apiVersion": True, "kind": True, "metadata": METADATA, "spec": everything}

_EXACTLY = {
    "deviceClassName": True,
    "selectors": {"cel": {"expression": True}},
    "allocationMode": True,
    "count": True,
    "adminAccess": True,
    "tolerations": {"key": True, "operator": True, "value": True, "effect": True, "tolerationSeconds": True},
    "capacity": {"requests": everything},
}
CLAIM = {
    "apiVersion": True,
    "kind": True,
    "metadata": METADATA,
    "spec": {
        "devices": {
            "requests": {"name": True, "exactly": _EXACTLY, "firstAvailable": {"name": True, **_EXACTLY}},
            "constraints": {"requests": True, "matchAttribute": True, "distinctAttribute": True},
            "config": CONFIG,
        }
    },
    "status": {
        "allocation": {
            "allocationTimestamp": True,
            "nodeSelector": everything,
            "devices": {"results": everything, "config": CONFIG},
        },
        "reservedFor": {"apiGroup": True, "resource": True, "name": True, "uid": True},
        "devices": {"driver": True, "pool": True, "device": True, "shareID": True, "conditions": CONDITION},
    },
}
CLASS = {
    "metadata": METADATA,
    "spec": {"selectors": {"cel": {"expression": True}}, "config": CONFIG, "extendedResourceName": True},
}
NODE = {
    "metadata": METADATA,
    "spec": {"unschedulable": True, "taints": {"key": True, "effect": True, "timeAdded": True}},
    "status": {
        "capacity": everything,
        "allocatable": everything,
        "conditions": CONDITION,
        "nodeInfo": {
            "architecture": True,
            "containerRuntimeVersion": True,
            "kernelVersion": True,
            "kubeletVersion": True,
            "osImage": True,
        },
    },
}
_STATE = {
    "waiting": {"reason": True, "message": True},
    "running": {"startedAt": True},
    # Its message may be the end of the log of somebody's program.
    "terminated": {"reason": True, "exitCode": True, "startedAt": True, "finishedAt": True},
}
POD = {
    "metadata": METADATA,
    "spec": {
        "nodeName": True,
        "resourceClaims": {"name": True, "resourceClaimName": True, "resourceClaimTemplateName": True},
        "containers": {"name": True, "image": True, "resources": {"claims": everything}},
    },
    "status": {
        "phase": True,
        "reason": True,
        "message": True,
        "conditions": CONDITION,
        "resourceClaimStatuses": {"name": True, "resourceClaimName": True},
        "containerStatuses": {
            "name": True,
            "ready": True,
            "restartCount": True,
            "imageID": True,
            "state": _STATE,
            "lastState": _STATE,
        },
    },
}
EVENT = {
    "metadata": {"creationTimestamp": True},
    "involvedObject": {"kind": True, "namespace": True, "name": True, "uid": True},
    "type": True,
    "reason": True,
    "message": True,
    "count": True,
    "firstTimestamp": True,
    "lastTimestamp": True,
}
_EDITS = {
    "env": _names,
    "deviceNodes": everything,
    "mounts": {"hostPath": True, "containerPath": True, "options": True, "type": True},
    "hooks": {"hookName": True, "path": True, "args": True, "env": _names},
}
SPEC = {
    "cdiVersion": True,
    "kind": True,
    "devices": {"name": True, "containerEdits": _EDITS},
    "containerEdits": _EDITS,
}
"""A CDI spec."""
