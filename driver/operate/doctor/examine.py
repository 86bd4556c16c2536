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


async def examine(settings: Settings, *, scope: str, node_name: str) -> dict[str, list[Finding]]:
    """Findings by what was looked at; ``scope`` is ``node``, ``cluster``, ``both``, or ``auto`` for what there is."""
    sections: dict[str, list[Finding]] = {}
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    # Whoever brings a kubeconfig sits at a desk, even where that is a node as well: its settings are in the pod.
    desk = settings.kubeconfig is not None and not in_pod
    if scope in {"node", "both"} or (scope == "auto" and not desk and settings.kubelet_plugins_dir.is_dir()):
        state = await read_node(settings, node_name=node_name, boot_id=read_boot_id())
        sections[f"This node{f' ({node_name})' if node_name else ''}"] = node_checks.judge(state)
    if scope in {"cluster", "both"} or (scope == "auto" and (desk or in_pod)):
        title = f"The cluster{f', node {node_name}' if node_name else ''}"
        try:
            async with await Api.connect(settings.kubeconfig, max_body=LARGE_BODY) as api:
                seen = await read_cluster(api, settings, node_name=node_name)
        except ConfigError as error:
            sections[title] = [problem("version", str(error), "give --kubeconfig, or run it in the driver's pod")]
        else:
            checks = (*cluster_checks.CHECKS, *workload_checks.CHECKS) if seen.version else (cluster_checks.version,)
            sections[title] = [finding for check in checks for finding in check(seen)]
    return sections
