"""What the kubelet can rely on when it calls NodePrepareResources and NodeUnprepareResources."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driver.base import files
from driver.claims.errors import ClaimError, Reason
from driver.claims.ledger.record import State
from driver.claims.read import CONCURRENT_READS
from driver.kube.client import ApiError
from tests.eventually import eventually

from .conftest import DRIVER, ClaimApi, Node, gpu, result


async def test_a_prepared_claim_has_a_record_a_spec_and_an_answer(node: Node, allocated: Any) -> None:
    claim = allocated(result("gpu-2"))

    devices = await node.prepare(claim)

    uid = claim["metadata"]["uid"]
    assert [(d.requests, d.pool, d.device, d.share_id) for d in devices] == [(("gpu",), "node-1", "gpu-2", None)]
    assert devices[0].cdi_ids == (f"k8s.{DRIVER}/claim={uid}-gpu-2",)
    assert node.spec_files() == [f"k8s.{DRIVER}-claim_{uid}.json"]
    assert node.records.read(uid) is not None


async def test_the_spec_holds_the_edits_of_each_device_under_the_answered_name(node: Node, allocated: Any) -> None:
    claim = allocated(result("gpu-0"), result("gpu-1", request="second"))

    await node.prepare(claim)

    spec = json.loads((node.cdi_root / node.spec_files()[0]).read_text())
    uid = claim["metadata"]["uid"]
    assert spec["kind"] == f"k8s.{DRIVER}/claim"
    assert spec["containerEdits"] == {"env": ["COMMON=1"]}
    assert [d["name"] for d in spec["devices"]] == [f"{uid}-gpu-0", f"{uid}-gpu-1"]
    assert spec["devices"][1]["containerEdits"]["deviceNodes"][0]["path"] == "/dev/nvidia1"


async def test_the_answer_names_the_base_request_of_a_subrequest(node: Node, allocated: Any) -> None:
    devices = await node.prepare(allocated(result(request="gpu/big")))

    assert devices[0].requests == ("gpu",)


async def test_devices_of_other_drivers_are_left_to_them(node: Node, allocated: Any) -> None:
    devices = await node.prepare(allocated(result("nic-0", driver="net.example.com"), result("gpu-0")))

    assert [d.device for d in devices] == ["gpu-0"]


async def test_the_same_call_again_gets_the_same_answer_and_writes_nothing(node: Node, allocated: Any) -> None:
    claim = allocated()
    first = await node.prepare(claim)
    spec = node.cdi_root / node.spec_files()[0]
    before = spec.stat().st_ino, (node.records._directory / f"{claim['metadata']['uid']}.json").stat().st_ino

    second = await node.prepare(claim)

    after = spec.stat().st_ino, (node.records._directory / f"{claim['metadata']['uid']}.json").stat().st_ino
    assert second == first
    assert after == before


async def test_a_lost_spec_is_written_again(node: Node, allocated: Any) -> None:
    claim = allocated()
    await node.prepare(claim)
    (node.cdi_root / node.spec_files()[0]).unlink()

    await node.prepare(claim)

    assert len(node.spec_files()) == 1


async def test_the_whole_cdi_root_may_vanish(node: Node, allocated: Any) -> None:
    await node.prepare(allocated(result("gpu-0"), name="first"))
    for path in sorted(node.cdi_root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()

    devices = await node.prepare(allocated(result("gpu-1"), name="second"))

    assert devices[0].device == "gpu-1"
    assert len(node.spec_files()) == 1


async def test_unprepare_leaves_nothing(node: Node, allocated: Any) -> None:
    claim = allocated()
    await node.prepare(claim)

    outcome = await node.unprepare(claim)

    assert outcome is None
    assert node.spec_files() == []
    assert node.records.read(claim["metadata"]["uid"]) is None
    assert len(node.records) == 0


async def test_unprepare_of_a_claim_that_was_never_prepared_succeeds_without_the_api(
    node: Node, api: ClaimApi, allocated: Any
) -> None:
    outcome = await node.unprepare(allocated())

    assert outcome is None
    assert api.gets == 0


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (lambda c: c["metadata"].update(uid="other"), Reason.REPLACED, "has been replaced"),
        (lambda c: c["status"].clear(), Reason.NOT_ALLOCATED, "is not allocated"),
        (
            lambda c: c["status"]["allocation"]["devices"]["results"][0].update(driver="net.example.com"),
            Reason.NOT_OURS,
            "its devices belong to: net.example.com",
        ),
        (
            lambda c: c["status"]["allocation"]["devices"]["results"][0].update(device="gpu-9"),
            Reason.UNKNOWN_DEVICE,
            "pool 'node-1' has: gpu-0, gpu-1, gpu-2, gpu-3",
        ),
        (
            lambda c: c["status"]["allocation"]["devices"]["results"][0].update(pool="node-2"),
            Reason.UNKNOWN_DEVICE,
            "pool 'node-2'",
        ),
    ],
)
async def test_a_claim_that_does_not_fit_is_refused_with_the_reason(
    node: Node, api: ClaimApi, allocated: Any, change: Any, reason: Reason, words: str
) -> None:
    claim = allocated()
    asked = json.loads(json.dumps(claim))
    change(api.claims["claim"])

    error = await node.prepare(asked)

    assert isinstance(error, ClaimError)
    assert error.reason is reason
    assert words in str(error)
    assert node.spec_files() == []


async def test_a_missing_claim_is_an_error_and_not_asked_for_again(node: Node, api: ClaimApi, allocated: Any) -> None:
    claim = allocated()
    api.claims.clear()

    error = await node.prepare(claim)

    assert error.reason is Reason.NOT_FOUND
    assert api.gets == 1


async def test_a_forbidden_read_says_which_permission_is_missing(node: Node, api: ClaimApi, allocated: Any) -> None:
    claim = allocated()
    api.errors = [ApiError(403, "forbidden", reason="Forbidden")]

    error = await node.prepare(claim)

    assert "needs the verb 'get' on 'resourceclaims' of resource.k8s.io" in str(error)


async def test_a_server_that_stumbles_is_asked_again(node: Node, api: ClaimApi, allocated: Any) -> None:
    claim = allocated()
    api.errors = [ApiError(503, "busy"), ApiError(0, "connection refused"), ApiError(429, "slow down", retry_after=0)]

    devices = await node.prepare(claim)

    assert devices[0].device == "gpu-0"
    assert api.gets == 4


async def test_a_server_that_stays_away_is_given_up_before_the_kubelet_does(
    node: Node, api: ClaimApi, allocated: Any
) -> None:
    claim = allocated()
    api.errors = [ApiError(503, "busy")] * 1000

    error = await node.prepare(claim, seconds_left=3.2)

    assert error.reason is Reason.API
    assert "busy" in str(error)


async def test_a_caller_that_has_no_time_left_is_not_kept(node: Node, api: ClaimApi, allocated: Any) -> None:
    api.errors = [ApiError(503, "away") for _ in range(100)]

    error = await node.prepare(allocated(), seconds_left=0)

    assert error.reason is Reason.API


async def test_a_claim_behind_many_others_that_are_stuck_is_answered_in_time(
    node: Node, api: ClaimApi, allocated: Any
) -> None:
    stuck = asyncio.Event()
    api.on_get = stuck.wait
    others = [asyncio.create_task(node.prepare(allocated(name=f"c-{n}"))) for n in range(CONCURRENT_READS)]
    await eventually(lambda: api.gets == CONCURRENT_READS)

    error = await node.prepare(allocated(name="late"), seconds_left=3.2)

    assert error.reason is Reason.API
    stuck.set()
    await asyncio.gather(*others)


async def test_a_first_reading_at_the_hardware_that_does_not_end_is_told_before_the_kubelet_gives_up(
    node: Node, allocated: Any
) -> None:
    async def look() -> Any:
        await asyncio.Event().wait()

    node.known = look  # type: ignore[method-assign]

    error = await node.prepare(allocated(), seconds_left=3.1)

    assert error.reason is Reason.DEADLINE
    assert "its first look at the GPUs does not end" in str(error)


async def test_a_call_that_comes_while_many_answers_of_the_server_arrive_does_not_wait_for_all_of_them(
    api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    node = await Node(tmp_path, api, gpus=21).start()
    answered = asyncio.Event()
    api.on_get = answered.wait
    early = [asyncio.create_task(node.prepare(allocated(result(f"gpu-{i}"), name=f"claim-{i}"))) for i in range(20)]
    await eventually(lambda: api.gets == 20)

    done_when_it_came: list[int] = []

    async def note() -> None:
        done_when_it_came.append(sum(task.done() for task in early))

    answered.set()
    await asyncio.wait(early, return_when=asyncio.FIRST_COMPLETED)
    api.on_get = note
    [device] = await node.prepare(allocated(result("gpu-20"), name="late"))

    assert device.device == "gpu-20"
    assert done_when_it_came[0] < 10
    await asyncio.gather(*early)


async def test_one_bad_claim_does_not_fail_the_batch(node: Node, allocated: Any) -> None:
    good = allocated(name="good")
    uid = good["metadata"]["uid"]

    answers = await node.engine.prepare(
        [("default", "good", uid), ("default", "missing", "uid-2"), ("../..", "x", "uid-3"), ("a", "b", "../../etc")],
        seconds_left=45,
    )

    assert [d.device for d in answers[uid]] == ["gpu-0"]
    assert answers["uid-2"].reason is Reason.NOT_FOUND
    assert answers["uid-3"].reason is Reason.INVALID_REQUEST
    assert answers["../../etc"].reason is Reason.INVALID_REQUEST


@pytest.mark.parametrize(
    ("namespace", "name", "uid"),
    [
        ("default", "x" * 10_000, "uid"),
        ("default", "a/b", "uid"),
        ("default", "..", "uid"),
        ("n" * 64, "name", "uid"),
        ("default", "name", "a" * 10_000),
        ("default", "name", "."),
        ("default", "name", ""),
        ("", "name", "uid"),
        ("default", "name", "uid\n"),
        ("default", "name", "u\x00id"),
    ],
)
@pytest.mark.parametrize("operation", ["prepare", "unprepare"])
async def test_names_that_are_unsafe_are_refused_and_touch_no_file(
    node: Node, tmp_path: Path, namespace: str, name: str, uid: str, operation: str
) -> None:
    before = sorted(tmp_path.rglob("*"))

    if operation == "prepare":
        answers: Any = await node.engine.prepare([(namespace, name, uid)], seconds_left=45)
    else:
        answers = await node.engine.unprepare([(namespace, name, uid)])

    assert answers[uid].reason is Reason.INVALID_REQUEST
    assert len(str(answers[uid])) < 300
    assert sorted(tmp_path.rglob("*")) == before


async def test_a_device_that_another_claim_holds_is_refused_with_the_holders_name(node: Node, allocated: Any) -> None:
    await node.prepare(allocated(name="holder"))

    error = await node.prepare(allocated(name="second"))

    assert error.reason is Reason.IN_USE
    assert "still held by claim default/holder" in str(error)


async def test_a_device_is_free_again_after_its_holder_is_unprepared(node: Node, allocated: Any) -> None:
    holder = allocated(name="holder")
    await node.prepare(holder)
    await node.unprepare(holder)

    devices = await node.prepare(allocated(name="second"))

    assert devices[0].device == "gpu-0"


async def test_of_two_claims_at_once_for_one_device_exactly_one_gets_it(node: Node, allocated: Any) -> None:
    first, second = allocated(name="first"), allocated(name="second")

    outcomes = await asyncio.gather(node.prepare(first), node.prepare(second))

    assert sorted(isinstance(outcome, ClaimError) for outcome in outcomes) == [False, True]


async def test_admin_access_is_never_exclusive(node: Node, allocated: Any) -> None:
    await node.prepare(allocated(name="holder"))

    devices = await node.prepare(allocated(result(adminAccess=True), name="monitor"))

    assert devices[0].device == "gpu-0"


async def test_a_holder_with_admin_access_is_in_nobodys_way(node: Node, allocated: Any) -> None:
    await node.prepare(allocated(result(adminAccess=True), name="monitor"))

    devices = await node.prepare(allocated(name="worker"))

    assert devices[0].device == "gpu-0"


async def test_shares_of_one_device_go_together_and_keep_their_ids(node: Node, allocated: Any) -> None:
    await node.prepare(allocated(result(shareID="share-1"), name="first"))

    devices = await node.prepare(allocated(result(shareID="share-2"), name="second"))

    assert devices[0].share_id == "share-2"
    assert devices[0].cdi_ids[0].endswith("-gpu-0-share-2")


async def test_a_whole_device_is_refused_while_a_share_of_it_is_held(node: Node, allocated: Any) -> None:
    await node.prepare(allocated(result(shareID="share-1"), name="first"))

    error = await node.prepare(allocated(name="second"))

    assert error.reason is Reason.IN_USE


async def test_a_new_allocation_under_the_same_uid_gets_its_own_devices(
    node: Node, api: ClaimApi, allocated: Any
) -> None:
    claim = allocated(result("gpu-0"))
    await node.prepare(claim)
    api.claims["claim"]["status"]["allocation"]["devices"]["results"] = [result("gpu-3")]

    devices = await node.prepare(claim)

    spec = json.loads((node.cdi_root / node.spec_files()[0]).read_text())
    assert [d.device for d in devices] == ["gpu-3"]
    assert [d["name"] for d in spec["devices"]] == [f"{claim['metadata']['uid']}-gpu-3"]


async def test_the_old_device_is_free_after_a_new_allocation(node: Node, api: ClaimApi, allocated: Any) -> None:
    claim = allocated(result("gpu-0"))
    await node.prepare(claim)
    api.claims["claim"]["status"]["allocation"]["devices"]["results"] = [result("gpu-3")]
    await node.prepare(claim)

    devices = await node.prepare(allocated(result("gpu-0"), name="next"))

    assert devices[0].device == "gpu-0"


async def test_of_two_calls_the_one_that_read_a_former_allocation_does_not_undo_the_other(
    node: Node, api: ClaimApi, allocated: Any
) -> None:
    claim = allocated(result("gpu-0"))
    of_the_past = json.loads(json.dumps(claim))
    answered = asyncio.Event()

    async def late() -> None:
        api.on_get = None
        await answered.wait()
        api.claims["claim"], api.on_get = of_the_past, now

    async def now() -> None:
        api.claims["claim"] = claim

    api.on_get = late
    early = asyncio.create_task(node.prepare(claim))
    await eventually(lambda: api.gets == 1)
    claim["status"]["allocation"]["devices"]["results"] = [result("gpu-3")]
    await node.prepare(claim)

    answered.set()
    [device] = await early

    assert device.device == "gpu-3"
    assert [held.device for held in node.records.read(claim["metadata"]["uid"]).devices] == ["gpu-3"]  # type: ignore[union-attr]


async def test_an_unprepare_that_overtakes_a_prepare_makes_it_look_again(
    node: Node, api: ClaimApi, allocated: Any
) -> None:
    claim = allocated()

    async def overtake() -> None:
        if api.gets == 1:
            await node.unprepare(claim)
            del api.claims["claim"]
            api.errors = [ApiError(503, "stumble")]

    api.on_get = overtake
    error = await node.prepare(claim)

    assert error.reason is Reason.NOT_FOUND
    assert node.spec_files() == []


async def test_a_restarted_driver_gives_the_same_answer(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated()
    first = await node.prepare(claim)

    restarted = await Node(tmp_path, api).start()

    assert await restarted.prepare(claim) == first


async def test_a_restarted_driver_knows_who_holds_what(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    await node.prepare(allocated(name="holder"))
    restarted = await Node(tmp_path, api).start()

    error = await restarted.prepare(allocated(name="second"))

    assert error.reason is Reason.IN_USE


async def test_either_of_two_instances_can_take_any_call(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    other = await Node(tmp_path, api).start()
    holder = allocated(name="holder")

    await node.prepare(holder)
    refused = await other.prepare(allocated(name="second"))
    await other.unprepare(holder)
    devices = await node.prepare(allocated(name="third"))

    assert refused.reason is Reason.IN_USE
    assert devices[0].device == "gpu-0"


async def test_after_a_reboot_the_claim_is_prepared_from_scratch(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated()
    await node.prepare(claim)
    (node.cdi_root / node.spec_files()[0]).unlink()

    rebooted = await Node(tmp_path, api, boot_id="boot-2").start()
    devices = await rebooted.prepare(claim)

    record = rebooted.records.read(claim["metadata"]["uid"])
    assert devices[0].device == "gpu-0"
    assert record is not None
    assert record.boot_id == "boot-2"


async def test_a_record_of_before_a_reboot_holds_nothing(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    await node.prepare(allocated(name="holder"))
    rebooted = await Node(tmp_path, api, boot_id="boot-2").start()

    devices = await rebooted.prepare(allocated(name="second"))

    assert devices[0].device == "gpu-0"


async def test_a_damaged_record_is_set_aside_and_the_claim_prepared_again(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated()
    await node.prepare(claim)
    record = tmp_path / "plugin" / "claims" / f"{claim['metadata']['uid']}.json"
    record.write_text('{"schema": 1, "claim')

    restarted = await Node(tmp_path, api).start()
    devices = await restarted.prepare(claim)

    assert devices[0].device == "gpu-0"
    assert [path.read_text() for path, _ in restarted.quarantined] == ['{"schema": 1, "claim']


async def test_unknown_fields_of_a_newer_version_survive_a_rewrite(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated()
    await node.prepare(claim)
    path = tmp_path / "plugin" / "claims" / f"{claim['metadata']['uid']}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fromTheFuture": [1, 2]}))

    devices = await node.prepare(claim)

    assert devices[0].device == "gpu-0"
    assert json.loads(path.read_text())["fromTheFuture"] == [1, 2]


async def test_a_cdi_directory_that_cannot_be_written_is_a_clear_error_and_cured_by_the_next_try(
    node: Node, allocated: Any
) -> None:
    claim = allocated()
    obstacle = node.specs.path(claim["metadata"]["uid"])
    obstacle.mkdir()  # root ignores permission bits; a directory in the way stops even root

    error = await node.prepare(claim)
    obstacle.rmdir()
    devices = await node.prepare(claim)

    assert error.reason is Reason.CDI
    assert str(obstacle) in str(error)
    assert devices[0].device == "gpu-0"


class Wishes:
    """Notes whose status is to be written."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def want(self, record: Any) -> None:
        self.names.append(record.claim.name)


