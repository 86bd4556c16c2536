"""A CDI spec as a container runtime reads it: strict fields, strict names, the version that its fields need.

Rules of the CDI specification 1.1.0 and of the library that containerd 2.3 uses, without network devices and Intel RDT.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
Kind = Annotated[str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")]
DeviceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?$")]
HookName = Literal["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
Permissions = Annotated[str, Field(pattern="^([rwm]*|none)$")]
Variable = Annotated[str, Field(pattern="^[^=]+=")]
NotEmpty = Annotated[str, Field(min_length=1)]
Uint32 = Annotated[int, Field(ge=0, le=2**32 - 1)]


class CdiError(Exception):
    """A spec that a runtime refuses, or a device that it cannot give to a container."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel)


class DeviceNode(_Part):
    """A device file in the container."""

    path: NotEmpty
    host_path: str = ""
    type: Literal["", "b", "c", "u", "p"] = ""
    major: int = 0
    minor: int = 0
    file_mode: Uint32 | None = None
    permissions: Permissions = ""
    uid: Uint32 | None = None
    gid: Uint32 | None = None


class Mount(_Part):
    """A path of the host in the container."""

    host_path: NotEmpty
    container_path: NotEmpty
    options: list[str] = []
    type: str = ""


class Hook(_Part):
    """A program that the runtime starts at a point of the container's life."""

    hook_name: HookName
    path: NotEmpty
    args: list[str] = []
    env: list[Variable] = []
    timeout: int | None = None


class Edits(_Part):
    """What one device, or the whole spec, changes in a container."""

    env: list[Variable] = []
    device_nodes: list[DeviceNode] = []
    hooks: list[Hook] = []
    mounts: list[Mount] = []
    additional_gids: list[Uint32] = []


class SpecDevice(_Part):
    """One device of a spec."""

    name: DeviceName
    annotations: dict[str, str] = {}
    container_edits: Edits


class Spec(_Part):
    """A whole file."""

    cdi_version: str
    kind: Kind
    annotations: dict[str, str] = {}
    devices: Annotated[list[SpecDevice], Field(min_length=1)]
    container_edits: Edits = Edits()

    def all_edits(self) -> Iterator[Edits]:
        """Those of the spec, then those of its devices."""
        yield self.container_edits
        for device in self.devices:
            yield device.container_edits


def read(path: Path) -> Spec:
    """Read and check one file. Raises CdiError, or FileNotFoundError when it has just gone."""
    try:
        text = path.read_text(encoding="utf-8")
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
    names = [device.name for device in spec.devices]
    if len(set(names)) < len(names):
        raise CdiError(f"invalid spec, multiple device among {', '.join(names)}")
    if empty := [device.name for device in spec.devices if device.container_edits == Edits()]:
        raise CdiError(f"invalid device, empty device edits: {', '.join(empty)}")


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


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError(f"a key is there twice: {', '.join(key for key, _ in pairs)}")
    return data


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
    return str(error)
