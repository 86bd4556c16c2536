"""``gpu-dra top --web``: the cluster as a page on this machine, for whoever sits at it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING

from aiohttp import web

from driver.base.supervised import supervised
from driver.cluster.fleet_view import shown
from driver.cluster.page.details import details_html, find, is_about, node_subject, subjects
from driver.cluster.page.document import document, message, pieces
from driver.cluster.page.doorman import Doorman
from driver.cluster.page.object_events import Events
from driver.cluster.page.picture import Painter
from driver.cluster.page.query import Query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from driver.cluster.follow import Follow
    from driver.cluster.page.html import Html
    from driver.cluster.page.picture import Picture
    from driver.kube import Api

ADDRESS = "127.0.0.1"
HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""What the machine's own browser calls us; any other name is a page from elsewhere that had its name point here."""
CONNECTIONS = 64
"""Beyond so many the oldest is cut; its page comes back by itself."""
CONNECTION_SECONDS = 3600.0
PAUSE = 1.0
"""Seconds between two messages to one reader at least."""
TICK = 10.0
"""Seconds after which times are told anew where nothing happens."""
ENDING = 0.5
"""Seconds that readers have to take their last answer."""
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
FILES = {"/page.css": "text/css", "/page.js": "text/javascript", "/icon.svg": "image/svg+xml"}
HTML = "text/html"


class Page:
    """Shows what ``follow`` sees, to any number of readers; each gets what changed of the nodes that it looks at."""

    def __init__(
        self,
        follow: Follow,
        api: Api,
        *,
        title: str,
        namespace: str = "",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        tick: float = TICK,
    ) -> None:
        self._follow = follow
        self._events = Events(api)
        self._namespace = namespace
        self._now = now
        self._tick = tick
        self._painter = Painter(title)
        self._changed = asyncio.Condition()
        self._files = {
            path: (files(__package__) / path.removeprefix("/")).read_text(encoding="utf-8") for path in FILES
        }
        self._pages: dict[str, Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]] = {
            "/": self._document,
            "/details": self._details_alone,
            "/news": self._news,
            **dict.fromkeys(FILES, self._file),
        }

    async def run(self) -> None:
        """Take over what is seen, until cancelled."""
        while True:
            view = await self._follow.after(self._picture.view.revision)
            async with self._changed:
                self._painter.take(view, shown(view, self._namespace), self._now())
                self._changed.notify_all()

    @property
    def _picture(self) -> Picture:
        return self._painter.picture

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request."""
        host = (request.headers.get("Host") or "").rpartition(":")
        name = host[0] if host[0] and host[2].isdecimal() else "".join(host)
        page = self._pages.get(request.path)
        if name not in HOSTS:
            return _refusal(421, f"this page is for {ADDRESS} and localhost, not for what the Host header says")
        if page is None:
            return _refusal(404, "there is only /")
        if request.method not in {"GET", "HEAD"}:
            return _refusal(405, "GET is expected")
        return await page(request)

    async def _file(self, request: web.BaseRequest) -> web.Response:
        return web.Response(text=self._files[request.path], content_type=FILES[request.path], headers=HEADERS)

    async def _document(self, request: web.BaseRequest) -> web.Response:
        query = Query.read(request.query)
        details = await self._details(query)
        found, order = self._pieces(query)
        text = document(found, order, title=self._picture.title, query=query, details=details)
        return web.Response(text=text, content_type=HTML, headers=HEADERS)

    async def _details_alone(self, request: web.BaseRequest) -> web.Response:
        return web.Response(text=await self._details(Query.read(request.query)), content_type=HTML, headers=HEADERS)

    async def _details(self, query: Query) -> Html:
        place = find(self._picture.fleet, query.at) if all(query.at) else None
        if place is None:
            return details_html(None, at=query.at, marks=self._picture.marks, now=self._now())
        asked = [*list(subjects(place))[:6], node_subject(place)]
        events, refused = await self._events.about(asked)
        return details_html(
            place,
            at=query.at,
            marks=self._picture.marks,
            now=self._now(),
            events=[event for event in events if is_about(event, place)],
            refused=refused,
        )

    def _pieces(self, query: Query) -> tuple[dict[str, Html], list[str]]:
        return pieces(self._picture, query, self._now(), draw=self._painter.draw)

    async def _news(self, request: web.BaseRequest) -> web.StreamResponse:
        """Server-sent events: what is new for whoever looks at this. Who reads slowly is told less often."""
        query = Query.read(request.query)
        response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
        with contextlib.suppress(ConnectionResetError):  # who reads goes whenever they like
            await response.prepare(request)
            await self._tell(response, query)
        return response

    async def _tell(self, response: web.StreamResponse, query: Query) -> None:
        await response.write(b"retry: 2000\n\n")
        sent: dict[str, Html] = {}
        while True:
            seen = self._picture
            found, order = self._pieces(query)
            news = message(found, order, sent)
            sent = found
            await response.write(f"data: {json.dumps(news)}\n\n".encode() if news else b": nothing new\n\n")
            await asyncio.sleep(PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._tick):
                    await self._other_than(seen)

    async def _other_than(self, seen: Picture) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._picture is not seen)


def _refusal(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers=HEADERS)


@contextlib.asynccontextmanager
async def serving(page: Page, *, port: int) -> AsyncIterator[str]:
    """The page's address, while it is served on this machine alone; port 0 takes any that is free.

    Raises OSError when the port is taken.
    """
    doorman = Doorman(page.answer, connections=CONNECTIONS, seconds=CONNECTION_SECONDS)
    runner = web.ServerRunner(doorman, shutdown_timeout=ENDING)
    await runner.setup()
    task = asyncio.create_task(supervised(page.run, name="the page"))
    try:
        await web.TCPSite(runner, host=ADDRESS, port=port).start()
        yield f"http://{ADDRESS}:{runner.addresses[0][1]}/"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await runner.cleanup()
