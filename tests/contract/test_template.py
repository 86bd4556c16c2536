"""The template that a node prints of itself: whatever becomes of it, a new one would publish the same."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from driver.kube.client import RESOURCE
from tests.eventually import eventually
from tests.forked.process import gpu_dra
from tests.harness import NODE, Driver, Kubelet

if TYPE_CHECKING:
    from driver.kube.client import Api
    from tests.harness import Claims, NodeDirectories

OF_ONE_PIECE = ("uuid", "parentUUID", "fabricClique")
"""Attributes whose values are another node's for certain."""
DYNAMIC = "--partitioning=dynamic"


async def command(node: NodeDirectories, *arguments: str) -> list[dict[str, Any]]:
    done = await asyncio.to_thread(
        subprocess.run,
        [*gpu_dra(arguments[0]), *arguments[1:], f"--kubelet-plugins-dir={node.plugins}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return list(yaml.safe_load_all(done.stdout)) if arguments[0] == "slices" else []


async def published(api: Api) -> list[dict[str, Any]]:
    """The slices of the pool in their order; none until it is complete."""
    found = sorted((await api.get(f"{RESOURCE}/resourceslices"))["items"], key=lambda obj: obj["metadata"]["name"])
    return found if found and len(found) == found[0]["spec"]["pool"]["resourceSliceCount"] else []


def comparable(documents: list[dict[str, Any]], *, node: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and specs, with a node's name and the values of single pieces told by their order only."""
    seen: dict[str, int] = {}
    found = []
    for document in documents:
        spec = dict(document["spec"])
        assert (spec.pop("nodeName"), spec["pool"]["name"]) == (node, node)
        spec["pool"] = {**spec["pool"], "name": ""}
        for device in (devices := [dict(device) for device in spec.get("devices", ())]):
            device["attributes"] = {
                name: seen.setdefault(value["string"], len(seen)) if name in OF_ONE_PIECE else value
                for name, value in device["attributes"].items()
            }
        found.append((document["metadata"]["name"].removesuffix(node), {**spec, "devices": devices}))
    return found


@pytest.mark.parametrize(
    "flags",
    [
        (DYNAMIC, "--shares=memory", "--shares-memory-reserve=1Gi"),
        ("--partitioning=static", "--devices=fake:a30x4"),
        ("--devices=fake:gb200x4",),
    ],
    ids=" ".join,
)
async def test_a_template_is_what_the_driver_publishes(
    flags: tuple[str, ...], run: Any, node: NodeDirectories, api: Api
) -> None:
    await run(*flags)
    real = await eventually(lambda: published(api))

    printed = await command(node, "slices", "--template", "--node-name=template", "--devices=fake:h100x8", *flags)

    assert comparable(printed, node="template") == comparable(real, node=NODE)


async def test_a_template_knows_nothing_of_what_is_held_and_what_is_sick(
    run: Any, node: NodeDirectories, api: Api, claims: Claims
) -> None:
    driver: Driver = await run(DYNAMIC)
    healthy = await eventually(lambda: published(api))

    kubelet = Kubelet(driver.registrar)
    await kubelet.prepare(await claims.allocated("held", "gpu-0-mig-1g10gb-19-6"))
    await kubelet.close()
    await command(node, "fault", "--device=gpu-3", "--xid=79")

    async def tainted() -> bool:
        return any(device.get("taints") for obj in await published(api) for device in obj["spec"].get("devices", ()))

    await eventually(tainted)
    options = ("--node-name=template", "--devices=fake:h100x8")
    printed = await command(node, "slices", "--template", DYNAMIC, *options)
    whole = await command(node, "slices", "--template", *options)

    assert comparable(printed, node="template") == comparable(healthy, node=NODE)
    assert [device["name"] for obj in whole for device in obj["spec"]["devices"]] == [f"gpu-{n}" for n in range(8)]
