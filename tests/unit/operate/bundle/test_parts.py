"""Parts that are slow or broken, and the logs of a node."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from driver.node import Settings
from driver.operate.bundle.archive import Found
from driver.operate.bundle.make import patiently
from driver.operate.bundle.pod_logs import read_logs

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_part_that_takes_too_long_is_missing() -> None:
    async def forever() -> Found:
        await asyncio.Event().wait()
        return Found()

    assert (await patiently("slow", forever(), 0.01)).missing == {"slow": "not read within 0.01 s"}


async def test_a_part_that_breaks_is_missing() -> None:
    async def broken() -> Found:
        raise KeyError("spec")

    assert (await patiently("broken", broken(), 60)).missing == {"broken": "KeyError: 'spec'"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(node_name="n", kubelet_registry_dir=tmp_path / "r", kubelet_plugins_dir=tmp_path)


async def test_each_instance_in_a_pod_has_its_own_log_of_the_kubelets(settings: Settings, tmp_path: Path) -> None:
    settings.kubelet_registry_dir.mkdir()
    for uid, said in {"aaaa": "the old one", "bbbb": "the new one", "cccc": "somebody else's"}.items():
        directory = tmp_path / f"pods/ns_name_{uid}/driver"
        directory.mkdir(parents=True)
        (directory / "0.log").write_text(said)
        if uid != "cccc":
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(str(settings.kubelet_registry_dir / f"gpu.nvidia.com-{uid}-reg.sock"))

    found = await read_logs(settings, pod_logs=tmp_path / "pods")

    assert sorted(found.files.values()) == ["the new one", "the old one"]


async def test_without_an_instance_it_is_said(settings: Settings, tmp_path: Path) -> None:
    assert "no instance has a socket" in (await read_logs(settings, pod_logs=tmp_path)).missing["logs"]
