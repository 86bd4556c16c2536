"""A machine with GPUs that are not there: a driver root with our own libnvidia-ml.so.1, and the kernel's files.

The library is compiled once for a set of symbols, and copied, so that each machine has one of its own. What it says
stands in ``standin/world`` beside it, see standin.c; ``World`` reads and changes that file as the library does, also
while a driver uses it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from driver.hardware.host.places import Host
from driver.hardware.host.root import DriverRoot
from tests.eventually import until
from tests.needs import COMPILER, NO_COMPILER
from tests.unit.inventory.mig_facts import FACTS

SOURCE = Path(__file__).with_name("standin.c")
BUILT = Path(__file__).parents[2] / "build" / "standin"
SYMBOLS = frozenset(re.findall(r"\b(?:API|ENTRY\(|const char \*)\s*(nvml\w+)", SOURCE.read_text()))
NUMBERS = {"1g": 0, "2g": 1, "3g": 2, "4g": 3, "7g": 4}
"""NVML_GPU_INSTANCE_PROFILE_* by the first word of a profile's name."""
XID, DOUBLE_BIT = 0x8, 0x2
RECOVERY_ACTION = 230
"""The field by which a GPU asks for repair."""


@functools.cache
def compiled(missing: frozenset[str] = frozenset()) -> Path:
    """The library without some of its symbols; kept in the build directory for all processes and later runs."""
    assert missing <= SYMBOLS, f"no such symbols: {missing - SYMBOLS}"
    assert COMPILER, NO_COMPILER
    exported = "{ global: " + "; ".join(sorted(SYMBOLS - missing)) + "; local: *; };"
    command = [
        COMPILER,
        *("-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Wno-format-truncation", "-fvisibility=hidden"),
        *("-Wl,-soname,libnvidia-ml.so.1", str(SOURCE), "-ldl"),
    ]
    made_of = json.dumps([command, exported, SOURCE.read_text(), os.uname().machine])
    shared = BUILT / f"{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
    if shared.exists():
        return shared
    BUILT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILT) as directory:
        version_script, made = Path(directory, "symbols.map"), Path(directory, "library.so")
        version_script.write_text(exported, encoding="utf-8")
        subprocess.run([*command, f"-Wl,--version-script,{version_script}", "-o", str(made)], check=True)
        made.replace(shared)  # processes that compile the same at once each have a whole one
    return shared


