"""Looking at a node from its own file system: on the host, or in the driver's container. Changes nothing."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from driver.base import layout
from driver.base.threads import in_daemon_thread
from driver.cdi import SpecDirectory
from driver.claims import State
from driver.hardware import BackendError, open_backend
from driver.inventory import DEVICE_PLUGIN_DIR, NVIDIA_DRIVER, Kind, find_instances, is_socket, listened_to
from driver.operate.doctor.state import NodeHardware, NodeState, Place, RuntimeConfig
from driver.operate.drain import Holder, holders
from driver.operate.page import PATIENCE, PageError, read_status

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from driver.node import Settings

_RUNTIME_CONFIGS = (Path("/etc/containerd/config.toml"),)
_COMPUTE_DOMAINS = "compute-domain.nvidia.com"
"""The name of NVIDIA's driver of ComputeDomains; it has no GPUs, and is no rival."""
_NVIDIA_FILES = ("checkpoint.json", "pu.lock", "cp.lock")
_MOUNTS = Path("/proc/self/mountinfo")


async def read_node(
    settings: Settings, *, node_name: str, boot_id: str, environment: Mapping[str, str] = os.environ
) -> NodeState:
    """Everything that can be seen of this node. Never raises: what cannot be seen is said in the state."""
    in_pod = "KUBERNETES_SERVICE_HOST" in environment
    mounts = mount_points(_read(_MOUNTS)) if in_pod else ()
    names = dict.fromkeys((settings.driver_name, NVIDIA_DRIVER))
    instances = [found for name in names for found in await find_instances(settings.kubelet_registry_dir, name)]
    neighbours = await find_instances(settings.kubelet_registry_dir, _COMPUTE_DOMAINS)
    claims, claims_error = _holders(settings, boot_id)
    specs = _spec_uids(settings)
    prepared = [holder for holder in claims if holder.state == State.PREPARED]
    # In a pod only our own directory is the host's; before the first start there is none.
    plugins = _place(settings.plugin_dir if settings.plugin_dir.is_dir() else settings.kubelet_plugins_dir, mounts)
    kubelet_sockets = [
        settings.kubelet_plugins_dir.parent / DEVICE_PLUGIN_DIR / "kubelet.sock",
        settings.kubelet_plugins_dir.parent / "pod-resources" / "kubelet.sock",
    ]
    visible = [path for path in kubelet_sockets if is_socket(path)]
    not_ready, not_offered = await _page(settings)
    return NodeState(
        node_name=node_name,
        driver_name=settings.driver_name,
        devices=settings.devices,
        plugins=plugins if not claims_error else Place(path=plugins.path, error=claims_error),
        registry=_place(settings.kubelet_registry_dir, mounts),
        cdi=_place(settings.cdi_root, mounts),
        instances=tuple(instances),
        not_ready=not_ready,
        not_offered=not_offered,
        kubelet_listens=any(map(listened_to, visible)) if visible else None,
        plugin_sockets=tuple(_plugin_sockets(settings)),
        compute_domain_sockets=tuple(found.socket for found in neighbours if found.kind is Kind.OTHER),
        foreign_files=tuple(path for name in _NVIDIA_FILES if (path := settings.plugin_dir / name).is_file()),
        hardware=await _hardware(settings, boot_id),
        holders=claims,
        quarantined=tuple(sorted(_quarantined(settings))),
        without_spec=tuple(holder for holder in prepared if specs is not None and holder.uid not in specs),
        stray_specs=tuple(
            SpecDirectory(settings.cdi_root, driver=settings.driver_name).path(uid)
            for uid in sorted((specs or set()) - {holder.uid for holder in claims} - _quarantined_uids(settings))
        ),
        runtimes=tuple(config for path in _RUNTIME_CONFIGS if (config := _runtime(path)) is not None),
    )


def _place(path: Path, mounts: tuple[tuple[str, str], ...]) -> Place:
    try:
        if not path.is_dir():
            return Place(path=path, exists=False)
        own = _filesystem(path.resolve(), mounts) == "overlay"
        return Place(path=path, writable=os.access(path, os.W_OK), own_layer=own)
    except OSError as error:
        return Place(path=path, error=error.strerror or str(error))


