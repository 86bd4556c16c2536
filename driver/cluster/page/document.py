"""The page, whole and in the pieces that are sent when they change. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.cluster.page.html import Html, tag
from driver.cluster.page.node_map import node_id
from driver.cluster.page.query import SHOWS, Query, select
from driver.cluster.page.summary import legend_html, notes_html, status_html, summary_html

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from driver.cluster.fleet import Node
    from driver.cluster.page.picture import Picture
    from driver.cluster.page.query import Selection

_NAMES = {"all": "all nodes", "used": "in use", "sick": "sick", "free": "with room"}


def pieces(
    picture: Picture, query: Query, now: datetime, *, draw: Callable[[Node], Html]
) -> tuple[dict[str, Html], list[str]]:
    """Everything of the page that changes, by id, and the ids of the nodes in their order.

    ``draw``: of a node; whoever draws keeps what was drawn before.
    """
    chosen = select(picture.fleet.nodes, query)
    nodes = {node_id(node): draw(node) for node in chosen.nodes}
    found = {
        "status": status_html(picture, now),
        "notes": notes_html(picture),
        "summary": summary_html(picture, now),
        "pager": _pager(chosen, query),
        **nodes,
    }
    return found, list(nodes)


def document(found: Mapping[str, Html], order: list[str], *, title: str, query: Query, details: Html) -> str:
    """The whole page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="dark light"),
        tag("title", f"GPUs of {title}"),
        tag("link", rel="stylesheet", href="/page.css"),
        tag("link", rel="icon", href="/icon.svg", type="image/svg+xml"),
        tag("script", src="/page.js", defer=True),
    )
    top = tag("header", tag("h1", "GPUs"), tag("span", title, class_="what"), found["status"], class_="top")
    body = tag(
        "body",
        top,
        tag(
            "main",
            found["notes"],
            found["summary"],
            tag("div", _filters(query), _colours(), legend_html(), class_="tools"),
            tag("div", *(found[name] for name in order), id="nodes"),
            found["pager"],
        ),
        details,
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en")


def _filters(query: Query) -> Html:
    links = [
        tag(
            "a",
            _NAMES[show],
            href=query.href(show=show, page=1, at=("", "")),
            aria_current="page" if show == query.show else None,
        )
        for show in SHOWS
    ]
    search = tag(
        "form",
        tag("input", type="hidden", name="show", value=query.show) if query.show != "all" else None,
        tag(
            "input",
            type="search",
            name="q",
            value=query.text,
            placeholder="node, namespace, pod …",
            aria_label="search",
        ),
        action="/",
        role="search",
    )
    return tag("nav", *links, search, aria_label="which nodes")


def _colours() -> Html:
    choices = [
        tag(
            "label",
            tag("input", type="radio", name="colour", id=f"by-{what}", checked=what == "namespace"),
            f" {what}",
        )
        for what in ("namespace", "health")
    ]
    return tag("fieldset", tag("legend", "colour by"), *choices)


def _pager(chosen: Selection, query: Query) -> Html:
    def link(page: int, text: str) -> Html | None:
        return tag("a", text, href=query.href(page=page, at=("", ""))) if 1 <= page <= chosen.pages else None

    text = f" page {chosen.page} of {chosen.pages}, {chosen.found} nodes " if chosen.pages > 1 else ""
    nothing = tag("p", "no such node" if query.text or query.show != "all" else "no GPU of this driver is published")
    return tag(
        "nav",
        nothing if not chosen.found else None,
        link(chosen.page - 1, "‹ before") if chosen.pages > 1 else None,
        text,
        link(chosen.page + 1, "next ›"),
        id="pager",
        aria_label="pages",
    )


def message(found: Mapping[str, str], order: list[str], sent: Mapping[str, str]) -> dict[str, object] | None:
    """What somebody has to be told who was sent this before; None for nothing."""
    changed = {name: html for name, html in found.items() if sent.get(name) != html}
    if not changed and found.keys() == sent.keys():
        return None
    return {"order": order, "pieces": changed}
