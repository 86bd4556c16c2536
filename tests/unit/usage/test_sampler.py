"""GPUs are measured at intervals, whoever asks; one that hangs holds up nobody."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from driver.hardware.backend import BackendError
from driver.hardware.fake.fake_backend import FakeBackend
from driver.hardware.fake.profile import load_profile
from driver.hardware.measurement import DeviceUse, Measurement
from driver.inventory import Devices
from driver.usage.processes import Processes
from driver.usage.sampler import Sampler
from tests.eventually import eventually
from tests.unit.usage.examples import process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Backend(FakeBackend):
    """Fake GPUs of which one may hang or fail, and which have processes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(load_profile("h100x8"), name="h100x8", state_dir=directory, boot_id="boot-1")
        self.gpus = [gpu.uuid for gpu in self.inventory().gpus]
        self.hangs: set[str] = set()
        self.fails: set[str] = set()
        self.go_on = threading.Event()
        self.calls: list[str] = []

    def measure(self, gpu_uuid: str) -> Measurement:
        self.calls.append(gpu_uuid)
        if gpu_uuid in self.fails:
            raise BackendError("GPU is lost")
        if gpu_uuid in self.hangs:
            self.go_on.wait(60)
        return Measurement(whole=DeviceUse(processes=(process(17),)))


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    backend = Backend(tmp_path)
    yield backend
    backend.go_on.set()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def sampler(backend: Any, tmp_path: Path, clock: Clock) -> Sampler:
    devices = Devices()
    if backend is not None:
        devices.update(backend, backend.inventory(), {})
    (tmp_path / "17").mkdir()
    (tmp_path / "17" / "cgroup").write_text("0::/kubepods/pod0f3c9a1e-5b7d-4c2a-9e11-6d2f8a7b4c3d/x\n")
    return Sampler(devices, Processes(tmp_path), interval=10, clock=clock)


async def test_every_gpu_is_measured_once_in_a_pass(backend: Backend, tmp_path: Path) -> None:
    sampling = sampler(backend, tmp_path, Clock())

    await sampling.sample(within=10)

    found = sampling.samples()
    assert sorted(found) == sorted(backend.calls) == sorted(backend.gpus)
    assert found[backend.gpus[0]].pods == {17: "0f3c9a1e-5b7d-4c2a-9e11-6d2f8a7b4c3d"}


async def test_a_gpu_that_hangs_holds_up_nobody_and_is_not_asked_again(backend: Backend, tmp_path: Path) -> None:
    clock = Clock()
    sampling = sampler(backend, tmp_path, clock)
    await sampling.sample(within=10)
    hung = backend.gpus[3]
    backend.hangs.add(hung)

    for _ in range(3):
        clock.now += 10
        await sampling.sample(within=0.2)

    assert hung in sampling.samples()  # for a while
    clock.now += 10
    await sampling.sample(within=0.2)
    assert set(sampling.samples()) == set(backend.gpus) - {hung}
    assert backend.calls.count(hung) == 2

    backend.go_on.set()

    async def known_again() -> bool:
        return hung in sampling.samples()

    await eventually(known_again)


async def test_a_gpu_that_fails_is_unknown_after_a_while(
    backend: Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    sampling = sampler(backend, tmp_path, clock)
    await sampling.sample(within=10)
    backend.fails.add(backend.gpus[0])

    for _ in range(4):
        clock.now += 10
        await sampling.sample(within=10)

    assert set(sampling.samples()) == set(backend.gpus[1:])
    assert [line.message for line in caplog.records] == [f"what is used of {backend.gpus[0]} is not known: GPU is lost"]


async def test_nothing_is_measured_before_the_gpus_were_read(tmp_path: Path) -> None:
    sampling = sampler(None, tmp_path, Clock())

    await sampling.sample(within=10)

    assert sampling.samples() == {}
