"""A JSON file that is either the old one or the new one, never half of it."""

from __future__ import annotations

import json
import logging
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)


class CorruptCheckpointError(Exception):
    """The file exists, but is not what was written."""


def store(path: Path, data: Any) -> None:
    """Replace the file. Raises OSError."""
    text = json.dumps(data, separators=(",", ":"), sort_keys=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps({"data": text, "crc32": zlib.crc32(text.encode())}))
    temporary.replace(path)


def load(path: Path) -> Any:
    """Read what ``store`` wrote, None if the file does not exist. Raises CorruptCheckpointError."""
    try:
        envelope = json.loads(path.read_text())
        text = envelope["data"]
        if zlib.crc32(text.encode()) != envelope["crc32"]:
            raise CorruptCheckpointError(f"{path}: checksum does not match its content")
        return json.loads(text)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpointError(f"{path}: not a checkpoint of the embedded kubelet: {error}") from error
