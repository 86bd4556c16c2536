"""A JSON file that is either the old one or the new one, never half of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def store(path: Path, data: Any) -> None:
    """Replace the file. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(data))
    temporary.replace(path)


def load(path: Path) -> Any:
    """Read what ``store`` wrote, None if the file does not exist. Raises ValueError."""
    return json.loads(path.read_text()) if path.exists() else None
