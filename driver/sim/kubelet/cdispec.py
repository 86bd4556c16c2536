"""A CDI spec as a container runtime reads it: strict fields, strict names, the version that its fields need.

Rules of the CDI specification 1.1.0 and of the library that containerd 2.3 uses, without network devices and Intel RDT.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
HOOK_NAMES = frozenset({"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"})
NODE_TYPES = frozenset({"", "b", "c", "u", "p"})

_VENDOR_OR_CLASS = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?", re.ASCII)
_DEVICE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?", re.ASCII)

Uint32 = Annotated[int, Field(ge=0, le=2**32 - 1)]


class CdiError(Exception):
    """A spec that a runtime refuses, or a device that it cannot give to a container."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel)


class DeviceNode(_Part):
    """A device file in the container."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: Uint32 | None = None
    permissions: str = ""
    uid: Uint32 | None = None
    gid: Uint32 | None = None


class Mount(_Part):
    """A path of the host in the container."""

    host_path: str
    container_path: str
    options: list[str] = []
    type: str = ""


class Hook(_Part):
    """A program that the runtime starts at a point of the container's life."""

    hook_name: str
    path: str
    args: list[str] = []
    env: list[str] = []
    timeout: int | None = None


class Edits(_Part):
    """What one device, or the whole spec, changes in a container."""

    env: list[str] = []
    device_nodes: list[DeviceNode] = []
    hooks: list[Hook] = []
    mounts: list[Mount] = []
    additional_gids: list[Uint32] = []

    @property
    def empty(self) -> bool:
        """Whether they change nothing, which is an error in a device."""
        return not (self.env or self.device_nodes or self.hooks or self.mounts or self.additional_gids)


class SpecDevice(_Part):
    """One device of a spec."""

    name: str
    annotations: dict[str, str] = {}
    container_edits: Edits


class Spec(_Part):
    """A whole file."""

    cdi_version: str
    kind: str
    annotations: dict[str, str] = {}
    devices: list[SpecDevice]
    container_edits: Edits = Edits()

    def all_edits(self) -> Iterator[Edits]:
        """Those of the spec, then those of its devices."""
        yield self.container_edits
        for device in self.devices:
            yield device.container_edits


def read(path: Path) -> Spec:
    """Read and check one file. Raises CdiError, or FileNotFoundError when it has just gone."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise CdiError(f'failed to read CDI Spec "{path}": {error}') from error
    try:
        data = json.loads(text, object_pairs_hook=_no_duplicates) if path.suffix == ".json" else yaml.safe_load(text)
        spec = Spec.model_validate(data)
    except (ValueError, yaml.YAMLError) as error:
        raise CdiError(f'failed to parse CDI Spec "{path}": {_reason(error)}') from error
    try:
        check(spec)
    except CdiError as error:
        raise CdiError(f'"{path}": invalid CDI Spec: {error}') from error
    return spec


def check(spec: Spec) -> None:
    """Raise CdiError for what is well-formed but not allowed."""
    if spec.cdi_version.removeprefix("v") not in VERSIONS:
        raise CdiError(f'invalid version "{spec.cdi_version}"')
    needed = minimum_version(spec)
    if VERSIONS.index(needed) > VERSIONS.index(spec.cdi_version.removeprefix("v")):
        raise CdiError(f"the spec version must be at least v{needed}")
    vendor, _, cls = spec.kind.partition("/")
    for what, name in (("vendor", vendor), ("class", cls)):
        if not _VENDOR_OR_CLASS.fullmatch(name):
            raise CdiError(f'invalid {what} "{name}" in kind "{spec.kind}"')
    _check_edits(spec.container_edits)
    names = set()
    for device in spec.devices:
        if not _DEVICE_NAME.fullmatch(device.name):
            raise CdiError(f'failed add device "{device.name}": invalid name')
        if device.container_edits.empty:
            raise CdiError(f'failed add device "{device.name}": invalid device, empty device edits')
        try:
            _check_edits(device.container_edits)
        except CdiError as error:
            raise CdiError(f'failed add device "{device.name}": invalid device "{device.name}": {error}') from error
        if device.name in names:
            raise CdiError(f'invalid spec, multiple device "{device.name}"')
        names.add(device.name)
    if not names:
        raise CdiError("invalid spec, no devices")


def minimum_version(spec: Spec) -> str:
    """The lowest CDI version that has all fields of a spec."""
    edits = list(spec.all_edits())
    if any(e.additional_gids for e in edits):
        return "0.7.0"
    if spec.annotations or any(d.annotations for d in spec.devices) or "." in spec.kind.partition("/")[2]:
        return "0.6.0"
    if any(d.name[:1].isdigit() for d in spec.devices) or any(n.host_path for e in edits for n in e.device_nodes):
        return "0.5.0"
    if any(mount.type for e in edits for mount in e.mounts):
        return "0.4.0"
    return "0.3.0"


def _check_edits(edits: Edits) -> None:
    for variable in edits.env:
        if variable.find("=") < 1:
            raise CdiError(f'invalid container edits: invalid environment variable "{variable}"')
    for node in edits.device_nodes:
        if not node.path:
            raise CdiError("invalid (empty) device path")
        if node.type not in NODE_TYPES:
            raise CdiError(f'device "{node.path}": invalid type "{node.type}"')
        if node.permissions != "none" and set(node.permissions) - set("rwm"):
            raise CdiError(f'device "{node.path}": invalid permissions "{node.permissions}"')
    for hook in edits.hooks:
        if hook.hook_name not in HOOK_NAMES:
            raise CdiError(f'invalid hook name "{hook.hook_name}"')
        if not hook.path:
            raise CdiError(f'invalid hook "{hook.hook_name}" with empty path')
        for variable in hook.env:
            if variable.find("=") < 1:
                raise CdiError(f'invalid hook "{hook.hook_name}": invalid environment variable "{variable}"')
    for mount in edits.mounts:
        if not mount.host_path or not mount.container_path:
            raise CdiError("invalid mount, empty host or container path")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError(f"a key is there twice: {', '.join(key for key, _ in pairs)}")
    return data


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
    return str(error)
