"""The cluster followed: what is shown first, what comes after, and what is said of what cannot be read."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from driver.cluster import RULES, Follow, View
from driver.kube import RESOURCE, ApiError
from tests.eventually import PATIENCE, eventually
from tests.unit.cluster.world import DRIVER, claim, pod, rule, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SLICES, CLAIMS, PODS = f"{RESOURCE}/resourceslices", f"{RESOURCE}/resourceclaims", "/api/v1/pods"
GROUP = "/apis/resource.k8s.io"
FORBIDDEN = ApiError(403, "devicetaintrules is forbidden")


class Server:
    """An API server of plain lists: answers in pages, tells what happens, refuses what the test says."""

    def __init__(self, *objects: dict[str, Any], rules_in: str = "v1") -> None:
        """``rules_in``: the version in which it has DeviceTaintRules; empty for none."""
        self.rules = f"{GROUP}/{rules_in}/devicetaintrules"
        self.served: dict[str, Any] = {f"{GROUP}/v1": {"resources": [{"name": "resourceclaims"}]}}
        if rules_in:
            known = self.served.setdefault(f"{GROUP}/{rules_in}", {"resources": []})
            known["resources"].append({"name": "devicetaintrules"})
        self.objects: dict[str, dict[str, dict[str, Any]]] = {SLICES: {}, CLAIMS: {}, PODS: {}, self.rules: {}}
        self.refused: dict[str, ApiError] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._version = 1
        self._streams: dict[str, set[asyncio.Queue[dict[str, Any] | None]]] = {path: set() for path in self.objects}
        for obj in objects:
            self.put(obj)

    def put(self, obj: dict[str, Any]) -> None:
        """The object is like this now."""
        spec = obj.get("spec", {})
        kinds = {"driver": SLICES, "resourceClaims": PODS, "taint": self.rules}
        path = next((path for key, path in kinds.items() if key in spec), CLAIMS)
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        kind = "MODIFIED" if obj["metadata"]["name"] in self.objects[path] else "ADDED"
        self.objects[path][obj["metadata"]["name"]] = obj
        for stream in self._streams[path]:
            stream.put_nowait({"type": kind, "object": obj})

    async def asked_times(self, path: str, times: int) -> None:
        """Wait until a list has been asked for so often."""
        await eventually(lambda: sum(asked == path for asked, _ in self.asked) >= times)

    def end_watches(self) -> None:
        for streams in self._streams.values():
            for stream in streams:
                stream.put_nowait(None)

    async def get(self, path: str, params: dict[str, Any] | None = None, **_: Any) -> dict[str, Any]:
        self.asked.append((path, dict(params or {})))
        if error := self.refused.get(path):
            raise ApiError(error.status, str(error))
        if path.startswith(GROUP) and path.count("/") == 3:
            if path not in self.served:
                raise ApiError(404, "the server could not find the requested resource")
            return self.served[path]
        items = list(self.objects[path].values())
        start, limit = int((params or {}).get("continue", 0)), (params or {}).get("limit", len(items))
        more = {"continue": str(start + limit)} if start + limit < len(items) else {}
        return {"metadata": {"resourceVersion": str(self._version), **more}, "items": items[start : start + limit]}

    async def watch(self, path: str, _params: dict[str, Any], **_: Any) -> AsyncIterator[dict[str, Any]]:
        stream: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._streams[path].add(stream)
        try:
            while (event := await stream.get()) is not None:
                yield event
            raise ApiError(0, "went away")
        finally:
            self._streams[path].discard(stream)


@contextlib.asynccontextmanager
async def following(server: Server, **more: Any) -> AsyncIterator[Follow]:
    follow = Follow(server, driver=DRIVER, debounce=0.0, **more)  # type: ignore[arg-type]
    task = asyncio.create_task(follow.run())
    try:
        yield follow
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(follow: Follow, holds: Any) -> View:
    """The first view of which this is true."""
    view = await follow.after(0)
    while not holds(view):
        view = await follow.after(view.revision)
    return view


def phases(view: View) -> list[str]:
    """Of all pods that hold something, in order."""
    holders = (h for node in view.fleet.nodes for gpu in node.gpus for part in gpu.parts for h in part.holders)
    return [phase for holder in holders for _, phase in holder.pods]


def rooms(view: View) -> list[int]:
    """How many of each GPU could be placed whole."""
    return [gpu.room["gpu"] for node in view.fleet.nodes for gpu in node.gpus]


async def test_the_first_view_has_everything() -> None:
    server = Server(*slices(), claim("train", "gpu-0", pods=("train-0",)), pod("train-0"))

    async with following(server) as follow:
        view = await follow.after(0)

    assert phases(view) == ["Running"]
    assert (dict(view.missing), dict(view.behind)) == ({}, {})


async def test_all_is_listed_in_pages() -> None:
    server = Server(*(obj for number in range(100) for obj in slices(f"node-{number}")))

    async with following(server) as follow:
        view = await follow.after(0)

    assert len(view.fleet.nodes) == 100
    assert [params.get("continue") for path, params in server.asked if path == SLICES] == [None, "100", "200"]


async def test_what_happens_is_seen() -> None:
    server = Server(*slices(), pod("train-0"))

    async with following(server) as follow:
        first = await follow.after(0)
        server.put(claim("train", "gpu-0", pods=("train-0",)))
        view = await until(follow, phases)

    assert view.revision > first.revision
    assert phases(view) == ["Running"]


async def test_without_pods_it_shows_the_rest_and_says_so() -> None:
    server = Server(*slices(), claim("train", "gpu-0", pods=("train-0",)))
    server.refused[PODS] = ApiError(403, "pods is forbidden")

    async with following(server) as follow:
        view = await follow.after(0)
        assert ([*view.missing], phases(view)) == (["pods"], [""])

        server.refused.clear()
        server.put(pod("train-0"))
        view = await until(follow, lambda view: not view.missing)

    assert phases(view) == ["Running"]


@pytest.mark.parametrize("version", ["v1", "v1beta2", "v1alpha3"])
async def test_rules_are_followed_in_the_version_that_is_served(version: str) -> None:
    server = Server(*slices(), rule("early", device="gpu-0"), rules_in=version)

    async with following(server) as follow:
        view = await follow.after(0)
        assert (rooms(view), dict(view.missing)) == ([0, 1], {})

        server.put(rule("late", device="gpu-1"))
        view = await until(follow, lambda view: rooms(view) == [0, 0])

    assert [gpu.troubles[0].taint.rule for gpu in view.fleet.nodes[0].gpus] == ["early", "late"]


async def test_a_cluster_without_rules_misses_nothing() -> None:
    async with following(Server(*slices(), rules_in="")) as follow:
        view = await follow.after(0)

    assert (rooms(view), dict(view.missing)) == ([1, 1], {})


async def test_rules_that_may_not_be_read_are_said_to_be_missing() -> None:
    server = Server(*slices(), rule("drain", device="gpu-0"))
    server.refused[server.rules] = FORBIDDEN

    async with following(server) as follow:
        view = await follow.after(0)
        assert (rooms(view), [*view.missing]) == ([1, 1], [RULES])

        server.refused.clear()
        view = await until(follow, lambda view: not view.missing)

    assert rooms(view) == [0, 1]


@pytest.mark.parametrize("odd", [[], {}, {"resources": None}, {"resources": "devicetaintrules"}])
async def test_an_odd_word_on_what_is_served_is_no_word(odd: Any) -> None:
    server = Server(*slices(), rule("drain", device="gpu-0"))
    listed, server.served[f"{GROUP}/v1"] = server.served[f"{GROUP}/v1"], odd

    async with following(server) as follow:
        view = await follow.after(0)
        assert ([*view.missing], rooms(view)) == ([RULES], [1, 1])

        server.served[f"{GROUP}/v1"] = listed
        view = await until(follow, lambda view: not view.missing)

    assert rooms(view) == [0, 1]


async def test_of_one_node_other_nodes_rules_are_none() -> None:
    server = Server(*slices(), rule("here", pool="node-1", device="gpu-0"), rule("there", pool="node-2"))

    async with following(server, node="node-1") as follow:
        view = await follow.after(0)

    assert rooms(view) == [0, 1]


async def test_the_same_refusal_again_is_no_news() -> None:
    server = Server(*slices())
    server.refused[PODS] = ApiError(403, "pods is forbidden")

    async with following(server) as follow:
        view = await follow.after(0)
        await server.asked_times(PODS, 4)
        server.put(claim("train", "gpu-0"))
        later = await follow.after(view.revision)

    assert later.revision == view.revision + 1
    assert later.fleet.usage


async def test_a_server_that_goes_away_leaves_what_is_known_and_is_followed_again() -> None:
    server = Server(*slices(), claim("train", "gpu-0", pods=("train-0",)))

    async with following(server) as follow:
        await follow.after(0)
        server.refused = dict.fromkeys((SLICES, CLAIMS, PODS, server.rules), ApiError(0, "no answer"))
        server.end_watches()
        view = await until(follow, lambda view: len(view.behind) == 4)
        assert (view.fleet.usage["team-a"].holds, dict(view.missing)) == (1, {})

        server.refused.clear()
        server.put(claim("more", "gpu-1"))
        view = await until(follow, lambda view: not view.behind)

    assert view.fleet.usage["team-a"].holds == 2


async def test_one_node_only() -> None:
    server = Server(*slices("node-1"), claim("here", "gpu-0"), claim("there", "gpu-0", node="node-2"))

    async with following(server, node="node-1") as follow:
        view = await follow.after(0)

    assert [(node.name, node.usage["team-a"].holds) for node in view.fleet.nodes] == [("node-1", 1)]
    selectors = {path: params.get("fieldSelector") for path, params in server.asked if path in server.objects}
    assert selectors == {
        server.rules: None,
        SLICES: f"spec.driver={DRIVER},spec.nodeName=node-1",
        CLAIMS: None,
        PODS: "spec.nodeName=node-1",
    }


async def test_any_number_of_readers_are_told() -> None:
    server = Server(*slices())

    async with following(server) as follow:
        first = await follow.after(0)
        waiting = [asyncio.create_task(follow.after(first.revision)) for _ in range(3)]
        server.put(claim("train", "gpu-0"))
        views = await asyncio.gather(*waiting)

    assert all(view.fleet.usage for view in views)


async def test_it_ends_when_it_is_told_to_just_as_something_happens() -> None:
    server = Server(*slices())
    async with asyncio.timeout(PATIENCE):
        async with following(server) as follow:
            await follow.after(0)
            await asyncio.sleep(0)
            follow._dirty.set()
