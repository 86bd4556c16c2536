"""Device metadata: what a container finds about its devices, and where."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from driver.claims.metadata import MetadataFiles

from .conftest import DRIVER, ClaimApi, Node, result

if TYPE_CHECKING:
    from pathlib import Path

ATTRIBUTES = {"uuid": {"string": "GPU-0"}}
ROOT = "/var/run/kubernetes.io/dra-device-attributes"


@pytest.fixture
async def node(tmp_path: Path, api: ClaimApi) -> Node:
    published: Any = lambda _name: {"attributes": ATTRIBUTES}  # noqa: E731
    files = MetadataFiles(tmp_path / "metadata", published=published)
    return await Node(tmp_path, api, metadata=files).start()


def mounts(node: Node, device: int = 0) -> list[dict[str, Any]]:
    spec = json.loads((node.cdi_root / node.spec_files()[0]).read_text())
    found: list[dict[str, Any]] = spec["devices"][device]["containerEdits"].get("mounts", [])
    return found


def objects(root: Path, claim: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of a file, as a reader takes them from a stream of JSON."""
    text = (root / "metadata" / claim["metadata"]["uid"] / "gpu" / "metadata.json").read_text()
    found, at = [], 0
    while text[at:].strip():
        obj, at = json.JSONDecoder().raw_decode(text, at + len(text[at:]) - len(text[at:].lstrip()))
        found.append(obj)
    return found


async def test_a_container_finds_the_file_by_the_claims_name(node: Node, allocated: Any) -> None:
    await node.prepare(allocated())

    assert [m["containerPath"] for m in mounts(node)] == [f"{ROOT}/resourceclaims/claim/gpu/{DRIVER}-metadata.json"]


async def test_a_claim_from_a_template_is_found_by_the_pods_name_for_it(node: Node, allocated: Any) -> None:
    claim = allocated()
    claim["metadata"]["annotations"] = {"resource.kubernetes.io/pod-claim-name": "my-gpu"}

    await node.prepare(claim)

    assert mounts(node)[0]["containerPath"] == f"{ROOT}/resourceclaimtemplates/my-gpu/gpu/{DRIVER}-metadata.json"


async def test_an_annotation_cannot_lead_out_of_the_directory(node: Node, allocated: Any) -> None:
    claim = allocated()
    claim["metadata"]["annotations"] = {"resource.kubernetes.io/pod-claim-name": "../../../etc"}

    await node.prepare(claim)

    assert mounts(node)[0]["containerPath"].startswith(f"{ROOT}/resourceclaims/claim/")


async def test_the_file_says_which_devices_a_request_got(node: Node, allocated: Any, tmp_path: Path) -> None:
    claim = allocated()

    await node.prepare(claim)

    newest, *_ = objects(tmp_path, claim)
    assert newest == {
        "kind": "DeviceMetadata",
        "apiVersion": "metadata.resource.k8s.io/v1beta1",
        "metadata": {"name": "claim", "namespace": "default", "uid": claim["metadata"]["uid"], "generation": 1},
        "requests": [
            {
                "name": "gpu",
                "devices": [{"driver": DRIVER, "pool": "node-1", "name": "gpu-0", "attributes": ATTRIBUTES}],
            }
        ],
    }


async def test_the_file_is_a_stream_of_all_versions_the_newest_first(
    node: Node, allocated: Any, tmp_path: Path
) -> None:
    claim = allocated()

    await node.prepare(claim)

    newest, older = objects(tmp_path, claim)
    versions = [found.pop("apiVersion").rpartition("/")[2] for found in (newest, older)]
    assert versions == ["v1beta1", "v1alpha1"]
    assert newest == older


async def test_of_alternatives_the_file_names_the_one_that_was_chosen(
    node: Node, allocated: Any, tmp_path: Path
) -> None:
    claim = allocated(result(request="gpu/small"))

    await node.prepare(claim)

    content, *_ = objects(tmp_path, claim)
    assert [request["name"] for request in content["requests"]] == ["gpu/small"]
    assert mounts(node)[0]["containerPath"] == f"{ROOT}/resourceclaims/claim/gpu/{DRIVER}-metadata.json"


async def test_only_the_first_device_of_a_request_brings_the_file(node: Node, allocated: Any) -> None:
    await node.prepare(allocated(result("gpu-0"), result("gpu-1")))

    assert (len(mounts(node, 0)), len(mounts(node, 1))) == (1, 0)


async def test_each_request_has_a_file_of_its_own(node: Node, allocated: Any) -> None:
    await node.prepare(allocated(result("gpu-0", request="a"), result("gpu-1", request="b")))

    assert [m["containerPath"].split("/")[-2] for m in mounts(node, 0) + mounts(node, 1)] == ["a", "b"]


async def test_unprepare_removes_the_files(node: Node, allocated: Any, tmp_path: Path) -> None:
    claim = allocated()
    await node.prepare(claim)

    await node.unprepare(claim)

    assert list((tmp_path / "metadata").iterdir()) == []


async def test_a_file_that_cannot_be_written_does_not_fail_the_claim(
    node: Node, allocated: Any, tmp_path: Path
) -> None:
    (tmp_path / "metadata").write_text("in the way")

    devices = await node.prepare(allocated())

    assert devices[0].device == "gpu-0"
    assert mounts(node) == []


async def test_without_the_switch_there_is_no_file(tmp_path: Path, api: ClaimApi, allocated: Any) -> None:
    node = await Node(tmp_path, api).start()

    await node.prepare(allocated())

    assert mounts(node) == []
