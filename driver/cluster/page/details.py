"""What is known of one part, or of one GPU: claims, pods, taints, Events. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from driver.base.quantity import format_quantity
from driver.cluster.fleet_text import decimal, duration, room_text
from driver.cluster.page.html import Html, join, tag
from driver.cluster.page.summary import trouble_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from driver.cluster.fleet import Fleet, Gpu, Holder, Node, Part
    from driver.cluster.objects import Amounts
    from driver.cluster.page.marks import Marks
    from driver.cluster.page.object_events import Event, Subject
    from driver.kube import ApiError

EVENTS = 12
"""Events that are shown, the newest."""
HOLDERS = 24
"""Claims of which is told; what is more is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a reader looks."""

    node: Node
    gpu: Gpu
    part: Part | None
    """None for the GPU as a whole."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """What of the GPU it is about."""
        return self.gpu.parts if self.part is None else (self.part,)

    @property
    def holders(self) -> list[Holder]:
        """Claims that have it, or a part of it."""
        return [holder for part in self.parts for holder in part.holders]


def find(fleet: Fleet, at: tuple[str, str]) -> Place | None:
    """The part or the GPU of this pool and name."""
    pool, name = at
    for node in fleet.nodes:
        if node.pool != pool:
            continue
        for gpu in node.gpus:
            part = next((part for part in gpu.parts if part.device.name == name), None)
            if part is not None or gpu.name == name:
                return Place(node=node, gpu=gpu, part=part)
    return None


def subjects(place: Place) -> Iterator[Subject]:
    """Whose Events are of interest; the claims' and pods' first."""
    seen: set[Subject] = set()
    for holder in place.holders:
        found = [(holder.namespace, "ResourceClaim", holder.claim[1])]
        found += [(holder.namespace, "Pod", name) for name, _ in holder.pods]
        for subject in found:
            if subject not in seen:
                seen.add(subject)
                yield subject


def node_subject(place: Place) -> Subject:
    """The driver's own Events are about its node, and are kept in this namespace."""
    return ("default", "Node", place.node.name)


def is_about(event: Event, place: Place) -> bool:
    """Of a node's Events those that name this GPU."""
    words = (place.gpu.name, place.gpu.uuid)
    return event.subject[1] != "Node" or any(word in re.split(r"[^\w.-]+", event.message) for word in words if word)


def details_html(
    place: Place | None,
    *,
    at: tuple[str, str],
    marks: Marks,
    now: datetime,
    events: Sequence[Event] = (),
    refused: ApiError | None = None,
) -> Html:
    """The panel; empty and hidden where nobody looks at anything."""
    if not all(at):
        return _panel()
    if place is None:
        return _panel(tag("h2", at[1]), tag("p", f"is not there any more on {at[0]}, or nobody has it"))
    gpu, part = place.gpu, place.part
    holders = place.holders
    return _panel(
        tag("h2", part.device.name if part else gpu.name),
        _facts(place),
        *(_holder(holder, marks, now) for holder in holders[:HOLDERS]),
        tag("p", f"and {len(holders) - HOLDERS} more claims") if len(holders) > HOLDERS else None,
        tag("p", "nobody has it") if not holders else None,
        tag("h3", "Taints"),
        _troubles(place, now),
        tag("h3", "Events"),
        tag("p", f"▲ Events cannot be read: {refused}", class_="alarm") if refused else None,
        tag("ol", *(_event(event) for event in events[:EVENTS]), class_="events") if events else None,
        tag("p", "none in the last hour or so") if not events and not refused else None,
    )


def _panel(*body: Html | None) -> Html:
    close = tag("a", "× close", href="/", data_close=True, class_="close")
    inside = (close, *body) if body else ()
    return tag("aside", *inside, id="details", hidden=not body, tabindex="-1", aria_label="details")


def _facts(place: Place) -> Html:
    gpu, part = place.gpu, place.part
    facts = [("Node", place.node.name), ("GPU", f"{gpu.name}, {gpu.product}" if gpu.product else gpu.name)]
    if part is not None:
        facts += [("Kind", part.kind), ("UUID", part.device.uuid), ("Left", _amounts(part.left))]
        facts += [("Part of a GPU", decimal(part.weight))] if part.weight != 1 else []
    else:
        facts += [("UUID", gpu.uuid), ("Held", decimal(gpu.weight)), ("Fits", room_text(gpu.room))]
    return _list((name, text) for name, text in facts if text)


def _list(facts: Iterator[tuple[str, str]] | Sequence[tuple[str, str]]) -> Html:
    return tag("dl", *(join((tag("dt", name), tag("dd", text))) for name, text in facts), class_="facts")


def _holder(holder: Holder, marks: Marks, now: datetime) -> Html:
    facts = [
        ("Pod", ", ".join(f"{name} ({phase})" if phase else name for name, phase in holder.pods) or "none"),
        ("Request", holder.result.request),
        ("Since", _ago(holder.since, now)),
        # The scheduler writes a zero for each capacity that the claim did not ask for.
        ("Takes", _amounts(tuple((name, amount) for name, amount in holder.result.consumed if amount))),
        ("Access", "admin: takes nothing" if holder.result.admin else ""),
        ("GPUs", decimal(holder.weight) if holder.weight else ""),
    ]
    mark = tag("b", marks.letter(holder.namespace), class_=f"mark held c{marks.colour(holder.namespace)}")
    return tag(
        "section",
        tag("h3", mark, f" {'/'.join(holder.claim)}"),
        _list([(name, text) for name, text in facts if text]),
        class_="claim",
    )


def _troubles(place: Place, now: datetime) -> Html:
    name = place.part.device.name if place.part else ""
    found = [
        tag("li", f"{'✕' if trouble.taint.forbids else '▲'} {trouble_text(trouble)}, {_ago(trouble.taint.since, now)}")
        for trouble in place.gpu.troubles
        if not trouble.devices or not name or name in trouble.devices
    ]
    return tag("ul", *found, class_="troubles") if found else tag("p", "none")


def _event(event: Event) -> Html:
    _, kind, name = event.subject
    times = f" (× {event.count})" if event.count > 1 else ""
    return tag(
        "li",
        tag("b", f"{'▲ ' if event.warning else ''}{event.reason}", class_="alarm" if event.warning else None),
        tag("small", f" {event.at[:19].replace('T', ' ')} {kind} {name}{times}"),
        tag("p", event.message),
    )


def _ago(since: datetime | None, now: datetime) -> str:
    return f"{since:%Y-%m-%d %H:%M:%S} UTC, {duration((now - since).total_seconds())}" if since else ""


def _amounts(amounts: Amounts) -> str:
    found = []
    for name, amount in amounts:
        whole = max(0, int(amount))
        in_mebibytes = whole >> 20 << 20 or whole
        found.append(f"{whole} shares" if name == "shares" else f"{format_quantity(in_mebibytes)} of {name}")
    return ", ".join(found)
