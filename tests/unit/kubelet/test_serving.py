"""What is served when, and what is still answered while it stops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest

from driver.health.feed import HealthFeed
from driver.kubelet.registration import RegistrationService
from driver.kubelet.serving import Addresses, Serving, StopTimes
from driver.observe.metrics import Metrics
from driver.wire import dra_v1_pb2, dra_v1_pb2_grpc, pluginregistration_pb2, pluginregistration_pb2_grpc
from tests.eventually import eventually
from tests.short import short_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER = "gpu.nvidia.com"
CLAIM = dra_v1_pb2.NodeUnprepareResourcesRequest(claims=[dra_v1_pb2.Claim(namespace="a", name="b", uid="c")])


class HeldUpEngine:
    """Unprepares when it is let."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.called, self.settled = asyncio.Event(), False

    async def prepare(self, claims: list[Any], *, seconds_left: float | None) -> dict[str, Any]:
        return {uid: () for _, _, uid in claims}

    async def unprepare(self, claims: list[Any]) -> dict[str, None]:
        self.called.set()
        await self.may_end.wait()
        return {uid: None for _, _, uid in claims}

    async def settle(self, *, within: float) -> None:
        self.settled = True


class Well:
    """The status of an instance that lacks what the test says."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def not_ready(self) -> list[str]:
        return self.missing

    def page(self) -> dict[str, Any]:
        return {}


class Instance:
    """Everything around ``Serving``, in a directory whose path is short enough for sockets."""

    def __init__(self, directory: Path, *, linger: float = 0.05) -> None:
        self.dra, self.registrar = directory / "dra.sock", directory / f"{DRIVER}-reg.sock"
        self.engine, self.free, self.well = HeldUpEngine(), asyncio.Event(), Well()
        metrics = Metrics(driver_name=DRIVER)
        self.registration = RegistrationService(driver_name=DRIVER, endpoint=self.dra, metrics=metrics)
        engine: Any = self.engine

        async def may_register() -> None:
            await self.free.wait()

        self.serving = Serving(
            Addresses(
                dra_socket=self.dra, registrar_socket=self.registrar, driver_name=DRIVER, health_port=0, http_port=0
            ),
            engine=engine,
            feed=HealthFeed(pool="node-1", devices=tuple),
            registration=self.registration,
            may_register=may_register,
            status=self.well,
            metrics=metrics,
            times=StopTimes(linger=linger, grace=10),
        )

    async def register(self) -> None:
        self.free.set()
        await self.serving.register()

    async def unprepare(self) -> None:
        async with grpc.aio.insecure_channel(f"unix:{self.dra}") as channel:
            await dra_v1_pb2_grpc.DRAPluginStub(channel).NodeUnprepareResources(CLAIM)

    async def info(self) -> str:
        async with grpc.aio.insecure_channel(f"unix:{self.registrar}") as channel:
            stub = pluginregistration_pb2_grpc.RegistrationStub(channel)
            return str((await stub.GetInfo(pluginregistration_pb2.InfoRequest())).endpoint)


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as made:
        yield made


@pytest.fixture
async def instance(directory: Path) -> Instance:
    return Instance(directory)


async def test_the_kubelet_finds_us_only_when_nobody_else_answers_to_our_name(instance: Instance) -> None:
    instance.engine.may_end.set()
    async with instance.serving:
        registering = asyncio.create_task(instance.serving.register())
        await instance.unprepare()
        assert not instance.registrar.exists()

        instance.free.set()
        await registering

        assert await instance.info() == str(instance.dra)


async def test_a_call_under_way_is_answered_after_the_registration_socket_has_gone(instance: Instance) -> None:
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(instance.serving)
        await instance.register()
        call = asyncio.create_task(instance.unprepare())
        await instance.engine.called.wait()
        stopping = asyncio.create_task(stack.aclose())

        await eventually(lambda: not instance.registrar.exists())
        assert not call.done()
        instance.engine.may_end.set()

        await call
        await stopping
    assert instance.engine.settled
    assert not instance.dra.exists()


async def test_a_kubelet_that_took_us_may_still_call_for_a_moment(directory: Path) -> None:
    instance = Instance(directory, linger=2)  # time enough for a call on a busy machine
    instance.engine.may_end.set()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(instance.serving)
        await instance.register()
        confirmed: Any = pluginregistration_pb2.RegistrationStatus(plugin_registered=True)
        context: Any = None
        await instance.registration.NotifyRegistrationStatus(confirmed, context)
        stopping = asyncio.create_task(stack.aclose())
        await eventually(lambda: not instance.registrar.exists())

        await instance.unprepare()

        await stopping


async def test_sockets_of_killed_predecessors_are_removed_and_those_of_others_stay(
    instance: Instance, directory: Path
) -> None:
    dead = [directory / "dra-old.sock", directory / f"{DRIVER}-old-reg.sock"]
    others = directory / "net.example.com-reg.sock"
    for path in (*dead, others):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))

    async with instance.serving:
        assert [path.exists() for path in dead] == [False, False]
        assert others.exists()


async def test_a_socket_on_which_somebody_listens_is_not_taken(instance: Instance) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(instance.dra))
        listener.listen()

        with pytest.raises(OSError, match="another process serves"):
            async with instance.serving:
                pass


async def test_a_start_that_fails_half_way_leaves_nothing_that_serves(directory: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        instance = Instance(directory)
        where = Addresses(
            dra_socket=instance.dra,
            registrar_socket=instance.registrar,
            driver_name=DRIVER,
            health_port=taken.getsockname()[1],
            http_port=0,
        )
        engine: Any = instance.engine
        serving = Serving(
            where,
            engine=engine,
            feed=HealthFeed(pool="node-1", devices=tuple),
            registration=instance.registration,
            may_register=instance.free.wait,
            status=instance.well,
            metrics=Metrics(driver_name=DRIVER),
            times=StopTimes(linger=0.05, grace=1),
        )

        with pytest.raises(OSError, match="--health-port"):
            async with serving:
                pass

    assert not instance.dra.exists()
