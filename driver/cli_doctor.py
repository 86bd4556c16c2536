"""``gpu-dra doctor``: what is wrong, in plain words."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from driver.cli_options import NO_NODE, read_settings, settings_options

if TYPE_CHECKING:
    from driver.config import Settings
    from driver.doctor.findings import Finding

OPTIONS = (
    "node_name",
    "driver_name",
    "kubeconfig",
    "kubelet_plugins_dir",
    "kubelet_registry_dir",
    "cdi_root",
    "devices",
    "driver_root",
    "container_driver_root",
    "sysfs_root",
    "proc_root",
    "dev_root",
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
    sections = asyncio.run(_examine(settings, scope=scope, node_name=node_name))
    if not sections:
        raise click.UsageError(
            f"nothing to look at: {settings.kubelet_plugins_dir} does not exist here, and there are no credentials for "
            "a cluster (--kubeconfig)"
        )
    from driver.doctor.findings import exit_status
    from driver.doctor.report import as_json, as_text

    click.echo(as_json(sections) if output == "json" else as_text(sections))
    sys.exit(exit_status(finding for findings in sections.values() for finding in findings))


async def _examine(settings: Settings, *, scope: str, node_name: str) -> dict[str, list[Finding]]:
    from driver.devices.open import read_boot_id
    from driver.doctor import cluster, cluster_checks, node, node_checks, workload_checks
    from driver.doctor.findings import problem
    from driver.kube.client import LARGE_BODY, Api, ConfigError

    sections: dict[str, list[Finding]] = {}
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    # Whoever brings a kubeconfig sits at a desk, even where that is a node as well: its settings are in the pod.
    desk = settings.kubeconfig is not None and not in_pod
    if scope in {"node", "both"} or (scope == "auto" and not desk and settings.kubelet_plugins_dir.is_dir()):
        state = await node.look(settings, node_name=node_name, boot_id=read_boot_id())
        sections[f"This node{f' ({node_name})' if node_name else ''}"] = node_checks.judge(state)
    if scope in {"cluster", "both"} or (scope == "auto" and (desk or in_pod)):
        title = f"The cluster{f', node {node_name}' if node_name else ''}"
        try:
            async with await Api.connect(settings.kubeconfig, max_body=LARGE_BODY) as api:
                seen = await cluster.look(api, settings, node_name=node_name)
        except ConfigError as error:
            sections[title] = [problem("version", str(error), "give --kubeconfig, or run it in the driver's pod")]
        else:
            checks = (*cluster_checks.CHECKS, *workload_checks.CHECKS) if seen.version else (cluster_checks.version,)
            sections[title] = [finding for check in checks for finding in check(seen)]
    return sections
