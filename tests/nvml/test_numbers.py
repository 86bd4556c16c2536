"""Minors are read again with each session: a GPU is given out by its UUID, and no two by one device file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from driver.hardware.backend import BackendError, OutdatedError
from driver.hardware.model import InventoryChanged

if TYPE_CHECKING:
    from driver.hardware.model import Gpu
    from driver.hardware.nvml import NvmlBackend
    from tests.nvml.conftest import Open
    from tests.nvml.standin import World


def files(backend: NvmlBackend, gpu: Gpu) -> list[str]:
    return [node.path for node in backend.device_edits(gpu).device_nodes]


def reload(machine: World, backend: NvmlBackend) -> None:
    """The kernel module is loaded anew; the next call finds that out."""
    machine.set(generation=int(machine.read().get("generation", 0)) + 1)
    with pytest.raises(BackendError):
        backend.inventory()


def test_nothing_is_given_out_by_numbers_of_a_former_session(machine: World, open_nvml: Open) -> None:
    machine.add()
    machine.add()
    backend = open_nvml(machine)
    first, second = backend.inventory().gpus
    assert (files(backend, first), files(backend, second)) == (["/dev/nvidia0"], ["/dev/nvidia1"])

    machine.renumber(1, 0)
    reload(machine, backend)

    with pytest.raises(OutdatedError, match="before the GPUs were read again"):
        backend.device_edits(first)
    backend.wait_for_events(0)  # a new session alone is not enough: majors may be others' too
    with pytest.raises(OutdatedError):
        backend.device_edits(first)
    backend.inventory()
    assert (files(backend, first), files(backend, second)) == (["/dev/nvidia1"], ["/dev/nvidia0"])


def test_that_numbers_are_to_be_read_again_is_said_whoever_finds_it_out(machine: World, open_nvml: Open) -> None:
    machine.add()
    backend = open_nvml(machine, check_seconds=60.0)
    backend.inventory()
    backend.wait_for_events(0)

    machine.set(generation=1)
    with pytest.raises(BackendError, match="waiting for NVML events failed"):
        backend.wait_for_events(1)

    assert InventoryChanged() in backend.wait_for_events(0)
    backend.inventory()
    assert InventoryChanged() not in backend.wait_for_events(0)


def test_a_gpu_that_is_gone_takes_its_device_file_with_it(machine: World, open_nvml: Open) -> None:
    machine.add()
    machine.add()
    backend = open_nvml(machine)
    stays, gone = backend.inventory().gpus

    machine.take_out(1)
    reload(machine, backend)
    backend.inventory()

    assert files(backend, stays) == ["/dev/nvidia0"]
    with pytest.raises(BackendError, match="not there any more"):
        backend.device_edits(gone)


def test_a_lost_gpu_has_the_number_that_the_kernel_says_now(machine: World, open_nvml: Open) -> None:
    machine.add()
    machine.add()
    backend = open_nvml(machine)
    lost, _ = backend.inventory().gpus

    machine.renumber(1, 0)
    machine.set({"gpu.0.lost": 1})
    reload(machine, backend)
    backend.inventory()

    assert files(backend, lost) == ["/dev/nvidia1"]


def test_a_lost_gpu_without_the_kernel_s_word_has_no_number_of_another(machine: World, open_nvml: Open) -> None:
    machine.add()
    machine.add()
    backend = open_nvml(machine)
    lost, well = backend.inventory().gpus

    machine.set({"gpu.0.lost": 1, "gpu.1.minor": 0})  # the kernel's files are as they were

    backend.inventory()
    assert files(backend, well) == ["/dev/nvidia0"]
    with pytest.raises(BackendError, match="does not tell its device file"):
        backend.device_edits(lost)


def test_two_gpus_that_tell_one_number_are_both_not_given_out(machine: World, open_nvml: Open) -> None:
    machine.add()
    machine.add()
    machine.add()
    machine.set({"gpu.1.minor": 0})
    backend = open_nvml(machine)

    first, second, third = backend.inventory().gpus

    assert (first.minor, second.minor, third.minor) == (None, None, 2)
    assert len({first.name, second.name, third.name}) == 3
    for gpu in (first, second):
        with pytest.raises(BackendError, match="does not tell its device file"):
            backend.device_edits(gpu)
