"""Which cluster the e2e tests may run on: one that cannot be used is told before any test, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from driver.sim.apiserver import ApiServer
from tests.e2e.real import connected


def options(kubeconfig: Path, **more: str) -> Any:
    values = {"--kubeconfig": str(kubeconfig), "--driver-labels": "app=x", **more}
    return values.get


async def refusal(kubeconfig: Path) -> str:
    with pytest.raises(pytest.UsageError) as error:
        async with connected(options(kubeconfig)):
            pass
    return str(error.value)


async def test_a_kubeconfig_that_is_none_is_told(tmp_path: Path) -> None:
    assert "does not exist" in await refusal(tmp_path / "none")


async def test_a_server_that_does_not_answer_is_told(tmp_path: Path) -> None:
    async with ApiServer() as server:
        kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig")

    said = await refusal(kubeconfig)

    assert said.startswith("the cluster of --kubeconfig cannot be used: ")
    assert "\n" not in said


async def test_a_cluster_without_the_driver_is_told(tmp_path: Path) -> None:
    async with ApiServer() as server:
        said = await refusal(server.write_kubeconfig(tmp_path / "kubeconfig"))

    assert said == (
        "one node with ResourceSlices of gpu.nvidia.com is expected, where the driver runs; found: none; "
        "choose with --node=NAME"
    )
