"""One connection over HTTP/1.1: a request, its answer, the next request. llhttp (``httptools``) takes answers apart."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import httptools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MAX_HEAD = 1 << 16
"""Bytes of an answer that are no part of its body, in a row: its head, what comes before and after the body."""
MAX_LINE = 4 << 20
"""Bytes of a line of a stream: one event of a watch has to fit."""
HELD_BACK = 1 << 20
"""Bytes of a body that lie here until somebody reads them; then the server has to wait."""


class Answer:
    """An answer, from its head on. Use as a context manager: what is not read then is cut off.

    ``headers``: in small letters. Reading raises OSError or ValueError for what is no answer, TimeoutError.
    """

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        self.status = 0
        self.reason = ""
        self.headers: dict[str, str] = {}
        self.ended = False
        self._error: Exception | None = None
        self._connection = connection
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._timer = loop.call_at(deadline, self._expire)
        self._then: Callable[[], None] | None = None

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def read(self, most: int) -> bytes:
        """The whole body. Raises ValueError for more bytes than that."""
        parts, size = [], 0
        while part := await self._part():
            size += len(part)
            if size > most:
                raise ValueError(f"the body has more than {most} bytes")
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def lines(self) -> AsyncIterator[bytes]:
        """The body line by line, as it comes in. Raises ValueError for a line that is too long."""
        begun, size = [], 0
        while part := await self._part():
            first, *more = part.split(b"\n")
            begun.append(first)
            size += len(first)
            if more:
                yield b"".join(begun)
                *whole, rest = more
                for line in whole:
                    yield line
                begun, size = [rest], len(rest)
            if size > MAX_LINE:
                raise ValueError(f"a line has more than {MAX_LINE} bytes")
        if size:
            yield b"".join(begun)

    def close(self) -> None:
        """Cut off what has not come in yet."""
        if not self.ended:
            self.end(ConnectionAbortedError("closed by us"))
            self._connection.abort()

    async def started(self) -> None:
        """Wait for the head."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._news()

    def then(self, call: Callable[[], None]) -> None:
        """Call this when the answer has ended, or now."""
        if self.ended:
            call()
        else:
            self._then = call

    def begin(self, status: int) -> None:
        """The head is here."""
        self.status = status
        self._wake()

    def take(self, part: bytes) -> bool:
        """A piece of the body is here. False where that is enough for the moment."""
        self._parts.append(part)
        self._size += len(part)
        self._wake()
        return self._size < HELD_BACK

    def end(self, error: Exception | None = None) -> None:
        """It is complete, or will never be."""
        if self.ended:
            return
        self.ended, self._error = True, error
        self._timer.cancel()
        if self._then is not None:
            self._then()
        self._wake()

    async def _part(self) -> bytes:
        """What has come in since the last time; nothing at the end."""
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self.ended:
                return b""
            await self._news()
        parts, self._parts, self._size = self._parts, [], 0
        if not self.ended:
            self._connection.go_on()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _news(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _expire(self) -> None:
        self.end(TimeoutError("no answer in time" if not self.status else "the answer did not end in time"))
        self._connection.abort()


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        idle: Callable[[Connection], None],
        known: set[Connection],
    ) -> None:
        """``idle`` is called when an answer has ended; ``known`` has those that are open."""
        self.usable = True
        self.idle_since = 0.0
        self.transport: Any = None
        self._loop = loop
        self._idle, self._known = idle, known
        self._paused = False
        self._answer: Answer | None = None
        self._parser: Any = None
        self._tunnel = False
        self._beside = 0
        """Bytes that came in since there was a piece of a body."""
        self._to_the_end = False
        """Whether the body ends with the connection, as nothing else says where."""
        self._said_end = False
        """Whether the server itself has ended the connection."""

    def ask(self, request: bytes, deadline: float, *, tunnel: bool = False) -> Answer:
        """Send a request; its answer, of which nothing is here yet.

        ``tunnel``: it is CONNECT, whose answer has no body, and no request comes after it, if that is a success.
        """
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        self._tunnel, self._beside = tunnel, 0
        self._answer = answer = Answer(self, self._loop, deadline)
        self.transport.write(request)
        return answer

    async def secure(self, context: ssl.SSLContext, name: str) -> None:
        """TLS from now on, through what the last answer has opened."""
        if not self.usable:
            raise ConnectionError("the proxy has closed the connection that it had opened")
        self._answer = self._parser = None
        self.transport = await self._loop.start_tls(self.transport, self, context, server_hostname=name)

    def abort(self) -> None:
        """Close at once."""
        self.usable = False
        self.transport.abort()

    def go_on(self) -> None:
        """Take more, after ``Answer.take`` had enough."""
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def connection_made(self, transport: Any) -> None:
        """Asyncio is connected, with TLS if there is any."""
        self.transport = transport
        self._known.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """No more will come."""
        self.usable = self._paused = False
        self._known.discard(self)
        answer, self._answer, self._parser = self._answer, None, None
        if answer is None:
            return
        if exc is None and answer.status and self._to_the_end and self._said_end:
            answer.end()
        else:
            said = "in the middle of its answer" if answer.status else "without an answer"
            answer.end(ConnectionError(f"the connection was closed {said}{f': {exc}' if exc else ''}"))

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        answer = self._answer
        if answer is None:  # nobody has asked anything
            self.abort()
            return
        self._beside += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"the answer is not HTTP/1.1: {error}")
            return
        if self._beside > MAX_HEAD and not answer.ended:
            self._fail(f"the {'end' if answer.status else 'head'} of the answer has more than {MAX_HEAD} bytes")

    def eof_received(self) -> None:
        """The server sends no more; asyncio closes then, in a moment."""
        self.usable = False
        try:
            tls = self.transport.get_extra_info("ssl_object")
            self._said_end = tls is None or not tls.read(1)
        except ssl.SSLError:  # within TLS it has not said so: anybody between may have cut
            self._said_end = False

    # What llhttp calls.

    def on_message_begin(self) -> None:
        """An answer begins."""
        if self._answer is None:  # more than was asked for
            self.abort()

    def on_status(self, text: bytes) -> None:
        """Words beside the status, or a piece of them."""
        if self._answer is not None:
            self._answer.reason += text.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        if self._answer is not None and not self._answer.status:  # and no trailer
            self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The body begins, if there is any."""
        if (answer := self._answer) is None:
            return
        status = self._parser.get_status_code()
        if status == 101 or status < 100:
            self._fail(f"an answer with status {status}, which was not asked for")
            return
        if status < 200:  # the answer comes after it
            answer.reason, answer.headers = "", {}
            return
        if self._tunnel and status == 200:
            self._answer = None
            answer.begin(status)
            answer.end()
            return
        headers = answer.headers
        self._to_the_end = "content-length" not in headers and "transfer-encoding" not in headers
        answer.begin(status)

    def on_body(self, part: bytes) -> None:
        """A piece of the body."""
        self._beside = 0
        if self._answer is not None and not self._answer.take(part) and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer is complete."""
        answer = self._answer
        if answer is None or answer.ended or not answer.status:
            return
        self._answer = None
        self.go_on()
        # An answer may be here before all of its request is sent: who answers so may never take the rest.
        if self._parser.should_keep_alive() and not self.transport.get_write_buffer_size():
            self._idle(self)
        else:
            self.abort()
        answer.end()

    def _fail(self, problem: str) -> None:
        if self._answer is not None:
            self._answer.end(ValueError(problem))
        self.abort()
