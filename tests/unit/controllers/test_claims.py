from driver.sim.controllers.claims import generated_claim
from driver.sim.scheduler.objects import base_name

POD = {"metadata": {"name": "train", "namespace": "default", "uid": "pod-uid"}, "spec": {}}


def template(**metadata):
    return {"spec": {"metadata": metadata, "spec": {"devices": {"requests": [{"name": "gpu"}]}}}}


def test_a_generated_claim_belongs_to_its_pod():
    claim = generated_claim(POD, {"name": "gpu"}, template(labels={"a": "b"}, annotations={"c": "d"}))

    assert claim["metadata"] == {
        "generateName": "train-gpu-",
        "namespace": "default",
        "labels": {"a": "b"},
        "annotations": {"c": "d", "resource.kubernetes.io/pod-claim-name": "gpu"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "train", "uid": "pod-uid", "controller": True}],
    }
    assert claim["spec"] == {"devices": {"requests": [{"name": "gpu"}]}}


def test_long_names_are_cut_so_that_both_show():
    name = base_name("p" * 60, "c" * 30)

    assert len(name) <= 58
    assert name.startswith("pppp")
    assert name.endswith("ccc-")
