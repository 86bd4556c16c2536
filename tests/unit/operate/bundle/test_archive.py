"""What the archive takes, and how much of it."""

from __future__ import annotations

import io
import tarfile

from driver.operate.bundle.archive import LARGEST, Found, pack
from driver.operate.bundle.keep import CLAIM, POD, SPEC, kept


def unpacked(found: Found, **known: str) -> dict[str, str]:
    content = pack(found, top="top", known=known.values(), now=0)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {member.name: archive.extractfile(member).read().decode() for member in archive}  # type: ignore[union-attr]


def test_every_file_is_searched_for_secrets_the_list_of_what_is_missing_too() -> None:
    found = Found(files={"a.txt": "it is hunter2"}, missing={"b.txt": "hunter2\nis wrong"})

    files = unpacked(found, known="hunter2")

    assert files == {"top/a.txt": "it is [removed]", "top/missing.txt": "b.txt: [removed] is wrong\n"}


def test_of_a_file_that_is_too_long_the_end_is_kept_and_it_is_said() -> None:
    files = unpacked(Found(files={"long.log": "x" * LARGEST + "the end"}))

    assert len(files["top/long.log"]) == LARGEST
    assert files["top/long.log"].endswith("the end")
    assert files["top/missing.txt"].startswith("long.log: its beginning")


def test_of_an_object_only_what_is_listed_is_kept() -> None:
    pod = {
        "metadata": {"name": "p", "annotations": {"a": "s"}, "labels": {"a": "s"}, "managedFields": [{"s": "s"}]},
        "spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "s"}], "args": ["s"]}], "new": "s"},
        "status": {"containerStatuses": [{"lastState": {"terminated": {"exitCode": 1, "message": "s"}}}]},
    }

    assert kept(pod, POD) == {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c"}]},
        "status": {"containerStatuses": [{"lastState": {"terminated": {"exitCode": 1}}}]},
    }


def test_what_is_no_scalar_where_one_is_expected_is_not_kept() -> None:
    assert kept({"metadata": {"name": {"secret": "s"}}, "spec": "s"}, POD) == {"metadata": {"name": None}, "spec": None}


def test_parameters_are_kept_as_far_as_the_driver_accepts_them() -> None:
    good = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig", "sharing": {"strategy": "TimeSlicing"}}
    configs = [{"opaque": {"driver": "d", "parameters": value}} for value in (good, {**good, "password": "s"}, "s")]

    found = kept({"spec": {"devices": {"config": configs}}}, CLAIM)["spec"]["devices"]["config"]

    shown = [config["opaque"]["parameters"] for config in found]
    assert shown == [good, *["not shown: this driver does not accept them"] * 2]


def test_of_the_variables_in_a_spec_the_names_are_kept() -> None:
    spec = {"devices": [{"name": "d", "containerEdits": {"env": ["A=s", "B=s"]}}], "annotations": {"a": "s"}}

    assert kept(spec, SPEC) == {"devices": [{"name": "d", "containerEdits": {"env": ["A", "B"]}}]}