async def test_a_claim_whose_spec_is_only_written_by_the_second_try_gets_its_status_too(
    api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    wishes = Wishes()
    node = await Node(tmp_path, api, status=wishes).start()
    claim = allocated()
    staging = node.cdi_root / f".{DRIVER}"
    staging.rmdir()
    staging.touch()  # nothing can be staged in a file

    error = await node.prepare(claim)
    staging.unlink()
    await node.prepare(claim)

    assert error.reason is Reason.CDI
    assert wishes.names == ["claim"]


async def test_a_thousand_claims_in_one_call_each_get_an_answer(node: Node, api: ClaimApi, allocated: Any) -> None:
    claims = [allocated(result(f"gpu-{i % 4}", adminAccess=True), name=f"claim-{i}") for i in range(1000)]

    answers = await node.engine.prepare(
        [("default", c["metadata"]["name"], c["metadata"]["uid"]) for c in claims], seconds_left=45
    )

    assert len(answers) == 1000
    assert not [a for a in answers.values() if isinstance(a, ClaimError)]


async def test_a_restart_writes_lost_specs_again_before_anybody_asks(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    await node.prepare(allocated())
    [spec] = node.spec_files()
    (node.cdi_root / spec).unlink()
    restarted = await Node(tmp_path, api).start()

    await restarted.engine.restore()

    assert restarted.spec_files() == [spec]


async def test_after_a_reboot_specs_wait_for_the_kubelet_to_ask(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    await node.prepare(allocated())
    (node.cdi_root / node.spec_files()[0]).unlink()
    rebooted = await Node(tmp_path, api, boot_id="boot-2").start()

    await rebooted.engine.restore()

    assert rebooted.spec_files() == []


async def held_and_wanted(node: Node, api: ClaimApi, allocated: Any) -> tuple[dict[str, Any], asyncio.Task[Any]]:
    """A claim that holds the GPU, and the prepare of another one that waits for it."""
    holder = allocated(name="holder")
    await node.prepare(holder)
    second = asyncio.create_task(node.prepare(allocated(name="second")))
    await eventually(lambda: api.gets == 2)
    return holder, second


async def test_a_device_whose_holder_is_just_ending_is_waited_for(
    api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    node = await Node(tmp_path, api, patience=10).start()
    holder, second = await held_and_wanted(node, api, allocated)

    await node.unprepare(holder)

    assert [device.device for device in await second] == ["gpu-0"]


async def test_how_long_a_device_was_waited_for_is_a_phase_of_its_own(
    api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    node = await Node(tmp_path, api, patience=10).start()
    holder, second = await held_and_wanted(node, api, allocated)

    await node.unprepare(holder)
    await second

    waits = node.common.told.metrics.registry.get_sample_value(
        "gpu_dra_prepare_phase_duration_seconds_count", {"phase": "device_wait"}
    )
    assert waits == 1


async def test_a_device_that_the_other_instance_releases_is_noticed(
    api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    node = await Node(tmp_path, api, patience=10).start()
    other = await Node(tmp_path, api).start()
    holder, second = await held_and_wanted(node, api, allocated)

    await other.unprepare(holder)

    assert [device.device for device in await second] == ["gpu-0"]


async def test_a_damaged_record_that_cannot_be_set_aside_fails_its_claim_alone(
    node: Node, api: ClaimApi, tmp_path: Path, allocated: Any
) -> None:
    claim = allocated()
    await node.prepare(claim)
    (tmp_path / "plugin" / "claims" / f"{claim['metadata']['uid']}.json").write_text("damaged")
    (tmp_path / "plugin" / "quarantine").write_text("in the way")
    restarted = await Node(tmp_path, api).start()

    error = await restarted.prepare(claim)
    devices = await restarted.prepare(allocated(result("gpu-1"), name="other"))

    assert error.reason is Reason.RECORD
    assert "cannot be set aside" in str(error)
    assert devices[0].device == "gpu-1"


ODD = [None, True, -1, "", [], {}, "../x", "\ud800", "x" * 100_000, [None]]


@pytest.mark.parametrize("found", ODD, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize(
    "field",
    ["request", "driver", "pool", "device", "adminAccess", "shareID", "consumedCapacity", "consumedCapacity.memory"],
)
async def test_an_odd_answer_of_the_api_server_is_an_error_that_goes_over_the_wire_or_changes_nothing(
    api: ClaimApi, tmp_path: Path, allocated: Any, field: str, found: Any
) -> None:
    node = await Node(tmp_path, api, enforce_shares=True).start()
    node.inventory["gpu-0"] = replace(node.inventory["gpu-0"], gpu=replace(gpu(0), memory_bytes=10 << 30))
    claim = allocated(result(shareID="share-1", consumedCapacity={"memory": "1Gi"}))
    parent = claim["status"]["allocation"]["devices"]["results"][0]
    *path, last = field.split(".")
    for part in path:
        parent = parent[part]
    parent[last] = found

    outcome = await node.prepare(claim)

    if isinstance(outcome, ClaimError):
        assert outcome.reason is not Reason.INTERNAL
        assert len(str(outcome).encode()) < 2000
    else:
        assert found in (None, {}, True)
    assert await node.unprepare(claim) is None
    assert node.spec_files() == []
    assert len(node.records) == 0


@pytest.mark.parametrize(
    ("path", "found", "words"),
    [
        ("metadata", "x", "the claim.metadata is 'x', an object is expected"),
        ("status", 7, "the claim.status is 7, an object is expected"),
        ("status.allocation", ["x"], "status.allocation is a list, an object is expected"),
        ("status.allocation.devices", "x", "status.allocation.devices is 'x'"),
        ("status.allocation.devices.results", {"a": 1}, "devices.results is an object, a list is expected"),
        ("status.allocation.devices.results.0", "x", "results[] is 'x', an object is expected"),
        ("status.allocation.devices.results.0.request", "../x", "results[].request is '../x', a name, or two"),
        ("status.allocation.devices.results.0.consumedCapacity", {"memory": "NaN"}, "is 'NaN', a quantity such as"),
        ("status.allocation.devices.config", [None], "config[] is missing, an object is expected"),
        ("status.allocation.devices.config.0.opaque", "x", "config[].opaque is 'x', an object is expected"),
        ("status.allocation.devices.config.0.opaque.parameters", [1], "opaque.parameters is a list, an object"),
        ("status.allocation.devices.config.0.requests", "gpu", "config[].requests is 'gpu', a list is expected"),
        ("status.allocation.devices.config.0.requests", [[]], "config[].requests[] is a list, a name is expected"),
    ],
)
async def test_an_answer_of_another_form_than_the_api_has_is_refused_with_the_field_what_is_there_and_what_should_be(
    node: Node, api: ClaimApi, allocated: Any, path: str, found: Any, words: str
) -> None:
    claim = allocated(config=[{"source": "FromClaim", "opaque": {"driver": DRIVER, "parameters": {}}}])
    ref = json.loads(json.dumps(claim))
    parent: Any = api.claims
    last: Any = "claim"
    for part in filter(None, path.split(".")):
        parent, last = parent[last], int(part) if part.isdigit() else part
    parent[last] = found

    error = await node.prepare(ref)

    assert error.reason is Reason.API
    assert words in str(error)


async def test_fields_that_this_version_does_not_know_change_nothing(node: Node, allocated: Any) -> None:
    [device] = await node.prepare(allocated(result(fromTheFuture={"a": [1]}), fromTheFuture=[{}]))

    assert device.device == "gpu-0"


async def test_a_claim_whose_containers_would_not_start_is_refused_until_they_would(node: Node, allocated: Any) -> None:
    claim = allocated(result("gpu-0"))
    node.backend.missing = "/usr/lib64/libcuda.so.570.124.06"

    refused = await node.prepare(claim)

    assert isinstance(refused, ClaimError)
    assert refused.reason is Reason.HARDWARE
    assert "its containers need /usr/lib64/libcuda.so.570.124.06, which is gone from the node" in str(refused)
    assert (node.spec_files(), node.records.read(claim["metadata"]["uid"])) == ([], None)
    node.backend.missing = ""
    assert [device.device for device in await node.prepare(claim)] == ["gpu-0"]


@pytest.fixture(params=["under a file", "without permission"])
def break_cdi_root(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Node], None]:
    """Makes the CDI root of a node one that cannot be used."""

    def breaking(node: Node) -> None:
        if request.param == "under a file":
            node.cdi_root.rename(node.cdi_root.with_suffix(".away"))
            node.cdi_root.write_text("")
        else:
            refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            for name in ("status", "read"):
                monkeypatch.setattr(files, name, _raising_below(node.cdi_root, refused, getattr(files, name)))

    return breaking


async def test_a_claim_without_a_record_is_unprepared_whatever_the_cdi_root_is_like(
    node: Node, allocated: Any, break_cdi_root: Callable[[Node], None]
) -> None:
    break_cdi_root(node)

    assert await node.unprepare(allocated()) is None


async def test_a_claim_is_unprepared_whatever_the_cdi_root_is_like_and_its_spec_goes_when_that_is_possible(
    node: Node, allocated: Any, monkeypatch: pytest.MonkeyPatch, break_cdi_root: Callable[[Node], None]
) -> None:
    claim = allocated()
    await node.prepare(claim)
    break_cdi_root(node)

    assert await node.unprepare(claim) is None

    [record] = node.records
    assert record.state is State.UNDOING
    monkeypatch.undo()
    if node.cdi_root.is_file():
        node.cdi_root.unlink()
        node.cdi_root.with_suffix(".away").rename(node.cdi_root)
    leftovers = asyncio.create_task(node.engine.undo_leftovers())
    await eventually(lambda: len(node.records) == 0)
    leftovers.cancel()
    assert node.spec_files() == []


def _raising_below(root: Path, error: OSError, plain: Callable[..., Any]) -> Callable[..., Any]:
    def call(path: str, **options: Any) -> Any:
        if path.startswith(f"{root}{os.sep}"):
            raise error
        return plain(path, **options)

    return call
