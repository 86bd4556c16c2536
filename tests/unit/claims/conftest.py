from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from driver.cdi.directory import SpecDirectory
from driver.claims.common import Common, Told
from driver.claims.engine import Engine
from driver.claims.hardware import Hardware as HardwareChanges
from driver.claims.ledger.damage import SpecHolds
from driver.claims.ledger.quarantine import Quarantine
from driver.claims.ledger.records import Records
from driver.claims.specs import ClaimSpecs
from driver.claims.terms import Terms
from driver.hardware.model import ContainerEdits, DeviceNode, Gpu
from driver.hardware.mps.edits import client_edits
from driver.hardware.process_sharing import ComputeMode, MpsDaemon, MpsLimits, TimeSlice
from driver.inventory.catalogue import Device
from driver.kube.client import ApiError
from driver.observe.metrics import Metrics

if TYPE_CHECKING:
    from driver.claims.metadata import MetadataFiles

DRIVER = "gpu.nvidia.com"
POOL = "node-1"


def gpu(minor: int) -> Gpu:
    return Gpu(
        name=f"gpu-{minor}",
        uuid=f"GPU-{minor}",
        index=minor,
        minor=minor,
        product_name="Example",
    )


class Hardware:
    """A backend of which the engine needs little more than the edits: its GPUs share as they are told."""

    def time_slice(self, gpu_uuid: str) -> TimeSlice:
        return TimeSlice.DEFAULT

    def compute_mode(self, gpu_uuid: str) -> ComputeMode:
        return ComputeMode.DEFAULT

    def set_time_slice(self, gpu_uuid: str, interval: TimeSlice) -> None:
        pass

    def set_compute_mode(self, gpu_uuid: str, mode: ComputeMode) -> None:
        pass

    def start_mps(self, daemon: MpsDaemon) -> None:
        assert daemon.devices

    def stop_mps(self, daemon_id: str) -> None:
        pass

    def mps_runs(self, daemon_id: str) -> bool:
        return True

    def sweep_mps(self, keep: object) -> None:
        pass

    def mps_edits(self, daemon_id: str, limits: MpsLimits) -> ContainerEdits:
        return client_edits(pipes=f"/mps/{daemon_id}/pipe", shm=f"/mps/{daemon_id}/shm", limits=limits)

    def __init__(self) -> None:
        self.missing = ""

    def missing_file(self) -> str:
        return self.missing

    def common_edits(self) -> ContainerEdits:
        return ContainerEdits(env=("COMMON=1",))

    def device_edits(self, device: Gpu, partition: object = None) -> ContainerEdits:
        return ContainerEdits(device_nodes=(DeviceNode(path=f"/dev/nvidia{device.minor}"),))


class ClaimApi:
    """Answers GETs of claims; ``errors`` are raised first, one for each call."""

    def __init__(self) -> None:
        self.claims: dict[str, dict[str, Any]] = {}
        self.errors: list[ApiError] = []
        self.gets = 0
        self.on_get: Any = None

    host = "https://api"

    async def get_bytes(self, path: str, *, timeout: float = 10) -> bytes:
        return json.dumps(await self.get(path)).encode()

    async def get(self, path: str, params: Any = None, *, timeout: float = 10) -> dict[str, Any]:
        self.gets += 1
        if self.on_get is not None:
            await self.on_get()
        if self.errors:
            raise self.errors.pop(0)
        name = path.rsplit("/", 1)[-1]
        if name not in self.claims:
            raise ApiError(404, f'resourceclaims "{name}" not found', reason="NotFound")
        return self.claims[name]


def result(device: str = "gpu-0", *, request: str = "gpu", driver: str = DRIVER, **more: Any) -> dict[str, Any]:
    return {"request": request, "driver": driver, "pool": POOL, "device": device, **more}


def claim(*results: dict[str, Any], name: str = "claim", uid: str | None = None, **devices: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "name": name, "uid": uid or str(uuid.uuid4())},
        "status": {"allocation": {"devices": {"results": list(results) or [result()], **devices}}},
    }


class Node:
    """One driver instance on one node's directories; make a second one for a restart or a rolling upgrade."""

    def __init__(self, root: Path, api: ClaimApi, *, boot_id: str = "boot-1", gpus: int = 4, **more: Any) -> None:
        self.warned: list[str] = []
        self.api = api
        self.quarantined: list[tuple[Path, str]] = []
        self.cdi_root = root / "cdi"
        self.specs = SpecDirectory(self.cdi_root, driver=DRIVER)
        self.records = Records(
            root / "plugin" / "claims",
            boot_id=boot_id,
            quarantine=Quarantine(
                root / "plugin" / "quarantine", lambda path, problem: self.quarantined.append((path, problem))
            ),
            by_spec=SpecHolds(
                specs=self.specs, devices=lambda: self.nameable(), driver=DRIVER, pool=POOL, boot_id=boot_id
            ),
        )
        self.backend = Hardware()
        self.inventory = {f"gpu-{minor}": Device(name=f"gpu-{minor}", gpu=gpu(minor)) for minor in range(gpus)}
        self.busy = False
        self.common = self.make_common(Metrics(driver_name=DRIVER), **more)
        self.engine = Engine(self.common, api=api)  # type: ignore[arg-type]

    def make_common(
        self, metrics: Metrics, *, metadata: MetadataFiles | None = None, status: Any = None, **terms: Any
    ) -> Common:
        devices: Any = self
        events: Any = self
        return Common(
            terms=Terms(driver=DRIVER, pool=POOL, **{"patience": 0, **terms}),
            devices=devices,
            records=self.records,
            specs=ClaimSpecs(self.specs, driver_name=DRIVER, metrics=metrics, metadata=metadata),
            hardware=HardwareChanges(Path(self.records.lock_path).parent),
            told=Told(metrics=metrics, events=events, status=status),
        )

    def warn(self, reason: str, message: str) -> None:
        """As events on the node."""
        self.warned.append(f"{reason}: {message}")

    async def idle(self, _gpu_uuid: str) -> bool:
        return not self.busy

    def nameable(self) -> dict[str, Device]:
        return self.inventory

    async def known(self) -> Any:
        return self.backend, self.inventory

    async def start(self) -> Node:
        self.specs.open()
        await self.records.open()
        self.records.hold_by_specs()  # as when the hardware was read
        return self

    async def prepare(self, obj: dict[str, Any], *, seconds_left: float = 45) -> Any:
        ref = (obj["metadata"]["namespace"], obj["metadata"]["name"], obj["metadata"]["uid"])
        return (await self.engine.prepare([ref], seconds_left=seconds_left))[obj["metadata"]["uid"]]

    async def unprepare(self, obj: dict[str, Any]) -> Any:
        ref = (obj["metadata"]["namespace"], obj["metadata"]["name"], obj["metadata"]["uid"])
        return (await self.engine.unprepare([ref]))[obj["metadata"]["uid"]]

    def spec_files(self) -> list[str]:
        return sorted(path.name for path in self.cdi_root.iterdir() if path.is_file())


@pytest.fixture
def api() -> ClaimApi:
    return ClaimApi()


@pytest.fixture
async def node(tmp_path: Path, api: ClaimApi) -> Node:
    return await Node(tmp_path, api).start()


@pytest.fixture
def allocated(api: ClaimApi) -> Any:
    def put(*results: dict[str, Any], name: str = "claim", **more: Any) -> dict[str, Any]:
        obj = claim(*results, name=name, **more)
        api.claims[name] = obj
        return obj

    return put
