import json
import threading
import time
from pathlib import Path

import pytest

from driver.hardware.backend import BackendError
from driver.hardware.fake import profile
from driver.hardware.fake.fake_backend import FakeBackend
from driver.hardware.fake.fault import ChangeError, inject
from driver.hardware.fake.state_file import MAX_XIDS, STATE_FILE
from driver.hardware.model import Account, Cause, Cleared, Event, Fault, Occurred, Quiet
from tests.eventually import PATIENCE

BOOT = "boot-1"


def start(directory: Path, name: str = "h100x8", boot_id: str = BOOT) -> FakeBackend:
    return FakeBackend(profile.load_profile(name), name=name, state_dir=directory, boot_id=boot_id)


@pytest.fixture
def backend(tmp_path: Path) -> FakeBackend:
    backend = start(tmp_path)
    backend.wait_for_events(0)
    return backend


def uuid_of(backend: FakeBackend, device: str) -> str:
    return backend.inventory().by_name()[device].uuid


def xid(number: int) -> Fault:
    return Fault(cause=Cause.XID, detail=str(number))


LOST = Fault(cause=Cause.GPU_LOST)
ECC = Fault(cause=Cause.ECC, detail="double-bit")


def faults_after(events: tuple[Event, ...]) -> dict[str, set[Fault]]:
    result: dict[str, set[Fault]] = {}
    for event in events:
        if isinstance(event, Occurred):
            result.setdefault(event.gpu_uuid, set()).add(event.fault)
        elif isinstance(event, Cleared):
            result[event.gpu_uuid] = set(event.remaining)
    return result


def test_first_call_reports_the_state_of_every_gpu(tmp_path):
    backend = start(tmp_path)

    events = backend.wait_for_events(0)

    assert faults_after(events) == {gpu.uuid: set() for gpu in backend.inventory().gpus}


def test_nothing_happens_without_faults(backend):
    assert backend.wait_for_events(0) == ()


def test_an_injected_xid_is_reported(backend, tmp_path):
    inject(tmp_path, boot_id=BOOT, device="gpu-3", xid=79)

    assert backend.wait_for_events(PATIENCE) == (Occurred(gpu_uuid=uuid_of(backend, "gpu-3"), fault=xid(79)),)


def test_a_waiting_thread_notices_a_fault(backend, tmp_path):
    seen: list[tuple[Event, ...]] = []
    thread = threading.Thread(target=lambda: seen.append(backend.wait_for_events(PATIENCE)))
    thread.start()

    started = time.monotonic()
    inject(tmp_path, boot_id=BOOT, device="gpu-3", lost=True)
    thread.join(PATIENCE)

    assert seen == [(Occurred(gpu_uuid=uuid_of(backend, "gpu-3"), fault=LOST),)]
    assert time.monotonic() - started < PATIENCE / 2


def test_an_xid_that_repeats_happens_again(backend, tmp_path):
    for _ in range(2):
        inject(tmp_path, boot_id=BOOT, device="gpu-3", xid=31)
        assert backend.wait_for_events(PATIENCE) == (Occurred(gpu_uuid=uuid_of(backend, "gpu-3"), fault=xid(31)),)


def test_several_faults_at_once(backend, tmp_path):
    inject(tmp_path, boot_id=BOOT, device="gpu-0", ecc=True, lost=True, xid=79)
    inject(tmp_path, boot_id=BOOT, device="gpu-1", xid=13)

    assert faults_after(backend.wait_for_events(PATIENCE)) == {
        uuid_of(backend, "gpu-0"): {xid(79), ECC, LOST},
        uuid_of(backend, "gpu-1"): {xid(13)},
    }


def test_a_lost_gpu_stays_in_the_inventory(backend, tmp_path):
    inject(tmp_path, boot_id=BOOT, device="gpu-3", lost=True)

    assert len(backend.inventory().gpus) == 8


def test_clearing_is_reported(backend, tmp_path):
    inject(tmp_path, boot_id=BOOT, device="gpu-3", xid=79, ecc=True)
    backend.wait_for_events(PATIENCE)

    inject(tmp_path, boot_id=BOOT, device="gpu-3", clear=True)

    assert backend.wait_for_events(PATIENCE) == (Cleared(gpu_uuid=uuid_of(backend, "gpu-3")),)


def test_clear_and_another_fault_in_one_go(backend, tmp_path):
    inject(tmp_path, boot_id=BOOT, device="gpu-3", ecc=True)
    backend.wait_for_events(PATIENCE)

    inject(tmp_path, boot_id=BOOT, device="gpu-3", clear=True, xid=13)

    assert faults_after(backend.wait_for_events(PATIENCE)) == {uuid_of(backend, "gpu-3"): {xid(13)}}


