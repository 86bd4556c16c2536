"""Kubernetes quantities as exact numbers, and back to the server's canonical text."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

from kubernetes.utils.quantity import parse_quantity

KIBI = 1024
SUFFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


@lru_cache(maxsize=8192)
def parse(text: str | int | float) -> Decimal:
    """``40Gi`` -> Decimal(42949672960). Raises ValueError for anything that is no quantity."""
    value: Decimal = parse_quantity(text)
    if not value.is_finite():
        raise ValueError(f"{text!r} is no quantity: expected a finite number with an optional suffix like Gi or m")
    return value


def whole(value: Decimal) -> int:
    """The value rounded up to whole units, as ``Quantity.Value()`` of the real API does."""
    return int(value.to_integral_value(rounding=ROUND_CEILING))


def format_binary(value: int) -> str:
    """The canonical text of a whole number in binary format: the largest suffix that loses nothing."""
    index = 0
    if abs(value) >= KIBI:
        while value % KIBI == 0 and index + 1 < len(SUFFIXES):
            value //= KIBI
            index += 1
    return f"{value}{SUFFIXES[index]}"
