import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driver.base.text import in_ascii, never_fail, truncate_utf8


@given(st.text(), st.integers(3, 80))
def test_cut_text_fits_and_is_the_beginning(text: str, limit: int):
    result = truncate_utf8(text, limit)

    assert len(result.encode()) <= limit
    assert text.encode("utf-8", "replace").decode().startswith(result)


def test_text_that_fits_is_not_touched():
    assert truncate_utf8("ä" * 32, 64, ellipsis="...") == "ä" * 32


def test_cutting_leaves_whole_characters_and_room_for_the_ellipsis():
    assert truncate_utf8("ä" * 33, 64, ellipsis="...") == "ä" * 30 + "..."


def test_what_utf8_cannot_say_is_replaced():
    assert truncate_utf8("a\ud800b", 64) == "a?b"


def test_symbols_have_a_form_in_ascii_and_anything_else_is_escaped():
    assert in_ascii("✓ a → b … ü") == "+ a -> b ... \\xfc"


@pytest.mark.parametrize(
    ("encoding", "written"), [("utf-8", "ü → ✓".encode()), ("latin-1", b"\xfc -> +"), ("ascii", b"\\xfc -> +")]
)
def test_a_stream_says_what_it_can_and_the_rest_in_ascii(encoding: str, written: bytes):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    never_fail(stream, None)

    stream.write("ü → ✓")
    stream.flush()

    assert stream.buffer.getvalue() == written


def test_what_no_encoding_can_say_ends_nothing():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    never_fail(stream)

    stream.write("no \udce4 text")
    stream.flush()

    assert stream.buffer.getvalue() == b"no \\udce4 text"
