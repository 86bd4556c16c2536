"""Small files with as few system calls as it takes, for the hot path.

Paths are plain text here: pathlib and buffered files take several times as long as the system calls themselves.
"""

# ruff: noqa: PTH104, PTH108, PTH116
from __future__ import annotations

import contextlib
import os

# Opened without waiting: whoever opens a named pipe that lies where a file should be would wait for ever.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
_OLD = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def write(path: str, content: bytes, *, mode: int = 0o644, mtime_ns: int | None = None) -> os.stat_result:
    """Write a file as a whole and answer what it is then; ``mtime_ns`` gives it another time stamp. Raises OSError."""
    descriptor = os.open(path, _NEW, mode)
    try:
        left = memoryview(content)
        while left:  # a disk that is nearly full takes a part, and says so at the next try
            left = left[os.write(descriptor, left) :]
        if mtime_ns is not None:
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def read(path: str) -> bytes:
    """All of a file. Raises OSError."""
    with open(path, "rb", buffering=0, opener=lambda name, _flags: os.open(name, _OLD)) as file:
        return file.readall() or b""  # None of a named pipe that somebody has open


def rename(path: str, target: str) -> None:
    """Give a file another name, replacing what has it. Raises OSError."""
    os.rename(path, target)


def remove(path: str) -> None:
    """Remove a file, if it is there. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def status(path: str) -> os.stat_result | None:
    """What a file is, None where there is none. Raises OSError."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