class World:
    """One machine. Keys and values are those of standin.c; the next call of a driver sees what is changed here."""

    def __init__(self, root: Path, *, missing: frozenset[str] = frozenset(), driver: str = "570.124.06") -> None:
        self.root = DriverRoot(path=root / "driver", host=str(root / "driver"))
        self.sysfs, self.proc, self.dev = root / "sys", root / "proc", root / "dev"
        libraries = self.root.path / "usr/lib64"
        self.library = libraries / f"libnvidia-ml.so.{driver}"
        self._file, self._lock = libraries / "standin/world", libraries / "standin/world.lock"
        for directory in (
            libraries / "standin",
            self.sysfs / "bus/pci/devices",
            self.dev,
            self.proc / "driver/nvidia/gpus",
        ):
            directory.mkdir(parents=True, exist_ok=True)
        self.install(driver, missing=missing)
        (self.proc / "driver/nvidia-caps").mkdir(exist_ok=True)
        (self.proc / "devices").write_text("Character devices:\n195 nvidia\n237 nvidia-caps\n")
        self.set(driver=driver, cuda=12080, event=0)

    def install(self, driver: str, *, missing: frozenset[str] = frozenset()) -> None:
        """Put a driver's library there, in place of another's."""
        old, self.library = self.library, self.library.with_name(f"libnvidia-ml.so.{driver}")
        shutil.copyfile(compiled(missing), self.library)
        link = self.library.with_name("libnvidia-ml.so.1")
        link.unlink(missing_ok=True)
        link.symlink_to(self.library.name)
        if old != self.library:
            old.unlink(missing_ok=True)

    def host(self) -> Host:
        """Where the driver finds this machine."""
        return Host(driver=self.root, sysfs=self.sysfs, proc=self.proc, dev=self.dev)

    def options(self) -> list[str]:
        """Flags by which the driver finds this machine."""
        roots = {"driver": self.root.path, "sysfs": self.sysfs, "proc": self.proc, "dev": self.dev}
        return [f"--{name}-root={path}" for name, path in roots.items()]

    def read(self) -> dict[str, str]:
        try:
            lines = self._file.read_text(errors="surrogateescape").splitlines()
        except FileNotFoundError:
            return {}
        return dict(line.split("\t", 1) for line in lines)

    def set(self, changes: dict[str, Any] | None = None, /, **more: Any) -> None:
        """Change values; None takes a key away."""
        with self._locked():
            world = self.read() | {key: str(value) for key, value in ((changes or {}) | more).items()}
            gone = {key for key, value in ((changes or {}) | more).items() if value is None}
            self._write({key: value for key, value in world.items() if key not in gone})

    def wait_for_delay(self) -> None:
        """Wait until a call hangs in its ``delay.<symbol>`` (milliseconds); taking the key away lets the call go on."""
        until(self._file.with_name("world.hanging").exists, what="a call has come to its delay")

    def add(self, model: str = "H100-SXM5-80GB", *, minor: int | None = None, mig: bool = True, **more: Any) -> str:
        """Put a GPU into the next slot; returns its UUID. ``more`` are keys below ``gpu.N``."""
        facts, number = FACTS[model], len(self.uuids())
        minor = number if minor is None else minor
        uuid, bus = f"GPU-{number:08x}-0000-4000-8000-{minor:012x}", f"0000:{0x1B + number:02x}:00.0"
        hopper = float(facts["compute_capability"]) >= 9
        gpu = {
            "uuid": uuid,
            "minor": minor,
            "bus": bus,
            "name": f"NVIDIA {model}",
            "brand": 14,
            "arch": {"8": 7, "9": 9}.get(facts["compute_capability"].split(".")[0], 10),
            "cc": facts["compute_capability"],
            "memory": facts["memory_mib"] << 20,
            "events": XID | DOUBLE_BIT,
            f"field.{RECOVERY_ACTION}": 0,
            "remapped": "0 0 0 0",
            **({"mig": 0} if mig else {}),
            **({} if hopper else {"mig_status": 16}),
            **(_profiles(facts) if mig else {}),
        }
        self.set({f"gpu.{number}.{key}": value for key, value in (gpu | more).items()})
        place = self.sysfs / f"devices/pci0000:{0x10 + number:02x}/{bus}"
        place.mkdir(parents=True)
        (place / "numa_node").write_text(f"{number % 2}\n")
        (self.sysfs / "bus/pci/devices" / bus).symlink_to(place)
        self.kernel(bus, uuid=uuid, minor=minor, name=f"NVIDIA {model}")
        caps = "".join(
            f"gpu{minor}/gi{gi}/access {300 + minor * 135 + gi * 9}\n"
            f"gpu{minor}/gi{gi}/ci0/access {301 + minor * 135 + gi * 9}\n"
            for gi in range(15)
        )
        with (self.proc / "driver/nvidia-caps/mig-minors").open("a") as file:
            file.write(caps)
        (self.dev / f"nvidia{minor}").touch()
        return uuid

    def kernel(self, bus: str, *, uuid: str, minor: int, name: str, excluded: bool = False) -> None:
        """Have the kernel driver know a GPU."""
        directory = self.proc / "driver/nvidia/gpus" / bus
        directory.mkdir(exist_ok=True)
        (directory / "information").write_text(
            f"Model: \t\t {name}\nIRQ:   \t\t 16\nGPU UUID: \t {uuid}\nVideo BIOS: \t ??.??.??.??.??\n"
            f"Bus Type: \t PCIe\nBus Location: \t {bus}\nDevice Minor: \t {minor}\n"
            f"GPU Excluded:\t {'Yes' if excluded else 'No'}\n"
        )

    def renumber(self, *minors: int) -> None:
        """Device files have other numbers, as after the kernel module was loaded again; NVML begins anew."""
        world = self.read()
        for number, minor in enumerate(minors):
            bus, uuid, name = (world[f"gpu.{number}.{key}"] for key in ("bus", "uuid", "name"))
            self.kernel(bus, uuid=uuid, minor=minor, name=name)
        self.set({f"gpu.{number}.minor": minor for number, minor in enumerate(minors)})

    def take_out(self, number: int) -> None:
        """The last GPU is gone, for the kernel as well."""
        directory = self.proc / "driver/nvidia/gpus" / self.read()[f"gpu.{number}.bus"]
        self.forget(number)
        shutil.rmtree(directory)

    def respell(self, bus: str, *, procfs: str, sysfs: str | None) -> None:
        """The kernel's files call a GPU's address something else; None: sysfs does not have it."""
        gpus, devices = self.proc / "driver/nvidia/gpus", self.sysfs / "bus/pci/devices"
        (gpus / bus).rename(gpus / procfs)
        if sysfs is None:
            (devices / bus).unlink()
        else:
            (devices / bus).rename(devices / sysfs)

    def forget(self, number: int) -> None:
        """The last GPU is gone from NVML, as after its loss; the kernel still knows it."""
        prefix = f"gpu.{number}."
        self.set({key: None for key in self.read() if key.startswith(prefix)})

    def uuids(self) -> list[str]:
        world = self.read()
        return [world[key] for number in range(32) if (key := f"gpu.{number}.uuid") in world]

    def happen(self, gpu: int, kind: int, data: int = 0, *, gi: int = 0xFFFFFFFF, ci: int = 0xFFFFFFFF) -> None:
        """Let an event happen, on a GPU instance if it is laid to one."""
        number = int(self.read()["event"]) + 1
        self.set({f"event.{number}": f"{gpu} {kind} {data} {gi} {ci}", "event": number})

    def fail(
        self, function: str, code: int | None, *, gpu: int | None = None, first: int = 1, last: int = 10**9
    ) -> None:
        """Have a function give an error, from one of its calls to another; None ends it."""
        key = f"fail.{function}" + (f".{gpu}" if gpu is not None else "")
        self.set({key: None if code is None else f"{code}:{first}:{last}"})

    def cut(self, gpu: int, profile: str, start: int, *, gi: int, slices: int | None = None) -> None:
        """An administrator makes a MIG device; ``slices`` of a compute instance that does not fill it, 0 for none."""
        name = f"gpu.{gpu}.profile."
        row = next(v.split() for k, v in self.read().items() if k.startswith(name) and v.split()[-1] == profile)
        whole = int(row[1])
        changes: dict[str, Any] = {f"gpu.{gpu}.mig": 1, f"gpu.{gpu}.gi.{gi}": f"{row[0]} {start}"}
        if slices != 0:
            changes[f"gpu.{gpu}.ci.{gi}.0"] = f"0 {slices or whole}"
        self.set(changes)

    def instances(self) -> dict[str, str]:
        """GPU and compute instances, and GPUs that are cut."""
        return {
            key: value
            for key, value in self.read().items()
            if re.fullmatch(r"gpu\.\d+\.(gi\.\d+|ci\.\d+\.\d+)", key) or (key.endswith(".mig") and value == "1")
        }

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, world: dict[str, str]) -> None:
        temporary = self._file.with_name("world.new")
        text = "".join(f"{key}\t{value}\n" for key, value in world.items())
        temporary.write_text(text, errors="surrogateescape")
        temporary.replace(self._file)


def _profiles(facts: dict[str, Any]) -> dict[str, str]:
    """MIG profiles as standin.c reads them, by the numbers under which NVML lists them."""
    found, seen = {}, set()
    for name, (identity, compute, size, starts, most, memory, sm, engines) in facts["profiles"].items():
        number = NUMBERS[name.split(".")[0]]
        if name.endswith("+me"):
            number += 7
        elif number in seen:
            number = 9
        seen.add(number)
        bits = sum(1 << start for start in starts)
        values = (identity, compute, size, bits, most, memory, sm, *engines, name)
        found[f"profile.{number}"] = " ".join(map(str, values))
    return found
