"""A driver whose API server says nonsense: the process and its sockets stay, and it recovers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from driver.kube.client import RESOURCE
from driver.sim.apiserver.faults import Fault
from tests.eventually import eventually
from tests.harness import Kubelet

if TYPE_CHECKING:
    from driver.kube.client import Api
    from driver.sim.apiserver import ApiServer

LIST = b'{"metadata":{"resourceVersion":"1"},"items":[null]}'


@pytest.mark.parametrize("body", [b"{}", LIST, b"[" * 50_000, b'{"status":[]}'], ids=["empty", "null", "deep", "list"])
async def test_a_driver_outlives_a_server_that_says_nonsense(
    server: ApiServer, api: Api, run: Any, body: bytes
) -> None:
    asked: list[str] = []

    def lie(request: Any) -> Fault | None:
        if not request.user.name.startswith("system:serviceaccount:"):
            return None
        asked.append(request.verb)
        return Fault(status=200, body=body)

    server.fault = lie
    driver = await run()
    kubelet = Kubelet(driver.registrar)
    await kubelet.notify(registered=True)
    await eventually(lambda: asked.count("list") >= 3 and asked.count("get") >= 2)
    assert await driver.answers()
    assert driver.status is None

    server.fault = None
    await eventually(driver.ready)

    assert (await api.get(f"{RESOURCE}/resourceslices"))["items"]
    await kubelet.close()
