"""What ``gpu-dra slices --template`` prints: what an autoscaler is to know of a node that does not exist yet."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from driver.cli.main import cli
from driver.sim.apiserver import ApiServer
from driver.sim.apiserver.access import ADMIN
from driver.sim.apiserver.call import Call
from driver.sim.apiserver.resources import BY_PATH
from driver.sim.scheduler.allocator import UnschedulableError, allocate

DEPLOY = Path(__file__).parents[3] / "deploy"
SLICES = BY_PATH["resource.k8s.io", "v1", "resourceslices"]
NODE = {"metadata": {"name": "new-node"}}


def printed(*flags: str, devices: str) -> str:
    command = ["slices", "--template", "--node-name", "template", "--devices", devices, *flags]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    return result.stdout


@functools.cache  # hundreds of devices, which nobody changes here
def template(*flags: str, devices: str = "fake:h100x8") -> list[dict[str, Any]]:
    return list(yaml.load_all(printed(*flags, devices=devices), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def devices_of(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [device for document in documents for device in document["spec"].get("devices", ())]


def renamed(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As Cluster Autoscaler puts a template's slices on a node that it imagines (its release 1.36)."""
    suffix = "7418529630"
    return [
        {
            **document,
            "metadata": {"name": f"{document['metadata']['name']}-{suffix}"},
            "spec": {
                **document["spec"],
                "nodeName": NODE["metadata"]["name"],
                "pool": {**document["spec"]["pool"], "name": f"{document['spec']['pool']['name']}-{suffix}"},
            },
        }
        for document in documents
    ]


def classes() -> dict[str, dict[str, Any]]:
    found = yaml.safe_load_all((DEPLOY / "examples" / "00-deviceclasses.yaml").read_text())
    return {found["metadata"]["name"]: found for found in found if found}


def claims_of(example: str) -> list[dict[str, Any]]:
    """A claim of each kind that an example makes."""
    [path] = (DEPLOY / "examples").glob(f"{example}-*.yaml")
    found = [obj for obj in yaml.safe_load_all(path.read_text()) if obj]
    specs = [obj["spec"]["spec"] for obj in found if obj["kind"] == "ResourceClaimTemplate"]
    specs += [obj["spec"] for obj in found if obj["kind"] == "ResourceClaim"]
    return [
        {"metadata": {"name": f"claim-{n}", "namespace": "default", "uid": f"uid-{n}"}, "spec": spec}
        for n, spec in enumerate(specs)
    ]


def placed(claims: list[dict[str, Any]], documents: list[dict[str, Any]]) -> list[str]:
    """The devices that the scheduler would give them on the new node."""
    allocations = allocate(NODE, claims, classes=classes(), slices=renamed(documents))
    return [result["device"] for found in allocations for result in found["devices"]["results"]]


@pytest.mark.parametrize(
    ("profile", "flags"),
    [
        ("h100x8", ("--partitioning", "dynamic")),
        ("a30x4", ("--partitioning", "static")),
        ("gb200x4", ()),
        ("t4x1", ("--shares", "memory")),
    ],
)
def test_the_api_server_takes_every_slice(profile: str, flags: tuple[str, ...]):
    server = ApiServer()

    for document in template(*flags, devices=f"fake:{profile}"):
        created = server.engine.create(Call(resource=SLICES, name="", user=ADMIN), document).obj
        assert created["spec"] == document["spec"]  # nothing unknown was dropped, and nothing added


def test_the_pool_is_complete_and_of_one_node_and_has_nothing_of_a_server():
    documents = template("--partitioning", "dynamic")

    assert {document["spec"]["pool"]["resourceSliceCount"] for document in documents} == {len(documents)}
    assert {(d["spec"]["nodeName"], d["spec"]["pool"]["name"]) for d in documents} == {("template", "template")}
    assert [document["metadata"] for document in documents] == [
        {"name": f"{index:05x}-gpu.nvidia.com-template"} for index in range(len(documents))
    ]


