"""The embedded API server in a process of its own, with claims that are allocated already.

Standard input: one word a line; each is answered with a line of JSON. ``requests``: how many came so far, by
"verb resource". The end of the input ends the process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path

import click

from driver.sim.apiserver import ApiServer
from driver.sim.apiserver.faults import Fault


async def serve(kubeconfig: Path, state: Path, delay: float) -> None:
    server = ApiServer(fault=(lambda _: Fault(delay=delay)) if delay else None)
    for collection, objects in json.loads(state.read_bytes()).items():
        for obj in objects:
            key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
            server.engine.store.put(collection, key, obj)
    gc.collect()
    gc.freeze()  # thousands of claims that the collector need not look at again and again
    async with server:
        server.write_kubeconfig(kubeconfig)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        print(json.dumps({"url": server.url}), flush=True)
        while await reader.readline():
            print(json.dumps({" ".join(what): count for what, count in server.requests.items()}), flush=True)


@click.command()
@click.argument("kubeconfig", type=click.Path(path_type=Path))
@click.argument("state", type=click.Path(path_type=Path))
@click.option("--delay", type=float, default=0.0, help="Seconds that each answer takes longer.")
def main(kubeconfig: Path, state: Path, delay: float) -> None:
    asyncio.run(serve(kubeconfig, state, delay))


if __name__ == "__main__":
    main()
