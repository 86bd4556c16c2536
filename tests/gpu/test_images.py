"""Containers of images that know nothing of NVIDIA, on hosts that have no hook program of NVIDIA's.

The image has a dynamic linker and a C library: no shell, no ldconfig, like a distroless one. The program that runs is
``nvidia-smi`` out of the driver, which finds CUDA by name.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from driver.cdi import spec
from driver.hardware.host import nvidia
from driver.hardware.host.root import DriverRoot
from driver.hardware.model import Gpu
from driver.sim.kubelet.cdi import CdiCache
from tests.gpu import container, machine
from tests.needs import COMPILER, NO_COMPILER
from tests.unit.hardware import roots
from tests.unit.hardware.test_nvidia_edits import GPU

if TYPE_CHECKING:
    from collections.abc import Callable

    from driver.sim.kubelet.cdi import Injection

DRIVER = roots.VERSION
MACHINE_DEVICES = "Character devices:\n195 nvidia\n510 nvidia-uvm\n"
pytestmark = [
    pytest.mark.usefixtures("isolated"),
    pytest.mark.skipif(COMPILER is None, reason=NO_COMPILER),
]


def standard(root: Path) -> None:
    machine.install(root, driver=DRIVER, directory="/usr/lib/x86_64-linux-gnu", nvml=True)


def rhel(root: Path) -> None:
    machine.install(root, driver=DRIVER, nvml=True)


def store(root: Path) -> None:
    """As on NixOS: a directory that no image has ever heard of, behind absolute links."""
    machine.install(root, driver=DRIVER, directory="/nix/store/x/lib", nvml=True)
    roots.link(root, "/run/opengl-driver/lib/libcuda.so.1", "/nix/store/x/lib/libcuda.so.1")


@pytest.fixture
def image(scratch: Path) -> Path:
    """A file system with what a C program needs, where this machine's C library has it."""
    image = scratch / "image"
    needed = subprocess.run(["ldd", "/bin/sh"], check=True, capture_output=True, text=True).stdout
    files = {*re.findall(r"(/\S+) \(0x", needed)}
    for file in files:
        place = image / file.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(file).resolve(), place)
        place.chmod(0o755)
    return image


def injection(scratch: Path, make: Callable[[Path], None], *gpus: Gpu, host: str | None = None) -> Injection:
    """What a runtime does for a claim of these GPUs, by the spec that is written for it."""
    root = scratch / "driver"
    make(root)
    roots.put(scratch, "/proc/devices", MACHINE_DEVICES)
    edits = nvidia.NvidiaEdits(
        DriverRoot(path=root, host=host or str(root)),
        dev=scratch / "dev", proc=scratch / "proc", sysfs=scratch / "sys",
    )  # fmt: skip
    edits.refresh(DRIVER, gpus)
    devices = {f"uid-{gpu.name}": edits.device(gpu) for gpu in gpus}
    cdi = scratch / "cdi"
    roots.put(cdi, "claim.json", spec.render_spec("gpu.nvidia.com", edits.common, devices))
    return CdiCache([cdi]).inject([f"k8s.gpu.nvidia.com/claim={name}" for name in devices])


def gpu(minor: int) -> Gpu:
    return replace(GPU, name=f"gpu-{minor}", uuid=f"GPU-{minor}", minor=minor)


def minors(result: subprocess.CompletedProcess[str]) -> list[int]:
    """Which GPUs were listed; the stand-in's UUIDs end with their minor numbers."""
    assert result.returncode == 0, result.stderr
    return [int(end, 16) for end in re.findall(r"UUID: GPU-\S*(\w\w)\)", result.stdout)]


@pytest.mark.parametrize("make", [standard, rhel, store])
def test_a_program_finds_cuda_by_its_name_and_sees_its_gpu_only(
    make: Callable[[Path], None], scratch: Path, image: Path
):
    edits = injection(scratch, make, gpu(3))

    assert minors(container.run(edits, ["nvidia-smi", "-L"], image=image)) == [3]


def test_two_gpus_are_two(scratch: Path, image: Path):
    edits = injection(scratch, rhel, gpu(1), gpu(4))

    assert minors(container.run(edits, ["nvidia-smi", "-L"], image=image)) == [1, 4]


def test_an_image_s_own_driver_libraries_do_not_win(scratch: Path, image: Path):
    """Of another version, in the image's cache and behind its links, as a careless package installation leaves them."""
    place = "/usr/lib/x86_64-linux-gnu"
    roots.put(image, f"{place}/libcuda.so.470.1", roots.elf("libcuda.so.1"))
    roots.link(image, f"{place}/libcuda.so.1", "libcuda.so.470.1")
    roots.ldconfig(image, place)

    edits = injection(scratch, standard, gpu(0))

    assert minors(container.run(edits, ["nvidia-smi", "-L"], image=image)) == [0]


def test_the_image_is_left_as_it_was(scratch: Path, image: Path):
    before = sorted(image.rglob("*"))

    container.run(injection(scratch, standard, gpu(0)), ["nvidia-smi", "-L"], image=image)

    assert sorted(image.rglob("*")) == before


def test_without_a_gpu_there_is_none(scratch: Path, image: Path):
    edits = injection(scratch, rhel, gpu(0))
    control = replace(edits, device_nodes=tuple(node for node in edits.device_nodes if node.path != "/dev/nvidia0"))

    assert container.run(control, ["nvidia-smi", "-L"], image=image).returncode == 6