def _filesystem(path: Path, mounts: tuple[tuple[str, str], ...]) -> str:
    """The type of the file system that a path is on; the longest mount point wins."""
    found = [(point, kind) for point, kind in mounts if path.is_relative_to(point)]
    return max(found, key=lambda mount: len(mount[0]))[1] if found else ""


def mount_points(mountinfo: bytes) -> tuple[tuple[str, str], ...]:
    """Mount points and types of file systems. Format: proc(5), /proc/pid/mountinfo: paths are bytes, some as octals."""
    parts = (line.partition(b" - ") for line in mountinfo.split(b"\n") if line)
    return tuple(
        (
            os.fsdecode(before.split(b" ")[4].decode("unicode_escape").encode("latin-1")),
            os.fsdecode(after.split(b" ")[0]),
        )
        for before, _, after in parts
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _holders(settings: Settings, boot_id: str) -> tuple[tuple[Holder, ...], str]:
    try:
        return holders(settings.plugin_dir, boot_id=boot_id), ""
    except OSError as error:
        return (), f"{error.filename}: {error.strerror}"


def _spec_uids(settings: Settings) -> set[str] | None:
    try:
        return SpecDirectory(settings.cdi_root, driver=settings.driver_name).claim_uids()
    except OSError:
        return None


def _quarantined_uids(settings: Settings) -> set[str]:
    return {path.name.partition(".")[0] for path in _quarantined(settings)}


def _quarantined(settings: Settings) -> Iterator[Path]:
    return (settings.plugin_dir / layout.QUARANTINE).glob("*.json")


def _plugin_sockets(settings: Settings) -> list[Path]:
    directory = settings.kubelet_plugins_dir.parent / DEVICE_PLUGIN_DIR
    return [path for path in sorted(directory.glob("nvidia*.sock")) if is_socket(path) and listened_to(path)]


async def _page(settings: Settings) -> tuple[tuple[str, ...] | None, dict[str, str]]:
    """What the driver says is missing, and what it does not offer; None where there is no page, or somebody else's."""
    try:
        page = await read_status(settings)
        not_offered = {str(uuid): str(why) for uuid, why in page.get("notOfferedAsAsked", {}).items()}
        return tuple(map(str, page["notReady"])), not_offered
    except (PageError, KeyError, TypeError, AttributeError):
        return None, {}


async def _hardware(settings: Settings, boot_id: str) -> NodeHardware:
    def read() -> NodeHardware:
        # Fake hardware keeps its state where it is opened: not in a running driver's directory.
        with tempfile.TemporaryDirectory(prefix="gpu-dra-") as state:
            backend = open_backend(settings.devices, Path(state), boot_id=boot_id, host=settings.host)
            try:
                inventory = backend.inventory()
            finally:
                backend.close()
        return NodeHardware(gpus=tuple(gpu.name for gpu in inventory.gpus), defects=inventory.defects)

    try:
        async with asyncio.timeout(PATIENCE):
            return await in_daemon_thread(read)
    except BackendError as error:
        return NodeHardware(problem=str(error))
    except TimeoutError:
        return NodeHardware(problem=f"NVIDIA's driver has not answered for {PATIENCE:.0f} s")
    except OSError as error:
        return NodeHardware(problem=f"{error}")


def _runtime(path: Path) -> RuntimeConfig | None:
    """CDI in containerd's configuration: version 2 and 3 of its format have the same two keys, in other tables."""
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for name, plugin in content.get("plugins", {}).items():
        if isinstance(plugin, dict) and re.search(r"\.cri(\.v1\.runtime)?$", name):
            dirs = plugin.get("cdi_spec_dirs")
            return RuntimeConfig(
                path=path,
                enabled=plugin.get("enable_cdi"),
                spec_dirs=tuple(map(str, dirs)) if isinstance(dirs, list) else None,
            )
    return None
