"""The order of making a bundle: all parts at once, each with its time, none at the expense of another."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from driver.base.threads import in_daemon_thread
from driver.kube import SERVICE_ACCOUNT
from driver.operate.bundle import node_parts
from driver.operate.bundle.archive import Found, pack
from driver.operate.bundle.cluster_parts import read_objects
from driver.operate.bundle.pod_logs import read_logs
from driver.operate.bundle.scrub import known_secrets
from driver.operate.doctor.examine import what_there_is

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from driver.node import Settings

PATIENCE = 45.0
"""Seconds for one part."""
PACKAGE = "gpu-dra-driver"


async def make_bundle(
    settings: Settings, *, scope: str, node_name: str, patience: float = PATIENCE
) -> tuple[str, bytes, Mapping[str, str]]:
    """The archive's name, its content, and what is missing in it. Never raises for what cannot be read."""
    now = time.time()
    node, cluster = what_there_is(settings, scope)
    parts: dict[str, Awaitable[Found]] = {"versions and settings": _versions(settings)}
    found = Found()
    if node:
        parts |= {
            "status.json and metrics.txt": node_parts.read_pages(settings),
            "doctor-node.txt": node_parts.read_findings(settings, node_name),
            "hardware.json, config.json and offered.json": node_parts.read_hardware(settings),
            "records": in_daemon_thread(lambda: node_parts.read_ledger(settings)),
            "cdi": in_daemon_thread(lambda: node_parts.read_specs(settings)),
            "files.txt": in_daemon_thread(lambda: node_parts.read_directories(settings)),
            "nvidia-version.txt": in_daemon_thread(lambda: node_parts.read_nvidia_version(settings)),
            "logs": read_logs(settings),
        }
    else:
        found.missing["the node"] = "it was not looked at: run this in the driver's pod, or on the node (--scope both)"
    if cluster:
        parts["cluster"] = read_objects(settings, node_name)
    else:
        found.missing["cluster"] = "it was not looked at: no credentials were given (--kubeconfig, --scope both)"
    for one in await asyncio.gather(*(patiently(what, part, patience) for what, part in parts.items())):
        found.update(one)
    top = f"gpu-dra-bundle-{node_name or 'cluster'}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    known = known_secrets(
        environment=os.environ, kubeconfig=settings.kubeconfig, tokens=[Path(SERVICE_ACCOUNT) / "token"]
    )
    return f"{top}.tar.gz", pack(found, top=top, known=known, now=now), found.missing


async def patiently(what: str, part: Awaitable[Found], patience: float) -> Found:
    """What a part finds within so many seconds; its failure is something that is missing."""
    try:
        async with asyncio.timeout(patience):
            return await part
    except TimeoutError:
        return Found(missing={what: f"not read within {patience:g} s"})
    except Exception as error:  # noqa: BLE001 - what is wrong with one part is what the others are wanted for
        return Found(missing={what: f"{type(error).__name__}: {error}"})


async def _versions(settings: Settings) -> Found:
    found = Found()
    found.add_json("settings.json", settings.model_dump(mode="json"))
    found.add_json(
        "versions.json",
        {
            PACKAGE: metadata.version(PACKAGE),
            "python": platform.python_version(),
            "kernel": f"{platform.release()} {platform.version()}",
            "machine": platform.machine(),
            "libc": " ".join(platform.libc_ver()),
            "libraries": _libraries(),
        },
    )
    return found


def _libraries() -> dict[str, str]:
    """The versions of what the package needs."""
    found = {}
    for requirement in metadata.requires(PACKAGE) or ():
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
    return found
