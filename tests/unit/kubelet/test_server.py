"""The gRPC server that anybody on the network may call: what it takes, of how many, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from driver.kubelet.probes import MAX_WATCHES, ProbeService
from driver.kubelet.server import (
    MAX_DESCRIPTORS,
    MAX_PUBLIC_MESSAGE,
    Calls,
    ConnectionTimes,
    allow_descriptors,
    new_public_server,
)
from driver.observe.metrics import Metrics
from tests.eventually import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
Code = grpc.StatusCode


async def well() -> bool:
    return True


@contextlib.asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[int]:
    """A server on a port of its own."""
    server = new_public_server(**limits)
    ProbeService({"liveness": well}).add_to(Calls(Metrics(driver_name="gpu.nvidia.com")).on(server))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


@contextlib.asynccontextmanager
async def channel(port: int) -> AsyncIterator[grpc.aio.Channel]:
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as connection:
        yield connection


async def check(connection: grpc.aio.Channel, service: str = "liveness", **more: Any) -> Any:
    stub = health_pb2_grpc.HealthStub(connection)
    return await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE, **more)


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value


async def connect(port: int, said: bytes = b"") -> asyncio.StreamReader:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(said)
    reader.writer = writer  # type: ignore[attr-defined]  # or it would be closed now
    return reader


async def closed(reader: asyncio.StreamReader) -> None:
    """Return when the other side has cut a connection."""
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                pass


async def test_large_messages_are_refused_from_twenty_at_once() -> None:
    async def send(port: int) -> grpc.aio.AioRpcError:
        async with channel(port) as connection:
            return await refusal(check(connection, "x" * (4 << 20)))

    async with serving() as port:
        refusals = await asyncio.gather(*(send(port) for _ in range(20)))

        async with channel(port) as connection:
            assert await check(connection)
    # An end while it is still being sent is as good.
    assert {error.code() for error in refusals} <= {Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE, Code.CANCELLED}


async def test_a_message_above_the_limit_is_refused_as_such() -> None:
    async with serving() as port, channel(port) as connection:
        error = await refusal(check(connection, "x" * MAX_PUBLIC_MESSAGE))

    assert error.code() is Code.RESOURCE_EXHAUSTED


async def test_the_name_of_a_service_that_is_not_known_is_not_echoed() -> None:
    async with serving() as port, channel(port) as connection:
        error = await refusal(check(connection, "who-am-i"))

    assert error.code() is Code.NOT_FOUND
    assert "who-am-i" not in str(error.details())
    assert "'liveness'" in str(error.details())


@pytest.mark.parametrize("method", [CHECK, WATCH])
async def test_malformed_calls_are_refused_and_logged_as_one_short_line(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as port, channel(port) as connection:
        raw: Any = connection
        for _ in range(50):
            if method == CHECK:
                error = await refusal(raw.unary_unary(method)(b"\xff\xff"))
            else:
                error = await refusal(raw.unary_stream(method)(b"\xff\xff").read())
            assert error.code() is Code.INVALID_ARGUMENT

    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"refused a call of {method} from ipv4:127.0.0.1" in line.getMessage()
    assert line.exc_info is None


async def test_watches_beyond_a_number_are_refused_until_others_end() -> None:
    request = health_pb2.HealthCheckRequest(service="liveness")
    async with serving() as port, contextlib.AsyncExitStack() as stack:
        watches = []
        for number in range(MAX_WATCHES):
            if number % 16 == 0:
                connection = await stack.enter_async_context(channel(port))
            watches.append(health_pb2_grpc.HealthStub(connection).Watch(request))
            assert (await watches[-1].read()).status == health_pb2.HealthCheckResponse.SERVING
        one_more = await stack.enter_async_context(channel(port))

        async def watched() -> Any:
            return await health_pb2_grpc.HealthStub(one_more).Watch(request).read()

        error = await refusal(watched())
        watches[0].cancel()

        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert await check(one_more)

        async def taken() -> bool:
            with contextlib.suppress(grpc.aio.AioRpcError):
                return (await watched()).status == health_pb2.HealthCheckResponse.SERVING
            return False

        assert await eventually(taken)


async def test_connections_beyond_a_number_are_refused_and_the_rest_is_served() -> None:
    async with serving(connections=3) as port, channel(port) as connection:
        await check(connection)
        held = [await connect(port) for _ in range(2)]

        for _ in range(20):
            await closed(await connect(port))

        assert await check(connection)
        assert not any(reader.at_eof() for reader in held)


@pytest.mark.parametrize(
    "said",
    [b"", b"PRI * HT", PREFACE, PREFACE + bytes([0, 0x3F, 0xFF, 1, 0, 0, 0, 0, 1]) + b"x"],
    ids=["nothing", "half a greeting", "a greeting", "half a header"],
)
async def test_whoever_says_no_more_is_cut(said: bytes) -> None:
    times = ConnectionTimes(greeting=0.2, idle=0.2, age=PATIENCE)
    async with serving(times=times) as port:
        await closed(await connect(port, said))


async def test_no_call_holds_a_connection_for_ever() -> None:
    async with (
        serving(times=ConnectionTimes(greeting=0.1, idle=PATIENCE, age=0.3)) as port,
        channel(port) as connection,
    ):
        watch = health_pb2_grpc.HealthStub(connection).Watch(health_pb2.HealthCheckRequest(service="liveness"))

        async def to_its_end() -> None:
            async for _ in watch:
                pass

        async with asyncio.timeout(PATIENCE):
            error = await refusal(to_its_end())

    assert error.code() is Code.UNAVAILABLE


async def test_who_was_turned_away_gets_in_when_the_others_are_cut() -> None:
    times = ConnectionTimes(greeting=0.2, idle=0.2, age=PATIENCE)
    async with serving(connections=2, times=times) as port, channel(port) as connection:
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]

        assert await check(connection, wait_for_ready=True)

        for one in held:
            one.close()


def test_a_process_takes_the_descriptors_that_it_may_have() -> None:
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))

    allow_descriptors()

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))
    assert soft == (MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS))
