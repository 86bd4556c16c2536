"""``gpu-dra slices`` and ``gpu-dra explain``: what a node would publish, and where it has room."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import click

from driver.cli.flags import check_devices, read_settings, settings_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from driver.cluster import Rule
    from driver.node import Settings
    from driver.operate import Room, View

OPTIONS = (
    "node_name",
    "driver_name",
    "devices",
    "driver_root",
    "container_driver_root",
    "sysfs_root",
    "proc_root",
    "dev_root",
    "partitioning",
    "shares",
    "shares_memory_reserve",
    "config",
    "kubelet_plugins_dir",
)


@click.command()
@settings_options(OPTIONS)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["yaml", "table"]),
    default="yaml",
    show_default=True,
    help="ResourceSlices as they would be sent, or a table for people.",
)
@click.option(
    "--template",
    is_flag=True,
    help="Of a new node like this one, for autoscalers: nothing is held or sick, and UUIDs are placeholders.",
)
def slices(*, output: str, template: bool, **given: Any) -> None:
    """Print what this node would publish.

    Its devices, whole, cut and shared as the settings say; nothing is changed.
    """
    view = _read_node(given, template=template)
    documents = view.documents()
    if output == "yaml":
        import yaml

        plain = json.loads(json.dumps(documents))  # devices have parts in common, which YAML would refer to by anchors
        click.echo(yaml.safe_dump_all(plain, sort_keys=False, width=120, default_flow_style=None), nl=False)
    else:
        _print_table(view, documents)
    _say_what_is_not_offered(view)


@click.command()
@click.argument("profile", required=False)
@click.option("--on", "gpu", metavar="GPU", help="Only this GPU, by name or UUID.")
@settings_options((*OPTIONS, "kubeconfig"))
def explain(*, profile: str | None, gpu: str | None, **given: Any) -> None:
    """Say where PROFILE has room, and what is in its way.

    PROFILE is for example 1g.10gb, or gpu for whole ones; all without it. Claims that have been allocated, but that
    the kubelet has not prepared yet, are not known to a node. Rules by which an administrator has tainted devices are
    read in the driver's pod, or with --kubeconfig.
    """
    from driver.operate import find_room, profiles

    view = _read_node(given)
    gpus = {name: found for found in view.inventory.gpus for name in (found.name, found.uuid)}
    if gpu is not None and gpu not in gpus:
        raise click.UsageError(f"--on {gpu}: no such GPU; there are {', '.join(g.name for g in view.inventory.gpus)}")
    published = _published(view.documents())
    taints = {name: device.get("taints", ()) for name, device in published.items()}
    rooms = find_room(view.catalogue.devices, profile, view.records, taints=taints, rules=_read_rules(view.settings))
    if not rooms:
        known = ", ".join(profiles(view.catalogue.devices)) or "nothing"
        raise click.UsageError(
            f"{profile or 'a GPU'} is not offered on this node, which offers {known}; see --partitioning"
        )
    for found in view.inventory.gpus:
        here = [room for room in rooms if room.device.gpu.uuid == found.uuid]
        if not here or (gpu is not None and gpus[gpu].uuid != found.uuid):
            continue
        free = sum(not room.blockers for room in here)
        click.echo(f"{found.name}: {free} of {len(here)} free")
        for room in here:
            click.echo(f"  {room.device.name}  {'; '.join(room.blockers) or _free(room)}")
    _say_what_is_not_offered(view)


def _read_rules(settings: Settings) -> tuple[Rule, ...]:
    """What an administrator has tainted, where there is a cluster to ask; what it refuses is said."""
    from driver.cluster import list_rules
    from driver.kube import Api, ApiError, ConfigError

    async def read() -> tuple[Rule, ...]:
        async with await Api.connect(settings.kubeconfig) as api:
            return await list_rules(api, driver=settings.driver_name, pool=settings.node_name)

    if settings.kubeconfig is None and "KUBERNETES_SERVICE_HOST" not in os.environ:
        return ()
    try:
        return asyncio.run(read())
    except (ApiError, ConfigError) as error:
        click.echo(f"gpu-dra: what an administrator's DeviceTaintRules taint is not known: {error}", err=True)
        return ()


def _say_what_is_not_offered(view: View) -> None:
    for uuid, problem in view.catalogue.problems.items():
        if uuid.startswith("gpus["):
            click.echo(f"gpu-dra: {uuid} of the config file changes nothing: {problem}", err=True)
        else:
            click.echo(f"gpu-dra: {_gpu_name(view, uuid)} ({uuid}) is not offered as asked for: {problem}", err=True)
    for uuid, why in view.catalogue.pending.items():
        click.echo(f"gpu-dra: {_gpu_name(view, uuid)} ({uuid}) is not offered as the settings say: {why}", err=True)


def _free(room: Room) -> str:
    left = [f"{rest} of {total} {name}" for name, (rest, total) in room.left.items() if name in {"shares", "memory"}]
    return f"free: {', '.join(left)}" if left else "free"


def _read_node(given: dict[str, Any], *, template: bool = False) -> View:
    """Read the node, changing nothing. Raises ClickException in one line."""
    from driver.hardware import BackendError
    from driver.node import NodeConfigError
    from driver.operate import view_node

    check_devices(given["devices"])
    settings = read_settings({**given, "node_name": given.get("node_name") or socket.gethostname().lower()})
    try:
        return view_node(settings, warn=lambda text: click.echo(f"gpu-dra: {text}", err=True), template=template)
    except NodeConfigError as error:
        raise click.UsageError(str(error)) from None
    except BackendError as error:
        raise click.ClickException(str(error)) from None


def _published(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {device["name"]: device for document in documents for device in document["spec"].get("devices", ())}


def _print_table(view: View, documents: list[dict[str, Any]]) -> None:
    from driver.operate import taint_text

    published = _published(documents)
    rows = [("DEVICE", "TYPE", "PROFILE", "SLICES", "MEMORY", "SHARES", "TAINTS")]
    for offered in view.catalogue.devices:
        device = published[offered.name]
        taints = [taint_text(taint).removeprefix(f"{view.settings.driver_name}/") for taint in device.get("taints", ())]
        rows.append(
            (
                offered.name,
                offered.type,
                offered.profile.name if offered.profile else "",
                _span(offered.slots) if offered.gpu.memory_slices else "",
                device.get("capacity", {}).get("memory", {}).get("value", ""),
                _shares(device),
                ", ".join(taints),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _shares(device: Mapping[str, Any]) -> str:
    if not device.get("allowMultipleAllocations"):
        return ""
    count = device.get("capacity", {}).get("shares")
    return str(count["value"]) if count else "any"


def _span(slots: frozenset[int]) -> str:
    first, last = min(slots), max(slots)
    return str(first) if first == last else f"{first}-{last}"


def _gpu_name(view: View, uuid: str) -> str:
    return next((gpu.name for gpu in view.inventory.gpus if gpu.uuid == uuid), "GPU")
