"""What the doctor says about nodes, slices, pods and claims."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from driver.cluster import Rule, Taint
from driver.operate.doctor import workload_checks
from driver.operate.doctor.findings import Finding, Level
from driver.operate.doctor.state import ClusterState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LONG_AGO = "2026-01-02T03:00:00Z"
DRIVER = "gpu.nvidia.com"
CLASS = {
    "metadata": {"name": DRIVER},
    "spec": {
        "selectors": [{"cel": {"expression": f"device.driver == '{DRIVER}'"}}],
        "extendedResourceName": "nvidia.com/gpu",
    },
}


def cluster(**seen: Any) -> ClusterState:
    return ClusterState(driver_name=DRIVER, now=NOW, version="v1.36.2", **{"classes": (CLASS,), "events": (), **seen})


def say(check: Callable[[ClusterState], Iterable[Finding]], **seen: Any) -> list[tuple[str, str]]:
    """Level and sentence of what is not well, or of everything where all is well."""
    found = list(check(cluster(**seen)))
    wrong = [finding for finding in found if finding.level is not Level.OK]
    return [(finding.level.value, finding.sentence) for finding in wrong or found]


def node(name: str = "node-1", *, ready: str = "True", runtime: str = "containerd://2.1.4", **status: Any) -> Any:
    info = {"kubeletVersion": "v1.36.2", "containerRuntimeVersion": runtime}
    conditions = [{"type": "Ready", "status": ready, "message": "Kubelet stopped posting node status."}]
    return {"metadata": {"name": name}, "status": {"nodeInfo": info, "conditions": conditions, **status}}


def slice_(
    index: int = 0, *devices: str, count: int = 1, generation: int = 1, on: str = "node-1", name: str = ""
) -> dict[str, Any]:
    return {
        "metadata": {"name": name or f"{index:05x}-{DRIVER}-{on}"},
        "spec": {
            "driver": DRIVER,
            "nodeName": on,
            "pool": {"name": on, "generation": generation, "resourceSliceCount": count},
            "devices": [{"name": device} for device in devices],
        },
    }


def claim(name: str = "claim", **more: Any) -> dict[str, Any]:
    requests = [{"name": "gpu", "exactly": {"deviceClassName": DRIVER}}]
    return {
        "metadata": {"name": name, "namespace": "default", **more.pop("metadata", {})},
        "spec": {"devices": {"requests": requests}},
        **more,
    }


def pod(*, claim_name: str = "claim", **more: Any) -> dict[str, Any]:
    metadata = {"name": "pod", "namespace": "default", "creationTimestamp": LONG_AGO, **more.pop("metadata", {})}
    spec = {"resourceClaims": [{"name": "gpu", "resourceClaimName": claim_name}], "containers": [{}]}
    return {"metadata": metadata, "spec": {**spec, **more.pop("spec", {})}, "status": more}


def unscheduled(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "message": message}
    return {"phase": "Pending", "conditions": [condition]}


def test_nodes_that_are_well():
    assert {level for level, _ in say(workload_checks.nodes, nodes=(node(),))} == {"ok"}


def test_a_node_whose_kubelet_stopped_is_a_problem():
    [(level, sentence)] = say(workload_checks.nodes, nodes=(node(ready="Unknown"),))

    assert level == "problem"
    assert "Kubelet stopped posting node status" in sentence


def test_a_node_that_does_not_exist_is_a_problem():
    [(level, _)] = say(workload_checks.nodes, nodes=(), node_name="node-7")

    assert level == "problem"


@pytest.mark.parametrize(
    ("runtime", "level"),
    [("containerd://1.7.27", "warning"), ("docker://27.0", "problem"), ("cri-o://1.36.0", "ok")],
)
def test_runtimes(runtime: str, level: str):
    assert say(workload_checks.nodes, nodes=(node(runtime=runtime),))[0][0] == level


def test_a_device_plugin_that_offers_the_same_gpus_is_a_problem():
    [(level, sentence)] = say(workload_checks.nodes, nodes=(node(allocatable={"nvidia.com/gpu": "8"}),))

    assert level == "problem"
    assert "nvidia.com/gpu: 8" in sentence


def test_a_complete_pool():
    assert say(workload_checks.slices, slices=(slice_(0, "gpu-0", count=2), slice_(1, "gpu-1", count=2))) == [
        ("ok", "node-1 offers 2 devices, in a complete pool of 2")
    ]


@pytest.mark.parametrize(
    ("slices", "level", "words"),
    [
        ((), "problem", "no ResourceSlice"),
        ((slice_(0, "gpu-0", count=2),), "problem", "1 of 2 ResourceSlices"),
        ((slice_(0, "gpu-0", generation=2), slice_(1, generation=1)), "warning", "older than generation 2"),
        ((slice_(0, "gpu-0", count=2), slice_(1, "gpu-0", count=2)), "problem", "devices twice (gpu-0"),
        ((slice_(0, "gpu-0", name="00000-gpu.nvidia.com-node-1-abcde"),), "warning", "not written by this driver"),
    ],
)
def test_a_pool_that_is_not_whole(slices: tuple[Any, ...], level: str, words: str):
    [(found, sentence)] = say(workload_checks.slices, slices=slices)

    assert found == level
    assert words in sentence


def test_slices_of_a_node_that_is_gone_are_a_warning():
    [(level, sentence)] = say(workload_checks.slices, slices=(slice_(0, "gpu-0", on="gone"),), nodes=())

    assert level == "warning"
    assert "does not exist" in sentence


def test_taints_are_summed_up():
    tainted = slice_(0, "gpu-0", "gpu-1")
    for device in tainted["spec"]["devices"]:
        device["taints"] = [{"key": f"{DRIVER}/xid", "value": "79", "effect": "NoExecute"}]

    [(level, sentence), _] = [*say(workload_checks.slices, slices=(tainted,)), ("", "")]

    assert level == "warning"
    assert "gpu-0, gpu-1 tainted gpu.nvidia.com/xid=79:NoExecute" in sentence


def ruled(rule: Taint | None = None, **selector: str) -> tuple[Rule, ...]:
    taint = rule or Taint(key="example.com/drain", value="planned", effect="NoSchedule", rule="drain-gpu-0")
    return (Rule(taint=taint, **selector),)


@pytest.mark.parametrize(
    ("selector", "devices"), [({"device": "gpu-0"}, "gpu-0"), ({"pool": "node-1"}, "gpu-0, gpu-1, gpu-2 and 1 more")]
)
def test_a_rule_that_taints_is_named(selector: dict[str, str], devices: str):
    published = slice_(0, "gpu-0", "gpu-1", "gpu-2", "gpu-3")

    [(level, sentence)] = say(workload_checks.slices, slices=(published,), rules=ruled(**selector))

    assert level == "warning"
    assert sentence == (
        f"node-1: {devices} tainted by DeviceTaintRule drain-gpu-0 (example.com/drain=planned:NoSchedule): "
        "no new pod gets them"
    )


@pytest.mark.parametrize(
    "rules",
    [
        ruled(pool="node-2"),
        ruled(device="gpu-7"),
        ruled(Taint(key="example.com/note", effect="None", rule="note"), device="gpu-0"),
    ],
)
def test_a_rule_that_taints_nothing_here_is_not_told(rules: tuple[Rule, ...]):
    [(level, _)] = say(workload_checks.slices, slices=(slice_(0, "gpu-0"),), rules=rules)

    assert level == "ok"


def test_rules_that_cannot_be_listed_are_said_to_be_unknown():
    [(level, sentence)] = say(workload_checks.rules, unreadable={"rules": "these credentials may not"})

    assert (level, sentence) == ("unknown", "DeviceTaintRules cannot be listed: these credentials may not")


@pytest.mark.parametrize("version", ["v1.36.0", "v1.36.2", "v1.36.1+k3s1"])
def test_rules_are_a_danger_to_schedulers_that_end_with_them(version: str):
    [finding] = workload_checks.rules(replace(cluster(), version=version, rules=ruled()))

    assert finding.level is Level.PROBLEM
    assert finding.sentence.endswith("drain-gpu-0")


@pytest.mark.parametrize("version", ["v1.35.4", "v1.36.3", "v1.36.20", "v1.37.0"])
def test_other_schedulers_bear_rules(version: str):
    assert not [*workload_checks.rules(replace(cluster(), version=version, rules=ruled()))]


def test_a_pod_without_a_node_is_told_with_the_schedulers_words():
    waiting = pod(**unscheduled("0/1 nodes are available: cannot allocate all claims."))

    [(level, sentence)] = say(workload_checks.pods, pods=(waiting,), claims=(claim(),))

    assert level == "warning"
    assert "default/pod waits for a node: 0/1 nodes are available" in sentence


def test_a_pod_that_asks_by_extended_resource_counts_too():
    waiting = pod(**unscheduled("Insufficient nvidia.com/gpu."))
    waiting["spec"] = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}

    [(level, _)] = say(workload_checks.pods, pods=(waiting,), claims=())

    assert level == "warning"


def test_a_pod_that_cannot_be_prepared_is_told_with_the_drivers_words():
    event = {"involvedObject": {"namespace": "default", "name": "pod"}, "message": "NodePrepareResources failed: busy"}
    stuck = pod(phase="Pending", spec={"nodeName": "node-1"})

    [(level, sentence)] = say(workload_checks.pods, pods=(stuck,), claims=(claim(),), events=(event,))

    assert level == "problem"
    assert "NodePrepareResources failed: busy" in sentence


@pytest.mark.parametrize(
    ("drivers", "level", "words"),
    [
        ([DRIVER], "problem", "the driver's log on that node has the same claim"),
        (["compute-domain.nvidia.com"], "warning", "devices of compute-domain.nvidia.com only: the log of that driver"),
        ([DRIVER, "compute-domain.nvidia.com"], "problem", "look at the log of compute-domain.nvidia.com"),
    ],
)
def test_a_claim_that_another_driver_has_to_prepare_is_told_with_whose_log_to_read(
    drivers: list[str], level: str, words: str
):
    message = "NodePrepareResources failed for ResourceClaim failed: current node not ready in ComputeDomain"
    event = {"involvedObject": {"namespace": "default", "name": "pod"}, "message": message}
    stuck = pod(phase="Pending", spec={"nodeName": "node-1"})
    results = [{"driver": driver} for driver in drivers]
    failed = claim("failed", status={"allocation": {"devices": {"results": results}}})

    [found] = workload_checks.pods(cluster(pods=(stuck,), claims=(claim(), failed), events=(event,)))

    assert (found.level.value, found.about) == (level, "default/pod")
    assert words in found.remedy


def test_why_pods_do_not_start_is_unknown_where_events_may_not_be_listed():
    found = say(workload_checks.pods, pods=(), events=None, unreadable={"events": "forbidden"})

    assert found == [("unknown", "why pods do not start is not known, as Events cannot be listed: forbidden")]


def test_a_pod_that_does_not_end_is_a_problem():
    stuck = pod(phase="Running", metadata={"deletionTimestamp": LONG_AGO}, spec={"nodeName": "node-1"})

    [(level, sentence)] = say(workload_checks.pods, pods=(stuck,), claims=(claim(),))

    assert level == "problem"
    assert "does not end" in sentence


def test_pods_that_want_nothing_of_us_and_young_ones_are_left_alone():
    young = pod(**unscheduled("wait"), metadata={"creationTimestamp": "2026-01-02T03:04:00Z"})
    others = pod(claim_name="nic", **unscheduled("wait"))

    assert say(workload_checks.pods, pods=(young, others), claims=(claim(),))[0][0] == "ok"


@pytest.mark.parametrize(
    ("reserved", "pods", "words"),
    [
        ([], (), "nobody uses it"),
        ([{"resource": "pods", "name": "pod"}], (), "reserved for pods that are gone (pod)"),
        ([{"resource": "pods", "name": "pod"}], (pod(),), "in use by pod"),
        ([{"resource": "podgroups", "name": "group"}], (), "in use by group"),
    ],
)
def test_a_deleted_claim_that_stays_is_a_warning_with_its_reason(reserved: list[Any], pods: Any, words: str):
    stuck = claim(
        metadata={"deletionTimestamp": LONG_AGO, "finalizers": [workload_checks.FINALIZER]},
        status={"reservedFor": reserved},
    )

    [(level, sentence)] = say(workload_checks.claims, claims=(stuck,), pods=pods)

    assert level == "warning"
    assert words in sentence


def test_what_may_not_be_listed_is_unknown():
    unreadable = {"pods": "forbidden"}

    assert say(workload_checks.pods, unreadable=unreadable) == [("unknown", "pods cannot be listed: forbidden")]
