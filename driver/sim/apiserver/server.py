"""The embedded API server: life, hooks, and the way of a request through them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from driver.sim.apiserver import access, bootstrap
from driver.sim.apiserver.access import User
from driver.sim.apiserver.call import Call
from driver.sim.apiserver.context import GATES, Context
from driver.sim.apiserver.engine import Engine
from driver.sim.apiserver.errors import StatusError
from driver.sim.apiserver.faults import Dropped, Fault, Request
from driver.sim.apiserver.garbage import Collector
from driver.sim.apiserver.handler import Handler, status_response
from driver.sim.apiserver.quotas import Quotas
from driver.sim.apiserver.rbac import Rbac
from driver.sim.apiserver.release import V1_36, Release
from driver.sim.apiserver.request import parse
from driver.sim.apiserver.resources import BY_KIND
from driver.sim.apiserver.store import Store

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from driver.sim.apiserver.handler import LogReader
    from driver.sim.apiserver.policies import Policies

    Object = dict[str, Any]
    Hook = Callable[[Request], Fault | Awaitable[Fault | None] | None]

logger = logging.getLogger(__name__)


_MAX_BODY = 3 << 20
"""Bytes of a request's body, as with the real server."""


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_MAX_BODY)


class ApiServer:
    """A Kubernetes API server in this process, state in memory. Start and stop it as often as wanted; state stays.

    A request without credentials is made by ``anonymous``: the administrator unless told otherwise, for tests and tools
    that are not about access. With ``ANONYMOUS`` the server is as strict as a real one. Tokens are the administrator's
    (in every kubeconfig that names no other), those of service accounts, and those in ``tokens``, which maps them to
    users. What a user may do is in the roles and bindings of the cluster. ``fault`` is called with each request and may
    answer with what is to go wrong. All three are plain attributes and may be replaced at any time.
    """

    def __init__(
        self,
        *,
        anonymous: User = access.ADMIN,
        tokens: Mapping[str, User] | None = None,
        fault: Hook | None = None,
        release: Release = V1_36,
        gates: frozenset[str] = GATES,
        compile_cel: Callable[[str], str | None] = lambda _expression: None,
        read_log: LogReader = lambda _pod, _container: "",
        history: int = 10_000,
        bookmark_seconds: float = 60.0,
        tls: ssl.SSLContext | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.anonymous = anonymous
        self.tokens: Mapping[str, User] = tokens or {}
        self.fault = fault
        self.requests: dict[tuple[str, str], int] = {}
        """How many requests came so far, by (verb, resource)."""
        self._store = Store(history=history)
        context = Context(now=now, release=release, gates=gates, compile_cel=compile_cel)
        rbac = Rbac(self._store)
        self.engine = Engine(self._store, context, authorize=lambda *what: rbac.decide(*what).allowed)
        """The semantics without HTTP, for code in the same process that must be fast or atomic."""
        self._store.listeners.append(rbac.changed)
        for obj in bootstrap.objects():
            self.add(obj)
        quotas = Quotas(self._store)
        self._store.listeners.append(quotas.changed)
        self.engine.admission += [self._check_policies, quotas.admit]
        self._policies: Policies | None = None
        self._tokens = access.Tokens(self._store)
        self._collector = Collector(self.engine)
        self._store.listeners.append(self._collector.changed)
        self._handler = Handler(self.engine, rbac, bookmark_seconds=bookmark_seconds, read_log=read_log)
        self._tls = tls
        self._runner: web.ServerRunner | None = None
        self._collecting: asyncio.Task[None] | None = None
        self._address = ("127.0.0.1", 0)

    async def __aenter__(self) -> ApiServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """``http://host:port``; known once started, and kept after ``stop`` so that a restart has the same.

        With ``tls``, ``https``.
        """
        host, port = self._address
        return f"{'http' if self._tls is None else 'https'}://{host}:{port}"

    async def start(self, host: str = "127.0.0.1", port: int | None = None) -> None:
        """Listen. Port 0 takes a free one; None takes the one of last time, a free one at first."""
        if self._runner is not None:
            raise RuntimeError(f"the API server runs already at {self.url}")
        server = web.Server(
            self._answer, request_factory=_request, access_log=None, handler_cancellation=True, tcp_keepalive=True
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=0.5)
        await self._runner.setup()
        port = self._address[1] if port is None else port
        site = web.TCPSite(self._runner, host, port, ssl_context=self._tls, reuse_address=True, backlog=1024)
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            self._runner = None
            raise
        self._address = (host, self._runner.addresses[0][1])
        self._collecting = asyncio.create_task(self._collector.run())

    async def stop(self) -> None:
        """End all watches, close all connections. Nothing to do when it does not run."""
        if self._runner is None or self._collecting is None:
            return
        runner, self._runner = self._runner, None
        self._store.end_watches()
        self._collecting.cancel()
        await asyncio.gather(self._collecting, return_exceptions=True)
        await runner.cleanup()

    def kubeconfig(self, *, token: str = "", namespace: str = "default") -> dict[str, Any]:
        """A kubeconfig for this server, as a dict; the administrator's unless a token is given."""
        return access.kubeconfig(self.url, token=token or self._tokens.admin, namespace=namespace)

    def add(self, obj: Object) -> None:
        """Create an object, unless there is one of its name. Raises StatusError."""
        resource, meta = BY_KIND[obj["apiVersion"], obj["kind"]], obj["metadata"]
        namespace = meta.get("namespace", "default") if resource.namespaced else ""
        if self._store.get(resource.plural, (namespace, meta["name"])) is None:
            self.engine.create(Call(resource=resource, namespace=namespace, name=meta["name"]), obj)

    def service_account_token(self, namespace: str, name: str, *, pod: str = "", node: str = "") -> str:
        """A token of a service account, bound to a pod of its namespace or to a node. Raises KeyError.

        With its pod's node, or the node, it has what a token has that the kubelet puts into a pod.
        """
        return self._tokens.issue(namespace, name, pod=pod, node=node)

    def write_kubeconfig(self, path: Path, *, token: str = "", namespace: str = "default") -> Path:
        """Write a kubeconfig for this server (JSON is YAML)."""
        path.write_text(
            json.dumps(self.kubeconfig(token=token, namespace=namespace), indent=2) + "\n", encoding="utf-8"
        )
        path.chmod(0o600)
        return path

    def end_watches(self) -> None:
        """End every watch that runs, as a server does when it restarts."""
        self._store.end_watches()

    def expire_watches(self) -> None:
        """Forget all history and end every watch: the next watch from an old version is answered with 410."""
        self._store.forget()
        self._store.end_watches()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.BaseRequest)  # noqa: S101
        try:
            return await self._serve(request)  # type: ignore[arg-type]
        except StatusError as error:
            return status_response(error)
        except Dropped:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        except web.HTTPRequestEntityTooLarge:
            message = f"Request entity too large: limit is {_MAX_BODY}"
            return status_response(StatusError(413, "RequestEntityTooLarge", message))
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            logger.exception("%s %s", request.method, request.path)
            return status_response(StatusError(500, "InternalError", f"Internal error occurred: {error!r}"))

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        user = self._user(request)
        target = parse(request.method, request.path, request.query, user)
        what = target.request
        counted = (what.verb, f"{what.resource}/{what.subresource}" if what.subresource else what.resource)
        self.requests[counted] = self.requests.get(counted, 0) + 1
        fault = await self._fault(what) if self.fault is not None else None
        if fault is None:
            return await self._handler.answer(request, target)
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.drop:
            raise Dropped
        if fault.status:
            response = status_response(fault.error())
            if fault.body is not None:
                response.body = fault.body
                response.content_type = "text/html"
            return response
        if fault.lose_answer:
            with contextlib.suppress(StatusError):
                await self._handler.answer(request, target)
            raise Dropped
        return await self._handler.answer(request, target)

    def _user(self, request: web.Request) -> User:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token.strip() if scheme.lower() == "bearer" else ""
        user = (self.tokens.get(token) or self._tokens.user(token)) if token else self.anonymous
        other = request.headers.get("Impersonate-User", "")
        return access.impersonated(user, other, self.engine.authorize) if other else user

    def _check_policies(self, call: Call, operation: str, new: Object | None, old: Object | None) -> None:
        if not self._store.collection("validatingadmissionpolicybindings").objects:
            return
        if self._policies is None:
            from driver.sim.apiserver.policies import Policies

            self._policies = Policies(self._store)
        self._policies.admit(call, operation, new, old)

    async def _fault(self, what: Request) -> Fault | None:
        if self.fault is None:
            return None
        found = self.fault(what)
        return await found if inspect.isawaitable(found) else found
