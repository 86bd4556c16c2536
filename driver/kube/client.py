"""A thin client for the Kubernetes API: paths and dicts in, dicts out, errors with the server's own words.

Credentials, TLS and connections are those of the official client (``kubernetes.aio``). Its generated models are left
out on purpose: they reject fields that they do not know, and this API grows faster than any model.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError


def _spare_siblings() -> None:
    """Keep the packages that our modules are in from importing all others of theirs: 9 MiB that each node would pay.

    ``kubernetes`` imports the synchronous client, ``kubernetes.aio`` its own dynamic one, streams and urllib3.
    """
    for name in ("kubernetes", "kubernetes.aio", "kubernetes.aio.utils"):
        spec = importlib.util.find_spec(name)
        if spec is not None and name not in sys.modules:
            package = types.ModuleType(name)
            package.__spec__ = spec
            package.__path__ = list(spec.submodule_search_locations or ())
            sys.modules[name] = package
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, package)


_spare_siblings()

from kubernetes.aio import config as kube_config  # noqa: E402
from kubernetes.aio.client.configuration import Configuration  # noqa: E402
from kubernetes.aio.client.rest import RESTClientObject  # noqa: E402

MERGE_PATCH = "application/merge-patch+json"

_HEADERS = {"Accept": "application/json, */*", "Accept-Encoding": "identity", "User-Agent": "gpu-dra-driver"}

_NO_ANSWER = (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError)
"""HttpProcessingError for a line without an end, ValueError for a token with a line feed, say."""

MAX_BODY = 16 << 20
"""Bytes of an answer that a node takes; the largest that it asks for are its own slices."""
LARGE_BODY = 1 << 30
"""For those who list what a whole cluster has."""

RESOURCE = "/apis/resource.k8s.io/v1"


def claim_path(namespace: str, name: str) -> str:
    """Where a claim is."""
    return f"{RESOURCE}/namespaces/{namespace}/resourceclaims/{name}"


class ConfigError(Exception):
    """The cluster's address or credentials could not be loaded."""


