"""The order of an examination: what there is to look at, and what is asked of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from driver.hardware import read_boot_id
from driver.kube import LARGE_BODY, Api, ConfigError
from driver.operate.doctor import cluster_checks, node_checks, workload_checks
from driver.operate.doctor.findings import problem
from driver.operate.doctor.read_cluster import read_cluster
from driver.operate.doctor.read_node import read_node

if TYPE_CHECKING:
    from driver.node import Settings
    from driver.operate.doctor.findings import Finding
    from driver.operate.doctor.state import ClusterState


def what_there_is(settings: Settings, scope: str) -> tuple[bool, bool]:
    """Whether to look at this machine as a node, and at the cluster; ``scope`` as for ``examine``."""
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    # Whoever brings a kubeconfig sits at a desk, even where that is a node as well: its settings are in the pod.
    desk = settings.kubeconfig is not None and not in_pod
    return (
        scope in {"node", "both"} or (scope == "auto" and not desk and settings.kubelet_plugins_dir.is_dir()),
        scope in {"cluster", "both"} or (scope == "auto" and (desk or in_pod)),
    )


async def examine_node(settings: Settings, *, node_name: str) -> dict[str, list[Finding]]:
    """Findings about this machine as a node, below their title."""
    state = await read_node(settings, node_name=node_name, boot_id=read_boot_id())
    return {f"This node{f' ({node_name})' if node_name else ''}": node_checks.judge(state)}


def judge_cluster(seen: ClusterState) -> dict[str, list[Finding]]:
    """Findings about a cluster that was looked at, below their title."""
    checks = (*cluster_checks.CHECKS, *workload_checks.CHECKS) if seen.version else (cluster_checks.version,)
    return {_cluster_title(seen.node_name): [finding for check in checks for finding in check(seen)]}


def _cluster_title(node_name: str) -> str:
    return f"The cluster{f', node {node_name}' if node_name else ''}"


async def examine(settings: Settings, *, scope: str, node_name: str) -> dict[str, list[Finding]]:
    """Findings by what was looked at; ``scope`` is ``node``, ``cluster``, ``both``, or ``auto`` for what there is."""
    sections: dict[str, list[Finding]] = {}
    node, cluster = what_there_is(settings, scope)
    if node:
        sections |= await examine_node(settings, node_name=node_name)
    if cluster:
        try:
            async with await Api.connect(settings.kubeconfig, max_body=LARGE_BODY) as api:
                sections |= judge_cluster(await read_cluster(api, settings, node_name=node_name))
        except ConfigError as error:
            remedy = "give --kubeconfig, or run it in the driver's pod"
            sections[_cluster_title(node_name)] = [problem("version", str(error), remedy)]
    return sections
