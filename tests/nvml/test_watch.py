"""What is said of GPUs that go wrong, and of those that are well again."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from driver.hardware.backend import BackendError
from driver.hardware.model import Cause, Cleared, Event, Fault, InventoryChanged, Occurred
from driver.hardware.nvml.watch_gpus import TOLD_BY_READING
from driver.health.conditions import Condition, Conditions, fold
from driver.health.xids import Severity
from tests.eventually import PATIENCE
from tests.nvml.standin import DOUBLE_BIT, RECOVERY_ACTION, XID

if TYPE_CHECKING:
    from collections.abc import Callable

    from driver.hardware.nvml import NvmlBackend
    from tests.nvml.conftest import Build, Open
    from tests.nvml.standin import World

LOST = Fault(cause=Cause.GPU_LOST)


class Health:
    """Conditions as the driver keeps them, from a backend's events."""

    def __init__(self, backend: NvmlBackend, conditions: Conditions | None = None) -> None:
        self.backend = backend
        self.conditions: Conditions = conditions or {}
        self.inventory_changes = 0
        backend.inventory()
        self.look()

    def look(self, timeout: float = 0) -> tuple[Event, ...]:
        events = self.backend.wait_for_events(timeout)
        for event in events:
            self.conditions = fold(self.conditions, event, time.time())
            if isinstance(event, InventoryChanged):
                self.inventory_changes += 1
                self.backend.inventory()  # as the driver does
        return events

    def until(self, wanted: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not wanted():
            assert time.monotonic() < deadline, self.conditions
            self.look(0.05)

    def severity(self, uuid: str, xid: int) -> Severity | None:
        """How bad an XID of a GPU is; None where there is none such."""
        found = [c.severity for c in self.conditions.get(uuid, ()) if c.fault.detail == str(xid)]
        return found[0] if found else None

    def of(self, uuid: str) -> set[str]:
        """What is wrong with a GPU: ``cause`` or ``cause=detail``."""
        found = [condition.fault for condition in self.conditions.get(uuid, ())]
        return {f"{fault.cause}={fault.detail}" if fault.detail else str(fault.cause) for fault in found}


@pytest.fixture
def health(machine: World, open_nvml: Open) -> Health:
    """Two GPUs that are well."""
    machine.add()
    machine.add()
    return Health(open_nvml(machine))


def test_gpus_that_are_well_are_said_to_be(machine: World, open_nvml: Open) -> None:
    uuid = machine.add()

    assert open_nvml(machine).wait_for_events(0) == (Cleared(gpu_uuid=uuid),)


def test_an_xid_is_told_at_once_and_of_its_gpu(machine: World, open_nvml: Open) -> None:
    machine.add()
    uuid = machine.add()
    backend = open_nvml(machine, check_seconds=60.0)
    backend.wait_for_events(0)

    threading.Timer(0.05, lambda: machine.happen(1, XID, 79)).start()

    (event,) = backend.wait_for_events(20)
    assert event == Occurred(gpu_uuid=uuid, fault=Fault(cause=Cause.XID, detail="79"), recovery="none")


@pytest.mark.parametrize(("gi", "slots"), [(9, {6}), (2, {0, 1, 2, 3}), (0xFFFFFFFF, None), (5, None)])
def test_an_xid_that_is_laid_to_an_instance_is_of_its_memory_slices(
    machine: World, open_nvml: Open, gi: int, slots: set[int] | None
) -> None:
    uuid = machine.add()
    machine.cut(0, "1g.10gb", 6, gi=9)
    machine.cut(0, "3g.40gb", 0, gi=2)
    health = Health(open_nvml(machine))

    machine.happen(0, XID, 94, gi=gi, ci=0)

    health.until(lambda: health.of(uuid) == {"xid=94"})
    [condition] = health.conditions[uuid]
    assert condition.fault.slots == slots


def test_a_library_that_knows_no_instances_lays_nothing_to_them(build: Build, open_nvml: Open) -> None:
    machine = build(missing=frozenset({"nvmlEventSetWait_v2"}))
    uuid = machine.add()
    machine.cut(0, "1g.10gb", 6, gi=0)
    health = Health(open_nvml(machine))

    machine.happen(0, XID, 94)

    health.until(lambda: health.of(uuid) == {"xid=94"})
    [condition] = health.conditions[uuid]
    assert condition.fault.slots is None


def test_a_memory_error_is_told(machine: World, health: Health) -> None:
    first, _ = machine.uuids()
    machine.set({f"gpu.0.field.{RECOVERY_ACTION}": 1})

    machine.happen(0, DOUBLE_BIT)

    health.until(lambda: {"ecc=double-bit", "repair=gpu-reset"} <= health.of(first))


def test_only_what_a_gpu_supports_is_asked_for(machine: World, open_nvml: Open) -> None:
    uuid = machine.add(events=XID)  # registering for more is an error
    health = Health(open_nvml(machine))

    machine.happen(0, XID, 48)

    health.until(lambda: "xid=48" in health.of(uuid))
    assert "unmonitored" not in health.of(uuid)


@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("nvmlDeviceGetSupportedEventTypes", 3),
        ("nvmlDeviceRegisterEvents", 3),
        ("nvmlDeviceRegisterEvents", 4),
        ("nvmlDeviceRegisterEvents", 999),
    ],
)
def test_a_gpu_without_events_is_unmonitored_and_the_others_are_not(
    machine: World, open_nvml: Open, function: str, code: int
) -> None:
    odd, well = machine.add(), machine.add()
    machine.fail(function, code, gpu=0)

    health = Health(open_nvml(machine))

    assert (health.of(odd), health.of(well)) == ({"unmonitored"}, set())


