"""The order of a cleanup: look who still needs us, undo what was made for claims, remove files."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.base import layout
from driver.base.threads import in_daemon_thread
from driver.cdi import SpecDirectory
from driver.claims import (
    ClaimError,
    ClaimSpecs,
    Common,
    Engine,
    Hardware,
    MetadataFiles,
    Quarantine,
    Records,
    State,
    Terms,
    Told,
)
from driver.hardware import BackendError, read_surroundings, sharer
from driver.inventory import Devices, Instance, Kind, Options, find_instances, is_own_slice, listened_to, survey
from driver.kube import RESOURCE, Api, ApiError, NodeEvents, check_list, uid_of
from driver.observe import Metrics
from driver.operate.cleanup import rules
from driver.operate.cleanup.walk import Swept, Walk
from driver.operate.drain import Holder, holders

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from driver.claims import Record
    from driver.hardware import Backend
    from driver.node import Settings

logger = logging.getLogger(__name__)

HARDWARE_PATIENCE = 30.0
"""Seconds for opening the hardware; a call that hangs must not keep the files from being removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """Why a node is not cleaned up yet."""

    instances: tuple[Instance, ...]
    """Instances of this driver that run."""
    holders: tuple[Holder, ...]
    """Claims that are prepared, so pods that use GPUs."""

    others: tuple[Instance, ...] = ()
    """Other drivers of the same name: they keep their sockets whatever we are told."""

    def __bool__(self) -> bool:
        return bool(self.instances or self.holders)


async def in_use(settings: Settings, *, boot_id: str) -> InUse:
    """Who still needs the driver on this node. Claims that ended and are only to be undone do not. Raises OSError."""
    instances = await find_instances(settings.kubelet_registry_dir, settings.driver_name)
    return InUse(
        instances=tuple(found for found in instances if found.kind in {Kind.OURS, Kind.SILENT}),
        others=tuple(found for found in instances if found.kind is Kind.OTHER),
        holders=tuple(h for h in holders(settings.plugin_dir, boot_id=boot_id) if h.state != State.UNDOING),
    )


async def undo(settings: Settings, *, boot_id: str, open_backend: Callable[[], Backend]) -> tuple[str, ...]:
    """Take back what was made for claims, as their records say; what could not be undone, in words for people.

    Claims without such a thing lose their record and their CDI spec as well.
    """
    directory = settings.plugin_dir / layout.CLAIMS
    if not directory.is_dir():
        return ()
    quarantine = Quarantine(settings.plugin_dir / layout.QUARANTINE, lambda _path, _problem: None)
    records = Records(directory, boot_id=boot_id, quarantine=quarantine)
    await records.open()
    if not len(records) and not _daemons(settings):
        return ()
    devices = Devices()
    backend = await _open(devices, open_backend)
    try:
        api = Api.nowhere()  # of which unprepare needs nothing
        async with api:
            engine = _engine(settings, records, devices, api)
            problems = []
            for record in records:
                try:
                    await engine.release(record.claim)
                except ClaimError as error:
                    problems.append(f"{record.claim}: {error}")
            await records.refresh()
            undoing = [record for record in records if record.state is State.UNDOING]
            problems += [_left(record, devices) for record in undoing]
            if not undoing:
                problems += await _stop_daemons(settings, backend, devices)
    finally:
        if backend is not None:
            backend.close()
    return tuple(problems)


def _engine(settings: Settings, records: Records, devices: Devices, api: Api) -> Engine:
    driver, metrics = settings.driver_name, Metrics(driver_name=settings.driver_name)
    metadata = MetadataFiles(settings.plugin_dir / layout.METADATA, published=lambda _name: {})
    specs = SpecDirectory(settings.cdi_root, driver=driver)
    common = Common(
        terms=Terms(driver=driver, pool=settings.node_name),
        devices=devices,
        records=records,
        specs=ClaimSpecs(specs, driver_name=driver, metrics=metrics, metadata=metadata),
        hardware=Hardware(settings.plugin_dir / layout.CLAIMS),
        told=Told(metrics=metrics, events=NodeEvents(api, node_name=settings.node_name, component=driver)),
    )
    return Engine(common, api=api)


