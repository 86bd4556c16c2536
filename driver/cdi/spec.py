"""CDI specs as pure functions: container edits in, the JSON that a runtime reads out.

Source: the CDI specification, version 1.1.0. Only the lowest version that the fields need is written, because a runtime
refuses a spec that is newer than itself.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.devices.model import ContainerEdits, DeviceNode

# 0.5.0 brought device names that start with a digit (claim UIDs do) and deviceNodes[].hostPath.
CDI_VERSION = "0.5.0"

_DEVICE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")


class SpecError(ValueError):
    """A runtime would refuse this spec."""


def kind(driver: str) -> str:
    """``vendor/class`` of our specs."""
    return f"k8s.{driver}/claim"


def file_name(driver: str, claim_uid: str) -> str:
    """The spec file of a claim."""
    return f"k8s.{driver}-claim_{claim_uid}.json"


def device_name(claim_uid: str, device: str, share_id: str | None) -> str:
    """A name that is never used again with other content: by claim, device and share."""
    return f"{claim_uid}-{device}" + (f"-{share_id}" if share_id else "")


def qualified(driver: str, name: str) -> str:
    """The id that the kubelet hands to the runtime."""
    return f"{kind(driver)}={name}"


def render(driver: str, common: ContainerEdits, devices: Mapping[str, ContainerEdits]) -> bytes:
    """The spec of one claim: edits by device name, and those that go with every device.

    Raises SpecError where a runtime would drop the spec: no device, a name that it cannot parse, an empty edit.
    """
    if not devices:
        raise SpecError("a CDI spec needs at least one device")
    for name, edits in devices.items():
        if not _DEVICE_NAME.fullmatch(name):
            raise SpecError(f"CDI device name {name!r}: letters, digits and inner '_', '.', ':', '-' expected")
        if not edits:
            raise SpecError(f"CDI device {name!r} has no edits")
    spec: dict[str, Any] = {
        "cdiVersion": CDI_VERSION,
        "kind": kind(driver),
        "devices": [{"name": name, "containerEdits": _edits(edits)} for name, edits in sorted(devices.items())],
    }
    if common:
        spec["containerEdits"] = _edits(common)
    return json.dumps(spec).encode()  # indented, it would take the slow encoder


def _edits(edits: ContainerEdits) -> dict[str, Any]:
    rendered: dict[str, Any] = {}
    if edits.env:
        rendered["env"] = list(edits.env)
    if edits.device_nodes:
        rendered["deviceNodes"] = [_device_node(node) for node in edits.device_nodes]
    if edits.mounts:
        rendered["mounts"] = [
            {"hostPath": mount.host_path, "containerPath": mount.container_path, "options": list(mount.options)}
            for mount in edits.mounts
        ]
    if edits.hooks:
        rendered["hooks"] = [
            {"hookName": hook.name, "path": hook.path}
            | ({"args": list(hook.args)} if hook.args else {})
            | ({"env": list(hook.env)} if hook.env else {})
            for hook in edits.hooks
        ]
    return rendered


def _device_node(node: DeviceNode) -> dict[str, Any]:
    optional = {
        "hostPath": node.host_path,
        "type": node.type,
        "major": node.major,
        "minor": node.minor,
        "fileMode": node.file_mode,
        "permissions": node.permissions,
    }
    return {"path": node.path} | {key: value for key, value in optional.items() if value is not None}
