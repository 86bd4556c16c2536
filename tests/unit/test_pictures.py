"""The pictures of README and docs: what they say, and that they are nothing but pictures."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.text import Text

from tests.pictures import DEMO, FLOWS, PICTURES
from tests.pictures.flows import draw_flows
from tests.pictures.terminal import LONGEST, VISIBLE, Row, draw_recording, lines

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))


def test_the_flows_are_drawn_from_their_table():
    assert FLOWS.read_text() == draw_flows(), "make picture draws them again"


@pytest.mark.parametrize("picture", [DEMO, FLOWS], ids=lambda path: path.name)
def test_a_picture_is_small_and_has_nothing_that_moves_by_a_script_or_comes_from_elsewhere(picture: Path):
    text = picture.read_text(encoding="utf-8")

    elements = {element.tag.rpartition("}")[2] for element in ET.fromstring(text).iter()}
    assert picture.stat().st_size < 200_000
    assert elements <= {"svg", "title", "style", "defs", "marker", "polygon", "rect", "circle", "g", "text", "path"}
    assert re.findall(r"https?://[^\"]*|@import|url\([^#]|href", text) == ["http://www.w3.org/2000/svg"]


def test_every_picture_is_shown_and_what_is_to_be_seen_is_said_in_words():
    shown = {
        (page.parent / path).resolve(): words
        for page in PAGES
        for words, path in re.findall(r"!\[([^]]*)\]\(([^)]*pictures/[^)]*)\)", page.read_text(encoding="utf-8"))
    }

    assert sorted(shown) == sorted(PICTURES.resolve().iterdir())
    assert all(len(words) > 100 for words in shown.values())


def test_a_recording_says_what_was_printed():
    picture = draw_recording(
        [
            Row(text=Text("one  <two> & three"), at=0.1),
            Row(text=Text("╭─ four ─╮"), at=0.2),
            Row(text=Text("│ five │"), at=9),
        ]
    )

    assert lines(picture) == ["$ make demo", "one <two> & three", "four", "five"]


def test_no_wait_of_a_recording_is_long():
    picture = draw_recording([Row(text=Text("one"), at=0.1), Row(text=Text("two"), at=1000.0)])

    [total] = set(re.findall(r"#rows{animation:scroll ([0-9.]+)s", picture))
    assert float(total) < 2 * LONGEST + 10


def test_a_recording_without_motion_is_its_last_frame():
    rows = [Row(text=Text(f"row {n}"), at=n) for n in range(VISIBLE + 4)]

    picture = draw_recording(rows)

    still = re.sub(r"@media \(prefers-reduced-motion:no-preference\){.*}}", "", picture)
    assert "animation" not in still
    assert f'id="rows" transform="translate(0,{-5 * 18})"' in still
