"""Watches: where they start, what they see, how they end."""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest

from driver.kube.client import ApiError
from driver.kube.watch import Mirror
from driver.sim.apiserver import ApiServer
from tests.eventually import PATIENCE, eventually
from tests.unit.sim_apiserver.cluster import CLAIMS, CONFIGMAPS, SLICES, claim, resource_slice


@asynccontextmanager
async def watching(server: ApiServer, path: str, **params):
    """Yield a function that reads the next event."""
    query = {key: str(value) for key, value in {"watch": "true", **params}.items()}
    async with aiohttp.ClientSession() as session, session.get(server.url + path, params=query) as response:
        assert response.status == 200, await response.text()

        async def event(within: float = PATIENCE):
            async with asyncio.timeout(within):
                line = await response.content.readline()
            return json.loads(line) if line else None

        yield event


def brief(event):
    return event["type"], event["object"]["metadata"]["name"]


async def test_a_watch_sees_every_change_after_its_version(server, cluster) -> None:
    await cluster.create(CONFIGMAPS, {"metadata": {"name": "before"}})
    version = (await cluster.get(CONFIGMAPS))["metadata"]["resourceVersion"]
    await cluster.create(CONFIGMAPS, {"metadata": {"name": "c"}})
    async with watching(server, CONFIGMAPS, resourceVersion=version) as event:
        assert brief(await event()) == ("ADDED", "c")
        await cluster.merge(f"{CONFIGMAPS}/c", {"data": {"a": "1"}})
        assert brief(await event()) == ("MODIFIED", "c")
        await cluster.delete(f"{CONFIGMAPS}/c")
        deleted = await event()
        assert brief(deleted) == ("DELETED", "c")
        assert int(deleted["object"]["metadata"]["resourceVersion"]) > int(version) + 2


async def test_a_watch_without_version_begins_with_what_is_there(server, cluster) -> None:
    await cluster.create(CONFIGMAPS, {"metadata": {"name": "c"}})
    async with watching(server, CONFIGMAPS) as event:
        assert brief(await event()) == ("ADDED", "c")


async def test_a_change_into_and_out_of_the_selection_looks_like_creation_and_deletion(server, cluster) -> None:
    await cluster.create(CONFIGMAPS, {"metadata": {"name": "c"}})
    async with watching(server, CONFIGMAPS, labelSelector="a=b") as event:
        await cluster.merge(f"{CONFIGMAPS}/c", {"metadata": {"labels": {"a": "b"}}})
        assert brief(await event()) == ("ADDED", "c")
        await cluster.merge(f"{CONFIGMAPS}/c", {"metadata": {"labels": {"a": None}}})
        assert brief(await event()) == ("DELETED", "c")


async def test_a_watch_of_one_namespace_does_not_see_others(server, cluster) -> None:
    async with watching(server, CONFIGMAPS) as event:
        await cluster.create("/api/v1/namespaces/kube-system/configmaps", {"metadata": {"name": "other"}})
        await cluster.create(CONFIGMAPS, {"metadata": {"name": "mine"}})
        assert brief(await event()) == ("ADDED", "mine")


async def test_a_watch_ends_after_its_timeout(server) -> None:
    async with watching(server, SLICES, timeoutSeconds=1) as event:
        assert await event() is None


async def test_bookmarks_carry_the_version_while_nothing_happens(cluster, tmp_path) -> None:
    async with ApiServer(bookmark_seconds=0.05) as server:  # noqa: SIM117
        async with watching(server, SLICES, allowWatchBookmarks="true") as event:
            bookmark = await event()
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["kind"] == "ResourceSlice"
    assert bookmark["object"]["metadata"]["resourceVersion"].isdigit()


async def test_a_streaming_list_ends_with_a_marked_bookmark(server, cluster) -> None:
    await cluster.create(SLICES, resource_slice())
    params = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with watching(server, SLICES, **params) as event:
        assert brief(await event()) == ("ADDED", "slice")
        marked = await event()
    assert marked["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_watch_from_too_long_ago_is_expired(cluster, tmp_path) -> None:
    async with ApiServer(history=2) as server, aiohttp.ClientSession(server.url) as session:
        for name in "abcd":
            await session.post(CONFIGMAPS, json={"metadata": {"name": name}})
        async with session.get(CONFIGMAPS, params={"watch": "true", "resourceVersion": "5"}) as response:
            event = json.loads(await response.content.readline())
            status = event["object"]
    assert (event["type"], status["code"], status["reason"]) == ("ERROR", 410, "Expired")
    assert status["message"].startswith("too old resource version: 5 (")


async def test_a_mirror_survives_expired_watches(server, cluster) -> None:
    mirror = Mirror(cluster.api, CLAIMS)
    task = asyncio.create_task(mirror.run())
    await cluster.create(CLAIMS, claim("a"))
    await eventually(lambda: ("default", "a") in mirror.objects)
    server.expire_watches()
    await cluster.create(CLAIMS, claim("b"))
    await eventually(lambda: ("default", "b") in mirror.objects)
    task.cancel()


async def test_stopping_the_server_ends_its_watches(server, cluster) -> None:
    async with watching(server, SLICES) as event:
        await server.stop()
        assert await event() is None
    with pytest.raises(ApiError) as error:
        await cluster.get(SLICES)
    assert error.value.status == 0


async def test_a_restarted_server_has_its_address_and_state(server, cluster) -> None:
    await cluster.create(SLICES, resource_slice())
    url = server.url
    await server.stop()
    await server.start()
    assert server.url == url
    assert await cluster.names(SLICES) == ["slice"]
