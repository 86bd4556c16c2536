"""From the model to HTML: what a reader sees of GPUs, holders and troubles, whatever they are called."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from driver.cluster import View
from driver.cluster.page.details import details_html, find, is_about, subjects
from driver.cluster.page.document import document, message, pieces
from driver.cluster.page.node_map import node_html
from driver.cluster.page.object_events import Event, read_event
from driver.cluster.page.picture import Painter
from driver.cluster.page.query import Query
from driver.inventory import Partitioning, Shares
from driver.inventory.options import ShareBy
from driver.kube import ApiError
from tests.unit.cluster.test_model import SICK, devices_of, tainted
from tests.unit.cluster.world import claim, fleet, options, pod, put, rule, slices, state

if TYPE_CHECKING:
    from driver.cluster.page.html import Html
    from driver.cluster.page.picture import Picture

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
EVIL = "<script>alert(1)</script>\"'&"


class Seen(HTMLParser):
    """Elements, attributes and text of HTML; checks that all is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "input"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def classes(self, name: str) -> list[set[str]]:
        found = [set((attributes.get("class") or "").split()) for _, attributes in self.elements]
        return [classes for classes in found if name in classes]


def picture(*objects: dict[str, Any], **view: Any) -> Picture:
    found = fleet(*objects)
    painter = Painter("https://cluster.example")
    painter.take(View(revision=1, fleet=found, **view), found, NOW - timedelta(minutes=5))
    return painter.picture


def drawn(taken: Picture, query: Query, now: datetime = NOW) -> tuple[dict[str, Html], list[str]]:
    return pieces(taken, query, now, draw=lambda node: node_html(node, taken.marks))


def page(taken: Picture, query: Query | None = None, now: datetime = NOW) -> Seen:
    asked = query or Query()
    found, order = drawn(taken, asked, now)
    details = details_html(find(taken.fleet, asked.at), at=asked.at, marks=taken.marks, now=now)
    return Seen(document(found, order, title=taken.title, query=asked, details=details))


def test_a_gpu_is_a_bar_whose_parts_have_their_places_and_say_whose_they_are() -> None:
    taken = picture(
        *slices(),
        claim("nb", "gpu-1-mig-3g40gb-9-4", namespace="notebooks", pods=("ada",)),
        claim("small", "gpu-1-mig-1g10gb-19-0"),
        pod("ada", "Pending", namespace="notebooks"),
    )
    [node] = taken.fleet.nodes

    seen = Seen(node_html(node, taken.marks))

    widths = [next(name for name in classes if name.startswith("w")) for classes in seen.classes("cell")]
    assert widths == ["w1"] * 8 + ["w1", "w1", "w1", "w1", "w4"]
    assert "B small" in seen.text
    assert "A ada" in seen.text
    titles = [attributes.get("title") or "" for _, attributes in seen.elements]
    assert "3g.40gb gpu-1-mig-3g40gb-9-4\nnotebooks/ada (Pending)" in titles
    assert "0.57 of 2 held" in seen.text


def test_a_sick_gpu_is_told_without_colour() -> None:
    published = slices()
    tainted(published, SICK, *devices_of(published, "gpu-1"))
    seen = page(picture(*published))

    assert seen.text.count("✕ xid=79") == 1
    assert "✕ 1 sick" in seen.text
    assert "✕ node-1 gpu-1 gpu.nvidia.com/xid=79:NoExecute for 3h30m" in seen.text
    [sick] = [classes for classes in seen.classes("h-sick") if "w8" in classes]
    assert "none" in sick


def test_what_an_administrators_rule_taints_is_told_with_its_name() -> None:
    seen = page(picture(*slices(offered=options(Partitioning.NONE)), rule("drain-gpu-1", device="gpu-1")))

    assert "✕ 1 sick" in seen.text
    assert "✕ node-1 gpu-1 rule drain-gpu-1: example.com/drain:NoSchedule for 2h30m" in seen.text
    assert "fits: 1 x gpu" in seen.text


def test_a_shared_gpu_shows_each_namespace_once_and_what_is_left() -> None:
    offered = options(Partitioning.NONE, Shares(mode=ShareBy.COUNT, count=4))
    part = {"consumedCapacity": {"shares": "1", "memory": "20Gi"}}
    taken = picture(
        *slices(offered=offered),
        claim("one", "gpu-0", shareID="a", **part),
        claim("two", "gpu-0", shareID="b", **part),
        claim("three", "gpu-0", shareID="c", namespace="other", **part),
    )
    [node] = taken.fleet.nodes

    seen = Seen(node_html(node, taken.marks))

    [bar] = seen.classes("g24")
    assert {"w8", "shared"} <= bar
    assert "one +1" in seen.text
    assert [{"w12"} <= classes for classes in seen.classes("held") if "cell" in classes] == [True, False]


def test_details_of_a_share_tell_what_it_takes_and_not_what_it_does_not() -> None:
    offered = options(Partitioning.NONE, Shares(mode=ShareBy.MEMORY))
    part = {"consumedCapacity": {"memory": "20Gi", "decoders": "0", "multiprocessors": "0"}}
    taken = picture(*slices(offered=offered), claim("one", "gpu-0", shareID="a", **part))
    at = ("node-1", "gpu-0")

    seen = Seen(details_html(find(taken.fleet, at), at=at, marks=taken.marks, now=NOW))

    assert "Takes 20Gi of memory GPUs" in seen.text


def test_who_only_watches_is_beside_the_bar() -> None:
    taken = picture(
        *slices(),
        claim("monitor", "gpu-0", namespace="monitoring", adminAccess=True),
        claim("part", "gpu-0-mig-1g10gb-19-0"),
    )
    [node] = taken.fleet.nodes

    seen = Seen(node_html(node, taken.marks))

    assert "admin access: monitoring" in seen.text
    assert "0.14 held" in seen.text


