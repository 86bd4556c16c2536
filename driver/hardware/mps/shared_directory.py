"""A directory of ours where everybody may write, like ``/dev/shm``: others can know its name, and be there first.

The parent is sticky: what is ours stays ours. So it is enough to look, by descriptor, whose it is.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MODE = 0o1777


def make(path: Path) -> None:
    """See to it that there is such a directory, in which all may write and nobody may remove what others have.

    One that a former daemon had is kept: clients that run have it mounted. Raises OSError, also where somebody else
    has something of that name; that is neither followed nor changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    try:
        descriptor = os.open(path, _DIRECTORY)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise _foreign(path, "a link or a file") from error
        raise
    try:
        owner = os.fstat(descriptor).st_uid
        if owner != os.geteuid():
            raise _foreign(path, f"a directory of user {owner}")
        os.fchmod(descriptor, MODE)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove such a directory with what is in it, if it is there and ours. Raises OSError."""
    try:
        descriptor = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    except OSError as error:
        logger.warning("%s is not the directory that the driver makes there, it stays: %s", path, error.strerror)
        return
    owner = os.fstat(descriptor).st_uid
    os.close(descriptor)
    if owner != os.geteuid():
        logger.warning("%s is a directory of user %d, it stays", path, owner)
        return
    shutil.rmtree(path)  # which goes by descriptors too


def _foreign(path: Path, what: str) -> OSError:
    words = f"there is {what} that is not the driver's; see who made it, and remove it"
    return FileExistsError(errno.EEXIST, words, str(path))
