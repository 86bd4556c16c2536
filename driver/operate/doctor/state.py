"""What was seen, without any opinion: of a node from its own file system, and of a cluster through its API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from driver.cluster import Rule
from driver.hardware import Defect
from driver.inventory import Instance
from driver.operate.drain import Holder

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A directory that the driver needs."""

    path: Path
    exists: bool = True
    writable: bool = True
    own_layer: bool = False
    """It is in the container's own file system, where nobody outside sees what is written."""
    error: str = ""
    """Why it could not be looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHardware:
    """What the setting ``devices`` finds."""

    gpus: tuple[str, ...] = ()
    """Names of the GPUs."""
    problem: str = ""
    """Why there is no inventory at all."""
    defects: tuple[Defect, ...] = ()
    """What is wrong with the driver's installation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """What a container runtime's configuration file says about CDI."""

    path: Path
    enabled: bool | None = None
    spec_dirs: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """One node, seen from its own file system."""

    node_name: str
    """Empty where nobody has said it."""
    driver_name: str
    devices: str
    plugins: Place
    registry: Place
    cdi: Place
    instances: tuple[Instance, ...] = ()
    not_ready: tuple[str, ...] | None = None
    """What the driver's own page says is missing; None where the page cannot be had."""
    not_offered: Mapping[str, str] = field(default_factory=dict)
    """Why a GPU is not offered as the settings ask for, by UUID, as that page says."""
    kubelet_listens: bool | None = None
    """None where the kubelet's own sockets are not visible."""
    plugin_sockets: tuple[Path, ...] = ()
    """Sockets of NVIDIA's device plugin that live."""
    compute_domain_sockets: tuple[Path, ...] = ()
    """On which NVIDIA's driver of ComputeDomains is registered; it has no GPUs."""
    foreign_files: tuple[Path, ...] = ()
    """What NVIDIA's DRA driver has left in the driver's directory."""
    hardware: NodeHardware = NodeHardware()
    holders: tuple[Holder, ...] = ()
    quarantined: tuple[Path, ...] = ()
    without_spec: tuple[Holder, ...] = ()
    """Claims that are prepared and have no CDI spec."""
    stray_specs: tuple[Path, ...] = ()
    """CDI specs of ours that belong to no record."""
    runtimes: tuple[RuntimeConfig, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Something that the driver does at the API server."""

    verb: str
    resource: str
    """With the subresource, for example ``resourceclaims/status``."""
    why: str
    group: str = "resource.k8s.io"
    namespace: str = ""
    name: str = ""
    vital: bool = True
    """Without it the driver does not serve; otherwise only comfort is lost."""

    @property
    def target(self) -> str:
        """What it is done to."""
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.resource}{f' {self.name}' if self.name else ''}{where}"

    def __str__(self) -> str:
        return f"{self.verb} {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessReview:
    """Whether somebody may do it."""

    permission: Permission
    allowed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """A cluster, seen through its API. What could not be read is None, and ``unreadable`` says why."""

    driver_name: str
    node_name: str = ""
    """The one node to look at; empty for all."""
    partitioning: str = "none"
    shares: str = "disabled"
    device_status: bool = False
    now: datetime
    """By this machine's clock."""
    server_time: datetime | None = None
    version: str = ""
    """As the server spells it, for example ``v1.36.2``."""
    api_versions: tuple[str, ...] | None = None
    """Of the group ``resource.k8s.io``."""
    gates: Mapping[str, bool] = field(default_factory=dict)
    """Feature gates of the API server, as far as they are known."""
    subject: str = ""
    """Whose permissions were asked for."""
    node_bound: bool | None = None
    """Whether these credentials say which node their pod is on; None for other credentials than a pod's."""
    access: tuple[AccessReview, ...] | None = None
    nodes: tuple[Object, ...] | None = None
    slices: tuple[Object, ...] | None = None
    classes: tuple[Object, ...] | None = None
    claims: tuple[Object, ...] | None = None
    pods: tuple[Object, ...] | None = None
    rules: tuple[Rule, ...] | None = None
    """DeviceTaintRules that select devices of ours, or may."""
    events: tuple[Object, ...] | None = None
    """Warnings about pods that a kubelet wrote: failed prepares and CDI devices that were not found."""
    selected: Mapping[str, int] = field(default_factory=dict)
    """How many published devices a DeviceClass selects, by its name."""
    not_evaluated: Mapping[str, str] = field(default_factory=dict)
    """Why the selectors of a DeviceClass were not evaluated, by its name."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """What could not be read, and the server's reason."""
