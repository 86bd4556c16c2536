"""The embedded API server in a process of its own, with claims that are allocated already; over HTTPS, as in a cluster.

Standard input: one word a line; each is answered with a line of JSON. ``requests``: how many came so far, by
"verb resource". The end of the input ends the process.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import click
import trustme

from driver.sim.apiserver import ApiServer
from driver.sim.apiserver.faults import Fault

HOST = "127.0.0.1"


async def serve(kubeconfig: Path, state: Path, delay: float, *, plain: bool) -> None:
    authority = trustme.CA()
    server = ApiServer(
        fault=(lambda _: Fault(delay=delay)) if delay else None, tls=None if plain else _context(authority)
    )
    for collection, objects in json.loads(state.read_bytes()).items():
        for obj in objects:
            key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
            server.engine.store.put(collection, key, obj)
    gc.collect()
    gc.freeze()  # thousands of claims that the collector need not look at again and again
    async with server:
        kubeconfig.write_text(json.dumps(_kubeconfig(server, authority)), encoding="utf-8")
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        print(json.dumps({"url": server.url}), flush=True)
        while await reader.readline():
            print(json.dumps({" ".join(what): count for what, count in server.requests.items()}), flush=True)


def _context(authority: trustme.CA) -> ssl.SSLContext:
    """TLS as a cluster's server has it; who has no certificate of the same authority is not let in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert(HOST).configure_cert(context)
    return context


def _kubeconfig(server: ApiServer, authority: trustme.CA) -> dict[str, Any]:
    """With a token, a client certificate and its authority, which plain HTTP makes no use of."""

    def text(pem: trustme.Blob) -> str:
        return base64.b64encode(pem.bytes()).decode()

    client = authority.issue_cert("driver")
    config = server.kubeconfig()
    config["clusters"][0]["cluster"]["certificate-authority-data"] = text(authority.cert_pem)
    config["users"][0]["user"] |= {
        "client-certificate-data": text(client.cert_chain_pems[0]),
        "client-key-data": text(client.private_key_pem),
    }
    return config


@click.command()
@click.argument("kubeconfig", type=click.Path(path_type=Path))
@click.argument("state", type=click.Path(path_type=Path))
@click.option("--delay", type=float, default=0.0, help="Seconds that each answer takes longer.")
@click.option("--plain", is_flag=True, help="HTTP without TLS.")
def main(kubeconfig: Path, state: Path, delay: float, plain: bool) -> None:
    asyncio.run(serve(kubeconfig, state, delay, plain=plain))


if __name__ == "__main__":
    main()
