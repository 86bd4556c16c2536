"""What a node says of itself, from its own file system."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from driver.base import files
from driver.base.threads import in_daemon_thread
from driver.cdi import SpecDirectory
from driver.claims import encode
from driver.operate.bundle.archive import Found
from driver.operate.bundle.keep import SPEC, kept
from driver.operate.doctor.examine import examine_node
from driver.operate.doctor.render import as_plain_text
from driver.operate.node_view import read_records, view_node
from driver.operate.page import PageError, read_page, read_status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from driver.claims import Record
    from driver.node import Settings

MOST = 2000
"""Records, specs, or lines of a directory."""


async def read_pages(settings: Settings) -> Found:
    """The status page and the metrics of the driver that runs."""
    found = Found()
    try:
        found.add_json("status.json", await read_status(settings))
        metrics = await read_page(settings, "/metrics")
    except PageError as error:
        found.missing["status.json and metrics.txt"] = str(error)
    else:
        found.files["metrics.txt"] = metrics
    return found


async def read_findings(settings: Settings, node_name: str) -> Found:
    """What the doctor finds on the node."""
    return Found(files={"doctor-node.txt": as_plain_text(await examine_node(settings, node_name=node_name))})


async def read_hardware(settings: Settings) -> Found:
    """What NVML (or whatever ``devices`` says) tells, and what the node would offer of it."""
    found = Found()
    # Of a record that cannot be read the records' part says so.
    view = await in_daemon_thread(lambda: view_node(settings, warn=lambda _: None))
    found.add_json("hardware.json", dataclasses.asdict(view.inventory))
    found.add_json("config.json", view.config.model_dump(mode="json"))
    found.add_json(
        "offered.json",
        {
            "problems": dict(view.catalogue.problems),
            "pending": dict(view.catalogue.pending),
            "conditions": {uuid: [dataclasses.asdict(one) for one in each] for uuid, each in view.conditions.items()},
            "slices": view.documents(),
        },
    )
    return found


def read_ledger(settings: Settings) -> Found:
    """The records of claims, as far as a record's fields are known."""
    found = Found()
    damaged: list[str] = []
    for record in read_records(settings.plugin_dir, warn=damaged.append)[:MOST]:
        found.files[f"records/{record.claim.uid}.json"] = encode(_known(record)).decode() + "\n"
    if damaged:  # why would quote what is in them
        found.missing["records"] = f"{len(damaged)} cannot be read; the doctor says which"
    return found


def _known(record: Record) -> Record:
    devices = tuple(dataclasses.replace(device, unknown={}) for device in record.devices)
    return dataclasses.replace(record, unknown={}, devices=devices)


def read_specs(settings: Settings) -> Found:
    """Our CDI specs, with the names of variables instead of their values."""
    found = Found()
    directory = SpecDirectory(settings.cdi_root, driver=settings.driver_name)
    for uid in sorted(directory.claim_uids())[:MOST]:
        path = directory.path(uid)
        try:
            found.add_json(f"cdi/{path.name}", kept(json.loads(files.read(os.fspath(path))), SPEC))
        except FileNotFoundError:
            continue  # its claim has ended meanwhile
        except (OSError, ValueError) as error:
            found.missing[f"cdi/{path.name}"] = type(error).__name__
    return found


def read_directories(settings: Settings) -> Found:
    """The files in the driver's directories: names, owners, modes, sizes, times."""
    lines: list[str] = []
    for directory in (settings.plugin_dir, settings.kubelet_registry_dir, settings.cdi_root):
        lines += _listing(directory)
    return Found(files={"files.txt": "\n".join(lines) + "\n"})


def _listing(directory: Path) -> Iterator[str]:
    yield _line(directory)
    below = directory.rglob("*")
    for path, _ in zip(below, range(MOST), strict=False):
        yield _line(path)
    if next(below, None) is not None:
        yield f"and more than these {MOST} in {directory}"


def _line(path: Path) -> str:
    try:
        status = path.lstat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    time = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="milliseconds")
    mode = stat.filemode(status.st_mode)
    return f"{mode} {status.st_nlink} {status.st_uid}:{status.st_gid} {status.st_size:>8} {time} {path}"


def read_nvidia_version(settings: Settings) -> Found:
    """What NVIDIA's kernel module says of itself."""
    path = settings.proc_root / "driver/nvidia/version"
    return Found(files={"nvidia-version.txt": files.read(os.fspath(path)).decode(errors="replace")})
