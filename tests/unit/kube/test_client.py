"""What the API server, or somebody in its place, may answer: an object, or an ApiError that says what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from driver.kube.client import Api, ApiError
from tests.unit.kube.kubeconfigs import write_kubeconfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Server:
    """Answers everything with one answer."""

    def __init__(self) -> None:
        self.answer = web.Response(text="{}")
        self.url = ""
        self.asked: list[str] = []

    async def _respond(self, request: web.BaseRequest) -> web.Response:
        self.asked.append(request.path)
        return self.answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    runner = web.ServerRunner(web.Server(server._respond))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def api(server: Server, tmp_path: Path) -> AsyncIterator[Api]:
    async with await Api.connect(write_kubeconfig(tmp_path, server.url)) as api:
        yield api


@pytest.mark.parametrize(
    ("body", "transient", "words"),
    [
        ("<html>", True, "answered with something that is not JSON"),
        ("[]", True, "answered with JSON that is no object"),
        ("null", True, "answered with JSON that is no object"),
        ('{"a":' + "[" * 100_000, False, "is nested too deeply to be read"),
    ],
)
async def test_an_answer_that_is_no_object_is_an_error_and_tried_again_where_that_may_help(
    server: Server, api: Api, body: str, transient: bool, words: str
) -> None:
    server.answer = web.Response(text=body)

    with pytest.raises(ApiError, match=words) as caught:
        await api.get("/x")

    assert caught.value.transient is transient


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), ("²", None), ("soon", None), ("-1", None), ("", None)])
async def test_a_pause_that_the_server_asks_for_is_understood_or_passed_over(
    server: Server, api: Api, header: str, seconds: float | None
) -> None:
    server.answer = web.Response(status=429, headers={"Retry-After": header})

    with pytest.raises(ApiError) as caught:
        await api.get("/x")

    assert caught.value.retry_after == seconds


async def test_a_refusal_that_is_nested_too_deeply_is_still_a_refusal(server: Server, api: Api) -> None:
    server.answer = web.Response(status=403, text="[" * 100_000)

    with pytest.raises(ApiError) as caught:
        await api.get("/x")

    assert caught.value.status == 403


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_an_odd_answer_and_never_followed(server: Server, api: Api, status: int) -> None:
    server.answer = web.Response(status=status, headers={"Location": f"{server.url}/elsewhere?token=hidden"})

    with pytest.raises(ApiError, match=rf"answered with a redirect \({status}\)") as caught:
        await api.get("/x")

    assert caught.value.transient
    assert "hidden" not in str(caught.value)
    assert server.asked == ["/x"]


async def test_a_watch_that_is_sent_elsewhere_ends(server: Server, api: Api) -> None:
    server.answer = web.Response(status=302, headers={"Location": f"{server.url}/elsewhere"})

    with pytest.raises(ApiError, match="redirect"):
        async for _ in api.watch("/x", {}):
            pass

    assert server.asked == ["/x"]


async def test_where_there_is_no_server_nothing_is_asked() -> None:
    async with Api.nowhere() as api:
        with pytest.raises(ApiError, match="there is no API server to ask"):
            await api.get("/x")


async def test_each_request_is_told_with_its_status_also_when_nobody_answers(server: Server, api: Api) -> None:
    told: list[tuple[str, str, int]] = []
    api.on_request = lambda *request: told.append(request)
    server.answer = web.json_response({}, status=429)

    with pytest.raises(ApiError):
        await api.get("/a", {"limit": 1})
    server.answer = web.Response(text="[" * 100_000)
    with pytest.raises(ApiError):
        await api.request("POST", "/b", body={})
    with pytest.raises(ApiError):
        await api.get("/c", timeout=1e-9)

    assert told == [("GET", "/a?limit=1", 429), ("POST", "/b", 200), ("GET", "/c", 0)]
