"""gRPC servers on unix sockets and TCP: how they start, measure and stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from driver.base.repeat_filter import RepeatFilter
from driver.inventory import is_socket, listened_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from driver.observe import Metrics

logger = logging.getLogger(__name__)

# A request with the largest batch that a kubelet could send stays far below this.
MAX_MESSAGE = 16 << 20
# On TCP anybody may call, and a health check has the name of a service.
MAX_PUBLIC_MESSAGE = 4 << 10
MAX_PUBLIC_CONNECTIONS = 256
MAX_STREAMS = 16
"""Calls at the same time on one connection from outside."""
# Some programs that we start close every descriptor that they could have.
MAX_DESCRIPTORS = 1 << 16
SAID_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionTimes:
    """Seconds after which a connection from outside is cut."""

    greeting: float = 5.0
    """It has not said what it speaks."""
    idle: float = 30.0
    """No call is under way."""
    age: float = 600.0
    """Whatever it does; calls under way get as long as ``greeting`` to end."""


class Calls:
    """Reads and measures calls under their full method names, and knows how many unary ones are under way."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._in_flight = 0
        self._repeats = RepeatFilter(again_seconds=SAID_SECONDS)
        self.idle = asyncio.Event()
        """Set while no unary call is under way."""
        self.idle.set()

    def on(self, server: grpc.aio.Server) -> MeasuredServer:
        """What services are added to in the place of this server."""
        return MeasuredServer(server, self)

    def wrap(self, handler: grpc.RpcMethodHandler[Any, Any], method: str) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler whose calls are read and measured here; streams have no duration worth a histogram."""
        return (self._wrap_unary if handler.unary_unary else self._wrap_stream)(handler, method)

    async def _read(self, handler: grpc.RpcMethodHandler[Any, Any], method: str, request: bytes, context: Any) -> Any:
        """The message of a call. Here, because the library has a traceback logged for each that is none."""
        deserialize: Any = handler.request_deserializer
        try:
            return deserialize(request)
        except DecodeError:
            if self._repeats.is_news(method, "malformed"):
                logger.warning(
                    "refused a call of %s from %s: its message is not of the expected type; the next one is logged "
                    "after %d s at the earliest",
                    method,
                    context.peer(),
                    SAID_SECONDS,
                )
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is not of the type that is expected")

    def _wrap_stream(self, handler: grpc.RpcMethodHandler[Any, Any], method: str) -> grpc.RpcMethodHandler[Any, Any]:
        inner: Any = handler.unary_stream

        async def streamed(request: bytes, context: Any) -> AsyncIterator[Any]:
            async for message in inner(await self._read(handler, method, request, context), context):
                yield message

        return grpc.unary_stream_rpc_method_handler(streamed, response_serializer=handler.response_serializer)

    def _wrap_unary(self, handler: grpc.RpcMethodHandler[Any, Any], method: str) -> grpc.RpcMethodHandler[Any, Any]:
        inner: Any = handler.unary_unary

        async def measured(request: bytes, context: Any) -> Any:
            started = time.perf_counter()
            self._in_flight += 1
            self.idle.clear()
            code = "Unknown"
            try:
                response = await inner(await self._read(handler, method, request, context), context)
                code = "OK"
            except asyncio.CancelledError:  # the caller went away, or its deadline passed
                code = "Canceled"
                raise
            except grpc.aio.AbortError:
                code = _code_name(context.code())
                raise
            else:
                return response
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self.idle.set()
                self._metrics.observe_rpc(method, code, time.perf_counter() - started)

        return grpc.unary_unary_rpc_method_handler(measured, response_serializer=handler.response_serializer)


class MeasuredServer:
    """A server as generated code knows it, with which each service is added twice: by its methods, and as a whole."""

    def __init__(self, server: grpc.aio.Server, calls: Calls) -> None:
        self._server = server
        self._calls = calls

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """As a whole: not measured, so left out."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """By its methods; they are added as a whole, because grpcio has a task waiting for each registered one."""
        wrapped = {name: self._calls.wrap(handler, f"/{service}/{name}") for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))


def new_server() -> grpc.aio.Server:
    """A server without services and addresses, for the kubelet."""
    return grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_send_message_length", MAX_MESSAGE),
            ("grpc.so_reuseport", 0),
        ],
    )


def new_public_server(
    *, connections: int = MAX_PUBLIC_CONNECTIONS, times: ConnectionTimes = ConnectionTimes()
) -> grpc.aio.Server:
    """A server that anybody on the network may call: small messages, few connections, none for ever."""
    return grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_PUBLIC_MESSAGE),
            ("grpc.http2.bdp_probe", 0),  # windows would grow with what the other side sends
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.max_allowed_incoming_connections", connections),
            ("grpc.server_handshake_timeout_ms", round(times.greeting * 1000)),
            ("grpc.max_connection_idle_ms", round(times.idle * 1000)),
            ("grpc.max_connection_age_ms", round(times.age * 1000)),
            ("grpc.max_connection_age_grace_ms", round(times.greeting * 1000)),
            ("grpc.so_reuseport", 0),
        ],
    )


def allow_descriptors() -> None:
    """Raise this process's soft limit of open files, usually 1,024, to the hard one: a socket is one each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def bind_unix(server: grpc.aio.Server, path: Path) -> None:
    """Add a unix socket; what a killed predecessor of the same name left behind is replaced.

    Raises OSError when the address cannot be had.
    """
    remove_dead_socket(path)
    if path.exists():
        raise OSError(errno.EADDRINUSE, f"another process serves {path}; does a second driver run with this pod UID?")
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise OSError(errno.EIO, f"cannot listen on {path}: {error}") from error
    # Whoever can prepare claims can take GPUs: for the kubelet's user alone.
    path.chmod(0o600)


def bind_tcp(server: grpc.aio.Server, port: int) -> None:
    """Listen on a TCP port of all addresses, IPv6 and IPv4 where there are both. Raises OSError."""
    for address in ("[::]", "0.0.0.0"):
        with contextlib.suppress(RuntimeError):
            if server.add_insecure_port(f"{address}:{port}"):
                return
    raise OSError(errno.EADDRINUSE, f"cannot listen on TCP port {port}; is it taken? Choose another --health-port")


def remove_dead_socket(path: Path) -> None:
    """Remove a socket that nobody listens on any more. A kubelet would dial it for ever."""
    if is_socket(path) and not listened_to(path):
        path.unlink(missing_ok=True)
        logger.info("removed dead socket %s", path)


def _code_name(code: Any) -> str:
    # The kubelet spells codes as Go does: DeadlineExceeded, not DEADLINE_EXCEEDED.
    name = code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
    return {"OK": "OK", "CANCELLED": "Canceled"}.get(name) or "".join(part.capitalize() for part in name.split("_"))
