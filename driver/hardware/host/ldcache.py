"""The dynamic linker's cache, ``/etc/ld.so.cache``, as glibc's ldconfig writes it.

Source: glibc, sysdeps/generic/dl-cache.h. The format of 1997 is only looked through for the present one behind it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_OLD_MAGIC = b"ld.so-1.7.0"
_OLD_HEADER, _OLD_ENTRY = 16, 12
_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER, _ENTRY = 48, 24
_ENDIANNESS = {2: "<", 3: ">"}
_ELF_LIBC6 = 3

# Flags of the libraries that programs of a machine can load.
_REQUIRED_FLAGS = {"x86_64": 0x0300, "aarch64": 0x0A00}


class CacheError(ValueError):
    """This is not a cache that glibc would read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One library: the name that programs ask for, and the file."""

    name: str
    path: str
    flags: int

    def loadable_on(self, machine: str) -> bool:
        """Whether 64-bit programs of a machine, as ``uname -m`` says it, can load it."""
        return self.flags & 0xFF == _ELF_LIBC6 and self.flags & 0xFF00 == _REQUIRED_FLAGS.get(machine, 0)


def parse(data: bytes) -> tuple[Entry, ...]:
    """All entries in the cache's order. Raises CacheError."""
    start = _start(data)
    if len(data) < start + _HEADER:
        raise CacheError("the cache ends within its header")
    order = _byte_order(data, start)
    (count,) = struct.unpack_from(f"{order}I", data, start + len(_MAGIC))
    if len(data) < start + _HEADER + count * _ENTRY:
        raise CacheError(f"the cache ends within its {count} entries")
    entries = []
    for number in range(count):
        flags, key, value = struct.unpack_from(f"{order}iII", data, start + _HEADER + number * _ENTRY)
        entries.append(Entry(name=_text(data, start + key), path=_text(data, start + value), flags=flags))
    return tuple(entries)


def _start(data: bytes) -> int:
    """Where the present format begins; offsets of strings count from there."""
    if data.startswith(_MAGIC):
        return 0
    if data.startswith(_OLD_MAGIC) and len(data) >= _OLD_HEADER:
        for order in "<>":
            (count,) = struct.unpack_from(f"{order}I", data, 12)
            start: int = (_OLD_HEADER + count * _OLD_ENTRY + 7) // 8 * 8
            if data[start : start + len(_MAGIC)] == _MAGIC:
                return start
    raise CacheError("no ld.so cache of glibc 2.2 or newer")


def _byte_order(data: bytes, start: int) -> str:
    """As the cache says it since glibc 2.33; before, the order in which its size makes sense."""
    flag = data[start + len(_MAGIC) + 8] & 3
    if flag in _ENDIANNESS:
        return _ENDIANNESS[flag]
    for order in "<>":
        count, strings = struct.unpack_from(f"{order}II", data, start + len(_MAGIC))
        if start + _HEADER + count * _ENTRY + strings <= len(data):
            return order
    raise CacheError("the cache is shorter than it says")


def _text(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset)
    if end < 0:
        raise CacheError(f"a name at {offset} has no end")
    return data[offset:end].decode(errors="surrogateescape")