def test_names_from_outside_never_become_html() -> None:
    published = slices(EVIL)
    tainted(published, {"key": EVIL, "value": EVIL, "effect": "NoSchedule"}, *devices_of(published, "gpu-1"))
    objects = [
        claim(EVIL, "gpu-0", namespace=EVIL, node=EVIL, pods=(EVIL,)),
        claim("lost", EVIL, node=EVIL),
        pod(EVIL, EVIL, namespace=EVIL),
    ]
    taken = picture(*published, *objects, missing={"pods": ApiError(403, EVIL)})
    taken = replace(taken, title=EVIL)
    event = Event(subject=(EVIL, EVIL, EVIL), at=EVIL, reason=EVIL, message=EVIL, warning=True, count=2)
    query = Query(text="", at=(EVIL, "gpu-0"))
    found, order = drawn(taken, query)
    place = find(taken.fleet, query.at)
    details = details_html(place, at=query.at, marks=taken.marks, now=NOW, events=[event], refused=ApiError(403, EVIL))

    seen = Seen(document(found, order, title=EVIL, query=replace(query, text=EVIL), details=details))

    kinds = Counter(name for name, _ in seen.elements)
    assert place is not None
    assert kinds["script"] == 1
    assert not {"alert", "img", "iframe", "style"} & kinds.keys()
    assert not any(name.startswith("on") or name == "style" for _, attributes in seen.elements for name in attributes)
    assert all(
        (attributes.get("href") or "/").startswith("/") for name, attributes in seen.elements if name in {"a", "link"}
    )
    assert EVIL in seen.text


def test_what_is_missing_is_said_and_the_rest_shown() -> None:
    refused = ApiError(403, "GET /api/v1/pods: forbidden")

    seen = page(picture(*slices(), claim("train", "gpu-0"), missing={"pods": refused}))

    assert "pods cannot be read, so it is not shown which pods run: GET /api/v1/pods: forbidden" in seen.text
    assert "A train" in seen.text


def test_an_old_picture_says_how_old_it_is() -> None:
    taken = picture(*slices(), behind={"pods": ApiError(0, "went away")})

    assert "the picture is 5m old, of 12:25:00 UTC" in page(taken).text
    assert "live, 12:30:00 UTC" in page(picture(*slices())).text


def test_details_tell_of_claim_pod_taints_and_events() -> None:
    published = slices()
    tainted(published, SICK, *devices_of(published, "gpu-0"))
    taken = picture(*published, claim("train", "gpu-0", pods=("train-0",)), pod("train-0"))
    place = find(taken.fleet, ("node-1", "gpu-0"))
    assert place is not None
    raw = {"reason": "Scheduled", "message": "assigned", "type": "Normal", "lastTimestamp": "2026-03-01T10:00:01Z"}
    event = read_event(raw, ("team-a", "Pod", "train-0"))
    assert event is not None

    seen = Seen(details_html(place, at=("node-1", "gpu-0"), marks=taken.marks, now=NOW, events=[event]))

    for expected in (
        "team-a/train",
        "train-0 (Running)",
        "2026-03-01 10:00:00 UTC, 2h30m",
        "✕ gpu.nvidia.com/xid=79:NoExecute",
        "Scheduled 2026-03-01 10:00:01 Pod train-0 assigned",
    ):
        assert expected in seen.text
    assert list(subjects(place)) == [("team-a", "ResourceClaim", "train"), ("team-a", "Pod", "train-0")]


def test_of_a_nodes_events_only_those_about_the_gpu_are_shown() -> None:
    taken = picture(*slices())
    place = find(taken.fleet, ("node-1", "gpu-1"))
    assert place is not None

    def about(message: str) -> bool:
        event = read_event({"message": message}, ("default", "Node", "node-1"))
        return event is not None and is_about(event, place)

    assert about("gpu-1 (GPU-x): XID 79")
    assert not about("gpu-11: XID 79")


def test_what_is_not_there_any_more_is_said_to_be_so() -> None:
    assert "is not there any more" in page(picture(*slices()), Query(at=("node-1", "gpu-0-mig-1g10gb-19-0"))).text


def test_a_reader_is_told_only_what_has_changed() -> None:
    before, order = drawn(picture(*slices(), *slices("node-2")), Query())
    after, _ = drawn(picture(*slices(), *slices("node-2"), claim("train", "gpu-0")), Query())

    news = message(after, order, before)

    assert news is not None
    assert set(news["pieces"]) == {"summary", "node:node-1"}  # type: ignore[call-overload]
    assert message(before, order, before) is None


def test_a_node_that_is_gone_is_not_in_the_order_any_more() -> None:
    before, _ = drawn(picture(*slices(), *slices("node-2")), Query())
    after, order = drawn(picture(*slices()), Query())

    news = message(after, order, before)

    assert news is not None
    assert news["order"] == ["node:node-1"]


def test_a_node_that_is_as_it_was_is_not_drawn_again() -> None:
    found = state(*slices(), *slices("node-2"))
    painter = Painter("here")
    painter.take(View(revision=1, fleet=found.fleet()), found.fleet(), NOW)
    before = {node.name: painter.draw(node) for node in found.fleet().nodes}

    put(found, claim("train", "gpu-0"))
    painter.take(View(revision=2, fleet=found.fleet()), found.fleet(), NOW)

    after = {node.name: painter.draw(node) for node in found.fleet().nodes}
    assert [after[name] is before[name] for name in ("node-1", "node-2")] == [False, True]
    assert (painter.picture.counts.gpus, painter.picture.counts.untouched) == (4, 3)
