"""The node agent, assembled: start order and shutdown order are read here, nowhere else.

Start: directories and records, then the DRA socket, then the registration socket (the kubelet dials as soon as it sees
it), then probes and pages, then the slices. The API server and the hardware may be away at any time: registration and
unprepare need neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any

from driver.base import files, layout
from driver.base.supervised import root_cause, supervised
from driver.base.threads import in_daemon_thread
from driver.cdi import SpecDirectory
from driver.claims import Engine, MetadataFiles, RecordedHoldings, Records, StatusWriter, Sweeper, gpus_of, salvage
from driver.hardware import BackendError, ProfileError, open_backend, read_boot_id
from driver.health import ConditionStore, DeviceHealth, HealthFeed, describe
from driver.inventory import (
    PERIOD,
    Coexistence,
    Defects,
    Devices,
    Discovery,
    Lead,
    NameStore,
    Neighbour,
    Offer,
    Patience,
    Publication,
    Publisher,
    Sign,
    watch_specs,
)
from driver.kube import Api, ConfigError, NodeEvents
from driver.kubelet import (
    DraService,
    HealthServiceV1,
    HealthServiceV1Alpha1,
    Interceptor,
    Liveness,
    ProbeService,
    RegistrationService,
    allow_descriptors,
    bind_tcp,
    bind_unix,
    new_public_server,
    new_server,
    remove_dead_socket,
    serves,
)
from driver.node import memory
from driver.node.config_file import NodeConfigError, device_options, read_node_config, taint_effects
from driver.observe import Metrics, configure_logging, serve_pages
from driver.wire import (
    dra_health_v1_pb2_grpc,
    dra_health_v1alpha1_pb2_grpc,
    dra_v1_pb2_grpc,
    pluginregistration_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import grpc.aio

    from driver.claims import Record
    from driver.node.settings import Settings

logger = logging.getLogger(__name__)

# After its registration socket is gone, the kubelet may send us calls until its next look, once a second.
LINGER = 2.0
GRACE = 20.0
# Where the CDI spec of a claim could not be brought to what the hardware is, that is tried again this often.
RENEWAL_RETRY = 10.0


def run_node(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT and return the exit status: 0 stopped, 1 failed, 2 a setting cannot work."""
    configure_logging(level=settings.log_level, log_format=settings.log_format)
    allow_descriptors()
    try:
        asyncio.run(Node(settings).run())
    except Exception as error:
        cause = root_cause(error)
        if isinstance(cause, ConfigError | ProfileError | NodeConfigError):
            logger.error("%s", cause)
            return 2
        if isinstance(cause, OSError):
            logger.error("%s", cause)
        else:
            logger.exception("the driver failed")
        return 1
    return 0