def test_a_gpu_asks_for_what_it_is_told_to(backend, tmp_path):
    uuid = uuid_of(backend, "gpu-3")
    repair = Fault(cause=Cause.REPAIR, detail="drain-and-reset")
    backend.wait_for_events(0)
    inject(tmp_path, boot_id=BOOT, device="gpu-3", xid=500, recovery="drain-and-reset")

    assert backend.wait_for_events(PATIENCE) == (
        Occurred(gpu_uuid=uuid, fault=xid(500), recovery="drain-and-reset"),
        Occurred(gpu_uuid=uuid, fault=repair),
        Account(gpu_uuid=uuid, recovery="drain-and-reset"),
    )


def test_a_gpu_that_gives_no_account_becomes_quiet_until_the_next_error(backend, tmp_path):
    uuid = uuid_of(backend, "gpu-3")
    backend.wait_for_events(0)
    inject(tmp_path, boot_id=BOOT, device="gpu-3", xid=94, quiet=True)

    assert backend.wait_for_events(PATIENCE) == (Occurred(gpu_uuid=uuid, fault=xid(94)), Quiet(gpu_uuid=uuid))
    assert Quiet(gpu_uuid=uuid) in start(tmp_path).wait_for_events(0)
    inject(tmp_path, boot_id=BOOT, device="gpu-3", xid=95)
    assert backend.wait_for_events(PATIENCE) == (Occurred(gpu_uuid=uuid, fault=xid(95)),)


def test_a_quiet_gpu_that_asks_for_nothing_is_well(backend, tmp_path):
    uuid = uuid_of(backend, "gpu-3")
    backend.wait_for_events(0)
    inject(tmp_path, boot_id=BOOT, device="gpu-3", xid=48, ecc=True, recovery="none", quiet=True)

    assert backend.wait_for_events(PATIENCE)[-1] == Cleared(gpu_uuid=uuid)


def test_faults_outlive_the_process(backend, tmp_path):
    inject(tmp_path, boot_id=BOOT, device="gpu-3", lost=True)

    events = start(tmp_path).wait_for_events(0)

    assert faults_after(events)[uuid_of(backend, "gpu-3")] == {LOST}


def test_what_was_cleared_while_no_driver_ran_is_reported_at_start(backend, tmp_path):
    inject(tmp_path, boot_id=BOOT, device="gpu-3", lost=True)
    inject(tmp_path, boot_id=BOOT, device="gpu-3", clear=True)

    assert Cleared(gpu_uuid=uuid_of(backend, "gpu-3")) in start(tmp_path).wait_for_events(0)


def test_a_reboot_mends_everything(backend, tmp_path):
    inject(tmp_path, boot_id=BOOT, device="gpu-3", lost=True, latency_ms=50)

    after = start(tmp_path, boot_id="boot-2")

    assert not any(faults_after(after.wait_for_events(0)).values())
    assert after.latency(uuid_of(backend, "gpu-3")) == 0


def test_a_fault_injected_after_a_reboot_before_the_driver_starts(backend, tmp_path):
    inject(tmp_path, boot_id=BOOT, device="gpu-3", lost=True)
    inject(tmp_path, boot_id="boot-2", device="gpu-4", ecc=True)

    faults = faults_after(start(tmp_path, boot_id="boot-2").wait_for_events(0))

    assert {uuid: f for uuid, f in faults.items() if f} == {uuid_of(backend, "gpu-4"): {ECC}}


def test_latency_is_per_gpu(backend, tmp_path):
    inject(tmp_path, boot_id=BOOT, device="gpu-3", latency_ms=250)
    backend.wait_for_events(0)

    assert backend.latency(uuid_of(backend, "gpu-3")) == 0.25
    assert backend.latency(uuid_of(backend, "gpu-4")) == 0


def test_a_damaged_state_file_means_no_faults_and_is_set_aside(backend, tmp_path, caplog):
    inject(tmp_path, boot_id=BOOT, device="gpu-3", lost=True)
    backend.wait_for_events(PATIENCE)

    (tmp_path / STATE_FILE).write_text('{"bootID": 3')

    assert backend.wait_for_events(PATIENCE) == (Cleared(gpu_uuid=uuid_of(backend, "gpu-3")),)
    assert (tmp_path / f"{STATE_FILE}.damaged").read_text() == '{"bootID": 3'
    assert "damaged" in caplog.text
    inject(tmp_path, boot_id=BOOT, device="gpu-3", ecc=True)
    assert faults_after(backend.wait_for_events(PATIENCE)) == {uuid_of(backend, "gpu-3"): {ECC}}


def test_a_removed_state_file_is_written_again(backend, tmp_path):
    (tmp_path / STATE_FILE).unlink()

    assert backend.wait_for_events(0.5) == ()
    assert json.loads((tmp_path / STATE_FILE).read_text())["devices"]["gpu-3"] == uuid_of(backend, "gpu-3")


def test_a_directory_that_cannot_be_made_is_no_reason_to_stop(tmp_path, caplog):
    (tmp_path / "file").write_text("")

    backend = start(tmp_path / "file" / "below")

    assert len(backend.wait_for_events(0)) == 8
    assert "faults" in caplog.text


