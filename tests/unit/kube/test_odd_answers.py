"""Odd answers of what stands in the API server's place: nothing ends of one, nothing spins, and it passes."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from driver.inventory.neighbours import Coexistence
from driver.inventory.publisher import SLICES, Pool, Publisher, check_slice
from driver.kube.client import Api, ApiError
from driver.kube.events import NodeEvents
from driver.kube.watch import Mirror
from driver.observe.metrics import Metrics
from tests.eventually import eventually
from tests.unit.kube.kubeconfigs import write_kubeconfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DRIVER, NODE = "gpu.nvidia.com", "node-1"
LIMIT = 1 << 16
ANSWERS = 2
"""Odd ones of each kind, before the right ones come; few, because every one costs a longer pause."""

META = {"name": "x", "uid": "u", "resourceVersion": "1"}
SLICE = {"metadata": META, "spec": {"pool": {"name": NODE, "generation": 1}}}


def without(*path: str, obj: Any = SLICE) -> dict[str, Any]:
    first, *rest = path
    copy = {key: value for key, value in obj.items() if key != first or rest}
    return {**copy, first: without(*rest, obj=obj[first])} if rest else copy


ODD_OBJECTS: tuple[Any, ...] = (
    None,
    [],
    7,
    {},
    {"metadata": None},
    {"metadata": []},
    {"metadata": {}},
    {"metadata": {**META, "name": 7}},
    {"metadata": {**META, "resourceVersion": "²"}},
    {"metadata": {**META, "resourceVersion": "9" * 5000}},
    {"metadata": {**META, "resourceVersion": 7}},
    {"metadata": {**META, "namespace": []}},
    without("spec"),
    without("spec", "pool"),
    without("spec", "pool", "generation"),
    {**SLICE, "spec": []},
    {**SLICE, "spec": {"pool": {"name": NODE, "generation": "1"}}},
    {**SLICE, "spec": {"pool": {"name": NODE, "generation": True}}},
    without("metadata", "uid"),
)
DEEP = "[" * 50_000
RAW = ("", "<html>", DEEP, "[]", "null", '{"a":' + "9" * 5000 + "}", '"' + "x" * LIMIT + '"')
LISTS = (
    *RAW,
    "{}",
    *(json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}) for items in ({}, "x", 7)),
    *(
        json.dumps({"metadata": {"resourceVersion": version}, "items": []})
        for version in ("²", "9" * 5000, "", None, 1)
    ),
    *(json.dumps({"metadata": {"resourceVersion": "1"}, "items": [odd]}) for odd in ODD_OBJECTS),
)
EVENTS = (
    *(raw for raw in RAW if raw),
    "{}",
    '{"type":"ADDED"}',
    '{"type":[],"object":{}}',
    '{"type":"ERROR"}',
    '{"type":"ERROR","object":[]}',
    '{"type":"ERROR","object":{"code":"²","message":[]}}',
    '{"type":"BOOKMARK","object":{}}',
    *(json.dumps({"type": kind, "object": odd}) for kind in ("ADDED", "DELETED", "ODD") for odd in ODD_OBJECTS),
    '"' + "x" * 5_000_000 + '"',
)
WRITES = (*RAW, *(json.dumps(odd) for odd in ODD_OBJECTS))
NODES = (*RAW, *(json.dumps(odd) for odd in ODD_OBJECTS[:12]))


class Liar:
    """A server of slices and one Node that says what it is told to, and the truth after that."""

    def __init__(self) -> None:
        self.odd: dict[str, list[str]] = {"list": [], "watch": [], "write": [], "node": []}
        self.asked: dict[str, int] = dict.fromkeys(self.odd, 0)
        self.slices: dict[str, Any] = {}
        self.url = ""

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        kind = "node" if "/nodes/" in request.path else "write" if request.method != "GET" else "list"
        kind = "watch" if "watch" in request.query else kind
        self.asked[kind] += 1
        if self.odd[kind]:
            return web.Response(text=self.odd[kind].pop() + "\n" * (kind == "watch"))
        if kind == "node":
            return web.json_response({"metadata": {**META, "name": NODE}, "status": {}})
        if kind == "write":
            body = await request.json()
            if request.method == "DELETE":
                return web.json_response(self.slices.pop(request.path.rpartition("/")[2]))
            version = str(self.asked["write"] + 1)
            body["metadata"] |= {"uid": "u", "resourceVersion": version}
            self.slices[body["metadata"]["name"]] = body
            return web.json_response(body)
        if kind == "watch":
            await asyncio.sleep(3600)
        version = str(self.asked["write"] + 1)
        return web.json_response({"metadata": {"resourceVersion": version}, "items": list(self.slices.values())})


@pytest.fixture
async def liar() -> AsyncIterator[Liar]:
    liar = Liar()
    runner = web.ServerRunner(web.Server(liar.respond), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    liar.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield liar
    await runner.cleanup()


@pytest.fixture
async def api(liar: Liar, tmp_path: Path) -> AsyncIterator[Api]:
    async with await Api.connect(write_kubeconfig(tmp_path, liar.url), max_body=LIMIT) as api:
        yield api


@contextlib.asynccontextmanager
async def running(work: Any) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work)
    yield task
    assert not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def nap(_seconds: float) -> None:
    """No pause: each odd answer is met once, however many there are."""
    await asyncio.sleep(0)


async def test_a_mirror_passes_every_odd_list_and_every_odd_event(liar: Liar, api: Api) -> None:
    liar.odd["list"], liar.odd["watch"] = list(LISTS), list(EVENTS)
    liar.slices["x"] = SLICE
    mirror = Mirror(api, SLICES, check=check_slice, sleep=nap)

    async with running(mirror.run()):
        await eventually(lambda: liar.asked["watch"] > len(EVENTS), within=20)
        await eventually(lambda: mirror.error is None and mirror.objects == {("", "x"): SLICE})


@pytest.mark.parametrize("odd", range(0, len(WRITES), ANSWERS))
async def test_a_publisher_passes_odd_answers_to_everything_that_it_asks(liar: Liar, api: Api, odd: int) -> None:
    liar.odd["write"] = list(WRITES[odd : odd + ANSWERS])
    liar.odd["node"] = list(NODES[odd : odd + 2])
    liar.odd["list"] = list(LISTS[odd : odd + 2])
    publisher = Publisher(api=api, driver_name=DRIVER, node_name=NODE, metrics=Metrics(driver_name=DRIVER))
    publisher.desire(Pool(name=NODE, slices=({"devices": [{"name": "gpu-0"}]},)))

    async with running(publisher.run()):
        await eventually(lambda: publisher.published)

    assert not liar.odd["write"]
    assert liar.asked["write"] <= 4 * ANSWERS


@pytest.mark.parametrize("odd", [*NODES, *(json.dumps({"metadata": META, "status": odd}) for odd in ([], "x", 7))])
async def test_a_node_that_is_odd_is_not_known_yet(
    liar: Liar, api: Api, tmp_path: Path, odd: str, caplog: pytest.LogCaptureFixture
) -> None:
    liar.odd["node"] = [odd, odd]
    metrics = Metrics(driver_name=DRIVER)
    coexistence = Coexistence(
        api,
        driver_name=DRIVER,
        node_name=NODE,
        plugins_dir=tmp_path / "plugins",
        registry_dir=tmp_path,
        ignore=False,
        own_socket=tmp_path / "reg.sock",
        publisher=Publisher(api=api, driver_name=DRIVER, node_name=NODE, metrics=metrics),
        changed=lambda: None,
        events=NodeEvents(api, node_name=NODE, component=DRIVER),
        metrics=metrics,
    )

    await coexistence.read()
    await coexistence.read()
    known = coexistence.known
    await coexistence.read()

    assert (known, coexistence.known) == (False, True)
    assert len(caplog.records) == 1


async def test_a_body_is_not_taken_beyond_its_limit_and_not_unpacked(liar: Liar, api: Api, tmp_path: Path) -> None:
    async def packed(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=gzip.compress(bytes(10 * LIMIT)), headers={"Content-Encoding": "gzip"})

    runner = web.ServerRunner(web.Server(packed))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kubeconfig = write_kubeconfig(tmp_path, f"http://127.0.0.1:{runner.addresses[0][1]}")
    async with await Api.connect(kubeconfig, max_body=LIMIT) as to_packed:
        with pytest.raises(ApiError, match="encoded as 'gzip', which was not asked for") as caught:
            await to_packed.get("/x")
    await runner.cleanup()
    assert caught.value.transient

    liar.odd["list"] = ["x" * (LIMIT + 1)]
    with pytest.raises(ApiError, match="more than 65536 bytes") as caught:
        await api.get(SLICES)
    assert caught.value.transient
