import pytest

from driver.sim.scheduler.nodes import refusal


def node(*, labels=None, ready="True", **spec):
    status = {"conditions": [{"type": "Ready", "status": ready}]}
    return {"metadata": {"name": "node-a", "labels": labels or {}}, "spec": spec, "status": status}


def pod(**spec):
    return {"spec": spec}


def affinity(operator, *values):
    term = {"matchExpressions": [{"key": "gpus", "operator": operator, "values": list(values)}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    return {"affinity": {"nodeAffinity": required}}


TAINT = {"key": "gpu", "value": "only", "effect": "NoSchedule"}


def test_an_ordinary_node_fits():
    assert refusal(pod(), node()) == ""


def test_a_node_that_is_not_ready_does_not():
    assert refusal(pod(), node(ready="Unknown")) == "node(s) were not ready"


def test_node_taints_must_be_tolerated():
    assert refusal(pod(), node(taints=[TAINT])) == "node(s) had untolerated taint {gpu: only}"
    assert refusal(pod(tolerations=[{"key": "gpu", "operator": "Exists"}]), node(taints=[TAINT])) == ""


def test_a_cordoned_node_does_not_fit():
    assert "node.kubernetes.io/unschedulable" in refusal(pod(), node(unschedulable=True))


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        ({"nodeSelector": {"gpus": "8"}}, True),
        ({"nodeSelector": {"gpus": "4"}}, False),
        (affinity("In", "4", "8"), True),
        (affinity("NotIn", "8"), False),
        (affinity("Lt", "4"), False),
        (affinity("Exists"), True),
        (affinity("DoesNotExist"), False),
    ],
)
def test_selectors_and_affinity(spec, fits):
    assert (refusal(pod(**spec), node(labels={"gpus": "8"})) == "") is fits
