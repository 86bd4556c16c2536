"""``gpu-dra doctor``: what is wrong, in plain words."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from driver.cli.flags import NO_NODE, OF_A_NODE, read_settings, settings_options

OPTIONS = (
    *OF_A_NODE,
    "partitioning",
    "shares",
    "device_status",
    "http_port",
)


@click.command()
@click.option(
    "--scope",
    type=click.Choice(["auto", "node", "cluster", "both"]),
    default="auto",
    show_default=True,
    help="What to look at: this machine as a node, the cluster through its API, both, or what there is.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@settings_options(OPTIONS)
def doctor(*, scope: str, output: str, **given: Any) -> None:
    """Say what is wrong with this node or cluster, and what to do.

    Changes nothing. In the driver's pod it looks at the node and, with the pod's own credentials, at the cluster;
    elsewhere, with a kubeconfig, at the cluster, all of it or --node-name; on a node without credentials at the node.
    Give the settings that gpu-dra run has: they decide what is needed.

    Exit status: 0 nothing is wrong, 1 warnings, 2 problems (or wrong usage).
    """
    node_name = given.get("node_name") or ""
    settings = read_settings({**given, "node_name": node_name or NO_NODE})
    from driver.operate import as_json, as_text, examine, exit_status

    sections = asyncio.run(examine(settings, scope=scope, node_name=node_name))
    if not sections:
        raise click.UsageError(
            f"nothing to look at: {settings.kubelet_plugins_dir} does not exist here, and there are no credentials for "
            "a cluster (--kubeconfig)"
        )
    click.echo(as_json(sections) if output == "json" else as_text(sections))
    sys.exit(exit_status(finding for findings in sections.values() for finding in findings))