class ApiError(Exception):
    """The API server's refusal, or no answer from it at all (``status`` 0)."""

    def __init__(self, status: int, message: str, *, reason: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after

    @property
    def transient(self) -> bool:
        """Whether the same request may well succeed in a moment."""
        return self.status in {0, 408, 429, 500, 502, 503, 504}


class Api:
    """One API server, one pool of connections. Use as an async context manager, or call ``close``."""

    def __init__(self, configuration: Configuration, *, max_body: int = MAX_BODY) -> None:
        # Left to itself, the client asks two threads on each request: one for ~/.netrc, one for the proxy's variables.
        configuration.client_session_kwargs = {
            "trust_env": False,
            "cookie_jar": aiohttp.DummyCookieJar(),
            "auto_decompress": False,
        }
        self._max_body = max_body
        self._configuration = configuration
        self._rest = RESTClientObject(configuration)
        self._host = str(configuration.host).rstrip("/")

    @classmethod
    def nowhere(cls) -> Api:
        """For what is done without an API server: whatever asks it gets an ApiError."""
        return cls(Configuration())

    @classmethod
    async def connect(cls, kubeconfig: Path | None, *, max_connections: int = 64, max_body: int = MAX_BODY) -> Api:
        """Load credentials: from the kubeconfig, or those of the pod when it is None. Dials nothing yet."""
        configuration = Configuration()
        if kubeconfig is not None and not kubeconfig.is_file():  # noqa: ASYNC240 - once, at the start
            raise ConfigError(f"kubeconfig {kubeconfig} does not exist or is not a file")
        try:
            if kubeconfig is None:
                kube_config.load_incluster_config(client_configuration=configuration)
            else:
                await kube_config.load_kube_config(
                    config_file=str(kubeconfig), client_configuration=configuration, persist_config=False
                )
        except Exception as error:
            where = f"kubeconfig {kubeconfig}" if kubeconfig else "in-cluster credentials (no --kubeconfig given)"
            raise ConfigError(f"cannot load {where}: {error}") from error
        configuration.connection_pool_maxsize = max_connections
        configuration.proxy = configuration.proxy or _environment_proxy(str(configuration.host))
        return cls(configuration, max_body=max_body)

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._rest.close()

    async def get(
        self,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float = 10,
        decode: Callable[[bytes], Any] = json.loads,
    ) -> dict[str, Any]:
        """GET an object or a list."""
        return await self.request("GET", path, params=params, timeout=timeout, decode=decode)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout: float = 10,
        decode: Callable[[bytes], Any] = json.loads,
    ) -> dict[str, Any]:
        """Send one request and return the decoded answer. Raises ApiError for anything but success."""
        data = await self._exchange(method, path, params, body, content_type, timeout)
        try:
            answer = decode(data) if data else {}
        except ValueError as error:
            raise ApiError(0, f"{method} {path}: {self._host} answered with something that is not JSON") from error
        except RecursionError:  # the same again would help nobody
            raise ApiError(200, f"{method} {path}: the object is nested too deeply to be read") from None
        if not isinstance(answer, dict):
            raise ApiError(0, f"{method} {path}: {self._host} answered with JSON that is no object")
        return answer

    async def get_text(self, path: str, params: Mapping[str, Any] | None = None, *, timeout: float = 10) -> str:
        """GET something that is not an object, such as a log."""
        return (await self._exchange("GET", path, params, None, "application/json", timeout)).decode(errors="replace")

    async def _exchange(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Any, content_type: str, timeout: float
    ) -> bytes:
        try:
            response = await self._send(method, path, params, body, content_type, timeout)
            async with response:
                data = await self._read(response)
        except _NO_ANSWER as error:
            raise ApiError(0, f"{method} {path}: no answer from {self._host}: {_describe(error)}") from error
        if response.status >= 400:
            raise _api_error(method, path, response, data)
        return data

    async def watch(
        self,
        path: str,
        params: Mapping[str, Any],
        *,
        timeout_seconds: int = 300,
        decode: Callable[[bytes], Any] = json.loads,
    ) -> AsyncIterator[Any]:
        """Yield what a watch tells until the server ends the stream: events, if ``shapes.check_event`` says so."""
        query = {**params, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": timeout_seconds}
        try:
            # A server that has died without a word is noticed a little after the time that it was asked to end.
            response = await self._send("GET", path, query, None, "application/json", timeout_seconds + 15)
            async with response:
                if response.status >= 400:
                    raise _api_error("WATCH", path, response, await self._read(response))
                self._refuse_encoding(response)
                async for line in response.content:
                    if not line.strip():
                        continue
                    yield decode(line)
        except RecursionError:
            raise ApiError(0, f"WATCH {path}: an event is nested too deeply to be read") from None
        except _NO_ANSWER as error:
            raise ApiError(0, f"WATCH {path}: {self._host} went away: {_describe(error)}") from error

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body. Raises ValueError for more than anybody may send us."""
        self._refuse_encoding(response)
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > self._max_body:
                raise ValueError(f"the body has more than {self._max_body} bytes")
            chunks.append(chunk)
        return b"".join(chunks)

    @staticmethod
    def _refuse_encoding(response: aiohttp.ClientResponse) -> None:
        # Not asked for, and a few bytes may be a gigabyte.
        if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise ValueError(f"the body is encoded as {encoding[:20]!r}, which was not asked for")

    async def _send(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Any, content_type: str, timeout: float
    ) -> aiohttp.ClientResponse:
        headers = {**_HEADERS, "Content-Type": content_type}
        try:
            settings = await self._configuration.auth_settings()  # reads a rotated token again
        except Exception as error:  # of many kinds: files, programs that give tokens, what they say
            raise ApiError(0, f"{method} {path}: no credentials for {self._host}: {_describe(error)}") from error
        for setting in settings.values():
            if setting["value"] and setting["in"] == "header":
                headers[setting["key"]] = setting["value"]
        url = self._host + path + (f"?{urlencode(params)}" if params else "")
        answer = await self._rest.request(
            method, url, headers=headers, body=body, _request_timeout=aiohttp.ClientTimeout(total=timeout)
        )
        return answer.response  # type: ignore[no-any-return]


def _environment_proxy(host: str) -> str | None:
    """The proxy for this server as HTTP_PROXY, HTTPS_PROXY and NO_PROXY say; None for a direct connection."""
    url = urlsplit(host)
    return None if proxy_bypass(url.netloc) else getproxies().get(url.scheme)


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _api_error(method: str, path: str, response: aiohttp.ClientResponse, data: bytes) -> ApiError:
    try:
        status = json.loads(data)
    except (ValueError, RecursionError):
        status = {}
    message = status.get("message") if isinstance(status, dict) else None
    reason = str(status.get("reason") or "") if isinstance(status, dict) else ""
    retry_after = response.headers.get("Retry-After", "")
    return ApiError(
        response.status,
        f"{method} {path}: {message or data[:200].decode(errors='replace') or response.reason}",
        reason=reason,
        retry_after=float(retry_after) if retry_after.isdecimal() else None,
    )
