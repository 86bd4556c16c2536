"""What shared libraries say of themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from driver.hardware.host import elf
from tests.needs import COMPILER, NO_COMPILER
from tests.unit.hardware import roots


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_machine_and_soname_are_read(machine: str, tmp_path: Path):
    path = roots.put(tmp_path, "lib.so", roots.elf("libcuda.so.1", machine))

    assert elf.read(path) == elf.SharedLibrary(machine=machine, soname="libcuda.so.1")


def test_a_library_that_a_compiler_made_is_read(tmp_path: Path):
    path = tmp_path / "libreal.so.1.2"
    if COMPILER is None:
        pytest.skip(NO_COMPILER)
    subprocess.run([COMPILER, "-shared", "-Wl,-soname,libreal.so.1", "-x", "c", "/dev/null", "-o", path], check=True)

    library = elf.read(path)

    assert library is not None
    assert library.soname == "libreal.so.1"


def test_a_program_has_no_soname():
    program = elf.read(Path(sys.executable).resolve())

    assert program is not None
    assert program.soname == ""


def test_a_32_bit_library_is_for_no_machine(tmp_path: Path):
    path = roots.put(tmp_path, "lib.so", b"\x7fELF\x01\x01\x01" + bytes(57))

    assert elf.read(path) == elf.SharedLibrary(machine="", soname="")


@pytest.mark.parametrize("content", [b"", b"text", roots.elf("libcuda.so.1")[:60], b"\x7fELF\x02\x01" + b"\xff" * 58])
def test_what_is_no_library_says_nothing(content: bytes, tmp_path: Path):
    library = elf.read(roots.put(tmp_path, "lib.so", content))

    assert library is None or library.soname == ""


def test_no_damage_brings_the_reader_down(tmp_path: Path):
    whole = roots.elf("libcuda.so.1")
    for position in range(len(whole)):
        elf.read(roots.put(tmp_path, "lib.so", whole[:position] + b"\xff" + whole[position + 1 :]))
