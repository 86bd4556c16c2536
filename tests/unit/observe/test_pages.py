"""The HTTP port: what is shared by all who ask, and who is cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.registry import Collector

from driver.observe.pages import MAX_HEAD, Exposition, serve_pages
from tests.eventually import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from prometheus_client import Metric

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


class SlowCollector(Collector):
    """Takes until it is told to go on, and counts how often it was asked and how many at once."""

    def __init__(self) -> None:
        self.rendered = self.at_once = self.most_at_once = 0
        self.may_end = threading.Event()

    def collect(self) -> Iterator[Metric]:
        self.rendered += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.may_end.wait(PATIENCE)
        self.at_once -= 1
        return iter(())


@pytest.fixture
def slow() -> Iterator[SlowCollector]:
    collector = SlowCollector()
    yield collector
    collector.may_end.set()


@pytest.fixture
def registry(slow: SlowCollector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    slow.may_end.set()  # it is asked when it is registered
    registry.register(slow)
    slow.rendered = 0
    slow.may_end.clear()
    return registry


@contextlib.asynccontextmanager
async def serving(**given: Any) -> AsyncIterator[tuple[str, int]]:
    """Where the pages are; with any port, it is not the same for all families of addresses."""

    async def live() -> bool:
        return True

    registry = CollectorRegistry()
    Counter("things", "What there is.", registry=registry).inc()
    given = {"not_ready": lambda: ["devices"], "status": lambda: {"node": "n"}, **given}
    runner = await serve_pages(port=0, registry=registry, live=live, **given)
    try:
        yield next((host, port) for host, port, *_ in runner.addresses if host == "0.0.0.0")
    finally:
        await runner.cleanup()


async def get(place: tuple[str, int], path: str, method: str = "GET") -> tuple[int, str]:
    async with (
        ClientSession() as session,
        session.request(method, f"http://{place[0]}:{place[1]}{path}") as response,
    ):
        return response.status, await response.text()


async def closed(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionError):
            while await reader.read(1000):
                pass


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/metrics", 200, "things_total 1.0"),
        ("/healthz", 200, "ok"),
        ("/readyz", 503, "devices"),
        ("/status", 200, '"node": "n"'),
        ("/", 404, "there is /metrics, /healthz, /readyz, /status"),
    ],
)
async def test_the_pages(path: str, status: int, text: str) -> None:
    async with serving() as place:
        answer = await get(place, path)

    assert answer[0] == status
    assert text in answer[1]


async def test_pages_are_only_read() -> None:
    async with serving() as place:
        assert (await get(place, "/status", method="POST"))[0] == 405
        assert await get(place, "/readyz", method="HEAD") == (503, "")


async def test_scrapes_that_come_together_share_one_rendering(registry: CollectorRegistry, slow: SlowCollector) -> None:
    exposition = Exposition(registry)
    first = asyncio.create_task(exposition.render(""))
    await eventually(lambda: slow.rendered == 1)

    later = [asyncio.create_task(exposition.render("")) for _ in range(64)]
    await asyncio.sleep(0)
    slow.may_end.set()

    await asyncio.gather(first, *later)
    assert slow.rendered == 2


async def test_one_rendering_is_made_at_a_time_whatever_is_accepted(
    registry: CollectorRegistry, slow: SlowCollector
) -> None:
    exposition = Exposition(registry)
    scrapes = [
        asyncio.create_task(exposition.render(accept)) for accept in ("", OPENMETRICS, "text/plain;version=1.0.0")
    ]
    await eventually(lambda: slow.rendered == 1)

    slow.may_end.set()

    types = {content_type for _, content_type in await asyncio.gather(*scrapes)}
    assert len(types) == 3
    assert slow.rendered == 3
    assert slow.most_at_once == 1


async def test_the_loop_goes_on_while_metrics_are_rendered(registry: CollectorRegistry, slow: SlowCollector) -> None:
    scrape = asyncio.create_task(Exposition(registry).render(""))
    await eventually(lambda: slow.rendered == 1)

    slow.may_end.set()  # only a loop that goes on comes here

    assert (await scrape)[0] is not None


async def test_metrics_are_those_of_after_the_request() -> None:
    registry = CollectorRegistry()
    things = Counter("things", "What there is.", registry=registry)
    exposition = Exposition(registry)

    for number in range(1, 4):
        things.inc()
        assert f"things_total {number}.0" in (await exposition.render(""))[0].decode()


@pytest.mark.parametrize("accept", ["application/openmetrics-text;version=x", "\N{SNOWMAN}", "text/plain;version=1..0"])
async def test_an_odd_accept_header_gets_metrics(registry: CollectorRegistry, slow: SlowCollector, accept: str) -> None:
    slow.may_end.set()

    body, content_type = await Exposition(registry).render(accept)

    assert body == b""
    assert content_type.startswith("text/plain")


async def test_whoever_sends_its_headers_slowly_is_cut() -> None:
    async with serving(seconds=0.3) as place:
        readers = []
        for _ in range(10):
            reader, writer = await asyncio.open_connection(*place)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: n\r\nX-Slow: ")
            readers.append((reader, writer))

        for reader, writer in readers:
            await closed(reader)
            writer.close()


async def test_beyond_a_number_of_connections_the_oldest_is_cut_and_whoever_asks_is_served() -> None:
    async with serving(connections=3, seconds=PATIENCE) as place:
        held = [await asyncio.open_connection(*place) for _ in range(20)]

        assert await get(place, "/healthz") == (200, "ok\n")

        for reader, _ in held[:17]:
            await closed(reader)
        assert not held[-1][0].at_eof()
        for _, writer in held:
            writer.close()


@pytest.mark.parametrize("steps", [3, 4, 5])
async def test_whoever_is_accepted_at_the_last_moment_is_cut_too(steps: int) -> None:
    async with serving(seconds=2 * PATIENCE) as place:
        client = socket.create_connection(place)
        for _ in range(steps):  # of the loop: it is accepted, and about to be served
            await asyncio.sleep(0)

    reader, writer = await asyncio.open_connection(sock=client)
    await closed(reader)
    writer.close()


async def test_a_connection_ends_with_its_answer() -> None:
    async with serving(seconds=PATIENCE) as place:
        reader, writer = await asyncio.open_connection(*place)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n")

        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
        writer.close()

    assert answer.endswith(b"ok\n")
    assert b"Connection: close" in answer


async def said(place: tuple[str, int], request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*place)
    writer.write(request)
    answer = b""
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionError):
            answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"GET /healthz?verbose=1 HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET http://n:8080/h%65althz?x HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK"),
        (b"GET http://[ HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"SSH-2.0-client\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"PRI * HTTP/2.0\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"\xff\xfe \xff HTTP/1.1\r\n\xff\r\n\r\n", b"HTTP/1.1 404 Not Found"),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 2 * MAX_HEAD + b"\r\n\r\n", b""),
    ],
)
async def test_whatever_is_sent_is_answered_or_cut(request_: bytes, answer: bytes) -> None:
    async with serving() as place:
        assert (await said(place, request_)).partition(b"\r\n")[0] == answer
        assert await get(place, "/healthz") == (200, "ok\n")


async def test_a_page_that_cannot_be_made_is_an_answer_and_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(status=lambda: {"a": object()}) as place:
        answer = await get(place, "/status")

    assert answer == (500, "a bug of the driver; its log has the details\n")
    assert [record.getMessage() for record in caplog.records] == ["/status could not be answered"]


async def test_a_page_that_nobody_fetches_is_cut_too() -> None:
    async with serving(seconds=0.3, status=lambda: {"large": "x" * (64 << 20)}) as place:
        _, writer = await asyncio.open_connection(*place, limit=1000)
        writer.write(b"GET /status HTTP/1.1\r\n\r\n")

        with pytest.raises(ConnectionError):
            await cut(writer)

        writer.close()


async def cut(writer: asyncio.StreamWriter) -> None:
    """Send until that is refused, without reading a byte more than the socket does by itself."""
    async with asyncio.timeout(PATIENCE):
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)
