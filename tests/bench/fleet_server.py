"""An API server's lists and watches of a big cluster, from texts that are made up: in a process of its own.

As a real one does, it answers lists in pages. Standard input: one word a line, each answered with a line of JSON.
``change``: a claim is allocated, and all who watch are told; ``lists`` only answers how many lists were asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import sys
from pathlib import Path
from typing import Any

import click
from aiohttp import web

from driver.inventory import DeviceOptions, Options, Partitioning, build_slices, slice_name
from driver.inventory.catalogue import catalogue
from driver.kube import RESOURCE
from tests.unit.inventory import mig_facts

DRIVER = "gpu.nvidia.com"
NODE = "node-0000"
GPUS = 8
SINCE = "2026-01-01T00:00:00Z"
HELD = ("gpu-1", *(f"gpu-0-mig-1g10gb-19-{start}" for start in range(6)))
"""What claims have on each node."""


def slice_texts() -> list[str]:
    """One node's slices, as our builder publishes them in dynamic mode."""
    inventory = mig_facts.node("H100-SXM5-80GB", GPUS)
    offered = catalogue(inventory, Options(default=DeviceOptions(partitioning=Partitioning.DYNAMIC)))
    specs = build_slices(inventory, {}, driver_name=DRIVER, devices=offered)
    pool = {"name": NODE, "generation": 1, "resourceSliceCount": len(specs)}
    return [
        text("ResourceSlice", slice_name(index, driver_name=DRIVER, node_name=NODE), "", spec={**specs_of(spec, pool)})
        for index, spec in enumerate(specs)
    ]


def specs_of(spec: dict[str, Any], pool: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy({"driver": DRIVER, "nodeName": NODE, "pool": pool, **spec})


def claim_text(device: str) -> str:
    """A claim on that node, and the pod that has it."""
    name = f"{NODE}-{device}"
    result = {"request": "gpu", "driver": DRIVER, "pool": NODE, "device": device}
    return text(
        "ResourceClaim",
        name,
        "team-a",
        spec={"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": DRIVER}}]}},
        status={
            "allocation": {"devices": {"results": [result]}, "allocationTimestamp": SINCE},
            "reservedFor": [{"resource": "pods", "name": name, "uid": f"uid-{name}"}],
        },
    )


def pod_text(device: str) -> str:
    return text(
        "Pod",
        f"{NODE}-{device}",
        "team-a",
        spec={"nodeName": NODE, "resourceClaims": [{"name": "gpu"}], "containers": [{"name": "main", "image": "i"}]},
        status={"phase": "Running"},
    )


def text(kind: str, name: str, namespace: str, **more: Any) -> str:
    metadata = {"name": name, "resourceVersion": "5", **({"namespace": namespace} if namespace else {})}
    return json.dumps({"apiVersion": "v1", "kind": kind, "metadata": metadata, **more}, separators=(",", ":"))


class Server:
    """So many nodes that are alike."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._texts = {
            f"{RESOURCE}/resourceslices": slice_texts(),
            f"{RESOURCE}/resourceclaims": [claim_text(device) for device in HELD],
            "/api/v1/pods": [pod_text(device) for device in HELD],
        }
        self._watches: dict[str, list[web.StreamResponse]] = {path: [] for path in self._texts}
        self.lists = 0

    def app(self) -> web.Application:
        app = web.Application()
        for path in self._texts:
            app.router.add_get(path, self._answer)
        return app

    async def change(self) -> None:
        obj = json.loads(claim_text("gpu-2"))
        obj["metadata"]["resourceVersion"] = "6"
        for stream in self._watches[f"{RESOURCE}/resourceclaims"]:
            with contextlib.suppress(ConnectionError):  # who has watched may have gone
                await stream.write(json.dumps({"type": "ADDED", "object": obj}).encode() + b"\n")

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await self._watch(request)
        self.lists += 1
        texts = self._texts[request.path]
        start, limit = int(request.query.get("continue", 0)), int(request.query["limit"])
        end = min(start + limit, self._nodes * len(texts))
        items = ",".join(self._item(texts, index) for index in range(start, end))
        more = f',"continue":"{end}"' if end < self._nodes * len(texts) else ""
        body = f'{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"5"{more}}},"items":[{items}]}}'
        return web.Response(text=body, content_type="application/json")

    @staticmethod
    def _item(texts: list[str], index: int) -> str:
        node, number = divmod(index, len(texts))
        return texts[number].replace(NODE, f"node-{node:04}").replace('"GPU-', f'"GPU-{node:04x}-')

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse()
        await stream.prepare(request)
        self._watches[request.path].append(stream)
        await asyncio.Event().wait()
        return stream


async def serve(kubeconfig: Path, nodes: int) -> None:
    server = Server(nodes)
    runner = web.AppRunner(server.app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    cluster = {"name": "fleet", "cluster": {"server": f"http://{host}:{port}"}}
    context = {"name": "fleet", "context": {"cluster": "fleet", "user": "me"}}
    user = {"name": "me", "user": {}}
    kubeconfig.write_text(
        json.dumps({"current-context": "fleet", "clusters": [cluster], "contexts": [context], "users": [user]}),
        encoding="utf-8",
    )
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("{}", flush=True)
    while word := await reader.readline():
        if word.strip() == b"change":
            await server.change()
        print(json.dumps({"lists": server.lists}), flush=True)


@click.command()
@click.argument("kubeconfig", type=click.Path(path_type=Path))
@click.argument("nodes", type=int)
def main(kubeconfig: Path, nodes: int) -> None:
    asyncio.run(serve(kubeconfig, nodes))


if __name__ == "__main__":
    main()
