"""The machines that the tests can run on: one with real GPUs, and one whose driver is compiled from our own C."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.needs import COMPILER
from tests.nvml.standin import World

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """How the driver finds the machine's GPUs, and what is known of these without it."""

    flags: tuple[str, ...]
    uuids: tuple[str, ...]
    real: bool


def standin(directory: Path, gpus: int = 2) -> tuple[Machine, World]:
    """A machine with GPUs that are not there: what a driver package brings is complete, as far as it is looked at."""
    world = World(directory)
    install(world.root.path, driver="570.124.06")
    for _ in range(gpus):
        world.add()
    (world.proc / "devices").write_text("Character devices:\n195 nvidia\n237 nvidia-caps\n510 nvidia-uvm\n")
    return Machine(flags=tuple(world.options()), uuids=tuple(world.uuids()), real=False), world


def install(root: Path, *, driver: str, directory: str = "usr/lib64", nvml: bool = False) -> None:
    """Put CUDA's part of the driver there; NVML that says something is another module's."""
    libraries, programs = root / directory.lstrip("/"), root / "usr/bin"
    libraries.mkdir(parents=True, exist_ok=True)
    programs.mkdir(parents=True, exist_ok=True)
    build = [str(COMPILER), "-O1", "-Wall", "-Wextra"]
    shared = [*build, "-shared", "-fPIC"]
    sources = {"libcuda": str(HERE / "libcuda.c"), "libnvidia-ptxjitcompiler": "/dev/null"}
    for stem, source in (sources | ({"libnvidia-ml": "/dev/null"} if nvml else {})).items():
        file = libraries / f"{stem}.so.{driver}"
        soname = f"-Wl,-soname,{stem}.so.1"
        subprocess.run([*shared, soname, "-x", "c", source, "-o", str(file), "-ldl"], check=True)
        link = libraries / f"{stem}.so.1"
        link.unlink(missing_ok=True)
        link.symlink_to(file.name)
    subprocess.run([*build, str(HERE / "smi.c"), "-o", str(programs / "nvidia-smi"), "-ldl"], check=True)


def real() -> Machine | str:
    """This machine; or why it has no GPUs that a test can use."""
    # In a process of its own: a stand-in that this one has loaded would be found in place of the real library.
    asked = subprocess.run([sys.executable, "-c", _LIST_GPUS], capture_output=True, text=True, check=False)
    if asked.returncode:
        return f"here {asked.stderr.strip().splitlines()[-1].rpartition(': ')[2]}"
    root = os.environ.get("NVIDIA_DRIVER_ROOT", "/")
    uuids = tuple(asked.stdout.split())
    return Machine(flags=(f"--driver-root={root}",), uuids=uuids, real=True) if uuids else "here NVML lists none"


_LIST_GPUS = """
from pynvml import *
nvmlInit()
for index in range(nvmlDeviceGetCount()):
    print(nvmlDeviceGetUUID(nvmlDeviceGetHandleByIndex(index)))
"""