@pytest.mark.parametrize(
    "missing", ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents", "nvmlDeviceGetSupportedEventTypes"]
)
def test_without_events_gpus_are_looked_at(build: Build, open_nvml: Open, missing: str) -> None:
    machine = build(missing=frozenset({missing}))
    uuid = machine.add()
    health = Health(open_nvml(machine))
    assert health.of(uuid) == {"unmonitored"}

    machine.set({"gpu.0.lost": 1})

    health.until(lambda: health.of(uuid) == {"gpu-lost"})


def test_only_the_gpu_that_is_lost_is_blamed_and_once(machine: World, health: Health) -> None:
    _, second = machine.uuids()
    machine.set({"gpu.1.lost": 1})

    health.until(lambda: "gpu-lost" in health.of(second))

    assert set(health.conditions) == {second}
    assert health.look() == ()
    assert health.inventory_changes == 1


@pytest.mark.parametrize("account", [0, None])
def test_a_gpu_that_is_back_is_lost_no_longer(machine: World, open_nvml: Open, account: int | None) -> None:
    machine.add(**{f"field.{RECOVERY_ACTION}": account})
    uuid = machine.uuids()[0]
    health = Health(open_nvml(machine))
    machine.set({"gpu.0.lost": 1})
    health.until(lambda: health.of(uuid) == {"gpu-lost"})

    machine.set({"gpu.0.lost": 0})

    health.until(lambda: not health.of(uuid) and health.inventory_changes > 1)
    machine.happen(0, XID, 62)
    health.until(lambda: "xid=62" in health.of(uuid))


def test_a_loss_that_only_the_hardware_would_tell_is_noticed(machine: World, health: Health) -> None:
    first, _ = machine.uuids()  # names are remembered by NVML, also those of a GPU that is gone
    machine.fail("nvmlDeviceGetTemperature", 15, gpu=0)

    health.until(lambda: health.of(first) == {"gpu-lost"})


def test_a_gpu_that_others_hide_from_its_uuid_is_well_and_usable(machine: World, health: Health) -> None:
    first, second = machine.uuids()

    machine.set({"gpu.0.lost": 1})  # the search for any UUID meets it
    health.look()

    assert (health.of(first), health.of(second)) == ({"gpu-lost"}, set())
    assert health.backend.processes(second) == 0


@pytest.mark.parametrize("code", [2, 4, 11, 15, 999])
def test_a_gpu_that_cannot_be_had_by_its_uuid_is_had_by_its_index(machine: World, health: Health, code: int) -> None:
    (first, second) = machine.uuids()

    machine.fail("nvmlDeviceGetHandleByUUID", code)
    health.look()

    assert (health.of(first), health.of(second)) == (set(), set())


def test_a_gpu_that_does_not_answer_for_a_moment_is_not_lost(machine: World, health: Health) -> None:
    first, _ = machine.uuids()
    machine.fail("nvmlDeviceGetHandleByUUID", 999)
    machine.fail("nvmlDeviceGetHandleByIndex_v2", 999)
    health.until(lambda: health.of(first) == {"incomplete=no-answer"})

    machine.fail("nvmlDeviceGetHandleByUUID", None)
    machine.fail("nvmlDeviceGetHandleByIndex_v2", None)

    health.until(lambda: not health.of(first))


def test_what_a_gpu_asks_for_is_told_until_it_is_mended(machine: World, health: Health) -> None:
    first, _ = machine.uuids()
    machine.set({f"gpu.0.field.{RECOVERY_ACTION}": 4})
    health.until(lambda: health.of(first) == {"repair=drain-and-reset"})

    machine.set({f"gpu.0.field.{RECOVERY_ACTION}": 99})
    health.until(lambda: health.of(first) == {"repair=action-99"})

    machine.set({f"gpu.0.field.{RECOVERY_ACTION}": 0})
    health.until(lambda: not health.of(first))


