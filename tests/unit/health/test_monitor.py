import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from driver.hardware.backend import BackendError
from driver.hardware.fake import profile
from driver.hardware.fake.fake_backend import FakeBackend
from driver.hardware.fake.fault import inject
from driver.hardware.model import Cause, Cleared, Fault, InventoryChanged, Occurred
from driver.health.conditions import Condition
from driver.health.monitor import Monitor
from driver.health.store import CONDITIONS_FILE, ConditionStore
from tests.eventually import PATIENCE, eventually

GPU = "GPU-1"
LOST = Fault(cause=Cause.GPU_LOST)
ECC = Fault(cause=Cause.ECC, detail="double-bit")
BOOT = "boot-1"


class ScriptedBackend:
    """Gives what the test puts in, raises what is an exception, and blocks while there is nothing."""

    def __init__(self, *script) -> None:
        self.script = deque(script)
        self.calls = 0
        self.release = threading.Event()

    def wait_for_events(self, timeout: float):
        self.calls += 1
        if not self.script:
            self.release.wait(timeout)
            return ()
        item = self.script.popleft()
        if isinstance(item, BaseException):
            raise item
        return item

    def processes(self, gpu_uuid: str) -> int:
        raise BackendError("nobody asks")


class Watcher:
    def __init__(self, backend, directory: Path, **options) -> None:
        self.seen: list[dict[str, set[Fault]]] = []
        self.inventory_changes = 0
        options = {
            "wait_seconds": 0.2,
            "first_backoff": 0.001,
            "clock": lambda: 1000.5,
            "changed": self._changed,
        } | options
        self.monitor = Monitor(
            backend,
            store=ConditionStore(directory, boot_id=BOOT),
            gpu_uuids=[GPU],
            inventory_changed=self._inventory_changed,
            **options,
        )

    def _changed(self, conditions) -> None:
        self.seen.append({uuid: {c.fault for c in present} for uuid, present in conditions.items()})

    def _inventory_changed(self) -> None:
        self.inventory_changes += 1

    async def until(self, predicate: Callable[[], bool]) -> None:
        await eventually(predicate)


@asynccontextmanager
async def watching(backend, directory: Path, **options):
    watcher = Watcher(backend, directory, **options)
    task = asyncio.create_task(watcher.monitor.run())
    try:
        yield watcher
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if hasattr(backend, "release"):
            backend.release.set()


def blind(faults) -> bool:
    return any(fault.cause is Cause.UNMONITORED for fault in faults)


async def test_events_become_conditions_and_are_told(tmp_path):
    async with watching(ScriptedBackend((Occurred(gpu_uuid=GPU, fault=LOST),)), tmp_path) as watcher:
        await watcher.until(lambda: bool(watcher.seen))

    assert watcher.seen == [{GPU: {LOST}}]
    assert watcher.monitor.conditions == {GPU: (Condition(fault=LOST, since=1000),)}


async def test_events_of_one_call_are_told_at_once(tmp_path):
    events = (Occurred(gpu_uuid=GPU, fault=LOST), Occurred(gpu_uuid=GPU, fault=ECC))
    async with watching(ScriptedBackend(events), tmp_path) as watcher:
        await watcher.until(lambda: bool(watcher.seen))

    assert watcher.seen == [{GPU: {LOST, ECC}}]


async def test_nothing_is_told_when_nothing_changes(tmp_path):
    again = (Occurred(gpu_uuid=GPU, fault=LOST),)
    backend = ScriptedBackend(again, again, (Cleared(gpu_uuid=GPU), *again), again)
    async with watching(backend, tmp_path) as watcher:
        await watcher.until(lambda: backend.calls > 4)

    assert watcher.seen == [{GPU: {LOST}}]


async def test_a_changed_inventory_is_told(tmp_path):
    async with watching(ScriptedBackend((InventoryChanged(),)), tmp_path) as watcher:
        await watcher.until(lambda: watcher.inventory_changes == 1)

    assert watcher.seen == []


async def test_beginnings_outlive_a_restart(tmp_path):
    event = (Occurred(gpu_uuid=GPU, fault=LOST),)
    async with watching(ScriptedBackend(event), tmp_path) as watcher:
        await watcher.until(lambda: bool(watcher.seen))

    backend = ScriptedBackend(event)
    async with watching(backend, tmp_path, clock=lambda: 2000.0) as watcher:
        await watcher.until(lambda: backend.calls > 1)

    assert watcher.monitor.conditions[GPU][0].since == 1000


async def test_conditions_are_there_before_the_first_event(tmp_path):
    ConditionStore(tmp_path, boot_id=BOOT).save({GPU: (Condition(fault=ECC, since=7),)})

    assert Watcher(ScriptedBackend(), tmp_path).monitor.conditions == {GPU: (Condition(fault=ECC, since=7),)}


