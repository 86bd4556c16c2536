"""What a kubelet asks of a driver, as steps; each can be cut short at any point and asked again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.faults.rig import Answer, FaultyDriver, Rig

SMALL, SMALL_TOO, BIG = "gpu-0-mig-1g10gb-19-0", "gpu-0-mig-1g10gb-19-1", "gpu-2-mig-3g40gb-9-4"
WHOLE, CUTTABLE = "gpu-7", "gpu-1"
"""gpu-7 is offered as a whole only; gpu-1 has to be made whole before it is used."""
SHARES = ("0b0c1d6c-1c3b-4f6e-9d0a-000000000001", "0b0c1d6c-1c3b-4f6e-9d0a-000000000002")

Result = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One call of the kubelet; ``before`` is what else happens in the cluster just before it."""

    call: str
    claims: tuple[str, ...]
    before: Callable[[Stage], Awaitable[None]] | None = None

    async def __call__(self, stage: Stage, *, timeout: float = 20) -> Answer:
        method = stage.rig.prepare if self.call == "prepare" else stage.rig.unprepare
        return await method(*(stage.claims[name] for name in self.claims), timeout=timeout)


@dataclass(frozen=True)
class Scenario:
    """Claims with their devices (or allocation results), and the steps in order; the last ones leave nothing behind."""

    name: str
    devices: dict[str, list[Result]]
    steps: tuple[Step, ...]
    in_any_order: bool = False
    """Whether claims of one call compete, so that ids depend on who comes first."""
    config: tuple[Result, ...] = ()
    """Parameters that every claim has."""


@dataclass
class Stage:
    """A scenario on a rig: the same claims, with the same UIDs, for every run of it."""

    rig: Rig
    scenario: Scenario
    claims: dict[str, Answer] = field(default_factory=dict)
    later: FaultyDriver | None = None
    """An instance that was killed and comes back when the other one has answered."""

    @classmethod
    async def build(cls, rig: Rig, scenario: Scenario) -> Stage:
        stage = cls(rig, scenario)
        for name, results in scenario.devices.items():
            stage.claims[name] = await rig.claims.allocated(name, *(f"gpu-{index}" for index in range(len(results))))
        await stage.reset()
        return stage

    async def reset(self) -> None:
        """Every claim has the allocation that it starts with."""
        for name, results in self.scenario.devices.items():
            await self.reallocate(name, results)

    async def reallocate(self, name: str, results: list[Result]) -> None:
        claim = await self.rig.api.get(self.rig.claims._path(self.claims[name]))
        devices = claim["status"]["allocation"]["devices"]
        if devices["results"] != results or len(devices.get("config") or ()) != len(self.scenario.config):
            await self.rig.claims.deallocate(claim)
            claim = await self.rig.api.get(self.rig.claims._path(claim))
            await self.rig.claims.allocate(claim, results, self.scenario.config)


def result(device: str, request: str = "req-0", **more: Any) -> Result:
    return {"request": request, "driver": "gpu.nvidia.com", "pool": "node-1", "device": device, **more}


def _config(kind: str, strategy: str, **more: Any) -> Result:
    """Parameters of a DeviceClass that say how devices are shared."""
    sharing = {"strategy": strategy, **more}
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": kind, "sharing": sharing}
    return {"source": "FromClass", "opaque": {"driver": "gpu.nvidia.com", "parameters": parameters}}


def again(name: str, *results: Result) -> Callable[[Stage], Awaitable[None]]:
    """The scheduler gives a claim other devices, under the same UID."""

    async def change(stage: Stage) -> None:
        await stage.reallocate(name, list(results))

    return change


async def lose_specs(stage: Stage) -> None:
    """Somebody empties the CDI directory."""
    for path in stage.rig.node.cdi.glob("*.json"):
        path.unlink()


def _prepare(*claims: str, before: Any = None) -> Step:
    return Step("prepare", claims, before)


def _unprepare(*claims: str) -> Step:
    return Step("unprepare", claims)


SCENARIOS = (
    Scenario("whole", {"a": [result(WHOLE)]}, (_prepare("a"), _prepare("a", before=lose_specs), _unprepare("a"))),
    Scenario("made-whole", {"a": [result(CUTTABLE)]}, (_prepare("a"), _unprepare("a"))),
    Scenario("partition", {"a": [result(SMALL)]}, (_prepare("a"), _prepare("a", before=lose_specs), _unprepare("a"))),
    Scenario(
        "several",
        {"a": [result(SMALL), result(SMALL_TOO, "req-1"), result(BIG, "req-2"), result(WHOLE, "req-3")]},
        (_prepare("a"), _unprepare("a")),
    ),
    Scenario(
        "reallocated",
        {"a": [result(SMALL)]},
        (
            _prepare("a"),
            _prepare("a", before=again("a", result(SMALL_TOO))),
            _prepare("a", before=again("a", result(WHOLE))),
            _prepare("a", before=again("a", result(BIG))),
            _unprepare("a"),
        ),
    ),
    Scenario(
        "two-at-once",
        {"a": [result(WHOLE)], "b": [result(SMALL)]},
        (_prepare("a", "b"), _unprepare("a", "b")),
    ),
    Scenario(
        "side-by-side",
        {"a": [result(SMALL)], "b": [result(SMALL_TOO)]},
        (_prepare("a", "b"), _unprepare("a", "b")),
        in_any_order=True,
    ),
    Scenario(
        "shared",
        {"a": [result(SMALL, shareID=SHARES[0])], "b": [result(SMALL, shareID=SHARES[1])]},
        (_prepare("a"), _prepare("b"), _unprepare("a"), _unprepare("b")),
    ),
    Scenario(
        "looked-at",
        {"a": [result(SMALL)], "b": [result(SMALL, adminAccess=True)]},
        (_prepare("a"), _prepare("b"), _unprepare("a"), _unprepare("b")),
    ),
    Scenario(
        "sliced",
        {"a": [result(WHOLE)]},
        (_prepare("a"), _unprepare("a")),
        config=(_config("GpuConfig", "TimeSlicing", timeSlicingConfig={"interval": "Long"}),),
    ),
    Scenario(
        "mps",
        {"a": [result(WHOLE), result(CUTTABLE, "req-1")]},
        (_prepare("a"), _prepare("a", before=lose_specs), _unprepare("a")),
        config=(_config("GpuConfig", "MPS", mpsConfig={"defaultPinnedDeviceMemoryLimit": "10Gi"}),),
    ),
    Scenario(
        "mps-partition",
        {"a": [result(SMALL)]},
        (_prepare("a"), _prepare("a", before=again("a", result(SMALL_TOO))), _unprepare("a")),
        config=(_config("MigDeviceConfig", "MPS"),),
    ),
    Scenario(
        "mps-shares",
        {
            "a": [result(WHOLE, shareID=SHARES[0], consumedCapacity={"memory": "10Gi"})],
            "b": [result(WHOLE, shareID=SHARES[1], consumedCapacity={"memory": "20Gi"})],
        },
        (_prepare("a"), _prepare("b"), _unprepare("a"), _unprepare("b")),
        config=(_config("GpuConfig", "MPS"),),
    ),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