class Node:
    """One instance of the driver on one node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._config = read_node_config(settings)
        self._metrics = Metrics(driver_name=settings.driver_name)
        self._devices = Devices()
        self._feed = HealthFeed(pool=settings.node_name, devices=self._health)
        self._interceptor = Interceptor(self._metrics)
        self._registration = RegistrationService(
            driver_name=settings.driver_name, endpoint=settings.dra_socket, metrics=self._metrics
        )
        self._specs = SpecDirectory(settings.cdi_root, driver=settings.driver_name)
        self._boot_id = read_boot_id()
        self._registering = False
        self._live = Liveness(self._served)
        self._changed = asyncio.Event()
        """Set when the inventory, or what claims keep of it, has changed."""
        # Made in the order of ``run``, once there is a connection.
        self._events: NodeEvents
        self._offer: Offer
        self._publisher: Publisher
        self._coexistence: Coexistence
        self._publication: Publication
        self._defects: Defects
        self._status: StatusWriter | None = None
        self._sweeper: Sweeper

    async def run(self) -> None:
        """Serve until a signal comes. Raises what made that impossible."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        settings = self._settings
        async with await Api.connect(settings.kubeconfig) as api:
            self._events = NodeEvents(api, node_name=settings.node_name, component=settings.driver_name)
            discovery = self._assemble(api)
            engine = await self._open_engine(api)
            async with asyncio.TaskGroup() as tasks:

                def start(work: Callable[[], Awaitable[None]], *, name: str) -> asyncio.Task[None]:
                    return tasks.create_task(supervised(work, name=name, fatal=(ProfileError,)), name=name)

                publishing = start(self._publisher.run, name="publish")
                # These go on until the last call is answered: it may need what they do.
                running = [
                    start(discovery.run, name="devices"),
                    start(self._publication.run, name="slices"),
                    start(
                        lambda: watch_specs(self._specs, defects=self._defects, publication=self._publication),
                        name="cdi",
                    ),
                    start(lambda: self._renew_specs(engine), name="specs"),
                    start(self._catch_up_statuses, name="statuses"),
                    start(engine.undo_leftovers, name="undo"),
                    start(engine.watch_mps, name="mps"),
                    start(engine.watch_specs, name="specs"),
                    start(self._sweeper.run, name="sweep"),
                    start(self._coexistence.run, name="coexistence"),
                    start(self._events.run, name="events"),
                    start(memory.give_back, name="memory"),
                    *([start(self._status.run, name="status")] if self._status else []),
                ]
                async with contextlib.AsyncExitStack() as stack:
                    await self._serve_kubelet(stack, engine)
                    registering = tasks.create_task(self._register(stack), name="registration")
                    await self._serve_probes(stack)
                    logger.info(
                        "started",
                        extra={"driver": settings.driver_name, "node": settings.node_name, "devices": settings.devices},
                    )
                    memory.settle()
                    await stop.wait()
                    logger.info("stopping")
                    registering.cancel()
                    publishing.cancel()  # what the kubelet wipes once we are gone must not come back
                for task in running:
                    task.cancel()
        logger.info("stopped")

    def _assemble(self, api: Api) -> Discovery:
        """The flow from the hardware to the slices, and what it needs."""
        settings, config = self._settings, self._config
        self._offer = Offer(
            options=device_options(settings, config),
            devices=self._devices,
            names=NameStore(settings.plugin_dir, boot_id=self._boot_id),
            boot_id=self._boot_id,
            metrics=self._metrics,
            tell=self._events.tell,
            look_again=self._changed.set,
        )
        publisher = self._publisher = Publisher(
            api=api,
            driver_name=settings.driver_name,
            node_name=settings.node_name,
            metrics=self._metrics,
            warn=self._events.warn,
            lead=Lead(settings.plugin_dir / layout.INSTANCES),
            essential={"DRAPartitionableDevices": self._offer.without_partitions},
        )
        self._coexistence = Coexistence(
            api,
            driver_name=settings.driver_name,
            node_name=settings.node_name,
            plugins_dir=settings.kubelet_plugins_dir,
            registry_dir=settings.kubelet_registry_dir,
            ignore=settings.ignore_other_drivers,
            own=lambda: settings.registrar_socket if self._registering else None,
            slices=lambda: publisher.existing,
            changed=self._neighbours_changed,
            warn=self._events.warn,
        )
        self._defects = Defects(events=self._events, metrics=self._metrics)
        self._publication = Publication(
            driver_name=settings.driver_name,
            pool=settings.node_name,
            effects=taint_effects(config),
            list_attributes=config.list_attributes,
            devices=self._devices,
            offer=self._offer,
            defects=self._defects,
            publisher=publisher,
            coexistence=self._coexistence,
            feed=self._feed,
            metrics=self._metrics,
        )
        return Discovery(
            open_backend=lambda: open_backend(
                settings.devices, settings.plugin_dir, boot_id=self._boot_id, host=settings.host
            ),
            devices=self._devices,
            offer=self._offer,
            publication=self._publication,
            defects=self._defects,
            store=ConditionStore(settings.plugin_dir, boot_id=self._boot_id),
            events=self._events,
            changed=self._changed,
            registered=self._registration.wait,
            patience=Patience(unread=settings.unread_patience),
        )

    async def _open_engine(self, api: Api) -> Engine:
        settings = self._settings
        settings.plugin_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        settings.kubelet_registry_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        specs = self._specs
        with contextlib.suppress(OSError):  # it is watched, and may be writable for the next claim
            specs.open()
        records = Records(
            settings.plugin_dir / layout.CLAIMS,
            boot_id=self._boot_id,
            quarantined=self._quarantined,
            salvage=lambda uid, path, spec: self._salvaged(uid, path, spec or specs.read(uid)),
            has_spec=specs.exists,
            changed=lambda record: self._offer.claim_changed(record.devices),
        )
        await records.open()
        self._metrics.prepared.set(len(records))
        self._offer.holdings = RecordedHoldings(records, boot_id=self._boot_id)
        self._records = records
        self._status = StatusWriter(api, published=self._publication.device) if settings.device_status else None
        metadata = MetadataFiles(settings.plugin_dir / layout.METADATA, published=self._publication.device)
        if settings.device_metadata:
            metadata.open()
        engine = Engine(
            api=api,
            records=records,
            specs=specs,
            devices=self._devices.known,
            driver_name=settings.driver_name,
            pool=settings.node_name,
            boot_id=self._boot_id,
            metrics=self._metrics,
            published=self._publication.device,
            metadata=metadata if settings.device_metadata else None,
            status=self._status,
            enforce_shares=settings.shares_enforcement == "mps",
            warn=self._events.warn,
        )
        self._sweeper = Sweeper(
            api=api,
            records=records,
            specs=specs,
            metadata=metadata,
            boot_id=self._boot_id,
            release=engine.release,
            idle=self._idle,
            gpus=lambda uid, content: gpus_of(uid, content, self._offer.nameable()),
        )
        return engine

    async def _serve_kubelet(self, stack: contextlib.AsyncExitStack, engine: Engine) -> None:
        settings = self._settings
        self._remove_dead_sockets()
        dra = new_server(self._interceptor)
        dra_v1_pb2_grpc.add_DRAPluginServicer_to_server(DraService(engine, self._metrics), dra)
        dra_health_v1_pb2_grpc.add_DRAResourceHealthServicer_to_server(HealthServiceV1(self._feed), dra)
        dra_health_v1alpha1_pb2_grpc.add_DRAResourceHealthServicer_to_server(HealthServiceV1Alpha1(self._feed), dra)
        self._probes().add_to(dra)
        bind_unix(dra, settings.dra_socket)
        await dra.start()
        stack.push_async_callback(self._stop_dra, dra, engine)

    async def _register(self, stack: contextlib.AsyncExitStack) -> None:
        """Let the kubelet know of us, as soon as no other driver answers to our name."""
        settings = self._settings
        while True:
            if await self._coexistence.may_register():
                break
            await asyncio.sleep(PERIOD)
        self._registering = True
        registrar = new_server(self._interceptor)
        pluginregistration_pb2_grpc.add_RegistrationServicer_to_server(self._registration, registrar)
        bind_unix(registrar, settings.registrar_socket)
        await registrar.start()
        stack.push_async_callback(registrar.stop, 0)

    async def _stop_dra(self, server: grpc.aio.Server, engine: Engine) -> None:
        """After the registration socket has gone: let the kubelet turn away, finish what is in flight, then go."""
        if self._registration.registered:
            await asyncio.sleep(LINGER)
        stopping = asyncio.ensure_future(server.stop(GRACE))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await self._interceptor.idle.wait()
        self._feed.stop()
        await stopping
        await engine.settle(within=GRACE)

    async def _serve_probes(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self._settings
        if settings.health_port:
            server = new_public_server(self._interceptor)
            self._probes().add_to(server)
            bind_tcp(server, settings.health_port)
            await server.start()
            stack.push_async_callback(server.stop, 0)
        if settings.http_port:
            pages = await serve_pages(
                port=settings.http_port,
                registry=self._metrics.registry,
                live=self._live,
                not_ready=self._not_ready,
                status=self._state,
            )
            stack.push_async_callback(pages.cleanup)

    def _probes(self) -> ProbeService:
        return ProbeService({"": self._live, "liveness": self._live, "readiness": self._ready})

    async def _served(self) -> bool:
        registrar = self._settings.registrar_socket if self._registering else None
        return await serves(registrar, self._settings.dra_socket)

    async def _ready(self) -> bool:
        return not self._not_ready()

    def _not_ready(self) -> list[str]:
        """What is missing, a line each; every part says so for itself."""
        parts = (
            self._devices.not_ready,
            self._defects.not_ready,
            self._registration.not_ready,
            self._slices_not_ready,
        )
        return [line for part in parts for line in part()]

    def _slices_not_ready(self) -> list[str]:
        if self._coexistence.problem:
            return [f"slices: held back: {self._coexistence.problem}"]
        return [] if self._publisher.published else ["slices: not published"]

    async def _renew_specs(self, engine: Engine) -> None:
        """Keep the CDI specs of claims in step with the hardware, those of earlier processes first."""
        settled = True
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if settled else RENEWAL_RETRY):
                    await self._devices.renewed.wait()
            self._devices.renewed.clear()
            try:
                await engine.restore()
                settled = engine.specs_settled
            except Exception:
                logger.exception("CDI specs cannot be renewed, a bug of the driver; it is tried again")
                settled = False

    async def _catch_up_statuses(self) -> None:
        """Write what earlier processes have not got to, once the devices are known."""
        await self._devices.present.wait()
        if self._status is not None and self._records is not None:
            await self._status.catch_up(self._records)

    def _neighbours_changed(self, signs: tuple[Sign, ...]) -> None:
        for kind in Neighbour:
            self._metrics.other_drivers.labels(kind.value).set(any(sign.neighbour is kind for sign in signs))
        self._publication.renew()

    def _health(self) -> tuple[DeviceHealth, ...]:
        return self._publication.health()

    def _remove_dead_sockets(self) -> None:
        """Sockets that killed predecessors left behind; the kubelet would dial them for ever."""
        settings = self._settings
        for path in settings.plugin_dir.glob("dra*.sock"):
            remove_dead_socket(path)
        for path in settings.kubelet_registry_dir.glob(f"{settings.driver_name}*-reg.sock"):
            remove_dead_socket(path)

    def _quarantined(self, path: Path, problem: str) -> None:
        self._metrics.quarantined.inc()
        message = (
            f"a damaged claim record was set aside as {path}: {problem}. Its devices stay taken until its claim ends; "
            "find out what damaged it, and delete the file when nothing uses them any more"
        )
        logger.error("%s", message)
        self._events.warn("DamagedClaimRecord", message)

    def _salvaged(self, uid: str, path: Path, content: bytes | None) -> Record | None:
        """What a damaged record held, by its claim's CDI spec, which is there until the kubelet unprepares it.

        No time says whether that was in this boot: clocks jump. Where the CDI root outlives a boot, so does the hold.
        """
        if content is None:
            return None
        settings = self._settings
        return salvage(
            uid,
            files.read(str(path)),
            content,
            path=str(path),
            devices=self._offer.nameable(),
            driver=settings.driver_name,
            pool=settings.node_name,
            boot_id=self._boot_id,
        )

    def _state(self) -> dict[str, Any]:
        """What a person wants to know of this instance at a glance; the page ``/status``."""
        publisher, records = self._publisher, self._records
        return {
            "driver": self._settings.driver_name,
            "node": self._settings.node_name,
            "podUID": self._settings.pod_uid,
            "notReady": self._not_ready(),
            "publishes": not publisher.quiet,
            "otherDrivers": [sign.evidence for sign in self._coexistence.signs],
            "devices": len(self._devices.offered),
            "notOfferedAsAsked": self._offer.problems,
            "pendingChange": self._offer.pending,
            "nodeDefects": {found.kind: ". ".join(filter(None, (found.why, found.remedy))) for found in self._defects},
            "conditions": {uuid: [describe(c) for c in found] for uuid, found in self._publication.conditions.items()},
            "droppedFeatureGates": sorted(publisher.dropped),
            "preparedClaims": len(records) if records else 0,
            "quarantinedRecords": sorted(records.quarantined_uids()) if records else [],
        }

    async def _idle(self, gpu_uuid: str) -> bool:
        """Whether no process uses a GPU; when the hardware cannot tell, somebody may."""
        try:
            backend, _ = await self._devices.known()
            return await in_daemon_thread(lambda: backend.processes(gpu_uuid)) == 0
        except BackendError as error:
            logger.debug("processes of %s: %s", gpu_uuid, error)
            return False
