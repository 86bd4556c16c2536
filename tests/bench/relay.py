"""The least that a driver on grpcio can be: a server that GETs each claim of a call and answers with nothing.

It has the driver's HTTP client and no record, no CDI spec, no log, no metric. What it reaches is the most that any
prepare can reach, measured in the same run. The end of standard input ends the process.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click
import grpc.aio

from driver.kube.client import Api, claim_path
from driver.wire import dra_v1_pb2 as dra
from driver.wire import dra_v1_pb2_grpc


class Relay(dra_v1_pb2_grpc.DRAPluginServicer):
    """Reads claims and does nothing with them."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def NodePrepareResources(  # noqa: N802
        self, request: dra.NodePrepareResourcesRequest, _context: Any
    ) -> dra.NodePrepareResourcesResponse:
        """GET each claim."""
        for claim in request.claims:
            await self._api.get(claim_path(claim.namespace, claim.name))
        return dra.NodePrepareResourcesResponse()


async def serve(kubeconfig: Path, socket: Path) -> None:
    async with await Api.connect(kubeconfig) as api:
        server = grpc.aio.server()
        dra_v1_pb2_grpc.add_DRAPluginServicer_to_server(Relay(api), server)
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        print("serving", flush=True)
        await reader.read()
        await server.stop(0)


@click.command()
@click.argument("kubeconfig", type=click.Path(path_type=Path))
@click.argument("socket", type=click.Path(path_type=Path))
def main(kubeconfig: Path, socket: Path) -> None:
    asyncio.run(serve(kubeconfig, socket))


if __name__ == "__main__":
    main()
