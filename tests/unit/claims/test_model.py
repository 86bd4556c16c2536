"""The engine against a small model of what a node may look like, through everything that happens to a node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from driver.claims.engine import Engine
from driver.claims.errors import ClaimError, Reason
from driver.claims.ledger.record import State
from driver.hardware.fake import profile
from driver.hardware.fake.fake_backend import FakeBackend
from driver.hardware.fake.fault import inject
from driver.hardware.model import Partition
from driver.hardware.process_sharing import ComputeMode
from driver.inventory.catalogue import Device, catalogue
from driver.inventory.options import DeviceOptions, Options, Partitioning
from driver.observe.metrics import Metrics
from tests.short import short_directory

from .conftest import DRIVER, ClaimApi, Node, result

DEVICES = [
    *("gpu-0", "gpu-1", "gpu-2"),
    *("gpu-0-mig-1g10gb-19-0", "gpu-0-mig-1g10gb-19-1", "gpu-0-mig-3g40gb-9-4", "gpu-0-mig-4g40gb-5-0"),
    *("gpu-1-mig-1g10gb-19-0", "gpu-1-mig-7g80gb-0-0"),
]
SHARES = ["0b0c1d6c-1c3b-4f6e-9d0a-00000000000" + digit for digit in "12"]
NAMES = ["a", "b", "c", "d"]
KINDS = ("GpuConfig", "MigDeviceConfig")
BY_CLASS: dict[str, list[dict[str, Any]]] = {
    "b": [{"kind": kind, "sharing": {"strategy": "MPS"}} for kind in KINDS],
    "c": [{"kind": KINDS[0], "sharing": {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}}],
}
"""How the classes of some claims say that devices are shared."""
USES = st.sampled_from([{}, {}, {}, {"shareID": SHARES[0]}, {"shareID": SHARES[1]}, {"adminAccess": True}])
ALLOCATIONS = st.lists(
    st.tuples(st.sampled_from(DEVICES), USES),
    min_size=1,
    max_size=2,
    unique_by=lambda one: (one[0], "adminAccess" in one[1]),
)
FUTURE = {"fromTheFuture": {"x": 1}}
DAMAGES = ("", '{"schema": 1, "claim', '{"devices": [{}, 1], "state": "quantum"}')

PROFILE = profile.load_profile("h100x8")  # once: reading it takes longer than all that is done with it
METRICS = Metrics(driver_name=DRIVER)
OPTIONS = Options(default=DeviceOptions(partitioning=Partitioning.DYNAMIC))


class ModelNode(Node):
    """An instance on fake GPUs that are cut on demand. It does not wait for holders to end: refusals come at once."""

    def __init__(self, root: Path, api: ClaimApi, *, boot_id: str) -> None:
        super().__init__(root, api, boot_id=boot_id)
        self.hardware = FakeBackend(PROFILE, name="h100x8", state_dir=root / "plugin", boot_id=boot_id)
        self.devices = {device.name: device for device in catalogue(self.hardware.inventory(), OPTIONS)}
        self.engine = Engine(self.make_common(METRICS), api=api)  # type: ignore[arg-type]

    async def known(self) -> Any:
        return self.hardware, self.devices

    def nameable(self) -> dict[str, Device]:
        return self.devices


class NodeMachine(RuleBasedStateMachine):
    """Claims on a node with two instances of the driver. ``held`` is the model: what the kubelet was told it has."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.made = contextlib.ExitStack()
        self.directory = self.made.enter_context(short_directory())
        self.api = ClaimApi()
        self.boot = 1
        self.instances: list[ModelNode] = []
        self.claims: dict[str, dict[str, Any]] = {}
        """By UID, those that the kubelet may still unprepare, with the allocation that they have."""
        self.held: dict[str, list[dict[str, Any]]] = {}
        """By UID, the allocation with which the kubelet was answered last, until it unprepares."""
        self.told: dict[str, list[Partition]] = {}
        """By UID, the partitions that containers of those claims have got to see."""
        self.damaged: set[str] = set()
        """UIDs of claims whose record was damaged, until they are prepared again or end."""
        self.upgraded: dict[str, Any] = {}
        """By UID, the allocation of records that a newer version has written, as long as nothing has to change them."""
        self.quarantine = False
        self.faulty = False
        self.left_behind = False
        self.created = 0

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @property
    def driver(self) -> ModelNode:
        return self.instances[0]

    @initialize()
    def start(self) -> None:
        for _ in range(2):
            self.instances.append(self.run(self.begin()))

    async def begin(self) -> ModelNode:
        node = ModelNode(self.directory, self.api, boot_id=f"boot-{self.boot}")
        await node.start()
        await node.engine.restore()
        return node

    @rule(
        name=st.sampled_from(NAMES),
        allocation=ALLOCATIONS,
        together=st.none() | st.sampled_from(NAMES),
        elsewhere=st.booleans(),
    )
    def a_pod_starts(
        self, name: str, allocation: list[tuple[str, dict[str, Any]]], together: str | None, elsewhere: bool
    ) -> None:
        """A claim is created and allocated, or allocated anew under its UID (its pod was deleted by force)."""
        self.allocate(name, allocation)
        self.prepare(sorted({name, together} & self.api.claims.keys()), elsewhere)

    @precondition(lambda self: self.api.claims)
    @rule(data=st.data(), elsewhere=st.booleans())
    def a_pod_is_tried_again(self, data: st.DataObject, elsewhere: bool) -> None:
        names = st.lists(st.sampled_from(sorted(self.api.claims)), min_size=1, max_size=2, unique=True)
        self.prepare(data.draw(names), elsewhere)

    def allocate(self, name: str, allocation: list[tuple[str, dict[str, Any]]]) -> None:
        results = [result(device, request=f"r{i}", **use) for i, (device, use) in enumerate(allocation)]
        known = self.api.claims.get(name)
        self.created += known is None
        uid = known["metadata"]["uid"] if known else str(uuid.UUID(int=self.created))
        claim = {
            "metadata": {"namespace": "default", "name": name, "uid": uid},
            "status": {"allocation": {"devices": {"results": results, "config": configs(name)}}},
        }
        self.api.claims[name] = self.claims[uid] = claim

    def prepare(self, names: list[str], elsewhere: bool) -> None:
        if elsewhere:
            self.instances.reverse()
        wanted = {self.api.claims[name]["metadata"]["uid"]: self.api.claims[name] for name in names}
        refs = [("default", claim["metadata"]["name"], uid) for uid, claim in wanted.items()]

        answers = self.run(self.driver.engine.prepare(refs, seconds_left=20))

        assert set(answers) == set(wanted)
        for uid, answer in answers.items():
            results = wanted[uid]["status"]["allocation"]["devices"]["results"]
            if isinstance(answer, ClaimError):
                assert answer.reason in {Reason.IN_USE, Reason.HARDWARE, Reason.UNKNOWN_DEVICE, Reason.INVALID_REQUEST}
                assert (answer.reason is Reason.INVALID_REQUEST) <= self.impossible(results), answer
                if answer.reason is Reason.HARDWARE:
                    assert self.faulty or self.left_behind, answer
                self.upgraded.pop(uid, None)
                if self.held.get(uid) != results:
                    self.end(uid)
                continue
            assert not self.impossible(results)
            assert [device.device for device in answer] == [one["device"] for one in results]
            made = [device.partition for device in answer if device.partition is not None and not device.admin]
            if self.held.get(uid) == results:
                assert self.told[uid] == made, "what containers use has been made anew"
            else:
                self.upgraded.pop(uid, None)
            self.held[uid], self.told[uid] = results, made
            self.damaged.discard(uid)
            spec = (self.driver.cdi_root / f"k8s.{DRIVER}-claim_{uid}.json").read_text()
            names_in_spec = {one["name"] for one in json.loads(spec)["devices"]}
            assert {name.split("=")[1] for device in answer for name in device.cdi_ids} == names_in_spec
            for device in answer:
                if device.partition is not None and not device.admin:
                    assert device.partition in self.driver.hardware.partitions(device.gpu_uuid)
                    assert device.partition.uuid in spec

    # What may be drawn depends on nothing that threads have a say in: two claims of one call race.
    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        """The same call again, to whichever instance, has the same answer and changes nothing."""
        uid = data.draw(st.sampled_from(sorted(self.claims)))
        claim = self.claims[uid]
        if uid not in self.held or uid in self.damaged or self.api.claims.get(claim["metadata"]["name"]) is not claim:
            return
        if claim["status"]["allocation"]["devices"]["results"] != self.held[uid]:
            return
        before = {path.name: path.stat().st_ino for path in (self.directory / "plugin/claims").glob("*.json")}

        answer = self.run(self.driver.prepare(claim))

        assert not isinstance(answer, ClaimError), answer
        after = {path.name: path.stat().st_ino for path in (self.directory / "plugin/claims").glob("*.json")}
        assert after == before

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), gone=st.booleans())
    def unprepare(self, data: st.DataObject, gone: bool) -> None:
        """The last pod has ended, or the kubelet cleans up; the claim may be gone from the API by then, or stay."""
        uid = data.draw(st.sampled_from(sorted(self.claims)))
        claim = self.claims[uid]
        name = claim["metadata"]["name"]
        if gone and self.api.claims.get(name) is claim:
            del self.api.claims[name]

        assert self.run(self.driver.unprepare(claim)) is None

        self.end(uid)
        assert not (self.driver.cdi_root / f"k8s.{DRIVER}-claim_{uid}.json").exists()
        record = self.driver.records.read(uid)
        assert record is None or (self.faulty and record.state is State.UNDOING)
        self.left_behind |= record is not None
        if gone:
            del self.claims[uid]

    @rule(what=st.sampled_from([*"rrllnnddmmmuuxxB"]), gpu=st.sampled_from(["gpu-0", "gpu-1"]), calls=st.integers(1, 2))
    def something_happens_to_the_node(self, what: str, gpu: str, calls: int) -> None:
        match what:
            case "r":
                self.restart()
            case "l":
                self.lose_specs()
            case "n":
                self.come_back_from_a_newer_version()
            case "d":
                self.break_hardware(gpu, calls)
            case "m":
                self.mend_hardware()
            case "u":
                self.undo_what_is_left()
            case "x":
                self.damage_a_record(calls)
            case "B":
                self.reboot()

    def restart(self) -> None:
        self.instances[0] = self.run(self.begin())

    def reboot(self) -> None:
        """Nothing of the hardware's state and of the CDI directory outlives it; no container does either."""
        self.boot += 1
        shutil.rmtree(self.directory / "cdi")
        for uid in tuple(self.held):
            self.end(uid)
        self.upgraded.clear()
        self.faulty = False
        self.instances = [self.run(self.begin()) for _ in range(2)]

    def lose_specs(self) -> None:
        """Somebody empties the CDI directory; an instance that starts writes what is needed again."""
        shutil.rmtree(self.directory / "cdi")
        self.restart()

    def come_back_from_a_newer_version(self) -> None:
        """An upgrade that is taken back: its records have fields that we do not know, and keep."""
        for path in self.files():
            raw = json.loads(path.read_text())
            raw |= {"schema": 2, "devices": [device | FUTURE for device in raw["devices"]], **FUTURE}
            path.with_suffix(".new").write_text(json.dumps(raw))
            path.with_suffix(".new").rename(path)
            if raw["bootID"] == f"boot-{self.boot}":
                self.upgraded[path.stem] = raw["allocation"]
        self.instances = [self.run(self.begin()) for _ in range(2)]

    def damage_a_record(self, number: int) -> None:
        """Something writes nonsense into a record while one of the instances is away."""
        prepared = [path for path in self.files() if path.stem in self.held and path.stem not in self.damaged]
        if len(prepared) < number:
            return
        path = prepared[number - 1]
        damage = DAMAGES[self.created % len(DAMAGES)]
        if "TimeSlicing" in path.read_text():  # nothing but the record tells of a time slice
            return
        path.unlink()
        path.write_text(damage)
        self.quarantine = True
        self.damaged.add(path.stem)
        self.upgraded.pop(path.stem, None)
        self.restart()

    def files(self) -> list[Path]:
        return sorted((self.directory / "plugin/claims").glob("*.json"))

    def end(self, uid: str) -> None:
        """What the claim was told counts no more."""
        self.held.pop(uid, None)
        self.told.pop(uid, None)
        self.upgraded.pop(uid, None)
        self.damaged.discard(uid)

    def break_hardware(self, gpu: str, calls: int) -> None:
        inject(self.directory / "plugin", boot_id=f"boot-{self.boot}", device=gpu, fail_next=calls)
        self.faulty = True

    def mend_hardware(self) -> None:
        for gpu in ("gpu-0", "gpu-1"):
            inject(self.directory / "plugin", boot_id=f"boot-{self.boot}", device=gpu, clear=True)
        self.faulty = False

    def undo_what_is_left(self) -> None:
        """What the driver does every ten seconds."""

        async def once() -> None:
            task = asyncio.create_task(self.driver.engine.undo_leftovers())
            await asyncio.sleep(0.01)
            await asyncio.gather(*self.driver.engine._undo.tasks.values())
            task.cancel()

        self.run(once())

    @invariant()
    def nobody_has_what_somebody_else_has(self) -> None:
        if not self.instances:
            return
        devices = self.driver.devices
        held = [(uid, one) for uid, results in self.held.items() for one in results if not one.get("adminAccess")]
        for index, (uid, one) in enumerate(held):
            for other_uid, other in held[index + 1 :]:
                if uid == other_uid:
                    continue
                mine, theirs = devices[one["device"]], devices[other["device"]]
                if mine.gpu.uuid != theirs.gpu.uuid or not mine.slots & theirs.slots:
                    continue
                shared = one["device"] == other["device"] and one.get("shareID") and other.get("shareID")
                assert shared, (one, other)
                assert one["shareID"] != other["shareID"], (one, other)

    @invariant()
    def what_is_held_exists(self) -> None:
        if not self.instances:
            return
        for uid, results in self.held.items():
            record = self.driver.records.read(uid)
            assert record is not None
            for partition in self.told[uid]:
                assert partition in self.driver.hardware.partitions(partition.gpu_uuid), (uid, results)
            for device in record.devices:
                sharing = device.sharing
                if sharing is not None and sharing.daemon and record.state is State.PREPARED:
                    assert self.driver.hardware.mps_runs(sharing.daemon), (uid, results)
                if sharing is not None and device.whole and sharing.changes and record.state is State.PREPARED:
                    mode = self.driver.hardware.compute_mode(device.gpu_uuid)
                    interval = self.driver.hardware.time_slice(device.gpu_uuid)
                    exclusive = ComputeMode.EXCLUSIVE_PROCESS if sharing.daemon else ComputeMode.DEFAULT
                    assert (mode, interval) == (exclusive, sharing.interval), (uid, results)

    @invariant()
    def what_a_newer_version_wrote_is_there(self) -> None:
        for path in self.files() if self.upgraded else ():
            raw = json.loads(path.read_text())
            if self.upgraded.get(path.stem) == raw["allocation"]:
                assert all(one.items() >= FUTURE.items() for one in (raw, *raw["devices"])), raw

    def impossible(self, results: list[dict[str, Any]]) -> bool:
        """Whether one claim asks for the same hardware as two devices, which a scheduler never allocates."""
        used = [one for one in results if not one.get("adminAccess")]
        if len(used) < 2:
            return False
        one, other = (self.driver.devices[result["device"]] for result in used)
        return one.gpu.uuid == other.gpu.uuid and not one.slots.isdisjoint(other.slots)

    def teardown(self) -> None:
        """In the end every claim is unprepared, the hardware is well, and nothing is left."""
        try:
            if self.instances:
                self.mend_hardware()
                for uid, claim in list(self.claims.items()):
                    assert self.run(self.driver.unprepare(claim)) is None
                    self.end(uid)
                self.undo_what_is_left()
                assert not self.files()
                assert self.driver.spec_files() == []
                self.driver.hardware.inventory()  # another instance may have changed what this one remembers
                left = self.driver.hardware._state
                assert not left.mps
                assert not left.compute_mode
                assert not left.time_slice
                for gpu in self.driver.hardware.inventory().gpus:
                    assert gpu.partitions == ()
                assert self.quarantine == (self.directory / "plugin/quarantine").exists()
        finally:
            self.loop.close()
            self.made.close()


def configs(name: str) -> list[dict[str, Any]]:
    version = {"apiVersion": "resource.nvidia.com/v1beta1"}
    return [
        {"source": "FromClass", "opaque": {"driver": DRIVER, "parameters": {**version, **parameters}}}
        for parameters in BY_CLASS.get(name, [])
    ]


SETTINGS = settings(stateful_step_count=25, suppress_health_check=list(HealthCheck), print_blob=False, database=None)


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """What is logged in thousands of lives is of no use, and takes its time."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_a_node_through_its_life_agrees_with_the_model() -> None:
    run_state_machine_as_test(NodeMachine, settings=settings(SETTINGS, max_examples=30))


@pytest.mark.long
def test_a_node_through_many_lives_agrees_with_the_model() -> None:
    run_state_machine_as_test(NodeMachine, settings=settings(SETTINGS, max_examples=2000))