def test_it_is_the_same_each_time():
    assert printed(devices="fake:a30x4") == printed(devices="fake:a30x4")


def test_uuids_are_placeholders_that_still_say_what_belongs_together():
    devices = devices_of(template("--partitioning", "dynamic"))

    gpus = {d["name"]: d["attributes"]["uuid"]["string"] for d in devices if d["attributes"]["type"]["string"] == "gpu"}
    parents = {d["name"]: d["attributes"]["parentUUID"]["string"] for d in devices if "parentUUID" in d["attributes"]}
    assert gpus == {f"gpu-{n}": f"GPU-00000000-0000-0000-0000-{n:012d}" for n in range(8)}
    assert all(gpus[name.partition("-mig-")[0]] == parent for name, parent in parents.items())


def test_gpus_of_one_nvlink_fabric_still_share_its_placeholder():
    cliques = [d["attributes"]["fabricClique"]["string"] for d in devices_of(template(devices="fake:gb200x4"))]

    assert cliques == ["00000000-0000-0000-0000-000000000000.0"] * 4


@pytest.mark.parametrize(
    ("example", "flags", "expected"),
    [
        ("01", (), ["gpu-0"]),
        ("04", (), ["gpu-0", "gpu-1"]),
        ("05", (), ["gpu-0"]),
        ("18", (), [f"gpu-{n}" for n in range(8)]),
        ("10", ("--partitioning", "dynamic"), ["gpu-0-mig-1g10gb-19-6"]),
        ("13", ("--partitioning", "dynamic"), ["gpu-0-mig-3g40gb-9-4"]),
        ("14", ("--shares", "memory"), ["gpu-0", "gpu-0"]),
    ],
)
def test_pods_of_the_examples_find_their_devices_on_the_new_node(
    example: str, flags: tuple[str, ...], expected: list[str]
):
    assert placed(claims_of(example), template(*flags)) == expected


def test_two_partitions_of_one_gpu_can_be_asked_for():
    [claim] = claims_of("10")
    [request] = claim["spec"]["devices"]["requests"]
    request["exactly"]["count"] = 2
    claim["spec"]["devices"]["constraints"] = [{"matchAttribute": "gpu.nvidia.com/parentUUID"}]

    assert placed([claim], template("--partitioning", "dynamic")) == ["gpu-0-mig-1g10gb-19-6", "gpu-0-mig-1g10gb-19-5"]


def test_more_than_the_node_has_is_not_found_on_it():
    [claim] = claims_of("01")
    claim["spec"]["devices"]["requests"][0]["exactly"]["count"] = 9

    with pytest.raises(UnschedulableError):
        placed([claim], template())


def of_cluster_api(*, slices: int) -> list[dict[str, Any]]:
    """What Cluster Autoscaler makes of Cluster API's annotations (its release 1.36: with no number of slices)."""
    devices = [{"name": f"gpu-{n}", "attributes": {"type": {"string": "gpu"}}} for n in range(8)]
    pool = {"name": "template", "generation": 0, "resourceSliceCount": slices}
    spec = {"driver": "gpu.nvidia.com", "nodeName": "template", "pool": pool, "devices": devices}
    return [{"metadata": {"name": "template-gpu.nvidia.com"}, "spec": spec}]


def test_of_what_cluster_api_says_only_whole_gpus_without_a_word_about_their_kind_are_found():
    assert placed(claims_of("01"), of_cluster_api(slices=1)) == ["gpu-0"]
    for needs_more in ("05", "10"):
        with pytest.raises(Exception, match=r"cannot allocate|no such key"):
            placed(claims_of(needs_more), of_cluster_api(slices=1))


def test_of_what_cluster_api_says_without_a_number_of_slices_nothing_is_found():
    with pytest.raises(UnschedulableError):
        placed(claims_of("01"), of_cluster_api(slices=0))
