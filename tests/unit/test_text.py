from hypothesis import given
from hypothesis import strategies as st

from driver.text import cut


@given(st.text(), st.integers(3, 80))
def test_cut_text_fits_and_is_the_beginning(text: str, limit: int):
    result = cut(text, limit)

    assert len(result.encode()) <= limit
    assert text.encode("utf-8", "replace").decode().startswith(result)


def test_text_that_fits_is_not_touched():
    assert cut("ä" * 32, 64, ellipsis="...") == "ä" * 32


def test_cutting_leaves_whole_characters_and_room_for_the_ellipsis():
    assert cut("ä" * 33, 64, ellipsis="...") == "ä" * 30 + "..."


def test_what_utf8_cannot_say_is_replaced():
    assert cut("a\ud800b", 64) == "a?b"
