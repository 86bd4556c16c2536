"""Small files with as few system calls as it takes, for the hot path.

Paths are plain text here: pathlib and buffered files take several times as long as the system calls themselves.

What others could have put in a file's place is checked by what was opened: a named pipe never makes anybody wait, and
nothing is read beyond a limit.
"""

# ruff: noqa: PTH104, PTH108, PTH116
from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import stat
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

# Opened without waiting: whoever opens a named pipe that lies where a file should be would wait for ever.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_OLD = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_OVER = os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW

LARGEST = 4 << 20
"""Bytes of a file that is read; no file of ours has more than some hundred KiB."""

TEMPORARY = r"\.[0-9a-f]{16}\.tmp"
"""Regular expression: a file that is being written has a dot, the name that it will have, and this."""

ABANDONED = 60.0
"""Seconds after which a temporary file is nobody's: between its creation and its rename are milliseconds."""

# Process ids do not tell instances apart, each is process 1 in its container. Seeded by the kernel; costs no call then.
_random = random.Random()  # noqa: S311 - to be unique, not secret
os.register_at_fork(after_in_child=_random.seed)  # or parent and child would have the same names


def temporary_name(name: str) -> str:
    """What a file is called while it is written: unique, also among processes that share a directory."""
    return f".{name}.{_random.getrandbits(64):016x}.tmp"


def write(path: str, content: bytes, *, mode: int = 0o644, mtime_ns: int | None = None) -> os.stat_result:
    """Write a new file and answer what it is then; ``mtime_ns`` gives it another time stamp.

    Raises OSError, also where there is something of that name.
    """
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


def replace(
    path: str, content: bytes, *, staging: str = "", mode: int = 0o644, mtime_ns: int | None = None
) -> os.stat_result:
    """Put a file in place as a whole, replacing what has its name, and answer what it is then.

    Readers see the old or the new content, and of several writers each writes a file of its own. A process that is
    killed meanwhile leaves that, for ``tidy``. Not synced: it has to outlive the process, not the machine.

    Args:
        path: the file.
        content: all of it.
        staging: a directory of the same file system where it is written; the file's own by default.
        mode: its permissions, but for the umask.
        mtime_ns: another time stamp than now.

    Raises OSError; then nothing has changed.
    """
    directory, _, name = path.rpartition(os.sep)
    temporary = f"{staging or directory or os.curdir}{os.sep}{temporary_name(name)}"
    try:
        status = write(temporary, content, mode=mode, mtime_ns=mtime_ns)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            remove(temporary)
        raise
    return status


def overwrite(path: str, beginning: bytes) -> None:
    """Write over the first bytes of a file that is there. Raises OSError."""
    descriptor = os.open(path, _OVER)
    try:
        os.write(descriptor, beginning)
    finally:
        os.close(descriptor)


def tidy(directory: str, *, older: float = ABANDONED, also: Iterable[str] = ()) -> None:
    """Remove what killed processes left half-written in a directory; ``also``: further names, regular expressions.

    Not what was touched within ``older`` seconds: others may be writing it now. Raises OSError.
    """
    ours = re.compile("|".join([rf"\..+{TEMPORARY}", *also]))
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        for entry in entries:
            if ours.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    # By its inode's time, its own may have been set; a clock that was put back since counts too.
                    if abs(time.time() - entry.stat(follow_symlinks=False).st_ctime) > older:
                        os.unlink(entry.path)


def read(path: str, *, largest: int = LARGEST) -> bytes:
    """All of a regular file. Raises OSError, also for anything else and for what has more bytes than ``largest``."""
    descriptor = os.open(path, _OLD)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        content = os.read(descriptor, min(status.st_size, largest) + 1)
        while len(content) <= largest and len(content) > status.st_size:  # of /proc, or growing
            more = os.read(descriptor, largest + 1 - len(content))
            if not more:
                break
            content += more
    finally:
        os.close(descriptor)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"it has more than {largest} bytes", path)
    return content


def parse(content: bytes) -> dict[str, Any]:
    """The JSON object that a file holds. Raises ValueError for whatever else it holds."""
    try:
        loaded = json.loads(content)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    if not isinstance(loaded, dict):
        raise ValueError(f"a JSON object expected, found {type(loaded).__name__}")
    return loaded


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
