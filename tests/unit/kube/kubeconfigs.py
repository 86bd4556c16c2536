"""Kubeconfigs for tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def write_kubeconfig(
    directory: Path,
    server: str,
    *,
    cluster: Mapping[str, Any] | None = None,
    user: Mapping[str, Any] | None = None,
    current: str = "here",
) -> Path:
    """Write one (JSON is YAML), with more fields for its cluster and its user."""
    path = directory / "kubeconfig"
    config = {
        "current-context": current,
        "contexts": [
            {"name": "other", "context": {"cluster": "other", "user": "other"}},
            {"name": "here", "context": {"cluster": "c", "user": "u"}},
        ],
        "clusters": [
            {"name": "other", "cluster": {"server": "https://other.example"}},
            {"name": "c", "cluster": {"server": server, **(cluster or {})}},
        ],
        "users": [{"name": "other"}, {"name": "u", "user": {**(user or {})}}],
    }
    path.write_text(json.dumps(config))
    return path
