"""A node of the map: its GPUs, each a bar of parts that are links to what is known of them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.cluster.fleet_text import decimal, products, room_text
from driver.cluster.page.bar import Segment, segments, shares, watchers
from driver.cluster.page.html import Html, tag
from driver.cluster.page.query import Query

if TYPE_CHECKING:
    from collections.abc import Sequence

    from driver.cluster.fleet import Gpu, Holder, Node, Part, Trouble
    from driver.cluster.page.marks import Marks


def node_id(node: Node) -> str:
    """What the node is called in the page; a pool has one node."""
    return f"node:{node.pool}"


def node_html(node: Node, marks: Marks) -> Html:
    """One node; depends on nothing but these, so that it is sent again only when one of them changes."""
    held = float(sum(gpu.weight for gpu in node.gpus))
    room = room_text({kind: count for kind, count in node.room.items() if count})
    sick = sum(gpu.is_sick for gpu in node.gpus)
    return tag(
        "section",
        tag(
            "header",
            tag("h3", node.name),
            tag("span", products(node.gpus), class_="what") if node.gpus else None,
            tag("span", f"{decimal(held)} of {len(node.gpus)} held", class_="held") if node.gpus else None,
            tag("span", f"✕ {sick} sick", class_="alarm") if sick else None,
            tag("span", f"▲ {node.problem}", class_="alarm") if node.problem else None,
        ),
        tag("div", *(_gpu(node, gpu, marks) for gpu in node.gpus), class_="gpus"),
        *(_lost(holder) for holder in node.lost),
        tag("p", tag("b", "fits: "), room, class_="room", title="what could still be placed, each for itself")
        if room
        else None,
        id=node_id(node),
        class_="node",
        aria_label=f"node {node.name}",
    )


def _gpu(node: Node, gpu: Gpu, marks: Marks) -> Html:
    drawn = segments(gpu)
    return tag(
        "div",
        tag("a", gpu.name, href=_href(node, gpu.name), data_at=f"{node.pool}/{gpu.name}", class_="name"),
        tag("span", *_state(gpu), class_="state"),
        tag("div", *(_segment(node, gpu, one, marks) for one in drawn), class_=f"bar g{sum(s.cells for s in drawn)}"),
        *(_beside(node, part, holder) for part, holder in watchers(gpu)),
        class_="gpu is-sick" if gpu.is_sick else "gpu",
    )


def _state(gpu: Gpu) -> Sequence[Html | str]:
    if not gpu.troubles:
        return ["free" if not gpu.weight else "all held" if gpu.weight == 1 else f"{decimal(gpu.weight)} held"]
    words = ", ".join(sorted({_short(trouble) for trouble in gpu.troubles}))
    title = "\n".join(str(trouble.taint) for trouble in gpu.troubles)
    return [
        tag("span", f"{'✕' if gpu.is_sick else '▲'} {words}", class_="bad" if gpu.is_sick else "odd", title=title),
    ]


def _short(trouble: Trouble) -> str:
    taint = trouble.taint
    return taint.key.rpartition("/")[2] + (f"={taint.value}" if taint.value else "")


def _segment(node: Node, gpu: Gpu, segment: Segment, marks: Marks) -> Html:
    part, sick = segment.part, " h-sick" if segment.sick else ""
    if part is None:
        title = "free, but nothing new gets a place here" if segment.sick else "free"
        return tag("span", "✕" if segment.sick else None, class_=f"cell none w{segment.cells}{sick}", title=title)
    odd = " h-odd" if not segment.sick and part.device.taints else ""
    health = sick or odd or " h-ok"
    if part.is_held and part.device.shape.shared:
        inside = [_share(node, part, one.cells, one.holders, health, marks) for one in shares(part)]
        return tag("span", *inside, class_=f"shared bar g24 w{segment.cells}")
    if part.is_held:
        return _held(node, part, segment.cells, _takers(part), health, marks)
    what = f"{part.kind}: {'sick' if segment.sick else 'free'}"
    label = [tag("b", "✕") if segment.sick else None, tag("i", part.kind if part.kind != gpu.name else "free")]
    return _link(node, part, label, f"cell idle{health} w{segment.cells}", what)


def _takers(part: Part) -> tuple[Holder, ...]:
    return tuple(holder for holder in part.holders if not holder.result.admin)


def _share(node: Node, part: Part, cells: int, holders: tuple[Holder, ...], health: str, marks: Marks) -> Html:
    if holders:
        return _held(node, part, cells, holders, health, marks)
    sick = "h-sick" in health
    return tag("span", "✕" if sick else None, class_=f"cell none{health if sick else ''} w{cells}", title="left")


def _held(node: Node, part: Part, cells: int, holders: tuple[Holder, ...], health: str, marks: Marks) -> Html:
    first = holders[0]
    label = [tag("b", ("✕" if "h-sick" in health else "") + marks.letter(first.namespace)), tag("i", _label(holders))]
    title = "\n".join([f"{part.kind} {part.device.name}", *(who(holder) for holder in holders)])
    return _link(node, part, label, f"cell held c{marks.colour(first.namespace)}{health} w{cells}", title)


def _label(holders: Sequence[Holder]) -> str:
    names = [name for holder in holders for name, _ in holder.pods] or [holder.claim[1] for holder in holders]
    return names[0] if len(names) == 1 else f"{names[0]} +{len(names) - 1}"


def who(holder: Holder) -> str:
    """The pods if there are any, else the claim."""
    pods = ", ".join(
        f"{holder.namespace}/{name}" + (f" ({phase})" if phase not in ("", "Running") else "")
        for name, phase in holder.pods
    )
    admin = " (admin access)" if holder.result.admin else ""
    return (pods or f"claim {'/'.join(holder.claim)}, no pod") + admin


def _beside(node: Node, part: Part, holder: Holder) -> Html:
    return _link(node, part, [tag("i", f"admin access: {holder.namespace}")], "beside", who(holder))


def _link(node: Node, part: Part, label: Sequence[Html | None], class_: str, title: str) -> Html:
    name = part.device.name
    return tag(
        "a",
        *label,
        href=_href(node, name),
        data_at=f"{node.pool}/{name}",
        class_=class_,
        title=title,
        aria_label=f"{node.name} {title}".replace("\n", ", "),
    )


def _href(node: Node, device: str) -> str:
    return Query().href(at=(node.pool, device))


def _lost(holder: Holder) -> Html:
    return tag("p", f"▲ {holder.result.device} is held by {who(holder)}, but not published", class_="lost")
