"""What stands above the map: how old the picture is, what is missing, and the sums. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from driver.cluster.fleet_text import CONSEQUENCES, decimal, duration
from driver.cluster.page.html import Html, tag
from driver.cluster.page.query import Query

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from driver.cluster.fleet import Trouble
    from driver.cluster.page.picture import Picture

ROWS = 12
"""Namespaces at most; what is more is counted."""


def status_html(picture: Picture, now: datetime) -> Html:
    """How old the picture is. ``data-now`` is for the script, which goes on counting where nothing comes any more."""
    since = picture.stale_since
    if not picture.view.revision:
        text, kind = "◌ reading the cluster …", "wait"
    elif since is not None:
        age = duration((now - since).total_seconds())
        text, kind = f"▲ the picture is {age} old, of {since:%H:%M:%S} UTC", "stale"
    else:
        text, kind = f"● live, {now:%H:%M:%S} UTC", "live"
    return tag("p", text, id="status", class_=kind, role="status", data_now=int(now.timestamp()))


def notes_html(picture: Picture) -> Html:
    """What is not known, and what may not be true any more."""
    view = picture.view
    lines = [f"claims of {view.namespace} only can be read, so others' are not shown"] if view.namespace else []
    lines += [f"{what} cannot be read, so {CONSEQUENCES[what]}: {error}" for what, error in view.missing.items()]
    lines += [f"{what} may have changed since: {error}" for what, error in view.behind.items()]
    return tag("ul", *(tag("li", line) for line in lines), id="notes", hidden=not lines)


def summary_html(picture: Picture, now: datetime) -> Html:
    """Figures, who has how much, what is sick, what could be placed."""
    return tag("div", _figures(picture), _namespaces(picture, now), _room(picture), _sick(picture, now), id="summary")


def _figures(picture: Picture) -> Html:
    counts, nodes = picture.counts, len(picture.fleet.nodes)
    held = sum((usage.gpus for usage in picture.usage.values()), start=0)
    figures = [
        ("GPUs", str(counts.gpus), ""),
        ("held", decimal(held), ""),
        ("untouched", str(counts.untouched), ""),
        ("sick", str(counts.sick), "alarm" if counts.sick else ""),
        ("node" if nodes == 1 else "nodes", str(nodes), ""),
    ]
    return tag(
        "dl",
        *(tag("div", tag("dd", number, class_=kind or None), tag("dt", name)) for name, number, kind in figures),
        class_="figures",
    )


def _namespaces(picture: Picture, now: datetime) -> Html:
    usage, marks = picture.usage, picture.marks
    total = max(1, picture.counts.gpus)
    ordered = sorted(usage.items(), key=lambda item: (-item[1].gpus, item[0]))
    rows = [
        tag(
            "tr",
            tag(
                "th",
                tag("b", marks.letter(name), class_=f"mark held c{marks.colour(name)}"),
                " ",
                tag("a", name, href=Query(text=f"{name}/").href()),
                scope="row",
            ),
            tag("td", _meter(float(found.gpus) / total), class_="wide"),
            tag("td", decimal(found.gpus)),
            tag("td", str(found.holds)),
            tag("td", f"{found.hours(now):.1f}"),
        )
        for name, found in ordered[:ROWS]
    ]
    heads = [tag("th", name, scope="col") for name in ("Namespace", "", "GPUs", "Devices", "GPU hours")]
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    return _card("Who has what", table if rows else tag("p", "nobody holds anything"), _more(len(ordered) - len(rows)))


def _meter(part: float) -> Html:
    """A bar; its width is an attribute, since the page's policy allows no styles within it."""
    rect = tag("rect", width=f"{100 * min(1.0, max(0.0, part)):.1f}", height="6", rx="1")
    return tag("svg", rect, viewBox="0 0 100 6", preserveAspectRatio="none", class_="meter", aria_hidden="true")


def _room(picture: Picture) -> Html:
    chips = [
        tag("li", tag("b", str(count)), f" × {kind}" if count else f" {kind}", class_=None if count else "nothing")
        for kind, count in picture.room.items()
    ]
    body = tag("ul", *chips, class_="chips") if chips else tag("p", "nobody knows")
    return _card("What could still be placed", body, tag("p", "each for itself", class_="more") if chips else None)


def _sick(picture: Picture, now: datetime) -> Html:
    rows = [
        tag(
            "li",
            tag("b", "✕ " if trouble.taint.forbids else "▲ ", class_="alarm"),
            tag(
                "a",
                f"{node.name} {gpu.name}",
                href=Query().href(at=(node.pool, gpu.name)),
                data_at=f"{node.pool}/{gpu.name}",
            ),
            f" {trouble_text(trouble)}",
            _since(trouble, now),
        )
        for node, gpu, trouble in picture.troubles
    ]
    body = tag("ul", *rows, class_="troubles") if rows else tag("p", "nothing that is known")
    return _card("What is sick", body, _more(picture.counts.troubles - len(rows)))


def trouble_text(trouble: Trouble) -> str:
    """The taint, and of what."""
    first, *others = trouble.devices or ("",)
    where = "" if not first else f" on {first}" + (f" and {len(others)} more" if others else "")
    return f"{trouble.taint}{where}"


def _since(trouble: Trouble, now: datetime) -> Html | None:
    since = trouble.taint.since
    return tag("small", f" for {duration((now - since).total_seconds())}") if since else None


def _more(count: int) -> Html | None:
    return tag("p", f"and {count} more", class_="more") if count else None


def _card(title: str, *body: Html | None) -> Html:
    return tag("section", tag("h2", title), *body, class_="card", aria_label=title)


def legend_html() -> Html:
    """What the colours and signs mean; namespaces are told in the table."""
    entries: Sequence[tuple[str, str, str]] = (
        ("cell held c0 h-ok by-namespace", "A", "held: the letter is the namespace's"),
        ("cell held c0 h-ok by-health", "A", "held, well"),
        ("cell idle h-ok", "", "cut, free"),
        ("cell none", "", "free"),
        ("cell none h-sick", "✕", "sick: nothing new gets a place"),
        ("cell idle h-odd", "▲", "a taint that only tells"),
    )
    return tag(
        "ul",
        *(tag("li", tag("span", sign, class_=kind, aria_hidden="true"), f" {text}") for kind, sign, text in entries),
        id="legend",
        aria_label="legend",
    )
