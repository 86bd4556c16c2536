"""Finding and loading the library, and living with drivers that come, go and change."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from driver.hardware.backend import BackendError
from driver.hardware.host.root import DriverRoot
from driver.hardware.model import Cause, Cleared, Fault, InventoryChanged
from tests.eventually import PATIENCE
from tests.nvml.standin import SYMBOLS

if TYPE_CHECKING:
    from tests.nvml.conftest import Open
    from tests.nvml.standin import World

HANGS = 60_000
"""Milliseconds that a call hangs at most."""
NO_DRIVER = r"NVML cannot be used: .*Install or load NVIDIA's driver on this node"


@pytest.mark.parametrize("place", ["usr/lib/x86_64-linux-gnu", "lib64", "usr/local/nvidia/lib64", "opt/nvidia/lib64"])
def test_the_library_is_found_where_distributions_put_it(machine: World, open_nvml: Open, place: str) -> None:
    uuid = machine.add()
    machine.library.parent.rename(machine.root.path / "elsewhere")
    target = machine.root.path / place
    target.parent.mkdir(parents=True, exist_ok=True)
    (machine.root.path / "elsewhere").rename(target)

    assert [gpu.uuid for gpu in open_nvml(machine).inventory().gpus] == [uuid]


def test_an_absolute_link_leads_to_somewhere_in_the_root(machine: World, open_nvml: Open) -> None:
    uuid = machine.add()
    link = machine.library.with_name("libnvidia-ml.so.1")
    link.unlink()
    link.symlink_to(f"/usr/lib64/{machine.library.name}")

    assert [gpu.uuid for gpu in open_nvml(machine).inventory().gpus] == [uuid]


def test_a_library_for_another_machine_is_passed_over(machine: World, open_nvml: Open) -> None:
    uuid = machine.add()
    other = machine.root.path / "usr/lib/x86_64-linux-gnu"
    other.mkdir(parents=True)
    (other / "libnvidia-ml.so.1").write_bytes(b"\x7fELF\x01\x01\x01" + bytes(64))

    assert [gpu.uuid for gpu in open_nvml(machine).inventory().gpus] == [uuid]


def test_an_empty_root_is_one_clear_line(machine: World, open_nvml: Open, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=rf"there is no libnvidia-ml\.so\.1 below {tmp_path}\. ") as caught:
        open_nvml(machine, root=DriverRoot(path=tmp_path, host="/run/nvidia/driver"))

    assert "\n" not in str(caught.value)


def test_a_library_that_cannot_be_loaded_is_not_said_to_be_missing(machine: World, open_nvml: Open) -> None:
    machine.library.write_bytes(b"\x7fELF\x01\x01\x01" + bytes(64))

    with pytest.raises(BackendError, match=rf"can be loaded \({machine.library}: .*\)\. Install") as caught:
        open_nvml(machine)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (1, "Install or load NVIDIA's driver"),
        (4, "Run the driver's pod privileged"),
        (9, "the kernel driver is not loaded .*Install or load NVIDIA's driver"),
        (15, "the GPU is lost.* see what nvidia-smi"),
        (17, "Run the driver's pod privileged"),
        (18, "different versions.* reboot this node"),
        (28, "see what nvidia-smi"),
        (999, "see what nvidia-smi"),
        (12345, "Install or load NVIDIA's driver"),
    ],
)
def test_a_driver_that_does_not_start_is_one_line_that_says_what_to_do(
    machine: World, open_nvml: Open, code: int, remedy: str
) -> None:
    machine.set(init=code)

    with pytest.raises(BackendError, match=rf"NVML cannot be used: .*{remedy}") as caught:
        open_nvml(machine)

    assert "\n" not in str(caught.value)


def test_a_driver_without_any_gpu_is_one_that_can_be_talked_to(machine: World, open_nvml: Open) -> None:
    gone = machine.add()
    machine.forget(0)
    machine.set(without_gpus=28)  # what the library says at the start, unless it is told to do without

    (gpu,) = open_nvml(machine).inventory().gpus

    assert gpu.uuid == gone


def test_a_library_that_is_something_else_is_one_clear_line(machine: World, open_nvml: Open) -> None:
    machine.install("1.0", missing=SYMBOLS - {"nvmlErrorString"})

    with pytest.raises(BackendError, match=NO_DRIVER):
        open_nvml(machine)


def test_a_driver_that_is_loaded_later_is_taken(machine: World, open_nvml: Open) -> None:
    uuid = machine.add()
    machine.set(loaded=0)
    with pytest.raises(BackendError, match="the kernel driver is not loaded"):
        open_nvml(machine)

    machine.set(loaded=1)

    assert [gpu.uuid for gpu in open_nvml(machine).inventory().gpus] == [uuid]


@pytest.mark.parametrize("stale", [1, 9, 18])
def test_a_driver_that_was_loaded_again_is_asked_anew(machine: World, open_nvml: Open, stale: int) -> None:
    uuid = machine.add()
    backend = open_nvml(machine)
    backend.inventory()
    backend.wait_for_events(0)

    machine.set(generation=1, stale=stale)
    with pytest.raises(BackendError):
        backend.partitions(uuid)

    assert InventoryChanged() in backend.wait_for_events(0)
    assert [gpu.uuid for gpu in backend.inventory().gpus] == [uuid]
    assert backend.wait_for_events(0) == ()


def test_while_there_is_no_driver_every_call_says_so(machine: World, open_nvml: Open) -> None:
    uuid = machine.add()
    backend = open_nvml(machine)
    before = backend.inventory()
    backend.wait_for_events(0)
    machine.set(loaded=0)
    with pytest.raises(BackendError):
        backend.inventory()

    for call in (backend.inventory, lambda: backend.wait_for_events(0), lambda: backend.processes(uuid)):
        with pytest.raises(BackendError, match=NO_DRIVER):
            call()

    machine.set(loaded=1)
    assert backend.inventory() == before


def test_an_upgraded_driver_s_library_is_loaded_from_its_new_file(machine: World, open_nvml: Open) -> None:
    machine.add()
    backend = open_nvml(machine)
    backend.inventory()
    backend.wait_for_events(0)

    machine.install("580.65.06")
    machine.set(driver="580.65.06", generation=1, stale=18)
    with pytest.raises(BackendError):
        backend.inventory()

    assert backend.inventory().driver_version == "580.65.06"
    assert "/libnvidia-ml.so.580.65.06\n" in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert InventoryChanged() in backend.wait_for_events(0)


def test_a_gpu_that_is_plugged_in_is_found(machine: World, open_nvml: Open) -> None:
    first = machine.add()
    backend = open_nvml(machine)
    backend.inventory()
    backend.wait_for_events(0)

    second = machine.add()  # NVML lists it in a new session only

    while InventoryChanged() not in (events := backend.wait_for_events(0)):
        assert events == ()
    assert [gpu.uuid for gpu in backend.inventory().gpus] == [first, second]


def test_a_gpu_that_was_taken_out_is_listed_no_longer_and_said_to_be_lost(machine: World, open_nvml: Open) -> None:
    stays, gone = machine.add(), machine.add()
    backend = open_nvml(machine)
    backend.inventory()
    backend.wait_for_events(0)

    machine.forget(1)
    (machine.proc / "driver/nvidia/gpus/0000:1c:00.0/information").unlink()
    (machine.proc / "driver/nvidia/gpus/0000:1c:00.0").rmdir()
    while InventoryChanged() not in (events := backend.wait_for_events(0)):
        pass

    lost = Fault(cause=Cause.GPU_LOST)
    assert [event.gpu_uuid for event in events if isinstance(event, Cleared) and lost in event.remaining] == [gone]
    assert [gpu.uuid for gpu in backend.inventory().gpus] == [stays]


def test_a_call_that_hangs_keeps_no_other_gpu_waiting(machine: World, open_nvml: Open) -> None:
    machine.add()
    machine.add()
    backend = open_nvml(machine)
    slow, quick = backend.inventory().gpus
    machine.set({"gpu.0.mig": 1, "gpu.1.mig": 1, "delay.nvmlDeviceCreateGpuInstanceWithPlacement": HANGS})
    profile = slow.profile("1g.10gb")
    assert profile is not None
    creating = threading.Thread(target=lambda: backend.create_partition(slow, profile, 6))
    creating.start()
    machine.wait_for_delay()

    assert backend.partitions(quick.uuid) == ()
    assert len(backend.inventory().gpus) == 2
    assert creating.is_alive()
    machine.set({"delay.nvmlDeviceCreateGpuInstanceWithPlacement": None})
    creating.join(PATIENCE)


def test_a_hung_call_of_the_former_driver_does_not_hang_the_next(
    machine: World, open_nvml: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("driver.hardware.nvml.library.PATIENCE", 0.2)
    machine.add()
    backend = open_nvml(machine)
    (gpu,) = backend.inventory().gpus
    machine.set({"delay.nvmlDeviceGetComputeRunningProcesses_v3": HANGS})
    failed = []

    def ask() -> None:
        with pytest.raises(BackendError) as caught:
            backend.processes(gpu.uuid)
        failed.append(caught.value)

    hung = threading.Thread(target=ask)
    hung.start()
    machine.wait_for_delay()
    machine.set(generation=1)
    with pytest.raises(BackendError):
        backend.partitions(gpu.uuid)
    with pytest.raises(BackendError, match="a call from before has not ended yet"):
        backend.partitions(gpu.uuid)

    machine.set({"delay.nvmlDeviceGetComputeRunningProcesses_v3": None})
    hung.join(PATIENCE)
    assert failed
    assert backend.partitions(gpu.uuid) == ()


def test_bare_ctypes_sees_the_same_library(machine: World) -> None:
    library = ctypes.CDLL(str(machine.library))

    assert library.nvmlDeviceGetCount_v2(ctypes.byref(ctypes.c_uint())) == 1  # NVML_ERROR_UNINITIALIZED
