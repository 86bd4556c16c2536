"""Reading the dynamic linker's cache: those of the real ldconfig, and those that this machine cannot write."""

from __future__ import annotations

import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from driver.hardware.host.ldcache import CacheError, Entry, parse
from tests.needs import LDCONFIG, NO_LDCONFIG
from tests.unit.hardware import roots

if TYPE_CHECKING:
    from pathlib import Path

X86_64, AARCH64, I386 = 0x0303, 0x0A03, 0x0003


def cache(*entries: Entry, order: str = "<", flag: int | None = None) -> bytes:
    """The format as glibc's header file describes it."""
    start = 48 + 24 * len(entries)
    strings, table = b"", b""
    for entry in entries:
        name = start + len(strings)
        strings += entry.name.encode() + b"\0"
        table += struct.pack(f"{order}iIIIQ", entry.flags, name, start + len(strings), 0, 0)
        strings += entry.path.encode() + b"\0"
    endianness = {"<": 2, ">": 3}[order] if flag is None else flag
    head = struct.pack(f"{order}II", len(entries), len(strings)) + bytes([endianness]) + bytes(3 + 4 + 12)
    return b"glibc-ld.so.cache1.1" + head + table + strings


CUDA = Entry(name="libcuda.so.1", path="/usr/lib/aarch64-linux-gnu/libcuda.so.1", flags=AARCH64)


def test_the_cache_of_the_real_ldconfig_is_read(tmp_path: Path):
    roots.ubuntu(tmp_path)

    entries = parse((tmp_path / "etc/ld.so.cache").read_bytes())

    found = {entry.name: entry.path for entry in entries if entry.loadable_on("x86_64")}
    assert found["libcuda.so.1"] == "/usr/lib/x86_64-linux-gnu/libcuda.so.1"
    assert found["libcudart.so.12"] == "/usr/lib/x86_64-linux-gnu/libcudart.so.12"


@pytest.mark.parametrize("format_", ["old", "new", "compat"])
def test_every_format_that_ldconfig_writes_is_read_or_refused(tmp_path: Path, format_: str):
    roots.libraries(tmp_path, "/usr/lib64")
    roots.ldconfig(tmp_path, "/usr/lib64")
    command = [
        str(LDCONFIG),
        "-X",
        "-r",
        str(tmp_path),
        "-c",
        format_,
        "-f",
        "/etc/ld.so.conf",
        "-C",
        "/etc/ld.so.cache",
    ]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip(f"this ldconfig has no format {format_!r}")
    data = (tmp_path / "etc/ld.so.cache").read_bytes()

    if format_ == "old":
        with pytest.raises(CacheError, match=r"glibc 2\.2"):
            parse(data)
    else:
        assert {entry.name for entry in parse(data)} >= {"libcuda.so.1", "libnvidia-ml.so.1"}


def test_this_machine_s_own_cache_says_what_ldconfig_says_of_it():
    if LDCONFIG is None:
        pytest.skip(NO_LDCONFIG)
    listing = subprocess.run([LDCONFIG, "-p"], check=False, capture_output=True, text=True).stdout
    if not listing:
        pytest.skip("this machine has no cache")
    with open("/etc/ld.so.cache", "rb") as file:  # noqa: PTH123
        entries = parse(file.read())

    lines = [line.split() for line in listing.splitlines() if " => " in line]

    assert [(entry.name, entry.path) for entry in entries] == [(line[0], line[-1]) for line in lines]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("flag", [None, 0])
def test_the_byte_order_is_the_cache_s_own(order: str, flag: int | None):
    assert parse(cache(CUDA, order=order, flag=flag)) == (CUDA,)


@pytest.mark.parametrize(
    ("flags", "machine", "loadable"),
    [
        (X86_64, "x86_64", True),
        (I386, "x86_64", False),
        (AARCH64, "x86_64", False),
        (AARCH64, "aarch64", True),
        (0x0903, "aarch64", False),
        (0x0803, "x86_64", False),
        (0x0301, "x86_64", False),
        (X86_64, "riscv64", False),
    ],
)
def test_libraries_of_other_machines_and_word_sizes_do_not_count(flags: int, machine: str, loadable: bool):
    assert Entry(name="libcuda.so.1", path="/libcuda.so.1", flags=flags).loadable_on(machine) is loadable


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a cache at all, but long enough to be one, one would think",
        b"glibc-ld.so.cache1.1",
        cache(CUDA)[:60],
        cache(CUDA)[:-1],
        cache(CUDA)[:20] + struct.pack("<I", 2**31) + cache(CUDA)[24:],
        cache(CUDA, flag=0)[:20] + b"\xff" * 8 + cache(CUDA, flag=0)[28:],
        b"ld.so-1.7.0\0" + struct.pack("<I", 2**32 - 1),
    ],
)
def test_a_damaged_cache_is_refused_in_one_way(data: bytes):
    with pytest.raises(CacheError):
        parse(data)
