"""Specs: the lowest version that their fields need, and nothing that a runtime would drop."""

from __future__ import annotations

import json
from typing import Any

import pytest

from driver.cdi import spec
from driver.hardware.model import ContainerEdits, DeviceNode, Hook, Mount
from driver.sim.kubelet import cdispec

NODE = DeviceNode(path="/dev/nvidia0", major=195, minor=0)
EDITS = ContainerEdits(device_nodes=(NODE,))
NOTHING = ContainerEdits()


def rendered(common: ContainerEdits, **devices: ContainerEdits) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(spec.render_spec("gpu.nvidia.com", common, devices))
    cdispec.check(cdispec.Spec.model_validate(data))
    return data


@pytest.mark.parametrize(
    ("name", "edits", "version"),
    [
        ("a0-gpu-0", EDITS, "0.3.0"),
        ("0a-gpu-0", EDITS, "0.5.0"),
        ("a0-gpu-0", ContainerEdits(device_nodes=(DeviceNode(path="/dev/x", host_path="/dev/null"),)), "0.5.0"),
    ],
)
def test_the_version_is_the_lowest_that_the_fields_need(name: str, edits: ContainerEdits, version: str):
    data = rendered(NOTHING, **{name: edits})

    assert data["cdiVersion"] == version
    assert cdispec.minimum_version(cdispec.Spec.model_validate(data)) == version


def test_everything_that_was_given_is_in_the_spec():
    hook = Hook(name="createContainer", path="/usr/bin/x", args=("x", "--y"), env=("A=b",))
    common = ContainerEdits(env=("A=b=c",), mounts=(Mount(host_path="/h", container_path="/c"),), hooks=(hook,))

    data = rendered(common, b=EDITS, a=EDITS)

    assert data["kind"] == "k8s.gpu.nvidia.com/claim"
    assert [device["name"] for device in data["devices"]] == ["a", "b"]
    assert data["containerEdits"] == {
        "env": ["A=b=c"],
        "mounts": [
            {"hostPath": "/h", "containerPath": "/c", "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"]}
        ],
        "hooks": [{"hookName": "createContainer", "path": "/usr/bin/x", "args": ["x", "--y"], "env": ["A=b"]}],
    }


def test_edits_for_all_devices_are_left_out_where_there_are_none():
    assert "containerEdits" not in rendered(NOTHING, a=EDITS)


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (NOTHING, "no edits"),
        (ContainerEdits(env=("=x",)), "NAME=VALUE"),
        (ContainerEdits(env=("NAME",)), "NAME=VALUE"),
        (ContainerEdits(device_nodes=(DeviceNode(path="dev/x"),)), "absolute path"),
        (ContainerEdits(device_nodes=(DeviceNode(path="/dev/x", type="z"),)), "type"),
        (ContainerEdits(device_nodes=(DeviceNode(path="/dev/x", permissions="rwx"),)), "permissions"),
        (ContainerEdits(mounts=(Mount(host_path="", container_path="/x"),)), "absolute path"),
        (ContainerEdits(mounts=(Mount(host_path="/x", container_path="x"),)), "absolute path"),
        (ContainerEdits(hooks=(Hook(name="startup", path="/x"),)), "hook 'startup'"),
        (ContainerEdits(hooks=(Hook(name="poststop", path="x"),)), "absolute path"),
        (ContainerEdits(hooks=(Hook(name="poststop", path="/x", env=("A",)),)), "NAME=VALUE"),
    ],
)
def test_what_a_runtime_would_drop_is_not_written(edits: ContainerEdits, expected: str):
    with pytest.raises(spec.SpecError, match=expected):
        spec.render_spec("gpu.nvidia.com", NOTHING, {"a": edits})


@pytest.mark.parametrize("name", ["", "-a", "a-", "a/b", "ä", "a b"])
def test_names_that_a_runtime_cannot_parse_are_not_written(name: str):
    with pytest.raises(spec.SpecError, match="device name"):
        spec.render_spec("gpu.nvidia.com", NOTHING, {name: EDITS})


def test_a_spec_without_devices_is_not_written():
    with pytest.raises(spec.SpecError, match="at least one device"):
        spec.render_spec("gpu.nvidia.com", EDITS, {})
