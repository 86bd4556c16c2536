"""HTTP/1.1 as servers and proxies speak it, and as they should not: an answer, or an error that says what was found."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from driver.kube.connection import HELD_BACK, MAX_HEAD
from driver.kube.credentials import Access, Tls
from driver.kube.http import Http
from tests.eventually import PATIENCE, eventually
from tests.tls import TlsFront

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: today\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CUT = b"cut"
"""At the end of an answer, or instead of one: the connection is closed."""
SILENCE = b"silence"
"""Instead of an answer: nothing."""


class Server:
    """Says what it is told to, one answer for each request; after ``CUT``, or a body without a length, it closes."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.asked: list[str] = []
        self.connections: list[asyncio.StreamWriter] = []
        self.port = 0

    @property
    def access(self) -> Access:
        return Access(host=f"http://127.0.0.1:{self.port}")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
                answer = self.answers.pop(0) if self.answers else OK
                if answer == SILENCE:
                    continue
                writer.write(answer.removesuffix(CUT))
                await writer.drain()
                if answer.endswith(CUT) or (b"Content-Length" not in answer and b"chunked" not in answer):
                    break
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        yield server
        for writer in server.connections:
            writer.transport.abort()


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    http = Http(connections=8)
    yield http
    await http.close()


async def get(http: Http, access: Access, *, method: str = "GET", timeout: float = PATIENCE, **more: Any) -> bytes:
    with await http.send(method, access, "/x", headers="", timeout=timeout, **more) as answer:
        return await answer.read(1 << 20)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK, b"{}"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\nX-After: 1\r\n\r\n",
            b"{}",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", b"{}"),
        (b"HTTP/1.0 200 OK\r\n\r\n{}", b"{}"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", b"{}"),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" + OK, b"{}"),
    ],
)
async def test_a_body_ends_where_the_server_says_so(server: Server, http: Http, answer: bytes, body: bytes) -> None:
    server.answers = [answer]

    assert await get(http, server.access) == body
    assert await get(http, server.access) == b"{}"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (CUT, "the connection was closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "the connection was closed without an answer"),
        (CHUNKED + b"5\r\n{cut", "closed in the middle of its answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", "the answer did not end in time"),
        (b"SSH-2.0-server\r\n", "the answer is not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "the answer is not HTTP/1.1"),
        (CHUNKED + b"zz\r\n", "the answer is not HTTP/1.1"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD // 20), f"the head of the answer has more than {MAX_HEAD} bytes"),
        (CHUNKED + b"2\r\n{}\r\n0\r\nX: " + b"x" * 8 * MAX_HEAD, f"the end of the answer has more than {MAX_HEAD}"),
        (CHUNKED + b"2;" + b"x" * 8 * MAX_HEAD, f"the end of the answer has more than {MAX_HEAD} bytes"),
        (
            b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
            "status 101, which was not asked for",
        ),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2 * MAX_HEAD, f"the head of the answer has more than {MAX_HEAD} bytes"),
        (SILENCE, "no answer in time"),
    ],
)
async def test_what_is_no_answer_is_named(server: Server, http: Http, answer: bytes, words: str) -> None:
    server.answers = [answer]

    with pytest.raises((OSError, ValueError), match=words):
        await get(http, server.access, timeout=0.3 if "time" in words else PATIENCE)

    assert await get(http, server.access) == b"{}"


async def test_one_connection_serves_request_after_request(server: Server, http: Http) -> None:
    for _ in range(5):
        await get(http, server.access)

    assert len(server.connections) == 1


async def test_what_a_server_sends_unasked_ends_its_connection(server: Server, http: Http) -> None:
    server.answers = [OK + OK]

    assert [await get(http, server.access) for _ in range(2)] == [b"{}", b"{}"]

    assert len(server.connections) == 2


@pytest.mark.parametrize(("method", "asked"), [("GET", 3), ("PUT", 3), ("POST", 2), ("PATCH", 2)])
async def test_a_connection_that_was_closed_meanwhile_is_noticed_by_who_may_ask_twice(
    server: Server, http: Http, method: str, asked: int
) -> None:
    server.answers = [OK, CUT]
    await get(http, server.access)

    work = get(http, server.access, method=method, body=b"" if method != "GET" else None)
    if asked == 3:
        assert await work == b"{}"
    else:
        with pytest.raises(ConnectionError):
            await work

    assert len(server.asked) == asked


