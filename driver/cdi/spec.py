"""CDI specs as pure functions: container edits in, the JSON that a runtime reads out.

Source: the CDI specification, version 1.1.0. Only the lowest version that the fields need is written, because a runtime
refuses a spec that is newer than itself.
"""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.hardware import ContainerEdits, DeviceNode

BASE_VERSION = "0.3.0"
# 0.5.0 brought device names that start with a digit, as many claim UIDs do, and deviceNodes[].hostPath.
DIGITS_AND_HOST_PATHS = "0.5.0"

_DEVICE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_VARIABLE = re.compile(r"[^=\0]+=[^\0]*")
_PERMISSIONS = re.compile(r"[rwm]{1,3}")
_NODE_TYPES = frozenset("bcup")
_HOOK_NAMES = frozenset({"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"})


class SpecError(ValueError):
    """A runtime would refuse this spec."""


def cdi_kind(driver: str) -> str:
    """``vendor/class`` of our specs."""
    return f"k8s.{driver}/claim"


def spec_file_name(driver: str, claim_uid: str) -> str:
    """The spec file of a claim."""
    return f"k8s.{driver}-claim_{claim_uid}.json"


ADMIN = "-admin"
"""Ends the name of a device that a claim looks at without using it; a name is all that survives a damaged record."""


def cdi_device_name(claim_uid: str, device: str, share_id: str | None, *, admin: bool = False) -> str:
    """A name that is never used again with other content: by claim, device, share and kind of access."""
    return f"{claim_uid}-{device}" + (f"-{share_id}" if share_id else "") + (ADMIN if admin else "")


def qualified_name(driver: str, name: str) -> str:
    """The id that the kubelet hands to the runtime."""
    return f"{cdi_kind(driver)}={name}"


def unqualified_name(cdi_id: str) -> str:
    """The device's name in such an id."""
    return cdi_id.partition("=")[2]


def render_spec(driver: str, common: ContainerEdits, devices: Mapping[str, ContainerEdits]) -> bytes:
    """The spec of one claim: edits by device name, and those that go with every device.

    Raises SpecError where a runtime would drop the spec: no device, a name that it cannot parse, an edit that is empty
    or that it does not understand.
    """
    if not devices:
        raise SpecError("a CDI spec needs at least one device")
    parts = []
    for name, edits in sorted(devices.items()):
        if not _DEVICE_NAME.fullmatch(name):
            raise SpecError(f"CDI device name {name!r}: letters, digits and inner '_', '.', ':', '-' expected")
        if not edits:
            raise SpecError(f"CDI device {name!r} has no edits")
        parts.append(f'{{"name": {json.dumps(name)}, "containerEdits": {_rendered(edits)}}}')
    newer = any(name[0].isdigit() for name in devices) or any(
        node.host_path is not None for edits in (common, *devices.values()) for node in edits.device_nodes
    )
    version = DIGITS_AND_HOST_PATHS if newer else BASE_VERSION
    head = f'{{"cdiVersion": "{version}", "kind": {json.dumps(cdi_kind(driver))}, "devices": [{", ".join(parts)}]'
    return f'{head}, "containerEdits": {_rendered(common)}}}'.encode() if common else f"{head}}}".encode()


@functools.lru_cache(maxsize=256)
def _rendered(edits: ContainerEdits) -> str:
    """As JSON, and checked: the same hundred mounts go into the spec of every claim. Raises SpecError."""
    _check(edits)
    return json.dumps(_edits(edits))  # indented, it would take the slow encoder


def _check(edits: ContainerEdits) -> None:
    """What the runtimes' library checks before it takes a spec, and paths that it would not."""
    for variable in (*edits.env, *(variable for hook in edits.hooks for variable in hook.env)):
        if not _VARIABLE.fullmatch(variable):
            raise SpecError(f"environment variable {variable!r}: NAME=VALUE expected")
    for node in edits.device_nodes:
        if node.type not in _NODE_TYPES or not _PERMISSIONS.fullmatch(node.permissions):
            raise SpecError(f"device node {node.path}: type {node.type!r} or permissions {node.permissions!r} unknown")
    for hook in edits.hooks:
        if hook.name not in _HOOK_NAMES:
            raise SpecError(f"hook {hook.name!r}: one of {', '.join(sorted(_HOOK_NAMES))} expected")
    paths = [path for mount in edits.mounts for path in (mount.host_path, mount.container_path)]
    paths += [path for node in edits.device_nodes for path in (node.path, node.host_path) if path is not None]
    for path in (*paths, *(hook.path for hook in edits.hooks)):
        if not path.startswith("/") or "\0" in path:
            raise SpecError(f"path {path!r}: an absolute path expected")


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
