import pytest

from driver.sim.scheduler.extended import backed, classes_by_resource, extended_name, special_claim

GPU = "nvidia.com/gpu"
MAPPING = {GPU: "gpu.nvidia.com"}
NODE = {"metadata": {"name": "node-a"}, "status": {}}


def container(name, count=0, **fields):
    return {"name": name, "resources": {"requests": {GPU: str(count)} if count else {}}} | fields


def pod(*containers, inits=()):
    metadata = {"name": "train", "namespace": "default", "uid": "uid-1"}
    return {"metadata": metadata, "spec": {"containers": list(containers), "initContainers": list(inits)}}


def requests_of(backed_):
    return {r["name"]: r["exactly"]["count"] for r in backed_.requests}


def mappings_of(backed_):
    return [(m["containerName"], m["requestName"]) for m in backed_.mappings]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (GPU, True),
        ("deviceclass.resource.kubernetes.io/gpu", True),
        ("cpu", False),
        ("node.kubernetes.io/x", False),
        ("requests.nvidia.com/gpu", False),
    ],
)
def test_which_resources_are_extended(name, expected):
    assert extended_name(name) is expected


def test_classes_answer_to_explicit_and_implicit_names():
    old, new = (
        {"metadata": {"name": n, "creationTimestamp": t}, "spec": {"extendedResourceName": GPU}}
        for n, t in (("old", "2026-01-01T00:00:00Z"), ("new", "2026-02-01T00:00:00Z"))
    )

    assert classes_by_resource([new, old]) == {
        GPU: "new",
        "deviceclass.resource.kubernetes.io/old": "old",
        "deviceclass.resource.kubernetes.io/new": "new",
    }


def test_of_two_classes_of_one_age_the_first_by_name_wins():
    twins = [{"metadata": {"name": n}, "spec": {"extendedResourceName": GPU}} for n in "ab"]

    assert classes_by_resource(twins)[GPU] == "a"


def test_each_container_gets_its_request():
    wanted, refusal = backed(pod(container("a", 1), container("none"), container("b", 2)), NODE, MAPPING)

    assert not refusal
    assert requests_of(wanted) == {"container-0-request-0": 1, "container-2-request-0": 2}
    assert mappings_of(wanted) == [("a", "container-0-request-0"), ("b", "container-2-request-0")]


def test_a_device_plugin_of_the_node_comes_first():
    with_plugin = NODE | {"status": {"allocatable": {GPU: "8"}}}

    assert backed(pod(container("a", 1)), with_plugin, MAPPING) == (None, "")


def test_a_resource_that_nobody_provides_refuses_the_node():
    assert backed(pod(container("a", 1)), NODE, {}) == (None, f"Insufficient {GPU}")


def test_the_special_claim_belongs_to_the_pod():
    claim = special_claim(pod(), [])

    assert claim["metadata"]["generateName"] == "train-extended-resources-"
    assert claim["metadata"]["annotations"] == {"resource.kubernetes.io/extended-resource-claim": "true"}
    (owner,) = claim["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("Pod", "uid-1", True)