@pytest.mark.parametrize(
    ("rows", "told"), [("1 0 1 0", "repair=row-remap-pending"), ("1 1 1 1", "repair=row-remap-failed"), ("9 9 0 0", "")]
)
def test_memory_rows_that_are_to_be_replaced_or_cannot_be(machine: World, health: Health, rows: str, told: str) -> None:
    first, _ = machine.uuids()
    machine.set({"gpu.0.remapped": rows})

    health.look()

    assert health.of(first) == ({told} if told else set())


def test_pages_of_older_gpus(machine: World, open_nvml: Open) -> None:
    uuid = machine.add(remapped=None, retired_pending=1)

    assert Health(open_nvml(machine)).of(uuid) == {"repair=page-retirement-pending"}


def test_an_xid_is_over_when_the_gpu_asks_for_nothing_a_while_later(machine: World, open_nvml: Open) -> None:
    uuid = machine.add()
    patient = Health(open_nvml(machine, settle_seconds=60.0))
    machine.happen(0, XID, 31)
    patient.until(lambda: patient.of(uuid) == {"xid=31"})
    for _ in range(3):
        patient.look()
    assert patient.of(uuid) == {"xid=31"}

    hasty = Health(open_nvml(machine, settle_seconds=0.0))
    machine.happen(0, XID, 31)

    hasty.until(lambda: hasty.of(uuid) == {"xid=31"})
    hasty.until(lambda: not hasty.of(uuid))


def test_an_xid_is_as_bad_as_what_the_gpu_asks_for(machine: World, open_nvml: Open) -> None:
    uuid = machine.add()
    health = Health(open_nvml(machine, settle_seconds=60.0))
    machine.happen(0, XID, 500)
    health.until(lambda: health.severity(uuid, 500) is Severity.INFORMATION)

    machine.set({f"gpu.0.field.{RECOVERY_ACTION}": 4})
    health.until(lambda: health.severity(uuid, 500) is Severity.DEGRADED)

    machine.set({f"gpu.0.field.{RECOVERY_ACTION}": 1})
    machine.happen(0, XID, 31)
    health.until(lambda: health.severity(uuid, 31) is Severity.UNUSABLE)
    health.until(lambda: health.severity(uuid, 500) is Severity.UNUSABLE)


def test_an_xid_is_as_bad_as_the_table_says_where_the_gpu_gives_no_account(machine: World, silent: Health) -> None:
    (uuid,) = machine.uuids()
    for xid in (95, 500):
        machine.happen(0, XID, xid)

    silent.until(lambda: silent.severity(uuid, 500) is Severity.DEGRADED)

    assert silent.severity(uuid, 95) is Severity.UNUSABLE


@pytest.fixture
def silent(machine: World, open_nvml: Open) -> Health:
    """One GPU that gives no account of what it needs."""
    machine.add(**{f"field.{RECOVERY_ACTION}": None})
    return Health(open_nvml(machine))


def test_what_needs_a_reset_stays_on_a_gpu_that_gives_no_account_until_it_was_reset(
    machine: World, silent: Health
) -> None:
    (uuid,) = machine.uuids()
    for xid in (31, 48, 500):
        machine.happen(0, XID, xid)
    silent.until(lambda: {"xid=48", "xid=500"} <= silent.of(uuid))

    silent.until(lambda: silent.of(uuid) == {"xid=48", "xid=500"})
    for _ in range(3):
        silent.look()
    assert silent.of(uuid) == {"xid=48", "xid=500"}

    machine.set({"gpu.0.lost": 1})
    silent.until(lambda: silent.of(uuid) == {"xid=48", "xid=500", "gpu-lost"})
    machine.set({"gpu.0.lost": 0})
    silent.until(lambda: not silent.of(uuid))


@pytest.mark.parametrize("xid", [31, 94])
def test_what_ends_with_a_program_is_over_a_while_later_also_without_an_account(
    machine: World, open_nvml: Open, silent: Health, xid: int
) -> None:
    (uuid,) = machine.uuids()
    patient = Health(open_nvml(machine, settle_seconds=60.0))

    machine.happen(0, XID, xid, gi=5)

    silent.until(lambda: silent.of(uuid) == {f"xid={xid}"})
    silent.until(lambda: not silent.of(uuid))
    patient.until(lambda: patient.of(uuid) == {f"xid={xid}"})
    for _ in range(3):
        patient.look()
    assert patient.of(uuid) == {f"xid={xid}"}


