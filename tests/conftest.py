"""Options of the test suite: the e2e tests run on the embedded cluster, or on a real one."""

from __future__ import annotations

import os

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two more than there are processors: the tests of the driver's process wait about as much as they work."""
    return len(os.sched_getaffinity(0)) + 2


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("e2e", "e2e tests on a real cluster, where the driver runs already")
    group.addoption("--kubeconfig", metavar="FILE", help="the cluster; without it the embedded one is used")
    group.addoption("--image", metavar="REF", help="an image with a shell, in place of the one of the examples")
    group.addoption("--node", metavar="NAME", help="the node whose GPUs the tests may use (default: the only one)")
    group.addoption(
        "--fault-command",
        metavar="COMMAND",
        help="how to break a fake GPU (default: 'gpu-dra fault' in the driver's pod); --device NAME --xid N or --clear "
        "is appended",
    )
    group.addoption(
        "--restart-command",
        metavar="COMMAND",
        help="how to stop the driver of the node at once and start it again (default: its pod is deleted)",
    )
    group.addoption(
        "--driver-labels",
        metavar="SELECTOR",
        default="app.kubernetes.io/name=gpu-dra-driver",
        help="labels of the driver's pods (default: those of the chart)",
    )
