"""Escaping, and what an address may ask for."""

from __future__ import annotations

import pytest

from driver.cluster.page.html import Html, join, tag
from driver.cluster.page.marks import Marks
from driver.cluster.page.query import NODES, Query, select
from tests.unit.cluster.world import claim, fleet, slices


def test_text_and_attributes_are_escaped_and_html_is_not_escaped_again() -> None:
    inside = tag("b", "<script>&\"'")

    found = tag("a", inside, None, " > ", href='"><img src=x>', hidden=True, title=None, data_at="x")

    assert found == (
        '<a href="&quot;&gt;&lt;img src=x&gt;" hidden data-at="x"><b>&lt;script&gt;&amp;&quot;&#x27;</b> &gt; </a>'
    )


def test_parts_are_joined_as_html_only_if_they_are() -> None:
    assert join([Html("<b></b>"), "<i>"], between="&") == "<b></b>&amp;&lt;i&gt;"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Query()),
        ({"show": "sick", "q": " team ", "page": "3"}, Query(show="sick", text="team", page=3)),
        ({"show": "<script>", "page": "-1"}, Query()),
        ({"page": "9" * 10}, Query()),
        ({"page": "²"}, Query()),
        ({"q": "x" * 1000}, Query(text="x" * 100)),
        ({"at": "node-1/gpu-0"}, Query(at=("node-1", "gpu-0"))),
        ({"at": "nothing"}, Query(at=("nothing", ""))),
    ],
)
def test_what_an_address_asks_for(given: dict[str, str], expected: Query) -> None:
    assert Query.read(given) == expected


def test_an_address_says_what_was_asked_for() -> None:
    query = Query(show="used", text="a&b", page=2, at=("node 1", "gpu-0"))

    assert query.href() == "/?show=used&q=a%26b&page=2&at=node+1/gpu-0"
    assert Query().href() == "/?"


def test_a_page_has_a_bounded_number_of_nodes_and_the_last_page_the_rest() -> None:
    [node] = fleet(*slices()).nodes
    nodes = [node] * (NODES + 1)

    first, last, beyond = (select(nodes, Query(page=page)) for page in (1, 2, 99))

    assert (len(first.nodes), first.pages, first.found) == (NODES, 2, NODES + 1)
    assert (len(last.nodes), last.page) == (1, 2)
    assert beyond == last


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(show="used"), ["node-1"]),
        (Query(show="free"), ["node-1", "node-2"]),
        (Query(show="sick"), []),
        (Query(text="TEAM-A/"), ["node-1"]),
        (Query(text="train-0"), ["node-1"]),
        (Query(text="h100"), ["node-1", "node-2"]),
        (Query(text="node-2", show="used"), []),
    ],
)
def test_nodes_are_chosen_by_what_they_are_and_by_any_name_on_them(query: Query, expected: list[str]) -> None:
    nodes = fleet(*slices(), *slices("node-2"), claim("train", "gpu-0", pods=("train-0",))).nodes

    assert [node.name for node in select(nodes, query).nodes] == expected


def test_a_namespace_keeps_its_letter_whoever_comes() -> None:
    marks = Marks()
    marks.learn(["b", "c"])
    marks.learn(["a", "b", *(f"n{number}" for number in range(24))])

    assert [marks.letter(name) for name in ("b", "c", "a", "n22", "n23", "unknown")] == ["A", "B", "C", "Z", "AA", "?"]
    assert marks.colour("b") == 0
