"""The settings of a node agent: validated once, here, before anything starts."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

if TYPE_CHECKING:
    from driver.hardware import Host

MAX_SOCKET_PATH = 107
"""Bytes that fit into sockaddr_un, less the closing zero."""
SHORT = 8
"""Characters of a pod's UID in names that have to be short; the chart counts on it too."""

_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_POD_UID = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?")


class NodeConfigError(ValueError):
    """A config file that cannot be used: one line with file, line, column, and what is expected."""


class Settings(BaseModel):
    """Everything that an operator can choose. Each field is a flag of ``gpu-dra run`` and an environment variable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node_name: str = Field(description="Name of the Node that this driver serves.")
    driver_name: str = Field(
        default="gpu.nvidia.com", description="DRA driver name: the domain of attributes, taints and sockets."
    )
    pod_uid: str = Field(default="", description="UID of our pod; lets two instances overlap during an upgrade.")
    kubeconfig: Path | None = Field(default=None, description="Kubeconfig file; the pod's ServiceAccount without it.")
    kubelet_plugins_dir: Path = Field(
        default=Path("/var/lib/kubelet/plugins"), description="The kubelet's directory for plugin data."
    )
    kubelet_registry_dir: Path = Field(
        default=Path("/var/lib/kubelet/plugins_registry"), description="The directory where the kubelet finds plugins."
    )
    cdi_root: Path = Field(
        default=Path("/var/run/cdi"), description="Where CDI specs are written for the container runtime."
    )
    devices: str = Field(
        default="nvml",
        description="nvml for real GPUs, fake:PROFILE or fake:FILE.yaml for GPUs that are not there.",
    )
    driver_root: Path = Field(
        default=Path("/"),
        description="Where NVIDIA's driver is installed on the host: / or, for one in a container, /run/nvidia/driver.",
        json_schema_extra={"variable": "NVIDIA_DRIVER_ROOT"},
    )
    container_driver_root: Path | None = Field(
        default=None,
        description="Where this process sees that directory, if elsewhere: NVML is loaded from below it.",
        json_schema_extra={"variable": "DRIVER_ROOT_CTR_PATH"},
    )
    nvidia_cdi_hook_path: str = Field(
        default="",
        description="NVIDIA's hook program on the host, or none to do without; looked for where --driver-root is /.",
    )
    sysfs_root: Path = Field(default=Path("/sys"), description="The node's sysfs: PCIe roots and NUMA nodes of GPUs.")
    proc_root: Path = Field(
        default=Path("/proc"), description="The node's procfs: GPUs of the kernel driver, device numbers of partitions."
    )
    dev_root: Path = Field(default=Path("/dev"), description="The node's device files.")
    partitioning: Literal["none", "static", "dynamic"] = Field(
        default="none",
        description="What is offered of GPUs with MIG: the whole, the MIG devices that exist, or every partition.",
    )
    shares: str = Field(
        default="disabled",
        description="Claims that share a device: disabled, memory (each says how much), a number, or unlimited.",
    )
    shares_enforcement: Literal["none", "mps"] = Field(
        default="none",
        description="Whether MPS holds shares to the part of a GPU that they take; a class may say otherwise.",
    )
    shares_memory_reserve: str = Field(
        default="512Mi", description="Memory of a shared device that no claim gets, because programs' contexts take it."
    )
    config: Path | None = Field(
        default=None, description="File with settings of single GPUs and of taints; its word counts more than flags."
    )
    device_metadata: bool = Field(
        default=False, description="Mount a file with the devices' attributes into containers (KEP-5304)."
    )
    device_status: bool = Field(default=False, description="Write what was prepared into the claim's status.devices.")
    ignore_other_drivers: bool = Field(
        default=False,
        description="Publish although NVIDIA's device plugin or DRA driver serves this node: a GPU may get two users.",
    )
    unread_patience: float = Field(
        default=15.0,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds for which GPUs may be unreadable before no new claim gets any of them.",
    )
    health_port: int = Field(
        default=51515, ge=0, le=65535, description="TCP port of the gRPC health service; 0 switches it off."
    )
    http_port: int = Field(
        default=8080, ge=0, le=65535, description="TCP port of /metrics, /healthz and /readyz; 0 switches it off."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="What is logged.")
    log_format: Literal["text", "json"] = Field(default="text", description="Log lines for people or for machines.")

    @field_validator("node_name")
    @classmethod
    def _check_node_name(cls, value: str) -> str:
        if len(value) > 253 or not _DNS_SUBDOMAIN.fullmatch(value):
            raise ValueError("a node's name is expected: lower-case letters, digits, '-', '.', at most 253 characters")
        return value

    @field_validator("driver_name")
    @classmethod
    def _check_driver_name(cls, value: str) -> str:
        if len(value) > 63 or not _DNS_SUBDOMAIN.fullmatch(value):
            raise ValueError("a DNS name is expected, at most 63 characters, for example gpu.nvidia.com")
        return value

    @field_validator("pod_uid")
    @classmethod
    def _check_pod_uid(cls, value: str) -> str:
        if value and not _POD_UID.fullmatch(value):
            raise ValueError("a pod's UID is expected: letters, digits and '-', at most 63 characters, or nothing")
        return value

    @field_validator(
        "kubelet_plugins_dir",
        "kubelet_registry_dir",
        "cdi_root",
        "driver_root",
        "container_driver_root",
        "sysfs_root",
        "proc_root",
        "dev_root",
    )
    @classmethod
    def _check_absolute(cls, value: Path | None) -> Path | None:
        if value is not None and (not value.is_absolute() or ".." in value.parts):
            raise ValueError("an absolute path is expected, without '..'")
        return value

    @field_validator("nvidia_cdi_hook_path")
    @classmethod
    def _check_hook(cls, value: str) -> str:
        if value not in ("", "none") and (not value.startswith("/") or ".." in Path(value).parts):
            raise ValueError("an absolute path on the host is expected, without '..', or none")
        return value

    @field_validator("devices")
    @classmethod
    def _check_devices(cls, value: str) -> str:
        kind, _, argument = value.partition(":")
        if value != "nvml" and not (kind == "fake" and argument):
            raise ValueError("'nvml', 'fake:<profile>' or 'fake:<path to a YAML file>' is expected")
        return value

    @field_validator("shares")
    @classmethod
    def _check_shares(cls, value: str) -> str:
        from driver.inventory import parse_shares

        parse_shares(value)
        return value

    @field_validator("shares_memory_reserve")
    @classmethod
    def _check_memory(cls, value: str) -> str:
        from driver.inventory import parse_memory

        parse_memory(value)
        return value

    @model_validator(mode="after")
    def _check_socket_paths(self) -> Settings:
        for path in (self.dra_socket, self.registrar_socket):
            size = len(os.fsencode(path))
            if size > MAX_SOCKET_PATH:
                directory = len(os.fsencode(path.parent)) + 1
                raise ValueError(
                    f"the socket path {path} has {size} bytes ({directory} for the directory + "
                    f"{size - directory} for the name), {MAX_SOCKET_PATH} fit: use a shorter driver name or directory"
                )
        return self

    @functools.cached_property
    def instance(self) -> str:
        """What tells us from other instances on the node, in names of files; empty without a pod.

        The pod's UID, or where that makes a socket's path too long, eight digits that stand for it.
        """
        paths = (self._dra_socket(self.pod_uid), self._registrar_socket(self.pod_uid))
        if len(self.pod_uid) <= SHORT or all(len(os.fsencode(path)) <= MAX_SOCKET_PATH for path in paths):
            return self.pod_uid
        return hashlib.sha256(self.pod_uid.encode()).hexdigest()[:SHORT]

    @property
    def host(self) -> Host:
        """Where the node's files are for this process."""
        from driver.hardware import DriverRoot, Host

        root = DriverRoot(path=self.container_driver_root or self.driver_root, host=str(self.driver_root))
        return Host(
            driver=root,
            sysfs=self.sysfs_root,
            proc=self.proc_root,
            dev=self.dev_root,
            cdi_hook=self.nvidia_cdi_hook_path,
        )

    @property
    def plugin_dir(self) -> Path:
        """Our directory below the kubelet's plugins directory: sockets, records and the fake hardware's state."""
        return self.kubelet_plugins_dir / self.driver_name

    @property
    def dra_socket(self) -> Path:
        """Where the kubelet finds the DRA and health services. Named by pod, so that two instances never share one."""
        return self._dra_socket(self.instance)

    @property
    def registrar_socket(self) -> Path:
        """Where the kubelet finds out that we exist."""
        return self._registrar_socket(self.instance)

    def _dra_socket(self, instance: str) -> Path:
        return self.plugin_dir / (f"dra-{instance}.sock" if instance else "dra.sock")

    def _registrar_socket(self, instance: str) -> Path:
        return self.kubelet_registry_dir / f"{self.driver_name}{'-' if instance else ''}{instance}-reg.sock"
