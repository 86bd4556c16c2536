"""What a shared library says of itself: the machine that it is for, and the name by which programs load it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

_MACHINES = {62: "x86_64", 183: "aarch64"}
_64_BIT = 2
_LOAD, _DYNAMIC = 1, 2
_END, _STRING_TABLE, _SONAME = 0, 5, 14
_MAX_HEADERS = 256
_MAX_SECTION, _MAX_OFFSET = 1 << 20, 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedLibrary:
    """The parts of an ELF file that matter for finding it."""

    machine: str
    """As ``uname -m`` says it; empty for 32-bit libraries, and for machines that have no NVIDIA driver."""
    soname: str
    """Empty where the library does not say."""


def read(path: Path) -> SharedLibrary | None:
    """Read an ELF file; None for everything else, or one that is damaged. Raises OSError."""
    with path.open("rb") as file:
        try:
            return _read(file)
        except (struct.error, ValueError):
            return None


def _read(file: BinaryIO) -> SharedLibrary | None:
    header = file.read(64)
    if header[:4] != b"\x7fELF":
        return None
    if header[4] != _64_BIT:
        return SharedLibrary(machine="", soname="")
    order = ">" if header[5] == 2 else "<"
    (machine,) = struct.unpack_from(f"{order}H", header, 18)
    (offset,) = struct.unpack_from(f"{order}Q", header, 32)
    size, count = struct.unpack_from(f"{order}HH", header, 54)
    table = _at(file, offset, size * min(count, _MAX_HEADERS))
    loads: list[tuple[int, int, int]] = []
    dynamic = b""
    for start in range(0, len(table), size or 1):
        kind, _flags, where, address, _physical, length = struct.unpack_from(f"{order}IIQQQQ", table, start)
        if kind == _LOAD:
            loads.append((address, length, where))
        elif kind == _DYNAMIC:
            dynamic = _at(file, where, min(length, _MAX_SECTION))
    return SharedLibrary(machine=_MACHINES.get(machine, ""), soname=_soname(file, order, dynamic, loads))


def _soname(file: BinaryIO, order: str, dynamic: bytes, loads: list[tuple[int, int, int]]) -> str:
    found: dict[int, int] = {}
    for tag, value in struct.iter_unpack(f"{order}qQ", dynamic[: len(dynamic) // 16 * 16]):
        if tag == _END:
            break
        found.setdefault(tag, value)
    strings, name = found.get(_STRING_TABLE), found.get(_SONAME)
    if strings is None or name is None:
        return ""
    for address, length, where in loads:
        if address <= strings < address + length:
            return _at(file, where + strings - address + name, 256).partition(b"\0")[0].decode("ascii")
    return ""


def _at(file: BinaryIO, offset: int, size: int) -> bytes:
    if offset > _MAX_OFFSET:
        raise ValueError("no library is that big")
    file.seek(offset)
    return file.read(size)
