"""The mirror of a collection: what it may show, whatever order news come in."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import Api, ApiError
from driver.kube.watch import Mirror
from driver.sim.apiserver import ApiServer, Fault
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        yield server


@pytest.fixture
async def api(server: ApiServer, tmp_path: Path) -> AsyncIterator[Api]:
    async with await Api.connect(server.write_kubeconfig(tmp_path / "kubeconfig")) as api:
        yield api


@pytest.fixture
async def mirror(api: Api) -> AsyncIterator[Mirror]:
    mirror = Mirror(api, MAPS)
    task = asyncio.create_task(mirror.run())
    await mirror.synced.wait()
    yield mirror
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def create(api: Api, name: str) -> dict[str, Any]:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    return await api.request("POST", MAPS, body=body)


async def test_it_follows_what_happens(api: Api, mirror: Mirror) -> None:
    await create(api, "first")
    await eventually(lambda: ("default", "first") in mirror.objects)

    await api.request("DELETE", f"{MAPS}/first")

    await eventually(lambda: not mirror.objects)


async def test_an_answer_may_be_put_in_before_the_event_comes(api: Api, mirror: Mirror) -> None:
    created = await create(api, "first")

    mirror.put(created)

    assert mirror.objects["default", "first"]["metadata"]["uid"] == created["metadata"]["uid"]


async def test_an_answer_that_comes_after_the_deletion_does_not_bring_the_object_back(api: Api, mirror: Mirror) -> None:
    created = await create(api, "first")
    await api.request("DELETE", f"{MAPS}/first")
    await create(api, "second")
    await eventually(lambda: ("default", "second") in mirror.objects)

    mirror.put(created)

    assert ("default", "first") not in mirror.objects


async def test_an_older_answer_does_not_replace_what_is_newer(api: Api, mirror: Mirror) -> None:
    created = await create(api, "first")
    newer = await api.request("PUT", f"{MAPS}/first", body={**created, "data": {"a": "b"}})
    mirror.put(newer)

    mirror.put(created)

    assert mirror.objects["default", "first"]["data"] == {"a": "b"}


async def test_it_catches_up_after_the_server_was_away(server: ApiServer, api: Api, mirror: Mirror) -> None:
    await create(api, "first")
    await eventually(lambda: mirror.objects)
    await server.stop()
    await server.start()

    await create(api, "second")

    await eventually(lambda: len(mirror.objects) == 2)


async def test_it_lists_again_when_its_version_is_too_old(server: ApiServer, api: Api, mirror: Mirror) -> None:
    refused = 0

    def gone(request: Any) -> Fault | None:
        nonlocal refused
        if request.verb == "watch" and refused < 1:
            refused += 1
            return Fault(status=410)
        return None

    server.fault = gone
    server.end_watches()
    await create(api, "first")

    await eventually(lambda: mirror.objects)
    assert refused == 1


class Pages:
    """An API that answers in pages of so many, which the mirror asks for; each token is a number."""

    def __init__(self, names: list[str], *, stuck: bool = False) -> None:
        self._names = names
        self._stuck = stuck
        self.asked: list[tuple[int, str]] = []

    async def get(self, _path: str, params: dict[str, Any], **_: Any) -> dict[str, Any]:
        limit, token = params["limit"], params.get("continue", "")
        self.asked.append((limit, token))
        start = int(token or 0)
        items = [{"metadata": {"name": name, "resourceVersion": "3"}} for name in self._names[start : start + limit]]
        more = {"continue": "1" if self._stuck else str(start + limit)} if start + limit < len(self._names) else {}
        return {"metadata": {"resourceVersion": "7", **more}, "items": items}

    async def watch(self, _path: str, params: dict[str, Any], **_: Any) -> AsyncIterator[dict[str, Any]]:
        assert params == {"resourceVersion": "7"}
        raise asyncio.CancelledError
        yield {}

    async def sleep(self, _seconds: float) -> None:
        raise asyncio.CancelledError


async def test_it_lists_in_pages() -> None:
    api = Pages(["a", "b", "c", "d", "e"])
    mirror = Mirror(api, MAPS, page=2)  # type: ignore[arg-type]

    with pytest.raises(asyncio.CancelledError):
        await mirror.run()

    assert api.asked == [(2, ""), (2, "2"), (2, "4")]
    assert [name for _, name in mirror.objects] == ["a", "b", "c", "d", "e"]


async def test_pages_without_an_end_are_an_odd_answer() -> None:
    api = Pages(["a", "b", "c", "d", "e"], stuck=True)
    mirror = Mirror(api, MAPS, page=2, sleep=api.sleep)  # type: ignore[arg-type]

    with pytest.raises(asyncio.CancelledError):
        await mirror.run()

    assert "another token" in str(mirror.error)
    assert not mirror.synced.is_set()


async def test_it_keeps_what_the_check_makes_of_an_object_and_nothing_where_that_is_nothing(
    api: Api, mirror: Mirror
) -> None:
    def names_only(obj: dict[str, Any], _what: str) -> dict[str, Any] | None:
        kept = {key: obj["metadata"][key] for key in ("namespace", "name", "resourceVersion")}
        return {"metadata": kept} if "a" in obj.get("data", {}) else None

    for name in ("first", "second"):
        await api.request("PUT", f"{MAPS}/{name}", body={**await create(api, name), "data": {"a": "b"}})
    kept = Mirror(api, MAPS, check=names_only)
    task = asyncio.create_task(kept.run())
    await eventually(lambda: len(kept.objects) == 2)

    await api.request("PUT", f"{MAPS}/first", body={**await api.get(f"{MAPS}/first"), "data": {}})
    third = await create(api, "third")
    await api.request("PUT", f"{MAPS}/third", body={**third, "data": {"a": "c"}})

    await eventually(lambda: set(kept.objects) == {("default", "second"), ("default", "third")})
    assert all(obj.keys() == {"metadata"} for obj in kept.objects.values())
    task.cancel()


class ShortLived:
    """An API whose lists succeed and whose watches end at once; counts both and tells the time that pauses make."""

    def __init__(self, ends: Callable[[], Exception | None]) -> None:
        self._ends = ends
        self.lists = 0
        self.watches = 0
        self.now = 0.0
        self.pauses: list[float] = []

    async def get(self, *_: Any, **__: Any) -> dict[str, Any]:
        self.lists += 1
        return {"metadata": {"resourceVersion": "1"}, "items": []}

    async def watch(self, *_: Any, **__: Any) -> AsyncIterator[dict[str, Any]]:
        self.watches += 1
        if error := self._ends():
            raise error
        return
        yield {}

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        if len(self.pauses) >= 30:
            raise asyncio.CancelledError


@pytest.mark.parametrize(
    "ends",
    [
        lambda: None,
        lambda: ApiError(410, "too old"),
        lambda: ApiError(500, "an ERROR event"),
        lambda: ApiError(0, "went away"),
    ],
    ids=["ends well", "gone", "error event", "no answer"],
)
async def test_rounds_that_are_short_are_paused_for_longer_and_longer(ends: Callable[[], Exception | None]) -> None:
    api = ShortLived(ends)
    mirror = Mirror(api, MAPS, clock=lambda: api.now, sleep=api.sleep)  # type: ignore[arg-type]

    with pytest.raises(asyncio.CancelledError):
        await mirror.run()

    assert api.watches == len(api.pauses) == 30
    assert api.lists <= 30
    assert sum(api.pauses[15:]) > 15  # 15 pauses, each of 7.5 s on the average


async def test_a_watch_that_was_long_is_followed_by_another_at_once() -> None:
    def ends() -> None:
        api.now += 300
        if api.watches == 50:
            raise asyncio.CancelledError

    api = ShortLived(ends)

    with pytest.raises(asyncio.CancelledError):
        await Mirror(api, MAPS, clock=lambda: api.now, sleep=api.sleep).run()  # type: ignore[arg-type]

    assert api.lists == 1
    assert api.pauses == []