def _daemons(settings: Settings) -> list[str]:
    """MPS daemons that were started from here: each has a directory."""
    try:
        return sorted(path.name for path in (settings.plugin_dir / layout.MPS).iterdir() if not path.is_symlink())
    except OSError:
        return []


async def _stop_daemons(settings: Settings, backend: Backend | None, devices: Devices) -> list[str]:
    """Those of which no record is left: with their claims gone, nobody needs them."""
    problems = []
    for name in _daemons(settings):
        try:
            if backend is None:
                raise BackendError(devices.problem)
            await in_daemon_thread(lambda name=name: sharer(backend).stop_mps(name))  # type: ignore[misc]
        except BackendError as error:
            problems.append(f"MPS daemon {name} may still run: {error}")
    return problems


async def _open(devices: Devices, open_backend: Callable[[], Backend]) -> Backend | None:
    try:
        async with asyncio.timeout(HARDWARE_PATIENCE):
            backend = await in_daemon_thread(open_backend)
            inventory = await in_daemon_thread(backend.inventory)
    except BackendError as error:
        devices.fail(str(error))
    except TimeoutError:
        devices.fail(f"the hardware has not answered for {HARDWARE_PATIENCE:.0f} s")
    else:
        devices.update(backend, inventory, survey(inventory, Options()).by_name())
        return backend
    return None


def _left(record: Record, devices: Devices) -> str:
    parts = [
        f"{device.device} ({device.placement.profile} at memory slice {device.placement.start} of {device.gpu_uuid})"
        for device in record.devices
        if device.placement is not None
    ]
    what = ", ".join(parts) or ", ".join(device.device for device in record.devices)
    why = "" if devices.inventory is not None else f": {devices.problem}"
    return f"what was made for claim {record.claim} may still be there: {what}{why}"


def sweep(settings: Settings, *, remove: bool, force: bool, others: tuple[Instance, ...] = ()) -> Swept:
    """Remove our files, or say which they are. With ``force`` names are enough, and running instances lose theirs."""
    driver = settings.driver_name
    foreign = {str(other.socket) for other in others} | {other.endpoint for other in others}

    def busy(path: Path) -> str:
        if str(path) in foreign:
            return "another driver listens on it"
        return "a process listens on it" if not force and listened_to(path) else ""

    walk = Walk(remove=remove, trust_names=force, busy=busy)
    walk.directory(settings.kubelet_registry_dir, rules.in_registry_dir(driver), strangers=False)
    walk.directory(settings.cdi_root, rules.in_cdi_root(driver), strangers=False)
    walk.directory(settings.kubelet_plugins_dir, rules.in_plugins_dir(driver), strangers=False)
    walk.directory(read_surroundings().root / "dev/shm", rules.in_shm(driver), strangers=False)
    return walk.swept


async def own_slices(api: Api, settings: Settings) -> list[dict[str, str]]:
    """ResourceSlices of this driver and node that we wrote: name and UID of each. Raises ApiError."""
    selector = f"spec.driver={settings.driver_name},spec.nodeName={settings.node_name}"
    path = f"{RESOURCE}/resourceslices"
    listing = check_list(await api.get(path, {"fieldSelector": selector}), f"GET {path}")
    return [
        {"name": obj["metadata"]["name"], "uid": uid_of(obj, path)}
        for obj in listing["items"]
        if is_own_slice(obj["metadata"]["name"], driver_name=settings.driver_name, node_name=settings.node_name)
    ]


async def delete_slice(api: Api, found: dict[str, str]) -> None:
    """Delete one of them, if it is still the same one. Raises ApiError."""
    try:
        await api.request(
            "DELETE", f"{RESOURCE}/resourceslices/{found['name']}", body={"preconditions": {"uid": found["uid"]}}
        )
    except ApiError as error:
        if error.status not in {404, 409}:
            raise
