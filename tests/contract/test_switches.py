"""What can be switched on: device metadata in containers, and the claim's status."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

from driver.kube.client import RESOURCE
from tests.eventually import eventually
from tests.harness import DRIVER, Claims, Kubelet, NodeDirectories, read_spec

if TYPE_CHECKING:
    from pathlib import Path

    from driver.kube.client import Api


async def test_device_metadata_has_the_attributes_of_the_slice(
    run: Any, api: Api, claims: Claims, node: NodeDirectories
) -> None:
    driver = await run("--device-metadata")
    await eventually(lambda: _slices(api))
    kubelet = Kubelet(driver.registrar)
    claim = await claims.allocated("claim", "gpu-0")

    await kubelet.prepare(claim)
    await kubelet.close()

    [mount] = read_spec(node, claim)["devices"][0]["containerEdits"]["mounts"]
    content = json.loads(_read(node.root / mount["hostPath"]).splitlines()[0])
    [device] = content["requests"][0]["devices"]
    [published] = await _slices(api)
    assert device["attributes"] == published["spec"]["devices"][0]["attributes"]
    assert mount["containerPath"].endswith(f"/resourceclaims/claim/req-0/{DRIVER}-metadata.json")


async def test_what_containers_of_any_user_read_is_readable_however_strict_the_umask_is(
    run: Any, claims: Claims, node: NodeDirectories
) -> None:
    own = os.umask(0o077)
    try:
        driver = await run("--device-metadata")
    finally:
        os.umask(own)
    kubelet = Kubelet(driver.registrar)
    claim = await claims.allocated("claim", "gpu-0")

    await kubelet.prepare(claim)
    await kubelet.close()

    [mount] = read_spec(node, claim)["devices"][0]["containerEdits"]["mounts"]
    [spec] = node.specs()
    [record] = node.records()
    paths = (mount["hostPath"], node.cdi / spec, node.state / "claims" / record)
    assert [stat.S_IMODE((node.root / path).stat().st_mode) for path in paths] == [0o644, 0o644, 0o644]


async def test_device_status_says_what_the_claim_got(run: Any, api: Api, claims: Claims) -> None:
    driver = await run("--device-status")
    await eventually(lambda: _slices(api))
    kubelet = Kubelet(driver.registrar)

    await kubelet.prepare(await claims.allocated("claim", "gpu-0"))
    await kubelet.close()

    async def devices() -> list[dict[str, Any]]:
        claim = await api.get(f"{RESOURCE}/namespaces/default/resourceclaims/claim")
        found: list[dict[str, Any]] = claim["status"].get("devices") or []
        return found

    [device] = await eventually(devices)
    assert device["data"]["productName"] == "NVIDIA H100 80GB HBM3"
    assert device["data"]["pciBusID"] == "0000:1b:00.0"


async def _slices(api: Api) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await api.get(f"{RESOURCE}/resourceslices"))["items"]
    return items


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