async def test_a_backend_that_raises_is_tried_again(tmp_path, caplog):
    backend = ScriptedBackend(BackendError("driver is away"), (Occurred(gpu_uuid=GPU, fault=LOST),))
    async with watching(backend, tmp_path) as watcher:
        await watcher.until(lambda: bool(watcher.seen))

    assert watcher.seen == [{GPU: {LOST}}]
    assert "watching the GPUs failed" in caplog.text
    assert "driver is away" in caplog.text


@pytest.mark.parametrize("error", [BackendError("away"), ZeroDivisionError(), StopIteration()])
async def test_a_backend_that_keeps_raising_leaves_the_gpus_unmonitored_until_it_works(tmp_path, error):
    backend = ScriptedBackend(error, error, error, (Occurred(gpu_uuid=GPU, fault=ECC),))
    async with watching(backend, tmp_path) as watcher:
        await watcher.until(lambda: len(watcher.seen) == 2)

    assert blind(watcher.seen[0][GPU])
    assert watcher.seen[1] == {GPU: {ECC}}


async def test_a_backend_that_only_raises_does_not_spin(tmp_path):
    backend = ScriptedBackend(*[BackendError("away")] * 10_000)
    started = time.monotonic()
    async with watching(backend, tmp_path, first_backoff=0.05) as watcher:
        await watcher.until(lambda: backend.calls == 4)

    assert time.monotonic() - started >= 0.8 * (0.05 + 0.1 + 0.2)


async def test_a_backend_that_returns_at_once_does_not_spin(tmp_path):
    backend = ScriptedBackend(*[()] * 10_000)
    started = time.monotonic()
    async with watching(backend, tmp_path, wait_seconds=0.2) as watcher:
        await watcher.until(lambda: backend.calls == 4)

    assert time.monotonic() - started >= 3 * 0.1


async def test_a_hanging_backend_is_reported_and_does_not_hold_up_the_end(tmp_path):
    backend = ScriptedBackend()
    backend.wait_for_events = lambda timeout: backend.release.wait(60) and ()
    async with watching(backend, tmp_path, wait_seconds=0.01, hung_seconds=0.01) as watcher:
        await watcher.until(lambda: bool(watcher.seen))
        assert blind(watcher.seen[0][GPU])

        backend.release.set()
        await watcher.until(lambda: len(watcher.seen) == 2)

    assert watcher.seen[1] == {}


async def test_unmonitored_from_an_earlier_process_ends_with_the_first_success(tmp_path):
    error = BackendError("away")
    async with watching(ScriptedBackend(error, error, error), tmp_path) as watcher:
        await watcher.until(lambda: bool(watcher.seen))
        before = watcher.monitor.conditions
    ConditionStore(tmp_path, boot_id=BOOT).save(before)

    async with watching(ScriptedBackend(()), tmp_path) as watcher:
        await watcher.until(lambda: bool(watcher.seen))

    assert watcher.seen == [{}]


async def test_a_listener_that_fails_does_not_end_the_watch(tmp_path, caplog):
    def fail(_conditions) -> None:
        raise ValueError("no")

    backend = ScriptedBackend((Occurred(gpu_uuid=GPU, fault=LOST),), (Occurred(gpu_uuid=GPU, fault=ECC),))
    async with watching(backend, tmp_path, changed=fail) as watcher:
        await watcher.until(lambda: len(watcher.monitor.conditions.get(GPU, ())) == 2)

    assert "telling others of a change failed" in caplog.text


async def test_conditions_that_cannot_be_saved_are_saved_later(tmp_path, caplog):
    directory = tmp_path / "plugin"
    backend = ScriptedBackend((Occurred(gpu_uuid=GPU, fault=LOST),))
    async with watching(backend, directory, wait_seconds=0.02) as watcher:
        await watcher.until(lambda: backend.calls > 3)
        directory.mkdir()
        await watcher.until((directory / CONDITIONS_FILE).exists)

    assert ConditionStore(directory, boot_id=BOOT).load() == watcher.monitor.conditions
    assert caplog.text.count("conditions are not saved") == 1


async def test_first_reading_is_set_when_present_faults_are_known(tmp_path):
    async with watching(ScriptedBackend((Occurred(gpu_uuid=GPU, fault=LOST),)), tmp_path) as watcher:
        async with asyncio.timeout(PATIENCE):
            await watcher.monitor.first_reading.wait()

        assert GPU in watcher.monitor.conditions


async def test_with_fake_devices_end_to_end(tmp_path):
    backend = FakeBackend(profile.load_profile("h100x8"), name="h100x8", state_dir=tmp_path, boot_id=BOOT)
    uuid = backend.inventory().by_name()["gpu-3"].uuid
    async with watching(backend, tmp_path) as watcher:
        async with asyncio.timeout(PATIENCE):
            await watcher.monitor.first_reading.wait()
        inject(tmp_path, boot_id=BOOT, device="gpu-3", xid=79)
        await watcher.until(lambda: len(watcher.seen) == 1)
        inject(tmp_path, boot_id=BOOT, device="gpu-3", clear=True)
        await watcher.until(lambda: len(watcher.seen) == 2)
    backend.close()

    assert watcher.seen == [{uuid: {Fault(cause=Cause.XID, detail="79")}}, {}]
