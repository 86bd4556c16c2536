"""What the API server, or somebody in its place, may answer: an object, or an ApiError that says what it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from driver.kube.client import Api, ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Server:
    """Answers everything with one answer."""

    def __init__(self) -> None:
        self.answer = web.Response(text="{}")
        self.url = ""

    async def _respond(self, _request: web.BaseRequest) -> web.Response:
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
async def api(server: Server) -> AsyncIterator[Api]:
    configuration = Configuration()
    configuration.host = server.url
    async with Api(configuration) as api:
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


async def test_credentials_that_cannot_be_read_at_the_moment_are_tried_again() -> None:
    def refresh(_configuration: Any) -> None:
        raise ValueError("Token file exists but empty.")

    configuration = Configuration()
    configuration.api_key["BearerToken"] = "old"
    configuration.refresh_api_key_hook = refresh
    async with Api(configuration) as api:
        with pytest.raises(ApiError, match="Token file exists but empty") as caught:
            await api.get("/x")

    assert caught.value.transient
