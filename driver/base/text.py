"""Text that has to fit: into limits of the API, which are in bytes, and into what a terminal can show."""

from __future__ import annotations

import codecs
import contextlib
import io

_IN_ASCII = str.maketrans({"✓": "+", "✗": "x", "→": "->", "…": "..."})


def in_ascii(text: str) -> str:
    """Our symbols as ASCII has them; of anything else the code point, escaped as Python does."""
    return text.translate(_IN_ASCII).encode("ascii", "backslashreplace").decode()


def never_fail(*streams: object) -> None:
    """From now on, what a stream's encoding cannot say is written in ASCII: no text ends the process."""

    def say(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return in_ascii(error.object[error.start : error.end]), error.end

    codecs.register_error("in-ascii", say)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            # A stream whose file was exchanged after it was opened keeps what it has.
            with contextlib.suppress(OSError):
                stream.reconfigure(errors="in-ascii")


def truncate_utf8(text: str, limit: int, *, ellipsis: str = "") -> str:
    """Shorten text to at most ``limit`` bytes of UTF-8, between two characters; what no UTF-8 can say becomes ``?``."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - len(ellipsis.encode())].decode("utf-8", "ignore") + ellipsis
