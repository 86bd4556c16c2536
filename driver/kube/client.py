"""A thin client for the Kubernetes API: paths and dicts in, dicts out, errors with the server's own words.

The generated models of the official client are left out on purpose: they reject fields that they do not know, and this
API grows faster than any model.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from driver.kube.connection import Answer
from driver.kube.credentials import ConfigError, Credentials, in_cluster
from driver.kube.http import Http, RefusedError
from driver.kube.kubeconfig import from_kubeconfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from driver.kube.credentials import Access

MERGE_PATCH = "application/merge-patch+json"

_HEADERS = "Accept: application/json, */*\r\nAccept-Encoding: identity\r\nUser-Agent: gpu-dra-driver\r\n"

_NO_ANSWER = (RefusedError, TimeoutError, OSError, ValueError)

MAX_BODY = 16 << 20
"""Bytes of an answer that a node takes; the largest that it asks for are its own slices."""
LARGE_BODY = 1 << 30
"""For those who list what a whole cluster has."""

REFUSED_FOR_LONG = 60.0
"""Seconds after which credentials that are refused are worth a line in ``/readyz``."""

RESOURCE = "/apis/resource.k8s.io/v1"


def claim_path(namespace: str, name: str) -> str:
    """Where a claim is."""
    return f"{RESOURCE}/namespaces/{namespace}/resourceclaims/{name}"


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


def decoded(data: bytes, whose: str, decode: Callable[[bytes], Any] = json.loads) -> dict[str, Any]:
    """The object in an answer. Raises ApiError that says ``whose`` it is."""
    try:
        answer = decode(data)
    except ValueError as error:
        raise ApiError(0, f"{whose} answered with something that is not JSON") from error
    except RecursionError:  # the same again would help nobody
        raise ApiError(200, f"{whose} answered with an object that is nested too deeply to be read") from None
    if not isinstance(answer, dict):
        raise ApiError(0, f"{whose} answered with JSON that is no object")
    return answer


class Api:
    """One API server, one pool of connections. Use as an async context manager, or call ``close``."""

    def __init__(
        self,
        credentials: Credentials | None,
        *,
        max_connections: int = 64,
        max_body: int = MAX_BODY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._credentials = credentials
        self._http = Http(connections=max_connections)
        self._max_body = max_body
        self._clock = clock
        self._refused_since: float | None = None
        self.on_date: Callable[[str | None], None] | None = None
        """Told the Date of each answer, by whoever needs the server's time."""
        self.on_request: Callable[[str, str, int], None] | None = None
        """Told method, path with query, and HTTP status of each request that was sent; 0 without an answer."""

    @classmethod
    def nowhere(cls) -> Api:
        """For what is done without an API server: whatever asks it gets an ApiError."""
        return cls(None)

    @classmethod
    async def connect(
        cls, kubeconfig: Path | None, *, context: str = "", max_connections: int = 64, max_body: int = MAX_BODY
    ) -> Api:
        """Load credentials: from the kubeconfig, or those of the pod when it is None. Dials nothing yet.

        ``context``: of the kubeconfig; empty for the one that is current.
        """
        if kubeconfig is not None and not kubeconfig.is_file():  # noqa: ASYNC240 - once, at the start
            raise ConfigError(f"kubeconfig {kubeconfig} does not exist or is not a file")
        source = in_cluster() if kubeconfig is None else from_kubeconfig(str(kubeconfig), context=context)
        try:
            credentials = await Credentials.load(source)
        except ConfigError as error:
            where = f"kubeconfig {kubeconfig}" if kubeconfig else "in-cluster credentials (no --kubeconfig given)"
            raise ConfigError(f"cannot load {where}: {error}") from None
        return cls(credentials, max_connections=max_connections, max_body=max_body)

    @property
    def host(self) -> str:
        """Whom it asks."""
        return self._credentials.host if self._credentials else "nowhere"

    def not_ready(self) -> list[str]:
        """A line while the server has refused our credentials for long."""
        if self._refused_since is None or self._clock() - self._refused_since < REFUSED_FOR_LONG:
            return []
        return [f"API server: {self.host} refuses the credentials, or does not have the certificate that is expected"]

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

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
        return decoded(data, f"{method} {path}: {self.host}", decode) if data else {}

    async def get_bytes(self, path: str, *, timeout: float = 10) -> bytes:
        """GET an object as it comes, for ``decoded``."""
        return await self._exchange("GET", path, None, None, "application/json", timeout)

    async def get_text(self, path: str, params: Mapping[str, Any] | None = None, *, timeout: float = 10) -> str:
        """GET something that is not an object, such as a log."""
        return (await self._exchange("GET", path, params, None, "application/json", timeout)).decode(errors="replace")

    async def _exchange(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Any, content_type: str, timeout: float
    ) -> bytes:
        try:
            with await self._send(method, path, params, body, content_type, timeout) as response:
                data = await self._read(response)
        except _NO_ANSWER as error:
            raise ApiError(0, f"{method} {path}: no answer from {self.host}: {_describe(error)}") from error
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
            with await self._send("GET", path, query, None, "application/json", timeout_seconds + 15) as response:
                if response.status >= 400:
                    raise _api_error("WATCH", path, response, await self._read(response))
                self._refuse_encoding(response)
                async for line in response.lines():
                    if not line.strip():
                        continue
                    yield decode(line)
        except RecursionError:
            raise ApiError(0, f"WATCH {path}: an event is nested too deeply to be read") from None
        except _NO_ANSWER as error:
            raise ApiError(0, f"WATCH {path}: {self.host} went away: {_describe(error)}") from error

    async def _read(self, response: Answer) -> bytes:
        """The body. Raises ValueError for more than anybody may send us."""
        self._refuse_encoding(response)
        return await response.read(self._max_body)

    @staticmethod
    def _refuse_encoding(response: Answer) -> None:
        # Not asked for, and a few bytes may be a gigabyte.
        if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
            raise ValueError(f"the body is encoded as {encoding[:20]!r}, which was not asked for")

    async def _send(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Any, content_type: str, timeout: float
    ) -> Answer:
        """Send, and once more with new credentials if these are refused and there are any."""
        if self._credentials is None:
            raise ApiError(0, f"{method} {path}: there is no API server to ask")
        request = _Request(
            method=method,
            path=path + (f"?{urlencode(params)}" if params else ""),
            headers=_HEADERS if body is None else f"{_HEADERS}Content-Type: {content_type}\r\n",
            body=None if body is None else json.dumps(body).encode(),
            timeout=timeout,
        )
        access = await self._credentials.current()
        outcome = await self._try(request, access)
        if _is_refusal(outcome):
            try:
                renewed = await self._credentials.renew(access)
            except BaseException:
                _close(outcome)
                raise
            if renewed is not access:
                _close(outcome)
                outcome = await self._try(request, renewed)
        if self.on_date and isinstance(outcome, Answer):
            self.on_date(outcome.headers.get("date"))
        if not _is_refusal(outcome):
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = self._clock()
        if isinstance(outcome, Exception):
            raise outcome
        if 300 <= outcome.status < 400:
            outcome.close()
            raise ApiError(
                0, f"{method} {path}: {self.host} answered with a redirect ({outcome.status}), never followed"
            )
        return outcome

    async def _try(self, request: _Request, access: Access) -> Answer | RefusedError:
        """One request with these credentials, which go to their server and nowhere else."""
        status = 0
        try:
            answer = await self._http.send(
                request.method,
                access,
                request.path,
                headers=request.headers,
                body=request.body,
                timeout=request.timeout,
            )
            status = answer.status
        except RefusedError as error:
            return error
        finally:
            if self.on_request:
                self.on_request(request.method, request.path, status)
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What is sent, but for where to and by whom."""

    method: str
    path: str
    headers: str
    body: bytes | None
    timeout: float


def _is_refusal(outcome: Answer | RefusedError) -> bool:
    """Whether other credentials may change it: 401, or a certificate that is not what the authority says."""
    return not isinstance(outcome, Answer) or outcome.status == 401


def _close(outcome: Answer | RefusedError) -> None:
    if isinstance(outcome, Answer):
        outcome.close()


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _api_error(method: str, path: str, response: Answer, data: bytes) -> ApiError:
    try:
        status = json.loads(data)
    except (ValueError, RecursionError):
        status = {}
    message = status.get("message") if isinstance(status, dict) else None
    reason = str(status.get("reason") or "") if isinstance(status, dict) else ""
    retry_after = response.headers.get("retry-after", "")
    return ApiError(
        response.status,
        f"{method} {path}: {message or data[:200].decode(errors='replace') or response.reason}",
        reason=reason,
        retry_after=float(retry_after) if retry_after.isdecimal() else None,
    )
