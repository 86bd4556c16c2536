"""Periods of a budget, cut into spans of time: a span is the smallest piece that is kept apart from others.

Times are whole milliseconds since 1970 by the API server's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol
from zoneinfo import ZoneInfo

SPANS = 60
"""Spans that a rolling period is cut into: what is kept on a quota is bounded by it."""
HOUR = 3_600_000
LONGEST = 24 * 366
"""Hours of a rolling period at the most."""


class PeriodError(ValueError):
    """The text is no period that a budget can have."""


class Period(Protocol):
    """How long what was used counts."""

    def span(self, at: int) -> int:
        """The span that a time is in."""
        ...

    def start(self, span: int) -> int | None:
        """When a span starts, which is when the one before ends; None where it has always been."""
        ...

    def part(self, span: int, now: int) -> tuple[int, int]:
        """How much of a span counts at a time, as a fraction of whole numbers."""
        ...

    def oldest(self, now: int) -> int | None:
        """When the oldest span began of which anything counts; None where it has always been."""
        ...

    def leaves(self, span: int) -> int | None:
        """When a span has stopped to count; None where it never does."""
        ...


@dataclass(frozen=True, slots=True)
class Forever:
    """A budget that is never given again."""

    def __str__(self) -> str:
        return ""

    def span(self, at: int) -> int:
        """There is one."""
        return 0

    def start(self, span: int) -> int | None:
        """It has always been."""
        return None

    def part(self, span: int, now: int) -> tuple[int, int]:
        """It counts wholly."""
        return 1, 1

    def oldest(self, now: int) -> int | None:
        """It has always been."""
        return None

    def leaves(self, span: int) -> int | None:
        """Never."""
        return None


FOREVER = Forever()


@dataclass(frozen=True, slots=True)
class Month:
    """Calendar months in a time zone."""

    zone: ZoneInfo

    def __str__(self) -> str:
        return f"month {self.zone.key}"

    def span(self, at: int) -> int:
        """Months since the year 0."""
        local = datetime.fromtimestamp(at / 1000, self.zone)
        return local.year * 12 + local.month - 1

    def start(self, span: int) -> int | None:
        """The first moment of the month in the zone."""
        return int(datetime(span // 12, span % 12 + 1, 1, tzinfo=self.zone).timestamp() * 1000)

    def part(self, span: int, now: int) -> tuple[int, int]:
        """This month counts."""
        return int(span == self.span(now)), 1

    def oldest(self, now: int) -> int | None:
        """The beginning of this month."""
        return self.start(self.span(now))

    def leaves(self, span: int) -> int | None:
        """The end of the month."""
        return self.start(span + 1)


@dataclass(frozen=True, slots=True)
class Rolling:
    """The last so many hours, whatever the time is."""

    hours: int

    def __str__(self) -> str:
        return f"{self.hours}h"

    @property
    def _size(self) -> int:
        return self.hours * HOUR // SPANS

    def span(self, at: int) -> int:
        """Spans since 1970."""
        return at // self._size

    def start(self, span: int) -> int | None:
        """A multiple of their size."""
        return span * self._size

    def part(self, span: int, now: int) -> tuple[int, int]:
        """The oldest counts by the part that is still in the window, as if it had been used evenly."""
        left = (span + 1) * self._size - (now - self.hours * HOUR)
        return max(0, min(left, self._size)), self._size

    def oldest(self, now: int) -> int | None:
        """The span that is just leaving the window."""
        return self.start(self.span(now - self.hours * HOUR))

    def leaves(self, span: int) -> int | None:
        """When its end is as long ago as the window reaches."""
        return (span + 1) * self._size + self.hours * HOUR


def parse_period(text: str) -> Period:
    """``month``, ``month Europe/Berlin``, ``720h``; nothing is for ever. Raises PeriodError."""
    words = text.split()
    if not words:
        return Forever()
    if words[0] == "month" and len(words) <= 2:
        name = words[1] if len(words) == 2 else "UTC"
        try:
            return Month(ZoneInfo(name))
        except (ValueError, OSError, KeyError) as error:
            raise PeriodError(f"{name[:60]!r} is no time zone that is known here") from error
    number = words[0].removesuffix("h")
    if len(words) == 1 and words[0].endswith("h") and number.isascii() and number.isdecimal() and len(number) <= 4:
        hours = int(number)
        if 1 <= hours <= LONGEST:
            return Rolling(hours)
    raise PeriodError(
        f"{text[:60]!r} is no period: month, month ZONE (as in 'month Europe/Berlin'), or hours from 1h to {LONGEST}h"
        " are expected"
    )


def iso(at: int) -> str:
    """A time as the API server writes it, with milliseconds."""
    return datetime.fromtimestamp(at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_time(text: object) -> int | None:
    """A time that the API server wrote; None for anything else."""
    if not isinstance(text, str) or len(text) > 40:
        return None
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round(read.timestamp() * 1000) if read.tzinfo else None
