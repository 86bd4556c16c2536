"""Text that has to fit: limits of the API are in bytes, not in characters."""

from __future__ import annotations


def cut(text: str, limit: int, *, ellipsis: str = "") -> str:
    """Shorten text to at most ``limit`` bytes of UTF-8, between two characters; what no UTF-8 can say becomes ``?``."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - len(ellipsis.encode())].decode("utf-8", "ignore") + ellipsis
