"""``gpu-dra drain-check`` and ``gpu-dra cleanup``: the end of a driver on a node."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from driver.cli.flags import NO_NODE, OF_A_NODE, read_settings, settings_options

if TYPE_CHECKING:
    from driver.kube import Api
    from driver.node import Settings
    from driver.operate import Drained, Holder, InUse, Swept


DRAIN_OPTIONS = ("driver_name", "pod_uid", "kubeconfig", "kubelet_plugins_dir", "kubelet_registry_dir")


@click.command("drain-check")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=300,
    show_default=True,
    metavar="SECONDS",
    envvar="DRAIN_TIMEOUT",
    help="How long to wait; 0 looks once.",
)
@click.option("--whole-node", is_flag=True, help="Wait even while another instance of the driver serves the node.")
@settings_options(DRAIN_OPTIONS)
def drain_check(*, timeout: float, whole_node: bool, **given: Any) -> None:
    """Wait until no claim is prepared on this node.

    So the driver is the last to go. Needs the driver's directory only; names the pods too where there are credentials
    for the API server. As a preStop hook (with POD_UID set) it ends at once when another instance of this driver serves
    the node, as during an upgrade, and when this instance does not answer its sockets, as before a restart by the
    liveness probe.

    Exit status: 0 this instance is not needed any more, 1 time is up and claims are still prepared, 2 wrong usage,
    3 the records cannot be read.
    """
    settings = read_settings({**given, "node_name": NO_NODE})
    try:
        drained = asyncio.run(_drain(settings, timeout=timeout, whole_node=whole_node))
    except OSError as error:
        click.echo(f"gpu-dra: the records cannot be read: {error}", err=True)
        sys.exit(3)
    click.echo(_describe(drained, timeout))
    sys.exit(1 if drained.outcome == "held" else 0)


async def _drain(settings: Settings, *, timeout: float, whole_node: bool) -> Drained:
    from driver.hardware import read_boot_id
    from driver.operate import wait_until_drained

    lookups: list[asyncio.Task[None]] = []

    def progress(now: tuple[Holder, ...]) -> None:
        # Waits for nobody: what a slow API server says about pods is not worth a second of a drain.
        for task in lookups:
            task.cancel()
        lookups[:] = [asyncio.ensure_future(_say_who_holds(settings, now))]

    drained = await wait_until_drained(
        settings, boot_id=read_boot_id(), timeout=timeout, whole_node=whole_node, progress=progress
    )
    await asyncio.gather(*lookups, return_exceptions=True)
    return drained


async def _say_who_holds(settings: Settings, now: tuple[Holder, ...]) -> None:
    """Print one line for each claim, with its pods where the API server can be asked."""
    from driver.kube import ConfigError
    from driver.operate import users

    try:
        api = await _connect(settings)
    except ConfigError as error:
        click.echo(f"gpu-dra: pods are not named: {error}", err=True)
        api = None
    if api is None:
        for holder in now:
            click.echo(f"  {holder}")
        return
    async with api:
        for holder, who in zip(now, await asyncio.gather(*(users(api, holder) for holder in now)), strict=True):
            click.echo(f"  {holder}, {who}")


async def _connect(settings: Settings) -> Api | None:
    """The API server, None where there are no credentials."""
    from driver.kube import Api

    if settings.kubeconfig is None and "KUBERNETES_SERVICE_HOST" not in os.environ:
        return None
    return await Api.connect(settings.kubeconfig)


def _describe(drained: Drained, timeout: float) -> str:
    claims = f"{len(drained.holders)} claim{'s are' if len(drained.holders) != 1 else ' is'}"
    if drained.outcome == "clear":
        return "no claim is prepared on this node"
    if drained.outcome == "relieved" and drained.relief is not None:
        return f"{claims} prepared; another instance serves the node ({drained.relief.socket}), this one can go"
    if drained.outcome == "useless":
        return f"{claims} prepared; this instance does not answer the kubelet, so it is not waited for"
    return f"{claims} still prepared after {timeout:g} s; their pods cannot end without the driver"


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option(
    "--force",
    is_flag=True,
    help="Go on although claims are prepared or an instance runs, and where only a file's name is ours.",
)
@click.option("--cluster", is_flag=True, help="Delete this node's ResourceSlices too; needs --node-name.")
@settings_options(OF_A_NODE)
def cleanup(*, dry_run: bool, force: bool, cluster: bool, **given: Any) -> None:
    """Remove everything that the driver has left on this node.

    Partitions, records, CDI specs, sockets and its directory; give the settings that gpu-dra run had. Deletes only what
    is the driver's by name, type and content, and follows no link out of its directories. What was made for claims
    (partitions, MPS daemons) is undone first.

    Exit status: 0 nothing of the driver is left, 1 something is in use or was left, and is named; 2 wrong usage.
    """
    settings = read_settings({**given, "node_name": given.get("node_name") or NO_NODE})
    if cluster and settings.node_name == NO_NODE:
        raise click.UsageError("--cluster needs --node-name (NODE_NAME): whose ResourceSlices?")
    sys.exit(asyncio.run(_clean(settings, dry_run=dry_run, force=force, cluster=cluster)))


async def _clean(settings: Settings, *, dry_run: bool, force: bool, cluster: bool) -> int:
    from driver.hardware import open_backend, read_boot_id
    from driver.operate import in_use, sweep, undo

    boot_id = read_boot_id()
    try:
        used = await in_use(settings, boot_id=boot_id)
    except OSError as error:
        raise click.ClickException(f"the records cannot be read: {error}") from None
    _say_in_use(used)
    if used and not force:
        click.echo("nothing was removed; end these first (gpu-dra drain-check waits), or use --force", err=True)
        if not dry_run:
            return 1
    undone: tuple[str, ...] = ()
    if not dry_run:
        undone = await undo(
            settings,
            boot_id=boot_id,
            open_backend=lambda: open_backend(
                settings.devices, settings.plugin_dir, boot_id=boot_id, host=settings.host
            ),
        )
        for problem in undone:
            click.echo(f"not undone: {problem}", err=True)
        if undone and not force:
            click.echo("the rest stays, so that it can be undone later; --force removes it all the same", err=True)
            return 1
    swept = sweep(settings, remove=not dry_run, force=force, others=used.others)
    _say_swept(swept, dry_run=dry_run)
    left = bool(swept.left or undone or (used and not force))
    if cluster:
        left = not await _clean_cluster(settings, dry_run=dry_run) or left
    if not left:
        click.echo("nothing of the driver would be left" if dry_run else "nothing of the driver is left on this node")
    return 1 if left else 0


async def _clean_cluster(settings: Settings, *, dry_run: bool) -> bool:
    """Whether our ResourceSlices of this node are gone."""
    from driver.kube import Api, ApiError, ConfigError
    from driver.operate import delete_slice, own_slices

    try:
        async with await Api.connect(settings.kubeconfig) as api:
            for found in await own_slices(api, settings):
                if not dry_run:
                    await delete_slice(api, found)
                click.echo(f"{'would delete' if dry_run else 'deleted'} ResourceSlice {found['name']}")
    except (ApiError, ConfigError) as error:
        click.echo(f"ResourceSlices were not deleted: {error}", err=True)
        return False
    return True


def _say_in_use(used: InUse) -> None:
    for instance in used.instances:
        click.echo(f"in use: an instance of the driver listens on {instance.socket}", err=True)
    for holder in used.holders:
        click.echo(f"in use: {holder}", err=True)
    for other in used.others:
        click.echo(f"not ours: another driver is registered as {other.name} on {other.socket}", err=True)


def _say_swept(swept: Swept, *, dry_run: bool) -> None:
    for item in swept.items:
        click.echo(f"{'would remove' if dry_run else 'removed'} {item.path} ({item.what})")
    for left in swept.left:
        click.echo(f"left: {left.path}: {left.why}", err=True)
