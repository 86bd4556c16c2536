"""Directories for tests whose paths are short: sockets lie in them, and the path of one ends at 107 bytes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def short_directory() -> Iterator[Path]:
    """A new directory below /tmp, whatever TMPDIR says; it goes with the context."""
    with tempfile.TemporaryDirectory(prefix="gd-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield Path(directory)
