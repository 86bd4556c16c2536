"""What of the cluster a reader looks at, as the page's address has it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from driver.cluster.fleet import Node

NODES = 24
"""Nodes on a page: what a reader is sent, and what is compared on each change, is bounded by this."""
LONGEST = 100
"""Characters of a search."""
ALL, USED, SICK, FREE = "all", "used", "sick", "free"
SHOWS = (ALL, USED, SICK, FREE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which nodes."""

    show: str = ALL
    text: str = ""
    """Part of the name of a node, GPU, product, profile, namespace, claim or pod, in any case."""
    page: int = 1
    at: tuple[str, str] = ("", "")
    """Pool and device of which details are shown; empty for none."""

    @classmethod
    def read(cls, given: Mapping[str, str]) -> Query:
        """From an address; whatever is not known there is as if it were not given."""
        show, page = given.get("show", ""), given.get("page", "")
        pool, _, device = given.get("at", "")[: 8 * LONGEST].partition("/")
        return cls(
            show=show if show in SHOWS else ALL,
            text=given.get("q", "").strip()[:LONGEST],
            page=max(1, int(page)) if page.isascii() and page.isdecimal() and len(page) < 6 else 1,
            at=(pool, device),
        )

    def href(self, **changes: object) -> str:
        """The address of what this is with changes."""
        query = replace(self, **changes)  # type: ignore[arg-type]
        pairs = {
            "show": query.show if query.show != ALL else "",
            "q": query.text,
            "page": str(query.page) if query.page > 1 else "",
            "at": "/".join(query.at) if all(query.at) else "",
        }
        return "/?" + urlencode({name: value for name, value in pairs.items() if value}, safe="/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The nodes of a page."""

    nodes: tuple[Node, ...]
    found: int
    """Nodes on all pages."""
    page: int
    pages: int


def select(nodes: Sequence[Node], query: Query) -> Selection:
    """The nodes that are looked at; beyond the last page the last one."""
    found = [node for node in nodes if _is_shown(node, query.show) and _has(node, query.text.casefold())]
    pages = max(1, -(-len(found) // NODES))
    page = min(query.page, pages)
    return Selection(nodes=tuple(found[(page - 1) * NODES : page * NODES]), found=len(found), page=page, pages=pages)


def _is_shown(node: Node, show: str) -> bool:
    match show:
        case "used":
            return bool(node.usage or node.lost)
        case "sick":
            return bool(node.problem or node.lost) or any(gpu.troubles for gpu in node.gpus)
        case "free":
            return any(node.room.values())
    return True


def _has(node: Node, text: str) -> bool:
    return not text or any(text in word.casefold() for word in _words(node))


def _words(node: Node) -> Iterator[str]:
    yield node.name
    for gpu in node.gpus:
        yield from (gpu.name, gpu.product, gpu.uuid)
        for part in gpu.parts:
            if part.holders:
                yield part.kind
            for holder in part.holders:
                yield "/".join(holder.claim)
                yield from (f"{holder.namespace}/{name}" for name, _ in holder.pods)
    for holder in node.lost:
        yield "/".join(holder.claim)
