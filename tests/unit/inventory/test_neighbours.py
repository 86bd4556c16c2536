"""Other drivers of the same GPUs: what counts as one, and what is published then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from driver.inventory.instances import Instance, Kind
from driver.inventory.neighbours import Neighbour, Seen, Sign, is_own_slice, judge, plugin_resources, tainted

DRIVER = "gpu.nvidia.com"


def instance(kind: Kind, *, name: str = DRIVER) -> Instance:
    return Instance(socket=Path("/registry/x-reg.sock"), kind=kind, name=name)


def test_a_node_of_our_own_shows_nothing():
    assert judge(Seen(instances=(instance(Kind.OURS),), resources={}), driver_name=DRIVER) == ()


def test_another_dra_driver_of_our_name_is_in_our_pool():
    (sign,) = judge(Seen(instances=(instance(Kind.OTHER),)), driver_name=DRIVER)

    assert (sign.neighbour, sign.same_pool) == (Neighbour.DRA_DRIVER, True)
    assert "/registry/x-reg.sock" in sign.evidence


def test_nvidias_dra_driver_beside_one_of_another_name_has_a_pool_of_its_own():
    (sign,) = judge(Seen(instances=(instance(Kind.OTHER),)), driver_name="gpu.example.com")

    assert not sign.same_pool


@pytest.mark.parametrize("kind", [Kind.SILENT, Kind.DEAD])
def test_what_does_not_answer_is_nobody(kind: Kind):
    assert judge(Seen(instances=(instance(kind),)), driver_name=DRIVER) == ()


def test_a_device_plugins_socket_and_its_resources_are_two_signs():
    seen = Seen(plugin_sockets=("/device-plugins/nvidia-gpu.sock",), resources={"nvidia.com/gpu": "8"})

    signs = judge(seen, driver_name=DRIVER)

    assert [sign.neighbour for sign in signs] == [Neighbour.DEVICE_PLUGIN] * 2
    assert "nvidia.com/gpu: 8" in signs[1].evidence


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, {}),
        ({"capacity": {"cpu": "8", "nvidia.com/gpu": "8"}}, {"nvidia.com/gpu": "8"}),
        ({"allocatable": {"nvidia.com/mig-1g.10gb": "7"}}, {"nvidia.com/mig-1g.10gb": "7"}),
        # A plugin that went away: the kubelet keeps the capacity for five minutes.
        ({"capacity": {"nvidia.com/gpu": "8"}, "allocatable": {"nvidia.com/gpu": "0"}}, {}),
        ({"capacity": {"amd.com/gpu": "8"}}, {}),
    ],
)
def test_what_a_device_plugin_offers_on_a_node(status: dict[str, Any], expected: dict[str, str]):
    assert plugin_resources({"status": status}) == expected


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("00000-gpu.nvidia.com-node-1", True),
        ("0001f-gpu.nvidia.com-node-1", True),
        ("00000-gpu.nvidia.com-node-1-x7k2p", False),  # the Go helper lets the server append letters
        ("node-1-gpu.nvidia.com-x7k2p", False),
        ("0000g-gpu.nvidia.com-node-1", False),
        ("00000-gpu.nvidia.com-node-2", False),
    ],
)
def test_a_slice_is_told_by_its_name(name: str, ours: bool):
    assert is_own_slice(name, driver_name=DRIVER, node_name="node-1") is ours


def test_a_taint_is_added_to_every_device_and_to_nothing_else():
    sick = {"key": f"{DRIVER}/xid", "value": "79", "effect": "NoExecute"}
    slices = ({"sharedCounters": [1]}, {"devices": [{"name": "gpu-0"}, {"name": "gpu-1", "taints": [sick]}]})
    sign = Sign(neighbour=Neighbour.DEVICE_PLUGIN, evidence="")

    counters, devices = tainted(slices, sign, driver_name=DRIVER)

    busy = {"key": f"{DRIVER}/other-driver", "value": "device-plugin", "effect": "NoSchedule"}
    assert counters == {"sharedCounters": [1]}
    assert [device["taints"] for device in devices["devices"]] == [[busy], [sick, busy]]
    assert "taints" not in slices[1]["devices"][0]
