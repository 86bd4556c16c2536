"""``gpu-dra top``: who has which GPUs of a cluster, on any desk with a kubeconfig."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from driver.base.signals import ToldToEndError, until_told
from driver.cli.flags import NO_NODE, read_settings, settings_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rich.live import Live

    from driver.cluster import Follow, View
    from driver.kube import Api
    from driver.node import Settings

    _Show = Callable[[Follow, Api, View], Awaitable[None]]

REFRESH = 5.0
"""Seconds after which what is shown is written again: times go on where nothing happens."""
MIN_WIDTH = 60
DESK = Path("~/.kube/config")


@click.command()
@click.option("--node", default="", metavar="NAME", help="This node only.")
@click.option("-n", "--namespace", default="", metavar="NAME", help="GPUs on which this namespace has something.")
@click.option("-w", "--watch", is_flag=True, help="Go on, and show what changes.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option("--web", is_flag=True, help="As a page that updates itself, for browsers on this machine, until Ctrl-C.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8470,
    show_default=True,
    metavar="PORT",
    help="Of the page; 0 takes any that is free.",
)
@click.option("--context", default="", metavar="NAME", help="Of the kubeconfig; the current one without it.")
@settings_options(("driver_name", "kubeconfig"))
def top(
    *, node: str, namespace: str, watch: bool, output: str, web: bool, port: int, context: str, **given: Any
) -> None:
    """Say who has which GPUs of a cluster, and what is free.

    "kubectl gpu" is the same. Each GPU is a bar with a cell for each memory slice: a letter is a part that is held,
    "." is free, "x" is sick.

    Needs to list and watch ResourceSlices, ResourceClaims, DeviceTaintRules and Pods. Without Pods or rules it shows
    the rest; with --namespace the claims of that namespace are enough. The page of --web shows Events, too, where they
    may be listed.

    Without --kubeconfig it takes ~/.kube/config, or in a pod the pod's ServiceAccount.

    Exit status: 0 the cluster was read, 1 it could not be read, 2 wrong usage.
    """
    if web and (watch or output == "json"):
        raise click.UsageError("--web is a page of its own: without --watch and without -o json")
    files = [name for name in str(given.get("kubeconfig") or "").split(os.pathsep) if name]
    found = next((name for name in files if Path(name).expanduser().is_file()), files[0] if files else "")
    if not found and "KUBERNETES_SERVICE_HOST" not in os.environ:
        found = str(DESK)
    given["kubeconfig"] = str(Path(found).expanduser()) if found else None
    settings = read_settings({**given, "node_name": NO_NODE})
    logging.getLogger("driver.kube").setLevel(logging.CRITICAL)  # what goes wrong is shown with the rest
    show: _Show
    if web:
        show = partial(_web, namespace=namespace, port=port)
    else:
        table = _Json(namespace, watch=watch) if output == "json" else _Table(namespace, watch=watch)
        show = partial(_written, table, watch=watch)
    try:
        asyncio.run(until_told(_top(settings, show, context=context, node=node, namespace=namespace)))
    except ToldToEndError as told:
        if not (watch or web):  # of what goes on it is the end that is meant
            sys.exit(128 + told.number)


async def _top(settings: Settings, show: _Show, *, context: str, node: str, namespace: str) -> None:
    from driver.cluster import CLAIMS, SLICES, Follow
    from driver.kube import LARGE_BODY, Api, ConfigError

    try:
        api = await Api.connect(settings.kubeconfig, context=context, max_body=LARGE_BODY)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    async with api:
        # Those who may not read all claims may often read their own.
        for inside in ("", namespace) if namespace else ("",):
            follow = Follow(api, driver=settings.driver_name, node=node, namespace=inside)
            task = asyncio.create_task(follow.run())
            try:
                view = await follow.after(0)
                refused = view.missing.get(CLAIMS)
                if refused is not None and refused.status == 403 and inside != namespace:
                    continue
                if SLICES in view.missing:
                    raise click.ClickException(str(view.missing[SLICES]))
                await show(follow, api, view)
                return
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def _written(table: _Json | _Table, follow: Follow, _: Api, view: View, *, watch: bool) -> None:
    with table:
        table.view(view)
        while watch:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFRESH):
                    view = await follow.after(view.revision)
            table.view(view)


async def _web(follow: Follow, api: Api, _: View, *, namespace: str, port: int) -> None:
    from driver.cluster import Page, serving

    page = Page(follow, api, title=api.host, namespace=namespace)
    try:
        async with serving(page, port=port) as address:
            click.echo(f"{address} shows the GPUs of {api.host} until Ctrl-C")
            await asyncio.get_running_loop().create_future()
    except OSError as error:
        raise click.ClickException(
            f"port {port}: {os.strerror(error.errno or 0).lower()}; --port names another, 0 any"
        ) from None


class _Json:
    """One document to a line where there are several."""

    def __init__(self, namespace: str, *, watch: bool) -> None:
        self._namespace = namespace
        self._indent = None if watch else 2
        self._revision = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def view(self, view: View) -> None:
        """Show it, if it is new."""
        from driver.cluster import as_dict

        if view.revision > self._revision:
            self._revision = view.revision
            document = as_dict(view, now=datetime.now(UTC), namespace=self._namespace)
            click.echo(json.dumps(document, indent=self._indent))


class _Table:
    """Text that is written once, again and again one below the other, or on a terminal's whole screen."""

    def __init__(self, namespace: str, *, watch: bool) -> None:
        self._namespace = namespace
        self._revision = 0
        self._live = _live() if watch and sys.stdout.isatty() else None

    def __enter__(self) -> None:
        if self._live is not None:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def view(self, view: View) -> None:
        """Show it; the same again only where it takes the place of what was there."""
        from driver.cluster import as_text

        if self._live is None and view.revision == self._revision:
            return
        text = as_text(
            view,
            now=datetime.now(UTC),
            namespace=self._namespace,
            width=max(MIN_WIDTH, shutil.get_terminal_size().columns),
            ellipsis=_ellipsis(),
            summary_first=self._live is not None,
        )
        if self._live is None:
            click.echo(f"\n{text}" if self._revision else text)
        else:
            from rich.text import Text

            self._live.update(Text.from_ansi(text, no_wrap=True), refresh=True)
        self._revision = view.revision


def _live() -> Live:
    try:
        from rich.live import Live
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error}; --watch needs one more package: pip install rich") from None
    return Live(auto_refresh=False, screen=True, vertical_overflow="crop")


def _ellipsis() -> str:
    try:
        "…".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "..."
    return "…"