@pytest.mark.parametrize("whole", [True, False])
async def test_a_body_that_ends_with_the_connection_is_whole_if_tls_says_so(http: Http, whole: bool) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n{}")
        await writer.drain()
        if whole:
            writer.close()
        else:
            writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as listening:
        tls = Tls(ca=authority.cert_pem.bytes())
        port = listening.sockets[0].getsockname()[1]
        work = get(http, Access(host=f"https://127.0.0.1:{port}", tls=tls, context=tls.context()))
        if whole:
            assert await work == b"{}"
        else:
            with pytest.raises(ConnectionError, match="closed in the middle of its answer"):
                await work


async def test_a_request_is_sent_twice_at_the_most(server: Server, http: Http) -> None:
    server.answers = [SILENCE, SILENCE]
    silent = [asyncio.create_task(get(http, server.access)) for _ in range(2)]
    await eventually(lambda: len(server.asked) == 2)
    for writer in server.connections:
        writer.write(OK)
    await asyncio.gather(*silent)
    server.answers = [CUT] * 3

    with pytest.raises(ConnectionError):
        await get(http, server.access, method="PUT", body=b"{}")

    assert len(server.asked) == 4


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
async def test_who_answers_before_the_request_is_sent_gets_nothing_more(http: Http, more: bytes) -> None:
    ended = asyncio.Event()

    async def answer_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n" + more + b"\r\n{}")
        await ended.wait()
        writer.transport.abort()

    async with await asyncio.start_server(answer_at_once, "127.0.0.1", 0, limit=1 << 10) as listening:
        access = Access(host=f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")

        assert [await get(http, access, method="PUT", body=b"x" * (64 << 20)) for _ in range(2)] == [b"{}"] * 2

        await eventually(lambda: not http._open)
        ended.set()


async def test_a_new_connection_that_is_closed_is_an_error_and_not_tried_for_ever(server: Server, http: Http) -> None:
    server.answers = [CUT, CUT]

    with pytest.raises(ConnectionError):
        await get(http, server.access)

    assert len(server.asked) == 1


async def test_whoever_stops_waiting_for_an_answer_leaves_nothing_to_others(server: Server, http: Http) -> None:
    server.answers = [SILENCE]
    task = asyncio.create_task(get(http, server.access))
    await eventually(lambda: len(server.asked) == 1)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert await get(http, server.access) == b"{}"
    assert len(server.connections) == 2


async def test_whoever_stops_reading_an_answer_leaves_nothing_to_others(server: Server, http: Http) -> None:
    server.answers = [b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"half":']

    with await http.send("GET", server.access, "/x", headers="", timeout=PATIENCE) as answer:
        assert answer.status == 200

    assert await get(http, server.access) == b"{}"
    assert len(server.connections) == 2


async def test_more_requests_than_connections_take_turns(server: Server) -> None:
    http = Http(connections=2)

    assert await asyncio.gather(*(get(http, server.access) for _ in range(20))) == [b"{}"] * 20

    assert len(server.connections) == 2
    await http.close()


async def test_a_request_that_gets_no_turn_ends_in_time_and_takes_none_away(server: Server) -> None:
    http = Http(connections=1)
    server.answers = [SILENCE]
    first = asyncio.create_task(get(http, server.access, timeout=0.5))
    await eventually(lambda: len(server.asked) == 1)

    with pytest.raises(TimeoutError):
        await get(http, server.access, timeout=0.05)

    with pytest.raises(TimeoutError):
        await first
    assert await get(http, server.access) == b"{}"
    await http.close()


async def test_a_body_that_nobody_reads_does_not_fill_memory(server: Server, http: Http) -> None:
    size = 64 << 20
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size]

    with await http.send("GET", server.access, "/x", headers="", timeout=PATIENCE) as answer:
        await eventually(lambda: not answer._connection.transport.is_reading())
        assert HELD_BACK <= answer._size < size / 4
        assert len(await answer.read(size)) == size

    assert await get(http, server.access) == b"{}"


async def test_lines_are_told_as_they_come_however_they_are_cut(server: Server, http: Http) -> None:
    server.answers = [CHUNKED + b"4\r\none\n\r\n2\r\ntw\r\n2\r\no\n\r\n5\r\nthree\r\n0\r\n\r\n"]

    with await http.send("GET", server.access, "/x", headers="", timeout=PATIENCE) as answer:
        lines = [line async for line in answer.lines()]

    assert lines == [b"one", b"two", b"three"]


async def test_a_path_with_odd_characters_stays_one_line(server: Server, http: Http) -> None:
    with await http.send("GET", server.access, "/a b\r\nX: y/ä", headers="", timeout=PATIENCE) as answer:
        await answer.read(10)

    assert server.asked[0].splitlines()[0] == "GET /a%20b%0D%0AX:%20y/%C3%A4 HTTP/1.1"


async def test_a_proxy_forwards_requests_to_a_server_without_tls(server: Server, http: Http) -> None:
    proxy = f"http://me:w%3Ard@127.0.0.1:{server.port}"

    assert await get(http, Access(host="http://far.example/base", proxy=proxy)) == b"{}"

    first, *headers = server.asked[0].splitlines()
    assert first == "GET http://far.example/base/x HTTP/1.1"
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'me:w:rd').decode()}" in headers
    assert "Host: far.example" in headers


