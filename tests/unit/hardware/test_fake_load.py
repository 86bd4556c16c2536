"""What fake GPUs report of their use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from driver.hardware.fake.change import ChangeError
from driver.hardware.fake.fake_backend import FakeBackend
from driver.hardware.fake.fault import inject
from driver.hardware.fake.load import load
from driver.hardware.fake.profile import load_profile

if TYPE_CHECKING:
    from pathlib import Path

BOOT = "boot-1"
GIB = 1 << 30


@pytest.fixture
def backend(tmp_path: Path) -> FakeBackend:
    return FakeBackend(load_profile("h100x8"), name="h100x8", state_dir=tmp_path, boot_id=BOOT)


def uuid_of(backend: FakeBackend, name: str) -> str:
    return backend.inventory().by_name()[name].uuid


def test_nothing_runs_on_a_gpu_by_itself(backend: FakeBackend) -> None:
    measured = backend.measure(uuid_of(backend, "gpu-3"))

    assert (measured.whole.memory_used, measured.whole.utilisation) == (0, 0)
    assert measured.whole.memory_total == backend.inventory().by_name()["gpu-3"].memory_bytes
    assert not any(measured.throttled.values())
    assert measured.ecc_errors["uncorrected", "volatile"] == 0


def test_a_load_is_what_a_gpu_reports(backend: FakeBackend, tmp_path: Path) -> None:
    said = load(tmp_path, boot_id=BOOT, device="gpu-3", utilisation=80, memory="40Gi")

    measured = backend.measure(uuid_of(backend, "gpu-3"))
    assert said == "gpu-3: 80 % utilisation, 40Gi of memory"
    assert (measured.whole.memory_used, measured.whole.utilisation) == (40 * GIB, 0.8)
    assert backend.measure(uuid_of(backend, "gpu-2")).whole.utilisation == 0
    idle = backend.measure(uuid_of(backend, "gpu-2"))
    assert (measured.temperature_celsius or 0) > (idle.temperature_celsius or 0)
    assert (measured.power_watts or 0) > (idle.power_watts or 0)


def test_loads_add_up_until_they_are_cleared(backend: FakeBackend, tmp_path: Path) -> None:
    uuid = uuid_of(backend, "gpu-3")
    load(tmp_path, boot_id=BOOT, device=uuid, utilisation=80)
    load(tmp_path, boot_id=BOOT, device="gpu-3", memory="1Gi", throttled=("power_cap",), temperature=91, power=650)

    measured = backend.measure(uuid)
    assert (measured.whole.memory_used, measured.whole.utilisation) == (GIB, 0.8)
    assert (measured.temperature_celsius, measured.power_watts) == (91, 650)
    assert [reason for reason, is_so in measured.throttled.items() if is_so] == ["power_cap"]

    assert load(tmp_path, boot_id=BOOT, device="gpu-3", clear=True) == "gpu-3: nothing runs on it"
    assert backend.measure(uuid).whole.utilisation == 0


def test_a_partition_has_a_load_of_its_own(backend: FakeBackend, tmp_path: Path) -> None:
    gpu = backend.inventory().by_name()["gpu-0"]
    profile = gpu.profile("1g.10gb")
    assert profile is not None
    made = backend.create_partition(gpu, profile, 0)
    other = backend.create_partition(gpu, profile, 1)

    load(tmp_path, boot_id=BOOT, device="gpu-0-mig-1g10gb-19-0", utilisation=50, memory="4Gi")

    measured = backend.measure(gpu.uuid)
    assert (measured.partitions[made.uuid].utilisation, measured.partitions[made.uuid].memory_used) == (0.5, 4 * GIB)
    assert measured.partitions[made.uuid].memory_total == profile.memory_mib << 20
    assert measured.partitions[other.uuid].utilisation == 0
    assert measured.whole.utilisation is None  # as of real GPUs that are cut
    assert measured.whole.memory_used == 4 * GIB


def test_memory_errors_are_counted(backend: FakeBackend, tmp_path: Path) -> None:
    inject(tmp_path, boot_id=BOOT, device="gpu-1", ecc=True)

    assert backend.measure(uuid_of(backend, "gpu-1")).ecc_errors["uncorrected", "volatile"] == 1


def test_loads_end_with_the_boot(backend: FakeBackend, tmp_path: Path) -> None:
    load(tmp_path, boot_id=BOOT, device="gpu-3", utilisation=80)

    again = FakeBackend(load_profile("h100x8"), name="h100x8", state_dir=tmp_path, boot_id="boot-2")

    assert again.measure(uuid_of(again, "gpu-3")).whole.utilisation == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "nothing to do"),
        ({"utilisation": 101}, "--utilisation 101: a number from 0 to 100 is expected"),
        ({"memory": "lots"}, "--memory lots: an amount of memory is expected, for example 40Gi"),
        ({"throttled": ("fear",)}, "--throttled fear: one of power_cap"),
        ({"device": "gpu-8", "utilisation": 1}, "--device gpu-8: no such device; h100x8 has gpu-0"),
        ({"device": "gpu-0-mig-1g10gb-19-7", "utilisation": 1}, "no such partition; gpu-0 can have gpu-0-mig-"),
        ({"device": "gpu-0-mig-1g10gb-19-0", "power": 1}, "are those of a whole GPU"),
    ],
)
def test_what_cannot_be_is_refused(backend: FakeBackend, tmp_path: Path, wrong: dict[str, object], said: str) -> None:
    before = (tmp_path / "fake-hardware.json").read_bytes()

    with pytest.raises(ChangeError, match=said):
        load(tmp_path, boot_id=BOOT, **{"device": "gpu-3", **wrong})  # type: ignore[arg-type]

    assert (tmp_path / "fake-hardware.json").read_bytes() == before
