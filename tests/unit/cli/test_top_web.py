"""``gpu-dra top --web`` over HTTP: whom it answers, what it tells when, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio

from driver.cluster.page.web_server import CONNECTIONS
from driver.sim.apiserver import ApiServer
from tests.eventually import PATIENCE
from tests.unit.cli.test_top import Desk, person, put
from tests.unit.cluster.world import claim, pod, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Web:
    """The command, the page that it serves, and the server that it looks at."""

    server: ApiServer
    process: asyncio.subprocess.Process
    address: str
    session: aiohttp.ClientSession

    async def get(self, path: str = "", **headers: str) -> tuple[int, str, Any]:
        async with self.session.get(self.address + path, headers=headers) as response:
            return response.status, await response.text(), response.headers

    async def messages(self, path: str = "news") -> AsyncIterator[dict[str, Any]]:
        """What a reader is told, from now on."""
        async with self.session.get(self.address + path, timeout=aiohttp.ClientTimeout(PATIENCE)) as response:
            assert response.content_type == "text/event-stream"
            async for line in response.content:
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

    async def told(self, words: str) -> dict[str, Any]:
        """The first message that has these words."""
        async for message in self.messages():
            if any(words in html for html in message["pieces"].values()):
                return message
        raise AssertionError(f"the stream ended without {words}")


@contextlib.asynccontextmanager
async def web_of(server: ApiServer, home: Path, kubeconfig: Path, *arguments: str) -> AsyncIterator[Web]:
    process = await Desk(home).start(f"--kubeconfig={kubeconfig}", "--web", "--port=0", *arguments)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession(read_bufsize=1 << 22) as session:
            said = (await process.stdout.readline()).decode()
            found = re.match(r"(http://127\.0\.0\.1:\d+/) shows the GPUs of https?://\S+ until Ctrl-C\n", said)
            assert found is not None, said
            yield Web(server=server, process=process, address=found[1], session=session)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def web(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Web]:
    home = tmp_path_factory.mktemp("home")
    async with ApiServer() as server:
        put(server, *slices(), *slices("node-2"), claim("train", "gpu-0", pods=("train-0",)), pod("train-0"))
        async with web_of(server, home, server.write_kubeconfig(home / "admin")) as web:
            yield web


async def test_it_is_a_page_that_may_load_nothing_from_elsewhere(web: Web) -> None:
    status, text, headers = await web.get()

    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "team-a/train-0" in text
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {value for name, value in policy.items() if name.endswith("-src")} == {"'none'", "'self'"}
    for path, kind in (("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        assert (await web.get(path))[2]["Content-Type"].startswith(kind)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost:x"])
async def test_a_name_that_somebody_else_had_point_here_is_refused(web: Web, host: str) -> None:
    for path in ("", "news", "details", "page.js"):
        status, text, _ = await web.get(path, Host=host)
        assert (status, "train" in text) == (421, False)


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1", "[::1]:8470"])
async def test_a_tunnel_may_have_another_port(web: Web, host: str) -> None:
    assert (await web.get(Host=host))[0] == 200


async def test_it_only_shows(web: Web) -> None:
    assert (await web.get("../etc/passwd"))[0] == 404
    async with web.session.post(web.address) as response:
        assert response.status == 405


async def test_a_reader_gets_everything_once_and_then_the_node_that_changes(web: Web) -> None:
    messages = web.messages()
    first = await anext(messages)

    put(web.server, claim("more", "gpu-1", node="node-2"))
    while "node:node-2" not in (news := await anext(messages))["pieces"]:
        pass

    assert {"status", "summary", "node:node-1", "node:node-2"} <= first["pieces"].keys()
    assert "node:node-1" not in news["pieces"]
    assert "more" in news["pieces"]["node:node-2"]
    assert news["order"] == ["node:node-1", "node:node-2"]


async def test_a_reader_of_some_nodes_is_told_of_those(web: Web) -> None:
    [first] = [await anext(web.messages("news?q=node-2"))]

    assert first["order"] == ["node:node-2"]


async def test_so_many_readers_at_once_and_the_newest_is_always_one_of_them(web: Web) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        readers = [await session.get(web.address + "news") for _ in range(CONNECTIONS + 1)]

        assert (await readers[-1].content.readline()).startswith(b"retry:")
        with pytest.raises(aiohttp.ClientError):  # the oldest
            await readers[0].content.read()
        for reader in readers:
            reader.close()


async def test_details_have_the_events_of_claim_and_pod(web: Web) -> None:
    web.server.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}})
    web.server.add(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "started", "namespace": "team-a"},
            "involvedObject": {"kind": "Pod", "namespace": "team-a", "name": "train-0"},
            "reason": "Started",
            "message": "Container <main> started",
            "type": "Normal",
        }
    )

    _, text, _ = await web.get("details?at=node-1/gpu-0")

    assert "team-a/train" in text
    assert "Container &lt;main&gt; started" in text
    assert "cannot be read" not in text


async def test_without_pods_and_events_it_says_so_and_shows_the_rest(web: Web, tmp_path: Path) -> None:
    config = person(
        web.server, tmp_path / "person", everywhere=["resourceslices", "resourceclaims"], inside=["secrets"]
    )

    async with web_of(web.server, tmp_path, config) as of_person:
        _, text, _ = await of_person.get("?at=node-1/gpu-0")

    assert "pods cannot be read, so it is not shown which pods run" in text
    assert "Events cannot be read" in text
    assert "cannot list resource" in text
    assert "team-a/train" in text


async def test_a_server_that_goes_away_leaves_a_picture_that_says_its_age(web: Web) -> None:
    await web.server.stop()
    stale = await web.told("resourceslices may have changed since")  # others may be told before
    await web.told("the picture is")
    await web.server.start()
    live = await web.told("● live")

    assert "resourceslices may have changed since" in stale["pieces"]["notes"]
    assert "train-0" in (await web.get())[1]
    assert "hidden" in live["pieces"]["notes"]


async def test_ctrl_c_ends_it_while_somebody_reads(web: Web, tmp_path: Path) -> None:
    async with web_of(web.server, tmp_path, web.server.write_kubeconfig(tmp_path / "admin")) as other:
        messages = other.messages()
        await anext(messages)

        other.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            _, err = await other.process.communicate()

        assert (other.process.returncode, err.decode()) == (0, "")


async def test_a_port_that_is_taken_is_one_line(web: Web, tmp_path: Path) -> None:
    port = web.address.rstrip("/").rpartition(":")[2]
    config = web.server.write_kubeconfig(tmp_path / "admin")

    status, said = await Desk(tmp_path).top(f"--kubeconfig={config}", "--web", f"--port={port}")

    assert (status, said) == (
        1,
        f"gpu-dra: port {port}: address already in use; --port names another, 0 any\n",
    )


async def test_a_page_is_neither_watch_nor_json(tmp_path: Path) -> None:
    status, said = await Desk(tmp_path).top("--web", "-o", "json")

    assert status == 2
    assert "--web is a page of its own" in said


async def test_who_reads_may_go_at_any_time(web: Web, tmp_path: Path) -> None:
    async with web_of(web.server, tmp_path, web.server.write_kubeconfig(tmp_path / "admin")) as other:
        async with aiohttp.ClientSession() as session:
            reader = await session.get(other.address + "news")
            await reader.content.readline()
            reader.close()
        put(web.server, claim("later", "gpu-5", pods=("later-0",)), pod("later-0"))
        await other.told("later-0")

        other.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            _, err = await other.process.communicate()

        assert (other.process.returncode, err.decode()) == (0, "")