class Proxy:
    """Opens a way to one port, whatever is asked for."""

    def __init__(self, target: int, headers: bytes = b"") -> None:
        self.target = target
        self.headers = headers
        self.asked: list[str] = []
        self.first: list[bytes] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.target)
        writer.write(b"HTTP/1.1 200 Connection established\r\n" + self.headers + b"\r\n")

        self.first.append(await reader.readexactly(1))
        to_writer.write(self.first[-1])
        await self.may_go_on.wait()

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(1 << 16):
                    target.write(data)
            target.close()

        await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer))


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_tls_goes_through_a_proxy_and_is_that_of_the_server(server: Server, http: Http, scheme: str) -> None:
    authority = trustme.CA()
    async with contextlib.AsyncExitStack() as stack:
        front = await stack.enter_async_context(TlsFront(server.port, ("api.example",)).running())
        proxy = Proxy(front.port)
        listening = await stack.enter_async_context(await asyncio.start_server(proxy.serve, "127.0.0.1", 0))
        port = listening.sockets[0].getsockname()[1]
        if scheme == "https":
            before = await stack.enter_async_context(TlsFront(port).running())
            port = before.port
            authority = before.authority
        tls = Tls(ca=front.ca + authority.cert_pem.bytes())
        access = Access(
            host="https://api.example:6443",
            authorization="Bearer mine",
            tls=tls,
            context=tls.context(),
            proxy=f"{scheme}://me:word@127.0.0.1:{port}",
        )

        assert [await get(http, access) for _ in range(2)] == [b"{}", b"{}"]
        await http.close()

    assert len(proxy.asked) == 1
    first, *headers = proxy.asked[0].splitlines()
    assert first == "CONNECT api.example:6443 HTTP/1.1"
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'me:word').decode()}" in headers
    assert "mine" not in proxy.asked[0]
    assert "Authorization: Bearer mine" in server.asked[0]
    assert "Proxy-Authorization" not in server.asked[0]


async def test_a_proxy_that_refuses_is_named_without_its_password(server: Server, http: Http) -> None:
    server.answers = [b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"]
    tls = Tls(ca=trustme.CA().cert_pem.bytes())
    proxy = f"http://me:s3cr3t@127.0.0.1:{server.port}"

    with pytest.raises(OSError, match="refuses: 407 Proxy Authentication Required") as caught:
        await get(http, Access(host="https://api.example", tls=tls, context=tls.context(), proxy=proxy))

    assert f"the proxy 127.0.0.1:{server.port}" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("headers", [b"", b"Content-Length: 0\r\n", b"Content-Length: 0\r\nConnection: close\r\n"])
async def test_what_a_proxy_has_opened_is_not_for_others_before_it_is_secured(
    server: Server, http: Http, headers: bytes
) -> None:
    async with TlsFront(server.port, ("api.example",)).running() as front:
        proxy = Proxy(front.port, headers)
        async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as listening:
            tls = Tls(ca=front.ca)
            access = Access(
                host="https://api.example",
                authorization="Bearer mine",
                tls=tls,
                context=tls.context(),
                proxy=f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}",
            )

            proxy.may_go_on.clear()
            first = asyncio.create_task(get(http, access))
            await eventually(lambda: len(proxy.first) == 1)  # TLS is under way
            second = asyncio.create_task(get(http, access))
            await eventually(lambda: len(proxy.first) == 2)
            proxy.may_go_on.set()

            assert [await first, await second, await get(http, access)] == [b"{}"] * 3
            await http.close()

    assert proxy.first == [b"\x16"] * 2  # a handshake, and no request
