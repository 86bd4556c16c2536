"""The parts of a node agent, each made once with all that it needs: what a part needs is made before it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.base import layout
from driver.cdi import SpecDirectory
from driver.claims import (
    CdiWatch,
    ClaimSpecs,
    Common,
    Engine,
    Hardware,
    MetadataFiles,
    Quarantine,
    RecordedHoldings,
    Records,
    SpecHolds,
    StatusWriter,
    Sweeper,
    Terms,
    Told,
)
from driver.hardware import open_backend, read_boot_id
from driver.health import ConditionStore, HealthFeed
from driver.inventory import (
    Coexistence,
    Defects,
    Devices,
    Discovery,
    Lead,
    NameStore,
    Offer,
    Patience,
    Publication,
    Publisher,
)
from driver.kube import NodeEvents, verb_and_resource
from driver.kubelet import Addresses, RegistrationService, Serving
from driver.node.readiness import NodeStatus
from driver.observe import Metrics
from driver.usage import Usage

if TYPE_CHECKING:
    from pathlib import Path

    from driver.kube import Api
    from driver.node.config_file import NodeConfig
    from driver.node.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What runs, and what has to be opened before it does."""

    settings: Settings
    metrics: Metrics
    events: NodeEvents
    devices: Devices
    specs: SpecDirectory
    records: Records
    metadata: MetadataFiles
    status: StatusWriter | None
    """None where claims get no ``status.devices``."""
    publisher: Publisher
    publication: Publication
    coexistence: Coexistence
    discovery: Discovery
    engine: Engine
    cdi_watch: CdiWatch
    sweeper: Sweeper
    usage: Usage
    serving: Serving


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What nearly every part needs."""

    settings: Settings
    config: NodeConfig
    api: Api
    boot_id: str
    metrics: Metrics
    events: NodeEvents
    devices: Devices
    defects: Defects
    specs: SpecDirectory
    registration: RegistrationService
    feed: HealthFeed


def assemble(settings: Settings, config: NodeConfig, api: Api) -> Parts:
    """Make all parts; nothing is read, written or asked yet."""
    shared = _share(settings, config, api)
    records = _records(shared)
    offer = _offer(shared, records)
    lead = Lead(settings.plugin_dir / layout.INSTANCES)
    publisher = _publisher(shared, offer, lead)
    coexistence = _coexistence(shared, publisher)
    publication = _publication(shared, publisher, coexistence)
    metadata = MetadataFiles(settings.plugin_dir / layout.METADATA, published=publication.device)
    status = StatusWriter(api, published=publication.device) if settings.device_status else None
    common = _common(shared, records, metadata, status)
    engine = Engine(common, api=api)
    seen = NodeStatus(
        settings=settings,
        api=api,
        devices=shared.devices,
        offer=offer,
        defects=shared.defects,
        registration=shared.registration,
        coexistence=coexistence,
        publisher=publisher,
        records=records,
    )
    return Parts(
        settings=settings,
        metrics=shared.metrics,
        events=shared.events,
        devices=shared.devices,
        specs=shared.specs,
        records=records,
        metadata=metadata,
        status=status,
        publisher=publisher,
        publication=publication,
        coexistence=coexistence,
        discovery=_discovery(shared, offer, publication),
        engine=engine,
        cdi_watch=_cdi_watch(shared, records, engine),
        sweeper=Sweeper(common, api=api, engine=engine, metadata=metadata, registered_at=shared.registration.taken_at),
        usage=Usage(common, api=api, lead=lead, plugin_dir=settings.plugin_dir, proc=settings.host.proc),
        serving=_serving(shared, engine, coexistence, seen),
    )


def _share(settings: Settings, config: NodeConfig, api: Api) -> _Shared:
    metrics, devices = Metrics(driver_name=settings.driver_name), Devices()
    api.on_request = lambda method, path, code: metrics.api_requests.labels(
        *verb_and_resource(method, path), code
    ).inc()
    events = NodeEvents(api, node_name=settings.node_name, component=settings.driver_name)
    return _Shared(
        settings=settings,
        config=config,
        api=api,
        boot_id=read_boot_id(),
        metrics=metrics,
        events=events,
        devices=devices,
        defects=Defects(events=events, metrics=metrics),
        specs=SpecDirectory(settings.cdi_root, driver=settings.driver_name),
        registration=RegistrationService(
            driver_name=settings.driver_name, endpoint=settings.dra_socket, metrics=metrics
        ),
        feed=HealthFeed(pool=settings.node_name, devices=devices.health),
    )


def _records(shared: _Shared) -> Records:
    settings, devices = shared.settings, shared.devices

    def quarantined(path: Path, problem: str) -> None:
        shared.metrics.quarantined.inc()
        message = (
            f"a damaged claim record was set aside as {path}: {problem}. Its devices stay taken until its claim ends; "
            "find out what damaged it, and delete the file when nothing uses them any more"
        )
        logger.error("%s", message)
        shared.events.warn("DamagedClaimRecord", message)

    return Records(
        settings.plugin_dir / layout.CLAIMS,
        boot_id=shared.boot_id,
        quarantine=Quarantine(settings.plugin_dir / layout.QUARANTINE, quarantined),
        by_spec=SpecHolds(
            specs=shared.specs,
            devices=devices.nameable,
            driver=settings.driver_name,
            pool=settings.node_name,
            boot_id=shared.boot_id,
        ),
        changed=lambda record: devices.claim_changed(record.devices),
    )


def _offer(shared: _Shared, records: Records) -> Offer:
    return Offer(
        options=shared.config.device_options(shared.settings),
        devices=shared.devices,
        holdings=RecordedHoldings(records),
        names=NameStore(shared.settings.plugin_dir, boot_id=shared.boot_id),
        metrics=shared.metrics,
        events=shared.events,
    )


def _publisher(shared: _Shared, offer: Offer, lead: Lead) -> Publisher:
    return Publisher(
        api=shared.api,
        driver_name=shared.settings.driver_name,
        node_name=shared.settings.node_name,
        metrics=shared.metrics,
        warn=shared.events.warn,
        lead=lead,
        essential={"DRAPartitionableDevices": offer.without_partitions},
    )


def _coexistence(shared: _Shared, publisher: Publisher) -> Coexistence:
    settings = shared.settings
    return Coexistence(
        shared.api,
        driver_name=settings.driver_name,
        node_name=settings.node_name,
        plugins_dir=settings.kubelet_plugins_dir,
        registry_dir=settings.kubelet_registry_dir,
        own_socket=settings.registrar_socket,
        ignore=settings.ignore_other_drivers,
        publisher=publisher,
        changed=shared.devices.publish_again.set,
        events=shared.events,
        metrics=shared.metrics,
    )


def _publication(shared: _Shared, publisher: Publisher, coexistence: Coexistence) -> Publication:
    return Publication(
        driver_name=shared.settings.driver_name,
        pool=shared.settings.node_name,
        effects=shared.config.taint_effects(),
        list_attributes=shared.config.list_attributes,
        host=shared.config.host_needs(),
        devices=shared.devices,
        defects=shared.defects,
        publisher=publisher,
        coexistence=coexistence,
        feed=shared.feed,
        metrics=shared.metrics,
    )


def _discovery(shared: _Shared, offer: Offer, publication: Publication) -> Discovery:
    settings = shared.settings
    return Discovery(
        open_backend=lambda: open_backend(
            settings.devices, settings.plugin_dir, boot_id=shared.boot_id, host=settings.host
        ),
        devices=shared.devices,
        offer=offer,
        publication=publication,
        defects=shared.defects,
        store=ConditionStore(settings.plugin_dir, boot_id=shared.boot_id, rules=shared.config.xid_rules()),
        events=shared.events,
        registered=shared.registration.wait,
        patience=Patience(unread=settings.unread_patience),
    )


def _common(shared: _Shared, records: Records, metadata: MetadataFiles, status: StatusWriter | None) -> Common:
    settings = shared.settings
    return Common(
        terms=Terms(
            driver=settings.driver_name,
            pool=settings.node_name,
            enforce_shares=settings.shares_enforcement == "mps",
        ),
        devices=shared.devices,
        records=records,
        specs=ClaimSpecs(
            shared.specs,
            driver_name=settings.driver_name,
            metrics=shared.metrics,
            metadata=metadata if settings.device_metadata else None,
        ),
        hardware=Hardware(settings.plugin_dir / layout.CLAIMS),
        told=Told(metrics=shared.metrics, events=shared.events, status=status),
    )


def _cdi_watch(shared: _Shared, records: Records, engine: Engine) -> CdiWatch:
    return CdiWatch(
        shared.specs,
        records=records,
        engine=engine,
        devices=shared.devices,
        defects=shared.defects,
        events=shared.events,
    )


def _serving(shared: _Shared, engine: Engine, coexistence: Coexistence, status: NodeStatus) -> Serving:
    settings = shared.settings
    return Serving(
        Addresses(
            dra_socket=settings.dra_socket,
            registrar_socket=settings.registrar_socket,
            driver_name=settings.driver_name,
            health_port=settings.health_port,
            http_port=settings.http_port,
        ),
        engine=engine,
        feed=shared.feed,
        registration=shared.registration,
        may_register=coexistence.wait_to_register,
        status=status,
        metrics=shared.metrics,
    )
