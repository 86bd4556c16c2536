"""gRPC servers on unix sockets and TCP: how they start, measure and stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from driver.kubelet.instances import is_socket, listened_to

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from driver.observe.metrics import Metrics

logger = logging.getLogger(__name__)

# A request with the largest batch that a kubelet could send stays far below this.
MAX_MESSAGE = 16 << 20


class Interceptor(grpc.aio.ServerInterceptor):
    """Measures unary calls under their full method names and knows how many are under way."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._in_flight = 0
        self._wrapped: dict[grpc.RpcMethodHandler[Any, Any], grpc.RpcMethodHandler[Any, Any]] = {}
        self.idle = asyncio.Event()
        """Set while no unary call is under way."""
        self.idle.set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of a unary call; streams have no duration worth a histogram."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        wrapped = self._wrapped.get(handler)
        if wrapped is None:
            wrapped = self._wrapped[handler] = self._wrap(handler, handler_call_details.method)
        return wrapped

    def _wrap(self, handler: grpc.RpcMethodHandler[Any, Any], method: str) -> grpc.RpcMethodHandler[Any, Any]:
        inner: Any = handler.unary_unary

        async def measured(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            self._in_flight += 1
            self.idle.clear()
            code = "Unknown"
            try:
                response = await inner(request, context)
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

        return grpc.unary_unary_rpc_method_handler(
            measured,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def new_server(interceptor: Interceptor) -> grpc.aio.Server:
    """A server without services and addresses."""
    return grpc.aio.server(
        interceptors=[interceptor],
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE),
            ("grpc.max_send_message_length", MAX_MESSAGE),
            ("grpc.so_reuseport", 0),
        ],
    )


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
