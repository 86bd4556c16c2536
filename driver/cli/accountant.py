"""``gpu-dra accountant``: GPU hours of namespaces, counted and kept in their ResourceQuotas."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Literal

import click


@click.command()
@click.option(
    "--driver-name",
    envvar="DRIVER_NAME",
    show_envvar=True,
    default="gpu.nvidia.com",
    show_default=True,
    help="The driver whose devices count.",
)
@click.option(
    "--kubeconfig",
    envvar="KUBECONFIG",
    show_envvar=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Kubeconfig file; the pod's ServiceAccount without it.",
)
@click.option(
    "--namespace",
    envvar="POD_NAMESPACE",
    show_envvar=True,
    default="default",
    show_default=True,
    help="Where the Lease is by which one of several instances counts.",
)
@click.option(
    "--lease",
    envvar="LEASE",
    show_envvar=True,
    default="gpu-dra-accountant",
    show_default=True,
    help="Name of the Lease.",
)
@click.option(
    "--identity",
    envvar="POD_NAME",
    show_envvar=True,
    default=socket.gethostname,
    show_default="the host's name",
    help="Our name in the Lease: another for each instance.",
)
@click.option(
    "--when-spent",
    envvar="WHEN_SPENT",
    show_envvar=True,
    type=click.Choice(["refuse", "evict"]),
    default="refuse",
    show_default=True,
    help="What becomes of pods that hold GPUs when the hours are used up: nothing, or eviction, the oldest claim last.",
)
@click.option(
    "--grace",
    envvar="GRACE",
    show_envvar=True,
    type=click.IntRange(min=0),
    metavar="SECONDS",
    default=600,
    show_default=True,
    help="Time between the warning and the first eviction.",
)
@click.option(
    "--http-port",
    envvar="HTTP_PORT",
    show_envvar=True,
    type=click.IntRange(0, 65535),
    metavar="PORT",
    default=8080,
    show_default=True,
    help="TCP port of /metrics, /healthz, /readyz and /status; 0 switches it off.",
)
@click.option(
    "--log-level",
    envvar="LOG_LEVEL",
    show_envvar=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What is logged.",
)
@click.option(
    "--log-format",
    envvar="LOG_FORMAT",
    show_envvar=True,
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Log lines for people or for machines.",
)
def accountant(
    *,
    driver_name: str,
    kubeconfig: Path | None,
    namespace: str,
    lease: str,
    identity: str,
    when_spent: Literal["refuse", "evict"],
    grace: int,
    http_port: int,
    log_level: str,
    log_format: str,
) -> None:
    """Count the GPU hours of namespaces that have a budget.

    A budget is a ResourceQuota with requests.resource.k8s.io/gpu-hours or requests.resource.k8s.io/gpu. Writes its
    status, and an account from which the chart's admission policy refuses claims. Runs until SIGTERM.

    Exit status: 0 stopped, 1 failed, 2 wrong usage.
    """
    from driver.cluster.accountant import Policy, Settings, run_accountant

    policy = Policy(driver=driver_name, evict=when_spent == "evict", grace=grace)
    settings = Settings(
        policy=policy,
        kubeconfig=kubeconfig or None,
        lease_namespace=namespace,
        lease_name=lease,
        identity=identity,
        http_port=http_port,
        log_level=log_level,
        log_format=log_format,
    )
    sys.exit(run_accountant(settings))