def test_two_drivers_with_different_profiles_do_not_write_in_turns(tmp_path):
    one, two = start(tmp_path), start(tmp_path, "t4x1")
    before = (tmp_path / STATE_FILE).stat().st_mtime_ns

    for backend in (one, two, one, two):
        backend.wait_for_events(0)

    assert (tmp_path / STATE_FILE).stat().st_mtime_ns == before


def test_waiting_ends_when_time_is_up_and_when_closed(backend):
    assert backend.wait_for_events(0.01) == ()

    thread = threading.Thread(target=backend.wait_for_events, args=(PATIENCE,))
    thread.start()
    backend.close()
    thread.join(PATIENCE / 2)

    assert not thread.is_alive()


def test_edits_of_a_fake_gpu(backend):
    edits = backend.device_edits(backend.inventory().by_name()["gpu-3"])

    (node,) = edits.device_nodes
    assert (node.path, node.host_path, node.type, node.major, node.minor) == ("/dev/nvidia3", "/dev/null", "c", 1, 3)
    assert edits.env == (f"GPU_DRA_GPU_3={uuid_of(backend, 'gpu-3')}",)


def test_common_edits_keep_the_nvidia_runtime_out(backend):
    assert backend.common_edits().env == ("NVIDIA_VISIBLE_DEVICES=void",)


def test_a_device_may_be_given_by_uuid(backend, tmp_path):
    uuid = uuid_of(backend, "gpu-3")

    assert inject(tmp_path, boot_id=BOOT, device=uuid, lost=True) == f"{uuid}: lost"


def test_the_answer_says_how_the_gpu_is(backend, tmp_path):
    inject(tmp_path, boot_id=BOOT, device="gpu-3", xid=79, ecc=True)

    text = inject(tmp_path, boot_id=BOOT, device="gpu-3", lost=True, latency_ms=20)

    assert text == "gpu-3: XID 79, uncorrectable ECC error, lost, hardware slower by 20 ms"
    assert inject(tmp_path, boot_id=BOOT, device="gpu-3", clear=True) == "gpu-3: well"


def test_the_list_of_xids_does_not_grow_without_end(backend, tmp_path):
    for _ in range(MAX_XIDS + 3):
        inject(tmp_path, boot_id=BOOT, device="gpu-3", xid=13)

    state = json.loads((tmp_path / STATE_FILE).read_text())
    assert len(state["gpus"][uuid_of(backend, "gpu-3")]["xids"]) == MAX_XIDS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu-9", "lost": True}, r"--device gpu-9: no such device; h100x8 has gpu-0, gpu-1, .*gpu-7"),
        (
            {"device": "gpu-3"},
            "nothing to do: one of --xid N, --lost, --ecc, --recovery ACTION, --quiet, --latency-ms N, ",
        ),
        ({"device": "gpu-3", "xid": 0}, "--xid 0: a number from 1 to 1023 is expected"),
        ({"device": "gpu-3", "xid": 5000}, "--xid 5000"),
        ({"device": "gpu-3", "recovery": "reset"}, "--recovery reset: one of none, gpu-reset, .*, unknown is expected"),
        ({"device": "gpu-3", "latency_ms": -1}, "--latency-ms -1: milliseconds from 0 to 600000 are expected"),
    ],
)
def test_a_wrong_fault_changes_nothing(backend, tmp_path, arguments, message):
    before = (tmp_path / STATE_FILE).read_bytes()

    with pytest.raises(ChangeError, match=message):
        inject(tmp_path, boot_id=BOOT, **arguments)

    assert (tmp_path / STATE_FILE).read_bytes() == before


@pytest.mark.parametrize("place", ["", "nowhere"])
def test_a_fault_where_no_driver_ever_ran(tmp_path, place):
    with pytest.raises(ChangeError, match=r"no fake GPUs in .*start the driver with --devices fake"):
        inject(tmp_path / place, boot_id=BOOT, device="gpu-3", lost=True)


def test_a_fault_on_a_damaged_state_file(backend, tmp_path):
    (tmp_path / STATE_FILE).write_text("[]")

    with pytest.raises(ChangeError, match=r"is damaged.*a running driver puts it right"):
        inject(tmp_path, boot_id=BOOT, device="gpu-3", lost=True)


def test_a_gpu_whose_state_cannot_be_read_does_not_say_that_it_is_whole(backend, tmp_path):
    gpu = backend.inventory().by_name()["gpu-3"]
    backend.create_partition(gpu, gpu.mig_profiles[0], gpu.mig_profiles[0].starts[0])
    lock = tmp_path / f".{STATE_FILE}.lock"
    lock.unlink()
    lock.mkdir()
    (tmp_path / STATE_FILE).touch()  # somebody wrote to it

    with pytest.raises(BackendError, match="cannot be read"):
        backend.partitions(gpu.uuid)
    lock.rmdir()

    assert len(backend.partitions(gpu.uuid)) == 1
