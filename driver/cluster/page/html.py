"""HTML that is escaped by how it is made: whatever is not ``Html`` already becomes text. Pure."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_VOID = frozenset({"input", "link", "meta"})


class Html(str):
    """Text that is HTML."""

    __slots__ = ()


Child = str | None
"""Plain text, or HTML; nothing for what is not there."""


def tag(element: str, *children: Child, **attributes: str | int | bool | None) -> Html:
    """``tag("a", "text", href="/", class_="x", data_at="y")``; an attribute that is None or False is left out.

    Names lose an underscore at the end, others become dashes.
    """
    parts = [f"<{element}"]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        parts.append(f" {key}" if value is True else f' {key}="{escape(str(value))}"')
    parts.append(">")
    if element not in _VOID:
        parts += (join(children), f"</{element}>")
    return Html("".join(parts))


def join(children: Iterable[Child], between: str = "") -> Html:
    """Children one after the other."""
    found = (child if isinstance(child, Html) else escape(child) for child in children if child is not None)
    return Html(escape(between).join(found))
