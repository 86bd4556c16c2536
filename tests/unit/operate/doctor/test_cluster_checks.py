"""What the doctor says about a cluster: versions, features, permissions, classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from driver.node.settings import Settings
from driver.operate.doctor import cluster_checks, permissions
from driver.operate.doctor.findings import Finding, Level
from driver.operate.doctor.state import AccessReview, ClusterState, Permission

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DRIVER = "gpu.nvidia.com"


def device_class(name: str, expression: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"selectors": [{"cel": {"expression": expression}}], **spec}}


def resource_slice(*devices: str) -> dict[str, Any]:
    return {"metadata": {"name": "slice"}, "spec": {"devices": [{"name": name} for name in devices]}}


WELL = ClusterState(
    driver_name=DRIVER,
    now=NOW,
    server_time=NOW,
    version="v1.36.2",
    api_versions=("v1",),
    gates=dict.fromkeys(
        (
            "DRAAdminAccess",
            "DRAConsumableCapacity",
            "DRADeviceTaints",
            "DRAExtendedResource",
            "DRAPartitionableDevices",
            "DRAPrioritizedList",
            "DRAResourceClaimDeviceStatus",
            "DynamicResourceAllocation",
        ),
        True,
    ),
    subject="system:serviceaccount:gpu:driver",
    access=(AccessReview(permission=Permission(verb="get", resource="resourceclaims", why=""), allowed=True),),
    classes=(device_class(DRIVER, f"device.driver == '{DRIVER}'"),),
    slices=(resource_slice("gpu-0"),),
    selected={DRIVER: 1},
)


def say(check: Callable[[ClusterState], Iterable[Finding]], **seen: Any) -> Finding:
    """The one finding of a check about a cluster that is well but for this."""
    [finding] = [f for f in check(replace(WELL, **seen)) if f.level is not Level.OK] or list(
        check(replace(WELL, **seen))
    )
    return finding


@pytest.mark.parametrize("check", cluster_checks.CHECKS)
def test_a_cluster_that_is_well_has_nothing_to_do(check: Callable[[ClusterState], Iterable[Finding]]):
    assert {finding.level for finding in check(WELL)} == {Level.OK}


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("v1.34.6", Level.PROBLEM),
        ("v1.35.0", Level.OK),
        ("v1.37.1+k3s1", Level.OK),
        ("v1.38.0", Level.WARNING),
        ("v2.0.0", Level.WARNING),
    ],
)
def test_versions_that_the_driver_is_made_for(version: str, level: Level):
    assert say(cluster_checks.version, version=version).level is level


def test_a_server_that_cannot_be_asked_is_a_problem_with_its_reason():
    finding = say(cluster_checks.version, version="", unreadable={"version": "GET /version: no answer from https://x"})

    assert finding.level is Level.PROBLEM
    assert "no answer from https://x" in finding.sentence


def test_a_server_without_the_api_is_a_problem():
    finding = say(cluster_checks.version, api_versions=("v1beta1",))

    assert finding.level is Level.PROBLEM
    assert "--runtime-config" in finding.remedy


@pytest.mark.parametrize(
    ("ahead", "level", "words"),
    [(59, Level.OK, ""), (61, Level.WARNING, "61 s ahead of"), (-300, Level.WARNING, "300 s behind")],
)
def test_a_clock_that_is_wrong_is_a_warning(ahead: int, level: Level, words: str):
    finding = say(cluster_checks.clock, now=NOW + timedelta(seconds=ahead))

    assert finding.level is level
    assert words in finding.sentence


@pytest.mark.parametrize(
    ("gate", "settings", "level"),
    [
        ("DRADeviceTaints", {}, Level.WARNING),
        ("DRAPartitionableDevices", {"partitioning": "dynamic"}, Level.PROBLEM),
        ("DRAPartitionableDevices", {"partitioning": "static"}, Level.OK),
        ("DRAConsumableCapacity", {"shares": "4"}, Level.PROBLEM),
        ("DRAConsumableCapacity", {}, Level.OK),
        ("DRAResourceClaimDeviceStatus", {"device_status": True}, Level.WARNING),
    ],
)
def test_a_gate_counts_where_a_setting_needs_it(gate: str, settings: dict[str, Any], level: Level):
    finding = say(cluster_checks.gates, gates={**WELL.gates, gate: False}, **settings)

    assert finding.level is level
    assert level is Level.OK or f"--feature-gates={gate}=true" in finding.remedy


def test_an_extended_resource_needs_its_gate():
    classes = (device_class(DRIVER, f"device.driver == '{DRIVER}'", extendedResourceName="nvidia.com/gpu"),)

    finding = say(cluster_checks.gates, gates={**WELL.gates, "DRAExtendedResource": False}, classes=classes)

    assert finding.level is Level.PROBLEM


def test_gates_that_nobody_tells_are_unknown_with_the_reason():
    finding = say(cluster_checks.gates, gates={}, unreadable={"gates": "forbidden"})

    assert finding.level is Level.UNKNOWN
    assert "forbidden" in finding.sentence


def test_a_gate_that_is_needed_and_that_nobody_tells_is_named_beside_those_that_are_known():
    finding = say(cluster_checks.gates, gates={name: on for name, on in WELL.gates.items() if name != "DRAAdminAccess"})

    assert finding.level is Level.UNKNOWN
    assert "are on: DRAAdminAccess; " in finding.sentence


def test_a_clock_that_cannot_be_compared_is_said_to_be_unknown():
    assert say(cluster_checks.clock, server_time=None).level is Level.UNKNOWN


def test_selectors_that_nobody_can_evaluate_are_said_not_to_have_been_tried():
    finding = say(cluster_checks.classes, selected={}, not_evaluated={DRIVER: "CEL cannot be evaluated here"})

    assert finding.level is Level.UNKNOWN
    assert f"was not tried: {DRIVER} (CEL cannot be evaluated here)" in finding.sentence
    assert "pip install '.[sim]'" in finding.remedy


@pytest.mark.parametrize(("vital", "level"), [(True, Level.PROBLEM), (False, Level.WARNING)])
def test_a_missing_permission_is_named_with_what_it_is_for(vital: bool, level: Level):
    missing = Permission(verb="create", resource="resourceslices", why="GPUs are published", vital=vital)

    finding = say(cluster_checks.permissions, access=(AccessReview(permission=missing, allowed=False),))

    assert finding.level is level
    assert finding.sentence == f"{WELL.subject} may not create resourceslices: GPUs are published"


def test_a_token_without_a_node_is_a_problem():
    assert say(cluster_checks.permissions, node_bound=False).level is Level.PROBLEM


def test_without_a_driver_to_ask_about_permissions_are_unknown():
    assert say(cluster_checks.permissions, access=None).level is Level.UNKNOWN


def test_without_a_class_no_claim_can_ask():
    other = device_class("other", "device.driver == 'nic.example.com'")

    assert say(cluster_checks.classes, classes=(other,)).level is Level.PROBLEM


def test_a_class_that_selects_nothing_and_is_asked_for_is_a_warning():
    classes = (*(WELL.classes or ()), device_class("mig", f"device.driver == '{DRIVER}' && false"))
    claim = {"spec": {"devices": {"requests": [{"name": "part", "firstAvailable": [{"deviceClassName": "mig"}]}]}}}

    finding = say(cluster_checks.classes, classes=classes, claims=(claim,), selected={DRIVER: 1, "mig": 0})

    assert (finding.level, finding.about) == (Level.WARNING, "mig")


def test_a_class_that_selects_nothing_and_that_nobody_asks_for_is_nobodys_worry():
    classes = (*(WELL.classes or ()), device_class("mig", f"device.driver == '{DRIVER}' && false"))

    assert say(cluster_checks.classes, classes=classes, selected={DRIVER: 1, "mig": 0}).level is Level.OK


def test_when_no_class_selects_anything_it_is_a_problem():
    assert say(cluster_checks.classes, selected={DRIVER: 0}).level is Level.PROBLEM


def test_missing_permissions_for_one_purpose_are_one_finding():
    missing = [Permission(verb=verb, resource="resourceslices", why="publish") for verb in ("create", "update")]

    finding = say(
        cluster_checks.permissions, access=tuple(AccessReview(permission=one, allowed=False) for one in missing)
    )

    assert finding.sentence == f"{WELL.subject} may not create or update resourceslices: publish"


def test_as_long_as_nothing_is_published_classes_are_not_blamed():
    assert say(cluster_checks.classes, slices=(), selected={DRIVER: 0}).level is Level.OK


def test_permissions_follow_the_settings():
    plain = permissions.needed(Settings(node_name="node-1"), node_name="node-1")
    status = permissions.needed(Settings(node_name="node-1", device_status=True), node_name="node-1")

    assert "resourceclaims/driver" not in {one.resource for one in plain}
    assert {str(one) for one in set(status) - set(plain)} == {
        "patch resourceclaims/status",
        "associated-node:patch resourceclaims/driver gpu.nvidia.com",
    }
