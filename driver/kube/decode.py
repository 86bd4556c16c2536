"""Decoding what is kept for long: equal parts are there once."""

from __future__ import annotations

import json
from typing import Any

_SMALL = 3


def decode_frugally(data: bytes) -> Any:
    """Decode JSON with equal small objects, such as ``{"value": "1"}``, being one and the same.

    A slice with many devices takes a fifth of the memory then. Nobody may change the outcome in place. Raises
    ValueError.
    """
    known: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}

    def once(obj: dict[str, Any]) -> dict[str, Any]:
        # Not of true and false, which Python takes for 1 and 0.
        if len(obj) > _SMALL or not all(type(value) in (str, int) for value in obj.values()):
            return obj
        return known.setdefault(tuple(obj.items()), obj)

    return json.loads(data, object_hook=once)