def test_what_ends_with_a_program_is_over_after_a_restart(machine: World, open_nvml: Open, silent: Health) -> None:
    (uuid,) = machine.uuids()
    before = {uuid: tuple(Condition(fault=Fault(cause=Cause.XID, detail=str(n)), since=1) for n in (94, 48))}

    again = Health(open_nvml(machine), before)

    again.until(lambda: again.of(uuid) == {"xid=48"})


def test_time_is_up_without_events(health: Health) -> None:
    started = time.monotonic()

    assert health.look(0.3) == ()
    assert time.monotonic() - started >= 0.2  # nobody spins


def test_a_library_that_does_not_wait_keeps_nobody_busy(machine: World, open_nvml: Open) -> None:
    machine.add()
    backend = open_nvml(machine, check_seconds=60.0)
    backend.wait_for_events(0)
    machine.fail("nvmlEventSetWait_v2", 10)
    calls = 0
    call = backend._library.call

    def counted(function: str, *arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        return call(function, *arguments, **options)

    backend._library.call = counted  # type: ignore[method-assign]

    assert backend.wait_for_events(0.6) == ()
    assert calls <= 4


@pytest.mark.parametrize("code", [3, 10, 15])
def test_events_that_go_on_failing_neither_spin_nor_flood_the_log(
    machine: World, open_nvml: Open, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    machine.add()
    lost = machine.add()
    backend = open_nvml(machine, check_seconds=60.0)
    backend.wait_for_events(0)
    machine.set({"gpu.1.lost": int(code == 15)})
    machine.fail("nvmlEventSetWait_v2", code)
    found = [event for _ in range(3) for event in backend.wait_for_events(0)]
    caplog.clear()
    before = time.monotonic()

    assert [event for _ in range(2) for event in backend.wait_for_events(0.3)] == []

    assert time.monotonic() - before >= 0.6
    assert not caplog.messages
    assert (Cleared(gpu_uuid=lost, remaining=frozenset({LOST}), causes=TOLD_BY_READING) in found) == (code == 15)


def test_a_session_that_ends_as_soon_as_it_has_begun_is_an_error(machine: World, health: Health) -> None:
    machine.fail("nvmlDeviceRegisterEvents", 18)
    machine.set(generation=1)
    health.look()

    for _ in range(3):
        with pytest.raises(BackendError, match="started anew as soon as"):  # whoever waits makes a pause then
            health.look()

    machine.fail("nvmlDeviceRegisterEvents", None)
    health.until(lambda: health.backend.wait_for_events(0) == ())


def test_a_broken_event_mechanism_is_an_error_until_it_works(machine: World, health: Health) -> None:
    first, _ = machine.uuids()
    machine.fail("nvmlEventSetWait_v2", 999)
    for _ in range(3):
        with pytest.raises(BackendError, match="waiting for NVML events failed"):
            health.look(0.1)

    machine.fail("nvmlEventSetWait_v2", None)
    health.look()
    machine.happen(0, XID, 31)

    health.until(lambda: "xid=31" in health.of(first))


def test_events_that_are_not_supported_after_all_are_done_without(machine: World, health: Health) -> None:
    first, _ = machine.uuids()
    machine.fail("nvmlEventSetWait_v2", 3)

    health.until(lambda: health.of(first) == {"unmonitored"})


def test_what_an_administrator_cuts_is_noticed_once(machine: World, health: Health) -> None:
    machine.cut(0, "1g.10gb", 4, gi=3)

    health.until(lambda: health.inventory_changes == 1)
    assert [p.start for gpu in health.backend.inventory().gpus for p in gpu.partitions] == [4]
    assert health.look() == ()

    machine.set({"gpu.0.gi.3": None, "gpu.0.ci.3.0": None})
    health.until(lambda: health.inventory_changes == 2)
    assert not any(gpu.partitions for gpu in health.backend.inventory().gpus)


def test_a_closed_backend_does_not_wait(health: Health) -> None:
    health.backend.close()

    assert health.look(60) == ()


def test_closing_ends_a_wait(health: Health) -> None:
    threading.Timer(0.1, health.backend.close).start()

    assert health.look(60) == ()


@pytest.mark.parametrize("code", [None, 3])
def test_processes_are_counted(machine: World, health: Health, code: int | None) -> None:
    first, _ = machine.uuids()
    machine.set({"gpu.0.processes": "17 23 42"})
    machine.fail("nvmlDeviceGetGraphicsRunningProcesses_v3", code)

    assert health.backend.processes(first) == 3


def test_processes_that_cannot_be_told_are_an_error(machine: World, health: Health) -> None:
    first, _ = machine.uuids()
    machine.fail("nvmlDeviceGetComputeRunningProcesses_v3", 999)

    with pytest.raises(BackendError, match="does not tell its processes"):
        health.backend.processes(first)
