"""The archive: files with a limit for each, all of them searched for secrets on their way in."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from driver.operate.bundle.scrub import scrub

if TYPE_CHECKING:
    from collections.abc import Collection

LARGEST = 2 << 20
"""Bytes of one file; of a longer one the end is kept, as of a log it is what counts."""
MOST = 32 << 20
"""Bytes of all files: they are in memory."""
MISSING = "missing.txt"


@dataclass(slots=True)
class Found:
    """What a part has found: texts by the name of their file, and what it could not find, with the reason."""

    files: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add_json(self, name: str, value: Any) -> None:
        """One more file."""
        self.files[name] = json.dumps(value, indent=1, default=str) + "\n"

    def update(self, other: Found) -> None:
        """Take what another has found, too."""
        self.files |= other.files
        self.missing |= other.missing


def pack(found: Found, *, top: str, known: Collection[str], now: float) -> bytes:
    """A tar.gz of everything, below the directory ``top``, without the ``known`` secrets and what looks like one."""
    left = MOST
    missing = dict(found.missing)
    texts: dict[str, bytes] = {}
    for name, text in sorted(found.files.items()):
        content = scrub(text, known).encode(errors="replace")
        if len(content) > min(LARGEST, left):
            content = content[len(content) - min(LARGEST, left) :]
            missing[name] = f"its beginning: there is room for {len(content)} bytes"
        left -= len(content)
        texts[name] = content
    said = "".join(f"{name}: {' '.join(why.split())}\n" for name, why in sorted(missing.items()))
    texts[MISSING] = scrub(said, known).encode(errors="replace")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in texts.items():
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(now), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
